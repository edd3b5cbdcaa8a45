// SPDX-License-Identifier: Apache-2.0
//! Objects whose kinds Kubernetes itself does not know.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A kind of which objects are read, if it is installed.
#[derive(Debug)]
pub(crate) struct CustomKind {
    pub(crate) group: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) kind: &'static str,
    /// Whether checks look into it. Of the others only their names are kept.
    pub(crate) with_spec: bool,
}

const fn kind(group: &'static str, plural: &'static str, kind: &'static str) -> CustomKind {
    CustomKind {
        group,
        plural,
        kind,
        with_spec: true,
    }
}

const fn name_only(group: &'static str, plural: &'static str, kind: &'static str) -> CustomKind {
    CustomKind {
        group,
        plural,
        kind,
        with_spec: false,
    }
}

const SECURITY: &str = "security.istio.io";
const NETWORKING: &str = "networking.istio.io";
const GATEWAY: &str = "gateway.networking.k8s.io";

/// The kinds that are read.
pub(crate) const CUSTOM_KINDS: &[CustomKind] = &[
    kind(SECURITY, "authorizationpolicies", "AuthorizationPolicy"),
    kind(SECURITY, "peerauthentications", "PeerAuthentication"),
    kind(SECURITY, "requestauthentications", "RequestAuthentication"),
    kind(NETWORKING, "destinationrules", "DestinationRule"),
    kind(NETWORKING, "gateways", "Gateway"),
    kind(NETWORKING, "serviceentries", "ServiceEntry"),
    kind(NETWORKING, "sidecars", "Sidecar"),
    kind(NETWORKING, "virtualservices", "VirtualService"),
    kind(NETWORKING, "workloadentries", "WorkloadEntry"),
    kind(NETWORKING, "workloadgroups", "WorkloadGroup"),
    kind(GATEWAY, "gateways", "Gateway"),
    kind(GATEWAY, "grpcroutes", "GRPCRoute"),
    kind(GATEWAY, "httproutes", "HTTPRoute"),
    name_only(
        "cilium.io",
        "ciliumclusterwidenetworkpolicies",
        "CiliumClusterwideNetworkPolicy",
    ),
    name_only("cilium.io", "ciliumnetworkpolicies", "CiliumNetworkPolicy"),
    name_only(
        "crd.projectcalico.org",
        "globalnetworkpolicies",
        "GlobalNetworkPolicy",
    ),
    name_only("crd.projectcalico.org", "networkpolicies", "NetworkPolicy"),
    name_only(
        "policy.networking.k8s.io",
        "adminnetworkpolicies",
        "AdminNetworkPolicy",
    ),
    name_only(
        "policy.networking.k8s.io",
        "baselineadminnetworkpolicies",
        "BaselineAdminNetworkPolicy",
    ),
];

impl CustomKind {
    /// `plural.group`, as its CRD is called and as [`super::Snapshot::custom`] has it.
    pub(crate) fn key(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }
}

/// One object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Custom {
    #[serde(default)]
    pub(crate) api_version: String,
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    /// Unlike in types of Kubernetes, anything may stand here, of any shape.
    #[serde(default)]
    pub(crate) spec: Value,
}

impl Custom {
    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// A list in its spec, such as `/http`; empty where it is no list.
    pub(crate) fn list(&self, pointer: &str) -> &[Value] {
        let value = self.spec.pointer(pointer).and_then(Value::as_array);
        value.map_or(&[], Vec::as_slice)
    }

    /// A text in its spec, such as `/mtls/mode`.
    pub(crate) fn text(&self, pointer: &str) -> Option<&str> {
        self.spec.pointer(pointer)?.as_str()
    }
}
