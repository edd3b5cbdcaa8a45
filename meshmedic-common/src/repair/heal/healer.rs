// SPDX-License-Identifier: Apache-2.0
//! Decides which pods of a node istio-cni is asked for, and what became of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::alarm::{Alarm, News};
use super::case::{Case, LOOK, SECOND_AFTER, Stage, Step};
use super::evidence::{Candidate, NodeView, Serving, Support};
use super::pace::Pace;
use super::{Below, Healing, Notice, Progress, Request, Sample};
use crate::ask::{Against, Attempt};
use crate::duration;
use crate::policy::{Permissions, Withheld};
use crate::repair::sabotage::stands;
use crate::repair::{Moment, PodRef, RequestId, gate_detail};
use crate::time::Time;
use crate::uid::PodUid;
use crate::verdict::{State, is_mass_loss};

/// Under mass loss the pods of a fleet are spread over so many gaps.
pub(super) const GAPS: u32 = 3;

/// Plans the heals of one node.
#[derive(Debug)]
pub struct Healer {
    pub(super) healing: Healing,
    pub(super) cases: BTreeMap<PodUid, Case>,
    pub(super) pace: Pace,
    /// The namespaces in which the API does not let us ask, and why: what is not known is found out by asking.
    forbidden: BTreeMap<String, String>,
    containers: Option<(Option<String>, Option<String>)>,
    cni_since: Option<Time>,
    ztunnel_since: Option<Time>,
    /// Since when ztunnel is known to have a connection to istio-cni.
    connected_since: Option<Time>,
    pub(super) stopping: bool,
    pub(super) alarm: Alarm,
    numbers: RequestId,
    pub(super) notices: Vec<Notice>,
}

impl Healer {
    /// A healer that knows of nothing.
    #[must_use]
    pub fn new(healing: Healing) -> Self {
        Self {
            healing,
            cases: BTreeMap::new(),
            pace: Pace::default(),
            forbidden: BTreeMap::new(),
            containers: None,
            cni_since: None,
            ztunnel_since: None,
            connected_since: None,
            stopping: false,
            alarm: Alarm::default(),
            numbers: 0,
            notices: Vec::new(),
        }
    }

    /// A healer that leaves nothing to other nodes: a person heals one node after the other.
    #[must_use]
    pub const fn alone(mut self) -> Self {
        self.pace.width.alone = true;
        self
    }

    /// Whether anything may ever be asked.
    #[must_use]
    pub const fn may_act(&self) -> bool {
        let Permissions { ready, stuck, .. } = self.healing.permissions;
        ready || stuck
    }

    /// Takes what was found out of the right to ask in a namespace.
    pub fn permit(&mut self, namespace: &str, permitted: Result<(), String>) {
        let changed = match &permitted {
            Ok(()) => self.forbidden.remove(namespace).is_some(),
            Err(why) => self.forbidden.insert(namespace.to_owned(), why.clone()).is_none(),
        };
        if changed {
            self.notices.push(Notice::Permitted {
                namespace: namespace.to_owned(),
                permitted,
            });
        }
    }

    /// The namespaces in which the right to ask is missing, each with why.
    pub fn not_permitted(&self) -> impl Iterator<Item = (&str, &str)> {
        self.forbidden
            .iter()
            .map(|(namespace, why)| (namespace.as_str(), why.as_str()))
    }

    /// What the API forbids in a namespace.
    pub(super) fn api_forbids(&self, namespace: &str) -> Option<(Withheld, Option<String>)> {
        let why = self.forbidden.get(namespace)?;
        Some((Withheld::HealNotPermitted, Some(why.clone()))).filter(|(why, _)| stands(why))
    }

    /// Judges this node's pods, all of them, and goes on with what is under way.
    pub fn judge(&mut self, at: Moment, view: &NodeView, pods: &BTreeMap<PodUid, Candidate<'_>>) {
        self.observe(at, view, pods);
        self.alarm.observe(view);
        let kept = |uid: &PodUid, case: &Case| {
            let same = pods
                .get(uid)
                .is_some_and(|candidate| candidate.standing.facts.uid == case.pod.uid);
            let wanted = pods.get(uid).is_some_and(|candidate| candidate.state.is_lost());
            same && (wanted || case.is_in_hand())
        };
        self.cases.retain(|uid, case| kept(uid, case));
        self.proceed(at, view, pods);
        if !self.stopping {
            self.begin(at, view, pods);
        }
    }

    /// What the node is like, and since when.
    fn observe(&mut self, at: Moment, view: &NodeView, pods: &BTreeMap<PodUid, Candidate<'_>>) {
        let since = |before: Option<Time>, holds: bool| holds.then(|| before.unwrap_or(at.now));
        self.cni_since = view.cni_since;
        self.ztunnel_since = view.ztunnel_since;
        self.connected_since = since(self.connected_since, view.serving != Serving::Unproven);
        let expected = pods.values().filter(|pod| pod.state != State::Exempt);
        let lost = pods.values().filter(|pod| pod.state.is_lost()).count();
        // What is not confirmed yet counts: a heal may come before that.
        let most = is_mass_loss(lost, expected.count());
        self.pace.width.observe(at.now, most, lost > 0, view);
        if self.containers.as_ref() != Some(&view.containers) {
            let known = self.containers.replace(view.containers.clone()).is_some();
            if known {
                self.pace.begin_anew();
                self.connected_since = since(None, view.serving != Serving::Unproven);
            }
        }
    }

