// SPDX-License-Identifier: Apache-2.0
//! The API server, and everything that may happen to a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use meshmedic_common::policy::{Gates, Means, Withheld};

use super::chaos::Cure;
use super::tally::{Fault, Kind};
use super::trace::{Event, Held, PodId, What};
use super::world::pod_of;
use super::{Happening, MINUTE, SECOND, Sim, span};
use meshmedic_common::repair::ledger::{Entry, Record, Step};
use meshmedic_common::repair::{
    Acted, Answer, Check, LeaseKey, Owner, PodRef, Presence, Refusal, Request, RequestId, Sibling, update,
};
use meshmedic_common::time::Time;

/// After so many conflicts whoever carries out a change gives up.
const TRIES: u32 = 3;

#[derive(Default)]
pub(super) struct Lease {
    pub(super) record: Record,
    pub(super) version: u64,
    /// It holds what nobody understands.
    pub(super) garbled: bool,
}

#[derive(Default)]
pub(super) struct Api {
    pub(super) leases: BTreeMap<LeaseKey, Lease>,
    /// How far its clock is ahead of real time, in milliseconds.
    pub(super) offset: i64,
    pub(super) down_until: Time,
    /// The pod of each repair, by its id.
    repairs: BTreeMap<String, PodId>,
}

impl Api {
    pub(super) fn is_down(&self, now: Time) -> bool {
        self.down_until > now
    }

    /// The Leases that are not free though nobody is at work. Where no agent repairs, none takes up what a person
    /// left; whoever claims next sees that it is over.
    pub(super) fn held(&self, now: Timestamp, taken_up: bool) -> Vec<String> {
        let over = |entry: &Entry| entry.is_abandoned(now) && now > entry.deadline;
        let busy = |key: &LeaseKey, record: &Record| match key {
            LeaseKey::Owner(_) => record.repairs.iter().any(|entry| taken_up || !over(entry)),
            _ => record.repairs.iter().any(|entry| !entry.is_abandoned(now)),
        };
        let held = self.leases.iter().filter(|(key, lease)| busy(key, &lease.record));
        held.map(|(key, lease)| format!("{key:?}: {:?}", lease.record.repairs))
            .collect()
    }
}

/// A request on its way.
pub(super) struct Flight {
    agent: usize,
    life: u32,
    process: u32,
    id: RequestId,
    request: Request,
    issued: Time,
    fault: Option<Fault>,
    /// What was read, and is to be written.
    read: Option<(u64, Record, Answer)>,
    tries: u32,
}

impl Sim {
    pub(super) fn send(&mut self, agent: usize, process: u32, id: RequestId, request: Request) {
        let (kind, life) = (Kind::of(&request), self.agents[agent].life);
        let fault = (!self.calm && self.rng.chance(self.plan.faults)).then(|| *self.rng.pick(&Fault::ALL));
        let fault = fault.filter(|fault| kind.meets(*fault));
        if let Some(fault) = fault {
            self.tally.meet(kind, fault);
        }
        let mut latency = self.rng.between(5, 60);
        if let Request::Check(pod) = &request
            && let Some(pod) = pod_of(&pod.uid)
        {
            if self.rng.chance(60) {
                self.scale_up(pod);
            }
            if self.rng.chance(20) {
                self.exhaust(self.world.pods[pod as usize].owner);
            }
        }
        match fault {
            Some(Fault::KilledBefore) => return self.kill(agent, life),
            Some(Fault::Outage) => {
                let away = self.rng.between(20 * SECOND, 8 * MINUTE);
                self.api.down_until = self.now + span(away);
            }
            Some(Fault::Stale) => {
                let deaf = self.rng.between(5 * SECOND, 90 * SECOND);
                self.agents[agent].deaf_until = self.now + span(deaf);
            }
            Some(Fault::Clock) => {
                let jump = i64::try_from(self.rng.between(10 * SECOND, 8 * MINUTE)).unwrap_or_default();
                let jump = if self.api.offset > 0 { -jump } else { jump };
                self.after(2, Happening::Clock(jump));
            }
            Some(Fault::Stopped) => self.after(2, Happening::Stop(agent, life)),
            Some(Fault::Slow) => latency = self.rng.between(SECOND, 5 * SECOND),
            Some(Fault::Garbled) => self.garble(&request),
            _ => {}
        }
        if fault == Some(Fault::Error) || self.api.is_down(self.now) {
            let late = self.rng.between(10, 3 * SECOND);
            let answer = Box::new(self.failure(&request, true));
            return self.after(late, Happening::Answer(agent, life, id, answer));
        }
        if fault == Some(Fault::Late) {
            let gave_up = self.rng.between(2 * SECOND, 4 * SECOND);
            let answer = Box::new(self.failure(&request, false));
            self.after(gave_up, Happening::Answer(agent, life, id, answer));
            latency = self.rng.between(gave_up, 10 * SECOND);
        }
        let flight = Flight {
            agent,
            life,
            process,
            id,
            request,
            issued: self.now,
            fault,
            read: None,
            tries: 0,
        };
        self.after(latency, Happening::Arrive(Box::new(flight)));
    }

