// SPDX-License-Identifier: Apache-2.0
//! Which of a node's orphans may be repaired now, and what was told of the others.

mod pace;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::attempt::{Attempt, Canary, Care, Ended, Left, owner_of};
use super::ledger::{Entry, Record};
use super::prover::Prover;
use super::sabotage::{Defence, is_out, stands};
use super::slots::SlotTidy;
use super::{
    Answer, LeaseKey, Moment, Outcome, Patient, PodRef, RepairNotice, Repairer, Request, RequestId,
    gate_detail,
};
use crate::policy::{Gates, Mandate, Permissions, Withheld, forbids, permissions_forbid};
use crate::time::Time;
use crate::uid::PodUid;
use pace::Pace;

/// A canary's proof is good for this long.
const CANARY_LASTS: Duration = Duration::from_secs(60 * 60);
/// The span of the hourly budget.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Plans the repairs of one node.
#[derive(Debug)]
pub struct Planner {
    repairer: Repairer,
    attempts: Vec<Attempt>,
    told: BTreeMap<PodUid, Told>,
    /// When a pod of this node whose act the API refused may be tried again: one after the other, not each by itself.
    refused: Pace,
    /// Proves the successors of any repair that land here, if it may.
    prover: Option<Prover>,
    tidy: SlotTidy,
    /// Owners' records in which somebody is waiting for something, as last seen.
    owners: BTreeMap<String, Record>,
    /// This process's own acts: whatever clocks do, it never does more an hour.
    acts: VecDeque<(Time, String)>,
    /// When a successor was last proved, and whether on this node.
    canary: Option<Time>,
    canary_here: Option<Time>,
    /// In shadow mode the records are kept here.
    shadow: BTreeMap<LeaseKey, Record>,
    stopping: bool,
    numbers: u64,
    notices: Vec<RepairNotice>,
}

/// What was last told of a pod.
#[derive(Debug, Default)]
struct Told {
    why: Option<(Withheld, bool)>,
    would: bool,
    /// The API refused its act when it was last asked.
    refused: bool,
    pace: Pace,
}

impl Planner {
    /// A planner that knows of no repair; `proves` if it proves successors that land on its node.
    #[must_use]
    pub fn new(repairer: Repairer, proves: bool) -> Self {
        Self {
            repairer,
            attempts: Vec::new(),
            told: BTreeMap::new(),
            refused: Pace::default(),
            prover: proves.then(Prover::default),
            tidy: SlotTidy::default(),
            owners: BTreeMap::new(),
            acts: VecDeque::new(),
            canary: None,
            canary_here: None,
            shadow: BTreeMap::new(),
            stopping: false,
            numbers: 0,
            notices: Vec::new(),
        }
    }

    /// Whether anything may ever be asked of the API.
    #[must_use]
    pub fn may_act(&self) -> bool {
        let permissions = self.repairer.permissions();
        permissions.ready || permissions.stuck
    }

    /// Takes an owner's record as the watch of Leases shows it; `None` once it is gone.
    pub fn owner_seen(&mut self, at: Moment, owner: &str, record: Option<Record>) {
        match record.filter(|record| !record.is_idle()) {
            Some(record) => {
                self.adopt(at, owner, &record);
                self.owners.insert(owner.to_owned(), record);
                self.forget_over(at);
            }
            None => {
                self.owners.remove(owner);
            }
        }
    }

    /// What a node that is gone left behind concerns nobody once its time is over.
    fn forget_over(&mut self, at: Moment) {
        let attempts = &self.attempts;
        self.owners.retain(|owner, record| {
            let own = attempts.iter().any(|attempt| attempt.owner == *owner);
            own || !record.is_over(at.server)
        });
    }

    /// Takes over what an agent of this node that is gone had begun.
    fn adopt(&mut self, at: Moment, owner: &str, record: &Record) {
        if self.stopping || !self.may_act() {
            return;
        }
        for entry in &record.repairs {
            if self.is_left_over(entry)
                && entry.is_abandoned(at.server)
                && let Some(attempt) = Attempt::adopt(&self.repairer, at, owner, entry)
            {
                self.attempts.push(attempt);
            }
        }
    }

