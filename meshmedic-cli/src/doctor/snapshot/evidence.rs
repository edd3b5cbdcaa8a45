// SPDX-License-Identifier: Apache-2.0
//! What the mesh's own parts say: ztunnels, istiods, their settings, Events and scans, reduced to what checks need.

use std::collections::BTreeMap;

use jiff::Timestamp;
use meshmedic_common::rules::PodRules;
use meshmedic_common::verdict::{Reason, State};
use serde::{Deserialize, Serialize};

use super::Part;

/// What one ztunnel says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ZtunnelFacts {
    pub(crate) namespace: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) node: String,
    #[serde(default)]
    pub(crate) dump: Part<ZtunnelDump>,
    #[serde(default)]
    pub(crate) metrics: Part<ZtunnelMetrics>,
    #[serde(default)]
    pub(crate) log: Part<LogFacts>,
}

/// What matters of a ztunnel's `config_dump`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ZtunnelDump {
    /// How many workloads of the whole mesh it knows.
    pub(crate) workloads_known: usize,
    pub(crate) services_known: usize,
    /// The workloads on its own node.
    pub(crate) workloads: Vec<Workload>,
    /// The pods for which it runs a proxy, by UID: `Up` or `Pending`.
    pub(crate) proxies: BTreeMap<String, String>,
    pub(crate) certificates: Vec<Certificate>,
}

/// A workload as istiod tells ztunnel of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Workload {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// `HBONE` or `TCP`.
    pub(crate) protocol: String,
    /// Its waypoint as ztunnel knows it, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waypoint: Option<String>,
}

/// A certificate that ztunnel holds, or tries to get.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Certificate {
    pub(crate) identity: String,
    /// `Available`, `Initializing` or `Unavailable: …`.
    pub(crate) state: String,
    /// When the last one of its chain that is its own ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) begins: Option<Timestamp>,
    /// The roots that came with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) roots: Vec<Root>,
}

/// A root certificate that a proxy trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Root {
    pub(crate) serial: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<Timestamp>,
}

/// What matters of a ztunnel's metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ZtunnelMetrics {
    pub(crate) active_proxies: Option<f64>,
    pub(crate) pending_proxies: Option<f64>,
    /// Connections that failed, by their `response_flags`.
    pub(crate) failed_connections: BTreeMap<String, f64>,
    /// Connections that came in without mTLS, by `namespace/workload` of their destination.
    pub(crate) plaintext: BTreeMap<String, f64>,
    /// The version, by `istio_build`.
    pub(crate) version: Option<String>,
}

/// What one istiod's metrics say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IstiodFacts {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Counters and gauges that checks look at, summed over their labels but the one that tells the kind, as
    /// `pilot_total_xds_rejects{type=cds}`.
    #[serde(default)]
    pub(crate) metrics: Part<BTreeMap<String, f64>>,
}

/// What one ztunnel's log says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LogFacts {
    /// Why it was not read to its end, where it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) broke_off: Option<String>,
    pub(crate) lines: u64,
    /// From the oldest line to the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) span: Option<(Timestamp, Timestamp)>,
    /// The pods that it accuses, as `namespace/name`, and of what.
    pub(crate) accused: BTreeMap<String, BTreeMap<String, Sighting>>,
    /// What only looks alike, or tells of other faults, by the name that `ztunnel_log::Apart` has in JSON.
    pub(crate) apart: BTreeMap<String, Sighting>,
    /// What it tells of itself, by the name that `ztunnel_log::EventKind` has in JSON.
    pub(crate) events: BTreeMap<String, Sighting>,
    /// The UIDs of pods whose proxies could not start.
    pub(crate) start_failures: BTreeMap<String, Sighting>,
    /// Who spoke to whom, where that matters.
    pub(crate) links: Vec<Link>,
}

/// Two ends of connections that are worth a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Link {
    pub(crate) kind: LinkKind,
    /// `namespace/name` of a pod, else its address.
    pub(crate) source: String,
    /// The same.
    pub(crate) destination: String,
    #[serde(flatten)]
    pub(crate) seen: Sighting,
}

/// What is worth a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LinkKind {
    /// Nothing came back from port 15008.
    HboneTimeout,
    /// Plaintext came to a captured pod, and was let in or not.
    Plaintext,
}

/// How often something was seen, when last, and how it looked then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sighting {
    pub(crate) count: u64,
    pub(crate) last: Timestamp,
    /// The last line, cleaned and cut.
    pub(crate) sample: String,
}

/// An Event, reduced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EventFact {
    /// Of the object that it tells of.
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) reason: String,
    /// Cleaned and cut.
    pub(crate) message: String,
    pub(crate) count: i32,
    pub(crate) last: Option<Timestamp>,
}

/// What matters of Istio's mesh configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct MeshConfig {
    pub(crate) root_namespace: Option<String>,
    pub(crate) trust_domain: Option<String>,
    /// Other trust domains that policies may name as if they were this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) trust_domain_aliases: Vec<String>,
    pub(crate) hold_application_until_proxy_starts: Option<bool>,
}

/// A pod's state, as a scan or an agent has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodState {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    /// Whether Istio's routes are in its network namespace, where anybody looked: `routed`, `absent`, `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) redirection: Option<String>,
    /// Istio's redirection rules in it, where its agent read them from the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rules: Option<PodRules>,
    /// Who looked: `agent`, `exec` or `probe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) via: Option<String>,
}

/// Whether the agent of one node reached that of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reached {
    pub(crate) from: String,
    pub(crate) to: String,
    /// `None` where the agent could not be asked.
    pub(crate) reached: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}
