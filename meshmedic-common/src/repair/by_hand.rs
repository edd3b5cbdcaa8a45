// SPDX-License-Identifier: Apache-2.0
//! One repair that a person asked for, of one pod: the same attempt as an agent's, proved by the same rule.

use std::collections::BTreeMap;

use super::attempt::{Attempt, Care, Ended, owner_of};
use super::ledger::Record;
use super::prover::Prover;
use super::successor::may_prove;
use super::{Answer, Moment, Patient, PodRef, Repairer, Request, RequestId};
use crate::facts::PodFacts;
use crate::policy::Gates;
use crate::time::Time;
use crate::uid::PodUid;

/// A person's repair of one pod.
#[derive(Debug)]
pub struct ByHand {
    repairer: Repairer,
    attempt: Attempt,
    prover: Prover,
    /// The owner's record, as last heard.
    owners: BTreeMap<String, Record>,
    numbers: u64,
}

impl ByHand {
    /// A repair that has not begun. `facts` are of the pod that was judged.
    #[must_use]
    pub fn new(repairer: Repairer, at: Moment, pod: PodRef, facts: &PodFacts) -> Self {
        let id = format!("{}/{}", repairer.holder, pod.uid);
        let owner = owner_of(facts).to_owned();
        Self {
            attempt: Attempt::new(&repairer, at, id, pod, owner, !facts.ready),
            repairer,
            prover: Prover::default(),
            owners: BTreeMap::new(),
            numbers: 0,
        }
    }

    /// The same, where a scan proved these pods orphans, by UID.
    #[must_use]
    pub fn knowing(mut self, orphans: impl IntoIterator<Item = String>) -> Self {
        self.attempt.knows(orphans);
        self
    }

    /// What its Leases must allow, by looks alone: nothing of it is written.
    #[must_use]
    pub fn looks(&self) -> Vec<Request> {
        self.attempt.looks(&self.repairer)
    }

    /// Goes on. `patients` are the pod that was judged and those that may prove its repair, each as last read.
    pub fn judge(&mut self, at: Moment, gates: &Gates, patients: &BTreeMap<PodUid, Patient<'_>>) {
        if self.attempt.is_following() {
            let (node, id) = (&self.repairer.node, self.attempt.id.as_str());
            self.prover.look(at, node, &self.owners, Some(id), patients);
        }
        let record = self.owners.get(&self.attempt.owner);
        self.attempt
            .proceed(&self.repairer, at, gates, patients, record, &Care::NAMED);
    }

    /// Whether the pod is to be read now, since the act hangs on what it shows. Said once.
    pub fn take_look(&mut self) -> bool {
        self.attempt.take_look().is_some()
    }

    /// What is to be asked of the API now. Each request is handed out once.
    pub fn requests(&mut self, at: Moment) -> Vec<(RequestId, Request)> {
        let own = self.attempt.take_request(&self.repairer, at, &mut self.numbers);
        let mut requests: Vec<_> = own.into_iter().collect();
        requests.extend(self.prover.take_requests(&mut self.numbers));
        requests
    }

    /// Takes the answer to a request.
    pub fn answer(&mut self, at: Moment, id: RequestId, answer: Answer) {
        if let Some((owner, record)) = self.prover.answer(at, id, &answer) {
            self.owners.insert(owner, record);
            return;
        }
        if self.attempt.asked == Some(id) {
            if let Some(record) = self.attempt.brings(&answer) {
                self.owners.insert(self.attempt.owner.clone(), record);
            }
            self.attempt.answer(&self.repairer, at, answer);
        }
    }

    /// Lets go of what has not been done yet, and leaves the rest to others.
    pub fn stop(&mut self, at: Moment) {
        self.attempt.stop(at);
    }

    /// How it ended, once that is known. Said once.
    pub fn take_ended(&mut self) -> Option<Ended> {
        self.attempt.take_ended()
    }

    /// Whether nothing is left to be done or written.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.attempt.over().is_some()
    }

    /// Whether the act happened.
    #[must_use]
    pub fn acted(&self) -> bool {
        self.attempt.acted()
    }

    /// Whether it waits for its proof.
    #[must_use]
    pub const fn is_following(&self) -> bool {
        self.attempt.is_following()
    }

    /// Whether what is seen of this pod would prove it.
    #[must_use]
    pub fn may_be_proved_by(&self, facts: &PodFacts) -> bool {
        let (owner, id) = (&self.attempt.owner, &self.attempt.id);
        let record = self.owners.get(owner);
        record.is_some_and(|record| {
            let entry = record.entry(id);
            entry.is_some_and(|entry| may_prove(facts, owner, entry, record))
        })
    }

    /// When there is something to do next, if nothing else happens.
    #[must_use]
    pub fn next_wake(&self, at: Moment) -> Option<Time> {
        let own = self.attempt.next_wake(at);
        own.into_iter().chain(self.prover.next_wake(at.now)).min()
    }
}
