// SPDX-License-Identifier: Apache-2.0
//! Every node of a fleet lost power, and all its pods came back as orphans: what healing them in place asks of the API.
//!
//! The healer of every node is the real one, and so are the record that the agents share and the rule that says of how many
//! pods Events tell. Nobody fails but istio-cni, and that only where it is said.

mod pod;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use meshmedic_common::facts::Enrolment;
use meshmedic_common::few::{About, Few};
use meshmedic_common::policy::{GRACE_PERIOD, Permissions};
use meshmedic_common::repair::heal::{
    Answer, Asked, Below, Care, Fetched, Healer, Healing, NodeView, Notice, Request, SAMPLE, Sample, Serving,
    Streak, Support,
};
use meshmedic_common::repair::ledger::{Change, Record};
use meshmedic_common::repair::{LeaseKey, Limits, PodRef, RequestId, update};
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Redirection, State, is_mass_loss};

use super::node::{moment, split_mix, uid};
use pod::{Pod, candidates, orphan, place};

const SECOND: u64 = 1_000;
/// Orphans of each node: all its pods.
const ORPHANS: usize = 20;
/// Pods of one owner in the whole fleet, and owners of one namespace.
const REPLICAS: usize = 10;
const OWNERS: usize = 5;
/// Within this the nodes come back.
const BOOTS: u64 = 30 * SECOND;
/// For so long a suspect is confirmed.
const CONFIRM: u64 = 10 * SECOND;
/// Each way between an agent and the API server, and from a write until a watch tells of it.
const LATENCY: (u64, u64) = (10, 40);
const NEWS: u64 = 50;
/// A reading of one pod, and istio-cni's work on one.
const READING: u64 = 5;
const ENROLS: u64 = 200;
/// The loop of an agent turns at least this often.
const BEAT: u64 = 30 * SECOND;
/// Nobody waits longer.
const PATIENCE: u64 = 20 * 60 * SECOND;

/// How long the power was away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// For longer than a node's Lease lasts, 40 seconds: a boot alone takes most of that.
    Noticed,
    /// For so short a time that every ztunnel still counts as Ready until its node is back.
    Blink,
}

/// How it went.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) orphans: usize,
    pub(super) healed: usize,
    /// From a node's settling until its last pod was proved, in seconds, on the slowest node.
    pub(super) slowest: f64,
    /// The most writes within a second, by all agents: asks, Events and the record.
    pub(super) agents: u64,
    pub(super) writes: u64,
    /// The same of istio-cni.
    pub(super) cnis: u64,
    /// Pods that a restart was left to.
    pub(super) restarts: usize,
    /// Of the nodes whose istio-cni is broken: how many there are, and the most pods asked for on one.
    pub(super) broken: usize,
    pub(super) touched: usize,
    /// How often an agent looked at ztunnels of the fleet: two short lists each time.
    pub(super) samples: usize,
    /// How often the breaker was opened.
    pub(super) opened: usize,
}

struct Node {
    healer: Healer,
    few: Few,
    pods: BTreeMap<PodUid, Pod>,
    booted: u64,
    address: IpAddr,
    /// Its ztunnel's container.
    ztunnel: String,
    broken: bool,
    queue: VecDeque<PodUid>,
    enrolling: bool,
    mass_told: bool,
    /// Since when an Event of the loss waits to be written, and for how long.
    untold: Option<(u64, Duration)>,
    /// When it wakes next.
    wake: Option<u64>,
    last_proof: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Wake(usize),
    Read(usize, PodUid),
    Arrive(usize, RequestId),
    Answer(usize, RequestId),
    Heard(usize, PodUid),
    Enrolled(usize),
    Record(usize),
    Noted(usize),
    Sample(usize),
}

struct Fleet {
    now: u64,
    numbers: u64,
    random: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    nodes: Vec<Node>,
    requests: BTreeMap<(usize, RequestId), Request>,
    answers: BTreeMap<(usize, RequestId), Answer>,
    steps: BTreeMap<usize, meshmedic_common::repair::ledger::Step>,
    record: Record,
    /// What the breaker says, as every agent hears it.
    breaker: Option<String>,
    agents: Vec<u64>,
    cnis: Vec<u64>,
    outcome: Outcome,
    /// Whether the API has found out that nodes are away before the first one is back.
    noticed: bool,
}

