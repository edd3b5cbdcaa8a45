// SPDX-License-Identifier: Apache-2.0
//! How long a pod was outside that is captured again, and how a change of its state is told.

use std::collections::HashMap;
use std::time::Duration;

use meshmedic_common::duration;
use meshmedic_common::time::Time;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Reason, State};

use super::in_millis;
use crate::engine::Transition;

/// Since when pods are outside, whatever they were called meanwhile.
#[derive(Debug, Default)]
pub(super) struct Returns(HashMap<PodUid, Time>);

impl Returns {
    /// Takes a change; of a return, tells how long the pod was outside.
    pub(super) fn take(&mut self, transition: &Transition) -> Option<Duration> {
        let uid = &transition.uid;
        if transition.to.is_lost() {
            self.0.entry(uid.clone()).or_insert(transition.since);
        }
        if !matches!(transition.to, State::Captured | State::Exempt) {
            return None;
        }
        let since = self.0.remove(uid)?;
        (transition.to == State::Captured).then(|| transition.at.since(since))
    }

    /// Forgets the pods that are not there any more.
    pub(super) fn retain(&mut self, is_there: impl Fn(&PodUid) -> bool) {
        self.0.retain(|uid, _| is_there(uid));
    }
}

/// What a change of a pod's state means.
pub(super) fn told(transition: &Transition, outside: Option<Duration>) -> String {
    if let Some(outside) = outside {
        return format!(
            "captured again: {}, after {} outside",
            transition.to.sentence(),
            duration::show(in_millis(outside))
        );
    }
    match (transition.from, transition.to, transition.reason) {
        (Some(State::Pending), State::Unverifiable, Some(Reason::NotRead)) => {
            "istio-cni says that it has enrolled it, and it is read next".to_owned()
        }
        (_, State::Unverifiable, Some(reason)) => reason.sentence().to_owned(),
        (_, to, _) => to.sentence().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(from: State, to: State, reason: Option<Reason>, at: u64, since: u64) -> Transition {
        let time = |seconds: u64| Time::from_nanos(seconds * 1_000_000_000);
        Transition {
            uid: PodUid::parse("5a9c2f4e-3e5f-4c58-8f5b-0a6b1e1b7c11").unwrap(),
            from: Some(from),
            to,
            reason,
            at: time(at),
            since: time(since),
        }
    }

    #[test]
    fn a_return_is_told_with_the_time_since_the_first_loss() {
        let mut returns = Returns::default();
        let mut take = |change: &Transition| returns.take(change);
        assert_eq!(
            take(&change(
                State::Captured,
                State::Suspect,
                Some(Reason::Confirming),
                10,
                9
            )),
            None
        );
        assert_eq!(take(&change(State::Suspect, State::Orphan, None, 20, 9)), None);
        // A new sandbox, and istio-cni enrols it: the loss goes on.
        let replaced = change(State::Orphan, State::Unverifiable, Some(Reason::Replaced), 30, 30);
        assert_eq!(take(&replaced), None);
        let enrolling = change(State::Unverifiable, State::Pending, None, 31, 31);
        assert_eq!(take(&enrolling), None);
        let enrolled = change(State::Pending, State::Unverifiable, Some(Reason::NotRead), 32, 32);
        assert_eq!(
            told(&enrolled, take(&enrolled)),
            "istio-cni says that it has enrolled it, and it is read next"
        );
        let back = change(State::Unverifiable, State::Captured, None, 33, 33);
        let outside = take(&back);
        assert_eq!(outside, Some(Duration::from_secs(24)));
        assert_eq!(
            told(&back, outside),
            "captured again: ztunnel's listeners are there, after 24s outside"
        );
        assert_eq!(take(&back), None, "once");
    }

    #[test]
    fn a_pod_that_leaves_the_mesh_does_not_return() {
        let mut returns = Returns::default();
        returns.take(&change(State::Captured, State::Suspect, None, 10, 9));
        returns.take(&change(State::Suspect, State::Exempt, None, 11, 11));
        assert_eq!(
            returns.take(&change(State::Exempt, State::Captured, None, 12, 12)),
            None
        );
    }
}
