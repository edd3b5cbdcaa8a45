// SPDX-License-Identifier: Apache-2.0
//! Patches of policies, and words for pods.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meshmedic_common::ztunnel_log::HBONE_PORT;

use crate::doctor::finding::{Cut, Finding, ObjectRef};
use crate::doctor::policy::{Direction, NetworkPolicies};
use crate::doctor::view::keeper::Keeper;
use crate::doctor::view::{NAME_LABEL, View, endpoints, name, namespace};

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

/// Something that is wrong with one policy. What helps is not its own alone: two patches of one policy undo each other.
pub(super) struct Fault<'v> {
    /// The policy, by its place in the snapshot.
    pub(super) policy: usize,
    /// What has to change.
    pub(super) change: Change,
    /// Whether nothing of it is left under these policies.
    pub(super) cured: Box<dyn Fn(&NetworkPolicies) -> bool + 'v>,
    /// The finding, without its remedy.
    pub(super) finding: Box<dyn Fn(Finding) -> Finding + 'v>,
    pub(super) problem: &'static str,
}

/// A change of a policy: it admits more, and never less.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// These rules admit port 15008 too.
    OpenHbone(BTreeSet<(Direction, usize)>),
    /// A rule more. Without peers it admits everybody.
    AddRule {
        direction: Direction,
        peers: Vec<NetworkPolicyPeer>,
        ports: Vec<u16>,
    },
}

/// The findings, each with the one patch for everything that is wrong with its policy.
pub(super) fn findings<'v>(view: &'v View<'_>, faults: Vec<Fault<'v>>) -> Vec<Finding> {
    let patches = view.patches(|| patches(view));
    let offered = faults.into_iter().filter_map(|fault| {
        let policy = policy(view, fault.policy)?;
        let finding = (fault.finding)(Finding::on(object(policy), fault.problem));
        let patch = patches.get(&fault.policy);
        let yaml = patch.and_then(|changed| {
            let cured = (fault.cured)(&view.network_policies().with(fault.policy, changed));
            cured.then(|| serde_saphyr::to_string(changed).ok()).flatten()
        });
        Some(match yaml {
            Some(yaml) => {
                let finding = finding.apply(&yaml);
                match Keeper::of(&policy.metadata).elsewhere() {
                    Some(where_) => finding.by_hand(where_),
                    None => finding,
                }
            }
            None => finding
                .by_hand("Have the policy admit the connections above: no change of this policy alone was found that does."),
        })
    });
    offered.collect()
}

/// Per policy, what cures all its faults. A change that an earlier one made needless is left out, so that no port is
/// opened twice.
fn patches(view: &View<'_>) -> BTreeMap<usize, NetworkPolicy> {
    let base = view.network_policies();
    let mut by_policy: BTreeMap<usize, Vec<Fault<'_>>> = BTreeMap::new();
    for fault in super::faults(view) {
        by_policy.entry(fault.policy).or_default().push(fault);
    }
    let mut patches = BTreeMap::new();
    for (place, faults) in by_policy {
        let Some(policy) = policy(view, place) else {
            continue;
        };
        let mut changed = NetworkPolicy {
            metadata: ObjectMeta {
                name: policy.metadata.name.clone(),
                namespace: policy.metadata.namespace.clone(),
                ..ObjectMeta::default()
            },
            spec: policy.spec.clone(),
        };
        let mut compiled: Option<NetworkPolicies> = None;
        for fault in faults {
            if compiled.as_ref().is_some_and(|compiled| (fault.cured)(compiled)) {
                continue;
            }
            let mut candidate = changed.clone();
            fault.change.make(candidate.spec.get_or_insert_default());
            let with = base.with(place, &candidate);
            if (fault.cured)(&with) {
                (changed, compiled) = (candidate, Some(with));
            }
        }
        if compiled.is_some() {
            patches.insert(place, changed);
        }
    }
    patches
}

impl Change {
    fn make(&self, spec: &mut NetworkPolicySpec) {
        match self {
            Self::OpenHbone(rules) => {
                for &(direction, rule) in rules {
                    open_hbone(spec, direction, rule);
                }
            }
            Self::AddRule {
                direction,
                peers,
                ports,
            } => {
                let ports = ports.iter().copied().map(tcp).collect();
                add_rule(spec, *direction, peers.clone(), ports);
            }
        }
    }
}

