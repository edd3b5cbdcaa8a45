// SPDX-License-Identifier: Apache-2.0
//! Decides which pods of a node istio-cni is asked for, and what became of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ask::{Against, Ask};
use super::case::{Case, LOOK, LOOK_AGAIN, SECOND_AFTER, Stage, Waiting};
use super::evidence::{Candidate, NodeView, Serving, Support};
use super::pace::{Pace, Whose};
use super::{Answer, Asked, Below, Diagnosis, Fetched, Healing, Notice, Progress, Request};
use crate::duration;
use crate::facts::Enrolment;
use crate::policy::{Permissions, Withheld};
use crate::repair::sabotage::{Defence, is_out, stands};
use crate::repair::{Moment, PodRef, RequestId, gate_detail};
use crate::time::Time;
use crate::uid::PodUid;
use crate::verdict::State;

/// How often an ask is made anew because the pod changed under it. The kubelet and istio-cni write pods, too.
const CONFLICTS: u32 = 5;
/// What the API did not answer, or has no time for, is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// What it refused is asked again after this.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);
/// So many pods are read ahead, so that the next ones are proved when their turn comes.
const PREPARED: usize = 16;
/// Under mass loss the pods of a fleet are spread over so many gaps.
const GAPS: u64 = 3;

/// Plans the heals of one node.
#[derive(Debug)]
pub struct Healer {
    healing: Healing,
    cases: BTreeMap<PodUid, Case>,
    pace: Pace,
    /// Whether the API lets us ask: what is not known counts as yes, and is found out by asking.
    permitted: Result<(), String>,
    containers: Option<(Option<String>, Option<String>)>,
    cni_since: Option<Time>,
    /// Since when ztunnel is known to have a connection to istio-cni.
    connected_since: Option<Time>,
    mass_loss_since: Option<Time>,
    stopping: bool,
    numbers: RequestId,
    notices: Vec<Notice>,
}

impl Healer {
    /// A healer that knows of nothing.
    #[must_use]
    pub fn new(healing: Healing) -> Self {
        Self {
            healing,
            cases: BTreeMap::new(),
            pace: Pace::default(),
            permitted: Ok(()),
            containers: None,
            cni_since: None,
            connected_since: None,
            mass_loss_since: None,
            stopping: false,
            numbers: 0,
            notices: Vec::new(),
        }
    }

    /// Whether anything may ever be asked.
    #[must_use]
    pub const fn may_act(&self) -> bool {
        let Permissions { ready, stuck, .. } = self.healing.permissions;
        ready || stuck
    }

    /// Takes what was found out of the right to ask.
    pub fn permit(&mut self, permitted: Result<(), String>) {
        if permitted.is_ok() != self.permitted.is_ok() {
            self.notices.push(Notice::Permitted(permitted.clone()));
        }
        self.permitted = permitted;
    }

    /// Why the right to ask is missing.
    #[must_use]
    pub fn not_permitted(&self) -> Option<&str> {
        self.permitted.as_ref().err().map(String::as_str)
    }

    /// Judges this node's pods, all of them, and goes on with what is under way.
    pub fn judge(&mut self, at: Moment, view: &NodeView, pods: &BTreeMap<PodUid, Candidate<'_>>) {
        self.observe(at, view);
        let kept = |uid: &PodUid, case: &Case| {
            let same = pods
                .get(uid)
                .is_some_and(|candidate| candidate.standing.facts.uid == case.pod.uid);
            let wanted = pods.get(uid).is_some_and(|candidate| is_lost(candidate.state));
            same && (wanted || case.is_in_hand())
        };
        self.cases.retain(|uid, case| kept(uid, case));
        self.proceed(at, view, pods);
        if !self.stopping {
            self.begin(at, view, pods);
        }
    }

    /// What the node is like, and since when.
    fn observe(&mut self, at: Moment, view: &NodeView) {
        let since = |before: Option<Time>, holds: bool| holds.then(|| before.unwrap_or(at.now));
        self.cni_since = since(self.cni_since, view.cni_ready);
        self.connected_since = since(self.connected_since, view.serving != Serving::Unproven);
        self.mass_loss_since = since(self.mass_loss_since, view.mass_loss);
        if self.containers.as_ref() != Some(&view.containers) {
            let known = self.containers.replace(view.containers.clone()).is_some();
            if known {
                self.pace.begin_anew();
                self.connected_since = since(None, view.serving != Serving::Unproven);
            }
        }
    }