/// Lets the agents of so many nodes heal all their pods. On one node in `broken_in`, if any, istio-cni does nothing.
pub(super) fn power_loss(nodes: usize, broken_in: Option<usize>, cut: Cut) -> Outcome {
    let mut fleet = Fleet {
        now: 0,
        numbers: 0,
        random: 1,
        queue: BinaryHeap::new(),
        nodes: Vec::new(),
        requests: BTreeMap::new(),
        answers: BTreeMap::new(),
        steps: BTreeMap::new(),
        record: Record::default(),
        breaker: None,
        agents: Vec::new(),
        cnis: Vec::new(),
        outcome: Outcome::default(),
        noticed: cut == Cut::Noticed,
    };
    let owners = (nodes * ORPHANS / REPLICAS).max(1);
    for number in 0..nodes {
        let booted = fleet.below(BOOTS);
        let broken = broken_in.is_some_and(|share| number.is_multiple_of(share));
        let node = fleet.boot(number, owners, booted, broken);
        fleet.nodes.push(node);
        fleet.after(booted, Happening::Wake(number));
    }
    fleet.run();
    fleet.end()
}

impl Fleet {
    fn boot(&mut self, number: usize, owners: usize, booted: u64, broken: bool) -> Node {
        let pods = (0..ORPHANS).filter_map(|nth| {
            let pod = number * ORPHANS + nth;
            let owner = usize::try_from(self.below(owners as u64)).unwrap_or_default();
            Some((uid(pod)?, orphan(pod, owner)))
        });
        Node {
            healer: Healer::new(Healing {
                permissions: Permissions {
                    ready: true,
                    stuck: true,
                    grace_period: GRACE_PERIOD,
                    jobs: false,
                },
                care: Care::DEFAULT,
                toggle: false,
            }),
            few: Few::default(),
            pods: pods.collect(),
            booted,
            address: address(number),
            ztunnel: format!("{:016x}", split_mix(&mut self.random)),
            broken,
            queue: VecDeque::new(),
            enrolling: false,
            mass_told: false,
            untold: None,
            wake: None,
            last_proof: booted,
        }
    }

    fn run(&mut self) {
        let wanted: usize = self.nodes.iter().filter(|node| !node.broken).count() * ORPHANS;
        while self.outcome.healed < wanted
            && let Some(Reverse((at, _, happening))) = self.queue.pop()
            && at <= PATIENCE
        {
            self.now = at;
            match happening {
                Happening::Wake(node) => {
                    if self.nodes[node].wake.is_none_or(|wake| wake <= at) {
                        self.step(node);
                    }
                }
                Happening::Read(node, pod) => {
                    self.nodes[node].read(at, &pod);
                    self.step(node);
                }
                Happening::Arrive(node, id) => self.arrive(node, id),
                Happening::Answer(node, id) => {
                    if let Some(answer) = self.answers.remove(&(node, id)) {
                        self.nodes[node].answer(at, id, answer);
                        self.step(node);
                    }
                }
                Happening::Heard(node, pod) => {
                    self.nodes[node].hear(&pod);
                    self.step(node);
                }
                Happening::Enrolled(node) => self.enrolled(node),
                Happening::Record(node) => self.write_record(node),
                Happening::Sample(node) => {
                    let sample = self.sample();
                    self.nodes[node].healer.sampled(Some(sample));
                    self.step(node);
                }
                Happening::Noted(node) => {
                    let now = moment(at).now;
                    self.nodes[node].healer.told(now, true);
                    self.step(node);
                }
            }
        }
    }