fn open_hbone(spec: &mut NetworkPolicySpec, direction: Direction, rule: usize) {
    let ports = match direction {
        Direction::Ingress => {
            let rules = spec.ingress.as_mut();
            rules
                .and_then(|rules| rules.get_mut(rule))
                .map(|rule| &mut rule.ports)
        }
        Direction::Egress => {
            let rules = spec.egress.as_mut();
            rules
                .and_then(|rules| rules.get_mut(rule))
                .map(|rule| &mut rule.ports)
        }
    };
    if let Some(Some(ports)) = ports {
        ports.push(tcp(HBONE_PORT));
    }
}

fn tcp(port: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some("TCP".to_owned()),
        port: Some(IntOrString::Int(i32::from(port))),
        end_port: None,
    }
}

/// The selector of one namespace.
pub(super) fn of_namespace(namespace: &str) -> LabelSelector {
    labelled(NAME_LABEL, namespace)
}

fn labelled(key: &str, value: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some([(key.to_owned(), value.to_owned())].into()),
        ..LabelSelector::default()
    }
}

/// Pods as peers: the namespaces of those that have an address of their own, the addresses of the others.
pub(super) fn peers_of(view: &View<'_>, places: &BTreeSet<usize>) -> Vec<NetworkPolicyPeer> {
    let (mut namespaces, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    if is_planned(view, places) {
        namespaces.insert(view.istio.as_str());
    }
    for pod in places.iter().filter_map(|&place| view.pods().get(place)) {
        if pod.facts.host_network {
            // A selector does not select what has its node's address.
            addresses.extend(pod.facts.addresses.iter().copied());
        } else {
            namespaces.insert(pod.facts.namespace.as_str());
        }
    }
    let namespaces = namespaces.into_iter().map(|namespace| NetworkPolicyPeer {
        namespace_selector: Some(of_namespace(namespace)),
        ..NetworkPolicyPeer::default()
    });
    namespaces.chain(addresses.into_iter().map(address)).collect()
}

/// The pods of one Gateway, whose policies are in any namespace.
pub(super) fn pods_of_gateway(namespace: &str, gateway: &str) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: Some(of_namespace(namespace)),
        pod_selector: Some(labelled(endpoints::GATEWAY_NAME, gateway)),
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
pub(super) fn address(address: IpAddr) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: IpNet::from(address).to_string(),
            except: None,
        }),
        ..NetworkPolicyPeer::default()
    }
}

fn add_rule(
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

/// Whether there are no such pods yet: they come with the installation.
fn is_planned(view: &View<'_>, places: &BTreeSet<usize>) -> bool {
    places.iter().any(|&place| place >= view.pods().len())
}

/// Pods, by what made them: `3 pods of Deployment shop/web`.
pub(super) fn pods(view: &View<'_>, places: impl IntoIterator<Item = usize>) -> String {
    let mut owners: BTreeSet<Cow<'_, ObjectRef>> = BTreeSet::new();
    let mut count = 0;
    let places: BTreeSet<usize> = places.into_iter().collect();
    if is_planned(view, &places) {
        return "the pods that an installation of Istio brings".to_owned();
    }
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

/// Whom these callers do not reach, by what made the pods that they call. Pods that an installation would bring are
/// nobody's callers yet, and nobody calls them.
pub(super) fn unreached(
    view: &View<'_>,
    ends: impl IntoIterator<Item = (BTreeSet<usize>, BTreeSet<usize>)>,
) -> Vec<Cut> {
    let mut all: BTreeMap<ObjectRef, BTreeSet<usize>> = BTreeMap::new();
    for (mut callers, called) in ends {
        callers.retain(|&place| place < view.pods().len());
        if callers.is_empty() {
            continue;
        }
        for pod in called.into_iter().filter_map(|place| view.pods().get(place)) {
            let to = pod.workload.clone().unwrap_or_else(|| pod.object());
            all.entry(to).or_default().extend(&callers);
        }
    }
    all.into_iter().map(|(to, callers)| Cut { to, callers }).collect()
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
