// SPDX-License-Identifier: Apache-2.0
//! Agents and people before the same clusters.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::ledger::{Entry, More, Proof, Record};
use super::*;
use crate::eligibility::Expectation;
use crate::facts::{Controller, PodFacts};
use crate::policy::{Overrides, Standing, forbids};
use crate::rng::Rng;
use crate::time::Time;
use crate::uid::PodUid;
use crate::verdict::{Reason, State};

const SEEDS: u64 = 1_000;
const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";
const OWNER: &str = "owner";
const NODE: &str = "n1";
const EPOCH: i64 = 1_700_000_000;
/// By then each of them has acted or was told why not.
const TURNS: usize = 60;

/// A pod that is out of the mesh, what holds above it, and what the records say.
#[derive(Clone)]
struct Cluster {
    standing: Standing,
    /// What the API shows just before the act.
    at_check: Standing,
    state: State,
    state_at_look: State,
    gates: Gates,
    gates_at_check: Gates,
    leases: BTreeMap<LeaseKey, Record>,
    acted: Acted,
    owner: Owner,
    now: Time,
    server: Timestamp,
}

/// How far somebody came with the repair.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// Why it was withheld, with what was said beside it.
    Withheld(Withheld, Option<String>),
    /// The API was asked, and accepted.
    Acted,
}

fn server(seconds: i64) -> Timestamp {
    Timestamp::from_second(EPOCH + seconds).unwrap()
}

