// SPDX-License-Identifier: Apache-2.0
//! The first way: istio-cni is asked to take running pods in again, by the agents' own rules and at their pace.
//!
//! Nothing here decides. A [`Ward`] holds what is known of one node's pods, a [`Round`] of looks tells it more, and the
//! rulebook's healer says what follows.

mod rounds;
mod ward;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use meshmedic_common::duration;
use meshmedic_common::kube::heal::{Around, Heals};
use meshmedic_common::policy::{Means, Permissions, Withheld};
use meshmedic_common::repair::RequestId;
use meshmedic_common::repair::heal::{
    Answer, Below, Care, Healer, Healing, Notice, Request, UNDONE, made_unreachable,
};
use meshmedic_common::time::Time;
use meshmedic_common::uid::PodUid;
use tokio::time::sleep;

use super::plan::{Outlook, Step};
use super::show::{self, RepairFormat};
use super::{Action, Item, Planned, Repairs, Risks};
use crate::output::Progress;
use rounds::Round;
pub(super) use ward::Ward;

/// While nothing else happens it is looked after everything this often.
const BEAT: Duration = Duration::from_millis(250);
/// The pods of so many nodes are healed at once; each node has its own istio-cni.
const NODES_AT_ONCE: usize = 4;
/// What settles by itself is waited for so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// How careful heals are: as the agents, but for what was chosen.
pub(super) fn care(confirm: Duration) -> Care {
    Care {
        confirm,
        // By the API's word a part has been Ready for long enough, or the node is at fault.
        settle: Duration::ZERO,
        ..Care::DEFAULT
    }
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ending {
    Healed(String),
    Failed(String),
    Withheld(Withheld, Option<String>),
    /// It was made worse, and taken out of the mesh again.
    Undone(String),
    /// The next way may help; what was tried, if anything was.
    Over(Option<String>, Option<Withheld>),
    NotDone,
}

/// What came of something that ran beside the rulebook.
enum Done {
    Answer(RequestId, Answer),
    Round(Box<Round>),
}

/// What is switched on: everything, or nothing, so that it only says what it would do.
const fn healing(acts: bool, risks: Risks, care: Care) -> Healing {
    let permissions = Permissions {
        ready: acts,
        stuck: acts,
        grace_period: Duration::ZERO,
        jobs: risks.repair_jobs,
    };
    // Toggles by hand are an attempt of their own, with the agents' records.
    let toggle = false;
    Healing {
        permissions,
        care,
        toggle,
    }
}

/// What the rulebook makes of a node's pods, by UID, without a word to anybody.
pub(super) fn outlooks(ward: &Ward, risks: Risks, care: Care) -> BTreeMap<String, Outlook> {
    let mut healer = Healer::new(healing(false, risks, care)).alone();
    for (namespace, why) in &ward.not_permitted {
        healer.permit(namespace, Err(why.clone()));
    }
    healer.judge(ward.moment(), &ward.view, &ward.candidates());
    let mut told: BTreeMap<PodUid, (Withheld, Option<String>)> = BTreeMap::new();
    for notice in healer.drain() {
        if let Notice::Withheld { pod, why, detail, .. } = notice {
            told.insert(pod.cgroup_uid, (why, detail));
        }
    }
    let mut outlooks = BTreeMap::new();
    for (uid, pod) in ward.lost() {
        let outlook = match (told.remove(uid), healer.below(uid)) {
            (Some((why, detail)), Below::May(_)) => Outlook::Over(why, detail),
            (Some((why, detail)), Below::Waits(_)) if !passes(why) => Outlook::Waits(why, detail),
            _ => Outlook::May,
        };
        outlooks.insert(pod.to_owned(), outlook);
    }
    outlooks
}

/// Whether a reason ends by what else is done here.
const fn passes(why: Withheld) -> bool {
    matches!(
        why,
        Withheld::Healing | Withheld::HealCanary | Withheld::HealPace | Withheld::HealOwnerShare
    )
}

impl Repairs<'_> {
    /// Heals in place what may be; gives what ended, and the others for the ways that come after.
    pub(super) async fn heal(
        &self,
        plans: Vec<(usize, Planned)>,
        wards: BTreeMap<String, Ward>,
        format: RepairFormat,
    ) -> (Vec<(usize, Item)>, Vec<(usize, Planned)>) {
        let wanted = |ward: &Ward| -> BTreeSet<PodUid> {
            let of_node = plans.iter().filter(|(_, plan)| plan.begins_with(Means::Heal));
            let uids = of_node.filter_map(|(_, plan)| plan.facts.as_ref()?.cgroup_uid());
            uids.filter(|uid| ward.has(uid)).collect()
        };
        let wards: Vec<_> = wards.into_values().map(|ward| (wanted(&ward), ward)).collect();
        let count = wards.iter().map(|(wanted, _)| wanted.len()).sum();
        let progress = Progress::start("healing in place", count);
        let progress = &progress;
        let work = wards
            .into_iter()
            .filter(|(wanted, _)| !wanted.is_empty())
            .map(|(wanted, ward)| {
                let round = Course::new(self, ward, wanted, format, count == 1, progress);
                async move { round.run().await }
            });
        let mut running = stream::iter(work.collect::<Vec<_>>()).buffer_unordered(NODES_AT_ONCE);
        let mut endings = BTreeMap::new();
        while let Some(ended) = running.next().await {
            endings.extend(ended);
        }
        let (mut items, mut left) = (Vec::new(), Vec::new());
        let mut took = BTreeSet::new();
        for (place, mut plan) in plans {
            let uid = plan.facts.as_ref().and_then(|facts| facts.cgroup_uid());
            let ending = uid.and_then(|uid| endings.remove(&uid));
            if matches!(ending, Some(Ending::Healed(_))) {
                took.extend(plan.facts.as_ref().and_then(|facts| facts.node.clone()));
            }
            match ending.and_then(|ending| plan.after_heal(ending)) {
                Some(item) => items.push((place, item)),
                None => left.push((place, plan)),
            }
        }
        for node in took {
            if let Some(said) = self.records.heal_took(&node).await {
                show::repair_step(&format!("node {node}"), &said, format);
            }
        }
        (items, left)
    }
}

