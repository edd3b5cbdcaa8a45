// SPDX-License-Identifier: Apache-2.0
//! People who run `meshmedic repair`: the real attempt, and who drives it from a workstation.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshmedic_common::policy::{Gates, Mandate, Means, Overrides, Standing, forbids};
use meshmedic_common::repair::sabotage::stands;
use meshmedic_common::repair::{
    Answer, ByHand, Claims, Ended, Limits, Moment, Outcome, Patient, PodRef, Repairer, RequestId,
};
use meshmedic_common::time::Time;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::State;

use super::trace::{PERSON_CONFIRM, PodId, Shows, What};
use super::world::{Pod, moment};
use super::{Happening, MINUTE, SECOND, Sim, span};

/// A successor that is not captured yet is looked at again after this.
const LOOK_AGAIN: u64 = 2 * SECOND;
/// After Ctrl-C there is so much time.
const GRACE: u64 = 15 * SECOND;

/// One run of the command, for one pod.
pub(super) struct Person {
    pub(super) number: u32,
    repair: ByHand,
    pod: PodId,
    owner: usize,
    gates: Gates,
    read: Read,
    /// The pod that may prove it, as last read.
    candidate: Option<(PodId, Read, u32)>,
    looking: bool,
    pub(super) stopping: bool,
}

#[derive(Clone)]
struct Read {
    standing: Arc<Standing>,
    state: State,
    at: Time,
}

impl Read {
    fn patient(&self) -> Patient<'_> {
        Patient {
            standing: &self.standing,
            state: self.state,
            since: self.at,
            read_at: self.at,
        }
    }
}

impl Sim {
    /// Whether this is a person's keyboard and not an agent.
    pub(super) const fn is_person(&self, a: usize) -> bool {
        a >= self.world.nodes.len()
    }

    /// Somebody sits down at a keyboard and looks for a pod that is out of the mesh.
    pub(super) fn ask(&mut self, a: usize) {
        if self.calm {
            return;
        }
        let gap = self.rng.between(1, 2 * self.plan.asks);
        self.after(gap, Happening::Ask(a));
        if self.agents[a].person.is_some() || self.api.is_down(self.now) {
            return;
        }
        let node = self.rng.index(self.world.nodes.len());
        let lost = |id: &PodId| self.world.pods[*id as usize].listens != Shows::All;
        let lost: Vec<PodId> = self.world.nodes[node].pods.iter().copied().filter(lost).collect();
        if lost.is_empty() {
            return;
        }
        let pod = lost[self.rng.index(lost.len())];
        self.world.processes += 1;
        let number = self.world.processes;
        self.tell(What::Sat {
            node,
            process: number,
        });
        self.scan(a, number, pod, 0);
    }

    /// The readings that confirm a loss, then the plan.
    pub(super) fn scan(&mut self, a: usize, number: u32, id: PodId, before: u32) {
        let state = self.person_reads(number, id);
        if self.agents[a].person.is_some() || !matches!(state, State::Orphan | State::Imposter) {
            return;
        }
        if before < 2 {
            let next = Happening::Scan(a, number, id, before + 1);
            return self.after(PERSON_CONFIRM / 2, next);
        }
        self.plan_by_hand(a, number, id, state);
    }

