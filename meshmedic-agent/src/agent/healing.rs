// SPDX-License-Identifier: Apache-2.0
//! The first rung: hands the healer what watch and mirror know, and carries out what it asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meshmedic_common::kube::acts::Acts;
use meshmedic_common::kube::heal::{Around, Heals};
use meshmedic_common::kube::leases;
use meshmedic_common::policy::{Gates, Rungs};
use meshmedic_common::repair::heal::{
    Answer, Below, Candidate, Healer, Healing, NodeView, Notice, Request, Sample, Serving, Support,
};
use meshmedic_common::repair::{LeaseKey, Moment, Planner, RequestId};
use meshmedic_common::time::Time;
use meshmedic_common::uid::PodUid;
use tokio::task::JoinSet;

use crate::cluster::{Mirror, elder};
use crate::watch::Watch;

/// A right that is missing is looked for again this often: whoever grants it should not have to restart the agent.
const LOOK_FOR_RIGHT: Duration = Duration::from_secs(60);

/// What came of something that ran beside the loop.
pub(super) enum Done {
    Answer(RequestId, Answer),
    /// Whether the API lets us ask in a namespace, if it says so.
    Right(String, Option<Result<(), String>>),
    /// Whether the other agents can hear of the heals here.
    Told(Result<(), String>),
    /// How many nodes lost their pods at once, as far as a few ztunnels of the fleet show it.
    Sampled(Option<Sample>),
}

/// The healer and what runs for it; without the rung `heal` neither.
pub(super) struct Heal {
    healer: Healer,
    /// Which rungs may be used.
    pub(super) rungs: Rungs,
    version: Option<String>,
    /// The UID of this agent's own pod, where it is known.
    own: Option<String>,
    heals: Heals,
    acts: Arc<Acts>,
    /// What is said of the cluster's breaker, while it is open.
    breaker: Option<String>,
    running: JoinSet<Done>,
    /// When the right to ask was last looked for in a namespace.
    rights: BTreeMap<String, Time>,
    /// Whether the rules of a pod might lead nowhere, as the node is.
    unproven: bool,
    /// Whether ztunnel is proved to serve; `None` before anybody looked.
    serves: Option<bool>,
}

impl Heal {
    pub(super) fn new(
        healing: Healing,
        rungs: Rungs,
        version: Option<String>,
        own: Option<String>,
        heals: Heals,
        acts: Arc<Acts>,
    ) -> Self {
        Self {
            healer: Healer::new(healing),
            rungs,
            version,
            own,
            heals,
            acts,
            breaker: None,
            running: JoinSet::new(),
            rights: BTreeMap::new(),
            unproven: true,
            serves: None,
        }
    }

    pub(super) fn healer(&self) -> &Healer {
        &self.healer
    }

    /// The next thing that is done; never, while nothing runs.
    pub(super) async fn next(&mut self) -> Done {
        match self.running.join_next().await {
            Some(Ok(done)) => done,
            // A request neither panics nor is cancelled; should it ever, going on would hide it.
            Some(Err(error)) => panic!("a request failed to run: {error}"),
            None => std::future::pending().await,
        }
    }

    /// Takes what was done.
    pub(super) fn take(&mut self, at: Moment, done: Done, watch: &Watch, mirror: &Mirror, planner: &Planner) {
        match done {
            Done::Answer(id, answer) => {
                let candidates = candidates(watch, mirror, planner);
                self.healer.answer(at, id, answer, &candidates);
            }
            Done::Right(namespace, Some(permitted)) => self.healer.permit(&namespace, permitted),
            Done::Right(_, None) => {}
            Done::Sampled(sample) => {
                self.healer.sampled(sample);
            }
            Done::Told(written) => {
                if let Err(error) = &written {
                    tracing::warn!(
                        error,
                        "what became of heals here could not be written for the other agents into the Lease {}; it is \
                         tried again. Where the right is missing, apply rights-heal.yaml",
                        leases::HEALS_LEASE
                    );
                }
                self.healer.told(at.now, written.is_ok());
            }
        }
    }