    /// What holds above the pods and forbids an ask, with what is known of it.
    fn node_forbids(&self, at: Moment, view: &NodeView) -> Option<(Withheld, Option<String>)> {
        let settle = self.healing.care.settle;
        let young = |since: Option<Time>| since.is_none_or(|since| at.now.since(since) < settle);
        let gate = |why: Withheld| (why, gate_detail(&view.gates, why));
        let told = |why: Withheld, detail: String| (why, Some(detail));
        let settling = || {
            told(
                Withheld::NodeFault,
                format!(
                    "ztunnel or istio-cni became Ready less than {} ago",
                    duration::show(settle)
                ),
            )
        };
        let serves = match view.serving {
            Serving::Unproven => false,
            Serving::Captures => true,
            Serving::Connected => !young(self.connected_since),
        };
        let reasons = [
            view.watches_only.then(|| (Withheld::Superseded, None)),
            view.gates.paused.as_ref().map(|_| gate(Withheld::Paused)),
            self.permitted
                .as_ref()
                .err()
                .map(|why| told(Withheld::HealNotPermitted, why.clone())),
            match &view.support {
                Support::Yes => None,
                Support::TooOld(version) => {
                    Some(told(Withheld::HealUnsupported, format!("istio-cni {version}")))
                }
                Support::Unknown => Some((Withheld::HealUnsupported, None)),
            },
            view.gates.mesh_fault.as_ref().map(|_| gate(Withheld::MeshFault)),
            view.gates.node_fault.as_ref().map(|_| gate(Withheld::NodeFault)),
            (young(view.ztunnel_since) || young(self.cni_since)).then(settling),
            (!serves).then_some((Withheld::ZtunnelUnproven, None)),
        ];
        reasons.into_iter().flatten().find(|(why, _)| stands(why))
    }

    fn against(&self, candidate: &Candidate<'_>) -> Option<Against> {
        let (cni, ztunnel) = self.containers.as_ref()?;
        let place = candidate.place?.to_string();
        Some(Against::new(&place, cni.as_deref(), ztunnel.as_deref()))
    }

