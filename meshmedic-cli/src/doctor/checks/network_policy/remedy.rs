// SPDX-License-Identifier: Apache-2.0
//! Patches of policies, and words for pods.

use std::borrow::Cow;
use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::policy::{Direction, NetworkPolicies};
use crate::doctor::view::{NAME_LABEL, View, name, namespace};

/// How many workloads or rules are named one by one.
const NAMED: usize = 3;

/// A policy of the snapshot, by its place.
pub(super) fn policy<'s>(view: &View<'s>, place: usize) -> Option<&'s NetworkPolicy> {
    view.snapshot.network_policies.all().get(place)
}

pub(super) fn object(policy: &NetworkPolicy) -> ObjectRef {
    let metadata = &policy.metadata;
    ObjectRef::new("NetworkPolicy", namespace(metadata), name(metadata))
}

/// The policies by their names: `shop/web and shop/default-deny`.
pub(super) fn names(view: &View<'_>, places: &[usize]) -> String {
    let known = places.iter().filter_map(|&place| policy(view, place));
    let paths: Vec<String> = known.map(|policy| object(policy).path()).collect();
    match paths.as_slice() {
        [one] => format!("NetworkPolicy {one}"),
        several => format!("NetworkPolicies {}", several.join(", ")),
    }
}

/// Adds the policy with this change as a remedy, if `cured` says so of the policies with it; else what is left to do.
pub(super) fn offer(
    finding: Finding,
    view: &View<'_>,
    place: usize,
    change: impl FnOnce(&mut NetworkPolicySpec),
    cured: impl FnOnce(&NetworkPolicies) -> bool,
) -> Finding {
    let by_hand =
        "Have the policy admit the connections above: no change of this policy alone was found that does.";
    let Some(policy) = policy(view, place) else {
        return finding.by_hand(by_hand);
    };
    let mut changed = NetworkPolicy {
        metadata: ObjectMeta {
            name: policy.metadata.name.clone(),
            namespace: policy.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        spec: policy.spec.clone(),
    };
    change(changed.spec.get_or_insert_default());
    match serde_saphyr::to_string(&changed) {
        Ok(yaml) if cured(&view.network_policies().with(place, &changed)) => finding.apply(&yaml),
        _ => finding.by_hand(by_hand),
    }
}

pub(super) fn tcp(port: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some("TCP".to_owned()),
        port: Some(IntOrString::Int(i32::from(port))),
        end_port: None,
    }
}

/// Every pod of a namespace.
pub(super) fn pods_of_namespace(namespace: &str) -> NetworkPolicyPeer {
    let labels = [(NAME_LABEL.to_owned(), namespace.to_owned())];
    NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_labels: Some(labels.into()),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    }
}

/// Every pod of every namespace.
pub(super) fn every_pod() -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        ..NetworkPolicyPeer::default()
    }
}

/// One address.
pub(super) fn address(cidr: &str) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: cidr.to_owned(),
            except: None,
        }),
        ..NetworkPolicyPeer::default()
    }
}

/// Adds a rule. Without peers it admits everybody, without ports every port.
pub(super) fn add_rule(
    spec: &mut NetworkPolicySpec,
    direction: Direction,
    peers: Vec<NetworkPolicyPeer>,
    ports: Vec<NetworkPolicyPort>,
) {
    let peers = Some(peers).filter(|peers| !peers.is_empty());
    let ports = Some(ports).filter(|ports| !ports.is_empty());
    match direction {
        Direction::Ingress => spec
            .ingress
            .get_or_insert_default()
            .push(NetworkPolicyIngressRule { from: peers, ports }),
        Direction::Egress => spec
            .egress
            .get_or_insert_default()
            .push(NetworkPolicyEgressRule { to: peers, ports }),
    }
}

/// Pods, by what made them: `3 pods of Deployment shop/web`.
pub(super) fn pods(view: &View<'_>, places: impl IntoIterator<Item = usize>) -> String {
    let mut owners: BTreeSet<Cow<'_, ObjectRef>> = BTreeSet::new();
    let mut count = 0;
    for pod in places.into_iter().filter_map(|place| view.pods().get(place)) {
        owners.insert(match &pod.workload {
            Some(workload) => Cow::Borrowed(workload),
            None => Cow::Owned(pod.object()),
        });
        count += 1;
    }
    let named: Vec<String> = owners.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match owners.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = named.join(", ");
    match (count, owners.first()) {
        (1, Some(owner)) if owner.kind == "Pod" => named,
        (1, _) => format!("a pod of {named}"),
        _ => format!("{count} pods of {named}{more}"),
    }
}

/// At most [`NAMED`] of these sentences are evidence, and how many there are beside; the others are not even made.
pub(super) fn because(mut finding: Finding, mut sentences: impl ExactSizeIterator<Item = String>) -> Finding {
    for sentence in sentences.by_ref().take(NAMED) {
        finding = finding.because(sentence);
    }
    match sentences.len() {
        0 => finding,
        more => finding.because(format!("and {more} more like these")),
    }
}
