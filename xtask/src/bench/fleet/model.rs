// SPDX-License-Identifier: Apache-2.0
//! A zone lost power, and some of its pods came back as orphans: every request that the agents make of it.
//!
//! Nothing fails here: what is counted is the load, and how long the budgets take.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use meshmedic_common::policy::{Gates, Withheld};
use meshmedic_common::repair::ledger::Record;
use meshmedic_common::repair::{
    Acted, Answer, Check, LeaseKey, Outcome, Owner, PodRef, Presence, RepairNotice, Request, RequestId,
    update,
};
use meshmedic_common::verdict::State;

use super::PODS_EACH;
use super::node::{Node, moment, owner_uid, split_mix, uid};

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
/// Each way between an agent and the API server.
const LATENCY: (u64, u64) = (10, 40);
/// From a write until a watch tells of it.
const NEWS: u64 = 50;
/// A reading of one pod.
const READING: u64 = 5;
/// From the eviction until the successor is captured and Ready: the grace, then the start.
const SUCCESSOR: (u64, u64) = (10 * SECOND, 30 * SECOND);
/// Pods of one owner.
const REPLICAS: usize = 10;
/// Nobody waits longer.
const PATIENCE: u64 = 400 * HOUR;

/// Objects as they go over the wire, in bytes: what is around the record, and others' sizes.
const LEASE: usize = 900;
const EVENT: f64 = 1_100.0;
const SMALL: f64 = 600.0;
/// What is fetched before an act: ten requests, none of them for more than the pods of one node or owner.
const CHECK_REQUESTS: f64 = 10.0;
const CHECK: f64 = 40_000.0;

/// What the API server had to do.
#[derive(Clone, Copy, Default)]
pub(super) struct Load {
    pub(super) requests: f64,
    pub(super) lease_writes: f64,
    pub(super) events: f64,
    pub(super) watch_events: f64,
    pub(super) bytes: f64,
}