    fn end(mut self) -> Outcome {
        let most = |counts: &[u64]| counts.iter().copied().max().unwrap_or_default();
        self.outcome.agents = most(&self.agents);
        self.outcome.writes = self.agents.iter().sum();
        self.outcome.cnis = most(&self.cnis);
        for node in &self.nodes {
            let asked = node.pods.values().filter(|pod| pod.asked).count();
            self.outcome.orphans += ORPHANS;
            if node.broken {
                self.outcome.broken += 1;
                self.outcome.touched = self.outcome.touched.max(asked);
            } else {
                let below = |(uid, pod): (&PodUid, &Pod)| {
                    pod.state.is_lost() && matches!(node.healer.below(uid), Below::May(_))
                };
                self.outcome.restarts += node.pods.iter().filter(|pod| below(*pod)).count();
                let settled = node.booted + millis(Care::DEFAULT.settle);
                let took = node.last_proof.saturating_sub(settled) as f64 / SECOND as f64;
                self.outcome.slowest = self.outcome.slowest.max(took);
            }
        }
        self.outcome
    }

    /// One turn of an agent's loop.
    fn step(&mut self, number: usize) {
        let at = moment(self.now);
        let node = &mut self.nodes[number];
        let mass_loss = node.confirm(self.now);
        let wide = node.healer.width().is_some_and(|nodes| nodes > 1);
        if (mass_loss || wide) && !std::mem::replace(&mut node.mass_told, true) {
            node.few.tell_of_node(at.now);
            node.untold = Some((self.now, Duration::ZERO));
        }
        let view = node.view(self.breaker.clone());
        let Node { healer, pods, .. } = node;
        healer.judge(at, &view, &candidates(pods));
        let looks = healer.looks();
        let requests = healer.requests(at);
        let notices = healer.drain();
        let news = healer.news(at.now);
        let next = healer.next_wake(at.now);
        if healer.wants_sample(at.now) {
            self.outcome.samples += 1;
            let latency = self.latency() + self.latency();
            self.after(latency, Happening::Sample(number));
        }
        self.tell_of_node(number);
        for uid in looks {
            self.after(READING, Happening::Read(number, uid));
        }
        for (id, request) in requests {
            self.requests.insert((number, id), request);
            let latency = self.latency();
            self.after(latency, Happening::Arrive(number, id));
        }
        for notice in &notices {
            self.notice(number, notice);
        }
        if let Some(news) = news {
            self.steps.insert(number, news.step(&format!("node-{number}")));
            let latency = self.latency();
            self.after(latency, Happening::Record(number));
        }
        let wait = next.map_or(BEAT, |next| millis(next.since(at.now)).clamp(1, BEAT));
        let wake = self.now + wait;
        let planned = self.nodes[number].wake.filter(|wake| *wake > self.now);
        if planned.is_none_or(|planned| wake < planned) {
            self.nodes[number].wake = Some(wake);
            self.after(wait, Happening::Wake(number));
        }
    }

    /// The Event that says it of the whole node.
    fn tell_of_node(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let (Some((since, longest)), Some(wait)) = (node.untold, node.healer.event_after()) else {
            return;
        };
        let wait = longest.max(wait);
        node.untold = Some((since, wait));
        let due = since + millis(wait);
        if due <= self.now {
            node.untold = None;
            write(&mut self.agents, self.now, 1);
        } else if node.wake.is_none_or(|wake| wake <= self.now || wake > due) {
            node.wake = Some(due);
            self.after(due - self.now, Happening::Wake(number));
        }
    }

    /// What a few ztunnels of the fleet show now.
    fn sample(&self) -> Sample {
        let seen = self.nodes.len().min(SAMPLE as usize).max(1);
        let few = self.nodes.iter().step_by(self.nodes.len() / seen).take(seen);
        let young = few.filter(|node| self.noticed || node.booted <= self.now).count();
        let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
        Sample {
            nodes: number(self.nodes.len()),
            seen: number(seen),
            young: number(young),
        }
    }

