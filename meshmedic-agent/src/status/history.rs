// SPDX-License-Identifier: Apache-2.0
//! What a report tells beyond the present: since when, what changed last, and how it stands with repairs.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use meshmedic_common::report::{Action, NodeReport, Recent, RepairReport, RepairStanding, TransitionReport};
use meshmedic_common::uid::PodUid;

use super::metrics::result_of;
use crate::engine::repair::{Outcome, RepairNotice};
use crate::engine::{Notice, Transition};
use crate::time::Time;

/// What happened, as far as a report tells of it.
#[derive(Clone, Debug, Default)]
pub struct History {
    pods: BTreeMap<PodUid, PodHistory>,
    repairs: Recent<RepairReport>,
    /// Repairs under way, by the pod's UID.
    begun: BTreeMap<String, Action>,
}

#[derive(Clone, Debug, Default)]
struct PodHistory {
    since: Option<Timestamp>,
    transitions: Recent<TransitionReport>,
    standing: Option<RepairStanding>,
}

/// One instant by both clocks, to tell people when something was.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// By the monotonic clock.
    pub now: Time,
    /// By the calendar.
    pub wall: Timestamp,
}

impl Clocks {
    /// Reads both.
    #[must_use]
    pub fn read() -> Self {
        Self {
            now: Time::now(),
            wall: Timestamp::now(),
        }
    }

    /// When an instant of the past was, by the calendar of now.
    #[must_use]
    pub fn wall_of(&self, at: Time) -> Timestamp {
        let ago = SignedDuration::try_from(self.now.since(at)).unwrap_or(SignedDuration::MAX);
        self.wall.checked_sub(ago).unwrap_or(Timestamp::MIN)
    }
}

impl History {
    /// Takes what the engine concluded.
    pub fn notice(&mut self, clocks: Clocks, notice: &Notice) {
        let Notice::Pod(transition) = notice else { return };
        let Transition {
            uid,
            from,
            to,
            reason,
            at,
            ..
        } = transition;
        let at = clocks.wall_of(*at);
        let pod = self.pods.entry(uid.clone()).or_default();
        if *from != Some(*to) {
            pod.since = Some(at);
        }
        pod.transitions.push(TransitionReport {
            at,
            from: *from,
            to: *to,
            reason: *reason,
        });
    }

    /// Takes what the planner has to tell.
    pub fn repair(&mut self, clocks: Clocks, notice: &RepairNotice) {
        let (pod, standing) = match notice {
            RepairNotice::Withheld {
                pod,
                why,
                detail,
                shadow,
            } => {
                self.begun.remove(&pod.uid);
                (pod, Some(RepairStanding::withheld(*why, detail.clone(), *shadow)))
            }
            RepairNotice::Would { pod } => (pod, Some(RepairStanding::WouldRepair)),
            RepairNotice::Started { pod, delete, .. } => {
                let action = if *delete { Action::Delete } else { Action::Evict };
                self.begun.insert(pod.uid.clone(), action);
                (pod, Some(RepairStanding::UnderWay { acted: true }))
            }
            RepairNotice::Ended {
                pod, outcome, took, ..
            } => {
                self.repairs.push(RepairReport {
                    at: clocks.wall,
                    pod: format!("{}/{}", pod.namespace, pod.name),
                    uid: pod.uid.clone(),
                    action: self.begun.remove(&pod.uid),
                    result: Some(result_of(outcome)),
                    detail: detail_of(outcome),
                    took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                });
                (pod, None)
            }
        };
        self.pods.entry(pod.cgroup_uid.clone()).or_default().standing = standing;
    }

    /// Writes what is known into a report, and forgets the pods that it does not name any more.
    pub fn fill(&mut self, clocks: Clocks, report: &mut NodeReport) {
        let mut known = std::mem::take(&mut self.pods);
        report.at = Some(clocks.wall);
        report.repairs = self.repairs.clone();
        for pod in &mut report.pods {
            let Some(mut history) = known.remove(&pod.uid) else {
                continue;
            };
            if !pod.state.is_finding() {
                // What was said of a loss does not hold for the next one.
                history.standing = None;
            }
            pod.since = history.since;
            pod.transitions = history.transitions.clone();
            pod.repair = history.standing.clone();
            self.pods.insert(pod.uid.clone(), history);
        }
    }
}