    fn plan_by_hand(&mut self, a: usize, number: u32, id: PodId, state: State) {
        let pod = &self.world.pods[id as usize];
        let (standing, owner, node) = (Arc::clone(&pod.standing), pod.owner, pod.node);
        let mandate = Mandate::Person(Overrides::default());
        let gates = self.gates_of(node);
        let at = self.person_moment();
        let uid = &standing.facts.uid;
        let why = forbids(
            &mandate,
            Means::Evict,
            Some(state),
            &standing,
            uid,
            &gates,
            at.server,
        );
        if let Some(why) = why.filter(stands) {
            self.tally.asked[usize::from(why.rule())] += 1;
            return;
        }
        let repairer = Repairer {
            node: format!("n{node}"),
            holder: format!("cli-{number}"),
            mandate,
            means: Means::Evict,
            claims: Claims::PERSON,
            limits: Limits {
                in_flight_owner: 1,
                in_flight_node: 1,
                per_hour_node: usize::MAX,
                per_hour_cluster: usize::MAX,
                ..self.plan.rules.limits()
            },
        };
        let pod_ref = PodRef {
            namespace: standing.facts.namespace.clone(),
            name: standing.facts.name.clone(),
            uid: uid.clone(),
            cgroup_uid: self.world.pods[id as usize].uid.clone(),
        };
        let repair = ByHand::new(repairer, at, pod_ref, &standing.facts);
        let read = Read {
            standing,
            state,
            at: self.now,
        };
        let agent = &mut self.agents[a];
        agent.life += 1;
        agent.person = Some(Box::new(Person {
            number,
            repair,
            pod: id,
            owner,
            gates,
            read,
            candidate: None,
            looking: false,
            stopping: false,
        }));
        self.step_person(a);
    }

    /// What the API shows to a person, who sees ztunnel's age as well.
    fn gates_of(&self, node: usize) -> Gates {
        let node = &self.world.nodes[node];
        let settled = self.now.since(node.ztunnel_since) >= span(self.plan.rules.settle);
        let faulty = node.ztunnel.is_none() || !node.cni_ready || !settled;
        Gates {
            node_fault: faulty.then(|| "not Ready, or not for long".to_owned()),
            mesh_fault: self.world.no_istiod.then(|| "istiod".to_owned()),
            cordoned: node.cordoned,
            paused: self.world.paused.then(String::new),
        }
    }

    fn person_moment(&self) -> Moment {
        moment(self.now, self.api.offset)
    }

    /// One reading of a pod's netns by a person's command.
    fn person_reads(&mut self, number: u32, id: PodId) -> State {
        let pod = &self.world.pods[id as usize];
        let node = &self.world.nodes[pod.node];
        let (gone, listens, unreadable) = (pod.gone, pod.listens, node.unreadable);
        let settled =
            node.ztunnel.is_some() && self.now.since(node.ztunnel_since) >= span(self.plan.rules.settle);
        let shows = if gone || (unreadable && self.rng.chance(700)) {
            Shows::Unreadable
        } else {
            listens
        };
        self.tell(What::Read {
            process: number,
            pod: id,
            shows,
        });
        match shows {
            Shows::All => State::Captured,
            Shows::Unreadable => State::Unverifiable,
            Shows::Imposter => State::Imposter,
            // A loss is not believed while ztunnel settles.
            Shows::None | Shows::Some if !settled => State::Suspect,
            Shows::None => State::Orphan,
            Shows::Some => State::Partial,
        }
    }

    pub(super) fn person_looks(&mut self, a: usize, life: u32) {
        if self.agents[a].life != life {
            return;
        }
        let Some(mut person) = self.agents[a].person.take() else {
            return;
        };
        let state = self.person_reads(person.number, person.pod);
        let standing = Arc::clone(&self.world.pods[person.pod as usize].standing);
        person.read = Read {
            standing,
            state,
            at: self.now,
        };
        self.agents[a].person = Some(person);
        self.step_person(a);
    }

