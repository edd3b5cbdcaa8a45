// SPDX-License-Identifier: Apache-2.0
//! Policies that cut the mesh's own parts: istiod from its proxies and the API server, waypoints from their pods.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::NetworkPolicySpec;
use meshmedic_common::ztunnel_log::HBONE_PORT;

use super::remedy::{add_rule, every_pod, names, object, offer, pods, pods_of_namespace, policy, tcp};
use crate::doctor::finding::Finding;
use crate::doctor::policy::{Direction, NetworkPolicies, Peer, Protocol};
use crate::doctor::view::{PodView, View, endpoints};

/// Where istiod serves proxies, and where it serves the API server's webhooks.
const XDS: u16 = 15012;
const WEBHOOK: u16 = 15017;

/// A connection of the mesh that a policy forbids.
struct Cut {
    direction: Direction,
    source: usize,
    destination: usize,
    port: u16,
}

impl Cut {
    /// The policies that forbid it, on the side that it is about.
    fn denied_by(&self, policies: &NetworkPolicies) -> Option<Vec<usize>> {
        let (pod, peer) = match self.direction {
            Direction::Ingress => (self.destination, self.source),
            Direction::Egress => (self.source, self.destination),
        };
        policies
            .decide(self.direction, pod, Peer::Pod(peer), self.port, Protocol::Tcp)
            .denied()
    }
}

/// istiod's port for proxies, and its port for webhooks.
pub(super) fn istiod(view: &View<'_>) -> Vec<Finding> {
    let istiods: Vec<usize> = view.istiods().filter_map(|pod| view.place(pod)).collect();
    let mut cuts = Vec::new();
    for client in proxies(view) {
        for direction in [Direction::Ingress, Direction::Egress] {
            let to = |&destination: &usize| Cut {
                direction,
                source: client,
                destination,
                port: XDS,
            };
            // A proxy needs one istiod, and another revision's may be none of its business.
            let all: Vec<Cut> = istiods.iter().map(to).collect();
            if all
                .iter()
                .all(|cut| cut.denied_by(view.network_policies()).is_some())
            {
                cuts.extend(all);
            }
        }
    }
    let mut findings = by_policy(
        view,
        cuts,
        &Words {
            problem: "it keeps proxies from istiod's port 15012",
            effect: "These proxies get neither certificates nor the mesh's configuration: they never become Ready, or go \
                 on with what they had until their certificates end.",
        },
    );
    findings.extend(webhook(view, &istiods));
    findings
}

/// ztunnels, sidecars, gateways and waypoints: whoever asks istiod.
fn proxies(view: &View<'_>) -> Vec<usize> {
    let ztunnels = view.ztunnels();
    let others = view.pods().iter().filter(|pod| {
        let gateway = pod
            .facts
            .labels
            .contains_key("gateway.networking.k8s.io/gateway-name");
        pod.is_live() && (pod.facts.sidecar || gateway && endpoints::has_proxy(pod.pod))
    });
    let all = ztunnels.chain(others).filter(|pod| !pod.facts.host_network);
    all.filter_map(|pod| view.place(pod)).collect()
}

/// The API server's address is no pod's and may be any, so only a port that is closed to everybody is a finding.
fn webhook(view: &View<'_>, istiods: &[usize]) -> Option<Finding> {
    let policies = view.network_policies();
    let (&istiod, closed) = (istiods.first()?, |pod: &usize| {
        !policies.admits_anybody(*pod, WEBHOOK)
    });
    if !istiods.iter().all(closed) {
        return None;
    }
    let isolating = policies.isolating(istiod, Direction::Ingress);
    let place = *isolating.first()?;
    let finding = Finding::on(
        object(policy(view, place)?),
        "it keeps the API server from istiod's port 15017",
    )
    .because(format!(
        "no rule of {} admits TCP {WEBHOOK} to {}",
        names(view, &isolating),
        pods(view, istiods.iter().copied())
    ))
    .so(
        "The API server cannot ask istiod's webhooks: sidecars are not injected, or no pod can be made where \
         injection is demanded, and Istio's objects cannot be changed.",
    );
    let everybody = |spec: &mut NetworkPolicySpec| {
        add_rule(spec, Direction::Ingress, Vec::new(), vec![tcp(WEBHOOK)]);
    };
    Some(offer(finding, view, place, everybody, |changed| {
        istiods.iter().all(|pod| changed.admits_anybody(*pod, WEBHOOK))
    }))
}

