// SPDX-License-Identifier: Apache-2.0
//! The cluster itself: nodes, pods and those who recreate them.

use std::sync::Arc;

use jiff::Timestamp;
use meshmedic_common::eligibility::Expectation;
use meshmedic_common::facts::{Controller, Enrolment, PodFacts};
use meshmedic_common::policy::Standing;
use meshmedic_common::repair::Moment;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::Reason;

use super::trace::{PodId, Recreated, Shows, Truth, What};
use super::{EPOCH, HOUR, Happening, MINUTE, SECOND, START, Sim, span};
use meshmedic_common::time::Time;

pub(super) struct Pod {
    pub(super) uid: PodUid,
    pub(super) standing: Arc<Standing>,
    pub(super) node: usize,
    pub(super) owner: usize,
    pub(super) listens: Shows,
    /// Grows with each change in the API.
    pub(super) version: u32,
    pub(super) gone: bool,
}

#[derive(Clone)]
pub(super) struct Owner {
    pub(super) kind: &'static str,
    pub(super) namespace: usize,
    /// How many pods it wants.
    pub(super) wanted: usize,
    /// Its pods are Ready whether they are enrolled or not.
    pub(super) eager: bool,
    /// A PodDisruptionBudget refuses every eviction.
    pub(super) blocked: bool,
    /// What comes after is never captured.
    pub(super) broken: bool,
    /// What comes after waits for istio-cni for ever.
    pub(super) waiting: bool,
    /// Nothing comes after for now.
    pub(super) absent: bool,
    /// How long its pods may take to end, in milliseconds.
    pub(super) grace: u64,
}

pub(super) struct Node {
    /// What the API has on it.
    pub(super) pods: Vec<PodId>,
    /// ztunnel's process, if it runs.
    pub(super) ztunnel: Option<u32>,
    pub(super) ztunnel_since: Time,
    pub(super) cni_ready: bool,
    /// istio-cni says that it enrols pods, and does not.
    pub(super) cni_broken: bool,
    pub(super) cordoned: bool,
    /// Readings fail.
    pub(super) unreadable: bool,
}

#[derive(Default)]
pub(super) struct World {
    pub(super) pods: Vec<Pod>,
    pub(super) owners: Vec<Owner>,
    pub(super) nodes: Vec<Node>,
    /// What each namespace's annotation says of repairs.
    pub(super) namespaces: [Option<String>; 3],
    pub(super) no_istiod: bool,
    pub(super) paused: bool,
    /// istio-cni's settings cannot be read.
    pub(super) guessing: bool,
    pub(super) processes: u32,
}

/// The UID of a pod's controller.
pub(super) fn owner_uid(owner: usize) -> String {
    format!("owner-{owner}")
}

/// What tells names apart.
fn ordinal(name: &str) -> u32 {
    name.trim_start_matches('p').parse().unwrap_or_default()
}

/// Which owner has this UID.
pub(super) fn owner_of(uid: &str) -> Option<usize> {
    uid.strip_prefix("owner-")?.parse().ok()
}

/// Which pod has this UID.
pub(super) fn pod_of(uid: &str) -> Option<PodId> {
    PodId::from_str_radix(uid.get(..8)?, 16).ok()
}

impl Sim {
    pub(super) fn build(&mut self) {
        let nodes = self.plan.nodes.clone();
        for (node, _) in nodes.iter().enumerate() {
            self.world.nodes.push(Node {
                pods: Vec::new(),
                ztunnel: Some(1),
                ztunnel_since: START,
                cni_ready: true,
                cni_broken: false,
                cordoned: false,
                unreadable: false,
            });
            self.tell(What::Ztunnel(node, true));
            self.tell(What::Cni(node, true));
        }
        let owners = nodes.iter().sum::<usize>() * 2 / 5 + 8;
        for owner in 0..owners {
            // Those that nothing recreates come first, one of each.
            const ODD: [&str; 5] = ["", "Node", "Job", "Rollout", "Node"];
            const USUAL: [&str; 5] = [
                "ReplicaSet",
                "ReplicaSet",
                "DaemonSet",
                "StatefulSet",
                "ReplicationController",
            ];
            let kind = ODD
                .get(owner)
                .copied()
                .unwrap_or_else(|| *self.rng.pick::<&str>(&USUAL));
            let namespace = self.rng.index(self.world.namespaces.len());
            let eager = self.rng.chance(500);
            let owner = self.found(kind, namespace, eager);
            if self.rng.chance(150) {
                self.world.owners[owner].grace = self.rng.between(MINUTE, 14 * MINUTE);
            }
        }
        let mut next = 0;
        for (node, pods) in nodes.into_iter().enumerate() {
            for _ in 0..pods {
                let owner = if next < owners {
                    next
                } else {
                    5 + self.rng.index(owners - 5)
                };
                next += 1;
                self.settled(owner, node);
            }
            self.after(span_of_start(node), Happening::Start(node));
        }
    }

