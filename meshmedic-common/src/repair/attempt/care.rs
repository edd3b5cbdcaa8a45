// SPDX-License-Identifier: Apache-2.0
//! How careful an act must be: what is known of the node at that very moment, not when the repair began.

use super::{Attempt, Canary};
use crate::policy::Withheld;
use crate::verdict::State;

use super::super::Patient;

/// With so many suspects nobody knows yet whether this is a mass loss, so nothing is begun.
const SUSPECTS: usize = 5;

/// What the others on the node ask of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Care {
    /// Whether it is the one that others wait for.
    pub(in super::super) canary: Canary,
    /// Whether this process repairs other pods as well.
    pub(in super::super) others: bool,
    /// Whether several pods are being confirmed.
    pub(in super::super) confirming: bool,
}

impl Care {
    /// A person's, who names the pod.
    pub(in super::super) const NAMED: Self = Self {
        canary: Canary::No,
        others: false,
        confirming: false,
    };

    /// Whether so many of these pods are being confirmed that nothing is to be begun.
    pub(in super::super) fn confirming<'a>(patients: impl Iterator<Item = &'a Patient<'a>>) -> bool {
        let suspects = patients.filter(|patient| patient.state == State::Suspect);
        suspects.take(SUSPECTS).count() == SUSPECTS
    }
}

impl Attempt {
    /// Why the act would be careless now.
    pub(super) fn careless(&self, care: &Care) -> Option<Withheld> {
        if care.confirming {
            return Some(Withheld::Confirming);
        }
        let alone = self.alone && !care.others;
        // What it is to be was written down with the announcement.
        let changed = care.canary == Canary::MustSucceed && self.canary != care.canary;
        let late = changed && !self.is_announcing();
        ((care.canary != Canary::No && !alone) || late).then_some(Withheld::Canary)
    }
}
