// SPDX-License-Identifier: Apache-2.0
use crate::doctor::kind::{AUTHORIZATION, DESTINATION_RULE, ENVOY_FILTER, REQUEST, SIDECAR, WASM_PLUGIN};
use serde_json::{Value, json};

use crate::doctor::fixtures::{annotate, assert_finds, assert_passes, had, healthy};
use crate::doctor::snapshot::Snapshot;

/// The healthy mesh, in which the catalog is behind a waypoint.
fn behind() -> Snapshot {
    let mut snapshot = healthy();
    snapshot.add_classes().add_waypoint("shop", "wp").label_service(
        "shop",
        "catalog",
        "istio.io/use-waypoint",
        "wp",
    );
    snapshot
}

fn without_sidecars(snapshot: &mut Snapshot) -> &mut Snapshot {
    snapshot.drop_pods(|pod| pod.metadata.namespace.as_deref() == Some("legacy"))
}

fn add(key: &str, of: &str, spec: Value) -> Snapshot {
    let mut snapshot = behind();
    snapshot.add_custom(key, of, "one", spec);
    snapshot
}

#[test]
fn what_a_policy_targets_needs_a_waypoint() {
    let target = |kind: &str, name: &str| json!({ "targetRefs": [{ "kind": kind, "name": name }] });
    for key in [AUTHORIZATION, REQUEST, WASM_PLUGIN] {
        let snapshot = add(key, "shop", target("Service", "cart"));
        let on = format!("{} shop/one", snapshot.custom(key)[0].kind);
        let found = assert_finds("MM1201", &snapshot, &on);
        assert!(
            format!("{:?}", found.remedy).contains("\"wp\""),
            "the waypoint that is there: {found:#?}"
        );
        assert_passes("MM1201", &add(key, "shop", target("Service", "catalog")));
        assert_passes("MM1201", &add(key, "shop", target("Gateway", "wp")));
    }
    assert_finds(
        "MM1201",
        &add(AUTHORIZATION, "shop", target("GatewayClass", "istio-waypoint")),
        "AuthorizationPolicy shop/one",
    );
    assert_passes(
        "MM1201",
        &add(
            AUTHORIZATION,
            "istio-system",
            target("GatewayClass", "istio-waypoint"),
        ),
    );
    // The older field.
    let older = json!({ "targetRef": { "kind": "Service", "name": "cart" } });
    assert_finds(
        "MM1201",
        &add(AUTHORIZATION, "shop", older),
        "AuthorizationPolicy shop/one",
    );
}

#[test]
fn tokens_are_checked_by_sidecars_gateways_and_targets() {
    let of = |app: &str| json!({ "selector": { "matchLabels": { "app": app } }, "jwtRules": [] });
    assert_finds(
        "MM1202",
        &add(REQUEST, "shop", of("cart")),
        "RequestAuthentication shop/one",
    );
    assert_finds(
        "MM1202",
        &add(REQUEST, "till", json!({})),
        "RequestAuthentication till/one",
    );
    assert_passes("MM1202", &add(REQUEST, "legacy", of("orders")));
    assert_passes(
        "MM1202",
        &add(
            REQUEST,
            "shop",
            json!({ "targetRefs": [{ "kind": "Service", "name": "catalog" }] }),
        ),
    );
    // For the whole mesh the sidecars check it, as long as there are any.
    let mut all = add(REQUEST, "istio-system", json!({}));
    assert_passes("MM1202", &all);
    without_sidecars(&mut all);
    assert_finds("MM1202", &all, "RequestAuthentication istio-system/one");
}

