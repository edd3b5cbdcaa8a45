// SPDX-License-Identifier: Apache-2.0
//! Reduces objects of the API to what a verdict or a repair depends on.
//!
//! Whoever may write a pod may write anything into it, so each field may be absent or nonsense: it then counts as
//! not said.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStatus, Namespace, Node, Pod, PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::eligibility::Enablement;
use crate::facts::{
    CONFIG_HASH, Container, Controller, Enrolment, GATE, Gate, GateState, HEAL, Labels, MIRROR, PodFacts,
    REDIRECTION, REPAIR, SIDECAR, STRATEGY, TOGGLE_RESTORE,
};
use crate::policy::Standing;

/// istio-cni's settings.
pub const CNI_CONFIG: &str = "istio-cni-config";

/// The taints by which autoscalers announce that they are about to remove a node. They drain it without cordoning.
const LEAVING_TAINTS: [&str; 4] = [
    "node.kubernetes.io/unschedulable",
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
];
const READY: &str = "Ready";
/// How long a pod that does not say may take to end: the API's own default.
const GRACE: Duration = Duration::from_secs(30);
/// Whether the pod has a sandbox with a network; newer kubelets say so.
const SANDBOX_READY: &str = "PodReadyToStartContainers";
/// The labels of the pods of which the container is looked at, since an ask is made against it.
const PARTS: [(&str, &str); 2] = [("app", "ztunnel"), ("k8s-app", "istio-cni-node")];
/// The group whose objects name none.
const CORE: &str = "";

/// What the API says of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its labels.
    pub labels: Labels,
    /// What its annotation says of repairs.
    pub repair: Option<String>,
    /// What its annotation says of the ways that are allowed.
    pub strategy: Option<String>,
}

/// Reduces a pod.
#[must_use]
pub fn pod_facts(pod: &Pod) -> PodFacts {
    let annotation = |key| annotation(&pod.metadata, key);
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let ready = condition(status, READY);
    let sandbox = condition(status, SANDBOX_READY);
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let started = status.and_then(|status| status.start_time.as_ref());
    let mirror = annotation(MIRROR).is_some();
    let phase = status.and_then(|status| status.phase.as_deref());
    PodFacts {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        node: spec.and_then(|spec| spec.node_name.clone()),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        addresses: addresses(status),
        controller: controller(&pod.metadata),
        // Only the kubelet's mirrors have a hash in their cgroup. On any other pod it is a claim to the identity of
        // another, which anybody may write into an annotation.
        config_hash: annotation(CONFIG_HASH).filter(|_| mirror).map(str::to_owned),
        mirror,
        host_network: spec.and_then(|spec| spec.host_network) == Some(true),
        sidecar: annotation(SIDECAR).is_some(),
        runtime_class: spec.and_then(|spec| spec.runtime_class_name.clone()),
        enrolment: match annotation(REDIRECTION) {
            Some("enabled") => Enrolment::Enabled,
            Some("pending") => Enrolment::Pending,
            _ => Enrolment::None,
        },
        finished: phase.is_some_and(|phase| matches!(phase, "Succeeded" | "Failed")),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        started: phase.is_some_and(|phase| phase != "Pending"),
        grace: spec
            .and_then(|spec| u64::try_from(spec.termination_grace_period_seconds?).ok())
            .map_or(GRACE, Duration::from_secs),
        created,
        ready: ready.is_some_and(|condition| condition.status == "True"),
        ready_since: ready
            .and_then(|condition| condition.last_transition_time.as_ref())
            .or(started)
            .map(|time| time.0)
            .or(created),
        repair: annotation(REPAIR).map(str::to_owned),
        toggle_restore: annotation(TOGGLE_RESTORE).map(str::to_owned),
        strategy: annotation(STRATEGY).map(str::to_owned),
        heal: annotation(HEAL).map(str::to_owned),
        sandbox_ready: sandbox.map(|condition| condition.status == "True"),
        sandbox_since: sandbox.and_then(|condition| Some(condition.last_transition_time.as_ref()?.0)),
        container: is_part(pod).then(|| container(status)).flatten(),
        gate: spec.and_then(|spec| gate(spec, status)),
    }
}

fn gate(spec: &PodSpec, status: Option<&PodStatus>) -> Option<Gate> {
    let containers = spec.init_containers.as_deref().unwrap_or_default();
    let at = containers.iter().position(|container| container.name == GATE)?;
    let statuses = status.and_then(|status| status.init_container_statuses.as_deref());
    let its = statuses
        .unwrap_or_default()
        .iter()
        .find(|status| status.name == GATE);
    let ended = |status: &ContainerStatus| {
        let ended = |state: &Option<ContainerState>| state.as_ref()?.terminated.clone();
        ended(&status.state).or_else(|| ended(&status.last_state))
    };
    let state = match its {
        Some(status) if status.state.as_ref().is_some_and(|state| state.running.is_some()) => {
            GateState::Waiting(running_since(status))
        }
        Some(status) => match ended(status) {
            Some(ended) if ended.exit_code == 0 => GateState::Open,
            Some(ended) => GateState::Failed(ended.message),
            None => GateState::Ahead,
        },
        None => GateState::Ahead,
    };
    Some(Gate {
        first: at == 0,
        state,
    })
}