impl Planned {
    /// What is told of a pod whose heal ended; none where the next way is to be tried.
    fn after_heal(&mut self, ending: Ending) -> Option<Item> {
        let item = self.item();
        Some(match ending {
            Ending::Healed(detail) => item.ended(Action::Repaired, detail),
            Ending::Failed(detail) => item.ended(Action::Failed, detail),
            Ending::Withheld(why, detail) => item.withheld(why, detail.as_deref()),
            Ending::NotDone => item.ended(Action::NotDone, "interrupted before its turn"),
            Ending::Undone(detail) => {
                // That is the first half of a toggle already.
                let toggles = self.steps.iter().any(|step| step.means == Means::Toggle);
                if !toggles {
                    let how = "once ztunnel serves, `meshmedic undo` puts its label back";
                    return Some(item.ended(Action::Failed, format!("{detail}: {how}")));
                }
                self.steps = vec![Step::restore()];
                self.tried = Some(detail);
                return None;
            }
            Ending::Over(tried, why) => {
                self.steps.remove(0);
                if !self.steps.is_empty() {
                    self.tried = tried;
                    return None;
                }
                match (tried, why) {
                    (Some(tried), _) => item.ended(Action::Failed, tried),
                    (None, Some(why)) => item.withheld(why, None),
                    (None, None) => item.withheld(Withheld::NotProved, None),
                }
            }
        })
    }
}

/// The heals of one node, under way.
struct Course<'a> {
    shop: &'a Repairs<'a>,
    ward: Ward,
    healer: Healer,
    heals: Heals,
    running: FuturesUnordered<LocalBoxFuture<'a, Done>>,
    /// The pods that are to be read, and whether somebody reads.
    looks: BTreeSet<PodUid>,
    reading: bool,
    wanted: BTreeSet<PodUid>,
    asked: BTreeSet<PodUid>,
    told: BTreeMap<PodUid, (Withheld, Option<String>)>,
    endings: BTreeMap<PodUid, Ending>,
    /// When something last went on.
    last: Time,
    began: Time,
    format: RepairFormat,
    alone: bool,
    progress: &'a Progress,
}

