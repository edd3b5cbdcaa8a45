// SPDX-License-Identifier: Apache-2.0
//! What the screen shows, put together from one round through the fleet.

use std::cmp::Reverse;

use jiff::Timestamp;

use super::Args;
use crate::status::{Answers, FleetStatus, count_states};

/// How many of the last transitions are kept for the screen: more than the tallest terminal has lines.
const CHANGES: usize = 300;

/// The fleet, as one asked for it.
pub(super) struct View {
    /// Of pods only those of the namespaces that were asked for, in the counts too; the newest change first.
    pub(super) status: FleetStatus,
    pub(super) at: Timestamp,
}

impl View {
    pub(super) fn of(args: &Args, answers: Answers, at: Timestamp) -> Self {
        let unknown = args.unknown(&answers);
        let counted = count_states(args.pods(&answers));
        let mut status = FleetStatus::of(answers);
        status.states = counted;
        status.notes.splice(0..0, unknown);
        let FleetStatus { unwell, changes, .. } = &mut status;
        unwell.retain(|pod| args.wants(pod.namespace.as_deref()));
        changes.retain(|change| args.wants(change.namespace.as_deref()));
        changes.sort_by_key(|change| Reverse(change.at));
        changes.truncate(CHANGES);
        Self { status, at }
    }
}
