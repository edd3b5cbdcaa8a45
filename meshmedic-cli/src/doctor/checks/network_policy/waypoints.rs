// SPDX-License-Identifier: Apache-2.0
//! Policies that cut a waypoint from the pods behind it, or from the callers that come to it in their place.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use meshmedic_common::facts::Labels;
use meshmedic_common::ztunnel_log::HBONE_PORT;

use super::mesh::{Forbidden, Words, by_policy};
use super::remedy::{
    Change, Fault, every_pod, names, of_namespace, pods, pods_of_gateway, policy, unreached,
};
use crate::doctor::kind;
use crate::doctor::policy::{Behind, Detour, Direction, RuleId};
use crate::doctor::view::{View, endpoints, namespace};

const NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const FOR: &str = "istio.io/waypoint-for";

/// A waypoint's Gateway: namespace and name.
type Place = (String, String);

pub(super) fn faults<'v>(view: &'v View<'_>) -> Vec<Fault<'v>> {
    let waypoints = waypoints(view);
    let mut cuts = Vec::new();
    let mut detours: BTreeMap<(usize, Direction), Vec<Detour>> = BTreeMap::new();
    for (waypoint, pods) in behind(view, &waypoints) {
        let captured = pods.iter().filter(|&&pod| is_captured(view, pod));
        for &destination in captured {
            for &source in &waypoint {
                for direction in [Direction::Ingress, Direction::Egress] {
                    let cut = Forbidden {
                        direction,
                        source,
                        destination,
                        port: HBONE_PORT,
                    };
                    if cut.denied_by(view.network_policies()).is_some() {
                        cuts.push(cut);
                    }
                }
            }
        }
        for &waypoint in &waypoint {
            let pods = pods.iter().copied().collect();
            for detour in view.network_policies().detours(&Behind { waypoint, pods }) {
                if let Some(policy) = stands_in_the_way(view, &detour) {
                    detours
                        .entry((policy, detour.direction))
                        .or_default()
                        .push(detour);
                }
            }
        }
    }
    let mut faults = by_policy(
        view,
        cuts,
        &Words {
            problem: "it cuts a waypoint off from the pods that it stands before, on port 15008",
            effect: "Whatever goes to these pods goes through their waypoint, and the waypoint cannot pass it on: requests \
                     fail with status 503.",
        },
        |direction, ends| match direction {
            Direction::Ingress => gateways_of(view, ends),
            Direction::Egress => super::remedy::peers_of(view, ends),
        },
    );
    let detours = detours.into_iter();
    faults.extend(detours.map(|((policy, direction), detours)| missed(view, policy, direction, detours)));
    faults
}

fn is_captured(view: &View<'_>, place: usize) -> bool {
    let pod = view.pods().get(place);
    pod.is_some_and(|pod| pod.is_live() && endpoints::is_captured(pod))
}

/// The pods of all waypoints, by their Gateways.
fn waypoints(view: &View<'_>) -> BTreeMap<Place, Vec<usize>> {
    let mut found: BTreeMap<Place, Vec<usize>> = BTreeMap::new();
    for (place, pod) in view.pods().iter().enumerate() {
        let labels = &pod.facts.labels;
        if !pod.is_live() || !endpoints::is_waypoint(labels) {
            continue;
        }
        if let Some(gateway) = labels.get(endpoints::GATEWAY_NAME) {
            let key = (pod.facts.namespace.clone(), gateway.clone());
            found.entry(key).or_default().push(place);
        }
    }
    found
}

/// Per waypoint its pods, and those behind it: of Services that name it, by their own label or their namespace's, and
/// pods that do, where it stands before workloads.
fn behind(view: &View<'_>, waypoints: &BTreeMap<Place, Vec<usize>>) -> Vec<(Vec<usize>, BTreeSet<usize>)> {
    let mut found: BTreeMap<&Place, BTreeSet<usize>> = BTreeMap::new();
    if waypoints.is_empty() {
        return Vec::new();
    }
    for service in view.snapshot.services.all() {
        let of = namespace(&service.metadata);
        let named = named(view, service.metadata.labels.as_ref(), of);
        let known = named.and_then(|place| waypoints.get_key_value(&place));
        if let Some((place, _)) = known.filter(|(place, _)| serves(view, place, &["service", "all"])) {
            let pods = view.pods_of(service).filter_map(|pod| view.place(pod));
            found.entry(place).or_default().extend(pods);
        }
    }
    for (at, pod) in view.pods().iter().enumerate() {
        let named = named(view, Some(&pod.facts.labels), &pod.facts.namespace);
        let known = named.and_then(|place| waypoints.get_key_value(&place));
        if let Some((place, _)) = known.filter(|(place, _)| serves(view, place, &["workload", "all"])) {
            found.entry(place).or_default().insert(at);
        }
    }
    let found = found.into_iter().filter_map(|(place, mut pods)| {
        let waypoint = waypoints.get(place)?;
        pods.retain(|pod| !waypoint.contains(pod));
        Some((waypoint.clone(), pods))
    });
    found.collect()
}

