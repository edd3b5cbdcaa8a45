// SPDX-License-Identifier: Apache-2.0
//! A planner, the pods of its node and an API server that does as it is told.

use crate::eligibility::Expectation;
use crate::facts::{Controller, PodFacts};
use crate::policy::Standing;
use crate::verdict::State;

use jiff::Timestamp;

use super::super::super::ledger::{More, Proof};
use super::super::super::*;
use super::super::*;

pub(super) const EPOCH: i64 = 1_700_000_000;
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn repairer() -> Repairer {
    Repairer {
        node: "n1".to_owned(),
        holder: "n1-1".to_owned(),
        mandate: Mandate::Agent(Permissions {
            ready: true,
            stuck: true,
            grace_period: 5 * MINUTE,
            jobs: false,
        }),
        means: Means::Evict,
        claims: Claims::AGENT,
        limits: Limits::DEFAULT,
    }
}

pub(super) fn uid(n: u32) -> PodUid {
    PodUid::parse(&format!("{n:08x}-0000-0000-0000-000000000000")).unwrap()
}

/// A pod of this node with its state.
pub(super) struct Sick {
    pub(super) standing: Standing,
    pub(super) state: State,
    pub(super) read_at: Time,
}

/// A planner, the node's pods and the Leases.
pub(super) struct Bench {
    pub(super) planner: Planner,
    pub(super) pods: BTreeMap<PodUid, Sick>,
    pub(super) leases: BTreeMap<LeaseKey, Record>,
    pub(super) gates: Gates,
    pub(super) mass_loss: bool,
    pub(super) now: Time,
    pub(super) clock: i64,
    /// What the API does with an act.
    pub(super) acted: Acted,
    /// What every owner wants and has.
    pub(super) owner: Owner,
    /// And what it wants and has once the deadline is over: a pod that runs, unless a test says otherwise.
    pub(super) aftermath: Option<Owner>,
    pub(super) acts: Vec<PodRef>,
    /// How often the API was asked whether it would refuse.
    pub(super) rehearsals: usize,
    pub(super) notices: Vec<RepairNotice>,
}

impl Bench {
    pub(super) fn new(repairer: Repairer, pods: u32) -> Self {
        let mut bench = Self {
            planner: Planner::new(repairer, true),
            pods: BTreeMap::new(),
            leases: BTreeMap::new(),
            gates: Gates::default(),
            mass_loss: false,
            now: Time::from_nanos(1 << 40),
            clock: EPOCH,
            acted: Acted::Accepted,
            owner: Owner::default(),
            aftermath: Some(Owner {
                wanted: 1,
                others: vec![Sibling {
                    name: "new".to_owned(),
                    uid: "unread".to_owned(),
                    node: Some("n1".to_owned()),
                    started: true,
                    ready: true,
                    created: Timestamp::from_second(EPOCH + 3600).ok(),
                }],
            }),
            acts: Vec::new(),
            rehearsals: 0,
            notices: Vec::new(),
        };
        for n in 0..pods {
            bench.add(n, State::Orphan);
        }
        bench
    }

    /// A pod with an owner of its own.
    pub(super) fn add(&mut self, n: u32, state: State) {
        let facts = PodFacts {
            namespace: "shop".to_owned(),
            name: format!("pod-{n}"),
            uid: uid(n).to_string(),
            controller: Some(Controller {
                kind: "ReplicaSet".to_owned(),
                name: format!("owner-{n}"),
                uid: format!("owner-{n}"),
            }),
            created: Timestamp::from_second(EPOCH - 1000).ok(),
            ready: true,
            ..PodFacts::default()
        };
        let standing = Standing {
            facts,
            expectation: Expectation::Expected,
            certain: true,
            namespace_repair: None,
            namespace_strategy: None,
        };
        let read_at = self.now;
        let sick = Sick {
            standing,
            state,
            read_at,
        };
        self.pods.insert(uid(n), sick);
    }

    pub(super) fn pod(&mut self, n: u32) -> &mut Sick {
        self.pods.get_mut(&uid(n)).unwrap()
    }

    pub(super) fn at(&self) -> Moment {
        let server = Timestamp::from_second(self.clock).unwrap();
        Moment {
            now: self.now,
            server,
        }
    }

