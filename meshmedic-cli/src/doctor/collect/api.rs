// SPDX-License-Identifier: Apache-2.0
//! What the API has.

use std::collections::BTreeMap;
use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Resource};
use meshmedic_common::text::clean;
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

const GATEWAY_API: &str = "gateway.networking.k8s.io";
/// What names the release of the Gateway API that a CRD is from.
const BUNDLE: &str = "gateway.networking.k8s.io/bundle-version";
/// No name of a release is longer.
const MAX_WORDS: usize = 64;

/// How many kinds Kubernetes itself has that are read.
const OWN_KINDS: usize = 17;

/// Reads all of it.
pub(super) async fn read(connection: &Connection) -> Snapshot {
    let mut snapshot = Snapshot::new(Timestamp::UNIX_EPOCH, Scope::default());
    let reading = Reading {
        connection,
        progress: Progress::start("reading the cluster", OWN_KINDS + CUSTOM_KINDS.len() + 2),
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
        (
            snapshot.events,
            snapshot.custom,
            snapshot.server_version,
            snapshot.service_accounts,
            snapshot.resource_quotas,
            snapshot.gateway_api,
        ),
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
        async {
            tokio::join!(
                reading.events(),
                reading.custom(),
                reading.version(),
                reading.kind("serviceaccounts", redact::service_account),
                reading.kind("resourcequotas", redact::resource_quota),
                reading.gateway_api(),
            )
        },
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

    /// Objects of the kinds that may be installed, in the version that the server prefers of those that have them.
    async fn custom(&self) -> BTreeMap<String, Part<Vec<Custom>>> {
        let client = &self.connection.client;
        let groups = self
            .connection
            .ask("asking for API groups", || client.list_api_groups())
            .await;
        let groups = match groups {
            Ok(groups) => groups.groups,
            Err(failure) => {
                let unknown: Part<Vec<Custom>> = Part::of(Err(failure), "this API server names no groups");
                return CUSTOM_KINDS
                    .iter()
                    .map(|kind| (kind.key(), unknown.clone()))
                    .collect();
            }
        };
        let ours = |group: &&APIGroup| CUSTOM_KINDS.iter().any(|kind| kind.group == group.name);
        let versions = groups.iter().filter(ours).map(|group| self.versions(group));
        let versions: BTreeMap<(String, String), String> = futures_util::future::join_all(versions)
            .await
            .into_iter()
            .flatten()
            .collect();
        let read = CUSTOM_KINDS.iter().map(|kind| {
            let version = versions
                .get(&(kind.group.to_owned(), kind.plural.to_owned()))
                .cloned();
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

    /// Of each resource of a group the version to read it in: the preferred one, else any that has it.
    async fn versions(&self, group: &APIGroup) -> BTreeMap<(String, String), String> {
        let client = &self.connection.client;
        let preferred = group.preferred_version.iter();
        let mut found = BTreeMap::new();
        for version in preferred.chain(&group.versions) {
            let wanted = CUSTOM_KINDS.iter().filter(|kind| kind.group == group.name);
            if wanted
                .clone()
                .all(|kind| found.contains_key(&(group.name.clone(), kind.plural.to_owned())))
            {
                break;
            }
            let what = format!("asking for the resources of {}", version.group_version);
            let resources = self
                .connection
                .ask(&what, || client.list_api_group_resources(&version.group_version))
                .await;
            match resources {
                Ok(list) => {
                    for resource in list.resources {
                        found
                            .entry((group.name.clone(), resource.name))
                            .or_insert_with(|| version.version.clone());
                    }
                }
                // What cannot be told apart is asked for: the answer says what is wrong.
                Err(_) => {
                    for kind in wanted {
                        found
                            .entry((group.name.clone(), kind.plural.to_owned()))
                            .or_insert_with(|| version.version.clone());
                    }
                }
            }
        }
        found
    }

    /// The release of the Gateway API that its CRDs are from.
    async fn gateway_api(&self) -> Part<BTreeMap<String, String>> {
        let api: Api<CustomResourceDefinition> = Api::all(self.connection.client.clone());
        let ours = CUSTOM_KINDS.iter().filter(|kind| kind.group == GATEWAY_API);
        let asked = ours.map(|kind| {
            let (name, api) = (kind.key(), &api);
            async move {
                let what = format!("reading the metadata of {name}");
                let found = self.connection.ask(&what, || api.get_metadata(&name)).await;
                (name, found)
            }
        });
        let mut releases = BTreeMap::new();
        for (name, found) in futures_util::future::join_all(asked).await {
            match found {
                Ok(definition) => {
                    let mut annotations = definition.metadata.annotations.unwrap_or_default();
                    releases.insert(
                        name,
                        clean(&annotations.remove(BUNDLE).unwrap_or_default(), MAX_WORDS),
                    );
                }
                Err(failure) if failure.is_not_found() => {}
                Err(failure) => return Part::of(Err(failure), ""),
            }
        }
        self.progress.step();
        Part::Had(releases)
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