#[test]
fn settings_of_proxies_that_no_proxy_reads_are_found() {
    let selector = json!({ "workloadSelector": { "labels": { "app": "cart" } } });
    for (key, spec) in [
        (ENVOY_FILTER, selector.clone()),
        (SIDECAR, json!({})),
        (
            WASM_PLUGIN,
            json!({ "selector": { "matchLabels": { "app": "cart" } } }),
        ),
    ] {
        let snapshot = add(key, "shop", spec.clone());
        let on = format!("{} shop/one", snapshot.custom(key)[0].kind);
        assert_finds("MM1203", &snapshot, &on);
        assert_passes("MM1203", &add(key, "plain", spec));
    }
    assert_passes(
        "MM1203",
        &add(
            ENVOY_FILTER,
            "legacy",
            json!({ "workloadSelector": { "labels": { "app": "orders" } } }),
        ),
    );
    assert_passes(
        "MM1203",
        &add(
            WASM_PLUGIN,
            "shop",
            json!({ "targetRefs": [{ "kind": "Gateway", "name": "wp" }] }),
        ),
    );
}

#[test]
fn a_destination_rule_is_read_by_those_who_call() {
    let rule = |host: &str| {
        let mut snapshot = behind();
        snapshot.add_custom(DESTINATION_RULE, "shop", "one", json!({ "host": host }));
        snapshot
    };
    assert_passes("MM1203", &rule("cart"));
    let mut alone = rule("cart");
    without_sidecars(&mut alone);
    assert_finds("MM1203", &alone, "DestinationRule shop/one");
    let mut waypoint = rule("catalog");
    without_sidecars(&mut waypoint);
    assert_passes("MM1203", &waypoint);
    alone.add_ingress("istio-system", "public");
    assert_passes("MM1203", &alone);
}

fn allow(source: Value) -> Value {
    json!({
        "selector": { "matchLabels": { "app": "catalog" } }, "action": "ALLOW", "rules": [{ "from": [{ "source": source }] }],
    })
}

#[test]
fn an_allow_policy_has_to_let_the_waypoint_in() {
    for source in [
        json!({ "principals": ["cluster.local/ns/till/sa/default"] }),
        json!({ "namespaces": ["till"] }),
        json!({ "serviceAccounts": ["till/default"] }),
        json!({ "principals": ["*"], "notPrincipals": ["cluster.local/ns/shop/sa/wp"] }),
    ] {
        let found = assert_finds(
            "MM1204",
            &add(AUTHORIZATION, "shop", allow(source)),
            "AuthorizationPolicy shop/one",
        );
        assert!(
            found.evidence[1].contains("cluster.local/ns/shop/sa/wp"),
            "{found:#?}"
        );
        assert!(found.evidence[0].starts_with("3 captured pods"), "{found:#?}");
    }
    for source in [
        json!({ "principals": ["cluster.local/ns/shop/sa/wp"] }),
        json!({ "principals": ["cluster.local/ns/shop/*"] }),
        json!({ "principals": ["*/sa/wp"] }),
        json!({ "principals": ["*"] }),
        json!({ "namespaces": ["shop"] }),
        json!({ "serviceAccounts": ["wp"] }),
        // Whether a waypoint's address is meant nobody knows.
        json!({ "ipBlocks": ["10.0.0.0/8"] }),
    ] {
        assert_passes("MM1204", &add(AUTHORIZATION, "shop", allow(source)));
    }
}

#[test]
fn policies_are_judged_all_together() {
    // Nobody, for the namespace.
    let nobody = add(AUTHORIZATION, "shop", json!({}));
    assert_finds("MM1204", &nobody, "AuthorizationPolicy shop/one");
    let mut together = nobody;
    together.add_custom(
        AUTHORIZATION,
        "shop",
        "waypoint",
        allow(json!({ "principals": ["cluster.local/ns/shop/sa/wp"] })),
    );
    assert_passes("MM1204", &together);
    // For other pods, at a waypoint, or on trial it lets nobody in here.
    let mut elsewhere = add(AUTHORIZATION, "shop", allow(json!({ "namespaces": ["till"] })));
    let mut other = allow(json!({ "principals": ["*"] }));
    other["selector"]["matchLabels"]["app"] = json!("cart");
    elsewhere.add_custom(AUTHORIZATION, "shop", "other", other);
    elsewhere.add_custom(
        AUTHORIZATION,
        "shop",
        "target",
        json!({ "targetRefs": [{ "kind": "Service", "name": "catalog" }], "rules": [{}] }),
    );
    assert_finds("MM1204", &elsewhere, "AuthorizationPolicy shop/one");
    // Pods that are behind no waypoint are called by those who call them.
    let mut cart = allow(json!({ "namespaces": ["till"] }));
    cart["selector"]["matchLabels"]["app"] = json!("cart");
    assert_passes("MM1204", &add(AUTHORIZATION, "shop", cart));
}

