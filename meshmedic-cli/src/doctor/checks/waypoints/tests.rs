// SPDX-License-Identifier: Apache-2.0
use crate::doctor::kind::{AUTHORIZATION, GATEWAY};
use serde_json::{Value, json};

use crate::doctor::fixtures::{annotate, assert_finds, assert_passes, had, healthy};
use crate::doctor::snapshot::Snapshot;

fn with_waypoint() -> Snapshot {
    let mut snapshot = healthy();
    snapshot.add_classes().add_waypoint("shop", "wp");
    snapshot
}

fn label_pod(snapshot: &mut Snapshot, key: &str, value: &str) {
    for letter in ["a", "b", "c"] {
        snapshot.with_pod("shop", &format!("cart-7d4b-{letter}"), |pod| {
            pod.metadata
                .labels
                .get_or_insert_default()
                .insert(key.to_owned(), value.to_owned());
        });
    }
}

fn for_traffic(snapshot: &mut Snapshot, traffic: &str) {
    let gateway = &mut had(snapshot.custom.get_mut(GATEWAY).unwrap())[0];
    gateway.metadata.labels = Some([("istio.io/waypoint-for".to_owned(), traffic.to_owned())].into());
}

fn listener(snapshot: &mut Snapshot, allowed: Value) {
    had(snapshot.custom.get_mut(GATEWAY).unwrap())[0].spec["listeners"][0]["allowedRoutes"] = allowed;
}

#[test]
fn a_waypoint_that_nobody_asks_for_may_be_down() {
    let mut snapshot = with_waypoint();
    let down = |snapshot: &mut Snapshot| {
        snapshot.with_pod("shop", "wp-6c9f-a", |pod| {
            pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "False".to_owned();
        });
    };
    down(&mut snapshot);
    assert_passes("MM1101", &snapshot);
    snapshot.label_service("shop", "cart", "istio.io/use-waypoint", "wp");
    let found = assert_finds("MM1101", &snapshot, "Gateway shop/wp");
    assert_eq!(found.problem, "none of this waypoint's pods is Ready");
    assert!(found.effect.contains("fails"), "its address stays: {found:#?}");
    had(snapshot.custom.get_mut(GATEWAY).unwrap())[0]
        .status
        .addresses
        .clear();
    let found = assert_finds("MM1101", &snapshot, "Gateway shop/wp");
    assert!(
        found.effect.contains("goes past it"),
        "istiod has not taken it into use: {found:#?}"
    );
}

#[test]
fn a_namespace_that_asks_is_enough_and_what_others_run_is_theirs() {
    let mut snapshot = with_waypoint();
    snapshot.with_namespace("shop", |of| {
        of.metadata
            .labels
            .get_or_insert_default()
            .insert("istio.io/use-waypoint".to_owned(), "wp".to_owned());
    });
    assert_passes("MM1101", &snapshot);
    snapshot.drop_pods(|pod| pod.metadata.name.as_deref() == Some("wp-6c9f-a"));
    assert_finds("MM1101", &snapshot, "Gateway shop/wp");
    // The first Service that is made there is cut off.
    had(&mut snapshot.services).retain(|one| one.metadata.namespace.as_deref() != Some("shop"));
    assert_finds("MM1101", &snapshot, "Gateway shop/wp");
    had(snapshot.custom.get_mut(GATEWAY).unwrap())[0].spec["addresses"] =
        json!([{ "value": "wp.elsewhere.example" }]);
    assert_passes("MM1101", &snapshot);
}

#[test]
fn a_waypoint_that_is_not_there_is_found_once_for_each_who_asks() {
    let mut snapshot = healthy();
    snapshot.label_service("shop", "cart", "istio.io/use-waypoint", "none");
    assert_passes("MM1102", &snapshot);
    snapshot.label_service("shop", "cart", "istio.io/use-waypoint", "gone");
    assert_finds("MM1102", &snapshot, "Service shop/cart");
    let mut pods = healthy();
    label_pod(&mut pods, "istio.io/use-waypoint", "gone");
    // Three pods of one workload.
    assert_finds("MM1102", &pods, "Pod shop/cart-7d4b-a");
    let mut of = healthy();
    of.with_namespace("shop", |of| {
        of.metadata
            .labels
            .get_or_insert_default()
            .insert("istio.io/use-waypoint".to_owned(), "gone".to_owned());
    });
    // Its Services only inherit it.
    assert_finds("MM1102", &of, "Namespace shop");
}

#[test]
fn traffic_that_a_waypoint_is_not_for_is_found() {
    for (traffic, service, pod) in [
        ("service", true, false),
        ("workload", false, true),
        ("all", true, true),
        ("none", false, false),
    ] {
        let mut snapshot = with_waypoint();
        for_traffic(&mut snapshot, traffic);
        snapshot.label_service("shop", "cart", "istio.io/use-waypoint", "wp");
        if service {
            assert_passes("MM1103", &snapshot);
        } else {
            assert_finds("MM1103", &snapshot, "Service shop/cart");
        }
        let mut snapshot = with_waypoint();
        for_traffic(&mut snapshot, traffic);
        label_pod(&mut snapshot, "istio.io/use-waypoint", "wp");
        if pod {
            assert_passes("MM1103", &snapshot);
        } else {
            assert_finds("MM1103", &snapshot, "Pod shop/cart-7d4b-a");
        }
    }
    // A namespace may ask for a waypoint of either kind.
    for traffic in ["service", "workload", "all"] {
        let mut snapshot = with_waypoint();
        for_traffic(&mut snapshot, traffic);
        snapshot.with_namespace("shop", |of| {
            of.metadata
                .labels
                .get_or_insert_default()
                .insert("istio.io/use-waypoint".to_owned(), "wp".to_owned());
        });
        assert_passes("MM1103", &snapshot);
    }
}

