// SPDX-License-Identifier: Apache-2.0
//! Whole clusters under simulated time: the real engine and planner of every node, one API server that
//! fails in every way it can, and a judge that knows neither and sees only what really happened.
//!
//! A run is a function of its seed. [`tests`] says how to repeat one.

mod agent;
mod api;
mod chaos;
mod judge;
mod person;
mod tally;
mod tests;
mod trace;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use agent::Agent;
use api::{Api, Flight};
use chaos::Cure;
use meshmedic_common::repair::{Answer, RequestId};
use meshmedic_common::rng::Rng;
use meshmedic_common::time::Time;
use tally::Tally;
use trace::{Event, PodId, Rules, Shows, What};
use world::World;

/// When every simulation begins.
const START: Time = Time::from_nanos(1_000_000_000_000_000);
/// What the API server's clock shows then, in milliseconds.
const EPOCH: i64 = 1_700_000_000_000;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

const fn span(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Something that is going to happen.
enum Happening {
    /// An agent has something to do.
    Wake(usize),
    /// What the API tells reaches an agent.
    Sync(usize, u32),
    /// The kernel tells an agent of a change.
    Hint(usize, u32, PodId),
    /// An agent reads all its pods.
    Sweep(usize, u32),
    Start(usize),
    Stop(usize, u32),
    Kill(usize, u32),
    Arrive(Box<Flight>),
    Write(Box<Flight>),
    Answer(usize, u32, RequestId, Box<Answer>),
    Vanish(PodId),
    /// An owner makes a pod on a node, perhaps of a certain name.
    Create(usize, usize, Option<String>),
    Enrol(PodId),
    Ready(PodId),
    /// If a pod's netns holds the first it holds the second from now on.
    Listen(PodId, Shows, Shows),
    Ztunnel(usize),
    Clock(i64),
    Cure(Cure),
    Mishap,
    /// A person looks for something to repair.
    Ask(usize),
    /// A person's command reads a pod before it plans, for so many times before.
    Scan(usize, u32, PodId, u32),
    /// It reads the pod just before the act.
    Look(usize, u32),
    /// It looks for the successor.
    Follow(usize, u32),
    /// It has something to do.
    Turn(usize, u32),
}

/// What makes one run different from another.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    rules: Rules,
    /// Pods on each node.
    nodes: Vec<usize>,
    span: u64,
    /// Between two mishaps, on average.
    gap: u64,
    /// So many requests in a thousand meet a fault.
    faults: u64,
    /// How many people repair, too, and how long each waits in between, on average.
    people: usize,
    asks: u64,
}

/// What came of a run.
struct Run {
    trace: Vec<Event>,
    tally: Tally,
}

struct Sim {
    rng: Rng,
    plan: Plan,
    now: Time,
    numbers: u64,
    queue: BTreeMap<(Time, u64), Happening>,
    world: World,
    api: Api,
    agents: Vec<Agent>,
    /// No more mishaps: what can be healed must be.
    calm: bool,
    trace: Vec<Event>,
    tally: Tally,
}

impl Plan {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let big = rng.chance(60);
        let mut rules = Rules::usual();
        let shadow = rng.chance(60);
        rules.ready = !shadow && !rng.chance(80);
        rules.stuck = !shadow && !rng.chance(200);
        rules.jobs = rng.chance(300);
        rules.delete = rng.chance(50);
        rules.breaker_failures = *rng.pick(&[2, 2, 4]);
        rules.breaker_failures_cluster = *rng.pick(&[2, 5]);
        rules.in_flight_node = *rng.pick(&[1, 1, 2, 3]);
        rules.in_flight_owner = *rng.pick(&[1, 1, 1, 2]);
        rules.slots = *rng.pick(&[1, 2, 3, 3]);
        rules.per_hour_node = *rng.pick(if big { &[8, 20] } else { &[2, 3, 5, 20] });
        rules.per_hour_cluster = *rng.pick(if big { &[20, 60] } else { &[3, 6, 60] });
        let nodes = (0..rng.between(3, 6)).map(|node| {
            let pods = if big && node == 0 { 30 } else { rng.between(3, 8) };
            usize::try_from(pods).unwrap_or_default()
        });
        Self {
            seed,
            rules,
            nodes: nodes.collect(),
            span: rng.between(2, 8) * 24 * HOUR,
            gap: *rng.pick(&[80, 160, 400]) * MINUTE,
            faults: *rng.pick(&[0, 20, 60, 150]),
            people: *rng.pick(&[0, 0, 1, 2]),
            asks: *rng.pick(&[30, 120]) * MINUTE,
        }
    }
}

