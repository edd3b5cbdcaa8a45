// SPDX-License-Identifier: Apache-2.0
//! The second rung: a pod that istio-cni or ztunnel remembers wrongly is taken out of the mesh by its label and put back.
//! Both forget it meanwhile, and its traffic is plain text for so long.
//!
//! It is begun only where an ask showed what is wrong, and goes by the same pace: one that is being toggled counts among
//! those that are asked for. The label is put back only while ztunnel is proved to serve. A process that ends in between
//! leaves it to whoever comes next, since what the label said is written down on the pod.

use std::time::Duration;

use super::case::{Case, LOOK, LOOK_AGAIN, Stage, Step, Toggle};
use super::evidence::Candidate;
use super::healer::tell;
use super::{Below, Care, Diagnosis, Healer, Notice};
use crate::ask::Against;
use crate::facts::Enrolment;
use crate::policy::{Withheld, heal_not_permitted, toggle_barred};
use crate::repair::Moment;
use crate::repair::sabotage::stands;
use crate::time::Time;
use crate::uid::PodUid;
use crate::verdict::State;

/// istio-cni has so many times as long to let a pod go as to take it in.
const LETTING_GO: u32 = 3;
/// What the API did not do is asked for again after this.
const AGAIN: Duration = Duration::from_secs(3);

impl Diagnosis {
    /// Whether a toggle may help: somebody remembers what is not so.
    const fn is_remembered(self) -> bool {
        matches!(self, Self::Believed | Self::InPart)
    }
}

impl Toggle {
    fn spent(&self) -> Stage {
        Stage::Spent {
            against: self.against.clone(),
            why: self.why,
            unreachable: false,
            ours: false,
            toggled: true,
        }
    }

    fn is_proved(&self, candidate: &Candidate<'_>, back: Time) -> bool {
        let here = candidate.place.is_some() && candidate.place == self.place;
        candidate.state == State::Captured && here && candidate.proved_at.is_some_and(|proved| proved > back)
    }
}

impl Case {
    /// What a pod for which an ask did not take is to expect: a toggle, or what the ways below allow.
    pub(super) fn after_ask(
        &mut self,
        at: Moment,
        healer: &super::Healing,
        candidate: &Candidate<'_>,
        above: Option<Withheld>,
        (against, why): (&Against, Diagnosis),
    ) {
        self.below = Below::May(Some(why));
        if !healer.toggle
            || !why.is_remembered()
            || !matches!(candidate.state, State::Orphan | State::Stalled)
        {
            return;
        }
        let of_pod = toggle_barred(candidate.standing, &self.pod.uid)
            .or_else(|| heal_not_permitted(&healer.permissions, &candidate.standing.facts, at.server))
            .or_else(|| candidate.taken.then_some(Withheld::InFlightNode));
        if of_pod.filter(stands).is_some() {
            return;
        }
        match above {
            // The node is given up: the ways below have a canary of their own.
            Some(Withheld::HealStopped | Withheld::HealUnanswered | Withheld::HealUnsupported) => {}
            Some(waits) => self.below = Below::Waits(waits),
            None => {
                self.stage = Stage::Toggling(Toggle {
                    against: against.clone(),
                    why,
                    place: candidate.place,
                    began: at.now,
                    step: Step::TakingOut,
                });
            }
        }
    }
}

impl Healer {
    /// Goes on with a toggle, where the world, not an answer, decides.
    pub(super) fn toggle(
        &mut self,
        at: Moment,
        uid: &PodUid,
        candidate: &Candidate<'_>,
        mut toggle: Toggle,
        serves: bool,
    ) {
        let care: Care = self.healing.care;
        let Some(case) = self.cases.get_mut(uid) else {
            return;
        };
        match toggle.step {
            Step::TakingOut | Step::PuttingBack => {}
            Step::Out => {
                let cleared = candidate.standing.facts.enrolment == Enrolment::None;
                let late = at.now.since(toggle.began) > care.deadline * LETTING_GO;
                if (cleared || late) && serves && at.now >= case.not_before {
                    toggle.step = Step::PuttingBack;
                }
            }
            Step::Back(back) if toggle.is_proved(candidate, back) => {
                self.pace.succeeded(at.now, &case.whose.owner);
                self.alarm.took();
                (case.stage, case.told) = (Stage::Watching, None);
                let (pod, took) = (case.pod.clone(), at.now.since(toggle.began));
                self.notices.push(Notice::Toggled { pod, took });
                return;
            }
            Step::Back(back) => {
                case.look(at.now, LOOK_AGAIN);
                let waited = at.now.since(back);
                let seen = candidate.streak.is_some_and(|streak| streak.last > back);
                if seen && waited > care.deadline || waited > care.deadline + LOOK {
                    case.stage = toggle.spent();
                    let pod = case.pod.clone();
                    return self.notices.push(Notice::ToggleFailed { pod, detail: None });
                }
            }
        }
        case.stage = Stage::Toggling(toggle);
    }

    /// The label is away, or could not be taken away.
    pub(super) fn taken_out(&mut self, uid: &PodUid, mut toggle: Toggle, done: Result<(), String>) {
        let Some(case) = self.cases.get_mut(uid) else {
            return;
        };
        match done {
            Ok(()) => {
                toggle.step = Step::Out;
                case.stage = Stage::Toggling(toggle);
            }
            Err(detail) => {
                case.stage = toggle.spent();
                let (pod, detail) = (case.pod.clone(), Some(detail));
                self.notices.push(Notice::ToggleFailed { pod, detail });
            }
        }
    }

    /// The label is as it was, or is not yet.
    pub(super) fn put_back(
        &mut self,
        at: Moment,
        uid: &PodUid,
        mut toggle: Toggle,
        done: Result<(), String>,
    ) {
        let Some(case) = self.cases.get_mut(uid) else {
            return;
        };
        match done {
            Ok(()) => toggle.step = Step::Back(at.now),
            Err(detail) => {
                toggle.step = Step::Out;
                case.not_before = at.now + AGAIN;
                tell(&mut self.notices, case, Withheld::Refused, Some(detail), false);
            }
        }
        case.stage = Stage::Toggling(toggle);
    }
}