/// One of the quantities, by name.
type Quantity = (&'static str, fn(&Load) -> f64);

impl Load {
    pub(super) const QUANTITIES: [Quantity; 5] = [
        ("requests", |load| load.requests),
        ("writes to Leases", |load| load.lease_writes),
        ("Events", |load| load.events),
        ("events on watches", |load| load.watch_events),
        ("bytes", |load| load.bytes),
    ];
}

/// How it went.
pub(super) struct Outage {
    pub(super) orphans: usize,
    pub(super) healed: usize,
    pub(super) hours: f64,
    pub(super) most_at_once: usize,
    /// By the number of requests.
    pub(super) busiest_hour: Load,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Wake(usize),
    Arrive(usize, RequestId),
    Answer(usize, RequestId),
    Read(usize, usize),
    Heard(usize, String),
    Successor(usize, usize),
}

struct Fleet {
    now: u64,
    random: u64,
    numbers: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    nodes: Vec<Node>,
    requests: BTreeMap<(usize, RequestId), Request>,
    answers: BTreeMap<(usize, RequestId), Answer>,
    leases: BTreeMap<LeaseKey, Record>,
    /// Nodes with pods of an owner that matter, by its UID.
    concerned: BTreeMap<String, BTreeSet<usize>>,
    /// Where each pod is, and whose it is, by its number.
    pods: Vec<(usize, usize)>,
    gone: BTreeSet<usize>,
    /// A budget refuses every eviction.
    blocked: bool,
    /// Whether the agents follow the Leases of nodes as well, as they once did.
    nodes_watched: bool,
    hours: Vec<Load>,
    under_way: usize,
    most_at_once: usize,
    healed: usize,
    healed_at: u64,
}

/// Lets the agents heal a zone of so many of the nodes, of whose pods so many in a hundred are orphans.
pub(super) fn outage(nodes: usize, zone: usize, percent: usize) -> Outage {
    let mut fleet = Fleet::new(nodes);
    let orphans = fleet.lose(zone, percent);
    fleet.run(orphans, PATIENCE);
    let busiest = fleet
        .hours
        .iter()
        .max_by(|a, b| a.requests.total_cmp(&b.requests));
    Outage {
        orphans,
        healed: fleet.healed,
        hours: fleet.healed_at as f64 / HOUR as f64,
        most_at_once: fleet.most_at_once,
        busiest_hour: busiest.copied().unwrap_or_default(),
    }
}

/// So many in a hundred of all pods are orphans, and a budget refuses every eviction: what is asked in an hour, once
/// every agent has found that out.
pub(super) fn exhausted(nodes: usize, percent: usize) -> Load {
    Fleet::exhausted(nodes, percent, false)
}

impl Fleet {
    fn new(nodes: usize) -> Self {
        Self {
            now: 0,
            random: 1,
            numbers: 0,
            queue: BinaryHeap::new(),
            nodes: (0..nodes).map(Node::new).collect(),
            requests: BTreeMap::new(),
            answers: BTreeMap::new(),
            leases: BTreeMap::new(),
            concerned: BTreeMap::new(),
            pods: Vec::new(),
            gone: BTreeSet::new(),
            blocked: false,
            nodes_watched: false,
            hours: Vec::new(),
            under_way: 0,
            most_at_once: 0,
            healed: 0,
            healed_at: 0,
        }
    }

    fn exhausted(nodes: usize, percent: usize, nodes_watched: bool) -> Load {
        let mut fleet = Self::new(nodes);
        (fleet.blocked, fleet.nodes_watched) = (true, nodes_watched);
        let orphans = fleet.lose(nodes, percent);
        // In the first hour each is told for the first time.
        fleet.run(orphans, 2 * HOUR - SECOND);
        fleet.hours.get(1).copied().unwrap_or_default()
    }

    /// So many in a hundred of the pods of this many nodes fall out.
    fn lose(&mut self, zone: usize, percent: usize) -> usize {
        let owners = (self.nodes.len() * PODS_EACH / REPLICAS).max(1);
        let orphans = zone * PODS_EACH * percent / 100;
        for number in 0..orphans {
            let owner = self.index(owners);
            let node = number % zone.max(1);
            self.appear(node, owner, State::Orphan);
            self.count(|load| {
                load.events += 1.0;
                load.requests += 1.0;
                load.bytes += EVENT;
            });
        }
        for node in 0..zone {
            let wait = self.between((0, 30 * SECOND));
            self.after(wait, Happening::Wake(node));
        }
        orphans
    }

    fn run(&mut self, orphans: usize, until: u64) {
        while self.healed < orphans
            && let Some(Reverse((at, _, happening))) = self.queue.pop()
        {
            if at > until {
                return;
            }
            self.now = at;
            match happening {
                Happening::Wake(node) => {
                    if self.nodes[node].wake.is_none_or(|wake| wake <= at) {
                        self.step(node);
                    }
                }
                Happening::Arrive(node, id) => self.arrive(node, id),
                Happening::Answer(node, id) => {
                    if let Some(answer) = self.answers.remove(&(node, id)) {
                        self.nodes[node].planner.answer(moment(at), id, answer);
                        self.step(node);
                    }
                }
                Happening::Read(node, pod) => {
                    if let Some(uid) = uid(pod) {
                        self.nodes[node].read(at, &uid);
                        self.step(node);
                    }
                }
                Happening::Heard(node, owner) => {
                    let record = self.leases.get(&LeaseKey::Owner(owner.clone())).cloned();
                    self.nodes[node].planner.owner_seen(moment(at), &owner, record);
                    self.step(node);
                }
                Happening::Successor(node, owner) => {
                    self.appear(node, owner, State::Captured);
                    self.after(NEWS, Happening::Heard(node, owner_uid(owner)));
                }
            }
        }
    }

    fn appear(&mut self, node: usize, owner: usize, state: State) {
        let number = self.pods.len();
        self.pods.push((node, owner));
        self.nodes[node].add(self.now, number, owner, state);
        self.concerned.entry(owner_uid(owner)).or_default().insert(node);
    }

    /// One turn of an agent's loop.
    fn step(&mut self, node: usize) {
        let at = moment(self.now);
        let looks = self.nodes[node].judge(self.now);
        for pod in looks.iter().filter_map(|uid| number(uid.as_str())) {
            self.after(READING, Happening::Read(node, pod));
        }
        for (id, request) in self.nodes[node].planner.requests(at) {
            self.requests.insert((node, id), request);
            let latency = self.between(LATENCY);
            self.after(latency, Happening::Arrive(node, id));
        }
        for notice in self.nodes[node].planner.drain() {
            self.notice(&notice);
        }
        let next = self.nodes[node].planner.next_wake(at);
        let wait = next.map(|next| {
            u64::try_from(next.since(at.now).as_millis())
                .unwrap_or(HOUR)
                .max(1)
        });
        let wake = wait.map(|wait| self.now + wait);
        let planned = self.nodes[node].wake.filter(|wake| *wake > self.now);
        if let Some(wake) = wake.filter(|wake| planned.is_none_or(|planned| *wake < planned)) {
            self.nodes[node].wake = Some(wake);
            self.after(wake - self.now, Happening::Wake(node));
        }
    }

    /// Each of them is written as an Event.
    fn notice(&mut self, notice: &RepairNotice) {
        self.count(|load| {
            load.events += 1.0;
            load.requests += 1.0;
            load.bytes += EVENT;
        });
        match notice {
            RepairNotice::Started { .. } => {
                self.under_way += 1;
                self.most_at_once = self.most_at_once.max(self.under_way);
            }
            RepairNotice::Ended { outcome, .. } => {
                self.under_way = self.under_way.saturating_sub(1);
                if matches!(outcome, Outcome::Succeeded(_)) {
                    self.healed += 1;
                    self.healed_at = self.now;
                }
            }
            RepairNotice::Withheld { .. } | RepairNotice::Would { .. } => {}
        }
    }

    fn arrive(&mut self, node: usize, id: RequestId) {
        let Some(request) = self.requests.remove(&(node, id)) else {
            return;
        };
        let answer = match request {
            Request::Update {
                lease,
                change,
                allowance,
            } => {
                let record = self.leases.entry(lease.clone()).or_default();
                let (changed, answer) = update(record, &change, &allowance, moment(self.now).server);
                let record = record.clone();
                self.fetched(&record);
                if changed {
                    self.written(&lease, &record);
                }
                Answer::Updated(answer)
            }
            Request::Check(pod) => {
                self.count(|load| {
                    load.requests += CHECK_REQUESTS;
                    load.bytes += CHECK;
                });
                let standing = self.nodes[node].standing(&pod.cgroup_uid);
                Answer::Checked(Ok(standing.map(|standing| {
                    Box::new(Check {
                        standing,
                        gates: Gates::default(),
                        owner: Owner::default(),
                    })
                })))
            }
            Request::Rehearse { .. } => {
                self.small();
                Answer::Acted(self.refusal().unwrap_or(Acted::Accepted))
            }
            Request::Act { pod, .. } => {
                self.small();
                let refused = self.refusal();
                if refused.is_none() {
                    self.evict(node, &pod);
                }
                Answer::Acted(refused.unwrap_or(Acted::Accepted))
            }
            Request::Find(pod) => {
                self.small();
                let gone = number(&pod.uid).is_none_or(|number| self.gone.contains(&number));
                Answer::Found(Ok(if gone { Presence::Leaving } else { Presence::There }))
            }
            Request::Survey { .. } => {
                self.count(|load| {
                    load.requests += 2.0;
                    load.bytes += CHECK;
                });
                Answer::Surveyed(Ok(Some(Owner::default())))
            }
        };
        self.answers.insert((node, id), answer);
        let latency = self.between(LATENCY);
        self.after(latency, Happening::Answer(node, id));
    }

    fn small(&mut self) {
        self.count(|load| {
            load.requests += 1.0;
            load.bytes += SMALL;
        });
    }

    fn refusal(&self) -> Option<Acted> {
        let why = Withheld::DisruptionBudget;
        self.blocked.then(|| Acted::Refused(why, "429".to_owned()))
    }

    fn evict(&mut self, node: usize, pod: &PodRef) {
        let Some(number) = number(&pod.uid) else { return };
        let Some((_, owner)) = self.pods.get(number).copied() else {
            return;
        };
        self.gone.insert(number);
        self.nodes[node].remove(&pod.cgroup_uid);
        let target = self.index(self.nodes.len());
        let wait = self.between(SUCCESSOR);
        self.after(wait, Happening::Successor(target, owner));
    }

    fn fetched(&mut self, record: &Record) {
        let bytes = size(record);
        self.count(|load| {
            load.requests += 1.0;
            load.bytes += bytes;
        });
    }

    /// The Leases of owners are watched by every agent that may repair.
    fn written(&mut self, lease: &LeaseKey, record: &Record) {
        let watched = match lease {
            LeaseKey::Owner(_) => true,
            LeaseKey::Node(_) => self.nodes_watched,
            LeaseKey::Slot(_) | LeaseKey::Cluster | LeaseKey::Heals => false,
        };
        let agents = if watched { self.nodes.len() as f64 } else { 0.0 };
        let bytes = size(record);
        self.count(|load| {
            load.requests += 1.0;
            load.lease_writes += 1.0;
            load.watch_events += agents;
            load.bytes += bytes * (1.0 + agents);
        });
        // It makes a difference to those alone who have pods of this owner.
        if let LeaseKey::Owner(owner) = lease {
            for node in self.concerned.get(owner).cloned().unwrap_or_default() {
                self.after(NEWS, Happening::Heard(node, owner.clone()));
            }
        }
    }

    fn count(&mut self, add: impl FnOnce(&mut Load)) {
        let hour = usize::try_from(self.now / HOUR).unwrap_or_default();
        if self.hours.len() <= hour {
            self.hours.resize(hour + 1, Load::default());
        }
        if let Some(load) = self.hours.get_mut(hour) {
            add(load);
        }
    }

    fn after(&mut self, wait: u64, happening: Happening) {
        self.numbers += 1;
        self.queue
            .push(Reverse((self.now + wait, self.numbers, happening)));
    }

    fn random(&mut self) -> u64 {
        split_mix(&mut self.random)
    }

    fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        least + self.random() % (most - least + 1)
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.random() % len as u64).unwrap_or_default()
    }
}

