// SPDX-License-Identifier: Apache-2.0
//! Objects whose kinds Kubernetes itself does not know.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::status::Status;

/// What is kept of the spec of a kind's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All of it but what may be secret.
    Spec,
    /// These fields alone: the rest may hold anything.
    Fields(&'static [&'static str]),
    /// Nothing: such an object is named, and no check looks into it.
    Name,
}

/// A kind of which objects are read, if it is installed.
#[derive(Debug)]
pub(crate) struct CustomKind {
    pub(crate) group: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) keep: Keep,
}

const fn kind(group: &'static str, plural: &'static str, kind: &'static str) -> CustomKind {
    kept(group, plural, kind, Keep::Spec)
}

const fn name_only(group: &'static str, plural: &'static str, kind: &'static str) -> CustomKind {
    kept(group, plural, kind, Keep::Name)
}

const fn kept(group: &'static str, plural: &'static str, kind: &'static str, keep: Keep) -> CustomKind {
    CustomKind {
        group,
        plural,
        kind,
        keep,
    }
}

/// Whom a policy is for: all that is kept of kinds whose specs hold code or secrets.
const WHOM: Keep = Keep::Fields(&["selector", "targetRef", "targetRefs", "workloadSelector"]);

const SECURITY: &str = "security.istio.io";
const NETWORKING: &str = "networking.istio.io";
const GATEWAY: &str = "gateway.networking.k8s.io";
const CALICO: &str = "crd.projectcalico.org";
const POLICY: &str = "policy.networking.k8s.io";

/// The kinds that are read.
pub(crate) const CUSTOM_KINDS: &[CustomKind] = &[
    kind(SECURITY, "authorizationpolicies", "AuthorizationPolicy"),
    kind(SECURITY, "peerauthentications", "PeerAuthentication"),
    kind(SECURITY, "requestauthentications", "RequestAuthentication"),
    kind(NETWORKING, "destinationrules", "DestinationRule"),
    kept(NETWORKING, "envoyfilters", "EnvoyFilter", WHOM),
    kind(NETWORKING, "gateways", "Gateway"),
    kind(NETWORKING, "serviceentries", "ServiceEntry"),
    kind(NETWORKING, "sidecars", "Sidecar"),
    kind(NETWORKING, "virtualservices", "VirtualService"),
    kind(NETWORKING, "workloadentries", "WorkloadEntry"),
    kind(NETWORKING, "workloadgroups", "WorkloadGroup"),
    kept("extensions.istio.io", "wasmplugins", "WasmPlugin", WHOM),
    kind(GATEWAY, "gatewayclasses", "GatewayClass"),
    kind(GATEWAY, "gateways", "Gateway"),
    kind(GATEWAY, "grpcroutes", "GRPCRoute"),
    kind(GATEWAY, "httproutes", "HTTPRoute"),
    kind(GATEWAY, "referencegrants", "ReferenceGrant"),
    kind(GATEWAY, "tcproutes", "TCPRoute"),
    kind(GATEWAY, "tlsroutes", "TLSRoute"),
    kept(
        CALICO,
        "felixconfigurations",
        "FelixConfiguration",
        Keep::Fields(&[
            "bpfConnectTimeLoadBalancing",
            "bpfConnectTimeLoadBalancingEnabled",
            "bpfEnabled",
        ]),
    ),
    kept(
        "vpcresources.k8s.aws",
        "securitygrouppolicies",
        "SecurityGroupPolicy",
        Keep::Fields(&["podSelector", "serviceAccountSelector"]),
    ),
    name_only(
        "cilium.io",
        "ciliumclusterwidenetworkpolicies",
        "CiliumClusterwideNetworkPolicy",
    ),
    name_only("cilium.io", "ciliumnetworkpolicies", "CiliumNetworkPolicy"),
    name_only("crd.antrea.io", "clusternetworkpolicies", "ClusterNetworkPolicy"),
    name_only("crd.antrea.io", "networkpolicies", "NetworkPolicy"),
    name_only(CALICO, "globalnetworkpolicies", "GlobalNetworkPolicy"),
    name_only(CALICO, "networkpolicies", "NetworkPolicy"),
    name_only(POLICY, "adminnetworkpolicies", "AdminNetworkPolicy"),
    name_only(
        POLICY,
        "baselineadminnetworkpolicies",
        "BaselineAdminNetworkPolicy",
    ),
    name_only(POLICY, "clusternetworkpolicies", "ClusterNetworkPolicy"),
];

impl CustomKind {
    /// `plural.group`, as its CRD is called and as [`super::Snapshot::custom`] has it.
    pub(crate) fn key(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }

    /// Whether checks look into its objects.
    pub(crate) fn is_looked_into(&self) -> bool {
        self.keep != Keep::Name
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
    /// What controllers wrote about it.
    #[serde(default, skip_serializing_if = "Status::is_empty")]
    pub(crate) status: Status,
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
