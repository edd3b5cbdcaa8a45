// SPDX-License-Identifier: Apache-2.0
//! Frees, once after a start, the slots that a process killed earlier left behind.
//!
//! A slot is claimed before its owner's Lease, and only what lies there is taken over. What lies in a slot runs out by
//! itself, so nobody waits for this; but until somebody claims that slot, its Lease names a holder that is gone.

use std::time::Duration;

use super::ledger::{Change, LEASE, Step};
use super::{Answer, LeaseKey, Moment, Refusal, Repairer, Request, RequestId};
use crate::time::Time;

/// By then the earlier process is not heard of any more, and what it began was taken over and renewed.
const AFTER: Duration = Duration::from_secs(2 * LEASE.as_secs());
/// After an answer that could not be had.
const AGAIN: Duration = Duration::from_secs(60);

/// One slot after the other.
#[derive(Debug, Default)]
pub(super) struct SlotTidy {
    due: Option<Time>,
    next: u32,
    asked: Option<RequestId>,
}

impl SlotTidy {
    /// Starts the wait, the first time.
    pub(super) fn begin(&mut self, now: Time) {
        self.due.get_or_insert(now + AFTER);
    }

    pub(super) fn take_request(
        &mut self,
        repairer: &Repairer,
        at: Moment,
        numbers: &mut u64,
    ) -> Option<(RequestId, Request)> {
        self.due_at(repairer).filter(|due| at.now >= *due)?;
        let lease = LeaseKey::Slot(self.next);
        let change = Change::of_no_repair(Step::Forget);
        *numbers += 1;
        self.asked = Some(*numbers);
        let request = Request::Update {
            allowance: repairer.limits.allowance(&lease),
            lease,
            change: Box::new(change),
        };
        Some((*numbers, request))
    }

    /// Takes an answer. False if it is none of its own.
    pub(super) fn answer(&mut self, at: Moment, id: RequestId, answer: &Answer) -> bool {
        if self.asked != Some(id) {
            return false;
        }
        self.asked = None;
        match answer {
            Answer::Updated(Err(Refusal::Failed(_))) => self.due = Some(at.now + AGAIN),
            _ => self.next += 1,
        }
        true
    }

    /// When the next slot is looked at, if one is left.
    pub(super) fn due_at(&self, repairer: &Repairer) -> Option<Time> {
        self.due
            .filter(|_| self.asked.is_none() && self.next < repairer.limits.slots)
    }
}