fn number(uid: &str) -> Option<usize> {
    usize::from_str_radix(uid.get(..8)?, 16).ok()
}

/// The bytes of a Lease with this record.
fn size(record: &Record) -> f64 {
    (LEASE + serde_json::to_vec(record).map_or(0, |text| text.len())) as f64
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use meshmedic_common::repair::sabotage::{Defence, OUT};

    use super::*;

    #[test]
    fn with_every_budget_exhausted_a_fleet_asks_little_and_writes_nothing() {
        let nodes = 300;
        let now = exhausted(nodes, 10);
        OUT.set(Some(Defence::Rehearsal));
        let claimed_first = Fleet::exhausted(nodes, 10, true);
        OUT.set(None);
        let shown = |load: &Load| {
            let (requests, writes, events) = (load.requests, load.lease_writes, load.watch_events);
            format!("{requests} requests, {writes} writes, {events} watch events an hour")
        };
        // Shown by `--nocapture`, and with every failure.
        let mut seen = std::io::stderr();
        writeln!(
            seen,
            "{nodes} nodes: {}; before: {}",
            shown(&now),
            shown(&claimed_first)
        )
        .ok();
        assert!(now.requests > 0.0);
        assert_eq!((now.lease_writes, now.watch_events), (0.0, 0.0));
        let twentieth = claimed_first.requests / 20.0;
        assert!(
            now.requests <= twentieth,
            "{} and {}",
            shown(&now),
            shown(&claimed_first)
        );
    }
}