    /// Whether another process of this node began it.
    fn is_left_over(&self, entry: &Entry) -> bool {
        let known = self.attempts.iter().any(|attempt| attempt.id == entry.id);
        entry.node == self.repairer.node && !known
    }

    /// Judges every pod that is out of the mesh, and goes on with what is under way.
    ///
    /// `patients` are this node's pods by the identity in their cgroups.
    pub fn judge(
        &mut self,
        at: Moment,
        gates: &Gates,
        mass_loss: bool,
        patients: &BTreeMap<PodUid, Patient<'_>>,
    ) {
        if gates.node_fault.is_some() {
            self.canary = None;
            self.canary_here = None;
        }
        self.told.retain(|uid, _| {
            patients
                .get(uid)
                .is_some_and(|patient| patient.state.is_finding())
        });
        self.adopt_late(at);
        let confirming = Care::confirming(patients.values());
        self.proceed(at, gates, mass_loss, confirming, patients);
        if self.stopping {
            return;
        }
        if self.may_act() {
            self.tidy.begin(at.now);
        }
        if let Some(prover) = &mut self.prover {
            prover.look(at, &self.repairer.node, &self.owners, None, patients);
        }
        let mut findings: Vec<(&PodUid, &Patient<'_>)> = patients
            .iter()
            .filter(|(_, patient)| patient.state.is_finding())
            .collect();
        // Whoever was refused last comes last.
        let due = |uid: &PodUid| self.told.get(uid).map(|told| told.pace.not_before);
        findings.sort_by_key(|(uid, patient)| (due(uid), patient.since, *uid));
        for (uid, patient) in findings {
            self.consider(at, gates, (mass_loss, confirming), uid, patient);
        }
    }

    /// An agent that was still heard of when its record was seen may have gone silent since.
    fn adopt_late(&mut self, at: Moment) {
        let owners = std::mem::take(&mut self.owners);
        for (owner, record) in &owners {
            self.adopt(at, owner, record);
        }
        self.owners = owners;
        self.forget_over(at);
    }

    fn consider(
        &mut self,
        at: Moment,
        gates: &Gates,
        (mass_loss, confirming): (bool, bool),
        uid: &PodUid,
        patient: &Patient<'_>,
    ) {
        if self.attempts.iter().any(|attempt| attempt.pod.cgroup_uid == *uid) {
            return;
        }
        let facts = &patient.standing.facts;
        let pod = PodRef {
            namespace: facts.namespace.clone(),
            name: facts.name.clone(),
            uid: facts.uid.clone(),
            cgroup_uid: uid.clone(),
        };
        let permissions = self.repairer.permissions();
        let shadow = permissions_forbid(&permissions, facts, at.server) == Some(Withheld::DetectOnly);
        let mandate = if shadow {
            // What would hold if they were on.
            Mandate::Agent(Permissions {
                ready: true,
                stuck: true,
                ..permissions
            })
        } else {
            self.repairer.mandate
        };
        let told = self.told.entry(uid.clone()).or_default();
        if at.now < told.pace.not_before || (shadow && told.would) {
            return;
        }
        let refused = told.refused;
        let turn = at.now >= self.refused.not_before && self.attempts.is_empty();
        if refused && !turn && !is_out(Defence::Rehearsal) {
            return;
        }
        let (means, state) = (self.repairer.means, Some(patient.state));
        let forbidden = forbids(
            &mandate,
            means,
            state,
            patient.standing,
            &facts.uid,
            gates,
            at.server,
        );
        if let Some(why) = forbidden.filter(stands) {
            let detail = gate_detail(gates, why);
            return self.withhold(&pod, why, detail, shadow);
        }
        let owner = owner_of(facts).to_owned();
        if shadow {
            return self.pretend(at, mass_loss, &pod, owner);
        }
        let confirming = confirming.then_some(Withheld::Confirming);
        if let Some(why) = confirming.or_else(|| self.crowded(at, mass_loss)).filter(stands) {
            return self.withhold(&pod, why, None, false);
        }
        self.numbers += 1;
        let id = format!("{}-{}", self.repairer.holder, self.numbers);
        let stuck = !facts.ready;
        let mut attempt = Attempt::new(&self.repairer, at, id, pod, owner, stuck);
        attempt.rehearses_first(refused);
        let canary = self.canary(at, mass_loss);
        self.attempts.push(attempt.with_canary(canary));
    }

    /// Whether an act now would be the one that others wait for.
    fn canary(&self, at: Moment, mass_loss: bool) -> Canary {
        match (
            mass_loss && self.canary_here.is_none(),
            self.proved(at, mass_loss),
        ) {
            (true, _) => Canary::MustSucceed,
            (false, false) => Canary::Alone,
            (false, true) => Canary::No,
        }
    }

    /// Whether a successor was proved lately, so that more than one repair may be under way.
    fn proved(&self, at: Moment, mass_loss: bool) -> bool {
        let canary = if mass_loss { self.canary_here } else { self.canary };
        canary.is_some_and(|proved| at.now.since(proved) < CANARY_LASTS)
    }

    /// What this process knows by itself that forbids one more repair.
    fn crowded(&mut self, at: Moment, mass_loss: bool) -> Option<Withheld> {
        let under_way = self.attempts.len();
        if under_way > 0 && !self.proved(at, mass_loss) {
            return Some(Withheld::Canary);
        }
        if under_way >= self.repairer.limits.in_flight_node {
            return Some(Withheld::InFlightNode);
        }
        self.forget_acts(at.now);
        (self.acts.len() + under_way >= self.repairer.limits.per_hour_node).then_some(Withheld::BudgetNode)
    }

    fn forget_acts(&mut self, now: Time) {
        while self.acts.front().is_some_and(|(act, _)| now.since(*act) >= HOUR) {
            self.acts.pop_front();
        }
    }

    /// The same judgement by records of its own, for what would have been done.
    fn pretend(&mut self, at: Moment, mass_loss: bool, pod: &PodRef, owner: String) {
        self.numbers += 1;
        let id = format!("shadow-{}", self.numbers);
        let attempt = Attempt::new(&self.repairer, at, id, pod.clone(), owner, false);
        let alone = self.shadow.values().all(|record| record.acts.is_empty());
        let mut refused = (mass_loss && !alone).then_some(Withheld::Canary);
        for (lease, change, allowance) in attempt.claims(&self.repairer) {
            if refused.is_none() {
                let record = self.shadow.entry(lease).or_default();
                refused = record.apply(&change, &allowance, at.server).withheld;
            }
        }
        // Nothing is under way in the shadow: what would have been done counts as done.
        for record in self.shadow.values_mut() {
            record.repairs.clear();
        }
        match refused {
            Some(why) => {
                self.withhold(pod, why, None, true);
                self.postpone(at, &pod.cgroup_uid);
            }
            None => {
                self.told.entry(pod.cgroup_uid.clone()).or_default().would = true;
                self.notices.push(RepairNotice::Would { pod: pod.clone() });
            }
        }
    }

    /// Goes on with the repairs that wait for something other than an answer.
    fn proceed(
        &mut self,
        at: Moment,
        gates: &Gates,
        mass_loss: bool,
        confirming: bool,
        patients: &BTreeMap<PodUid, Patient<'_>>,
    ) {
        let care = Care {
            canary: self.canary(at, mass_loss),
            others: self.attempts.len() > 1,
            confirming,
        };
        for attempt in &mut self.attempts {
            let record = self.owners.get(&attempt.owner);
            attempt.proceed(&self.repairer, at, gates, patients, record, &care);
        }
        self.let_go(at);
    }

    /// Pods to be read now, since a repair hangs on what they show.
    pub fn looks(&mut self) -> Vec<PodUid> {
        self.attempts.iter_mut().filter_map(Attempt::take_look).collect()
    }

    /// What is to be asked of the API now. Each request is handed out once.
    pub fn requests(&mut self, at: Moment) -> Vec<(RequestId, Request)> {
        let mut requests = Vec::new();
        let numbers = &mut self.numbers;
        for attempt in &mut self.attempts {
            if let Some(request) = attempt.take_request(&self.repairer, at, numbers) {
                if let (_, Request::Act { pod, means }) = &request {
                    self.acts.push_back((at.now, attempt.id.clone()));
                    self.notices.push(RepairNotice::Started {
                        pod: pod.clone(),
                        means: *means,
                        stuck: attempt.is_stuck(),
                    });
                }
                requests.push(request);
            }
        }
        if let Some(prover) = &mut self.prover {
            requests.extend(prover.take_requests(numbers));
        }
        requests.extend(self.tidy.take_request(&self.repairer, at, numbers));
        requests
    }

    /// Takes the answer to a request.
    pub fn answer(&mut self, at: Moment, id: RequestId, answer: Answer) {
        let proved = self
            .prover
            .as_mut()
            .and_then(|prover| prover.answer(at, id, &answer));
        if let Some((owner, record)) = proved {
            return self.owner_seen(at, &owner, Some(record));
        }
        if self.tidy.answer(at, id, &answer) {
            return;
        }
        let mut heard = None;
        if let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.asked == Some(id)) {
            heard = attempt
                .brings(&answer)
                .map(|record| (attempt.owner.clone(), record));
            attempt.answer(&self.repairer, at, answer);
        }
        // A watch may be silent for long, and here is what it would tell.
        if let Some((owner, record)) = heard {
            self.owner_seen(at, &owner, Some(record));
        }
        self.let_go(at);
    }

