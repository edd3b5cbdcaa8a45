// SPDX-License-Identifier: Apache-2.0
use crate::doctor::kind::{
    AUTHORIZATION, DESTINATION_RULE, HTTP_ROUTE, ISTIO_GATEWAY, REFERENCE_GRANT, SERVICE_ENTRY,
    VIRTUAL_SERVICE,
};
use serde_json::{Value, json};

use crate::doctor::fixtures::{assert_finds, assert_passes, findings, had, healthy, object};
use crate::doctor::snapshot::Snapshot;

fn add(key: &str, of: &str, spec: Value) -> Snapshot {
    let mut snapshot = healthy();
    snapshot.add_classes().add_ingress("istio-system", "public");
    snapshot.add_custom(key, of, "one", spec);
    snapshot
}

fn to(host: &str, port: Option<u16>) -> Value {
    let mut destination = json!({ "host": host });
    if let Some(port) = port {
        destination["port"] = json!({ "number": port });
    }
    json!({ "hosts": ["shop.example.com"], "http": [{ "route": [{ "destination": destination }] }] })
}

#[test]
fn hosts_are_services_and_service_entries() {
    for host in ["ordrs", "orders.lgacy.svc.cluster.local", "api.example.com"] {
        let found = assert_finds(
            "MM1301",
            &add(VIRTUAL_SERVICE, "legacy", to(host, None)),
            "VirtualService legacy/one",
        );
        assert!(found.evidence[0].ends_with(host), "{found:#?}");
    }
    for host in [
        "orders",
        "orders.legacy.svc.cluster.local",
        "cart.shop.svc.cluster.local",
        "*.example.com",
    ] {
        assert_passes("MM1301", &add(VIRTUAL_SERVICE, "legacy", to(host, None)));
    }
    for written in ["api.example.com", "*.example.com"] {
        let mut snapshot = add(VIRTUAL_SERVICE, "legacy", to("api.example.com", None));
        snapshot.add_custom(SERVICE_ENTRY, "plain", "api", json!({ "hosts": [written] }));
        assert_passes("MM1301", &snapshot);
    }
    // A short name is one of the VirtualService's own namespace.
    assert_finds(
        "MM1301",
        &add(VIRTUAL_SERVICE, "legacy", to("cart", None)),
        "VirtualService legacy/one",
    );
    let mirror =
        json!({ "hosts": ["orders"], "http": [{ "mirrors": [{ "destination": { "host": "gone" } }] }] });
    let found = assert_finds(
        "MM1301",
        &add(VIRTUAL_SERVICE, "legacy", mirror),
        "VirtualService legacy/one",
    );
    assert!(
        found.evidence[0].starts_with("spec.http[0].mirrors[0]"),
        "{found:#?}"
    );
}

#[test]
fn of_one_cluster_among_several_nothing_is_said() {
    let mut snapshot = add(VIRTUAL_SERVICE, "legacy", to("ordrs", None));
    snapshot.with_namespace("istio-system", |of| {
        of.metadata
            .labels
            .get_or_insert_default()
            .insert("topology.istio.io/network".to_owned(), "one".to_owned());
    });
    assert_passes("MM1301", &snapshot);
    let rules = json!([{ "from": [{ "source": { "principals": ["cluster.local/ns/far/sa/away"] } }] }]);
    snapshot.add_custom(AUTHORIZATION, "shop", "far", json!({ "rules": rules }));
    assert_passes("MM1308", &snapshot);
}

#[test]
fn a_cluster_with_a_name_of_its_own_is_one_of_several() {
    let named = |id: Option<&str>| {
        let mut snapshot = add(VIRTUAL_SERVICE, "legacy", to("ordrs", None));
        snapshot.with_pod("istio-system", "istiod-5f6c-a", |pod| {
            let env = pod.spec.as_mut().unwrap().containers[0].env.as_mut().unwrap();
            env.push(object(json!({ "name": "CLUSTER_ID", "value": id })));
        });
        snapshot
    };
    assert_finds("MM1301", &named(Some("Kubernetes")), "VirtualService legacy/one");
    // Another name is not kept.
    assert_passes("MM1301", &named(None));
}

#[test]
fn ports_are_those_of_the_host() {
    let found = assert_finds(
        "MM1302",
        &add(VIRTUAL_SERVICE, "legacy", to("orders", Some(8080))),
        "VirtualService legacy/one",
    );
    assert_eq!(found.evidence[1], "Service legacy/orders has 80");
    for port in [None, Some(80)] {
        assert_passes("MM1302", &add(VIRTUAL_SERVICE, "legacy", to("orders", port)));
    }
    let mut entry = add(VIRTUAL_SERVICE, "legacy", to("api.example.com", Some(80)));
    entry.add_custom(
        SERVICE_ENTRY,
        "legacy",
        "api",
        json!({ "hosts": ["api.example.com"], "ports": [{ "number": 443 }] }),
    );
    assert_finds("MM1302", &entry, "VirtualService legacy/one");
}