/// Whether it may be one of Istio's own, by its labels.
fn is_part(pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    PARTS
        .iter()
        .any(|(key, value)| labels.is_some_and(|labels| labels.get(*key).is_some_and(|found| found == value)))
}

fn container(status: Option<&PodStatus>) -> Option<Container> {
    let first = status?.container_statuses.as_ref()?.first()?;
    Some(Container {
        id: first.container_id.clone(),
        image: first.image.clone(),
        started: running_since(first),
    })
}

fn running_since(status: &ContainerStatus) -> Option<Timestamp> {
    Some(status.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0)
}

/// When whoever wrote istio-cni's annotation last wrote anything to the pod; `None` where the API keeps no such times.
#[must_use]
pub fn annotated_at(pod: &Pod) -> Option<Timestamp> {
    let key = format!("f:{REDIRECTION}");
    let writers = pod.metadata.managed_fields.iter().flatten();
    let its = writers.filter(|writer| {
        let fields = writer.fields_v1.as_ref().map(|fields| &fields.0);
        fields.is_some_and(|fields| fields["f:metadata"]["f:annotations"].get(&key).is_some())
    });
    its.filter_map(|writer| writer.time.as_ref().map(|time| time.0))
        .max()
}

/// The version of an object, for preconditions.
#[must_use]
pub fn resource_version(metadata: &ObjectMeta) -> &str {
    metadata.resource_version.as_deref().unwrap_or_default()
}

/// Reduces a namespace.
#[must_use]
pub fn namespace_facts(namespace: &Namespace) -> NamespaceFacts {
    NamespaceFacts {
        labels: namespace.metadata.labels.clone().unwrap_or_default(),
        repair: annotation(&namespace.metadata, REPAIR).map(str::to_owned),
        strategy: annotation(&namespace.metadata, STRATEGY).map(str::to_owned),
    }
}

/// A pod as the rules look at it, with its namespace where that is known.
#[must_use]
pub fn standing(pod: PodFacts, namespace: Option<&NamespaceFacts>, enablement: &Enablement) -> Standing {
    Standing {
        expectation: enablement.expectation(&pod, namespace.map(|known| &known.labels)),
        certain: enablement.certain,
        namespace_repair: namespace.and_then(|known| known.repair.clone()),
        namespace_strategy: namespace.and_then(|known| known.strategy.clone()),
        facts: pod,
    }
}

/// A node, as a repair depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Whether its pods are about to leave.
    pub cordoned: bool,
    /// Its address inside the cluster.
    pub address: Option<IpAddr>,
}

/// Reduces a node.
#[must_use]
pub fn node_facts(node: &Node) -> NodeFacts {
    let addresses = node
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten());
    let mut internal = addresses.filter(|address| address.type_ == "InternalIP");
    NodeFacts {
        cordoned: is_cordoned(node),
        address: internal.find_map(|address| address.address.parse().ok()),
    }
}

/// Whether a node's pods are about to leave: it is cordoned, being removed, or announced for removal.
#[must_use]
pub fn is_cordoned(node: &Node) -> bool {
    let Some(spec) = &node.spec else {
        return node.metadata.deletion_timestamp.is_some();
    };
    let leaving = |key: &str| LEAVING_TAINTS.contains(&key);
    node.metadata.deletion_timestamp.is_some()
        || spec.unschedulable == Some(true)
        || spec.taints.iter().flatten().any(|taint| leaving(&taint.key))
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn condition<'a>(status: Option<&'a PodStatus>, kind: &str) -> Option<&'a PodCondition> {
    let mut conditions = status?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind)
}

/// Who recreates an object.
#[must_use]
pub fn controller(metadata: &ObjectMeta) -> Option<Controller> {
    let controls = |owner: &&OwnerReference| owner.controller == Some(true);
    let owner = metadata.owner_references.iter().flatten().find(controls)?;
    Some(Controller {
        kind: kind(owner),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    })
}

/// The kind as people write it: Kubernetes' own by its name alone, and any other with its group, as `kubectl` does. So
/// `DaemonSet` is what the kubelet's nodes are served by, and `DaemonSet.apps.kruise.io` is not taken for it.
fn kind(owner: &OwnerReference) -> String {
    let own_group = match owner.kind.as_str() {
        "DaemonSet" | "Deployment" | "ReplicaSet" | "StatefulSet" => "apps",
        "CronJob" | "Job" => "batch",
        _ => CORE,
    };
    match owner.api_version.split_once('/') {
        Some((group, _)) if group == own_group => owner.kind.clone(),
        None if own_group == CORE => owner.kind.clone(),
        Some((group, _)) => format!("{}.{group}", owner.kind),
        None => format!("{}.core", owner.kind),
    }
}

/// A pod's addresses in the order of the API, each once.
fn addresses(status: Option<&PodStatus>) -> Vec<IpAddr> {
    let Some(status) = status else {
        return Vec::new();
    };
    let all = status.pod_ips.iter().flatten().map(|address| &address.ip);
    let mut addresses = Vec::new();
    for text in all.chain(&status.pod_ip) {
        if let Ok(address) = text.parse()
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests;