    /// Lets go of the repairs that ended, and tells of them.
    fn let_go(&mut self, at: Moment) {
        for attempt in &mut self.attempts {
            let Some(ended) = attempt.take_ended() else {
                continue;
            };
            let (pod, stuck) = (attempt.pod.clone(), attempt.is_stuck());
            match ended {
                Ended::Withheld(why, detail) => {
                    // Nothing was done, so it costs nothing.
                    self.acts.retain(|(_, id)| *id != attempt.id);
                    tell(&mut self.told, &mut self.notices, &pod, why, detail, false);
                    postpone(&mut self.told, at, &pod.cgroup_uid);
                    let told = self.told.entry(pod.cgroup_uid.clone()).or_default();
                    told.refused = why.is_the_apis();
                    if told.refused {
                        self.refused.postpone(at.now);
                    }
                }
                Ended::Done(outcome) => {
                    self.refused.free(at.now);
                    match &outcome {
                        Outcome::Succeeded(proof) => {
                            // What was taken over may have been proved long ago.
                            let age = at.server.duration_since(proof.at);
                            let proved = at.now - Duration::try_from(age).unwrap_or_default();
                            self.canary = self.canary.max(Some(proved));
                            if proof.node == self.repairer.node {
                                self.canary_here = self.canary_here.max(Some(proved));
                            }
                        }
                        // What lies with its owner says nothing of anybody else.
                        Outcome::Waiting(_) | Outcome::Unwanted => {}
                        _ => {
                            self.canary = None;
                            self.canary_here = None;
                        }
                    }
                    postpone(&mut self.told, at, &pod.cgroup_uid);
                    self.notices.push(RepairNotice::Ended {
                        pod,
                        outcome,
                        took: attempt.took(at),
                        stuck,
                    });
                }
            }
        }
        let mut free_again = false;
        for over in self.attempts.extract_if(.., |attempt| attempt.over().is_some()) {
            free_again |= over.kept_others_waiting();
            // What was last seen of its record is older than this; it is not taken over once more.
            if over.over() == Some(Left::Nothing)
                && let Some(record) = self.owners.get_mut(&over.owner)
            {
                record.repairs.retain(|entry| entry.id != over.id);
            }
        }
        if free_again {
            for told in self.told.values_mut() {
                if told.why.is_some_and(|(why, _)| why.waits_for_another()) {
                    told.pace.free(at.now);
                }
            }
        }
    }