fn entry(rng: &mut Rng, id: &str) -> Entry {
    let renewed = server(-i64::try_from(rng.below(120)).unwrap());
    Entry {
        id: id.to_owned(),
        pod: "shop/other".to_owned(),
        uid: "other".to_owned(),
        node: "n2".to_owned(),
        holder: "n2/1".to_owned(),
        slot: None,
        at: renewed,
        renewed,
        deadline: renewed + SignedDuration::from_secs(30),
        sent: None,
        before: Vec::new(),
        controller: None,
        means: Means::Evict,
        acted: false,
        canary: false,
        proof: None,
        more: More::default(),
    }
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let rng = &mut Rng::new(seed);
        let kind = *rng.pick(&[
            "ReplicaSet",
            "ReplicaSet",
            "ReplicaSet",
            "StatefulSet",
            "Job",
            "Rollout",
            "Node",
        ]);
        let controller = Controller {
            kind: kind.to_owned(),
            name: "cart".to_owned(),
            uid: OWNER.to_owned(),
        };
        let facts = PodFacts {
            namespace: "shop".to_owned(),
            name: "cart-1".to_owned(),
            uid: UID.to_owned(),
            node: Some(NODE.to_owned()),
            controller: (!rng.one_in(12)).then_some(controller),
            mirror: kind == "Node",
            created: Some(server(-9000)),
            ready: true,
            ready_since: Some(server(-9000)),
            repair: rng
                .one_in(8)
                .then(|| (*rng.pick(&["disabled", "enabled", "off", ""])).to_owned()),
            toggle_restore: rng.one_in(16).then(|| "ambient".to_owned()),
            deleting: rng.one_in(16),
            ..PodFacts::default()
        };
        let expectation = if rng.one_in(16) {
            Expectation::Exempt(Reason::OptedOut)
        } else {
            Expectation::Expected
        };
        let standing = Standing {
            facts,
            expectation,
            certain: !rng.one_in(16),
            namespace_repair: rng
                .one_in(12)
                .then(|| (*rng.pick(&["disabled", "no"])).to_owned()),
            namespace_strategy: None,
        };
        let mut at_check = standing.clone();
        match rng.below(10) {
            0 => at_check.facts.uid = "another".to_owned(),
            1 => at_check.facts.deleting = true,
            2 => at_check.facts.repair = Some("disabled".to_owned()),
            3 => at_check.facts.controller = None,
            _ => {}
        }
        let state = *rng.pick(&[State::Orphan, State::Orphan, State::Orphan, State::Imposter]);
        let looks = [
            State::Orphan,
            State::Orphan,
            State::Captured,
            State::Imposter,
            State::Unverifiable,
        ];
        let mut leases = BTreeMap::new();
        for key in [
            LeaseKey::Owner(OWNER.to_owned()),
            LeaseKey::Owner(UID.to_owned()),
            LeaseKey::Node(NODE.to_owned()),
            LeaseKey::Cluster,
        ] {
            let mut record = Record::default();
            if rng.one_in(4) {
                record.failures = u32::try_from(rng.below(7)).unwrap();
                record.last_failure = Some(server(-i64::try_from(rng.below(5000)).unwrap()));
            }
            if rng.one_in(8) && key != LeaseKey::Cluster {
                record.repairs.push(entry(rng, "other"));
            }
            if rng.one_in(8) {
                record.successors.push(Proof {
                    pod: "shop/cart-1".to_owned(),
                    uid: UID.to_owned(),
                    node: NODE.to_owned(),
                    captured: true,
                    at: server(-600),
                    more: More::default(),
                });
            }
            leases.insert(key, record);
        }
        Self {
            state_at_look: *rng.pick(&looks),
            gates: gates(rng, 12),
            gates_at_check: gates(rng, 16),
            acted: match rng.below(8) {
                0 => Acted::Refused(Withheld::DisruptionBudget, "429: no room".to_owned()),
                1 => Acted::Gone,
                _ => Acted::Accepted,
            },
            owner: owner(rng),
            standing,
            at_check,
            state,
            leases,
            now: Time::from_nanos(1 << 40),
            server: server(0),
        }
    }

    fn at(&self) -> Moment {
        Moment {
            now: self.now,
            server: self.server,
        }
    }

    fn serve(&mut self, request: Request) -> Answer {
        match request {
            Request::Update {
                lease,
                change,
                allowance,
            } => {
                let record = self.leases.entry(lease).or_default();
                Answer::Updated(update(record, &change, &allowance, self.server).1)
            }
            Request::Check(_) => Answer::Checked(Ok(Some(Box::new(Check {
                standing: self.at_check.clone(),
                gates: self.gates_at_check.clone(),
                owner: self.owner.clone(),
            })))),
            Request::Rehearse { .. } | Request::Act { .. } => Answer::Acted(self.acted.clone()),
            Request::Find(_) => Answer::Found(Ok(Presence::There)),
            Request::Survey { .. } => Answer::Surveyed(Ok(None)),
        }
    }

    fn patient(&self, state: State, read_at: Time) -> Patient<'_> {
        Patient {
            standing: &self.standing,
            state,
            since: Time::default(),
            read_at,
        }
    }

    /// How far the agent of its node comes.
    fn agent(mut self) -> Came {
        let uid = PodUid::parse(UID).unwrap();
        let mut planner = Planner::new(repairer(Claims::AGENT, agents()), true);
        let (mut state, mut read_at) = (self.state, Time::default());
        for _ in 0..TURNS {
            self.now = self.now + Duration::from_millis(1);
            let at = self.at();
            let patients = BTreeMap::from([(uid.clone(), self.patient(state, read_at))]);
            planner.judge(at, &self.gates, false, &patients);
            if !planner.looks().is_empty() {
                (state, read_at) = (self.state_at_look, self.now + Duration::from_millis(1));
            }
            for (id, request) in planner.requests(at) {
                let acts = matches!(request, Request::Act { .. });
                let answer = self.serve(request);
                if acts && answer == Answer::Acted(Acted::Accepted) {
                    return Came::Acted;
                }
                planner.answer(at, id, answer);
            }
            for notice in planner.drain() {
                if let RepairNotice::Withheld { why, detail, .. } = notice {
                    return Came::Withheld(why, detail);
                }
            }
        }
        panic!("the agent neither acted nor said why not");
    }

    /// How far a person comes who names the pod.
    fn person(mut self) -> Came {
        let uid = PodUid::parse(UID).unwrap();
        let by = repairer(Claims::PERSON, Mandate::Person(Overrides::default()));
        let at = self.at();
        let facts = self.standing.facts.clone();
        let why = forbids(
            &by.mandate,
            by.means,
            Some(self.state),
            &self.standing,
            UID,
            &self.gates,
            at.server,
        );
        if let Some(why) = why {
            return Came::Withheld(why, gate_detail(&self.gates, why));
        }
        let pod = PodRef {
            namespace: facts.namespace.clone(),
            name: facts.name.clone(),
            uid: UID.to_owned(),
            cgroup_uid: uid.clone(),
        };
        let mut repair = ByHand::new(by, at, pod, &facts);
        let (mut state, mut read_at) = (self.state, Time::default());
        for _ in 0..TURNS {
            self.now = self.now + Duration::from_millis(1);
            let at = self.at();
            let patients = BTreeMap::from([(uid.clone(), self.patient(state, read_at))]);
            repair.judge(at, &self.gates, &patients);
            if repair.take_look() {
                (state, read_at) = (self.state_at_look, self.now + Duration::from_millis(1));
            }
            for (id, request) in repair.requests(at) {
                let acts = matches!(request, Request::Act { .. });
                let answer = self.serve(request);
                if acts && answer == Answer::Acted(Acted::Accepted) {
                    return Came::Acted;
                }
                repair.answer(at, id, answer);
            }
            if let Some(Ended::Withheld(why, detail)) = repair.take_ended() {
                return Came::Withheld(why, detail);
            }
        }
        panic!("the command neither acted nor said why not");
    }
}