    /// An owner that has no pods yet.
    pub(super) fn found(&mut self, kind: &'static str, namespace: usize, eager: bool) -> usize {
        self.world.owners.push(Owner {
            kind,
            namespace,
            wanted: 0,
            eager,
            blocked: false,
            broken: false,
            waiting: false,
            absent: false,
            grace: 30 * SECOND,
        });
        self.world.owners.len() - 1
    }

    /// One more pod of an owner, long there and well.
    pub(super) fn settled(&mut self, owner: usize, node: usize) -> PodId {
        self.want(owner, 1);
        let pod = self.add(owner, node, None);
        self.edit(pod, |standing| {
            standing.facts.enrolment = Enrolment::Enabled;
            standing.expectation = Expectation::Expected;
            standing.facts.ready = true;
            standing.facts.started = true;
        });
        self.listen(pod, Shows::All);
        pod
    }

    /// An owner wants so many more pods, or fewer.
    pub(super) fn want(&mut self, owner: usize, more: isize) {
        let wanted = &mut self.world.owners[owner].wanted;
        *wanted = wanted.saturating_add_signed(more);
        let wanted = *wanted;
        self.tell(What::Wants(owner, wanted));
    }

    /// A pod that is there from now on, and not enrolled yet.
    fn add(&mut self, owner: usize, node: usize, name: Option<String>) -> PodId {
        let id = PodId::try_from(self.world.pods.len()).unwrap_or_default();
        let uid = PodUid::parse(&format!("{id:08x}-0000-4000-8000-000000000000"));
        let Some(uid) = uid else { return 0 };
        let Owner {
            kind,
            namespace,
            grace,
            ..
        } = self.world.owners[owner];
        let controller = (!kind.is_empty()).then(|| Controller {
            kind: kind.to_owned(),
            name: format!("o{owner}"),
            uid: owner_uid(owner),
        });
        let now = self.server();
        let facts = PodFacts {
            namespace: format!("ns{namespace}"),
            name: name.unwrap_or_else(|| format!("p{id}")),
            uid: uid.to_string(),
            node: Some(format!("n{node}")),
            controller,
            mirror: kind == "Node",
            enrolment: Enrolment::Pending,
            created: Some(now),
            grace: span(grace),
            ready_since: Some(now),
            ..PodFacts::default()
        };
        self.world.pods.push(Pod {
            uid,
            standing: Arc::new(Standing {
                facts,
                expectation: Expectation::Pending,
                certain: !self.world.guessing,
                namespace_repair: self.world.namespaces[namespace].clone(),
                namespace_strategy: None,
            }),
            node,
            owner,
            listens: Shows::None,
            version: 0,
            gone: false,
        });
        self.world.nodes[node].pods.push(id);
        self.tell(What::Listens(id, Shows::None));
        self.edit(id, |_| {});
        id
    }

    /// Changes what the API says of a pod.
    pub(super) fn edit(&mut self, id: PodId, change: impl FnOnce(&mut Standing)) {
        let pod = &mut self.world.pods[id as usize];
        change(Arc::make_mut(&mut pod.standing));
        pod.version += 1;
        let node = pod.node;
        let truth = self.truth(id);
        self.tell(What::Pod(id, truth));
        self.outdate(node);
    }

    fn truth(&self, id: PodId) -> Truth {
        let pod = &self.world.pods[id as usize];
        let owner = &self.world.owners[pod.owner];
        let said = [&pod.standing.facts.repair, &pod.standing.namespace_repair];
        let says = |what: &dyn Fn(&str) -> bool| said.iter().any(|said| said.as_deref().is_some_and(what));
        let facts = &pod.standing.facts;
        Truth {
            node: pod.node,
            owner: (!owner.kind.is_empty()).then_some(pod.owner),
            namespace: owner.namespace,
            grace: owner.grace,
            started: facts.started,
            stays: owner.kind == "DaemonSet",
            name: (owner.kind == "StatefulSet").then(|| ordinal(&facts.name)),
            recreated: match owner.kind {
                "Job" => Recreated::Job,
                "" | "Node" | "Rollout" => Recreated::No,
                _ => Recreated::Yes,
            },
            expected: pod.standing.expectation == Expectation::Expected && !self.world.guessing,
            deleting: facts.deleting,
            ready: facts.ready,
            ready_since: facts.ready_since.map_or(0, |since| since.as_millisecond()),
            opted_out: says(&|text| text == "disabled"),
            garbled: says(&|text| text != "disabled" && text != "enabled"),
            toggling: facts.toggle_restore.is_some(),
        }
    }

