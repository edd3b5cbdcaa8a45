// SPDX-License-Identifier: Apache-2.0
//! Deletes Leases in which nothing matters any more, so that owners and nodes that are gone leave nothing behind.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use tokio::task::JoinSet;

use meshmedic_common::kube::leases::SeenLease;
use meshmedic_common::spread::share;
use meshmedic_common::time::Time;

/// A Lease that nobody wrote for so long is idle; every limit has run out long before.
const IDLE: SignedDuration = SignedDuration::from_hours(24);
/// Agents come to it at different times within this span: the first one does it for all.
const SPREAD: u64 = 60 * 60;
/// How often to look.
const AGAIN: Duration = Duration::from_secs(10);

pub(super) struct Tidy {
    leases: Api<Lease>,
    patience: SignedDuration,
    next: Time,
    running: JoinSet<()>,
}

impl Tidy {
    pub(super) fn new(client: Client, namespace: &str, node: &str) -> Self {
        let spread = i64::try_from(share(node, SPREAD)).unwrap_or_default();
        Self {
            leases: Api::namespaced(client, namespace),
            patience: IDLE + SignedDuration::from_secs(spread),
            next: Time::default(),
            running: JoinSet::new(),
        }
    }

    /// Deletes what is idle, unless somebody wrote it meanwhile.
    pub(super) fn tidy<'a>(
        &mut self,
        now: Time,
        server: Timestamp,
        leases: impl Iterator<Item = &'a SeenLease>,
    ) {
        while self.running.try_join_next().is_some() {}
        if now < self.next || !self.running.is_empty() {
            return;
        }
        self.next = now + AGAIN;
        for lease in leases {
            let idle = lease
                .record
                .as_ref()
                .is_some_and(|record| record.repairs.is_empty());
            let old = lease
                .written
                .is_some_and(|written| server.duration_since(written) > self.patience);
            if !(idle && old) {
                continue;
            }
            let (leases, name) = (self.leases.clone(), lease.name.clone());
            let unchanged = DeleteParams::default().preconditions(Preconditions {
                resource_version: lease.resource_version.clone(),
                uid: None,
            });
            self.running.spawn(async move {
                match leases.delete(&name, &unchanged).await {
                    Ok(_) => tracing::debug!(lease = name, "deleted a Lease that was idle for a day"),
                    // Mostly that another agent was faster, or that somebody needs it again.
                    Err(error) => tracing::debug!(lease = name, %error, "an idle Lease was not deleted"),
                }
            });
        }
    }
}