    fn garble(&mut self, request: &Request) {
        if let Request::Update { lease, .. } = request {
            self.api.leases.entry(lease.clone()).or_default().garbled = true;
            let ends = self.rng.between(10 * SECOND, 3 * MINUTE);
            self.after(ends, Happening::Cure(Cure::Lease(lease.clone())));
        }
    }

    /// What whoever asked is told of a request that failed; `early` if it never had an effect.
    fn failure(&mut self, request: &Request, early: bool) -> Answer {
        let why = "the simulation says no".to_owned();
        match request {
            Request::Update { .. } => Answer::Updated(Err(Refusal::Failed(why))),
            Request::Check(_) => Answer::Checked(Err(why)),
            Request::Act { .. } | Request::Rehearse { .. } if early && self.rng.chance(500) => {
                Answer::Acted(Acted::Refused(Withheld::Refused, why))
            }
            Request::Act { .. } | Request::Rehearse { .. } => Answer::Acted(Acted::InDoubt(why)),
            Request::Find(_) => Answer::Found(Err(why)),
            Request::Survey { .. } => Answer::Surveyed(Err(why)),
        }
    }

    pub(super) fn arrive(&mut self, mut flight: Box<Flight>) {
        let conflict = flight.fault == Some(Fault::Conflict);
        let answer = match &flight.request {
            Request::Update { .. } => {
                if let Some(read) = self.read(&flight.request) {
                    flight.read = Some(read);
                    let latency = self.rng.between(3, 30);
                    return self.after(latency, Happening::Write(flight));
                }
                Answer::Updated(Err(Refusal::Failed("not a record".to_owned())))
            }
            request if conflict => self.failure(request, true),
            Request::Check(pod) => {
                let pod = pod.clone();
                self.check(&flight, &pod)
            }
            Request::Rehearse { pod, means } => Answer::Acted(
                self.refuses(pod, *means == Means::Delete)
                    .unwrap_or(Acted::Accepted),
            ),
            Request::Act { pod, means } => {
                let (pod, delete) = (pod.clone(), *means == Means::Delete);
                self.act(&flight, &pod, delete)
            }
            Request::Find(pod) => {
                let there = pod_of(&pod.uid).is_some_and(|id| {
                    let pod = &self.world.pods[id as usize];
                    !pod.gone && !pod.standing.facts.deleting
                });
                Answer::Found(Ok(if there { Presence::There } else { Presence::Leaving }))
            }
            Request::Survey { pod, .. } => {
                let (id, uid) = (pod_of(&pod.uid), pod.uid.clone());
                if let Some(id) = id.filter(|_| flight.fault.is_none()) {
                    self.tell(What::Surveyed(id));
                }
                let owner = id.map(|id| self.world.pods[id as usize].owner);
                Answer::Surveyed(Ok(owner.map(|owner| self.has(owner, &uid))))
            }
        };
        self.reply(&flight, answer);
    }