    /// Looks for the successor, and reads it.
    pub(super) fn person_follows(&mut self, a: usize, life: u32) {
        if self.agents[a].life != life {
            return;
        }
        let Some(mut person) = self.agents[a].person.take() else {
            return;
        };
        person.looking = false;
        let may = |pod: &&Pod| {
            let facts = &pod.standing.facts;
            let enrolled = facts.enrolment == meshmedic_common::facts::Enrolment::Enabled;
            !pod.gone && pod.owner == person.owner && enrolled && person.repair.may_be_proved_by(facts)
        };
        let found = self
            .world
            .pods
            .iter()
            .filter(may)
            .min_by_key(|pod| pod.standing.facts.created);
        if let Some(id) = found.and_then(|pod| super::world::pod_of(pod.uid.as_str())) {
            let state = self.person_reads(person.number, id);
            let lost = match &person.candidate {
                Some((before, _, lost)) if *before == id && state == State::Orphan => lost + 1,
                _ => u32::from(state == State::Orphan),
            };
            // A loss is believed after three readings, as in a scan.
            let state = if state == State::Orphan && lost < 3 {
                State::Suspect
            } else {
                state
            };
            let read = Read {
                standing: Arc::clone(&self.world.pods[id as usize].standing),
                state,
                at: self.now,
            };
            person.candidate = Some((id, read, lost));
        }
        self.agents[a].person = Some(person);
        self.step_person(a);
    }

    pub(super) fn person_answered(&mut self, a: usize, id: RequestId, answer: Answer) {
        let at = self.person_moment();
        if let Some(person) = &mut self.agents[a].person {
            person.repair.answer(at, id, answer);
        }
        self.step_person(a);
    }

    /// Ctrl-C.
    pub(super) fn interrupt(&mut self, a: usize) {
        let at = self.person_moment();
        let life = self.agents[a].life;
        if let Some(person) = &mut self.agents[a].person {
            person.stopping = true;
            person.repair.stop(at);
        }
        self.after(GRACE, Happening::Kill(a, life));
        self.step_person(a);
    }

    /// The command is killed.
    pub(super) fn leave(&mut self, a: usize) {
        let agent = &mut self.agents[a];
        agent.life += 1;
        if let Some(person) = agent.person.take() {
            self.tell(What::Ended {
                node: a,
                process: person.number,
            });
        }
    }

    /// One turn of the command's loop.
    pub(super) fn step_person(&mut self, a: usize) {
        let Some(mut person) = self.agents[a].person.take() else {
            return;
        };
        let (at, life) = (self.person_moment(), self.agents[a].life);
        let mut patients: BTreeMap<PodUid, Patient<'_>> = BTreeMap::new();
        patients.insert(
            self.world.pods[person.pod as usize].uid.clone(),
            person.read.patient(),
        );
        if let Some((id, read, _)) = &person.candidate {
            patients.insert(self.world.pods[*id as usize].uid.clone(), read.patient());
        }
        person.repair.judge(at, &person.gates, &patients);
        drop(patients);
        if person.repair.take_look() {
            let wait = self.rng.between(50, 3 * SECOND);
            self.after(wait, Happening::Look(a, life));
        }
        if person.repair.is_following() && !person.looking {
            person.looking = true;
            self.after(LOOK_AGAIN, Happening::Follow(a, life));
        }
        let requests = person.repair.requests(at);
        if let Some(ended) = person.repair.take_ended() {
            match ended {
                Ended::Withheld(why, _) => self.tally.asked[usize::from(why.rule())] += 1,
                Ended::Done(outcome) => {
                    self.tally.by_hand += 1;
                    self.tally.by_hand_proved += u64::from(matches!(outcome, Outcome::Succeeded(_)));
                }
            }
        }
        let (number, over, stopped) = (person.number, person.repair.is_over(), person.stopping);
        if let Some(next) = person.repair.next_wake(at) {
            let wait = u64::try_from(next.since(self.now).as_millis())
                .unwrap_or(MINUTE)
                .max(1);
            self.after(wait.min(MINUTE), Happening::Turn(a, life));
        }
        self.agents[a].person = Some(person);
        for (id, request) in requests {
            self.send(a, number, id, request);
        }
        if over {
            // It wrote down what it knew.
            self.agents[a].person = None;
            if stopped {
                self.tell(What::Ended {
                    node: a,
                    process: number,
                });
            }
        }
    }

    pub(super) fn person_turns(&mut self, a: usize, life: u32) {
        if self.agents[a].life == life {
            self.step_person(a);
        }
    }
}
