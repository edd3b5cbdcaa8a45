// SPDX-License-Identifier: Apache-2.0
//! What the API answers, and what follows.

use std::collections::BTreeMap;
use std::time::Duration;

use super::case::{Stage, Waiting};
use super::evidence::Candidate;
use super::healer::tell;
use super::{Answer, Asked, Below, Diagnosis, Fetched, Healer, Notice, Place};
use crate::ask::Ask;
use crate::facts::Enrolment;
use crate::policy::Withheld;
use crate::repair::sabotage::{Defence, is_out};
use crate::repair::{Moment, RequestId};
use crate::uid::PodUid;
use crate::verdict::Redirection;

/// How often an ask is made anew because the pod changed under it. The kubelet and istio-cni write pods, too.
const CONFLICTS: u32 = 5;
/// What the API did not answer, or has no time for, is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// What it refused is asked again after this.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);

impl Healer {
    /// Takes the answer to a request. `pods` are as in [`Self::judge`].
    pub fn answer(
        &mut self,
        at: Moment,
        id: RequestId,
        answer: Answer,
        pods: &BTreeMap<PodUid, Candidate<'_>>,
    ) {
        let found = self.cases.iter_mut().find(|(_, case)| case.request == Some(id));
        let Some((uid, case)) = found else { return };
        let uid = uid.clone();
        case.request = None;
        match (std::mem::replace(&mut case.stage, Stage::Watching), answer) {
            (Stage::Fetching { first }, Answer::Fetched(Ok(Some(fetched)))) => {
                self.fetched(at, &uid, pods.get(&uid), *fetched, first);
            }
            (Stage::Fetching { .. }, Answer::Fetched(Ok(None)))
            | (Stage::Asking { .. }, Answer::Asked(Asked::Gone)) => {
                self.cases.remove(&uid);
            }
            (Stage::Fetching { first }, Answer::Fetched(Err(detail))) => {
                case.not_before = at.now + ASK_AGAIN;
                case.stage = first.map_or(Stage::Watching, Stage::Waiting);
                tell(&mut self.notices, case, Withheld::NotFetched, Some(detail), false);
            }
            (
                Stage::Asking {
                    ask, first, before, ..
                },
                Answer::Asked(asked),
            ) => {
                let place = pods.get(&uid).and_then(|candidate| candidate.place);
                self.asked(at, &uid, (ask, first, place, before), asked);
            }
            (Stage::Toggling(toggle), Answer::TakenOut(done)) => self.taken_out(&uid, toggle, done),
            (Stage::Toggling(toggle), Answer::PutBack(done)) => self.put_back(at, &uid, toggle, done),
            (Stage::Undoing { against, why }, Answer::TakenOut(undone)) => {
                let pod = case.pod.clone();
                let unreachable = undone.is_err();
                case.stage = Stage::Spent {
                    against,
                    why,
                    unreachable,
                    ours: false,
                    toggled: true,
                };
                self.notices.push(match undone {
                    Ok(()) => Notice::Undone { pod },
                    Err(detail) => Notice::MadeUnreachable { pod, detail },
                });
            }
            // An answer to a question that nobody asked.
            (stage, _) => case.stage = stage,
        }
    }

    /// The pod as it is now: judged again, and read once more before it is asked for.
    fn fetched(
        &mut self,
        at: Moment,
        uid: &PodUid,
        candidate: Option<&Candidate<'_>>,
        fetched: Fetched,
        first: Option<Waiting>,
    ) {
        let Some(against) = candidate.and_then(|candidate| self.against(candidate)) else {
            return;
        };
        let (Some(case), Some(candidate)) = (self.cases.get_mut(uid), candidate) else {
            return;
        };
        let now = Candidate {
            standing: &fetched.standing,
            ..candidate.clone()
        };
        let facts = &fetched.standing.facts;
        if let Some(why) = case.forbids(&self.healing, at, &now) {
            case.stage = first.map_or(Stage::Watching, Stage::Waiting);
            case.below = Below::of(why);
            return tell(&mut self.notices, case, why, None, false);
        }
        let stands = facts
            .heal
            .as_deref()
            .and_then(Ask::parse)
            .filter(|ask| ask.against == against);
        let pending = facts.enrolment == Enrolment::Pending;
        if let (Some(ask), true, None) = (&stands, pending, &first) {
            // Another process of this node asked, and istio-cni has it still.
            case.stage = Stage::Waiting(Waiting::adopted(ask.clone(), candidate.place, at.now));
            return;
        }
        match Ask::after(stands.as_ref(), &against, at.server, pending) {
            Some(ask) => {
                case.looked = Some(at.now);
                case.wants_look = true;
                case.stage = Stage::Looking {
                    since: at.now,
                    ask,
                    version: fetched.version,
                    first,
                };
            }
            None if is_out(Defence::Repeat) => case.stage = Stage::Fetching { first },
            None => {
                let why = if pending {
                    Diagnosis::NotTakenUp
                } else {
                    Diagnosis::Believed
                };
                case.below = Below::May(Some(why));
                case.stage = match first {
                    // It was taken up just now: its proof may still come.
                    Some(waiting) => Stage::Waiting(waiting),
                    None => Stage::Spent {
                        against,
                        why,
                        unreachable: false,
                        ours: false,
                        toggled: false,
                    },
                };
            }
        }
    }

    fn asked(
        &mut self,
        at: Moment,
        uid: &PodUid,
        (ask, first, place, before): (Ask, Option<Waiting>, Option<Place>, Redirection),
        asked: Asked,
    ) {
        let Some(case) = self.cases.get_mut(uid) else {
            return;
        };
        let back = |first: Option<Waiting>| first.map_or(Stage::Watching, Stage::Waiting);
        match asked {
            Asked::Accepted => {
                let (began, before) =
                    first.map_or((at.now, Some(before)), |first| (first.began, first.before));
                case.conflicts = 0;
                case.stage = Stage::Waiting(Waiting {
                    ask,
                    place,
                    began,
                    asked: at.now,
                    turn: None,
                    before,
                    answered: false,
                    captured: false,
                });
            }
            // Judged again, asked again: nothing was done. Whether a lost answer was a yes shows when it is fetched.
            Asked::Changed | Asked::InDoubt(_) if case.conflicts < CONFLICTS => {
                case.conflicts += 1;
                case.stage = Stage::Fetching { first };
            }
            Asked::Changed | Asked::InDoubt(_) => {
                case.conflicts = 0;
                case.not_before = at.now + ASK_AGAIN;
                case.stage = back(first);
            }
            Asked::NotPermitted(why) => {
                case.stage = back(first);
                let namespace = case.pod.namespace.clone();
                self.permit(&namespace, Err(why));
            }
            Asked::Busy(patience) => {
                case.not_before = at.now + patience.unwrap_or(ASK_AGAIN);
                case.stage = back(first);
            }
            Asked::Refused(detail) => {
                case.not_before = at.now + REFUSED_AGAIN;
                case.stage = back(first);
                tell(&mut self.notices, case, Withheld::Refused, Some(detail), false);
            }
            Asked::Gone => {}
        }
    }
}