    /// Changes what a pod's netns holds; most of the time the kernel tells the agent.
    pub(super) fn listen(&mut self, id: PodId, shows: Shows) {
        let pod = &mut self.world.pods[id as usize];
        if pod.gone || pod.listens == shows {
            return;
        }
        pod.listens = shows;
        let node = pod.node;
        self.tell(What::Listens(id, shows));
        if self.rng.chance(850) {
            let life = self.agents[node].life;
            let delay = self.rng.between(1, 50);
            self.after(delay, Happening::Hint(node, life, id));
        }
    }

    pub(super) fn become_ready(&mut self, id: PodId, ready: bool) {
        let pod = &self.world.pods[id as usize];
        if pod.gone || pod.standing.facts.ready == ready {
            return;
        }
        let now = self.server();
        self.edit(id, |standing| {
            standing.facts.ready = ready;
            standing.facts.started |= ready;
            standing.facts.ready_since = Some(now);
        });
    }

    /// An owner is scaled up while one of its pods is repaired, and what it makes is no successor.
    pub(super) fn scale_up(&mut self, id: PodId) {
        let Pod { owner, node, .. } = self.world.pods[id as usize];
        let there = |id: &PodId| self.world.pods[*id as usize].owner == owner;
        let many = self
            .world
            .nodes
            .iter()
            .flat_map(|node| &node.pods)
            .filter(|id| there(id))
            .count()
            > 8;
        if self.calm || many || !matches!(self.world.owners[owner].kind, "ReplicaSet" | "StatefulSet") {
            return;
        }
        let node = (node + self.rng.index(self.world.nodes.len())) % self.world.nodes.len();
        self.want(owner, 1);
        if self.world.owners[owner].absent || self.rng.chance(500) {
            return self.create(owner, node, None);
        }
        // Some are there at once.
        let pod = self.add(owner, node, None);
        self.enrol(pod);
        self.become_ready(pod, true);
    }

    /// An owner is scaled down while one of its pods is repaired: that one needs no successor.
    pub(super) fn scale_down(&mut self, id: PodId) {
        let Pod { owner, .. } = self.world.pods[id as usize];
        if !self.calm && self.world.owners[owner].wanted > 1 {
            self.want(owner, -1);
        }
    }

    /// The API accepted to end a pod.
    pub(super) fn evict(&mut self, id: PodId) {
        if self.world.pods[id as usize].standing.facts.deleting {
            return;
        }
        self.edit(id, |standing| {
            standing.facts.deleting = true;
            standing.expectation = Expectation::Exempt(Reason::Deleting);
        });
        // Whoever has long takes long.
        let longest = self.world.owners[self.world.pods[id as usize].owner].grace;
        let grace = match longest.saturating_sub(MINUTE) {
            0 => self.rng.between(SECOND, 20 * SECOND),
            long => self.rng.between(long, longest),
        };
        self.after(grace, Happening::Vanish(id));
    }

    pub(super) fn vanish(&mut self, id: PodId) {
        let pod = &mut self.world.pods[id as usize];
        pod.gone = true;
        let (node, owner) = (pod.node, pod.owner);
        let name = pod.standing.facts.name.clone();
        self.world.nodes[node].pods.retain(|other| *other != id);
        self.tell(What::Gone(id));
        self.outdate(node);
        let kind = self.world.owners[owner].kind;
        let name = (kind == "StatefulSet").then_some(name);
        let target = match kind {
            "DaemonSet" | "StatefulSet" => node,
            _ if self.rng.chance(400) => node,
            _ => self.rng.index(self.world.nodes.len()),
        };
        let delay = self.rng.between(200, 8 * SECOND);
        self.after(delay, Happening::Create(owner, target, name));
    }

    pub(super) fn create(&mut self, owner: usize, node: usize, name: Option<String>) {
        let there = self.world.pods.iter().filter(|pod| {
            let facts = &pod.standing.facts;
            pod.owner == owner && !pod.gone && !facts.deleting
        });
        if there.count() >= self.world.owners[owner].wanted {
            return;
        }
        if self.world.owners[owner].absent {
            return self.after(60 * SECOND, Happening::Create(owner, node, name));
        }
        let pod = self.add(owner, node, name);
        let delay = self.rng.between(SECOND, 4 * SECOND);
        self.after(delay, Happening::Enrol(pod));
        if self.world.owners[owner].eager {
            let delay = self.rng.between(SECOND, 6 * SECOND);
            self.after(delay, Happening::Ready(pod));
        }
    }