    /// Goes on with those that were asked for, or are about to be.
    fn proceed(&mut self, at: Moment, view: &NodeView, pods: &BTreeMap<PodUid, Candidate<'_>>) {
        let forbidden = self.node_forbids(at, view);
        let fell = view.gates.node_fault.is_some() || view.ztunnel_since.is_none();
        let oldest = self.oldest_ask();
        let uids: Vec<PodUid> = self.cases.keys().cloned().collect();
        for uid in uids {
            let (Some(candidate), Some(case)) = (pods.get(&uid), self.cases.get_mut(&uid)) else {
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
                    if let Some((why, detail)) = forbidden.clone().or(barred) {
                        // A first ask that stands goes on being waited for.
                        case.stage = first.map_or(Stage::Watching, Stage::Waiting);
                        tell(&mut self.notices, case, why, detail, false);
                    } else if case.agrees(care, candidate, Some(since)) {
                        let before = candidate.redirection;
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
                Stage::Waiting(waiting) => self.wait(at, &uid, candidate, waiting, oldest, fell),
                other => case.stage = other,
            }
        }
    }

    /// When the oldest ask that is outstanding was made.
    fn oldest_ask(&self) -> Option<Time> {
        let asked = self.cases.values().filter_map(|case| match &case.stage {
            Stage::Waiting(waiting) => Some(waiting.asked),
            _ => None,
        });
        asked.min()
    }

    /// Waits for the proof of one ask.
    fn wait(
        &mut self,
        at: Moment,
        uid: &PodUid,
        candidate: &Candidate<'_>,
        mut waiting: Waiting,
        oldest: Option<Time>,
        fell: bool,
    ) {
        let care = self.healing.care;
        let Some(case) = self.cases.get_mut(uid) else {
            return;
        };
        if waiting.is_proved(candidate) {
            self.pace.succeeded(at.now);
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
        if oldest.is_none_or(|oldest| waiting.asked <= oldest) {
            waiting.turn.get_or_insert(at.now);
        }
        if waiting.wants_second(at.now, &care, candidate) && !fell && !self.stopping {
            case.stage = Stage::Fetching { first: Some(waiting) };
            return;
        }
        case.look(at.now, LOOK_AGAIN);
        let seen = candidate.streak.is_some_and(|streak| streak.last > waiting.asked)
            || candidate
                .captured_at
                .is_some_and(|captured| captured > waiting.asked);
        // What no reading shows any more is given up later, but it is given up.
        let blind = waiting
            .turn
            .is_some_and(|turn| at.now.since(turn) > care.deadline + LOOK);
        if (waiting.is_late(at.now, &care) && seen) || fell && seen || blind {
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
            }
        };
        if why == Diagnosis::ZtunnelFell {
            // It is our doing until shown otherwise: the next one is a canary again.
            self.pace.doubt();
        }
        if !own && self.pace.failed(at.now, &whose, waiting.asked) {
            self.notices.push(Notice::Stopped);
        }
    }

    /// Begins what may begin, and says of the others why not.
    fn begin(&mut self, at: Moment, view: &NodeView, pods: &BTreeMap<PodUid, Candidate<'_>>) {
        let siblings = Siblings::count(pods);
        for (uid, candidate) in pods.iter().filter(|(_, candidate)| is_lost(candidate.state)) {
            if !self.cases.contains_key(uid) {
                let facts = &candidate.standing.facts;
                let pod = PodRef {
                    namespace: facts.namespace.clone(),
                    name: facts.name.clone(),
                    uid: facts.uid.clone(),
                    cgroup_uid: uid.clone(),
                };
                self.cases
                    .insert(uid.clone(), Case::new(pod, siblings.whose(candidate)));
            }
        }
        let forbidden = self.node_forbids(at, view);
        let proved = self.pace.is_proved(at.now);
        let mut order: Vec<(&PodUid, &Candidate<'_>)> = pods
            .iter()
            .filter(|(uid, _)| self.cases.get(*uid).is_some_and(|case| !case.is_outstanding()))
            .collect();
        // The canary is the one with least to lose: others stand in for it.
        order.sort_by_key(|(uid, candidate)| {
            (
                !proved && !siblings.stand_in(candidate),
                candidate.state != State::Orphan,
                *uid,
            )
        });
        let mut prepared = 0;
        for (uid, candidate) in order {
            let against = self.against(candidate);
            let outstanding = self.cases.values().filter(|case| case.is_outstanding()).count();
            let Some(case) = self.cases.get_mut(uid) else {
                continue;
            };
            case.whose = siblings.whose(candidate);
            if let Stage::Spent {
                against: tried, why, ..
            } = &case.stage
            {
                if against.as_ref() == Some(tried) {
                    case.below = Below::May(Some(*why));
                    continue;
                }
                case.stage = Stage::Watching;
            }
            if at.now < case.not_before {
                continue;
            }
            let shadow = !(self.healing.permissions.ready || self.healing.permissions.stuck);
            let of_pod = case.forbids(&self.healing.in_shadow(shadow), at, candidate);
            let spread = self
                .mass_loss_since
                .filter(|_| proved)
                .is_some_and(|since| at.now.since(since) < self.healing.care.owner_gap * slot(uid));
            let reason = of_pod
                .map(|why| (why, None))
                .or_else(|| forbidden.clone())
                .or_else(|| {
                    let why = self
                        .pace
                        .forbids(at.now, &self.healing.care, outstanding, &case.whose);
                    why.filter(stands).map(|why| (why, None))
                })
                .or_else(|| spread.then_some((Withheld::HealOwnerShare, None)));
            if let Some((why, detail)) = reason {
                case.below = below(why);
                // A pod that is being confirmed is no finding yet: nobody is told why nothing is done.
                if candidate.state != State::Suspect || why == Withheld::HealNotPermitted {
                    tell(&mut self.notices, case, why, detail, shadow);
                }
                continue;
            }
            case.below = Below::Waits(Withheld::Healing);
            if !case.agrees(&self.healing.care, candidate, None) {
                if prepared < PREPARED {
                    prepared += 1;
                    case.look(at.now, self.healing.care.confirm / 2);
                }
                continue;
            }
            if shadow {
                if !std::mem::replace(&mut case.would, true) {
                    self.notices.push(Notice::Would {
                        pod: case.pod.clone(),
                    });
                }
                continue;
            }
            case.stage = Stage::Fetching { first: None };
        }
    }

    /// Pods to be read now.
    pub fn looks(&mut self) -> Vec<PodUid> {
        let wanted = self
            .cases
            .iter_mut()
            .filter_map(|(uid, case)| std::mem::take(&mut case.wants_look).then(|| uid.clone()));
        wanted.collect()
    }

    /// What is to be asked of the API now. Each request is handed out once.
    pub fn requests(&mut self, at: Moment) -> Vec<(RequestId, Request)> {
        let mut requests = Vec::new();
        for case in self.cases.values_mut().filter(|case| case.request.is_none()) {
            let pod = case.pod.clone();
            let request = match &case.stage {
                Stage::Undoing { .. } => Request::Undo(pod),
                _ if self.stopping => continue,
                Stage::Fetching { .. } => Request::Fetch(pod),
                Stage::Asking { ask, version, .. } => {
                    self.pace
                        .asked(at.now, &case.whose.owner, self.healing.care.owner_gap);
                    self.notices.push(Notice::Asked {
                        pod: pod.clone(),
                        attempt: ask.attempt,
                    });
                    Request::Ask {
                        pod,
                        version: version.clone(),
                        ask: ask.clone(),
                    }
                }
                _ => continue,
            };
            self.numbers += 1;
            case.request = Some(self.numbers);
            requests.push((self.numbers, request));
        }
        requests
    }

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
            (Stage::Undoing { against, why }, Answer::Undone(undone)) => {
                let pod = case.pod.clone();
                let unreachable = undone.is_err();
                case.stage = Stage::Spent {
                    against,
                    why,
                    unreachable,
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
            case.below = below(why);
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
            case.stage = Stage::Waiting(Waiting {
                ask: ask.clone(),
                place: candidate.place,
                began: at.now,
                asked: at.now,
                turn: None,
                before: None,
                answered: false,
            });
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
                    },
                };
            }
        }
    }

    fn asked(
        &mut self,
        at: Moment,
        uid: &PodUid,
        (ask, first, place, before): (
            Ask,
            Option<Waiting>,
            Option<super::Place>,
            crate::verdict::Redirection,
        ),
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
                self.permit(Err(why));
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

    /// Begins nothing more.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether nothing is at the API.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.cases.values().all(|case| case.request.is_none())
    }

    /// Whether any pod is asked for, or about to be.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.cases.values().any(Case::is_in_hand)
    }

    /// What the rungs below may do to a pod.
    #[must_use]
    pub fn below(&self, uid: &PodUid) -> Below {
        self.cases.get(uid).map_or(Below::May(None), |case| {
            if case.is_outstanding() {
                Below::Waits(Withheld::Healing)
            } else {
                case.below
            }
        })
    }

    /// How far the heal of a pod is.
    #[must_use]
    pub fn progress(&self, uid: &PodUid) -> Option<Progress> {
        self.cases.get(uid)?.progress()
    }

    /// Whether repairs are off and this pod would be healed in place.
    #[must_use]
    pub fn would_heal(&self, uid: &PodUid) -> bool {
        self.cases.get(uid).is_some_and(|case| case.would)
    }

    /// Whether heals on this node did not take.
    #[must_use]
    pub fn is_stopped(&self, now: Time) -> bool {
        self.pace.is_stopped(now)
    }

    /// When there is something to do next, if nothing else happens.
    #[must_use]
    pub fn next_wake(&self, now: Time) -> Option<Time> {
        let care = &self.healing.care;
        let step = Duration::from_millis(1);
        let due = self.cases.values().flat_map(|case| {
            let stage = match &case.stage {
                Stage::Watching => case.looked.map(|looked| looked + care.confirm / 2),
                Stage::Looking { since, .. } => Some(*since + LOOK + step),
                Stage::Waiting(waiting) => {
                    let second = waiting.turn.map(|turn| turn + SECOND_AFTER);
                    let late = waiting.turn.map(|turn| turn + care.deadline);
                    let look = case.looked.map(|looked| looked + LOOK_AGAIN);
                    [second, late, look]
                        .into_iter()
                        .flatten()
                        .filter(|due| *due > now)
                        .min()
                }
                _ => None,
            };
            stage.into_iter().chain([case.not_before])
        });
        let settled = [self.cni_since, self.connected_since].into_iter().flatten();
        let settled = settled.map(|since| since + care.settle);
        let spread = self.mass_loss_since.into_iter();
        let spread = spread.flat_map(|since| (1..=3).map(move |gap| since + care.owner_gap * gap));
        let any = !self.cases.is_empty();
        let node = settled
            .chain(spread)
            .chain(self.pace.next_wake(now, care))
            .filter(|_| any);
        due.chain(node).filter(|due| *due > now).min()
    }

    /// What happened since the last call, in order.
    pub fn drain(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }
}

