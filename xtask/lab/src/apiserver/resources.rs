// SPDX-License-Identifier: Apache-2.0
//! The resources that are served. Everything else follows from this table.

use std::sync::atomic::{AtomicBool, Ordering};

/// One resource.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) short: &'static str,
    pub(crate) namespaced: bool,
    /// Whether its status is written through a subresource of its own.
    pub(crate) status: bool,
    /// Whether an update may leave out the resource version.
    pub(crate) unconditional: bool,
    /// Whether it is Istio's: served once Istio's CRDs are installed.
    pub(crate) of_istio: bool,
}

/// Whether Istio's CRDs are installed in this server.
static ISTIO: AtomicBool = AtomicBool::new(false);

/// Installs Istio's CRDs.
pub(crate) fn install_istio() {
    ISTIO.store(true, Ordering::Relaxed);
}

/// The resources that are served now.
pub(crate) fn served() -> impl Iterator<Item = &'static Resource> {
    let istio = ISTIO.load(Ordering::Relaxed);
    RESOURCES
        .iter()
        .filter(move |resource| istio || !resource.of_istio)
}

const fn resource(
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    short: &'static str,
    namespaced: bool,
    status: bool,
) -> Resource {
    Resource {
        group,
        version: "v1",
        plural,
        kind,
        short,
        namespaced,
        status,
        unconditional: true,
        of_istio: false,
    }
}

/// A resource of one of Istio's CRDs, or of the Gateway API's.
const fn of_istio(resource: Resource) -> Resource {
    Resource {
        of_istio: true,
        unconditional: false,
        ..resource
    }
}

/// A resource for which the real one insists on a resource version in an update.
const fn conditional(resource: Resource) -> Resource {
    Resource {
        unconditional: false,
        ..resource
    }
}

const SECURITY: &str = "security.istio.io";
const NETWORKING: &str = "networking.istio.io";
const GATEWAY: &str = "gateway.networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const HOOKS: &str = "admissionregistration.k8s.io";
const FLOWS: &str = "flowcontrol.apiserver.k8s.io";