    /// Judges, and starts what is asked for. Gives the pods that are to be read.
    pub(super) fn judge(
        &mut self,
        at: Moment,
        gates: &Gates,
        watch: &mut Watch,
        mirror: &Mirror,
        planner: &Planner,
    ) -> Vec<PodUid> {
        if !self.rungs.heal {
            return Vec::new();
        }
        let lost: Vec<&PodUid> = watch.engine().lost().collect();
        if lost.is_empty() && !self.healer.is_busy() {
            // Nothing to judge; that it ended is told by the pods that are gone.
            let view = self.view(at, gates, watch, mirror, planner);
            self.healer.judge(at, &view, &BTreeMap::new());
            self.tell_others(at, planner);
            return Vec::new();
        }
        let standings = lost.iter().filter_map(|uid| mirror.standings().get(*uid));
        let namespaces: BTreeSet<String> = standings
            .map(|standing| standing.facts.namespace.clone())
            .collect();
        self.look_for_rights(at.now, namespaces);
        let view = self.view(at, gates, watch, mirror, planner);
        let candidates = candidates(watch, mirror, planner);
        self.healer.judge(at, &view, &candidates);
        drop(candidates);
        self.look_how_wide(at, mirror);
        for (id, request) in self.healer.requests(at) {
            self.start(id, request, mirror);
        }
        self.tell_others(at, planner);
        self.healer.looks()
    }

    fn view(
        &mut self,
        at: Moment,
        gates: &Gates,
        watch: &mut Watch,
        mirror: &Mirror,
        planner: &Planner,
    ) -> NodeView {
        let now = at.now;
        self.observe_breaker(at, mirror, planner);
        let serving = watch.serving(now);
        let gate = watch.engine().gate();
        let told = self.version.clone().or_else(|| mirror.cni_version());
        let view = NodeView {
            gates: Gates {
                node_fault: gate.hard_fault(),
                ..gates.clone()
            },
            ztunnel_since: gate.ztunnel_since(),
            cni_since: gate.cni_since(),
            serving,
            support: Support::of(told.as_deref()),
            containers: mirror.containers(),
            breaker: self.breaker.clone(),
            address: mirror.address(),
            watches_only: self.own.as_deref().is_some_and(|own| {
                let pods = mirror.standings().values().map(|standing| &standing.facts);
                elder(pods, own).is_some()
            }),
        };
        self.unproven = view.gates.node_fault.is_some()
            || view.gates.mesh_fault.is_some()
            || view.gates.paused.is_some()
            || serving == Serving::Unproven;
        self.serves = Some(self.healer.serves(now, serving));
        view
    }

    /// Looks whether heals failed in so many places that none is begun.
    fn observe_breaker(&mut self, at: Moment, mirror: &Mirror, planner: &Planner) {
        let lease = mirror.lease(leases::HEALS_LEASE);
        let record = lease.and_then(|lease| lease.record.as_ref());
        let allowance = planner.repairer().limits.allowance(&LeaseKey::Heals);
        let open = record.and_then(|record| record.holds_open(&allowance, at.server));
        match (&self.breaker, &open) {
            (None, Some(where_and_how_long)) => tracing::warn!(
                detail = where_and_how_long,
                "heals in place failed on several nodes: no more start here, asks under way go on"
            ),
            (Some(_), None) => tracing::info!("heals in place may start again"),
            _ => {}
        }
        self.breaker = open;
    }

    /// What is said of the cluster's breaker, while it is open.
    pub(super) fn breaker(&self) -> Option<&str> {
        self.breaker.as_deref()
    }

    /// Looks at a few of the fleet's ztunnels, where that is due.
    fn look_how_wide(&mut self, at: Moment, mirror: &Mirror) {
        let Some(namespace) = mirror.ztunnel_namespace() else {
            return;
        };
        if !self.healer.wants_sample(at.now) {
            return;
        }
        let (heals, namespace, identity) = (
            self.heals.clone(),
            namespace.to_owned(),
            mirror.identity().clone(),
        );
        self.running
            .spawn(async move { Done::Sampled(heals.sample(&namespace, &identity, at.server).await) });
    }

    /// How many nodes lost their pods at once, where that is known.
    pub(super) const fn width(&self) -> Option<u32> {
        self.healer.width()
    }

    /// How long an Event about a loss of most pods waits for those of other nodes; `None` while that is looked for.
    pub(super) fn event_after(&self) -> Option<Duration> {
        self.healer.event_after()
    }

