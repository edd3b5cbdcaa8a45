// SPDX-License-Identifier: Apache-2.0
//! The agents' records, in Leases: what is claimed before an act, and what became of it.
//!
//! An owner's Lease is held while one of its pods is repaired, by an agent or from here. Acts done by hand are written
//! into the records of node and cluster, where they use up the agents' budgets; they are not limited by these.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use meshmedic_agent::cluster::acts::Acts;
use meshmedic_agent::options::holder;
use meshmedic_common::eligibility::Enablement;
use meshmedic_common::facts::PodFacts;
use meshmedic_common::policy::Withheld;
use meshmedic_common::repair::ledger::{Allowance, Change, Conclusion, Entry, LEASE, Proof, Record, Step};
use meshmedic_common::repair::{Answer, LeaseKey, Limits, Refusal, Request};
use meshmedic_common::verdict::State;

use super::Risks;
use crate::connection::Connection;
use crate::scan::ScannedPod;

/// What is held is renewed this often: three tries before it is lost.
const RENEW: Duration = Duration::from_secs(LEASE.as_secs() / 4);
/// How often an outcome is tried to be written down, and how long after each other.
const OUTCOME_TRIES: u32 = 5;
const OUTCOME_PAUSE: Duration = Duration::from_secs(1);

/// Reads and writes records.
pub(super) struct Records {
    connection: Connection,
    namespace: String,
    holder: String,
    risks: Risks,
    in_flight: usize,
    deadline: Duration,
    /// Why there are none.
    absence: Option<String>,
}

/// What one repair holds.
pub(super) struct Held {
    id: String,
    leases: Vec<LeaseKey>,
    renewed: tokio::time::Instant,
}

impl Records {
    pub(super) async fn new(
        connection: &Connection,
        namespace: &str,
        risks: Risks,
        in_flight: u16,
        deadline: Duration,
    ) -> anyhow::Result<Self> {
        let api: Api<Namespace> = Api::all(connection.client.clone());
        let found = connection
            .ask("looking for the agents' namespace", || {
                api.get_metadata(namespace)
            })
            .await;
        let absence = match found {
            _ if risks.without_records => Some(
                "nothing is written down (--without-records): an agent may repair the same pods at the same time"
                    .to_owned(),
            ),
            Err(failure) if failure.is_not_found() => Some(format!(
                "there is no namespace {namespace}, so there are no agents to agree with, and nothing is written \
                 down: let nobody else repair the same pods now"
            )),
            // Whoever may not read the namespace may still have the right to its Leases.
            _ => None,
        };
        let by = crate::control::whoami().unwrap_or_else(|| "somebody".to_owned());
        Ok(Self {
            connection: connection.clone(),
            namespace: namespace.to_owned(),
            holder: holder(&format!("cli:{by}")),
            risks,
            in_flight: in_flight.into(),
            deadline,
            absence,
        })
    }

    /// What people should know.
    pub(super) fn note(&self) -> Option<String> {
        self.absence.clone()
    }

    /// Whether the owner's record would allow it now.
    pub(super) async fn forbids(&self, pod: &PodFacts) -> Option<(Withheld, Option<String>)> {
        if self.absence.is_some() {
            return None;
        }
        let key = owner_key(pod);
        let mut record = match self.acts(pod).record(&key).await {
            Ok(record) => record,
            Err(why) => return Some((Withheld::NoLedger, Some(why))),
        };
        let entry = self.entry(pod, String::new());
        let now = self.now();
        let held_by = record.repairs.iter().find(|entry| !entry.is_abandoned(now));
        let by = held_by.map(|entry| format!("{} is being repaired by {}", entry.pod, entry.holder));
        let change = Change {
            id: String::new(),
            step: Step::Claim(Box::new(entry)),
        };
        let applied = record.apply(&change, &self.allowance(&key, true), now);
        let until = record.resting_until(&self.allowance(&key, true));
        let until = until.map(|until| format!("until {until:.0} (--despite-failures)"));
        applied.withheld.map(|why| (why, by.or(until)))
    }

    /// Claims what a repair of this pod must hold.
    pub(super) async fn claim(&self, pod: &PodFacts) -> Result<Held, (Withheld, Option<String>)> {
        let mut held = Held {
            id: format!("{}/{}", self.holder, pod.uid),
            leases: Vec::new(),
            renewed: tokio::time::Instant::now(),
        };
        if self.absence.is_some() {
            return Ok(held);
        }
        let node = pod.node.clone().unwrap_or_default();
        for key in [owner_key(pod), LeaseKey::Node(node), LeaseKey::Cluster] {
            let entry = self.entry(pod, held.id.clone());
            let allowance = self.allowance(&key, true);
            let step = Step::Claim(Box::new(entry));
            match self.update(pod, &held.id, key.clone(), step, allowance).await {
                Ok(_) => held.leases.push(key),
                Err(refusal) => {
                    let why = match refusal {
                        Refusal::Withheld(why) => (why, None),
                        Refusal::Failed(detail) => {
                            // Perhaps it was written all the same.
                            held.leases.push(key);
                            let detail = format!("{detail} (--without-records goes on without)");
                            (Withheld::NoLedger, Some(detail))
                        }
                    };
                    self.conclude(pod, held, Conclusion::NotDone).await;
                    return Err(why);
                }
            }
        }
        Ok(held)
    }