/// The table.
pub(crate) static RESOURCES: &[Resource] = &[
    resource("", "pods", "Pod", "po", true, true),
    resource("", "namespaces", "Namespace", "ns", false, true),
    resource("", "nodes", "Node", "no", false, true),
    resource("", "configmaps", "ConfigMap", "cm", true, false),
    resource("", "services", "Service", "svc", true, true),
    resource("", "serviceaccounts", "ServiceAccount", "sa", true, false),
    resource("", "events", "Event", "ev", true, false),
    resource("apps", "deployments", "Deployment", "deploy", true, true),
    resource("apps", "replicasets", "ReplicaSet", "rs", true, true),
    resource("apps", "statefulsets", "StatefulSet", "sts", true, true),
    resource("apps", "daemonsets", "DaemonSet", "ds", true, true),
    resource("batch", "jobs", "Job", "", true, true),
    resource("batch", "cronjobs", "CronJob", "cj", true, true),
    conditional(resource(
        "policy",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        "pdb",
        true,
        true,
    )),
    conditional(resource(
        "coordination.k8s.io",
        "leases",
        "Lease",
        "",
        true,
        false,
    )),
    resource(
        "discovery.k8s.io",
        "endpointslices",
        "EndpointSlice",
        "",
        true,
        false,
    ),
    resource("events.k8s.io", "events", "Event", "ev", true, false),
    resource(
        "networking.k8s.io",
        "networkpolicies",
        "NetworkPolicy",
        "netpol",
        true,
        false,
    ),
    resource(RBAC, "roles", "Role", "", true, false),
    resource(RBAC, "rolebindings", "RoleBinding", "", true, false),
    resource(RBAC, "clusterroles", "ClusterRole", "", false, false),
    resource(
        RBAC,
        "clusterrolebindings",
        "ClusterRoleBinding",
        "",
        false,
        false,
    ),
    resource(
        HOOKS,
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        "",
        false,
        false,
    ),
    resource(
        HOOKS,
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        "",
        false,
        false,
    ),
    resource(
        HOOKS,
        "validatingadmissionpolicies",
        "ValidatingAdmissionPolicy",
        "",
        false,
        true,
    ),
    resource(
        HOOKS,
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        "",
        false,
        false,
    ),
    resource(FLOWS, "flowschemas", "FlowSchema", "", false, true),
    resource(
        FLOWS,
        "prioritylevelconfigurations",
        "PriorityLevelConfiguration",
        "",
        false,
        true,
    ),
    of_istio(resource(
        SECURITY,
        "authorizationpolicies",
        "AuthorizationPolicy",
        "ap",
        true,
        true,
    )),
    of_istio(resource(
        SECURITY,
        "peerauthentications",
        "PeerAuthentication",
        "pa",
        true,
        true,
    )),
    of_istio(resource(
        NETWORKING,
        "destinationrules",
        "DestinationRule",
        "dr",
        true,
        true,
    )),
    of_istio(resource(
        NETWORKING,
        "virtualservices",
        "VirtualService",
        "vs",
        true,
        true,
    )),
    of_istio(resource(GATEWAY, "gateways", "Gateway", "gtw", true, true)),
    of_istio(resource(GATEWAY, "httproutes", "HTTPRoute", "", true, true)),
    of_istio(resource(
        SECURITY,
        "requestauthentications",
        "RequestAuthentication",
        "ra",
        true,
        true,
    )),
    of_istio(resource(
        NETWORKING,
        "envoyfilters",
        "EnvoyFilter",
        "",
        true,
        true,
    )),
    of_istio(resource(NETWORKING, "gateways", "Gateway", "gw", true, true)),
    of_istio(resource(
        NETWORKING,
        "serviceentries",
        "ServiceEntry",
        "se",
        true,
        true,
    )),
    of_istio(resource(NETWORKING, "sidecars", "Sidecar", "", true, true)),
    of_istio(resource(
        NETWORKING,
        "workloadentries",
        "WorkloadEntry",
        "we",
        true,
        true,
    )),
    of_istio(resource(
        NETWORKING,
        "workloadgroups",
        "WorkloadGroup",
        "wg",
        true,
        true,
    )),
    of_istio(resource(
        "extensions.istio.io",
        "wasmplugins",
        "WasmPlugin",
        "",
        true,
        true,
    )),
    of_istio(resource(
        GATEWAY,
        "gatewayclasses",
        "GatewayClass",
        "gc",
        false,
        true,
    )),
    of_istio(resource(
        GATEWAY,
        "referencegrants",
        "ReferenceGrant",
        "refgrant",
        true,
        false,
    )),
    of_istio(resource(GATEWAY, "grpcroutes", "GRPCRoute", "", true, true)),
    of_istio(resource(GATEWAY, "tcproutes", "TCPRoute", "", true, true)),
    of_istio(resource(GATEWAY, "tlsroutes", "TLSRoute", "", true, true)),
    resource(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        "crd",
        false,
        true,
    ),
    resource("", "resourcequotas", "ResourceQuota", "quota", true, true),
];

impl Resource {
    /// Its place in the table.
    pub(crate) fn id(&self) -> usize {
        RESOURCES
            .iter()
            .position(|other| std::ptr::eq(other, self))
            .unwrap_or_default()
    }

    /// `apps/v1`, or `v1` in the core group.
    pub(crate) fn api_version(&self) -> String {
        group_version(self.group, self.version)
    }

    /// `deployments.apps`, as errors name it.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    pub(crate) fn is_pod(&self) -> bool {
        self.group.is_empty() && self.plural == "pods"
    }

    pub(crate) fn is_namespace(&self) -> bool {
        self.group.is_empty() && self.plural == "namespaces"
    }
}

/// `apps/v1`, or `v1` in the core group.
pub(crate) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// Finds a resource by what a path names.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    served().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// Finds a resource that exists for certain, by its plural name.
pub(crate) fn known(plural: &str) -> &'static Resource {
    RESOURCES
        .iter()
        .find(|r| r.plural == plural)
        .unwrap_or(&RESOURCES[0])
}
