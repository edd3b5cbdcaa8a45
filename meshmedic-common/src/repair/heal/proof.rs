// SPDX-License-Identifier: Apache-2.0
//! What becomes of those that were asked for: the last look before the ask, the proof after it, or why there is none.

use std::collections::BTreeMap;

use super::case::{Case, LOOK, Stage, Waiting};
use super::evidence::{Candidate, NodeView};
use super::healer::tell;
use super::{Diagnosis, Healer, Notice};
use crate::repair::Moment;
use crate::uid::PodUid;
use crate::verdict::{Redirection, State};

impl Healer {
    /// Goes on with those that were asked for, or are about to be.
    pub(super) fn proceed(&mut self, at: Moment, view: &NodeView, pods: &BTreeMap<PodUid, Candidate<'_>>) {
        let forbidden = self.node_forbids(at, view);
        let new_forbidden = self.begin_forbids(at, view);
        let fell = view.gates.node_fault.is_some() || view.ztunnel_since.is_none();
        let oldest = self.oldest_ask();
        let uids: Vec<PodUid> = self.cases.keys().cloned().collect();
        for uid in uids {
            let Some(candidate) = pods.get(&uid) else { continue };
            let not_permitted = self.api_forbids(&candidate.standing.facts.namespace);
            let Some(case) = self.cases.get_mut(&uid) else {
                continue;
            };
            match std::mem::replace(&mut case.stage, Stage::Watching) {
                Stage::Looking {
                    since,
                    ask,
                    version,
                    first,
                } => {
                    let care = &self.healing.care;
                    let barred = case.forbids(&self.healing, at, candidate).map(|why| (why, None));
                    // A second ask is under way already.
                    let above = if first.is_some() {
                        &forbidden
                    } else {
                        &new_forbidden
                    };
                    if let Some((why, detail)) = above.clone().or(not_permitted).or(barred) {
                        // A first ask that stands goes on being waited for.
                        case.stage = first.map_or(Stage::Watching, Stage::Waiting);
                        tell(&mut self.notices, case, why, detail, false);
                    } else if case.agrees(care, candidate, Some(since)) {
                        let before = candidate.leads;
                        case.stage = Stage::Asking {
                            ask,
                            version,
                            first,
                            before,
                        };
                    } else if candidate.streak.is_none() && candidate.state == State::Captured
                        || at.now.since(since) > LOOK
                    {
                        case.stage = first.map_or(Stage::Watching, Stage::Waiting);
                    } else {
                        case.stage = Stage::Looking {
                            since,
                            ask,
                            version,
                            first,
                        };
                    }
                }
                Stage::Toggling(toggle) => {
                    self.toggle(at, &uid, candidate, toggle, forbidden.is_none() && !fell);
                }
                Stage::Waiting(waiting) => {
                    let oldest = oldest.as_ref() == Some(&uid);
                    self.wait(at, &uid, candidate, waiting, oldest, fell);
                }
                other => case.stage = other,
            }
        }
    }

    /// The pod whose ask has been outstanding for longest. Of two that were asked for at once it is the first by name,
    /// so that one alone has its turn.
    fn oldest_ask(&self) -> Option<PodUid> {
        let asked = |(uid, case): (&PodUid, &Case)| Some((case.asked_since()?, uid.clone()));
        self.cases.iter().filter_map(asked).min().map(|(_, uid)| uid)
    }

    /// Waits for the proof of one ask.
    fn wait(
        &mut self,
        at: Moment,
        uid: &PodUid,
        candidate: &Candidate<'_>,
        mut waiting: Waiting,
        oldest: bool,
        fell: bool,
    ) {
        let care = self.healing.care;
        let Some(case) = self.cases.get_mut(uid) else {
            return;
        };
        if waiting.is_proved(candidate) {
            self.pace.succeeded(at.now, &case.whose.owner);
            self.alarm.took();
            self.notices.push(Notice::Healed {
                pod: case.pod.clone(),
                took: at.now.since(waiting.began),
                attempt: waiting.ask.attempt,
            });
            (case.stage, case.told, case.conflicts) = (Stage::Watching, None, 0);
            return;
        }
        if candidate.place.is_some() && waiting.place.is_some() && candidate.place != waiting.place {
            // Another sandbox: what was asked for is gone, and says nothing.
            case.stage = Stage::Watching;
            return;
        }
        if waiting.is_answered(candidate) && !std::mem::replace(&mut waiting.answered, true) {
            self.pace.worked(at.now);
        }
        // A second ask does not lose its place to those that were asked for later.
        if oldest {
            waiting.turn.get_or_insert(at.now);
        }
        if waiting.wants_second(at.now, &care, candidate) && !fell && !self.stopping {
            case.stage = Stage::Fetching { first: Some(waiting) };
            return;
        }
        waiting.captured = candidate.state == State::Captured;
        case.look(at.now, waiting.look_again());
        let seen = candidate.streak.is_some_and(|streak| streak.last > waiting.asked)
            || candidate
                .captured_at
                .is_some_and(|captured| captured > waiting.asked);
        // What no reading shows any more is given up later, but it is given up.
        let blind = waiting
            .turn
            .is_some_and(|turn| at.now.since(turn) > care.deadline + LOOK);
        if seen && (fell || waiting.is_late(at.now, &care)) || blind {
            let why = if fell {
                Diagnosis::ZtunnelFell
            } else {
                waiting.diagnose(candidate)
            };
            self.fail(at, uid, candidate, &waiting, why);
        } else {
            case.stage = Stage::Waiting(waiting);
        }
    }

    /// An ask did not take.
    fn fail(
        &mut self,
        at: Moment,
        uid: &PodUid,
        candidate: &Candidate<'_>,
        waiting: &Waiting,
        why: Diagnosis,
    ) {
        let Some(case) = self.cases.get_mut(uid) else {
            return;
        };
        self.notices.push(Notice::Failed {
            pod: case.pod.clone(),
            why,
            took: at.now.since(waiting.began),
        });
        // That istio-cni did what it was asked for others, and later, shows that it works.
        let own = why.is_own() || (why == Diagnosis::NotTakenUp && self.pace.has_worked_since(waiting.asked));
        let whose = case.whose.clone();
        let against = waiting.ask.against.clone();
        case.stage = if waiting.made_it_worse(candidate) {
            Stage::Undoing { against, why }
        } else {
            Stage::Spent {
                against,
                why,
                unreachable: false,
                ours: waiting.before != Some(Redirection::Routed),
                toggled: false,
            }
        };
        if why == Diagnosis::ZtunnelFell {
            // It is our doing until shown otherwise: the next one is a canary again.
            self.pace.doubt();
        }
        if let Some(strangers) = (!own)
            .then(|| self.pace.failed(at.now, &whose, waiting.asked))
            .flatten()
        {
            self.alarm.failed(strangers.into());
            self.notices.push(Notice::Stopped);
        }
    }
}