/// What goes to pods behind a waypoint comes from the waypoint.
pub(super) fn waypoints(view: &View<'_>) -> Vec<Finding> {
    let mut cuts = Vec::new();
    let captured = view
        .pods()
        .iter()
        .filter(|pod| pod.is_live() && endpoints::is_captured(pod));
    for pod in captured {
        let Some(destination) = view.place(pod) else {
            continue;
        };
        for waypoint in waypoints_of(view, pod) {
            for direction in [Direction::Ingress, Direction::Egress] {
                let cut = Cut {
                    direction,
                    source: waypoint,
                    destination,
                    port: HBONE_PORT,
                };
                if cut.denied_by(view.network_policies()).is_some() {
                    cuts.push(cut);
                }
            }
        }
    }
    by_policy(
        view,
        cuts,
        &Words {
            problem: "it cuts a waypoint off from the pods that it stands before, on port 15008",
            effect: "Whatever goes to these pods goes through their waypoint, and the waypoint cannot pass it on: requests \
                 fail with status 503.",
        },
    )
}

/// The pods of the waypoint that a pod's own label, or its namespace's, names.
fn waypoints_of(view: &View<'_>, pod: &PodView<'_>) -> Vec<usize> {
    let of_namespace = view.namespace_labels(&pod.facts.namespace);
    let labels = if pod.facts.labels.contains_key(endpoints::USE_WAYPOINT) {
        &pod.facts.labels
    } else {
        of_namespace
    };
    let Some(name) = labels.get(endpoints::USE_WAYPOINT).filter(|name| *name != "none") else {
        return Vec::new();
    };
    let namespace = labels
        .get("istio.io/use-waypoint-namespace")
        .unwrap_or(&pod.facts.namespace);
    let pods = view.pods_in(namespace).filter(|waypoint| {
        let gateway = waypoint
            .facts
            .labels
            .get("gateway.networking.k8s.io/gateway-name");
        waypoint.is_live() && endpoints::is_waypoint(&waypoint.facts.labels) && gateway == Some(name)
    });
    pods.filter_map(|pod| view.place(pod)).collect()
}

struct Words {
    problem: &'static str,
    effect: &'static str,
}

/// One finding for each policy that stands in the way, with a rule that lets these connections through.
fn by_policy(view: &View<'_>, cuts: Vec<Cut>, words: &Words) -> Vec<Finding> {
    let policies = view.network_policies();
    let mut grouped: BTreeMap<(usize, Direction), Vec<Cut>> = BTreeMap::new();
    for cut in cuts {
        let isolating = cut.denied_by(policies).unwrap_or_default();
        if let Some(&first) = isolating.first() {
            grouped.entry((first, cut.direction)).or_default().push(cut);
        }
    }
    let findings = grouped.into_iter().filter_map(|((place, direction), cuts)| {
        let port = cuts.first()?.port;
        let sources = unique(cuts.iter().map(|cut| cut.source));
        let destinations = unique(cuts.iter().map(|cut| cut.destination));
        let finding = Finding::on(object(policy(view, place)?), words.problem).so(words.effect);
        let isolating = cuts.first()?.denied_by(policies)?;
        let finding = finding.because(format!(
            "no rule of {} admits TCP {port} from {} to {}",
            names(view, &isolating),
            pods(view, sources.iter().copied()),
            pods(view, destinations.iter().copied()),
        ));
        let peers = match direction {
            Direction::Ingress if port == XDS => vec![every_pod()],
            Direction::Ingress => namespaces_of(view, &sources),
            Direction::Egress => namespaces_of(view, &destinations),
        };
        Some(offer(
            finding,
            view,
            place,
            |spec| add_rule(spec, direction, peers, vec![tcp(port)]),
            |changed| cuts.iter().all(|cut| cut.denied_by(changed).is_none()),
        ))
    });
    findings.collect()
}

fn unique(places: impl Iterator<Item = usize>) -> Vec<usize> {
    let places: std::collections::BTreeSet<usize> = places.collect();
    places.into_iter().collect()
}

fn namespaces_of(
    view: &View<'_>,
    places: &[usize],
) -> Vec<k8s_openapi::api::networking::v1::NetworkPolicyPeer> {
    let pods = places.iter().filter_map(|&place| view.pods().get(place));
    let names: std::collections::BTreeSet<&str> = pods.map(|pod| pod.facts.namespace.as_str()).collect();
    names.into_iter().map(pods_of_namespace).collect()
}
