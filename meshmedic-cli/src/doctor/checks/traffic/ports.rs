// SPDX-License-Identifier: Apache-2.0
//! Ports whose protocol Istio has to know.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use serde_json::json;

use super::routes::{MeshRoute, in_mesh, reference};
use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::{View, name, namespace};

/// What Istio takes a port for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Http,
    /// Something else, by its name.
    Other,
    /// Nobody says, so Istio looks at the first bytes of each connection.
    Unsaid,
}

/// Ports at which Istio does not look for HTTP unless it is told: mail, names, databases.
const NEVER_HTTP: [i32; 4] = [25, 53, 3306, 27017];

fn speaks(port: &ServicePort) -> Speaks {
    let said = port
        .app_protocol
        .as_deref()
        .or(port.name.as_deref())
        .unwrap_or_default()
        .to_ascii_lowercase();
    let said = said.strip_prefix("kubernetes.io/").unwrap_or(&said);
    match said.split('-').next().unwrap_or_default() {
        "http" | "http2" | "grpc" | "h2c" | "ws" => Speaks::Http,
        "tcp" | "tls" | "https" | "wss" | "mongo" | "mysql" | "redis" | "udp" => Speaks::Other,
        _ if NEVER_HTTP.contains(&port.port) => Speaks::Other,
        _ => Speaks::Unsaid,
    }
}

/// The TCP ports that a route of HTTP is for.
fn ports<'s>(route: &MeshRoute<'s>) -> Vec<&'s ServicePort> {
    let spec = route.service.spec.as_ref();
    let all = spec.into_iter().flat_map(|spec| spec.ports.iter().flatten());
    all.filter(|port| {
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        tcp && route.port.is_none_or(|wanted| wanted == port.port)
    })
    .collect()
}

/// No port of the Service is HTTP's, by its own word.
pub(super) fn not_http(view: &View<'_>) -> Vec<Finding> {
    found(view, |ports| {
        !ports.is_empty() && ports.iter().all(|port| speaks(port) == Speaks::Other)
    })
    .into_iter()
    .map(|(service, route, port)| {
        let finding = Finding::on(
            service_ref(service),
            "it has routes of HTTP, and no port that speaks it",
        )
        .because(format!("{} routes HTTP to it", reference(route.route)))
        .because(format!("{}, which Istio takes for another protocol", words(port)))
        .so("Istio passes its traffic on byte by byte: the routes are not followed.");
        remedy(finding, service, port)
    })
    .collect()
}

/// No port of the Service is HTTP's by its own word, and of one nothing is said.
pub(super) fn undeclared(view: &View<'_>) -> Vec<Finding> {
    let none_said = |ports: &[&ServicePort]| {
        let speak = |wanted| ports.iter().any(|port| speaks(port) == wanted);
        speak(Speaks::Unsaid) && !speak(Speaks::Http)
    };
    found(view, none_said)
        .into_iter()
        .map(|(service, route, port)| {
            let finding = Finding::on(
                service_ref(service),
                "it has routes of HTTP, and does not say that its port speaks it",
            )
            .because(format!("{} routes HTTP to it", reference(route.route)))
            .because(words(port))
            .so(
                "Istio looks at the first bytes of each connection and guesses. It guesses HTTP well, but a server \
                 that speaks first is waited for in vain, and a gateway takes gRPC for HTTP/1.1.",
            );
            remedy(finding, service, port)
        })
        .collect()
}

/// The Services with routes of HTTP whose ports are so, each once.
fn found<'s>(
    view: &View<'s>,
    are_so: impl Fn(&[&ServicePort]) -> bool,
) -> Vec<(&'s Service, MeshRoute<'s>, &'s ServicePort)> {
    let mut by_service = BTreeMap::new();
    for route in in_mesh(view).into_iter().filter(|route| route.of_http) {
        let ports = ports(&route);
        let of_interest = ports
            .iter()
            .find(|port| speaks(port) == Speaks::Unsaid)
            .or(ports.first());
        if let Some(&port) = of_interest.filter(|_| are_so(&ports)) {
            let metadata = &route.service.metadata;
            let key = (namespace(metadata), name(metadata));
            by_service.entry(key).or_insert((route.service, route, port));
        }
    }
    by_service.into_values().collect()
}

fn service_ref(service: &Service) -> ObjectRef {
    ObjectRef::new("Service", namespace(&service.metadata), name(&service.metadata))
}

fn words(port: &ServicePort) -> String {
    let name = match port.name.as_deref() {
        Some(name) => format!("is called {name}"),
        None => "has no name".to_owned(),
    };
    match port.app_protocol.as_deref() {
        Some(protocol) => format!("port {} {name}, with appProtocol {protocol}", port.port),
        None => format!("port {} {name} and has no appProtocol", port.port),
    }
}

fn remedy(finding: Finding, service: &Service, port: &ServicePort) -> Finding {
    let ports = json!([{ "port": port.port, "protocol": "TCP", "appProtocol": "http" }]);
    let patch = json!({ "spec": { "ports": ports } }).to_string();
    let (namespace, name) = (namespace(&service.metadata), name(&service.metadata));
    finding
        .run(
            Command::new("kubectl patch service")
                .namespace(namespace)
                .name(name)
                .option("-p", &patch),
        )
        .by_hand(
            "If the port speaks gRPC say grpc, and if it does not speak HTTP at all, take the routes away.",
        )
}
