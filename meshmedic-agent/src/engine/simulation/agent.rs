// SPDX-License-Identifier: Apache-2.0
//! The agent of one node: a real engine and a real planner, and who drives them.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshmedic_common::identity::{Component, NodeFault};
use meshmedic_common::policy::{Gates, Mandate, Means, Permissions, Standing};
use meshmedic_common::ports::PortSet;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Reason, Redirection};

use super::super::{Engine, Health, Look, Seen, Urgency, Ztunnel};
use super::person::Person;
use super::trace::{PodId, Shows, What};
use super::world::{SWEEP, moment, owner_of, owner_uid, pod_of};
use super::{HOUR, Happening, MINUTE, SECOND, Sim, span};
use meshmedic_common::repair::{
    Answer, Claims, LeaseKey, Moment, Outcome, Patient, Planner, RepairNotice, Repairer, RequestId,
};
use meshmedic_common::time::Time;

/// A reading that the planner asked for comes after so long.
const LOOK: u64 = 2;
/// Without news for this long the agent trusts its view of the API no more.
const STALE: u64 = 60 * SECOND;
/// After SIGTERM there is so much time.
const GRACE: u64 = 10 * SECOND;

/// An agent, whether it runs or not.
#[derive(Default)]
pub(super) struct Agent {
    /// Grows with each start and end, so that nothing reaches a process that is gone.
    pub(super) life: u32,
    pub(super) process: Option<Box<Process>>,
    /// At a keyboard there sits a person instead.
    pub(super) person: Option<Box<Person>>,
    /// It will be killed so many more times just after it began.
    pub(super) doomed: u32,
    /// The watches stand still until then.
    pub(super) deaf_until: Time,
}

pub(super) struct Process {
    pub(super) number: u32,
    engine: Engine,
    pub(super) planner: Planner,
    pods: BTreeMap<PodUid, (u32, Arc<Standing>)>,
    gates: Gates,
    /// How far the API server's clock was ahead when last heard.
    pub(super) offset: i64,
    /// Which version of each owner's Lease was seen.
    seen: BTreeMap<usize, u64>,
    ztunnel: Option<u32>,
    wake: Option<Time>,
    syncing: bool,
    /// Since when there is news that it does not know.
    outdated: Time,
    stopping: bool,
}

impl Process {
    fn moment(&self, now: Time) -> Moment {
        moment(now, self.offset)
    }
}

impl Sim {
    pub(super) fn start(&mut self, a: usize) {
        if self.agents[a].process.is_some() {
            return;
        }
        self.world.processes += 1;
        let number = self.world.processes;
        let repairer = self.repairer(a, number);
        let engine = Engine::new(super::super::Settings {
            confirm: span(self.plan.rules.confirm),
            settle: span(self.plan.rules.settle),
            reread: span(10 * MINUTE),
            pending_deadline: span(2 * MINUTE),
        });
        let agent = &mut self.agents[a];
        agent.life += 1;
        agent.process = Some(Box::new(Process {
            number,
            engine,
            planner: Planner::new(repairer, true),
            pods: BTreeMap::new(),
            gates: Gates {
                mesh_fault: Some("nothing is known yet".to_owned()),
                ..Gates::default()
            },
            offset: self.api.offset,
            seen: BTreeMap::new(),
            ztunnel: None,
            wake: None,
            syncing: false,
            outdated: self.now,
            stopping: false,
        }));
        let life = agent.life;
        self.tell(What::Began {
            node: a,
            process: number,
        });
        self.after(SWEEP, Happening::Sweep(a, life));
        self.outdate(a);
        if self.agents[a].doomed > 0 && !self.calm {
            self.agents[a].doomed -= 1;
            let until = self.rng.between(1, 90 * SECOND);
            self.after(until, Happening::Kill(a, life));
        }
    }

    fn repairer(&self, a: usize, number: u32) -> Repairer {
        let rules = &self.plan.rules;
        Repairer {
            node: format!("n{a}"),
            holder: format!("n{a}-{number}"),
            mandate: Mandate::Agent(Permissions {
                ready: rules.ready,
                stuck: rules.stuck,
                grace_period: span(rules.grace),
                jobs: rules.jobs,
            }),
            means: if rules.delete { Means::Delete } else { Means::Evict },
            claims: Claims::AGENT,
            limits: rules.limits(),
        }
    }

    fn runs(&self, a: usize, life: u32) -> bool {
        self.agents[a].life == life && self.agents[a].process.is_some()
    }

    pub(super) fn kill(&mut self, a: usize, life: u32) {
        if self.is_person(a) && self.agents[a].life == life {
            return self.leave(a);
        }
        if !self.runs(a, life) {
            return;
        }
        let agent = &mut self.agents[a];
        agent.life += 1;
        if let Some(process) = agent.process.take() {
            self.tell(What::Ended {
                node: a,
                process: process.number,
            });
        }
        let away = if self.calm || self.rng.chance(900) {
            self.rng.between(3 * SECOND, 3 * MINUTE)
        } else {
            self.rng.between(10 * MINUTE, 2 * HOUR)
        };
        self.after(away, Happening::Start(a));
    }

