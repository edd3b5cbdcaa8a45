// SPDX-License-Identifier: Apache-2.0
//! Proves, for agents on any node, what became of successors that landed on this one.

use std::collections::BTreeMap;

use crate::uid::PodUid;
use crate::verdict::State;

use super::ledger::{Allowance, Change, Entry, More, Proof, Record, Step};
use super::successor::may_prove;
use super::{Answer, LeaseKey, Moment, Patient, Request, RequestId};
use crate::time::Time;

/// After a proof could not be written, the next try waits this long.
const RETRY: std::time::Duration = std::time::Duration::from_secs(5);

/// Proofs to be written and being written.
#[derive(Debug, Default)]
pub(super) struct Prover {
    waiting: Vec<(String, Change)>,
    asked: BTreeMap<RequestId, (String, String)>,
    /// Repairs of which the proof is on its way or written, and the successor that proves each.
    known: BTreeMap<String, String>,
    not_before: Time,
}

impl Prover {
    /// Looks for successors among these pods of `node`; only those of one repair, if there is one to go by.
    pub(super) fn look(
        &mut self,
        at: Moment,
        node: &str,
        owners: &BTreeMap<String, Record>,
        only: Option<&str>,
        patients: &BTreeMap<PodUid, Patient<'_>>,
    ) {
        let open = |id: &String| owners.values().any(|record| record.entry(id).is_some());
        self.known.retain(|id, _| open(id));
        if at.now < self.not_before {
            return;
        }
        for (owner, record) in owners {
            let unproved = record.repairs.iter().filter(|entry| entry.proof.is_none());
            for entry in unproved.filter(|entry| only.is_none_or(|id| id == entry.id)) {
                if self.known.contains_key(&entry.id) {
                    continue;
                }
                let found = patients.values().filter(|patient| {
                    let facts = &patient.standing.facts;
                    is_decided(patient, entry)
                        && may_prove(facts, owner, entry, record)
                        && !self.known.values().any(|uid| *uid == facts.uid)
                });
                let oldest = found.min_by_key(|patient| {
                    let facts = &patient.standing.facts;
                    (facts.created, facts.name.clone())
                });
                if let Some(patient) = oldest {
                    let facts = &patient.standing.facts;
                    let proof = Proof {
                        pod: facts.display_name(),
                        uid: facts.uid.clone(),
                        node: facts.node.clone().unwrap_or_else(|| node.to_owned()),
                        captured: patient.state == State::Captured,
                        at: at.server,
                        more: More::default(),
                    };
                    self.known.insert(entry.id.clone(), facts.uid.clone());
                    let change = Change {
                        id: entry.id.clone(),
                        step: Step::Prove(proof),
                    };
                    self.waiting.push((owner.clone(), change));
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
            if record.entry(&repair).is_some_and(|entry| entry.proof.is_none()) {
                // Its successor proved another one meanwhile.
                self.known.remove(&repair);
            }
            return Some((owner, record.clone()));
        }
        self.known.remove(&repair);
        self.not_before = at.now + RETRY;
        None
    }
}

/// Whether what its node shows of a pod says how the repair ended. One that stays was a finding before, too.
fn is_decided(patient: &Patient<'_>, entry: &Entry) -> bool {
    patient.state == State::Captured || (patient.state.is_finding() && entry.means.replaces())
}