fn detail_of(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Succeeded(proof) | Outcome::Failed(proof) => {
            Some(format!("successor {} on node {}", proof.pod, proof.node))
        }
        Outcome::Unproven => None,
        Outcome::InDoubt(why) => Some(why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meshmedic_common::policy::Withheld;
    use meshmedic_common::report::RepairResult;
    use meshmedic_common::verdict::{Reason, State};

    use super::*;
    use crate::engine::repair::PodRef;
    use crate::engine::repair::ledger::Proof;

    const UID: &str = "5a9c2f4e-3e5f-4c58-8f5b-0a6b1e1b7c11";

    fn uid() -> PodUid {
        PodUid::parse(UID).expect("it is a UID")
    }

    fn clocks(second: i64) -> Clocks {
        Clocks {
            now: Time::from_nanos(second.unsigned_abs() * 1_000_000_000),
            wall: Timestamp::from_second(1_000_000 + second).expect("a time of the calendar"),
        }
    }

    fn report(state: &str) -> NodeReport {
        let report = format!(
            r#"{{"apiVersion":"meshmedic.io/v1","kind":"NodeReport","node":"n","version":"0","trigger":"poll",
                "conditions":[],"ztunnel":[],"pods":[{{"uid":"{UID}","state":"{state}","ports":[],
                "redirection":"routed","flaps":0}}]}}"#
        );
        NodeReport::read(report.as_bytes()).expect("it is a report")
    }

    fn go(history: &mut History, second: i64, from: Option<State>, to: State, reason: Option<Reason>) {
        let at = clocks(second).now;
        let transition = Transition {
            uid: uid(),
            from,
            to,
            reason,
            at,
            since: at,
        };
        // Told two seconds later.
        history.notice(clocks(second + 2), &Notice::Pod(transition));
    }

    fn pod() -> PodRef {
        PodRef {
            namespace: "shop".to_owned(),
            name: "cart".to_owned(),
            uid: "u".to_owned(),
            cgroup_uid: uid(),
        }
    }

    #[test]
    fn changes_are_told_with_their_times_and_since_when() {
        let mut history = History::default();
        go(&mut history, 1, None, State::Captured, None);
        go(
            &mut history,
            5,
            Some(State::Captured),
            State::Suspect,
            Some(Reason::Confirming),
        );
        go(
            &mut history,
            6,
            Some(State::Suspect),
            State::Suspect,
            Some(Reason::NodeFault),
        );
        let mut report = report("suspect");
        history.fill(clocks(9), &mut report);
        let pod = &report.pods[0];
        assert_eq!(report.at, Some(clocks(9).wall));
        assert_eq!(
            pod.since,
            Some(clocks(5).wall),
            "another reason is no other state"
        );
        let times: Vec<Timestamp> = pod.transitions.iter().map(|t| t.at).collect();
        assert_eq!(times, [clocks(1).wall, clocks(5).wall, clocks(6).wall]);
    }

    #[test]
    fn the_standing_of_a_repair_follows_its_notices_and_ends_with_the_loss() {
        let mut history = History::default();
        let standing = |history: &mut History, state: &str| {
            let mut report = report(state);
            history.fill(clocks(9), &mut report);
            report.pods[0].repair.clone()
        };
        let withheld = RepairNotice::Withheld {
            pod: pod(),
            why: Withheld::Cooldown,
            detail: None,
            shadow: false,
        };
        history.repair(clocks(1), &withheld);
        let told = Some(RepairStanding::withheld(Withheld::Cooldown, None, false));
        assert_eq!(standing(&mut history, "orphan"), told);
        assert_eq!(standing(&mut history, "captured"), None);
        assert_eq!(standing(&mut history, "orphan"), None, "it recovered in between");
        history.repair(clocks(2), &RepairNotice::Would { pod: pod() });
        assert_eq!(
            standing(&mut history, "orphan"),
            Some(RepairStanding::WouldRepair)
        );
    }

    #[test]
    fn repairs_that_ended_are_told_with_what_was_done() {
        let mut history = History::default();
        let started = RepairNotice::Started {
            pod: pod(),
            delete: false,
            stuck: false,
        };
        history.repair(clocks(1), &started);
        let mut now = report("orphan");
        history.fill(clocks(2), &mut now);
        assert_eq!(now.pods[0].repair, Some(RepairStanding::UnderWay { acted: true }));
        let proof = Proof {
            pod: "shop/cart-2".to_owned(),
            uid: "v".to_owned(),
            node: "m".to_owned(),
            captured: true,
            at: clocks(3).wall,
        };
        let ended = RepairNotice::Ended {
            pod: pod(),
            outcome: Outcome::Succeeded(proof),
            took: Duration::from_millis(1500),
            stuck: false,
        };
        history.repair(clocks(4), &ended);
        let mut now = report("captured");
        now.pods.clear();
        history.fill(clocks(5), &mut now);
        let told: Vec<&RepairReport> = now.repairs.iter().collect();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].pod, "shop/cart");
        assert_eq!(told[0].action, Some(Action::Evict));
        assert_eq!(told[0].result, Some(RepairResult::Succeeded));
        assert_eq!(told[0].detail.as_deref(), Some("successor shop/cart-2 on node m"));
        assert_eq!(told[0].took_ms, 1500);
        assert!(history.pods.is_empty(), "a pod that is gone is forgotten");
    }
}
