// SPDX-License-Identifier: Apache-2.0
//! What routes say, whichever API they are written in.

use crate::doctor::kind::{GRPC_ROUTE, HTTP_ROUTE, VIRTUAL_SERVICE};
use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

use crate::doctor::finding::ObjectRef;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::View;

/// The lists of routes in a `VirtualService`.
pub(super) const LISTS: [&str; 3] = ["http", "tls", "tcp"];

/// A route that is for callers within the mesh, and the Service that it is for.
pub(super) struct MeshRoute<'s> {
    pub(super) route: &'s Custom,
    pub(super) service: &'s Service,
    /// The port of the Service that it is for, where it says one.
    pub(super) port: Option<i32>,
    pub(super) of_http: bool,
}

pub(super) fn reference(route: &Custom) -> ObjectRef {
    ObjectRef::new(&route.kind, route.namespace(), route.name())
}

/// The routes for callers within the mesh, by their Services.
pub(super) fn in_mesh<'s>(view: &View<'s>) -> Vec<MeshRoute<'s>> {
    let mut routes = Vec::new();
    for route in view
        .custom(VIRTUAL_SERVICE)
        .iter()
        .filter(|route| is_for_mesh(route))
    {
        for host in route.list("/hosts").iter().filter_map(Value::as_str) {
            if let Some(service) = service_of(view, host, route.namespace()) {
                routes.push(MeshRoute {
                    route,
                    service,
                    port: None,
                    of_http: !route.list("/http").is_empty(),
                });
            }
        }
    }
    for route in view.custom(HTTP_ROUTE).iter().chain(view.custom(GRPC_ROUTE)) {
        for parent in route.list("/parentRefs") {
            let text = |name: &str| parent.get(name).and_then(Value::as_str);
            let namespace = text("namespace").unwrap_or_else(|| route.namespace());
            let service = match (text("kind"), text("name")) {
                (Some("Service"), Some(name)) => view.service(namespace, name),
                _ => None,
            };
            if let Some(service) = service {
                let port = parent.get("port").and_then(Value::as_i64);
                routes.push(MeshRoute {
                    route,
                    service,
                    port: port.and_then(|port| i32::try_from(port).ok()),
                    of_http: true,
                });
            }
        }
    }
    routes
}

/// Whether callers within the mesh are to follow it, and not only gateways.
fn is_for_mesh(route: &Custom) -> bool {
    let gateways = route.list("/gateways");
    gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh")
}

/// A Service's name and namespace, of a host as Istio writes it.
pub(in crate::doctor::checks) fn split<'h>(host: &'h str, namespace: &'h str) -> Option<(&'h str, &'h str)> {
    let mut parts = host.split('.');
    let name = parts
        .next()
        .filter(|name| !name.is_empty() && !name.contains('*'))?;
    match (parts.next(), parts.next()) {
        (None, _) => Some((name, namespace)),
        (Some(of), None | Some("svc")) => Some((name, of)),
        _ => None,
    }
}

/// The Service that a host means, seen from a namespace.
pub(in crate::doctor::checks) fn service_of<'s>(
    view: &View<'s>,
    host: &str,
    namespace: &str,
) -> Option<&'s Service> {
    let (name, of) = split(host, namespace)?;
    view.service(of, name)
}
