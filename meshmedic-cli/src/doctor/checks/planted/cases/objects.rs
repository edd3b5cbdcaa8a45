// SPDX-License-Identifier: Apache-2.0
//! Faults of objects: what istiod says of them, waypoints, protection, references.

use crate::doctor::kind::{AUTHORIZATION, GATEWAY, HTTP_ROUTE, REQUEST, VIRTUAL_SERVICE};
use serde_json::{Value, json};

use super::{Case, case, nothing};
use crate::doctor::fixtures::{annotate, had, object};
use crate::doctor::snapshot::{Custom, Snapshot};

const RULE: &str = "destinationrules.networking.istio.io";

fn objects<'s>(snapshot: &'s mut Snapshot, key: &str) -> &'s mut Vec<Custom> {
    had(snapshot.custom.get_mut(key).unwrap())
}

fn one<'s>(snapshot: &'s mut Snapshot, key: &str, name: &str) -> &'s mut Custom {
    objects(snapshot, key)
        .iter_mut()
        .find(|one| one.name() == name)
        .unwrap()
}

fn away(snapshot: &mut Snapshot, key: &str, name: &str) {
    objects(snapshot, key).retain(|one| one.name() != name);
}

/// A condition on a Service.
fn bound(snapshot: &mut Snapshot, name: &str, said: Value) {
    let mut services = had(&mut snapshot.services).iter_mut();
    let service = services
        .find(|one| one.metadata.name.as_deref() == Some(name))
        .unwrap();
    service.status = Some(object(json!({ "conditions": [said] })));
}

fn targets(name: &str) -> Value {
    json!([{ "group": "", "kind": "Service", "name": name }])
}

fn get_only() -> Value {
    json!([{ "to": [{ "operation": { "methods": ["GET"] } }] }])
}

fn parent(kind: &str, name: &str) -> Value {
    json!([{ "kind": kind, "name": name, "namespace": "istio-system" }])
}

fn orders(host: &str, port: u16) -> Value {
    json!({
        "hosts": ["orders"],
        "http": [{ "route": [{ "destination": { "host": host, "port": { "number": port } } }] }],
    })
}