fn route(backend: Value) -> Snapshot {
    add(
        HTTP_ROUTE,
        "shop",
        json!({
            "parentRefs": [{ "name": "public", "namespace": "istio-system" }], "rules": [{ "backendRefs": [backend] }],
        }),
    )
}

#[test]
fn backends_exist_have_the_port_and_are_granted() {
    for (backend, problem) in [
        (json!({ "name": "crat", "port": 80 }), "does not exist"),
        (json!({ "name": "cart", "port": 8080 }), "does not have"),
        (
            json!({ "name": "pay", "namespace": "till", "port": 80 }),
            "does not allow it",
        ),
    ] {
        let found = assert_finds("MM1303", &route(backend), "HTTPRoute shop/one");
        assert!(found.problem.contains(problem), "{found:#?}");
    }
    for backend in [
        json!({ "name": "cart", "port": 80 }),
        json!({ "name": "cart", "namespace": "shop", "port": 80 }),
        // What others make of their kinds is theirs to say.
        json!({ "group": "example.com", "kind": "Bucket", "name": "x" }),
    ] {
        assert_passes("MM1303", &route(backend));
    }
    let grant = |from: &str, to: Value| {
        let mut snapshot = route(json!({ "name": "pay", "namespace": "till", "port": 80 }));
        let from = json!([{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": from }]);
        snapshot.add_custom(
            REFERENCE_GRANT,
            "till",
            "one",
            json!({ "from": from, "to": [to] }),
        );
        snapshot
    };
    assert_passes(
        "MM1303",
        &grant("shop", json!({ "group": "", "kind": "Service" })),
    );
    assert_passes(
        "MM1303",
        &grant("shop", json!({ "group": "", "kind": "Service", "name": "pay" })),
    );
    assert_finds(
        "MM1303",
        &grant("shop", json!({ "group": "", "kind": "Service", "name": "till" })),
        "HTTPRoute shop/one",
    );
    assert_finds(
        "MM1303",
        &grant("legacy", json!({ "group": "", "kind": "Service" })),
        "HTTPRoute shop/one",
    );
}

#[test]
fn routes_of_gateways_of_others_are_theirs() {
    let mut snapshot = route(json!({ "name": "crat" }));
    had(snapshot
        .custom
        .get_mut("gateways.gateway.networking.k8s.io")
        .unwrap())[0]
        .spec["gatewayClassName"] = json!("nginx");
    assert_passes("MM1303", &snapshot);
}

#[test]
fn parents_exist() {
    let parents = |parent: Value| add(HTTP_ROUTE, "shop", json!({ "parentRefs": [parent] }));
    for parent in [
        json!({ "name": "pubic", "namespace": "istio-system" }),
        json!({ "name": "public" }),
        json!({ "name": "public", "namespace": "istio-system", "sectionName": "https" }),
        json!({ "group": "", "kind": "Service", "name": "crat" }),
    ] {
        assert_finds("MM1304", &parents(parent), "HTTPRoute shop/one");
    }
    for parent in [
        json!({ "name": "public", "namespace": "istio-system" }),
        json!({ "name": "public", "namespace": "istio-system", "sectionName": "http" }),
        json!({ "group": "", "kind": "Service", "name": "cart" }),
        json!({ "group": "example.com", "kind": "Edge", "name": "x" }),
    ] {
        assert_passes("MM1304", &parents(parent));
    }
    let of = |gateway: &str| {
        let mut spec = to("orders", None);
        spec["gateways"] = json!([gateway]);
        let mut snapshot = add(VIRTUAL_SERVICE, "legacy", spec);
        snapshot.add_custom(ISTIO_GATEWAY, "legacy", "edge", json!({}));
        snapshot
    };
    for gateway in ["edge", "legacy/edge", "./edge", "mesh"] {
        assert_passes("MM1304", &of(gateway));
    }
    for gateway in ["egde", "shop/edge"] {
        assert_finds("MM1304", &of(gateway), "VirtualService legacy/one");
    }
}

#[test]
fn exports_go_to_namespaces_that_exist() {
    for key in [VIRTUAL_SERVICE, DESTINATION_RULE, SERVICE_ENTRY] {
        let snapshot = add(key, "shop", json!({ "exportTo": ["till", "tll"] }));
        let on = format!("{} shop/one", snapshot.custom(key)[0].kind);
        let found = assert_finds("MM1305", &snapshot, &on);
        assert_eq!(found.evidence, ["spec.exportTo names tll"]);
        for exports in [
            json!([]),
            json!(["*"]),
            json!(["."]),
            json!(["~"]),
            json!(["till", "shop"]),
        ] {
            assert_passes("MM1305", &add(key, "shop", json!({ "exportTo": exports })));
        }
    }
}

#[test]
fn the_second_virtual_service_of_a_host_is_found() {
    let two = |first: Value, second: Value| {
        let mut snapshot = healthy();
        for (name, spec, made) in [
            ("first", first, "2026-01-01T01:00:00Z"),
            ("second", second, "2026-01-01T02:00:00Z"),
        ] {
            snapshot.add_custom(VIRTUAL_SERVICE, "legacy", name, spec);
            let last = had(snapshot.custom.get_mut(VIRTUAL_SERVICE).unwrap())
                .last_mut()
                .unwrap();
            last.metadata.creation_timestamp = Some(object(json!(made)));
        }
        snapshot
    };
    let of = |hosts: Value, more: Value| {
        let mut spec = json!({ "hosts": hosts });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec
    };
    let none = json!({});
    let found = assert_finds(
        "MM1306",
        &two(
            of(json!(["orders"]), none.clone()),
            of(json!(["orders.legacy"]), none.clone()),
        ),
        "VirtualService legacy/second",
    );
    assert!(
        found.evidence[0].contains("legacy/first"),
        "the younger one is not followed: {found:#?}"
    );
    for (first, second) in [
        (
            of(json!(["orders"]), none.clone()),
            of(json!(["carts"]), none.clone()),
        ),
        // Gateways merge them.
        (
            of(json!(["orders"]), none.clone()),
            of(json!(["orders"]), json!({ "gateways": ["legacy/edge"] })),
        ),
        // Nobody sees both.
        (
            of(json!(["orders"]), json!({ "exportTo": ["shop"] })),
            of(json!(["orders"]), json!({ "exportTo": ["till"] })),
        ),
        (
            of(json!(["orders"]), none.clone()),
            of(json!(["orders"]), json!({ "exportTo": ["~"] })),
        ),
        // One that others delegate to has no hosts.
        (of(json!([]), none.clone()), of(json!([]), none.clone())),
    ] {
        assert_passes("MM1306", &two(first, second));
    }
    let both = two(
        of(json!(["orders"]), json!({ "exportTo": ["*"] })),
        of(json!(["orders"]), json!({ "exportTo": ["."] })),
    );
    assert_finds("MM1306", &both, "VirtualService legacy/second");
}

#[test]
fn a_selector_selects_pods_or_what_would_make_them() {
    let service = |of: &str, selector: Value| {
        let mut snapshot = healthy();
        had(&mut snapshot.services).push(object(json!({
            "metadata": { "namespace": of, "name": "new" }, "spec": { "selector": selector },
        })));
        snapshot
    };
    let found = assert_finds(
        "MM1307",
        &service("shop", json!({ "app": "cart", "tier": "web" })),
        "Service shop/new",
    );
    assert!(
        found.evidence[1].contains("has all of them but one"),
        "{found:#?}"
    );
    assert_passes("MM1307", &service("plain", json!({ "app": "gone" })));
    assert_passes("MM1307", &service("shop", json!({})));
    let mut scaled = service("shop", json!({ "app": "cart" }));
    scaled.drop_pods(|pod| pod.metadata.namespace.as_deref() == Some("shop"));
    assert_passes("MM1307", &scaled);
}

fn naming(source: Value) -> Snapshot {
    let mut snapshot = healthy();
    let rules = json!([{ "from": [{ "source": source }] }]);
    snapshot.add_custom(
        AUTHORIZATION,
        "shop",
        "one",
        json!({ "action": "DENY", "rules": rules }),
    );
    snapshot
}

#[test]
fn identities_that_nobody_has_are_found() {
    for (source, why) in [
        (
            json!({ "principals": ["cluster.local/ns/shp/sa/default"] }),
            "there is no namespace shp",
        ),
        (
            json!({ "principals": ["cluster.local/ns/till/sa/pay"] }),
            "namespace till has no ServiceAccount pay",
        ),
        (
            json!({ "principals": ["old.example/ns/till/sa/default"] }),
            "is not the mesh's trust domain",
        ),
        (
            json!({ "principals": ["spiffe://cluster.local/ns/till/sa/default"] }),
            "without spiffe://",
        ),
        (
            json!({ "principals": ["till"] }),
            "no identity of Istio has this form",
        ),
        (json!({ "namespaces": ["tll"] }), "there is no namespace tll"),
        (
            json!({ "serviceAccounts": ["till/pay"] }),
            "has no ServiceAccount pay",
        ),
    ] {
        let found = assert_finds("MM1308", &naming(source), "AuthorizationPolicy shop/one");
        assert!(found.evidence[0].contains(why), "{found:#?}");
    }
    for source in [
        json!({ "principals": ["cluster.local/ns/till/sa/default", "*", "cluster.local/ns/tll/*"] }),
        json!({ "namespaces": ["till", "team-*"] }),
        json!({ "serviceAccounts": ["default", "till/default"] }),
    ] {
        assert_passes("MM1308", &naming(source));
    }
}

#[test]
fn ztunnel_knows_no_aliases_of_the_trust_domain() {
    let of = |domain: &str, target: bool| {
        let mut snapshot = naming(json!({ "principals": [format!("{domain}/ns/till/sa/default")] }));
        let config = had(&mut snapshot.mesh_config);
        config.trust_domain = Some("mesh.example".to_owned());
        config.trust_domain_aliases = vec!["old.example".to_owned()];
        if target {
            had(snapshot.custom.get_mut(AUTHORIZATION).unwrap())[0].spec["targetRefs"] =
                json!([{ "kind": "Service", "name": "cart" }]);
        }
        snapshot
    };
    assert_passes("MM1308", &of("mesh.example", false));
    for alias in ["cluster.local", "old.example"] {
        assert_finds("MM1308", &of(alias, false), "AuthorizationPolicy shop/one");
        assert_passes("MM1308", &of(alias, true));
    }
    assert_eq!(findings("MM1308", &of("else.example", true)).len(), 1);
}

#[test]
fn what_another_check_says_of_a_route_is_not_said_twice() {
    let mut subset = to("gone", None);
    subset["http"][0]["route"][0]["destination"]["subset"] = json!("v1");
    let snapshot = add(VIRTUAL_SERVICE, "legacy", subset);
    assert_finds("MM0705", &snapshot, "VirtualService legacy/one");
    assert_passes("MM1301", &snapshot);
    let mut denied = add(HTTP_ROUTE, "shop", json!({ "parentRefs": [{ "name": "gone" }] }));
    assert_finds("MM1304", &denied, "HTTPRoute shop/one");
    let condition = json!({ "type": "Accepted", "status": "False", "reason": "NoMatchingParent" });
    let part = json!({ "of": "Gateway gone", "controller": "istio.io/gateway-controller", "conditions": [condition] });
    denied.say(HTTP_ROUTE, "shop", "one", json!({ "parts": [part] }));
    assert_finds("MM1005", &denied, "HTTPRoute shop/one");
    assert_passes("MM1304", &denied);
}

#[test]
fn a_gateway_that_nobody_could_list_may_exist() {
    let mut snapshot = add(HTTP_ROUTE, "shop", json!({ "parentRefs": [{ "name": "gone" }] }));
    let unknown = crate::doctor::snapshot::Part::absent("not installed");
    snapshot
        .custom
        .insert("gateways.gateway.networking.k8s.io".to_owned(), unknown);
    assert_passes("MM1304", &snapshot);
}

#[test]
fn what_istiod_makes_of_a_gateway_is_not_in_the_api() {
    let to = |gateway: &str| {
        let mut spec = to("orders", None);
        spec["gateways"] = json!([gateway]);
        add(VIRTUAL_SERVICE, "legacy", spec)
    };
    let made = "istio-system/public-istio-autogenerated-k8s-gateway-http";
    assert_passes("MM1304", &to(made));
    let other = "istio-system/private-istio-autogenerated-k8s-gateway-http";
    assert_finds("MM1304", &to(other), "VirtualService legacy/one");
}

#[test]
fn a_host_may_be_written_twice_and_the_oldest_counts_whatever_its_name() {
    let http = json!([{ "route": [{ "destination": { "host": "orders" } }] }]);
    let spec = json!({ "hosts": ["orders", "orders.legacy.svc.cluster.local"], "http": http });
    let mut snapshot = add(VIRTUAL_SERVICE, "legacy", spec.clone());
    assert_passes("MM1306", &snapshot);
    snapshot.add_custom(
        VIRTUAL_SERVICE,
        "legacy",
        "an-older-one",
        json!({ "hosts": ["orders"], "http": http }),
    );
    let all = had(snapshot.custom.get_mut(VIRTUAL_SERVICE).unwrap());
    for (one, made) in all
        .iter_mut()
        .zip(["2026-01-01T02:00:00Z", "2026-01-01T01:00:00Z"])
    {
        one.metadata.creation_timestamp = Some(object(json!(made)));
    }
    assert_finds("MM1306", &snapshot, "VirtualService legacy/one");
    let all = had(snapshot.custom.get_mut(VIRTUAL_SERVICE).unwrap());
    all[1].metadata.creation_timestamp = Some(object(json!("2026-01-01T03:00:00Z")));
    assert_finds("MM1306", &snapshot, "VirtualService legacy/an-older-one");
}

#[test]
fn pods_that_nothing_made_are_selected_too() {
    let mut snapshot = healthy();
    had(&mut snapshot.deployments).retain(|one| one.metadata.namespace.as_deref() != Some("shop"));
    assert_passes("MM1307", &snapshot);
}