#[test]
fn istiod_may_let_waypoints_in_by_itself() {
    let mut snapshot = add(AUTHORIZATION, "shop", allow(json!({ "namespaces": ["till"] })));
    for letter in ["a", "b"] {
        assert_finds("MM1204", &snapshot, "AuthorizationPolicy shop/one");
        snapshot.with_pod("istio-system", &format!("istiod-5f6c-{letter}"), |pod| {
            let env = pod.spec.as_mut().unwrap().containers[0].env.as_mut().unwrap();
            env.push(crate::doctor::fixtures::object(
                json!({ "name": "PILOT_AUTO_ALLOW_WAYPOINT_POLICY", "value": "true" }),
            ));
        });
    }
    assert_passes("MM1204", &snapshot);
}

#[test]
fn the_policy_that_is_printed_lets_the_waypoint_in_and_nobody_else() {
    let snapshot = add(AUTHORIZATION, "shop", allow(json!({ "namespaces": ["till"] })));
    let found = assert_finds("MM1204", &snapshot, "AuthorizationPolicy shop/one");
    let Some(crate::doctor::finding::Remedy::Apply(yaml)) = found.remedy.first() else {
        panic!("{found:#?}")
    };
    let printed: Value = serde_saphyr::from_str(yaml).unwrap();
    assert_eq!(
        printed["spec"]["selector"],
        json!({ "matchLabels": { "app": "catalog" } })
    );
    assert_eq!(
        printed["spec"]["rules"][0]["from"][0]["source"]["principals"],
        json!(["cluster.local/ns/shop/sa/wp"])
    );
}

#[test]
fn a_deny_policy_by_identity_does_not_see_through_a_waypoint() {
    let deny = |app: &str, source: Value| {
        json!({
            "selector": { "matchLabels": { "app": app } }, "action": "DENY", "rules": [{ "from": [{ "source": source }] }],
        })
    };
    assert_finds(
        "MM1205",
        &add(
            AUTHORIZATION,
            "shop",
            deny("catalog", json!({ "namespaces": ["plain"] })),
        ),
        "AuthorizationPolicy shop/one",
    );
    // Not behind one; not by identity; or the waypoint itself is meant.
    assert_passes(
        "MM1205",
        &add(
            AUTHORIZATION,
            "shop",
            deny("cart", json!({ "namespaces": ["plain"] })),
        ),
    );
    assert_passes(
        "MM1205",
        &add(
            AUTHORIZATION,
            "shop",
            deny("catalog", json!({ "ipBlocks": ["192.0.2.0/24"] })),
        ),
    );
    assert_passes(
        "MM1205",
        &add(
            AUTHORIZATION,
            "shop",
            deny("catalog", json!({ "namespaces": ["shop"] })),
        ),
    );
    let mut both = add(
        AUTHORIZATION,
        "shop",
        deny("catalog", json!({ "namespaces": ["plain"] })),
    );
    let mut twin = deny("catalog", json!({ "namespaces": ["plain"] }));
    twin["targetRefs"] = json!([{ "kind": "Service", "name": "catalog" }]);
    both.add_custom(AUTHORIZATION, "shop", "twin", twin);
    assert_passes("MM1205", &both);
}