/// What the pod's controller wants and has.
fn owner(rng: &mut Rng) -> Owner {
    let other = Sibling {
        name: "cart-2".to_owned(),
        uid: "cart-2".to_owned(),
        node: None,
        started: true,
        ready: !rng.one_in(8),
        created: Some(server(-9000)),
    };
    Owner {
        wanted: if rng.one_in(8) { 3 } else { 2 },
        others: vec![other],
    }
}

fn gates(rng: &mut Rng, rare: u64) -> Gates {
    Gates {
        node_fault: rng
            .one_in(rare)
            .then(|| "ztunnel is not Ready on this node".to_owned()),
        mesh_fault: rng
            .one_in(rare)
            .then(|| "istiod has no ready endpoint".to_owned()),
        cordoned: rng.one_in(rare),
        paused: rng.one_in(rare).then(|| "an upgrade".to_owned()),
    }
}

fn agents() -> Mandate {
    Mandate::Agent(Permissions {
        ready: true,
        stuck: true,
        grace_period: Duration::ZERO,
        jobs: false,
    })
}

/// An agent and a person of the same limits. Only agents hold slots, and of these there are enough.
fn repairer(claims: Claims, mandate: Mandate) -> Repairer {
    Repairer {
        node: NODE.to_owned(),
        holder: "n1/1".to_owned(),
        mandate,
        means: Means::Evict,
        claims,
        limits: Limits::DEFAULT,
    }
}

/// An agent whose canary was not proved yet calls what else is under way on its node by that name.
fn without_canary(came: Came) -> Came {
    match came {
        Came::Withheld(Withheld::Canary, detail) => Came::Withheld(Withheld::InFlightNode, detail),
        other => other,
    }
}

#[test]
fn agents_and_people_are_refused_the_same_word_for_word() {
    let mut told = BTreeMap::new();
    for seed in 0..SEEDS {
        let cluster = Cluster::new(seed);
        let agent = without_canary(cluster.clone().agent());
        let person = cluster.person();
        assert_eq!(agent, person, "seed {seed}");
        let name = match person {
            Came::Withheld(why, _) => why.as_str(),
            Came::Acted => "acted",
        };
        *told.entry(name).or_insert(0_u32) += 1;
    }
    assert!(told.len() > 20, "too few of the rules were met: {told:?}");
    // Most of these clusters forbid something; some must not.
    assert!(told["acted"] > 5, "{told:?}");
}
