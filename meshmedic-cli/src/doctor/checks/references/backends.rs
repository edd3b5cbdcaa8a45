// SPDX-License-Identifier: Apache-2.0
//! Backends of routes of the Gateway API.

use crate::doctor::kind::{REFERENCE_GRANT, ROUTES};
use serde_json::Value;

use crate::doctor::checks::status::route_is_denied;
use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::View;
use crate::doctor::view::gateways::{find, is_of_istio, reference};

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let routes = ROUTES.iter().flat_map(|kind| view.custom(kind));
    routes
        .filter(|route| is_ours(view, route) && !route_is_denied(route))
        .flat_map(|route| {
            backends(route).filter_map(move |(place, backend)| finding(view, route, &place, backend))
        })
        .collect()
}

/// Whether a route is for callers within the mesh, or for a Gateway of Istio.
fn is_ours(view: &View<'_>, route: &Custom) -> bool {
    route.list("/parentRefs").iter().any(|parent| {
        let text = |field: &str| parent.get(field).and_then(Value::as_str);
        let of = text("namespace").unwrap_or_else(|| route.namespace());
        match text("kind") {
            Some("Service" | "ServiceEntry") => true,
            None | Some("Gateway") => {
                let gateway = text("name").and_then(|name| find(view, of, name));
                gateway.is_some_and(|gateway| is_of_istio(view, gateway))
            }
            _ => false,
        }
    })
}

fn backends(route: &Custom) -> impl Iterator<Item = (String, &Value)> {
    route.list("/rules").iter().enumerate().flat_map(|(at, rule)| {
        let all = rule
            .get("backendRefs")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate();
        all.map(move |(number, backend)| (format!("spec.rules[{at}].backendRefs[{number}]"), backend))
    })
}

fn finding(view: &View<'_>, route: &Custom, place: &str, backend: &Value) -> Option<Finding> {
    let text = |field: &str| backend.get(field).and_then(Value::as_str);
    // Of other kinds only their controllers know whether they exist.
    let core = matches!(text("group"), None | Some("")) && matches!(text("kind"), None | Some("Service"));
    if !core {
        return None;
    }
    let called = text("name")?;
    let of = text("namespace").unwrap_or_else(|| route.namespace());
    let effect = "Requests that take this way are answered with status 500.";
    let Some(service) = view.service(of, called) else {
        return Some(
            Finding::on(reference(route), "it leads to a Service that does not exist")
                .because(format!("{place} names Service {of}/{called}"))
                .so(effect)
                .run(Command::new("kubectl get services").namespace(of))
                .by_hand("Correct the name or the namespace, make the Service, or take the backend away."),
        );
    };
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let ports: Vec<i64> = ports.map(|port| i64::from(port.port)).collect();
    if let Some(port) = backend.get("port").and_then(Value::as_i64)
        && !ports.contains(&port)
    {
        let known: Vec<String> = ports.iter().map(i64::to_string).collect();
        return Some(
            Finding::on(
                reference(route),
                "it leads to a port that its Service does not have",
            )
            .because(format!(
                "{place} names port {port} of Service {of}/{called}, which has {}",
                known.join(", ")
            ))
            .so(effect)
            .by_hand("Write a port of the Service there, and not the targetPort of its pods."),
        );
    }
    if of == route.namespace() || is_granted(view, route, of, called) {
        return None;
    }
    let grant = serde_json::json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": { "name": format!("{}-from-{}", called, route.namespace()), "namespace": of },
        "spec": {
            "from": [{ "group": "gateway.networking.k8s.io", "kind": route.kind, "namespace": route.namespace() }],
            "to": [{ "group": "", "kind": "Service", "name": called }],
        },
    });
    let finding = Finding::on(
        reference(route),
        "it leads to a Service of another namespace that does not allow it",
    )
    .because(format!("{place} names Service {of}/{called}"))
    .because(format!(
        "no ReferenceGrant in namespace {of} allows a {} of namespace {} to use it",
        route.kind,
        route.namespace()
    ))
    .so(effect);
    Some(match serde_saphyr::to_string(&grant) {
        Ok(yaml) => finding.apply(&yaml),
        Err(_) => finding,
    })
}

fn is_granted(view: &View<'_>, route: &Custom, of: &str, called: &str) -> bool {
    let grants = view
        .custom(REFERENCE_GRANT)
        .iter()
        .filter(|grant| grant.namespace() == of);
    grants.into_iter().any(|grant| {
        let from = grant.list("/from").iter().any(|from| {
            let text = |field: &str| from.get(field).and_then(Value::as_str);
            text("kind") == Some(route.kind.as_str()) && text("namespace") == Some(route.namespace())
        });
        let to = grant.list("/to").iter().any(|to| {
            let text = |field: &str| to.get(field).and_then(Value::as_str);
            text("kind") == Some("Service")
                && text("name").is_none_or(|name| name.is_empty() || name == called)
        });
        from && to
    })
}