/// The waypoint that an object names, by its own label or its namespace's.
fn named(view: &View<'_>, own: Option<&Labels>, of: &str) -> Option<Place> {
    let own = own.filter(|labels| labels.contains_key(endpoints::USE_WAYPOINT));
    let labels = own.unwrap_or_else(|| view.namespace_labels(of));
    let name = labels
        .get(endpoints::USE_WAYPOINT)
        .filter(|name| *name != "none")?;
    let namespace = labels.get(NAMESPACE).map_or(of, String::as_str);
    Some((namespace.to_owned(), name.clone()))
}

/// Whether a waypoint stands before one of these; before Services where its Gateway says nothing.
fn serves(view: &View<'_>, (namespace, called): &Place, wanted: &[&str]) -> bool {
    let mut gateways = view.custom(kind::GATEWAY).iter();
    let gateway = gateways.find(|one| one.namespace() == namespace && one.name() == called);
    let label = gateway.and_then(|gateway| gateway.metadata.labels.as_ref()?.get(FOR));
    wanted.contains(&label.map_or("service", String::as_str))
}

/// Pods of waypoints as peers: those of their Gateways.
fn gateways_of(view: &View<'_>, places: &BTreeSet<usize>) -> Vec<NetworkPolicyPeer> {
    let gateways: BTreeSet<(&str, &str)> = places
        .iter()
        .filter_map(|&place| {
            let facts = &view.pods().get(place)?.facts;
            let gateway = facts.labels.get(endpoints::GATEWAY_NAME)?;
            Some((facts.namespace.as_str(), gateway.as_str()))
        })
        .collect();
    gateways
        .into_iter()
        .map(|(namespace, gateway)| pods_of_gateway(namespace, gateway))
        .collect()
}

/// The policy that has to change: of the waypoint, or that which lets the callers out to the pods.
fn stands_in_the_way(view: &View<'_>, detour: &Detour) -> Option<usize> {
    match detour.direction {
        Direction::Egress => detour.meant_by.map(|rule| rule.policy),
        Direction::Ingress => {
            let policies = view.network_policies();
            policies.narrowest(&policies.isolating(detour.waypoint, Direction::Ingress))
        }
    }
}

fn missed<'v>(view: &'v View<'_>, policy: usize, direction: Direction, detours: Vec<Detour>) -> Fault<'v> {
    let detours: Rc<[Detour]> = detours.into();
    let peers = match direction {
        Direction::Ingress => meant(view, &detours),
        Direction::Egress => gateways_of(view, &detours.iter().map(|detour| detour.waypoint).collect()),
    };
    let same = Rc::clone(&detours);
    Fault {
        policy,
        problem: match direction {
            Direction::Ingress => "it keeps callers from a waypoint that stands before the pods they mean",
            Direction::Egress => {
                "it lets pods out to others, and not to the waypoint that stands before them"
            }
        },
        change: Change::AddRule {
            direction,
            peers,
            ports: vec![HBONE_PORT],
        },
        cured: Box::new(move |changed| detours.iter().all(|detour| changed.reaches(detour))),
        finding: Box::new(move |finding| {
            let policies = view.network_policies();
            let callers: BTreeSet<usize> = same.iter().flat_map(|detour| detour.callers.ones()).collect();
            let callers = callers.iter().flat_map(|&class| policies.members(class));
            let callers: BTreeSet<usize> = callers.copied().collect();
            let waypoints: BTreeSet<usize> = same.iter().map(|detour| detour.waypoint).collect();
            let mut finding = finding.because(format!(
                "it does not admit TCP {HBONE_PORT} from {} to {}",
                pods(view, callers.iter().copied()),
                pods(view, waypoints.iter().copied())
            ));
            finding = finding.cutting(unreached(view, [(callers, waypoints)]));
            let mut rules = same.iter().filter_map(|detour| detour.meant_by);
            if let Some(rule) = rules.next() {
                finding = finding.because(format!(
                    "spec.{}[{}] of {} lets them through to pods behind it",
                    match direction {
                        Direction::Ingress => "ingress",
                        Direction::Egress => "egress",
                    },
                    rule.rule,
                    names(view, &[rule.policy])
                ));
            }
            finding.so(
                "What pods of the mesh send to these pods goes to their waypoint on port 15008 instead: it hangs for \
                 ten seconds and fails.",
            )
        }),
    }
}

/// The peers of the rules that let the callers through to the pods behind the waypoint, as any namespace would write
/// them; every pod where no rule says who is meant.
fn meant(view: &View<'_>, detours: &[Detour]) -> Vec<NetworkPolicyPeer> {
    let rules: BTreeSet<Option<RuleId>> = detours.iter().map(|detour| detour.meant_by).collect();
    let mut peers: Vec<NetworkPolicyPeer> = Vec::new();
    for rule in rules {
        let of_rule = rule.and_then(|id| {
            let policy = policy(view, id.policy)?;
            let rule = policy.spec.as_ref()?.ingress.as_ref()?.get(id.rule)?;
            let listed = rule.from.clone().filter(|listed| !listed.is_empty())?;
            Some((namespace(&policy.metadata), listed))
        });
        let Some((of, listed)) = of_rule else {
            return vec![every_pod()];
        };
        for mut peer in listed {
            if peer.ip_block.is_none() && peer.namespace_selector.is_none() {
                peer.namespace_selector = Some(of_namespace(of));
            }
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
    }
    peers
}