    /// Writes down what agents of other nodes are to hear.
    fn tell_others(&mut self, at: Moment, planner: &Planner) {
        let Some(news) = self.healer.news(at.now) else {
            return;
        };
        let repairer = planner.repairer();
        let step = news.step(&repairer.node);
        let allowance = repairer.limits.allowance(&LeaseKey::Heals);
        let acts = Arc::clone(&self.acts);
        self.running
            .spawn(async move { Done::Told(acts.note(&LeaseKey::Heals, step, &allowance).await) });
    }

    /// Whether ztunnel is proved to serve, where that was looked for.
    pub(super) const fn serves(&self) -> Option<bool> {
        self.serves
    }

    /// Whether a pod that was taken out of the mesh may be put back: not while its rules would lead nowhere.
    pub(super) fn may_restore(&self) -> bool {
        !self.rungs.heal || !self.unproven
    }

    /// Asks for the right to heal in these namespaces: once, and where it is missing again and again.
    fn look_for_rights(&mut self, now: Time, namespaces: BTreeSet<String>) {
        if !self.healer.may_act() {
            return;
        }
        let missing: BTreeSet<&str> = self
            .healer
            .not_permitted()
            .map(|(namespace, _)| namespace)
            .collect();
        let wanted = |namespace: &String| match self.rights.get(namespace) {
            Some(at) => missing.contains(namespace.as_str()) && now.since(*at) >= LOOK_FOR_RIGHT,
            None => true,
        };
        let wanted: Vec<String> = namespaces.into_iter().filter(wanted).collect();
        for namespace in wanted {
            self.rights.insert(namespace.clone(), now);
            let heals = self.heals.clone();
            self.running.spawn(async move {
                let permitted = heals.permitted(&namespace).await;
                Done::Right(namespace, permitted)
            });
        }
    }

    fn start(&mut self, id: RequestId, request: Request, mirror: &Mirror) {
        let (Request::Fetch(pod) | Request::Ask { pod, .. } | Request::TakeOut(pod) | Request::PutBack(pod)) =
            &request;
        let around = Around {
            enablement: mirror.enablement().clone(),
            cnis: mirror.cnis().map(|cni| cni.namespace).collect(),
            namespace: mirror.namespace(&pod.namespace).cloned(),
        };
        let heals = self.heals.clone();
        self.running
            .spawn(async move { Done::Answer(id, heals.perform(request, &around).await) });
    }

    /// The pods with which the rungs below must wait.
    pub(super) fn kept(&self, watch: &Watch) -> BTreeSet<PodUid> {
        if !self.rungs.heal {
            return BTreeSet::new();
        }
        let lost = watch.engine().views().filter(|(_, view)| view.state.is_finding());
        let kept = lost.filter(|(uid, _)| matches!(self.healer.below(uid), Below::Waits(_)));
        kept.map(|(uid, _)| uid.clone()).collect()
    }

    pub(super) fn drain(&mut self) -> Vec<Notice> {
        self.healer.drain()
    }

    pub(super) fn next_wake(&self, now: Time) -> Option<Time> {
        self.healer.next_wake(now).filter(|_| self.rungs.heal)
    }

    pub(super) fn stop(&mut self) {
        self.healer.stop();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.healer.is_idle()
    }
}

/// All pods of this node, since the share of an owner is counted by those that are well, too.
fn candidates<'a>(watch: &Watch, mirror: &'a Mirror, planner: &Planner) -> BTreeMap<PodUid, Candidate<'a>> {
    let taken: BTreeSet<&PodUid> = planner.under_way().map(|(pod, _)| &pod.cgroup_uid).collect();
    let candidate = |(uid, standing)| {
        let uid: &PodUid = uid;
        let view = watch.engine().view(uid)?;
        let candidate = Candidate {
            standing,
            state: view.state,
            streak: view.streak,
            proved_at: view.proved_at,
            captured_at: Some(view.captured_at).filter(|at| *at != Time::default()),
            place: watch.place(uid),
            leads: view.leads,
            ports: view.ports,
            taken: taken.contains(uid),
        };
        Some((uid.clone(), candidate))
    };
    mirror.standings().iter().filter_map(candidate).collect()
}
