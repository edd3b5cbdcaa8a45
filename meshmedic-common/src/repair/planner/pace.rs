// SPDX-License-Identifier: Apache-2.0
//! How long something that was refused is left alone.

use std::time::Duration;

use crate::time::Time;

/// How long it is left alone at first, doubling up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));

/// When something is tried again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    pub(super) not_before: Time,
    patience: Duration,
}

impl Pace {
    /// It was refused once more.
    pub(super) fn postpone(&mut self, now: Time) {
        self.patience = (self.patience * 2).clamp(RETRY.0, RETRY.1);
        self.not_before = now + self.patience;
    }

    /// What stood in its way is gone.
    pub(super) fn free(&mut self, now: Time) {
        *self = Self {
            not_before: now,
            patience: Duration::ZERO,
        };
    }
}