impl Healing {
    /// The same with repairs on, where what would be done is wanted.
    const fn in_shadow(self, shadow: bool) -> Self {
        let permissions = Permissions {
            ready: self.permissions.ready || shadow,
            ..self.permissions
        };
        Self { permissions, ..self }
    }
}

/// Of each owner's pods on this node: all, and those that are Ready.
struct Siblings<'a>(BTreeMap<&'a str, (usize, usize)>);

impl<'a> Siblings<'a> {
    fn count(pods: &'a BTreeMap<PodUid, Candidate<'_>>) -> Self {
        let mut owners: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for candidate in pods.values() {
            let (all, ready) = owners.entry(owner(candidate)).or_default();
            *all += 1;
            *ready += usize::from(candidate.standing.facts.ready);
        }
        Self(owners)
    }

    fn whose(&self, candidate: &Candidate<'_>) -> Whose {
        let owner = owner(candidate);
        Whose {
            owner: owner.to_owned(),
            namespace: candidate.standing.facts.namespace.clone(),
            siblings: self.0.get(owner).map_or(1, |(all, _)| *all),
        }
    }

    /// Whether others of its owner do its work meanwhile, as far as this node shows.
    fn stand_in(&self, candidate: &Candidate<'_>) -> bool {
        let (_, ready) = self.0.get(owner(candidate)).copied().unwrap_or_default();
        ready > usize::from(candidate.standing.facts.ready)
    }
}