    pub(super) fn is_told_to_end(&self, a: usize) -> bool {
        let Agent { process, person, .. } = &self.agents[a];
        let process = process.as_ref().is_some_and(|process| process.stopping);
        process || person.as_ref().is_some_and(|person| person.stopping)
    }

    pub(super) fn stop(&mut self, a: usize, life: u32) {
        if self.is_person(a) && self.agents[a].life == life {
            return self.interrupt(a);
        }
        if !self.runs(a, life) {
            return;
        }
        let now = self.now;
        if let Some(process) = &mut self.agents[a].process {
            process.stopping = true;
            let at = process.moment(now);
            process.planner.stop(at);
        }
        self.after(GRACE, Happening::Kill(a, life));
        self.step(a);
    }

    /// Something changed in the API that an agent does not know yet.
    pub(super) fn outdate(&mut self, a: usize) {
        let now = self.now;
        let deaf = self.agents[a].deaf_until;
        let delay = match self.rng.index(20) {
            0 => self.rng.between(SECOND, 20 * SECOND),
            _ => self.rng.between(20, 500),
        };
        let wait = u64::try_from(deaf.since(now).as_millis()).unwrap_or(0);
        let life = self.agents[a].life;
        if let Some(process) = self.agents[a].process.as_mut().filter(|process| !process.syncing) {
            process.syncing = true;
            process.outdated = now;
            self.after(wait + delay, Happening::Sync(a, life));
        }
    }

    pub(super) fn outdate_all(&mut self) {
        for a in 0..self.agents.len() {
            self.outdate(a);
        }
    }

    pub(super) fn sync(&mut self, a: usize, life: u32) {
        if !self.runs(a, life) {
            return;
        }
        let now = self.now;
        if self.agents[a].deaf_until > now || self.api.is_down(now) {
            let wait = self.agents[a].deaf_until.max(self.api.down_until).since(now);
            let wait = u64::try_from(wait.as_millis()).unwrap_or(0) + 50;
            return self.after(wait, Happening::Sync(a, life));
        }
        let Some(process) = &mut self.agents[a].process else {
            return;
        };
        process.syncing = false;
        process.offset = self.api.offset;
        let node = &self.world.nodes[a];
        process.gates = Gates {
            node_fault: None,
            mesh_fault: self.world.no_istiod.then(|| "istiod".to_owned()),
            cordoned: node.cordoned,
            paused: self.world.paused.then(String::new),
        };
        process.engine.health(
            now,
            Health {
                ztunnel_ready: node.ztunnel.map(|_| node.ztunnel_since),
                cni_ready: node.cni_ready.then_some(node.ztunnel_since),
                fault: match (node.ztunnel, node.cni_ready) {
                    (None, _) => Some(NodeFault::NotReady(Component::Ztunnel)),
                    (Some(_), false) => Some(NodeFault::NotReady(Component::Cni)),
                    (Some(_), true) => None,
                },
            },
        );
        let there = |uid: &PodUid| pod_of(uid.as_str()).is_some_and(|id| !self.world.pods[id as usize].gone);
        let engine = &mut process.engine;
        process.pods.retain(|uid, _| {
            let stays = there(uid);
            if !stays {
                engine.pod_gone(now, uid);
            }
            stays
        });
        for id in &node.pods {
            let pod = &self.world.pods[*id as usize];
            let known = process
                .pods
                .get(&pod.uid)
                .is_some_and(|(version, _)| *version == pod.version);
            if !known {
                process.engine.pod(now, &pod.uid, pod.standing.expectation);
                let shown = (pod.version, Arc::clone(&pod.standing));
                process.pods.insert(pod.uid.clone(), shown);
            }
        }
        let at = process.moment(now);
        for (key, lease) in &self.api.leases {
            let LeaseKey::Owner(uid) = key else { continue };
            let owner = owner_of(uid).unwrap_or_default();
            if !lease.garbled && process.seen.get(&owner) != Some(&lease.version) {
                process.seen.insert(owner, lease.version);
                process
                    .planner
                    .owner_seen(at, &owner_uid(owner), Some(lease.record.clone()));
            }
        }
        self.step(a);
    }

    pub(super) fn hint(&mut self, a: usize, life: u32, pod: PodId) {
        if !self.runs(a, life) {
            return;
        }
        let now = self.now;
        if let Some(process) = &mut self.agents[a].process {
            process.engine.hint(now, &self.world.pods[pod as usize].uid);
        }
        self.step(a);
    }

    pub(super) fn sweep(&mut self, a: usize, life: u32) {
        if !self.runs(a, life) {
            return;
        }
        let now = self.now;
        if let Some(process) = &mut self.agents[a].process {
            process.engine.sweep(now, |_, _| true);
        }
        self.after(SWEEP, Happening::Sweep(a, life));
        self.step(a);
    }

    pub(super) fn answered(&mut self, a: usize, life: u32, id: RequestId, answer: Answer) {
        if self.is_person(a) && self.agents[a].life == life {
            return self.person_answered(a, id, answer);
        }
        if !self.runs(a, life) {
            return;
        }
        let now = self.now;
        let offset = self.api.offset;
        if let Some(process) = &mut self.agents[a].process {
            process.offset = offset;
            let at = process.moment(now);
            process.planner.answer(at, id, answer);
        }
        self.step(a);
    }