    /// Those of which an agent writes Events, where the pods are few.
    fn notice(&mut self, number: usize, notice: &Notice) {
        let (Notice::Asked { pod, .. } | Notice::Healed { pod, .. } | Notice::Failed { pod, .. }) = notice
        else {
            if *notice == Notice::Stopped {
                write(&mut self.agents, self.now, 1);
            }
            return;
        };
        let node = &mut self.nodes[number];
        if node.few.about(moment(self.now).now, &pod.uid) != About::Nobody {
            write(&mut self.agents, self.now, 1);
        }
        if matches!(notice, Notice::Healed { .. }) {
            node.last_proof = self.now;
            self.outcome.healed += 1;
        }
    }

    fn arrive(&mut self, number: usize, id: RequestId) {
        let Some(request) = self.requests.remove(&(number, id)) else {
            return;
        };
        let answer = match request {
            Request::Fetch(PodRef { cgroup_uid, .. }) => {
                let fetched = self.nodes[number].pods.get(&cgroup_uid).map(|pod| {
                    Box::new(Fetched {
                        standing: pod.standing.clone(),
                        version: pod.version.to_string(),
                    })
                });
                Answer::Fetched(Ok(fetched))
            }
            Request::Ask { pod, ask, .. } => {
                write(&mut self.agents, self.now, 1);
                let node = &mut self.nodes[number];
                if let Some(found) = node.pods.get_mut(&pod.cgroup_uid) {
                    found.standing.facts.enrolment = Enrolment::Pending;
                    found.standing.facts.heal = Some(ask.to_string());
                    found.asked = true;
                    found.version += 1;
                    node.queue.push_back(pod.cgroup_uid);
                }
                self.enrol(number);
                Answer::Asked(Asked::Accepted)
            }
            Request::TakeOut(_) => Answer::TakenOut(Ok(())),
            Request::PutBack(_) => Answer::PutBack(Ok(())),
        };
        self.answers.insert((number, id), answer);
        let latency = self.latency();
        self.after(latency, Happening::Answer(number, id));
    }

    /// istio-cni takes one pod after the other.
    fn enrol(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if !node.broken && !node.enrolling && !node.queue.is_empty() {
            node.enrolling = true;
            self.after(ENROLS, Happening::Enrolled(number));
        }
    }

    fn enrolled(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.enrolling = false;
        if let Some(uid) = node.queue.pop_front() {
            if let Some(pod) = node.pods.get_mut(&uid) {
                (pod.enrolled, pod.redirection) = (true, Redirection::Routed);
                pod.version += 1;
            }
            write(&mut self.cnis, self.now, 1);
            self.after(NEWS, Happening::Heard(number, uid));
        }
        self.enrol(number);
    }

    fn write_record(&mut self, number: usize) {
        let Some(step) = self.steps.remove(&number) else {
            return;
        };
        let allowance = Limits::DEFAULT.allowance(&LeaseKey::Heals);
        let change = Change::of_no_repair(step);
        let at = moment(self.now).server;
        let (changed, _) = update(&mut self.record, &change, &allowance, at);
        if changed {
            write(&mut self.agents, self.now, 1);
            let before = self.breaker.is_some();
            self.breaker = self.record.holds_open(&allowance, at);
            if before != self.breaker.is_some() {
                self.outcome.opened += usize::from(!before);
                for other in 0..self.nodes.len() {
                    self.nodes[other].wake = None;
                    self.after(NEWS, Happening::Wake(other));
                }
            }
        }
        let latency = self.latency();
        self.after(latency, Happening::Noted(number));
    }

    fn below(&mut self, most: u64) -> u64 {
        split_mix(&mut self.random) % most
    }

    fn latency(&mut self) -> u64 {
        LATENCY.0 + self.below(LATENCY.1 - LATENCY.0 + 1)
    }

    fn after(&mut self, wait: u64, happening: Happening) {
        self.numbers += 1;
        self.queue
            .push(Reverse((self.now + wait, self.numbers, happening)));
    }
}

impl Node {
    fn view(&self, breaker: Option<String>) -> NodeView {
        NodeView {
            ztunnel_since: Some(moment(self.booted).now),
            cni_since: Some(moment(self.booted).now),
            // A pod that is captured proves more; after a power loss there is none.
            serving: if self.pods.values().any(|pod| pod.state == State::Captured) {
                Serving::Captures
            } else {
                Serving::Connected
            },
            support: Support::Yes,
            containers: (Some("c1".to_owned()), Some(self.ztunnel.clone())),
            breaker,
            address: Some(self.address),
            ..NodeView::default()
        }
    }