impl Sim {
    /// A cluster in which nothing goes wrong by itself.
    fn new(plan: Plan) -> Self {
        let mut sim = Self {
            rng: Rng::new(plan.seed ^ 0x5eed),
            now: START,
            numbers: 0,
            queue: BTreeMap::new(),
            world: World::default(),
            api: Api::default(),
            agents: (0..plan.nodes.len() + plan.people)
                .map(|_| Agent::default())
                .collect(),
            calm: false,
            trace: Vec::new(),
            tally: Tally::default(),
            plan,
        };
        sim.build();
        sim
    }

    fn run(plan: Plan) -> Run {
        let mut sim = Self::new(plan);
        sim.after(MINUTE, Happening::Mishap);
        for person in sim.world.nodes.len()..sim.agents.len() {
            sim.after(MINUTE, Happening::Ask(person));
        }
        let end = START + span(sim.plan.span);
        sim.until(end);
        sim.tally.node_days = sim.world.nodes.len() as u64 * sim.plan.span / (24 * HOUR);
        sim.rest(end);
        sim.tally.pods = sim.world.pods.len() as u64;
        sim.tally.events = sim.numbers;
        Run {
            trace: sim.trace,
            tally: sim.tally,
        }
    }

    /// Heals the world and waits for the agents to do the same.
    fn rest(&mut self, end: Time) {
        self.calm = true;
        self.soothe();
        let patience = end + span(48 * HOUR);
        while self.now < patience && !self.healable().is_empty() {
            self.until(self.now + span(HOUR));
        }
        // Whatever is under way now ends by its deadline.
        self.until(self.now + span(15 * MINUTE));
        let taken_up = self.plan.rules.ready || self.plan.rules.stuck;
        let (orphans, held) = (self.healable(), self.api.held(self.server(), taken_up));
        self.tell(What::Rest { orphans, held });
    }

    fn until(&mut self, end: Time) {
        while let Some(next) = self.queue.first_entry().filter(|next| next.key().0 <= end) {
            let ((at, _), happening) = next.remove_entry();
            self.now = at;
            self.happen(happening);
        }
        self.now = end;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake(agent) => self.wake(agent),
            Happening::Sync(agent, life) => self.sync(agent, life),
            Happening::Hint(agent, life, pod) => self.hint(agent, life, pod),
            Happening::Sweep(agent, life) => self.sweep(agent, life),
            Happening::Start(agent) => self.start(agent),
            Happening::Stop(agent, life) => self.stop(agent, life),
            Happening::Kill(agent, life) => self.kill(agent, life),
            Happening::Arrive(flight) => self.arrive(flight),
            Happening::Write(flight) => self.write(flight),
            Happening::Answer(agent, life, id, answer) => self.answered(agent, life, id, *answer),
            Happening::Vanish(pod) => self.vanish(pod),
            Happening::Create(owner, node, name) => self.create(owner, node, name),
            Happening::Enrol(pod) => self.enrol(pod),
            Happening::Ready(pod) => self.become_ready(pod, true),
            Happening::Listen(pod, from, to) => {
                if self.world.pods[pod as usize].listens == from {
                    self.listen(pod, to);
                }
            }
            Happening::Ztunnel(node) => self.ztunnel_up(node),
            Happening::Clock(jump) => self.jump(jump),
            Happening::Cure(cure) => self.cure(cure),
            Happening::Mishap => self.mishap(),
            Happening::Ask(a) => self.ask(a),
            Happening::Scan(a, number, pod, before) => self.scan(a, number, pod, before),
            Happening::Look(a, life) => self.person_looks(a, life),
            Happening::Follow(a, life) => self.person_follows(a, life),
            Happening::Turn(a, life) => self.person_turns(a, life),
        }
    }

    fn after(&mut self, milliseconds: u64, happening: Happening) {
        self.numbers += 1;
        self.queue
            .insert((self.now + span(milliseconds), self.numbers), happening);
    }

    fn tell(&mut self, what: What) {
        self.trace.push(Event { at: self.now, what });
    }

    /// The API server's clock, in milliseconds.
    fn server_millis(&self) -> i64 {
        let passed = i64::try_from(self.now.since(START).as_millis()).unwrap_or(i64::MAX);
        EPOCH + passed + self.api.offset
    }

    fn server(&self) -> Timestamp {
        Timestamp::from_millisecond(self.server_millis()).unwrap_or(Timestamp::MAX)
    }

    fn jump(&mut self, jump: i64) {
        self.api.offset += jump;
        self.tell(What::Clock(jump));
    }
}
