// SPDX-License-Identifier: Apache-2.0
//! The agents' records, in Leases: what is claimed before an act, and what became of it.
//!
//! An owner's Lease is held while one of its pods is repaired, by an agent or from here. Acts done by hand are written
//! into the records of node and cluster, where they use up the agents' budgets; they are not limited by these. Where
//! there are no agents to agree with, the records are kept here, for as long as this runs.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use meshmedic_common::eligibility::Enablement;
use meshmedic_common::facts::PodFacts;
use meshmedic_common::kube::acts::{Acts, Known};
use meshmedic_common::kube::leases::{HEALS_LEASE, holder, record_of};
use meshmedic_common::policy::{Mandate, Means, Withheld};
use meshmedic_common::repair::heal::News;
use meshmedic_common::repair::ledger::Record;
use meshmedic_common::repair::{
    Answer, ByHand, Claims, LeaseKey, Limits, Moment, PodRef, Refusal, Repairer, Request, update,
};
use meshmedic_common::time::Time;

use super::{How, Risks};
use crate::connection::Connection;

/// Reads and writes records.
pub(super) struct Records {
    connection: Connection,
    namespace: String,
    holder: String,
    mandate: Mandate,
    limits: Limits,
    /// Why nothing is written into the cluster; then it is written here.
    absence: Option<String>,
    own: Mutex<BTreeMap<LeaseKey, Record>>,
}

impl Records {
    pub(super) async fn new(
        connection: &Connection,
        namespace: &str,
        risks: Risks,
        how: &How,
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
                 down: make sure that no one else repairs the same pods now"
            )),
            // Whoever may not read the namespace may still have the right to its Leases.
            _ => None,
        };
        let by = crate::control::whoami().unwrap_or_else(|| "unknown".to_owned());
        Ok(Self {
            connection: connection.clone(),
            namespace: namespace.to_owned(),
            holder: holder(&format!("cli:{by}")),
            mandate: Mandate::Person(risks.overrides()),
            limits: by_hand(how),
            absence,
            own: Mutex::default(),
        })
    }

    /// What people should know.
    pub(super) fn note(&self) -> Option<String> {
        self.absence.clone()
    }

    /// On whose word pods are repaired.
    pub(super) const fn mandate(&self) -> &Mandate {
        &self.mandate
    }

    /// Whether the records would allow it now.
    pub(super) async fn forbids(&self, pod: &PodFacts, means: Means) -> Option<(Withheld, Option<String>)> {
        let repair = self.repair(pod, means)?;
        for look in repair.looks() {
            match self
                .perform(pod, look, &Known::listed(Enablement::guessed()))
                .await
            {
                Answer::Updated(Err(Refusal::Withheld(why, detail))) => {
                    return Some((why, past_failures(why, detail)));
                }
                Answer::Updated(Err(Refusal::Failed(why))) => return Some((Withheld::NoLedger, Some(why))),
                _ => {}
            }
        }
        None
    }

    /// A repair of this pod that has not begun. `None` if its UID is none.
    pub(super) fn repair(&self, pod: &PodFacts, means: Means) -> Option<ByHand> {
        let repairer = Repairer {
            node: pod.node.clone().unwrap_or_default(),
            holder: self.holder.clone(),
            mandate: self.mandate,
            means,
            claims: Claims::PERSON,
            limits: self.limits.clone(),
        };
        Some(ByHand::new(repairer, self.moment(), pod_ref(pod)?, pod))
    }

    /// Now, by both clocks. The agents go by the API server's, too.
    pub(super) fn moment(&self) -> Moment {
        Moment {
            now: Time::now(),
            server: self.connection.clock.now().unwrap_or_else(Timestamp::now),
        }
    }

    /// Carries out a request for a pod.
    pub(super) async fn perform(&self, pod: &PodFacts, request: Request, known: &Known) -> Answer {
        if let Request::Update {
            lease,
            change,
            allowance,
        } = &request
            && self.absence.is_some()
        {
            let mut own = self.own.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let record = own.entry(lease.clone()).or_default();
            return Answer::Updated(update(record, change, allowance, self.moment().server).1);
        }
        let acts = self.acts(pod.node.as_deref().unwrap_or_default());
        acts.perform(request, pod.ready, known).await
    }

    /// Lets the agents heal again where they hold back because heals elsewhere did not take, now that one took on this
    /// node. Gives what came of it; nothing where they hold nothing back.
    pub(super) async fn heal_took(&self, node: &str) -> Option<String> {
        if self.absence.is_some() {
            return None;
        }
        let leases: Api<Lease> = Api::namespaced(self.connection.client.clone(), &self.namespace);
        let lease = leases.get_opt(HEALS_LEASE).await.ok()??;
        let record = record_of(&LeaseKey::Heals, &lease).ok()?;
        let allowance = self.limits.allowance(&LeaseKey::Heals);
        let held = record.holds_open(&allowance, self.moment().server)?;
        let step = News::Took.step(node);
        let written = self.acts(node).note(&LeaseKey::Heals, step, &allowance).await;
        Some(match written {
            Ok(()) => format!("a heal took here, so the agents heal again; they held back {held}"),
            Err(why) => format!(
                "the agents still hold back their heals, {held}: that one took here could not be written into the Lease \
                 {HEALS_LEASE} ({why})"
            ),
        })
    }

    fn acts(&self, node: &str) -> Acts {
        let Connection {
            client, clock, istio, ..
        } = &self.connection;
        let (client, clock, identity) = (client.clone(), clock.clone(), istio.identity.clone());
        Acts::new(client, clock, identity, node, &self.namespace)
    }
}

/// A person's limits: the agents', but for the number of acts, which are counted and never refused for it.
fn by_hand(how: &How) -> Limits {
    Limits {
        in_flight_node: how.max_in_flight.into(),
        per_hour_node: usize::MAX,
        per_hour_cluster: usize::MAX,
        successor_deadline: how.deadline,
        ..Limits::DEFAULT
    }
}

/// How to go past what a record says of failures.
pub(super) fn past_failures(why: Withheld, detail: Option<String>) -> Option<String> {
    let flag = match why {
        Withheld::Cooldown | Withheld::BreakerOwner | Withheld::BreakerNode | Withheld::BreakerCluster => {
            "--despite-failures"
        }
        Withheld::NoLedger => "--without-records goes on without",
        _ => return detail,
    };
    Some(match detail {
        Some(detail) => format!("{detail} ({flag})"),
        None => format!("({flag})"),
    })
}

fn pod_ref(facts: &PodFacts) -> Option<PodRef> {
    Some(PodRef {
        namespace: facts.namespace.clone(),
        name: facts.name.clone(),
        uid: facts.uid.clone(),
        cgroup_uid: facts.cgroup_uid()?,
    })
}

/// How long the outcome of a repair is tried to be written down before the command gives up.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
