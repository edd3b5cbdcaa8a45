// SPDX-License-Identifier: Apache-2.0
//! The pods of a snapshot as NetworkPolicies see them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meshmedic_common::eligibility::Expectation;
use meshmedic_common::facts::Labels;

use super::{NAME_LABEL, PodView, View};
use crate::doctor::policy::{Endpoint, Hbone, NetworkPolicies, Protocol};

/// The label that sends what is meant for a pod, a Service or a namespace to a waypoint first.
pub(crate) const USE_WAYPOINT: &str = "istio.io/use-waypoint";

pub(super) fn compile(view: &View<'_>) -> NetworkPolicies {
    let mut endpoints: Vec<Endpoint> = view.pods().iter().map(|pod| endpoint(view, pod)).collect();
    for service in view.snapshot.services.all() {
        let spec = service.spec.as_ref();
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let waypoint = has_waypoint(service.metadata.labels.as_ref());
        for place in view.pods_of(service).filter_map(|pod| view.place(pod)) {
            let Some(endpoint) = endpoints.get_mut(place) else {
                continue;
            };
            let targets = ports.iter().filter_map(|port| target(endpoint, port));
            let targets: Vec<u16> = targets.collect();
            endpoint.serves.extend(targets);
            if waypoint == Some(true) && endpoint.hbone == Hbone::Direct && !is_waypoint(&endpoint.labels) {
                endpoint.hbone = Hbone::BehindWaypoint;
            }
        }
    }
    let namespaces = view.namespaces().map(|(name, namespace)| {
        let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
        // The API server sets it, whatever else was written.
        labels.insert(NAME_LABEL.to_owned(), name.to_owned());
        (name.to_owned(), labels)
    });
    NetworkPolicies::new(
        view.snapshot.network_policies.all(),
        namespaces.collect(),
        endpoints,
    )
}

fn endpoint(view: &View<'_>, pod: &PodView<'_>) -> Endpoint {
    let facts = &pod.facts;
    let (named_ports, serves) = ports(pod.pod);
    let captured = is_captured(pod);
    let waypoint = has_waypoint(Some(&facts.labels))
        .or_else(|| has_waypoint(Some(view.namespace_labels(&facts.namespace))));
    let hbone = match (captured, waypoint) {
        // A waypoint speaks HBONE itself, though nothing captures it.
        _ if is_waypoint(&facts.labels) && !facts.host_network => Hbone::Direct,
        (false, _) => Hbone::None,
        (true, Some(true)) => Hbone::BehindWaypoint,
        (true, _) => Hbone::Direct,
    };
    Endpoint {
        namespace: facts.namespace.clone(),
        labels: facts.labels.clone(),
        addresses: facts.addresses.clone(),
        named_ports,
        serves,
        apart: facts.host_network || !pod.is_live(),
        hbone,
    }
}

/// Whether labels ask for a waypoint; `None` if they say nothing of it.
pub(crate) fn has_waypoint(labels: Option<&Labels>) -> Option<bool> {
    labels?.get(USE_WAYPOINT).map(|waypoint| waypoint != "none")
}

/// Whether a pod is a waypoint, by the label that istiod gives to those that it runs.
pub(crate) fn is_waypoint(labels: &Labels) -> bool {
    labels
        .get("gateway.istio.io/managed")
        .is_some_and(|by| by == "istio.io-mesh-controller")
}

type Named = BTreeMap<(Protocol, String), u16>;

/// The ports that containers declare: by name, and those of TCP.
fn ports(pod: &Pod) -> (Named, BTreeSet<u16>) {
    let (mut named, mut serves) = (Named::new(), BTreeSet::new());
    for port in containers(pod).flat_map(|container| container.ports.iter().flatten()) {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) => continue,
        };
        let Ok(number) = u16::try_from(port.container_port) else {
            continue;
        };
        if protocol == Protocol::Tcp {
            serves.insert(number);
        }
        if let Some(name) = &port.name {
            named.entry((protocol, name.clone())).or_insert(number);
        }
    }
    (named, serves)
}

/// Whether ztunnel takes what goes to the pod.
pub(crate) fn is_captured(pod: &PodView<'_>) -> bool {
    pod.expectation == Expectation::Expected
}

/// Whether one of its containers is Istio's Envoy.
pub(crate) fn has_proxy(pod: &Pod) -> bool {
    containers(pod).any(|container| container.name == "istio-proxy")
}

/// The containers of a pod, with the sidecars among its init containers.
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let lasting = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let initial = spec
        .into_iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    spec.into_iter()
        .flat_map(|spec| &spec.containers)
        .chain(initial.filter(lasting))
}

/// The port of the pod that a Service sends to.
fn target(endpoint: &Endpoint, port: &ServicePort) -> Option<u16> {
    if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
        return None;
    }
    match &port.target_port {
        Some(IntOrString::String(name)) => endpoint.named_ports.get(&(Protocol::Tcp, name.clone())).copied(),
        Some(IntOrString::Int(number)) if *number != 0 => u16::try_from(*number).ok(),
        _ => u16::try_from(port.port).ok(),
    }
}