#[test]
fn a_waypoint_of_another_namespace_has_to_take_it() {
    let far = || {
        let mut snapshot = with_waypoint();
        snapshot.label_service("till", "pay", "istio.io/use-waypoint", "wp");
        snapshot.label_service("till", "pay", "istio.io/use-waypoint-namespace", "shop");
        snapshot
    };
    assert_finds("MM1104", &far(), "Service till/pay");
    let selector = |name: &str| {
        json!({ "namespaces": {
        "from": "Selector", "selector": { "matchLabels": { "kubernetes.io/metadata.name": name } },
    } })
    };
    let mut refused = far();
    listener(&mut refused, selector("plain"));
    assert_finds("MM1104", &refused, "Service till/pay");
    for allowed in [json!({ "namespaces": { "from": "All" } }), selector("till")] {
        let mut snapshot = far();
        listener(&mut snapshot, allowed);
        assert_passes("MM1104", &snapshot);
    }
}

/// A route from outside to the catalog, which has a waypoint, with or without a policy there.
fn from_outside(policy: bool) -> Snapshot {
    let mut snapshot = with_waypoint();
    snapshot.add_ingress("istio-system", "public").label_service(
        "shop",
        "catalog",
        "istio.io/use-waypoint",
        "wp",
    );
    snapshot.add_custom(
        "httproutes.gateway.networking.k8s.io",
        "shop",
        "in",
        json!({
            "parentRefs": [{ "name": "public", "namespace": "istio-system" }],
            "rules": [{ "backendRefs": [{ "name": "catalog", "port": 80 }] }],
        }),
    );
    if policy {
        let targets = json!([{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "wp" }]);
        snapshot.add_custom(AUTHORIZATION, "shop", "read", json!({ "targetRefs": targets }));
    }
    snapshot
}

#[test]
fn a_way_past_a_waypoint_matters_where_the_waypoint_guards() {
    assert_finds("MM1105", &from_outside(true), "Service shop/catalog");
    assert_passes("MM1105", &from_outside(false));
    let mut labelled = from_outside(true);
    labelled.with_namespace("shop", |of| {
        of.metadata
            .labels
            .get_or_insert_default()
            .insert("istio.io/ingress-use-waypoint".to_owned(), "true".to_owned());
    });
    assert_passes("MM1105", &labelled);
    // The Service's own word goes before its namespace's.
    labelled.label_service("shop", "catalog", "istio.io/ingress-use-waypoint", "false");
    assert_finds("MM1105", &labelled, "Service shop/catalog");
    let mut older = from_outside(true);
    older.custom.insert(
        "httproutes.gateway.networking.k8s.io".to_owned(),
        crate::doctor::snapshot::Part::Had(Vec::new()),
    );
    assert_passes("MM1105", &older);
    older.add_custom(
        "virtualservices.networking.istio.io",
        "shop",
        "in",
        json!({
            "hosts": ["shop.example.com"], "gateways": ["istio-system/edge"],
            "http": [{ "route": [{ "destination": { "host": "catalog" } }] }],
        }),
    );
    assert_finds("MM1105", &older, "Service shop/catalog");
}

#[test]
fn a_waypoint_of_another_vendor_says_itself_how_it_listens() {
    let mut snapshot = with_waypoint();
    snapshot.label_service("till", "pay", "istio.io/use-waypoint", "wp");
    snapshot.label_service("till", "pay", "istio.io/use-waypoint-namespace", "shop");
    let gateway = &mut had(snapshot.custom.get_mut(GATEWAY).unwrap())[0];
    gateway.spec["listeners"] = json!([{ "name": "proxy", "port": 15088, "protocol": "istio.io/PROXY" }]);
    let annotations = [(
        "ambient.istio.io/waypoint-inbound-binding".to_owned(),
        String::new(),
    )];
    gateway.metadata.annotations = Some(annotations.into());
    assert_passes("MM1104", &snapshot);
    snapshot.with_pod("shop", "cart-7d4b-a", |pod| {
        annotate(pod, "istio.io/use-waypoint", "gone")
    });
    assert_passes("MM1102", &snapshot);
}

#[test]
fn ways_within_the_mesh_do_not_come_from_outside() {
    let route = "httproutes.gateway.networking.k8s.io";
    let mut of_waypoint = from_outside(true);
    had(of_waypoint.custom.get_mut(route).unwrap())[0].spec["parentRefs"] =
        json!([{ "name": "wp", "namespace": "shop" }]);
    assert_passes("MM1105", &of_waypoint);
    let mut within = from_outside(true);
    had(within.custom.get_mut(route).unwrap()).clear();
    let http = json!([{ "route": [{ "destination": { "host": "catalog" } }] }]);
    within.add_custom(
        "virtualservices.networking.istio.io",
        "shop",
        "within",
        json!({ "hosts": ["catalog"], "gateways": ["mesh"], "http": http }),
    );
    assert_passes("MM1105", &within);
}