    /// Reads a Lease and changes its record. `None` if nobody understands it.
    fn read(&mut self, request: &Request) -> Option<(u64, Record, Answer)> {
        let Request::Update {
            lease,
            change,
            allowance,
        } = request
        else {
            return None;
        };
        let now = self.server();
        let lease = self.api.leases.entry(lease.clone()).or_default();
        if lease.garbled {
            return None;
        }
        let mut record = lease.record.clone();
        let (_, answer) = update(&mut record, change, allowance, now);
        Some((lease.version, record, Answer::Updated(answer)))
    }

    pub(super) fn write(&mut self, mut flight: Box<Flight>) {
        let (
            Request::Update {
                lease: key, change, ..
            },
            Some((version, record, answer)),
        ) = (&flight.request, flight.read.take())
        else {
            return;
        };
        let lease = self.api.leases.entry(key.clone()).or_default();
        if flight.fault == Some(Fault::Conflict) && (flight.tries == 0 || self.rng.chance(600)) {
            lease.version += 1;
        }
        if lease.record == record && lease.version == version {
            return self.reply(&flight, answer);
        }
        if lease.version != version || lease.garbled {
            flight.tries += 1;
            if flight.tries < TRIES {
                let latency = self.rng.between(3, 30);
                return self.after(latency, Happening::Arrive(flight));
            }
            return self.reply(
                &flight,
                Answer::Updated(Err(Refusal::Failed("conflict".to_owned()))),
            );
        }
        let proof = match &change.step {
            Step::Prove(proof) => Some(proof),
            _ => None,
        };
        let proof = proof.and_then(|proof| {
            let entry = record.entry(&change.id)?;
            let counts = entry.proof.as_ref() == Some(proof);
            let (pod, by) = (pod_of(&entry.uid)?, pod_of(&proof.uid)?);
            let captured = proof.captured;
            counts.then_some(What::Proved { pod, by, captured })
        });
        let before = lease
            .record
            .entry(&change.id)
            .and_then(|entry| pod_of(&entry.uid));
        let ends = matches!(change.step, Step::Conclude(_) | Step::ConcludeCanary(_));
        let failed = ends && record.failures > lease.record.failures;
        lease.record = record;
        lease.version += 1;
        let held = match key {
            LeaseKey::Owner(_) => Held::Owner,
            LeaseKey::Node(_) => Held::Node,
            LeaseKey::Slot(_) => Held::Slot,
            LeaseKey::Cluster | LeaseKey::Heals => Held::Cluster,
        };
        let entry = lease.record.entry(&change.id);
        let pod = entry.and_then(|entry| pod_of(&entry.uid));
        if held == Held::Owner
            && let Some(pod) = pod
        {
            self.api.repairs.insert(change.id.clone(), pod);
        }
        if let Some(pod) = self.api.repairs.get(&change.id).filter(|_| failed) {
            let what = What::Failed { pod: *pod, held };
            self.trace.push(Event { at: self.now, what });
        }
        let let_go = before.filter(|_| pod.is_none() && held == Held::Owner);
        self.trace.extend(let_go.map(|pod| Event {
            at: self.now,
            what: What::LetGo(pod),
        }));
        if let Some(pod) = pod.filter(|_| matches!(answer, Answer::Updated(Ok(_)))) {
            self.tell(What::Wrote { pod, held });
            if matches!(change.step, Step::Claim(_)) {
                self.tell(What::Claimed(pod));
            }
        } else if let Some(pod) = before.filter(|_| self.is_told_to_end(flight.agent)) {
            self.tell(What::Freed { pod, held });
        }
        if let Some(proof) = proof {
            self.tell(proof);
        }
        if held == Held::Owner {
            self.outdate_all();
        }
        self.reply(&flight, answer);
    }