    pub(super) fn wake(&mut self, a: usize) {
        let due = self.agents[a].process.as_ref().and_then(|process| process.wake);
        if due == Some(self.now) {
            self.step(a);
        }
    }

    /// One turn: look at what is due, judge, ask, and sleep until there is more.
    pub(super) fn step(&mut self, a: usize) {
        let Some(mut process) = self.agents[a].process.take() else {
            return;
        };
        let now = self.now;
        let at = process.moment(now);
        let node = &self.world.nodes[a];
        if process.ztunnel.is_none() || process.ztunnel != node.ztunnel {
            process.ztunnel = node.ztunnel;
            let processes: Vec<_> = node.ztunnel.iter().map(|pid| (*pid, 1)).collect();
            let youngest = node.ztunnel.map(|_| node.ztunnel_since);
            process.engine.ztunnel(now, Ztunnel { processes, youngest });
        }
        process.engine.tick(now);
        for uid in process.engine.due(now, usize::MAX, Urgency::Routine) {
            let Some(look) = self.look(a, &uid, process.number) else {
                process.engine.pod_gone(now, &uid);
                continue;
            };
            process.engine.look(now, &uid, look);
        }
        let silent = process.syncing && now.since(process.outdated) > span(STALE);
        let mut gates = process.gates.clone();
        gates.node_fault = process.engine.node_fault().map(str::to_owned);
        if silent {
            gates.mesh_fault = Some("what the API said is old".to_owned());
        }
        let mut patients = BTreeMap::new();
        for (uid, (_, standing)) in &process.pods {
            if let Some(view) = process.engine.view(uid) {
                let patient = Patient {
                    standing,
                    state: view.state,
                    since: view.since,
                    read_at: view.read_at,
                };
                patients.insert(uid.clone(), patient);
            }
        }
        let mass_loss = process.engine.mass_loss();
        process.planner.judge(at, &gates, mass_loss, &patients);
        drop(patients);
        let looks = process.planner.looks();
        for uid in &looks {
            process.engine.hint(now + span(LOOK), uid);
        }
        process.engine.drain();
        let requests = process.planner.requests(at);
        for notice in process.planner.drain() {
            self.count(&notice);
        }
        let wakes = [process.engine.next_wake(), process.planner.next_wake(at)];
        // What is due now was done; a look that is under way comes back by itself.
        let next = wakes
            .into_iter()
            .flatten()
            .min()
            .map(|next| next.max(now + span(1)));
        if let Some(next) = next
            && process.wake.is_none_or(|wake| wake <= now || next < wake)
        {
            process.wake = Some(next);
            let wait = u64::try_from(next.since(now).as_millis()).unwrap_or(0).max(1);
            process.wake = Some(now + span(wait));
            self.after(wait, Happening::Wake(a));
        }
        let (number, done) = (process.number, process.stopping && process.planner.is_idle());
        self.agents[a].process = Some(process);
        for (id, request) in requests {
            self.send(a, number, id, request);
        }
        if done {
            let life = self.agents[a].life;
            self.kill(a, life);
        }
    }

    fn look(&mut self, a: usize, uid: &PodUid, process: u32) -> Option<Look> {
        let id = pod_of(uid.as_str())?;
        let pod = self.world.pods.get(id as usize).filter(|pod| !pod.gone)?;
        let shows = if self.world.nodes[a].unreadable && self.rng.chance(700) {
            Shows::Unreadable
        } else {
            pod.listens
        };
        self.tell(What::Read {
            process,
            pod: id,
            shows,
        });
        let (seen, ports) = match shows {
            Shows::All => (Seen::Complete { proved: true }, PortSet::REQUIRED),
            Shows::Some => {
                let some = PortSet::EMPTY.with(15008);
                (Seen::Incomplete(some), some)
            }
            Shows::None => (Seen::Incomplete(PortSet::EMPTY), PortSet::EMPTY),
            Shows::Imposter => (Seen::Imposter(Vec::new()), PortSet::REQUIRED),
            Shows::Unreadable => {
                let why = *self.rng.pick(&[Reason::Malformed, Reason::Denied, Reason::Gone]);
                (Seen::Unreadable(why, String::new()), PortSet::EMPTY)
            }
        };
        Some(Look {
            started: self.now,
            finished: self.now,
            seen,
            ports,
            redirection: Redirection::Routed,
            rules: None,
            place: None,
        })
    }

    fn count(&mut self, notice: &RepairNotice) {
        if self.calm {
            return;
        }
        match notice {
            RepairNotice::Withheld { why, .. } => self.tally.withheld[usize::from(why.rule())] += 1,
            RepairNotice::Would { .. } => self.tally.would += 1,
            RepairNotice::Started { .. } => {}
            RepairNotice::Ended { outcome, .. } => {
                self.tally.ended += 1;
                self.tally.succeeded += u64::from(matches!(outcome, Outcome::Succeeded(_)));
            }
        }
    }
}