    /// Suspects become orphans with time; tells whether most of the node's pods are.
    fn confirm(&mut self, now: u64) -> bool {
        let confirmed = now >= self.booted + CONFIRM;
        let mut orphans = 0;
        for pod in self.pods.values_mut() {
            if pod.state == State::Suspect && confirmed {
                pod.state = State::Orphan;
            }
            orphans += usize::from(pod.state == State::Orphan);
        }
        is_mass_loss(orphans, self.pods.len())
    }

    fn read(&mut self, millis: u64, uid: &PodUid) {
        let now = moment(millis).now;
        let Some(pod) = self.pods.get_mut(uid) else { return };
        if pod.enrolled {
            (pod.state, pod.streak) = (State::Captured, None);
            (pod.proved_at, pod.captured_at) = (Some(now), Some(now));
            return;
        }
        let place = place();
        let before = pod.streak;
        pod.streak = Some(Streak {
            place,
            readings: before.map_or(1, |streak| streak.readings + 1),
            first: before.map_or(now, |streak| streak.first),
            last: now,
        });
    }

    fn hear(&mut self, uid: &PodUid) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.standing.facts.enrolment = Enrolment::Enabled;
        }
    }

    fn answer(&mut self, millis: u64, id: RequestId, answer: Answer) {
        let Self { healer, pods, .. } = self;
        healer.answer(moment(millis), id, answer, &candidates(pods));
    }
}

/// The nodes are in three subnets, of which others have taken half of the addresses, whichever came first.
fn address(number: usize) -> IpAddr {
    let nth = u32::try_from(number / 3).unwrap_or_default();
    let subnet = u8::try_from(number % 3).unwrap_or_default() * 64;
    let mut state = u64::from(nth);
    let taken = u32::from(split_mix(&mut state).is_multiple_of(2));
    let first = Ipv4Addr::new(10, 0, subnet, 0).to_bits();
    Ipv4Addr::from_bits(first + nth * 2 + taken).into()
}

fn write(counts: &mut Vec<u64>, now: u64, writes: u64) {
    let second = usize::try_from(now / SECOND).unwrap_or_default();
    if counts.len() <= second {
        counts.resize(second + 1, 0);
    }
    if let Some(count) = counts.get_mut(second) {
        *count += writes;
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use meshmedic_common::repair::sabotage::{Defence, OUT};

    use super::*;

    #[test]
    fn a_small_fleet_is_healed_in_place_and_nothing_is_left_to_a_restart() {
        let outcome = power_loss(20, None, Cut::Noticed);
        assert_eq!((outcome.orphans, outcome.healed), (400, 400), "{outcome:?}");
        assert_eq!((outcome.restarts, outcome.opened), (0, 0), "{outcome:?}");
        // Each pod is asked for once, and few Events are written of a node.
        assert!((400..400 + 20 * 12).contains(&outcome.writes), "{outcome:?}");
    }

    #[test]
    fn a_fleet_of_any_size_asks_for_no_more_than_an_api_server_bears() {
        let outcome = power_loss(600, None, Cut::Noticed);
        assert_eq!((outcome.orphans, outcome.healed), (12_000, 12_000), "{outcome:?}");
        assert!(outcome.agents <= 400, "{outcome:?}");
        OUT.set(Some(Defence::Ceiling));
        let outcome = power_loss(600, None, Cut::Noticed);
        OUT.set(None);
        assert!(outcome.agents > 400, "the ceiling is what holds it: {outcome:?}");
    }

    #[test]
    fn where_istio_cni_is_broken_two_pods_are_touched_and_the_breaker_speaks() {
        let outcome = power_loss(40, Some(4), Cut::Noticed);
        assert_eq!((outcome.broken, outcome.touched), (10, 2), "{outcome:?}");
        assert!(outcome.opened > 0, "{outcome:?}");
    }
}
