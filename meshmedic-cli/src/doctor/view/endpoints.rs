// SPDX-License-Identifier: Apache-2.0
//! The pods of a snapshot as NetworkPolicies see them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meshmedic_common::eligibility::Expectation;
use meshmedic_common::facts::Labels;

use super::{NAME_LABEL, PodView, View, namespace};
use crate::doctor::policy::{Endpoint, NetworkPolicies, Protocol, Sends, Takes};

/// The label that sends what is meant for a pod, a Service or a namespace to a waypoint first.
pub(crate) const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// The label of a Service or a namespace that sends what comes through gateways to the waypoint too.
const INGRESS_USE_WAYPOINT: &str = "istio.io/ingress-use-waypoint";
/// Where istiod serves proxies, and where it serves the API server's webhooks.
pub(crate) const XDS: u16 = 15012;
pub(crate) const WEBHOOK: u16 = 15017;
/// The label of a pod that takes HBONE itself.
const TUNNEL: &str = "networking.istio.io/tunnel";
/// The label by which istiod names the Gateway that a pod was made for.
pub(crate) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// What Istio calls the container of its Envoy.
pub(crate) const PROXY: &str = "istio-proxy";

pub(super) fn compile(view: &View<'_>) -> NetworkPolicies {
    let envoys = view.envoys_send_hbone();
    let mut endpoints: Vec<Endpoint> = view
        .pods()
        .iter()
        .map(|pod| endpoint(view, pod, envoys))
        .collect();
    // Per pod, what its Services say of waypoints.
    let mut asked: BTreeMap<usize, Vec<Takes>> = BTreeMap::new();
    for service in view.snapshot.services.all() {
        let spec = service.spec.as_ref();
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let takes = behind(view, service);
        for place in view.pods_of(service).filter_map(|pod| view.place(pod)) {
            let Some(endpoint) = endpoints.get_mut(place) else {
                continue;
            };
            let targets = ports.iter().filter_map(|port| target(endpoint, port));
            let targets: Vec<u16> = targets.collect();
            endpoint.serves.extend(targets);
            asked.entry(place).or_default().push(takes);
        }
    }
    for (place, pod) in view.pods().iter().enumerate() {
        if let Some(endpoint) = endpoints.get_mut(place)
            && is_captured(pod)
            && !is_waypoint(&endpoint.labels)
        {
            endpoint.takes = takes(view, pod, asked.get(&place).map_or(&[], Vec::as_slice));
        }
    }
    // Whether policies would let the mesh's own parts work is worth knowing before they are installed.
    if view.planned().is_some() {
        endpoints.extend(
            [("istiod", &[XDS, WEBHOOK][..]), ("ztunnel", &[])].map(|(app, serves)| Endpoint {
                namespace: view.istio.clone(),
                labels: [("app".to_owned(), app.to_owned())].into(),
                serves: serves.iter().copied().collect(),
                ..Endpoint::default()
            }),
        );
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

/// How traffic for a Service arrives, by its own label or its namespace's.
fn behind(view: &View<'_>, service: &Service) -> Takes {
    let own = service.metadata.labels.as_ref();
    let of_namespace = view.namespace_labels(namespace(&service.metadata));
    let waypoint = has_waypoint(own).or_else(|| has_waypoint(Some(of_namespace)));
    if waypoint != Some(true) {
        return Takes::Hbone;
    }
    let asked = own.and_then(|labels| labels.get(INGRESS_USE_WAYPOINT));
    let asked = asked.or_else(|| of_namespace.get(INGRESS_USE_WAYPOINT));
    Takes::BehindWaypoint {
        for_gateways: asked.is_some_and(|asked| asked == "true"),
    }
}

/// How connections arrive at a captured pod. Where one of its Services has no waypoint, callers come to it directly.
fn takes(view: &View<'_>, pod: &PodView<'_>, services: &[Takes]) -> Takes {
    let own = has_waypoint(Some(&pod.facts.labels));
    let of_namespace = has_waypoint(Some(view.namespace_labels(&pod.facts.namespace)));
    let directly = services.contains(&Takes::Hbone);
    if own == Some(true) || services.is_empty() && own.or(of_namespace) == Some(true) {
        return Takes::BehindWaypoint { for_gateways: false };
    }
    let past = |takes: &&Takes| **takes == Takes::BehindWaypoint { for_gateways: false };
    match services.first() {
        Some(first) if !directly => *services.iter().find(past).unwrap_or(first),
        _ => Takes::Hbone,
    }
}

fn endpoint(view: &View<'_>, pod: &PodView<'_>, envoys: bool) -> Endpoint {
    let facts = &pod.facts;
    let (named_ports, serves) = ports(pod.pod);
    // A waypoint speaks HBONE itself, though nothing captures it.
    let waypoint = is_waypoint(&facts.labels);
    let tunnels = facts.labels.get(TUNNEL).is_some_and(|kind| kind == "http");
    let takes = if is_captured(pod) || waypoint || envoys && tunnels {
        Takes::Hbone
    } else {
        Takes::Plain
    };
    let sends = if facts.host_network {
        Sends::Plain
    } else if is_captured(pod) {
        Sends::Ztunnel
    } else if waypoint {
        Sends::Envoy
    } else if envoys && is_gateway(view, pod) {
        Sends::Gateway
    } else if envoys && facts.sidecar {
        Sends::Envoy
    } else {
        Sends::Plain
    };
    Endpoint {
        namespace: facts.namespace.clone(),
        labels: facts.labels.clone(),
        addresses: facts.addresses.clone(),
        named_ports,
        serves,
        apart: facts.host_network || !pod.is_live(),
        sends,
        takes: if facts.host_network { Takes::Plain } else { takes },
    }
}

/// Whether a pod is a gateway of Istio: one that istiod runs for a Gateway, or one that an injected Envoy alone makes.
pub(crate) fn is_gateway(view: &View<'_>, pod: &PodView<'_>) -> bool {
    if is_waypoint(&pod.facts.labels) || !has_proxy(pod.pod) {
        return false;
    }
    let spec = pod.pod.spec.as_ref();
    let alone = spec.is_some_and(|spec| spec.containers.iter().all(|container| container.name == PROXY));
    pod.facts.labels.contains_key(GATEWAY_NAME) || alone || view.is_selected_by_gateway(&pod.facts.labels)
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
    containers(pod).any(|container| container.name == PROXY)
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