fn owner<'a>(candidate: &'a Candidate<'_>) -> &'a str {
    let facts = &candidate.standing.facts;
    facts
        .controller
        .as_ref()
        .map_or(&facts.uid, |controller| &controller.uid)
}

/// Whether a pod in this state may be out of the mesh.
const fn is_lost(state: State) -> bool {
    matches!(
        state,
        State::Suspect | State::Orphan | State::Partial | State::Imposter
    )
}

/// Which gap of a mass loss is a pod's, the same for every agent and on every run: a likelihood, no promise, that the
/// pods of one owner on many nodes are not asked for at once.
fn slot(uid: &PodUid) -> u32 {
    let hash = uid.as_str().bytes().fold(0_u64, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    });
    u32::try_from(hash % GAPS).unwrap_or(0)
}

/// What the rungs below may do where this one withholds itself.
const fn below(why: Withheld) -> Below {
    match why {
        // This rung cannot help such a pod, on this node or at all.
        Withheld::HealUnsupported
        | Withheld::HealStopped
        | Withheld::HealUnanswered
        | Withheld::PortHeld
        | Withheld::StaticPod
        | Withheld::JobPod
        | Withheld::Strategy
        | Withheld::ByHand
        | Withheld::Imposter
        | Withheld::DetectOnly
        | Withheld::GracePeriod
        | Withheld::InFlightNode => Below::May(None),
        why => Below::Waits(why),
    }
}

fn tell(notices: &mut Vec<Notice>, case: &mut Case, why: Withheld, detail: Option<String>, shadow: bool) {
    if case.told.replace((why, shadow)) != Some((why, shadow)) {
        notices.push(Notice::Withheld {
            pod: case.pod.clone(),
            why,
            detail,
            shadow,
        });
    }
}