pub(super) const CASES: &[Case] = &[
    case(
        "MM1001",
        "Service shop/cart",
        |snapshot| {
            snapshot.label_service("shop", "cart", "istio.io/use-waypoint", "old");
            bound(
                snapshot,
                "cart",
                json!({
                    "type": "istio.io/WaypointBound", "status": "False", "reason": "WaypointIsNotReady",
                    "message": "waypoint \"shop/old\" is not ready", "lastTransitionTime": "2026-01-01T01:00:00Z",
                }),
            );
        },
        nothing,
    ),
    case(
        "MM1002",
        "AuthorizationPolicy till/pay",
        |snapshot| {
            snapshot.add_custom(
                AUTHORIZATION,
                "till",
                "pay",
                json!({ "targetRefs": targets("pay"), "rules": get_only() }),
            );
            snapshot.say(
                AUTHORIZATION,
                "till",
                "pay",
                json!({ "conditions": [{
                "type": "WaypointAccepted", "status": "False", "reason": "AncestorNotBound",
                "message": "Service till/pay is not bound to a waypoint",
            }] }),
            );
        },
        |snapshot| {
            snapshot.add_waypoint("till", "waypoint").label_service(
                "till",
                "pay",
                "istio.io/use-waypoint",
                "waypoint",
            );
            one(snapshot, AUTHORIZATION, "pay").status.conditions.clear();
        },
    ),
    case(
        "MM1003",
        "AuthorizationPolicy shop/trial",
        |snapshot| {
            let rules = json!([{ "from": [{ "source": { "namespaces": ["till"] } }] }]);
            snapshot.add_custom(
                AUTHORIZATION,
                "shop",
                "trial",
                json!({ "action": "DENY", "rules": rules }),
            );
            snapshot.say(
                AUTHORIZATION,
                "shop",
                "trial",
                json!({ "conditions": [{
                "type": "ZtunnelAccepted", "status": "False", "reason": "UnsupportedValue",
                "message": "found policy \"shop/trial\" using dry-run annotation, but support is not enabled",
            }] }),
            );
            let policy = one(snapshot, AUTHORIZATION, "trial");
            policy.metadata.annotations = Some([("istio.io/dry-run".to_owned(), "true".to_owned())].into());
        },
        |snapshot| away(snapshot, AUTHORIZATION, "trial"),
    ),
    case(
        "MM1004",
        "Gateway istio-system/public",
        |snapshot| {
            one(snapshot, GATEWAY, "public").status.parts =
                vec![object(json!({ "of": "https", "conditions": [{
                "type": "ResolvedRefs", "status": "False", "reason": "InvalidCertificateRef",
                "message": "invalid certificate reference, secret istio-system/tls not found",
            }] }))];
        },
        |snapshot| one(snapshot, GATEWAY, "public").status.parts.clear(),
    ),
    case(
        "MM1005",
        "HTTPRoute shop/catalog",
        |snapshot| {
            let rules = json!([{ "backendRefs": [{ "name": "catalogue", "port": 80 }] }]);
            snapshot.add_custom(
                HTTP_ROUTE,
                "shop",
                "catalog",
                json!({ "parentRefs": parent("Gateway", "public"), "rules": rules }),
            );
            snapshot.say(
                HTTP_ROUTE,
                "shop",
                "catalog",
                json!({ "parts": [{
                "of": "Gateway istio-system/public", "controller": "istio.io/gateway-controller",
                "conditions": [
                    { "type": "Accepted", "status": "True", "reason": "Accepted" },
                    { "type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound",
                      "message": "backend(catalogue.shop.svc.cluster.local) not found" },
                ],
            }] }),
            );
        },
        |snapshot| away(snapshot, HTTP_ROUTE, "catalog"),
    ),
    case(
        "MM1006",
        "Gateway istio-system/edge",
        |snapshot| {
            snapshot.add_ingress("istio-system", "edge");
            one(snapshot, GATEWAY, "edge").status = object(json!({ "conditions": [{
                "type": "Programmed", "status": "False", "reason": "AddressNotAssigned", "observedGeneration": 1,
                "message": "Assigned to service(s) edge:80, but failed to assign to all requested addresses",
            }] }));
        },
        |snapshot| one(snapshot, GATEWAY, "edge").status.conditions.clear(),
    ),
    case(
        "MM1101",
        "Gateway till/down",
        |snapshot| {
            snapshot.add_waypoint("till", "down").label_service(
                "till",
                "pay",
                "istio.io/use-waypoint",
                "down",
            );
            snapshot.drop_pods(|pod| {
                pod.metadata
                    .name
                    .as_deref()
                    .is_some_and(|name| name.starts_with("down-"))
            });
        },
        nothing,
    ),
    case(
        "MM1102",
        "Namespace plain",
        |snapshot| {
            snapshot.with_namespace("plain", |of| {
                of.metadata
                    .labels
                    .get_or_insert_default()
                    .insert("istio.io/use-waypoint".to_owned(), "gone".to_owned());
            });
        },
        nothing,
    ),
    case(
        "MM1103",
        "Service legacy/orders",
        |snapshot| {
            snapshot.add_waypoint("legacy", "pods").label_service(
                "legacy",
                "orders",
                "istio.io/use-waypoint",
                "pods",
            );
            let labels = [("istio.io/waypoint-for".to_owned(), "workload".to_owned())];
            one(snapshot, GATEWAY, "pods").metadata.labels = Some(labels.into());
        },
        nothing,
    ),
    case(
        "MM1104",
        "Service plain/far",
        |snapshot| {
            had(&mut snapshot.services).push(object(
                json!({ "metadata": { "namespace": "plain", "name": "far" } }),
            ));
            snapshot.label_service("plain", "far", "istio.io/use-waypoint", "wp");
            snapshot.label_service("plain", "far", "istio.io/use-waypoint-namespace", "shop");
        },
        |snapshot| {
            let listener = &mut one(snapshot, GATEWAY, "wp").spec["listeners"][0];
            listener["allowedRoutes"] = json!({ "namespaces": { "from": "All" } });
        },
    ),
    case(
        "MM1105",
        "Service shop/catalog",
        |snapshot| {
            let rules = json!([{ "backendRefs": [{ "name": "catalog", "port": 80 }] }]);
            snapshot.add_custom(
                HTTP_ROUTE,
                "shop",
                "in",
                json!({ "parentRefs": parent("Gateway", "public"), "rules": rules }),
            );
            snapshot.add_custom(
                AUTHORIZATION,
                "shop",
                "read",
                json!({ "targetRefs": targets("catalog"), "rules": get_only() }),
            );
        },
        nothing,
    ),
    case(
        "MM1201",
        "AuthorizationPolicy shop/cart",
        |snapshot| {
            snapshot.add_custom(
                AUTHORIZATION,
                "shop",
                "cart",
                json!({ "targetRefs": targets("cart2"), "rules": get_only() }),
            );
            had(&mut snapshot.services).push(object(
                json!({ "metadata": { "namespace": "shop", "name": "cart2" } }),
            ));
        },
        nothing,
    ),
    case(
        "MM1202",
        "RequestAuthentication shop/tokens",
        |snapshot| {
            let spec = json!({
                "selector": { "matchLabels": { "app": "cart" } }, "jwtRules": [{ "issuer": "https://id.example.com" }],
            });
            snapshot.add_custom(REQUEST, "shop", "tokens", spec);
        },
        |snapshot| {
            one(snapshot, REQUEST, "tokens").spec = json!({ "targetRefs": targets("cart") });
            away(snapshot, GATEWAY, "waypoint");
        },
    ),
    case(
        "MM1203",
        "EnvoyFilter till/lua",
        |snapshot| {
            let spec = json!({ "workloadSelector": { "labels": { "app": "pay" } } });
            snapshot.add_custom("envoyfilters.networking.istio.io", "till", "lua", spec);
        },
        |snapshot| away(snapshot, "envoyfilters.networking.istio.io", "lua"),
    ),
    case(
        "MM1204",
        "AuthorizationPolicy shop/callers",
        |snapshot| {
            let rules =
                json!([{ "from": [{ "source": { "principals": ["cluster.local/ns/till/sa/default"] } }] }]);
            snapshot.add_custom(
                AUTHORIZATION,
                "shop",
                "callers",
                json!({
                    "selector": { "matchLabels": { "app": "catalog" } }, "action": "ALLOW", "rules": rules,
                }),
            );
        },
        nothing,
    ),
    case(
        "MM1205",
        "AuthorizationPolicy shop/banned",
        |snapshot| {
            let rules = json!([{ "from": [{ "source": { "namespaces": ["plain"] } }] }]);
            snapshot.add_custom(
                AUTHORIZATION,
                "shop",
                "banned",
                json!({
                    "selector": { "matchLabels": { "app": "catalog" } }, "action": "DENY", "rules": rules,
                }),
            );
        },
        |snapshot| {
            let rules = json!([{ "from": [{ "source": { "namespaces": ["plain"] } }] }]);
            snapshot.add_custom(
                AUTHORIZATION,
                "shop",
                "banned-too",
                json!({
                    "targetRefs": targets("catalog"), "action": "DENY", "rules": rules,
                }),
            );
        },
    ),
    case(
        "MM1206",
        "Pod till/pay-7d4b-c",
        |snapshot| {
            snapshot.with_pod("till", "pay-7d4b-c", |pod| {
                annotate(pod, "traffic.sidecar.istio.io/excludeOutboundPorts", "3306");
            });
        },
        |snapshot| {
            snapshot.with_pod("till", "pay-7d4b-c", |pod| {
                let annotations = pod.metadata.annotations.as_mut().unwrap();
                annotations.remove("traffic.sidecar.istio.io/excludeOutboundPorts");
            });
        },
    ),
    case(
        "MM1301",
        "VirtualService legacy/away",
        |snapshot| {
            let mut spec = orders("ordrs", 80);
            spec["hosts"] = json!(["away.example.com"]);
            snapshot.add_custom(VIRTUAL_SERVICE, "legacy", "away", spec);
        },
        |snapshot| away(snapshot, VIRTUAL_SERVICE, "away"),
    ),
    case(
        "MM1302",
        "VirtualService legacy/port",
        |snapshot| {
            let mut spec = orders("orders", 8080);
            spec["hosts"] = json!(["port.example.com"]);
            snapshot.add_custom(VIRTUAL_SERVICE, "legacy", "port", spec);
        },
        |snapshot| away(snapshot, VIRTUAL_SERVICE, "port"),
    ),
    case(
        "MM1303",
        "HTTPRoute shop/lent",
        |snapshot| {
            let rules = json!([{ "backendRefs": [{ "name": "pay", "namespace": "till", "port": 80 }] }]);
            let parents = json!([{ "group": "", "kind": "Service", "name": "catalog" }]);
            snapshot.add_custom(
                HTTP_ROUTE,
                "shop",
                "lent",
                json!({ "parentRefs": parents, "rules": rules }),
            );
        },
        nothing,
    ),
    case(
        "MM1304",
        "HTTPRoute shop/lost",
        |snapshot| {
            snapshot.add_custom(
                HTTP_ROUTE,
                "shop",
                "lost",
                json!({ "parentRefs": parent("Gateway", "pubic") }),
            );
        },
        |snapshot| away(snapshot, HTTP_ROUTE, "lost"),
    ),
    case(
        "MM1305",
        "DestinationRule legacy/exported",
        |snapshot| {
            snapshot.add_custom(
                RULE,
                "legacy",
                "exported",
                json!({ "host": "orders", "exportTo": ["legcy"] }),
            );
        },
        |snapshot| away(snapshot, RULE, "exported"),
    ),
    case(
        "MM1306",
        "VirtualService legacy/two",
        |snapshot| {
            snapshot.add_custom(VIRTUAL_SERVICE, "legacy", "one", orders("orders", 80));
            let mut spec = orders("orders", 80);
            spec["hosts"] = json!(["orders.legacy.svc.cluster.local"]);
            snapshot.add_custom(VIRTUAL_SERVICE, "legacy", "two", spec);
        },
        |snapshot| away(snapshot, VIRTUAL_SERVICE, "two"),
    ),
    case(
        "MM1307",
        "Service shop/kart",
        |snapshot| {
            had(&mut snapshot.services).push(object(json!({
                "metadata": { "namespace": "shop", "name": "kart" },
                "spec": { "selector": { "app": "kart" }, "ports": [{ "name": "http", "port": 80 }] },
            })));
        },
        |snapshot| had(&mut snapshot.services).retain(|one| one.metadata.name.as_deref() != Some("kart")),
    ),
    case(
        "MM1308",
        "AuthorizationPolicy till/misspelt",
        |snapshot| {
            let rules =
                json!([{ "from": [{ "source": { "principals": ["cluster.local/ns/shop/sa/defalt"] } }] }]);
            snapshot.add_custom(
                AUTHORIZATION,
                "till",
                "misspelt",
                json!({ "action": "DENY", "rules": rules }),
            );
        },
        |snapshot| away(snapshot, AUTHORIZATION, "misspelt"),
    ),
];