#[test]
fn where_no_waypoint_is_bound_nobody_is_hidden() {
    let mut snapshot = add(AUTHORIZATION, "shop", allow(json!({ "namespaces": ["till"] })));
    for service in had(&mut snapshot.services) {
        service.metadata.labels = None;
    }
    assert_passes("MM1204", &snapshot);
}

#[test]
fn annotations_for_sidecars_are_found_on_captured_pods_alone() {
    for key in [
        "traffic.sidecar.istio.io/excludeInboundPorts",
        "proxy.istio.io/config",
    ] {
        let mut snapshot = healthy();
        for letter in ["a", "b", "c"] {
            snapshot.with_pod("shop", &format!("cart-7d4b-{letter}"), |pod| {
                annotate(pod, key, "9000")
            });
        }
        // Once for its workload.
        assert_finds("MM1206", &snapshot, "Pod shop/cart-7d4b-a");
        let mut sidecar = healthy();
        sidecar.with_pod("legacy", "orders-7d4b-a", |pod| annotate(pod, key, "9000"));
        assert_passes("MM1206", &sidecar);
    }
    let mut other = healthy();
    other.with_pod("shop", "cart-7d4b-a", |pod| {
        annotate(pod, "sidecar.istio.io/inject", "false")
    });
    assert_passes("MM1206", &other);
}

#[test]
fn pods_outside_the_mesh_are_nobodys_business() {
    let mut snapshot = behind();
    let pod = crate::doctor::fixtures::pod;
    let mut web = pod(
        "plain",
        "web-0",
        "node-a",
        "10.244.0.90",
        json!({ "app": "web" }),
        ("StatefulSet", "web"),
    );
    annotate(&mut web, "traffic.sidecar.istio.io/excludeOutboundPorts", "3306");
    snapshot.add_pod(web);
    snapshot.add_custom(
        REQUEST,
        "plain",
        "tokens",
        json!({ "jwtRules": [{ "issuer": "x" }] }),
    );
    had(&mut snapshot.services).push(crate::doctor::fixtures::object(json!({
        "metadata": { "namespace": "plain", "name": "web" }, "spec": { "selector": { "app": "web" } },
    })));
    snapshot.add_custom(DESTINATION_RULE, "plain", "web", json!({ "host": "web" }));
    // No caller reads the rule either.
    without_sidecars(&mut snapshot);
    for code in ["MM1202", "MM1203", "MM1206"] {
        assert_passes(code, &snapshot);
    }
}

#[test]
fn where_some_pod_has_a_sidecar_its_settings_are_read() {
    let mut snapshot = add(ENVOY_FILTER, "shop", json!({}));
    assert_finds("MM1203", &snapshot, "EnvoyFilter shop/one");
    snapshot.add_pod(crate::doctor::fixtures::sidecar_pod(
        "shop",
        "mixed",
        "node-a",
        "10.244.0.71",
    ));
    assert_passes("MM1203", &snapshot);
}

#[test]
fn what_another_check_says_of_a_policy_is_not_said_twice() {
    let app = json!({ "matchLabels": { "app": "catalog" } });
    let source = json!({ "principals": ["cluster.local/ns/till/sa/default"] });
    let rules = json!([{ "from": [{ "source": source }], "to": [{ "operation": { "methods": ["GET"] } }] }]);
    let snapshot = add(AUTHORIZATION, "shop", json!({ "selector": app, "rules": rules }));
    assert_finds("MM0602", &snapshot, "AuthorizationPolicy shop/one");
    assert_passes("MM1204", &snapshot);
    // Whoever is denied by port is denied through the waypoint, too.
    let rules = json!([{ "to": [{ "operation": { "ports": ["9090"] } }] }]);
    let by_port = json!({ "selector": app, "action": "DENY", "rules": rules });
    assert_passes("MM1205", &add(AUTHORIZATION, "shop", by_port));
}