    fn reply(&mut self, flight: &Flight, answer: Answer) {
        let answer = if flight.fault == Some(Fault::Lost) {
            self.failure(&flight.request, false)
        } else {
            answer
        };
        if flight.fault == Some(Fault::Late) {
            // Nobody waits for it any more.
            return;
        }
        if flight.fault == Some(Fault::KilledAfter) {
            return self.kill(flight.agent, flight.life);
        }
        let latency = match flight.fault {
            Some(Fault::Slow | Fault::Lost) => self.rng.between(SECOND, 5 * SECOND),
            _ => self.rng.between(5, 60),
        };
        let answer = Box::new(answer);
        self.after(
            latency,
            Happening::Answer(flight.agent, flight.life, flight.id, answer),
        );
    }

    fn check(&mut self, flight: &Flight, pod: &PodRef) -> Answer {
        let found = pod_of(&pod.uid).filter(|id| !self.world.pods[*id as usize].gone);
        let Some(id) = found else {
            return Answer::Checked(Ok(None));
        };
        self.tell(What::Checked {
            process: flight.process,
            pod: id,
        });
        let node = &self.world.nodes[self.world.pods[id as usize].node];
        let faulty = node.ztunnel.is_none() || !node.cni_ready;
        let judged = &self.world.pods[id as usize];
        let check = Check {
            owner: self.has(judged.owner, judged.uid.as_str()),
            standing: (*Arc::clone(&self.world.pods[id as usize].standing)).clone(),
            gates: Gates {
                node_fault: faulty.then(|| "not Ready".to_owned()),
                mesh_fault: self.world.no_istiod.then(|| "istiod".to_owned()),
                cordoned: node.cordoned,
                paused: self.world.paused.then(String::new),
            },
        };
        Answer::Checked(Ok(Some(Box::new(check))))
    }

    /// What an owner wants and has, without this pod.
    fn has(&self, owner: usize, uid: &str) -> Owner {
        let others = self.world.pods.iter().filter(|pod| {
            let deleting = pod.standing.facts.deleting;
            pod.owner == owner && pod.uid.as_str() != uid && !pod.gone && !deleting
        });
        Owner {
            wanted: self.world.owners[owner].wanted,
            others: others.map(|pod| Sibling::of(&pod.standing.facts)).collect(),
        }
    }

    /// What would keep the API from an act, if anything.
    fn refuses(&self, pod: &PodRef, delete: bool) -> Option<Acted> {
        let pod = pod_of(&pod.uid).map(|id| &self.world.pods[id as usize]);
        let Some(pod) = pod.filter(|pod| !pod.gone) else {
            return Some(Acted::Gone);
        };
        let facts = &pod.standing.facts;
        let blocked = self.world.owners[pod.owner].blocked && !delete && !facts.deleting;
        let why = if facts.ready {
            Withheld::DisruptionBudget
        } else {
            Withheld::UnhealthyPolicy
        };
        blocked.then(|| Acted::Refused(why, "429".to_owned()))
    }

    fn act(&mut self, flight: &Flight, pod: &PodRef, delete: bool) -> Answer {
        let found = pod_of(&pod.uid).filter(|id| !self.world.pods[*id as usize].gone);
        let refused = self.refuses(pod, delete);
        let accepted = refused.is_none();
        self.tell(What::Act {
            process: flight.process,
            pod: found,
            issued: flight.issued,
            delete,
            accepted,
        });
        let Some(id) = found.filter(|_| accepted) else {
            return Answer::Acted(refused.unwrap_or(Acted::Gone));
        };
        self.tally.accepted += 1;
        self.evict(id);
        match self.rng.index(50) {
            0..3 => self.scale_up(id),
            3..6 => self.scale_down(id),
            _ => {}
        }
        Answer::Acted(Acted::Accepted)
    }
}