    pub(super) fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
        self.clock += i64::try_from(span.as_secs()).unwrap();
    }

    pub(super) fn judge(&mut self) {
        let at = self.at();
        let patients: BTreeMap<_, _> = self
            .pods
            .iter()
            .map(|(uid, sick)| (uid.clone(), sick.seen()))
            .collect();
        self.planner.judge(at, &self.gates, self.mass_loss, &patients);
        for uid in self.planner.looks() {
            self.now = self.now + Duration::from_millis(1);
            if let Some(sick) = self.pods.get_mut(&uid) {
                sick.read_at = self.now;
            }
        }
        self.notices.extend(self.planner.drain());
    }

    pub(super) fn requests(&mut self) -> Vec<(RequestId, Request)> {
        self.judge();
        self.judge();
        self.planner.requests(self.at())
    }

    /// What the API does with a request.
    pub(super) fn serve(&mut self, request: &Request) -> Answer {
        match request {
            Request::Update {
                lease,
                change,
                allowance,
            } => {
                let server = self.at().server;
                let record = self.leases.entry(lease.clone()).or_default();
                Answer::Updated(update(record, change, allowance, server).1)
            }
            Request::Check(pod) => Answer::Checked(Ok(self.pods.get(&pod.cgroup_uid).map(|sick| {
                Box::new(Check {
                    standing: sick.standing.clone(),
                    gates: self.gates.clone(),
                    owner: self.owner.clone(),
                })
            }))),
            Request::Rehearse { .. } => {
                self.rehearsals += 1;
                Answer::Acted(match &self.acted {
                    refused @ Acted::Refused(..) => refused.clone(),
                    _ => Acted::Accepted,
                })
            }
            Request::Act { pod, .. } => {
                self.acts.push(pod.clone());
                if matches!(self.acted, Acted::Accepted) {
                    self.pods.remove(&pod.cgroup_uid);
                }
                Answer::Acted(self.acted.clone())
            }
            Request::Find(pod) => Answer::Found(Ok(if self.pods.contains_key(&pod.cgroup_uid) {
                Presence::There
            } else {
                Presence::Leaving
            })),
            Request::Survey { .. } => Answer::Surveyed(Ok(self.aftermath.clone())),
        }
    }

    /// Serves requests until there are none, or one is `last`, which is given back unserved.
    pub(super) fn until(&mut self, last: impl Fn(&Request) -> bool) -> Option<(RequestId, Request)> {
        loop {
            let requests = self.requests();
            if requests.is_empty() {
                return None;
            }
            for (id, request) in requests {
                if last(&request) {
                    return Some((id, request));
                }
                let answer = self.serve(&request);
                self.answer(id, answer);
            }
        }
    }

    pub(super) fn answer(&mut self, id: RequestId, answer: Answer) {
        self.planner.answer(self.at(), id, answer);
        self.watch();
    }

    /// Lets the planner see the Leases.
    pub(super) fn watch(&mut self) {
        let at = self.at();
        for (lease, record) in &self.leases {
            if let LeaseKey::Owner(owner) = lease {
                self.planner.owner_seen(at, owner, Some(record.clone()));
            }
        }
        self.notices.extend(self.planner.drain());
    }

    pub(super) fn run(&mut self) {
        self.until(|_| false);
        self.judge();
    }

    pub(super) fn prove(&mut self, owner: u32, node: &str, captured: bool) {
        let at = self.at().server;
        let record = self
            .leases
            .get_mut(&LeaseKey::Owner(format!("owner-{owner}")))
            .unwrap();
        let proof = Proof {
            pod: "shop/new".to_owned(),
            uid: "new".to_owned(),
            node: node.to_owned(),
            captured,
            at,
            more: More::default(),
        };
        record.repairs[0].proof = Some(proof);
        self.watch();
    }

    pub(super) fn withheld(&self) -> Vec<Withheld> {
        let why = |notice: &RepairNotice| match notice {
            RepairNotice::Withheld { why, .. } => Some(*why),
            _ => None,
        };
        self.notices.iter().filter_map(why).collect()
    }

    pub(super) fn free(&self, lease: &LeaseKey) -> bool {
        self.leases.get(lease).is_none_or(Record::is_idle)
    }
}

impl Sick {
    pub(super) fn seen(&self) -> Patient<'_> {
        Patient {
            standing: &self.standing,
            state: self.state,
            since: Time::default(),
            read_at: self.read_at,
        }
    }
}