impl<'a> Course<'a> {
    fn new(
        shop: &'a Repairs<'a>,
        ward: Ward,
        wanted: BTreeSet<PodUid>,
        format: RepairFormat,
        alone: bool,
        progress: &'a Progress,
    ) -> Self {
        let now = Time::now();
        let mut healer = Healer::new(healing(true, shop.risks, care(shop.verifier.confirm))).alone();
        for (namespace, why) in &ward.not_permitted {
            healer.permit(namespace, Err(why.clone()));
        }
        Self {
            healer,
            heals: Heals::new(shop.connection.client.clone()),
            shop,
            ward,
            running: FuturesUnordered::new(),
            looks: BTreeSet::new(),
            reading: false,
            wanted,
            asked: BTreeSet::new(),
            told: BTreeMap::new(),
            endings: BTreeMap::new(),
            last: now,
            began: now,
            format,
            alone,
            progress,
        }
    }

    /// Goes on until each pod has its ending, or somebody interrupts: then until nothing is at the API.
    async fn run(mut self) -> BTreeMap<PodUid, Ending> {
        let mut interrupted = false;
        loop {
            self.turn();
            let open = self.wanted.iter().any(|uid| !self.endings.contains_key(uid));
            if !open || (interrupted && self.healer.is_idle()) {
                break;
            }
            tokio::select! {
                Some(done) = self.running.next() => self.take(done),
                () = self.shop.stop.wait(), if !interrupted => {
                    interrupted = true;
                    self.healer.stop();
                }
                () = sleep(BEAT) => {}
            }
        }
        for uid in &self.wanted {
            let ending = if self.asked.contains(uid) {
                let detail = "istio-cni was asked to enrol it again; interrupted before that was proved: repeat the \
                              repair, which goes on from there";
                Ending::Failed(detail.to_owned())
            } else {
                Ending::NotDone
            };
            self.endings.entry(uid.clone()).or_insert(ending);
        }
        self.endings
    }

    /// Judges, starts what is to be done, and takes note of what ended.
    fn turn(&mut self) {
        let at = self.ward.moment();
        self.healer.judge(at, &self.ward.view, &self.ward.candidates());
        self.looks.extend(self.healer.looks());
        for (id, request) in self.healer.requests(at) {
            self.start(id, request);
        }
        for notice in self.healer.drain() {
            self.last = at.now;
            self.note(notice);
        }
        if !self.reading && !self.looks.is_empty() {
            self.reading = true;
            let (shop, looks) = (self.shop, std::mem::take(&mut self.looks));
            let targets: Vec<_> = looks.iter().filter_map(|uid| self.ward.target(uid)).collect();
            let (node, mesh) = (self.ward.node.clone(), self.ward.mesh.clone());
            let round = async move { Done::Round(Box::new(Round::of(shop, &node, mesh, targets).await)) };
            self.running.push(round.boxed_local());
        }
        let open: Vec<PodUid> = self
            .wanted
            .iter()
            .filter(|uid| !self.endings.contains_key(*uid))
            .cloned()
            .collect();
        for uid in open {
            if let Some(ending) = self.ending(at.now, &uid) {
                self.end(uid, ending);
            }
        }
    }