    /// What holds above the pods and forbids an ask, with what is known of it.
    pub(super) fn node_forbids(&self, at: Moment, view: &NodeView) -> Option<(Withheld, Option<String>)> {
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
        let serves = self.serves(at.now, view.serving);
        let reasons = [
            view.watches_only.then_some((Withheld::Superseded, None)),
            view.gates.paused.as_ref().map(|_| gate(Withheld::Paused)),
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

    /// The same, and what holds in the whole cluster. That holds back what is not begun, and nothing else: asks under
    /// way go on, and what was taken out of the mesh is put back.
    pub(super) fn begin_forbids(&self, at: Moment, view: &NodeView) -> Option<(Withheld, Option<String>)> {
        self.node_forbids(at, view).or_else(|| {
            let detail = view.breaker.clone()?;
            Some((Withheld::HealBreaker, Some(detail))).filter(|(why, _)| stands(why))
        })
    }

    /// Whether nothing but time forbids to begin, and only for as long as readings take.
    pub(super) fn settles_soon(&self, at: Moment, view: &NodeView) -> bool {
        let now = at.now + self.healing.care.confirm;
        self.begin_forbids(Moment { now, ..at }, view).is_none()
    }

    /// What the other agents are to hear of the heals here now, if anything. The same is handed out once, until
    /// [`Self::told`] says what became of it.
    pub fn news(&mut self, now: Time) -> Option<News> {
        self.alarm.take(now)
    }

    /// Whether it is written down.
    pub fn told(&mut self, now: Time, written: bool) {
        self.alarm.answer(now, written);
    }

    /// Whether it is to be looked for now how many nodes lost their pods at once. Handed out once;
    /// [`Self::sampled`] takes the answer.
    pub fn wants_sample(&mut self, now: Time) -> bool {
        self.pace.width.wants_sample(now)
    }

    /// Takes what a few of the fleet's ztunnels show, if they could be looked at.
    pub fn sampled(&mut self, sample: Option<Sample>) {
        self.pace.width.sampled(sample);
    }

    /// How many nodes lost their pods at once, while this one's are not all back and where it is known.
    #[must_use]
    pub const fn width(&self) -> Option<u32> {
        self.pace.width.nodes()
    }

    /// How long an Event about a loss of most pods waits, so that those of a whole fleet do not come at once; `None`
    /// while that is being looked for.
    #[must_use]
    pub fn event_after(&self) -> Option<Duration> {
        self.pace.width.event_after()
    }

    /// Whether ztunnel is proved to serve, by what shows it now and has shown it.
    #[must_use]
    pub fn serves(&self, now: Time, serving: Serving) -> bool {
        let settle = self.healing.care.settle;
        match serving {
            Serving::Unproven => false,
            Serving::Captures => true,
            Serving::Connected => self
                .connected_since
                .is_some_and(|since| now.since(since) >= settle),
        }
    }

    pub(super) fn against(&self, candidate: &Candidate<'_>) -> Option<Against> {
        let (cni, ztunnel) = self.containers.as_ref()?;
        let place = candidate.place?.to_string();
        Some(Against::new(&place, cni.as_deref(), ztunnel.as_deref()))
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
                Stage::Undoing { .. } => Request::TakeOut(pod),
                Stage::Toggling(toggle) if toggle.step == Step::PuttingBack => Request::PutBack(pod),
                _ if self.stopping => continue,
                Stage::Fetching { .. } => Request::Fetch(pod),
                Stage::Toggling(toggle) if toggle.step == Step::TakingOut => {
                    self.notices.push(Notice::Toggling { pod: pod.clone() });
                    Request::TakeOut(pod)
                }
                Stage::Asking { ask, version, .. } => {
                    if ask.attempt == Attempt::Second {
                        let gap = self.healing.care.owner_gap;
                        self.pace.asked(at.now, &case.whose.owner, gap);
                    }
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

    /// Why this pod was last not asked for, if it waits.
    #[must_use]
    pub fn withheld(&self, uid: &PodUid) -> Option<Withheld> {
        let (why, _) = self.cases.get(uid)?.told?;
        Some(why)
    }

    /// The pods that an ask made worse, where taking that back failed.
    pub fn made_unreachable(&self) -> impl Iterator<Item = &PodRef> {
        let unreachable = |case: &&Case| case.progress() == Some(Progress::MadeUnreachable);
        self.cases.values().filter(unreachable).map(|case| &case.pod)
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
                    let look = case.looked.map(|looked| looked + waiting.look_again());
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
        let settled = [self.cni_since, self.ztunnel_since, self.connected_since]
            .into_iter()
            .flatten();
        // Readings begin a little before.
        let settled = settled.flat_map(|since| {
            [care.settle, care.settle.saturating_sub(care.confirm)].map(|span| since + span)
        });
        let spread = self.pace.width.since().into_iter();
        let spread = spread.flat_map(|since| (1..=GAPS).map(move |gap| since + care.owner_gap * gap));
        let any = !self.cases.is_empty();
        let node = settled
            .chain(spread)
            .chain(self.pace.next_wake(now, care))
            .filter(|_| any);
        let alarm = self.alarm.due();
        due.chain(node).chain(alarm).filter(|due| *due > now).min()
    }

    /// What happened since the last call, in order.
    pub fn drain(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }
}

pub(super) fn tell(
    notices: &mut Vec<Notice>,
    case: &mut Case,
    why: Withheld,
    detail: Option<String>,
    shadow: bool,
) {
    if case.told.replace((why, shadow)) != Some((why, shadow)) {
        notices.push(Notice::Withheld {
            pod: case.pod.clone(),
            why,
            detail,
            shadow,
        });
    }
}