    pub(super) fn enrol(&mut self, id: PodId) {
        let pod = &self.world.pods[id as usize];
        if pod.gone || pod.standing.facts.deleting || pod.standing.facts.enrolment == Enrolment::Enabled {
            return;
        }
        let (node, owner) = (&self.world.nodes[pod.node], &self.world.owners[pod.owner]);
        let works = node.ztunnel.is_some() && node.cni_ready && !owner.waiting && !self.world.no_istiod;
        if !works {
            return self.after(20 * SECOND, Happening::Enrol(id));
        }
        let captured = !node.cni_broken && !owner.broken;
        if captured {
            self.listen(id, Shows::All);
        }
        self.edit(id, |standing| {
            standing.facts.enrolment = Enrolment::Enabled;
            standing.expectation = Expectation::Expected;
        });
        self.after(SECOND, Happening::Ready(id));
    }

    /// ztunnel ends, and with it what it held.
    pub(super) fn ztunnel_down(&mut self, node: usize) {
        if self.world.nodes[node].ztunnel.take().is_none() {
            return;
        }
        self.tell(What::Ztunnel(node, false));
        for pod in self.world.nodes[node].pods.clone() {
            if matches!(self.world.pods[pod as usize].listens, Shows::All | Shows::Some) {
                self.listen(pod, Shows::None);
            }
        }
        self.outdate(node);
    }

    /// ztunnel is back, as a new process, and takes up its pods again: most of them.
    pub(super) fn ztunnel_up(&mut self, node: usize) {
        if self.world.nodes[node].ztunnel.is_some() {
            return;
        }
        self.world.processes += 1;
        self.world.nodes[node].ztunnel = Some(1 + self.world.processes);
        self.world.nodes[node].ztunnel_since = self.now;
        self.tell(What::Ztunnel(node, true));
        self.outdate(node);
        // The fault that all this is about: some, sometimes all, are forgotten.
        let forgotten = *self.rng.pick(&[0, 0, 0, 100, 300, 1000]);
        for pod in self.world.nodes[node].pods.clone() {
            let facts = &self.world.pods[pod as usize].standing.facts;
            if facts.enrolment == Enrolment::Enabled && (self.calm || !self.rng.chance(forgotten)) {
                let delay = self.rng.between(500, 5 * SECOND);
                self.after(delay, Happening::Listen(pod, Shows::None, Shows::All));
            }
        }
    }

    /// The pods that are out of the mesh though they may be repaired.
    pub(super) fn healable(&self) -> Vec<PodId> {
        let may = |id: &PodId| {
            let pod = &self.world.pods[*id as usize];
            let truth = self.truth(*id);
            let recreated = match truth.recreated {
                Recreated::Yes => true,
                Recreated::Job => self.plan.rules.jobs,
                Recreated::No => false,
            };
            pod.listens == Shows::None && truth.expected && recreated && !truth.deleting
        };
        if !self.plan.rules.ready {
            return Vec::new();
        }
        let pods = self.world.nodes.iter().flat_map(|node| &node.pods);
        pods.copied().filter(may).collect()
    }

    pub(super) fn any_pod(&mut self, node: usize) -> Option<PodId> {
        let pods = &self.world.nodes[node].pods;
        (!pods.is_empty()).then(|| pods[self.rng.index(pods.len())])
    }
}

/// The agents do not all begin at once.
const fn span_of_start(node: usize) -> u64 {
    (node as u64 + 1) * SECOND
}

/// How often an agent reads all its pods though nothing told it to.
pub(super) const SWEEP: u64 = HOUR / 2;

/// Whether two instants lie no further apart than this.
pub(super) fn within(milliseconds: u64, later: Time, earlier: Time) -> bool {
    later.since(earlier) <= span(milliseconds)
}

/// An instant, for somebody who last heard of the server's clock when it was this far ahead.
pub(super) fn moment(now: Time, offset: i64) -> Moment {
    let passed = i64::try_from(now.since(START).as_millis()).unwrap_or(i64::MAX);
    let server = Timestamp::from_millisecond(EPOCH + passed + offset);
    Moment {
        now,
        server: server.unwrap_or_default(),
    }
}