    /// How a pod ended of which the healer said nothing more.
    fn ending(&self, now: Time, uid: &PodUid) -> Option<Ending> {
        if self.ward.is_gone(uid) {
            return Some(Ending::Withheld(Withheld::OtherPod, None));
        }
        let told = self.told.get(uid);
        match self.healer.below(uid) {
            // It is no case any more, without our doing.
            Below::May(None) if !self.ward.is_lost(uid) => Some(Ending::Withheld(
                Withheld::NotProved,
                Some(self.ward.sentence(uid)),
            )),
            Below::May(None) => Some(Ending::Over(None, told.map(|(why, _)| *why))),
            Below::May(Some(why)) => Some(Ending::Over(Some(did_not_take(why.sentence())), None)),
            Below::Waits(why) if passes(why) => {
                let (late, nobody) = (now.since(self.last) > self.shop.how.deadline, None);
                let refused = told.filter(|(why, _)| *why == Withheld::Refused).cloned();
                refused
                    .or_else(|| late.then(|| told.cloned().unwrap_or((why, nobody))))
                    .map(|(why, detail)| Ending::Withheld(why, detail))
            }
            Below::Waits(why) => {
                let settles = self.ward.settles(why) && now.since(self.began) < PATIENCE;
                let detail = told
                    .filter(|(told, _)| *told == why)
                    .and_then(|(_, detail)| detail.clone());
                (!settles).then_some(Ending::Withheld(why, detail))
            }
        }
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Answer(id, answer) => {
                let answer = match answer {
                    Answer::Fetched(Ok(Some(mut fetched))) => {
                        self.shop.risks.overrides().lift(&mut fetched.standing);
                        Answer::Fetched(Ok(Some(fetched)))
                    }
                    answer => answer,
                };
                let candidates = self.ward.candidates();
                self.healer.answer(self.ward.moment(), id, answer, &candidates);
            }
            Done::Round(round) => {
                self.reading = false;
                self.ward.take(self.shop, *round);
            }
        }
    }

    fn start(&mut self, id: RequestId, request: Request) {
        let (Request::Fetch(pod) | Request::Ask { pod, .. } | Request::TakeOut(pod) | Request::PutBack(pod)) =
            &request;
        let around = Around {
            enablement: self.ward.enablement(&pod.cgroup_uid),
            cnis: self.ward.cnis(),
            namespace: self.shop.world.namespace(&pod.namespace).cloned(),
        };
        let heals = self.heals.clone();
        let perform = async move { Done::Answer(id, heals.perform(request, &around).await) };
        self.running.push(perform.boxed_local());
    }

    fn note(&mut self, notice: Notice) {
        match notice {
            Notice::Withheld { pod, why, detail, .. } => {
                self.told.insert(pod.cgroup_uid, (why, detail));
            }
            Notice::Asked { pod, attempt } => {
                let again = if self.asked.insert(pod.cgroup_uid.clone()) {
                    ""
                } else {
                    " once more"
                };
                tracing::debug!("{}: attempt {attempt:?}", pod.display_name());
                self.step(
                    &pod.display_name(),
                    &format!("asking istio-cni to enrol it again{again}"),
                );
            }
            Notice::Healed { pod, took, .. } => {
                let took = duration::show(Duration::from_millis(
                    u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                ));
                let detail = format!("healed in place, and captured again {took} after istio-cni was asked");
                self.end(pod.cgroup_uid, Ending::Healed(detail));
            }
            Notice::Failed { pod, why, .. } => {
                self.step(&pod.display_name(), &did_not_take(why.sentence()));
            }
            Notice::Undone { pod } => {
                self.end(pod.cgroup_uid, Ending::Undone(UNDONE.to_owned()));
            }
            Notice::MadeUnreachable { pod, detail } => {
                let detail = made_unreachable(&pod, &detail);
                self.end(pod.cgroup_uid, Ending::Failed(detail));
            }
            Notice::Stopped => {
                let what = "heals of pods of different owners and namespaces failed: no more start";
                self.step(&format!("node {}", self.ward.node), what);
            }
            Notice::Would { .. }
            | Notice::Permitted { .. }
            | Notice::Toggling { .. }
            | Notice::Toggled { .. }
            | Notice::ToggleFailed { .. } => {}
        }
    }

    fn end(&mut self, uid: PodUid, ending: Ending) {
        if !self.wanted.contains(&uid) || self.endings.contains_key(&uid) {
            return;
        }
        self.last = Time::now();
        self.progress.step();
        let name = self.ward.name(&uid);
        match &ending {
            Ending::Healed(detail) | Ending::Failed(detail) | Ending::Undone(detail) => {
                self.step(&name, detail);
            }
            Ending::Withheld(..) | Ending::Over(..) | Ending::NotDone => {}
        }
        self.endings.insert(uid, ending);
    }

    /// Tells how far it is: where a bar does so already, of one pod alone.
    fn step(&self, name: &str, what: &str) {
        if self.alone || !std::io::stderr().is_terminal() {
            show::repair_step(name, what, self.format);
        }
    }
}

fn did_not_take(why: &str) -> String {
    format!("istio-cni was asked to enrol it again, and that failed: {why}")
}
