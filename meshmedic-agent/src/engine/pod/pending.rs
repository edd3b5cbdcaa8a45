// SPDX-License-Identifier: Apache-2.0
//! A pod that istio-cni is still trying to enrol: how long that may take, and what it is called afterwards.

use std::time::Duration;

use meshmedic_common::verdict::State;

use super::Track;
use crate::time::Time;

impl Track {
    /// Lets time pass for a pod that istio-cni is still trying to enrol. While the node is at fault it does not count.
    pub(in crate::engine) fn grow_old(&mut self, now: Time, deadline: Duration, fault: bool) {
        let Some(since) = self.pending.filter(|_| !self.overdue) else {
            return;
        };
        if fault {
            self.pending = Some(now);
        } else if now.since(since) >= deadline {
            self.overdue = true;
            self.turn.schedule(now);
        }
    }

    /// When it has had its time.
    pub(in crate::engine) fn overdue_at(&self, deadline: Duration) -> Option<Time> {
        self.pending
            .filter(|_| !self.overdue)
            .map(|since| since + deadline)
    }

    /// What a state is called of a pod that istio-cni never got to enrol. What cannot be read of it says nothing: it is
    /// pending, as before.
    pub(super) const fn named(&self, state: State) -> State {
        match state {
            State::Orphan if self.overdue => State::Stalled,
            State::Unverifiable if self.overdue => State::Pending,
            state => state,
        }
    }
}