    fn withhold(&mut self, pod: &PodRef, why: Withheld, detail: Option<String>, shadow: bool) {
        tell(&mut self.told, &mut self.notices, pod, why, detail, shadow);
    }

    fn postpone(&mut self, at: Moment, uid: &PodUid) {
        postpone(&mut self.told, at, uid);
    }

    /// Begins nothing more, and lets go of what has not been done yet.
    pub fn stop(&mut self, at: Moment) {
        self.stopping = true;
        self.tidy = SlotTidy::default();
        for attempt in &mut self.attempts {
            attempt.stop(at);
        }
        self.let_go(at);
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.attempts.is_empty()
    }

    /// The pods whose repair is under way, and which of these were acted on.
    pub fn under_way(&self) -> impl Iterator<Item = (&PodRef, bool)> {
        self.attempts
            .iter()
            .map(|attempt| (&attempt.pod, attempt.acted()))
    }

    /// Why the repair of a pod was last withheld, and whether repairs of such pods are off.
    #[must_use]
    pub fn withheld(&self, uid: &PodUid) -> Option<(Withheld, bool)> {
        self.told.get(uid)?.why
    }

    /// Whether a pod would be repaired, were repairs of such pods on.
    #[must_use]
    pub fn would_repair(&self, uid: &PodUid) -> bool {
        self.told.get(uid).is_some_and(|told| told.would)
    }

