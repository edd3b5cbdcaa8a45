// SPDX-License-Identifier: Apache-2.0
//! Deletes Leases in which nothing matters any more, so that owners and nodes that are gone leave nothing behind.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, Client};
use tokio::task::JoinSet;

use meshmedic_common::kube::leases::{self, SeenLease};
use meshmedic_common::spread::share;
use meshmedic_common::time::Time;

/// A Lease that nobody wrote for so long is idle; every limit has run out long before.
const IDLE: SignedDuration = SignedDuration::from_hours(24);
/// Agents come to it at different times within this span: the first one does it for all.
const SPREAD: u64 = 60 * 60;
/// How often to look.
const AGAIN: Duration = Duration::from_secs(10);
/// How often the Leases of nodes are listed, which nobody watches: each agent at its own time of the day.
const LISTED: SignedDuration = SignedDuration::from_hours(24);

pub(super) struct Tidy {
    leases: Api<Lease>,
    patience: SignedDuration,
    /// This agent's time of the day.
    share: SignedDuration,
    next: Time,
    /// By the API server's clock.
    next_list: Option<Timestamp>,
    running: JoinSet<()>,
}

impl Tidy {
    pub(super) fn new(client: Client, namespace: &str, node: &str) -> Self {
        let seconds = |of| SignedDuration::from_secs(i64::try_from(share(node, of)).unwrap_or_default());
        Self {
            leases: Api::namespaced(client, namespace),
            patience: IDLE + seconds(SPREAD),
            share: seconds(LISTED.unsigned_abs().as_secs()),
            next: Time::default(),
            next_list: None,
            running: JoinSet::new(),
        }
    }

    /// Deletes what is idle, unless somebody wrote it meanwhile. `owners` are the owners' Leases; whoever does not follow
    /// them has no business here.
    pub(super) fn tidy<'a>(
        &mut self,
        now: Time,
        server: Timestamp,
        may_act: bool,
        owners: impl Iterator<Item = &'a SeenLease>,
    ) {
        while self.running.try_join_next().is_some() {}
        if now < self.next || !self.running.is_empty() {
            return;
        }
        self.next = now + AGAIN;
        let owners = owners.filter(|lease| lease.owner.is_some());
        for lease in owners.filter(|lease| is_idle(lease, server, self.patience)) {
            let (leases, lease) = (self.leases.clone(), lease.clone());
            self.running.spawn(async move { delete(&leases, &lease).await });
        }
        let due = *self
            .next_list
            .get_or_insert_with(|| server.checked_add(self.share).unwrap_or(server));
        if may_act && server >= due {
            self.next_list = server.checked_add(LISTED).ok();
            let (leases, patience) = (self.leases.clone(), self.patience);
            self.running.spawn(async move {
                let nodes =
                    ListParams::default()
                        .match_any()
                        .labels(&format!("{}={}", leases::KIND, leases::NODE));
                match leases.list(&nodes).await {
                    Ok(found) => {
                        let seen = found.items.iter().filter_map(leases::seen);
                        for lease in seen.filter(|lease| is_idle(lease, server, patience)) {
                            delete(&leases, &lease).await;
                        }
                    }
                    Err(error) => tracing::debug!(%error, "the Leases of nodes were not listed"),
                }
            });
        }
    }
}

/// Whether nobody goes on with anything in it, and nobody wrote it for long.
fn is_idle(lease: &SeenLease, server: Timestamp, patience: SignedDuration) -> bool {
    let over = lease.record.as_ref().is_some_and(|record| record.is_over(server));
    let old = |written| server.duration_since(written) > patience;
    over && lease.written.is_some_and(old)
}

async fn delete(leases: &Api<Lease>, lease: &SeenLease) {
    let (name, unchanged) = (
        &lease.name,
        DeleteParams::default().preconditions(Preconditions {
            resource_version: lease.resource_version.clone(),
            uid: None,
        }),
    );
    match leases.delete(name, &unchanged).await {
        Ok(_) => tracing::debug!(lease = name, "deleted a Lease that was idle for a day"),
        // Mostly that another agent was faster, or that somebody needs it again.
        Err(error) => tracing::debug!(lease = name, %error, "an idle Lease was not deleted"),
    }
}

#[cfg(test)]
mod tests {
    use meshmedic_common::policy::Means;
    use meshmedic_common::repair::ledger::{Entry, More, Record};

    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(hours * 3600).unwrap()
    }

    #[test]
    fn what_a_node_that_is_gone_left_in_a_lease_keeps_it_no_longer_than_its_time() {
        let entry = Entry {
            id: "1".to_owned(),
            pod: "shop/cart".to_owned(),
            uid: "uid".to_owned(),
            node: "gone".to_owned(),
            holder: "gone-1".to_owned(),
            slot: None,
            at: at(0),
            renewed: at(0),
            deadline: at(1),
            sent: Some(at(0)),
            before: Vec::new(),
            controller: None,
            means: Means::Evict,
            acted: true,
            canary: false,
            proof: None,
            more: More::default(),
        };
        let of = |entry: &Entry| SeenLease {
            name: "meshmedic-owner-1".to_owned(),
            resource_version: None,
            owner: Some("owner".to_owned()),
            record: Some(Record {
                repairs: vec![entry.clone()],
                ..Record::default()
            }),
            written: Some(at(0)),
        };
        assert!(is_idle(&of(&entry), at(25), IDLE));
        assert!(!is_idle(&of(&entry), at(23), IDLE), "written today");
        let heard_of = Entry {
            renewed: at(25),
            ..entry.clone()
        };
        assert!(!is_idle(&of(&heard_of), at(25), IDLE), "somebody goes on with it");
        let open = Entry {
            deadline: at(26),
            ..entry
        };
        assert!(!is_idle(&of(&open), at(25), IDLE), "its time is not over");
    }
}