    /// Writes down that it was done.
    pub(super) async fn acted(&self, pod: &PodFacts, held: &Held) {
        let key = owner_key(pod);
        if held.leases.contains(&key) {
            let allowance = self.allowance(&key, false);
            let told = self
                .update(pod, &held.id, key, Step::Acted(None), allowance)
                .await;
            warn(pod, told);
        }
    }

    /// Shows that somebody is still at it, when it is time to.
    pub(super) async fn renew(&self, pod: &PodFacts, held: &mut Held) {
        if held.renewed.elapsed() < RENEW {
            return;
        }
        held.renewed = tokio::time::Instant::now();
        for key in held.leases.iter().filter(|key| **key != LeaseKey::Cluster) {
            let allowance = self.allowance(key, false);
            warn(
                pod,
                self.update(pod, &held.id, key.clone(), Step::Renew, allowance)
                    .await,
            );
        }
    }

    /// Writes down how it ended, and lets go.
    pub(super) async fn conclude(&self, pod: &PodFacts, held: Held, conclusion: Conclusion) {
        for key in held.leases.iter().rev() {
            for attempt in 1..=OUTCOME_TRIES {
                let step = Step::Conclude(conclusion.clone());
                let allowance = self.allowance(key, false);
                match self.update(pod, &held.id, key.clone(), step, allowance).await {
                    Err(Refusal::Failed(_)) if attempt < OUTCOME_TRIES => {
                        tokio::time::sleep(OUTCOME_PAUSE).await;
                    }
                    told => {
                        warn(pod, told);
                        break;
                    }
                }
            }
        }
    }

    /// What was seen of a successor, in the words of the records.
    pub(super) fn proof(&self, seen: &ScannedPod) -> Proof {
        Proof {
            pod: seen.display_name(),
            uid: seen.uid.clone(),
            node: seen.node.clone().unwrap_or_default(),
            captured: seen.state == State::Captured,
            at: self.now(),
        }
    }

    /// What carries out requests for a pod.
    pub(super) fn acts(&self, pod: &PodFacts) -> Acts {
        let Connection { client, clock, .. } = &self.connection;
        let node = pod.node.as_deref().unwrap_or_default();
        Acts::new(client.clone(), clock.clone(), node, &self.namespace)
    }

    async fn update(
        &self,
        pod: &PodFacts,
        id: &str,
        lease: LeaseKey,
        step: Step,
        allowance: Allowance,
    ) -> Result<Record, Refusal> {
        let change = Box::new(Change {
            id: id.to_owned(),
            step,
        });
        let request = Request::Update {
            lease,
            change,
            allowance,
        };
        match self
            .acts(pod)
            .perform(request, false, &Enablement::guessed())
            .await
        {
            Answer::Updated(result) => result,
            _ => Err(Refusal::Failed("another question was answered".to_owned())),
        }
    }

    fn entry(&self, pod: &PodFacts, id: String) -> Entry {
        let now = self.now();
        let deadline = SignedDuration::try_from(self.deadline).unwrap_or(SignedDuration::MAX);
        Entry {
            id,
            pod: pod.display_name(),
            uid: pod.uid.clone(),
            node: pod.node.clone().unwrap_or_default(),
            holder: self.holder.clone(),
            slot: None,
            at: now,
            renewed: now,
            deadline: now.checked_add(deadline).unwrap_or(Timestamp::MAX),
            acted: false,
            canary: false,
            proof: None,
        }
    }

    /// By the API server's clock, which the agents go by, too.
    pub(super) fn now(&self) -> Timestamp {
        self.connection.clock.now().unwrap_or_else(Timestamp::now)
    }

    /// What a record allows. Acts done by hand are counted, and never refused for their number.
    fn allowance(&self, key: &LeaseKey, begins: bool) -> Allowance {
        let limits = Limits {
            in_flight_node: self.in_flight,
            per_hour_node: usize::MAX,
            per_hour_cluster: usize::MAX,
            ..Limits::DEFAULT
        };
        let mut allowance = limits.allowance(key);
        if begins && self.risks.despite_failures {
            (allowance.breaker, allowance.cooldown) = (None, None);
        }
        allowance
    }
}

/// The Lease of whoever owns a pod; of a pod that nobody owns, its own.
fn owner_key(pod: &PodFacts) -> LeaseKey {
    let owner = pod.controller.as_ref().map(|owner| owner.uid.clone());
    LeaseKey::Owner(owner.unwrap_or_else(|| pod.uid.clone()))
}

fn warn(pod: &PodFacts, result: Result<Record, Refusal>) {
    let why = match result {
        Ok(_) => return,
        Err(Refusal::Withheld(why)) => why.sentence().to_owned(),
        Err(Refusal::Failed(why)) => why,
    };
    tracing::warn!(
        "what is known of the repair of {} could not be written down: {why}",
        pod.display_name()
    );
}
