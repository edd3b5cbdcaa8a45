// SPDX-License-Identifier: Apache-2.0
//! What the times of a pod and its node show of what led to a loss, and which of them are not to be had.

use jiff::{SignedDuration, Timestamp};

use crate::facts::PodFacts;
use crate::report::{CniGap, NodeReport};

/// A sandbox is ready a while after its network was made, and istio-cni is asked about new pods a while after its start.
const CLOSE: SignedDuration = SignedDuration::from_secs(30);

/// The times that are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// When the pod's sandbox was ready, by its kubelet.
    pub sandbox: Option<Timestamp>,
    /// When its node's istio-cni started, by the same kubelet.
    pub cni: Option<Timestamp>,
    /// When whoever wrote istio-cni's annotation last wrote to the pod, by the API server.
    pub annotated: Option<Timestamp>,
    /// When its node started, by the API server's clock.
    pub booted: Option<Timestamp>,
    /// The time without istio-cni in which the sandbox was made, by its node's agent.
    pub gap: Option<CniGap>,
    /// When its node's agent last saw it become captured.
    pub captured: Option<Timestamp>,
}

impl Times {
    /// With what the agent of its node tells of them.
    #[must_use]
    pub fn told_by(self, report: &NodeReport, pod: &PodFacts) -> Self {
        Self {
            booted: report.booted,
            gap: report.gap_of(self.sandbox),
            captured: pod.cgroup_uid().and_then(|uid| report.captured_at(&uid)),
            ..self
        }
    }

    /// What they show.
    #[must_use]
    pub fn shown(&self) -> Vec<String> {
        let mut shown = Vec::new();
        let captured_in_it = |sandbox: &Timestamp| self.captured.filter(|at| at > sandbox);
        if let Some(at) = self.sandbox.as_ref().and_then(captured_in_it) {
            shown.push(format!(
                "Its agent saw it captured at {at:.0}, after its sandbox was made: how that was made did not lead to this"
            ));
            return shown;
        }
        if let (Some(sandbox), Some(gap)) = (self.sandbox, self.gap) {
            let until = gap
                .until
                .map_or_else(String::new, |until| format!(" until {until:.0}"));
            shown.push(format!(
                "Its sandbox was ready at {sandbox:.0}, and from {from:.0}{until} its node's CNI configuration did not call \
                 istio-cni: it was made without redirection",
                from = gap.from
            ));
        }
        if let (Some(sandbox), Some(cni)) = (self.sandbox, self.cni) {
            shown.push(if sandbox < cni {
                format!(
                    "Its sandbox was ready at {sandbox:.0}, before its node's istio-cni started at {cni:.0}: istio-cni had to \
                     find it afterwards"
                )
            } else if sandbox.duration_since(cni) < CLOSE {
                format!(
                    "Its sandbox was ready at {sandbox:.0}, just after its node's istio-cni started at {cni:.0}: the pod's \
                     network may have been made before istio-cni was asked about it"
                )
            } else {
                format!(
                    "Its sandbox was ready at {sandbox:.0}, and its node's istio-cni has run since {cni:.0}: it was there when \
                     the pod's network was made"
                )
            });
        }
        // It can only be older than that: the same writer may have written something else since.
        if let (Some(annotated), Some(booted)) = (self.annotated, self.booted)
            && annotated < booted
        {
            shown.push(format!(
                "istio-cni's annotation is of {annotated:.0} or earlier, before its node started at {booted:.0}: it says \
                 nothing of the sandbox that is there now"
            ));
        }
        shown
    }

    /// What cannot be seen, and why.
    #[must_use]
    pub fn hidden(&self) -> Vec<&'static str> {
        [
            (
                self.sandbox.is_some(),
                "when its sandbox was made: its kubelet does not say (PodReadyToStartContainers)",
            ),
            (
                self.cni.is_some(),
                "when its node's istio-cni started: no such pod can be seen",
            ),
            (
                self.annotated.is_some(),
                "when istio-cni wrote its annotation: the API keeps no times for it (managedFields)",
            ),
            (
                self.booted.is_some(),
                "when its node started: no agent reports it",
            ),
        ]
        .into_iter()
        .filter_map(|(known, what)| (!known).then_some(what))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Option<Timestamp> {
        Timestamp::from_second(minute * 60).ok()
    }

    #[test]
    fn what_was_there_first_is_told_and_what_is_not_known_is_named() {
        let reboot = Times {
            sandbox: at(10),
            cni: at(11),
            annotated: at(1),
            booted: at(9),
            gap: None,
            captured: None,
        };
        let shown = reboot.shown();
        assert!(
            shown[0].contains("before its node's istio-cni started"),
            "{shown:?}"
        );
        assert!(shown[1].contains("before its node started"), "{shown:?}");
        assert!(reboot.hidden().is_empty());
        let renewed = Times {
            cni: at(8),
            annotated: at(10),
            ..reboot
        };
        let shown = renewed.shown();
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(shown[0].contains("was there when"), "{shown:?}");
        assert!(Times::default().shown().is_empty());
        let gap = CniGap {
            from: at(9).unwrap(),
            until: at(11),
        };
        let without = Times {
            gap: Some(gap),
            ..reboot
        };
        let shown = without.shown();
        assert!(
            shown[0].contains("until 1970-01-01T00:11:00Z") && shown.len() == 3,
            "{shown:?}"
        );
        // What happened to its sandbox before it was captured in it is no cause.
        let later = Times {
            captured: at(12),
            ..without
        };
        let told = later.shown();
        assert!(
            told.len() == 1 && told[0].contains("did not lead to this"),
            "{told:?}"
        );
        let before = Times {
            captured: at(10),
            ..without
        };
        assert_eq!(before.shown(), shown);
        assert_eq!(Times::default().hidden().len(), 4);
    }
}
