// SPDX-License-Identifier: Apache-2.0
//! What the API has.

use std::collections::BTreeMap;
use std::fmt::Debug;

use jiff::Timestamp;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::connection::{Connection, Failure};
use crate::doctor::snapshot::{CUSTOM_KINDS, Custom, CustomKind, Part, Scope, Snapshot, Unknown, redact};
use crate::output::Progress;
use crate::selection::list;

impl<T> Part<T> {
    /// What came of a question. What is not there is told as `absent`.
    pub(in crate::doctor) fn of(result: Result<T, Failure>, absent: &str) -> Self {
        match result {
            Ok(had) => Self::Had(had),
            Err(failure) if failure.is_forbidden() => {
                Self::Unknown(Unknown::Forbidden(failure.missing_right()))
            }
            Err(failure) if failure.is_not_found() => Self::absent(absent),
            Err(failure) => Self::failed(failure.to_string()),
        }
    }
}

struct Reading<'c> {
    connection: &'c Connection,
    progress: Progress,
}

/// How many kinds Kubernetes itself has that are read.
const OWN_KINDS: usize = 15;

/// Reads all of it.
pub(super) async fn read(connection: &Connection) -> Snapshot {
    let mut snapshot = Snapshot::new(Timestamp::UNIX_EPOCH, Scope::default());
    let reading = Reading {
        connection,
        progress: Progress::start("reading the cluster", OWN_KINDS + CUSTOM_KINDS.len() + 1),
    };
    let reading = &reading;
    (
        (
            snapshot.pods,
            snapshot.namespaces,
            snapshot.nodes,
            snapshot.services,
        ),
        (
            snapshot.endpoint_slices,
            snapshot.daemon_sets,
            snapshot.deployments,
            snapshot.replica_sets,
        ),
        (
            snapshot.jobs,
            snapshot.mutating_webhooks,
            snapshot.validating_webhooks,
            snapshot.network_policies,
        ),
        (snapshot.stateful_sets, snapshot.cron_jobs),
        (snapshot.events, snapshot.custom, snapshot.server_version),
    ) = tokio::join!(
        async {
            tokio::join!(
                reading.kind("pods", redact::pod),
                reading.kind("namespaces", redact::namespace),
                reading.kind("nodes", redact::node),
                reading.kind("services", redact::service),
            )
        },
        async {
            tokio::join!(
                reading.kind("endpointslices", redact::endpoint_slice),
                reading.kind("daemonsets", redact::daemon_set),
                reading.kind("deployments", redact::deployment),
                reading.kind("replicasets", redact::replica_set),
            )
        },
        async {
            tokio::join!(
                reading.kind("jobs", redact::job),
                reading.kind("mutatingwebhookconfigurations", redact::mutating_webhook),
                reading.kind("validatingwebhookconfigurations", redact::validating_webhook),
                reading.kind("networkpolicies", redact::network_policy),
            )
        },
        async {
            tokio::join!(
                reading.kind("statefulsets", redact::stateful_set),
                reading.kind("cronjobs", redact::cron_job),
            )
        },
        async { tokio::join!(reading.events(), reading.custom(), reading.version()) },
    );
    snapshot
}

impl Reading<'_> {
    async fn kind<K, T>(&self, plural: &str, reduce: impl Fn(&K) -> T) -> Part<Vec<T>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::all(self.connection.client.clone());
        let what = format!("listing {plural}");
        let found = list(self.connection, &what, &api, &ListParams::default(), reduce).await;
        self.progress.step();
        Part::of(found, &format!("this API server has no {plural}"))
    }

    async fn events(&self) -> Part<Vec<crate::doctor::snapshot::EventFact>> {
        self.kind("events", redact::event)
            .await
            .map(|events| events.into_iter().flatten().collect())
    }

    async fn version(&self) -> Part<String> {
        let client = &self.connection.client;
        let version = self
            .connection
            .ask("asking for the version", || client.apiserver_version())
            .await;
        self.progress.step();
        Part::of(
            version.map(|version| version.git_version),
            "this API server has no version",
        )
    }

    /// Objects of the kinds that may be installed, in the version that the server prefers.
    async fn custom(&self) -> BTreeMap<String, Part<Vec<Custom>>> {
        let client = &self.connection.client;
        let groups = self
            .connection
            .ask("asking for API groups", || client.list_api_groups())
            .await;
        let groups = groups.map(|groups| {
            let preferred = groups.groups.into_iter().filter_map(|group| {
                let version = group
                    .preferred_version
                    .or_else(|| group.versions.into_iter().next())?;
                Some((group.name, version.version))
            });
            preferred.collect::<BTreeMap<_, _>>()
        });
        let groups = match groups {
            Ok(groups) => groups,
            Err(failure) => {
                let unknown: Part<Vec<Custom>> = Part::of(Err(failure), "this API server names no groups");
                return CUSTOM_KINDS
                    .iter()
                    .map(|kind| (kind.key(), unknown.clone()))
                    .collect();
            }
        };
        let read = CUSTOM_KINDS.iter().map(|kind| {
            let version = groups.get(kind.group).cloned();
            async move {
                let part = match version {
                    Some(version) => self.custom_kind(kind, &version).await,
                    None => Part::absent(format!("{} is not installed", kind.key())),
                };
                self.progress.step();
                (kind.key(), part)
            }
        });
        futures_util::future::join_all(read).await.into_iter().collect()
    }

    async fn custom_kind(&self, kind: &CustomKind, version: &str) -> Part<Vec<Custom>> {
        let types = GroupVersionKind::gvk(kind.group, version, kind.kind);
        let resource = ApiResource::from_gvk_with_plural(&types, kind.plural);
        let api: Api<DynamicObject> = Api::all_with(self.connection.client.clone(), &resource);
        let what = format!("listing {}", kind.key());
        let reduce = |object: &DynamicObject| redact::custom(kind, &resource.api_version, object);
        let found = list(self.connection, &what, &api, &ListParams::default(), reduce).await;
        Part::of(found, &format!("{} is not installed", kind.key()))
    }
}
