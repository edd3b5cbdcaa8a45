// SPDX-License-Identifier: Apache-2.0
//! Proves, for agents on any node, what became of successors that landed on this one.

use std::collections::{BTreeMap, BTreeSet};

use crate::uid::PodUid;
use crate::verdict::State;

use super::ledger::{Allowance, Change, Proof, Record, Step};
use super::{Answer, LeaseKey, Moment, Patient, Request, RequestId, may_succeed};
use crate::time::Time;

/// After a proof could not be written, the next try waits this long.
const RETRY: std::time::Duration = std::time::Duration::from_secs(5);

/// Proofs to be written and being written.
#[derive(Debug, Default)]
pub(super) struct Prover {
    waiting: Vec<(String, Change)>,
    asked: BTreeMap<RequestId, (String, String)>,
    /// Repairs of which the proof is on its way or written.
    known: BTreeSet<String>,
    not_before: Time,
}

impl Prover {
    /// Looks for successors among this node's pods.
    pub(super) fn look(
        &mut self,
        at: Moment,
        node: &str,
        owners: &BTreeMap<String, Record>,
        patients: &BTreeMap<PodUid, Patient<'_>>,
    ) {
        let open = |id: &String| owners.values().any(|record| record.entry(id).is_some());
        self.known.retain(open);
        if at.now < self.not_before {
            return;
        }
        for (owner, record) in owners {
            for entry in record.repairs.iter().filter(|entry| entry.proof.is_none()) {
                if self.known.contains(&entry.id) {
                    continue;
                }
                let successor = patients.values().find(|patient| {
                    let decided = patient.state == State::Captured || patient.state.is_finding();
                    decided && may_succeed(&patient.standing.facts, owner, &entry.uid, entry.at)
                });
                if let Some(patient) = successor {
                    let proof = Proof {
                        pod: patient.standing.facts.display_name(),
                        uid: patient.standing.facts.uid.clone(),
                        node: node.to_owned(),
                        captured: patient.state == State::Captured,
                        at: at.server,
                    };
                    let id = entry.id.clone();
                    self.known.insert(id.clone());
                    self.waiting.push((
                        owner.clone(),
                        Change {
                            id,
                            step: Step::Prove(proof),
                        },
                    ));
                }
            }
        }
    }

    /// When a proof that could not be written is tried again.
    pub(super) fn next_wake(&self, now: Time) -> Option<Time> {
        (self.not_before > now).then_some(self.not_before)
    }

    pub(super) fn take_requests(&mut self, numbers: &mut u64) -> Vec<(RequestId, Request)> {
        let mut requests = Vec::new();
        for (owner, change) in self.waiting.drain(..) {
            *numbers += 1;
            self.asked.insert(*numbers, (owner.clone(), change.id.clone()));
            let request = Request::Update {
                lease: LeaseKey::Owner(owner),
                change: Box::new(change),
                allowance: Allowance {
                    keeps_outcomes: true,
                    ..Allowance::default()
                },
            };
            requests.push((*numbers, request));
        }
        requests
    }

    /// Takes an answer, if it is one to a proof: gives the owner and its record. A proof that could not be
    /// written is tried again.
    pub(super) fn answer(&mut self, at: Moment, id: RequestId, answer: &Answer) -> Option<(String, Record)> {
        let (owner, repair) = self.asked.remove(&id)?;
        if let Answer::Updated(Ok(record)) = answer {
            return Some((owner, record.clone()));
        }
        self.known.remove(&repair);
        self.not_before = at.now + RETRY;
        None
    }
}