    /// Whether this reason withholds the repair of some pod now.
    #[must_use]
    pub fn is_withheld_by(&self, why: Withheld) -> bool {
        self.told
            .values()
            .any(|told| told.why.is_some_and(|(last, _)| last == why))
    }

    /// How many acts this process did within the last hour.
    #[must_use]
    pub fn acts_this_hour(&self, now: Time) -> usize {
        self.acts.iter().filter(|(act, _)| now.since(*act) < HOUR).count()
    }

    /// Who repairs, and how carefully.
    #[must_use]
    pub const fn repairer(&self) -> &Repairer {
        &self.repairer
    }

    /// The owners for whose records somebody waits, by the controller's UID.
    pub fn awaited_owners(&self) -> impl Iterator<Item = &str> {
        self.owners.keys().map(String::as_str)
    }

    /// When there is something to do next, if nothing else happens.
    #[must_use]
    pub fn next_wake(&self, at: Moment) -> Option<Time> {
        let attempts = self.attempts.iter().filter_map(|attempt| attempt.next_wake(at));
        let told = self.told.values().map(|told| told.pace.not_before);
        let paced = told.chain(std::iter::once(self.refused.not_before));
        attempts
            .chain(paced.filter(|due| *due > at.now))
            .chain(self.prover.as_ref().and_then(|prover| prover.next_wake(at.now)))
            .chain(self.next_adoption(at))
            .chain(self.tidy.due_at(&self.repairer))
            .min()
    }

    /// When the next repair that another process of this node began may be taken over.
    fn next_adoption(&self, at: Moment) -> Option<Time> {
        if self.stopping || !self.may_act() {
            return None;
        }
        let entries = self.owners.values().flat_map(|record| &record.repairs);
        let left_over = entries.filter(|entry| self.is_left_over(entry));
        let left = left_over.filter_map(|entry| entry.abandoned_in(at.server));
        Some(at.now + left.min()?)
    }

    /// What happened since the last call, in order.
    pub fn drain(&mut self) -> Vec<RepairNotice> {
        std::mem::take(&mut self.notices)
    }
}

fn tell(
    told: &mut BTreeMap<PodUid, Told>,
    notices: &mut Vec<RepairNotice>,
    pod: &PodRef,
    why: Withheld,
    detail: Option<String>,
    shadow: bool,
) {
    let told = told.entry(pod.cgroup_uid.clone()).or_default();
    if told.why != Some((why, shadow)) {
        told.why = Some((why, shadow));
        notices.push(RepairNotice::Withheld {
            pod: pod.clone(),
            why,
            detail,
            shadow,
        });
    }
}

fn postpone(told: &mut BTreeMap<PodUid, Told>, at: Moment, uid: &PodUid) {
    told.entry(uid.clone()).or_default().pace.postpone(at.now);
}

#[cfg(test)]
mod tests;
