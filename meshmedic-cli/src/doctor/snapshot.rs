// SPDX-License-Identifier: Apache-2.0
//! What is known of a cluster at one moment: all that the checks look at, and nothing else.
//!
//! What could not be had says why. Nothing secret gets in: see [`redact`].

mod custom;
mod evidence;
mod file;
mod part;
pub(super) mod redact;
mod status;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ResourceQuota, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use meshmedic_common::identity::Identity;
use meshmedic_common::report::NodeReport;
use serde::{Deserialize, Serialize};

pub(crate) use custom::{CUSTOM_KINDS, Custom, CustomKind, Keep};
pub(crate) use evidence::{
    Certificate, EventFact, IstiodFacts, Link, LinkKind, LogFacts, MeshConfig, PodState, Reached, Root,
    Sighting, Workload, ZtunnelDump, ZtunnelFacts, ZtunnelMetrics,
};
#[cfg(fuzzing)]
pub(crate) use file::parse;
pub(crate) use file::{read, write};
pub(crate) use part::{Part, Unknown};
pub(crate) use status::{Condition, Status, StatusPart};

/// The version of the file. Another one is refused.
pub(crate) const VERSION: u32 = 1;
/// What a file calls itself.
pub(crate) const KIND: &str = "DoctorSnapshot";

/// What is known of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Snapshot {
    /// [`KIND`].
    pub(crate) kind: String,
    /// [`VERSION`].
    pub(crate) version: u32,
    /// The MeshMedic that took it.
    #[serde(default)]
    pub(crate) meshmedic: String,
    /// When, by the API server's clock.
    pub(crate) taken: Timestamp,
    /// What was asked about.
    #[serde(default)]
    pub(crate) scope: Scope,
    #[serde(default)]
    pub(crate) server_version: Part<String>,
    #[serde(default)]
    pub(crate) pods: Part<Vec<Pod>>,
    #[serde(default)]
    pub(crate) namespaces: Part<Vec<Namespace>>,
    /// Who was to be taken for Istio.
    #[serde(default)]
    pub(crate) istio: Identity,
    #[serde(default)]
    pub(crate) nodes: Part<Vec<Node>>,
    #[serde(default)]
    pub(crate) services: Part<Vec<Service>>,
    #[serde(default)]
    pub(crate) service_accounts: Part<Vec<ServiceAccount>>,
    #[serde(default)]
    pub(crate) resource_quotas: Part<Vec<ResourceQuota>>,
    #[serde(default)]
    pub(crate) endpoint_slices: Part<Vec<EndpointSlice>>,
    #[serde(default)]
    pub(crate) daemon_sets: Part<Vec<DaemonSet>>,
    #[serde(default)]
    pub(crate) deployments: Part<Vec<Deployment>>,
    #[serde(default)]
    pub(crate) replica_sets: Part<Vec<ReplicaSet>>,
    #[serde(default)]
    pub(crate) stateful_sets: Part<Vec<StatefulSet>>,
    #[serde(default)]
    pub(crate) jobs: Part<Vec<Job>>,
    #[serde(default)]
    pub(crate) cron_jobs: Part<Vec<CronJob>>,
    #[serde(default)]
    pub(crate) mutating_webhooks: Part<Vec<MutatingWebhookConfiguration>>,
    #[serde(default)]
    pub(crate) validating_webhooks: Part<Vec<ValidatingWebhookConfiguration>>,
    #[serde(default)]
    pub(crate) network_policies: Part<Vec<NetworkPolicy>>,
    /// Those that tell of trouble with pods.
    #[serde(default)]
    pub(crate) events: Part<Vec<EventFact>>,
    /// What istiod's ConfigMap says that matters here.
    #[serde(default)]
    pub(crate) mesh_config: Part<MeshConfig>,
    /// What istio-cni's ConfigMap says that matters here.
    #[serde(default)]
    pub(crate) cni_config: Part<BTreeMap<String, String>>,
    /// What Cilium's ConfigMap says that matters here.
    #[serde(default)]
    pub(crate) cilium_config: Part<BTreeMap<String, String>>,
    /// The release of the Gateway API that each of its CRDs is from, by the CRD's name.
    #[serde(default)]
    pub(crate) gateway_api: Part<BTreeMap<String, String>>,
    /// Objects of Istio, of the Gateway API and of CNIs, by `plural.group`.
    #[serde(default)]
    pub(crate) custom: BTreeMap<String, Part<Vec<Custom>>>,
    /// What each ztunnel says.
    #[serde(default)]
    pub(crate) ztunnels: Part<Vec<ZtunnelFacts>>,
    /// What each istiod says.
    #[serde(default)]
    pub(crate) istiods: Part<Vec<IstiodFacts>>,
    /// What MeshMedic's agents say, by node.
    #[serde(default)]
    pub(crate) agents: Part<BTreeMap<String, Part<NodeReport>>>,
    /// Which nodes' agents reached which others', of a sample.
    #[serde(default)]
    pub(crate) reach: Part<Vec<Reached>>,
    /// What a scan found, by agents, or by a look at the pods that were named.
    #[serde(default)]
    pub(crate) scan: Part<Vec<PodState>>,
}

/// What was asked about. The mesh itself always belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Scope {
    /// Only this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// Only these pods, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) pods: Vec<String>,
}

impl Snapshot {
    /// A snapshot in which nothing is known yet.
    pub(crate) fn new(taken: Timestamp, scope: Scope) -> Self {
        Self {
            kind: KIND.to_owned(),
            version: VERSION,
            meshmedic: env!("CARGO_PKG_VERSION").to_owned(),
            taken,
            scope,
            server_version: Part::default(),
            pods: Part::default(),
            namespaces: Part::default(),
            istio: Identity::default(),
            nodes: Part::default(),
            services: Part::default(),
            service_accounts: Part::default(),
            resource_quotas: Part::default(),
            endpoint_slices: Part::default(),
            daemon_sets: Part::default(),
            deployments: Part::default(),
            replica_sets: Part::default(),
            stateful_sets: Part::default(),
            jobs: Part::default(),
            cron_jobs: Part::default(),
            mutating_webhooks: Part::default(),
            validating_webhooks: Part::default(),
            network_policies: Part::default(),
            events: Part::default(),
            mesh_config: Part::default(),
            cni_config: Part::default(),
            cilium_config: Part::default(),
            gateway_api: Part::default(),
            custom: BTreeMap::new(),
            ztunnels: Part::default(),
            istiods: Part::default(),
            agents: Part::default(),
            reach: Part::default(),
            scan: Part::default(),
        }
    }

    /// What the agents that answered report, by node.
    pub(crate) fn reports(&self) -> impl Iterator<Item = (&str, &NodeReport)> {
        let agents = self.agents.had().into_iter().flatten();
        agents.filter_map(|(node, report)| Some((node.as_str(), report.had()?)))
    }

    /// The connections of a kind that ztunnels logged.
    pub(crate) fn links(&self, kind: LinkKind) -> impl Iterator<Item = &Link> {
        let logs = self.ztunnels.all().iter().filter_map(|ztunnel| ztunnel.log.had());
        logs.flat_map(|log| &log.links)
            .filter(move |link| link.kind == kind)
    }

    /// Objects of a kind that [`CUSTOM_KINDS`] names, by `plural.group`; none where they could not be had.
    pub(crate) fn custom(&self, kind: &str) -> &[Custom] {
        self.custom.get(kind).map_or(&[], |part| part.all())
    }
}
