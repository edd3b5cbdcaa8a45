// SPDX-License-Identifier: Apache-2.0
use crate::doctor::kind::{DESTINATION_RULE, GATEWAY, HTTP_ROUTE, VIRTUAL_SERVICE};
use serde_json::{Value, json};

use crate::doctor::fixtures::{assert_finds, assert_passes, findings, had, healthy, object};
use crate::doctor::snapshot::Snapshot;

fn virtual_service(spec: Value) -> Snapshot {
    let mut snapshot = healthy();
    snapshot.add_custom(VIRTUAL_SERVICE, "shop", "split", spec);
    snapshot
}

fn to_cart(route: Value) -> Value {
    json!({ "hosts": ["cart"], "http": [{ "route": route }] })
}

fn with_ports(mut snapshot: Snapshot, ports: Value) -> Snapshot {
    let services = had(&mut snapshot.services);
    let cart = services
        .iter_mut()
        .find(|service| service.metadata.name.as_deref() == Some("cart"));
    cart.unwrap().spec.as_mut().unwrap().ports = Some(object(ports));
    snapshot
}

fn routed(ports: Value) -> Snapshot {
    with_ports(
        virtual_service(to_cart(json!([{ "destination": { "host": "cart" } }]))),
        ports,
    )
}

#[test]
fn routes_of_http_to_a_port_of_another_protocol_are_found() {
    for ports in [
        json!([{ "name": "tcp-web", "port": 80 }]),
        json!([{ "name": "http", "appProtocol": "tcp", "port": 80 }]),
        json!([{ "name": "tls", "port": 443 }, { "name": "redis", "port": 6379 }]),
        json!([{ "name": "db", "port": 3306 }]),
    ] {
        let snapshot = routed(ports);
        assert_finds("MM0701", &snapshot, "Service shop/cart");
        assert_passes("MM0702", &snapshot);
    }
    let mut snapshot = with_ports(
        healthy(),
        json!([{ "name": "tcp", "port": 80 }, { "name": "http", "port": 81 }]),
    );
    let parent = |port: u16| json!({ "parentRefs": [{ "kind": "Service", "name": "cart", "port": port }] });
    snapshot.add_custom(HTTP_ROUTE, "shop", "other", parent(81));
    assert_passes("MM0701", &snapshot);
    snapshot.add_custom(HTTP_ROUTE, "shop", "route", parent(80));
    assert_finds("MM0701", &snapshot, "Service shop/cart");
}

#[test]
fn ports_of_which_nothing_is_said_are_found_where_it_matters() {
    let web = || json!([{ "name": "web", "port": 80 }]);
    let found = assert_finds("MM0702", &routed(web()), "Service shop/cart");
    assert_eq!(found.evidence[1], "port 80 is called web and has no appProtocol");
    assert_finds("MM0702", &routed(json!([{ "port": 80 }])), "Service shop/cart");
    // Nobody routes HTTP to it, or a gateway alone does.
    assert_passes("MM0702", &with_ports(healthy(), web()));
    let mut gateway = to_cart(json!([]));
    gateway["gateways"] = json!(["istio-system/public"]);
    assert_passes("MM0702", &with_ports(virtual_service(gateway), web()));
}

#[test]
fn ports_that_say_http_are_fine() {
    for ports in [
        json!([{ "name": "http", "port": 80 }]),
        json!([{ "name": "grpc-web", "port": 80 }, { "name": "tcp-admin", "port": 81 }]),
        json!([{ "name": "web", "appProtocol": "kubernetes.io/h2c", "port": 80 }]),
        json!([{ "name": "HTTP2-x", "port": 80 }]),
    ] {
        let snapshot = routed(ports);
        assert_passes("MM0701", &snapshot);
        assert_passes("MM0702", &snapshot);
    }
    // Another kind of route.
    let tcp = json!({ "hosts": ["cart"], "tcp": [{ "route": [{ "destination": { "host": "cart" } }] }] });
    assert_passes(
        "MM0701",
        &with_ports(virtual_service(tcp), json!([{ "name": "tcp", "port": 80 }])),
    );
}

fn behind_waypoint(mut snapshot: Snapshot) -> Snapshot {
    let services = had(&mut snapshot.services);
    let cart = services
        .iter_mut()
        .find(|service| service.metadata.name.as_deref() == Some("cart"));
    cart.unwrap().metadata.labels = Some([("istio.io/use-waypoint".to_owned(), "wp".to_owned())].into());
    snapshot
}

#[test]
fn routes_to_ambient_pods_without_a_waypoint_are_found() {
    let spec = || to_cart(json!([{ "destination": { "host": "cart" } }]));
    for host in ["cart", "cart.shop", "cart.shop.svc.cluster.local"] {
        let mut spec = spec();
        spec["hosts"] = json!([host, "elsewhere.example.com"]);
        let found = assert_finds("MM0703", &virtual_service(spec), "VirtualService shop/split");
        assert!(found.effect.contains("Callers with a sidecar follow it"));
    }
    let mut snapshot = virtual_service(spec());
    snapshot.drop_pods(|pod| pod.metadata.namespace.as_deref() == Some("legacy"));
    assert!(
        findings("MM0703", &snapshot)[0]
            .effect
            .contains("changes nothing")
    );
    let mut route = healthy();
    let parents = json!({ "parentRefs": [{ "group": "", "kind": "Service", "name": "cart" }] });
    route.add_custom(HTTP_ROUTE, "shop", "ways", parents);
    assert_finds("MM0703", &route, "HTTPRoute shop/ways");
    let missing = behind_waypoint(virtual_service(spec()));
    let found = assert_finds("MM0703", &missing, "VirtualService shop/split");
    assert!(found.evidence[1].contains("Gateway shop/wp, which is not there"));
}

#[test]
fn routes_that_somebody_follows_are_fine() {
    let spec = || to_cart(json!([{ "destination": { "host": "cart" } }]));
    let mut waypoint = behind_waypoint(virtual_service(spec()));
    waypoint.add_custom(
        GATEWAY,
        "shop",
        "wp",
        json!({ "gatewayClassName": "istio-waypoint" }),
    );
    let mut gateway = spec();
    gateway["gateways"] = json!(["istio-system/public"]);
    let mut of_gateway = healthy();
    let parents = json!({ "parentRefs": [{ "kind": "Gateway", "name": "public" }] });
    of_gateway.add_custom(HTTP_ROUTE, "shop", "route", parents);
    let mut sidecars = healthy();
    sidecars.add_custom(
        VIRTUAL_SERVICE,
        "legacy",
        "split",
        json!({ "hosts": ["orders"], "http": [{}] }),
    );
    for snapshot in [waypoint, virtual_service(gateway), of_gateway, sidecars] {
        assert_passes("MM0703", &snapshot);
    }
}

#[test]
fn weights_of_nothing_are_found_and_proportions_are_not() {
    let to = |weights: &[Option<i64>]| {
        let destination = json!({ "host": "cart" });
        let one = |weight: &Option<i64>| json!({ "destination": destination, "weight": weight });
        virtual_service(to_cart(weights.iter().map(one).collect()))
    };
    for weights in [&[None, None][..], &[Some(0), Some(0)]] {
        let found = assert_finds("MM0704", &to(weights), "VirtualService shop/split");
        assert_eq!(
            found.evidence,
            ["spec.http[0].route: all 2 destinations have weight 0"]
        );
    }
    for weights in [
        &[None][..],
        &[Some(95), Some(5)],
        &[Some(1), Some(2)],
        &[Some(60), Some(60)],
        &[None, Some(1)],
    ] {
        assert_passes("MM0704", &to(weights));
    }
    let backends = |weight: Value| {
        let mut snapshot = healthy();
        let backends = json!([{ "name": "cart", "weight": weight }]);
        snapshot.add_custom(
            HTTP_ROUTE,
            "shop",
            "route",
            json!({ "rules": [{}, { "backendRefs": backends }] }),
        );
        snapshot
    };
    assert_finds("MM0704", &backends(json!(0)), "HTTPRoute shop/route");
    assert_passes("MM0704", &backends(json!(null)));
}

/// The cart in two subsets; its pods are all of version 1.
fn canary(host: &str, weight: u32) -> Snapshot {
    let share = |subset: &str, weight: u32| json!({ "destination": { "host": "cart", "subset": subset }, "weight": weight });
    let mut snapshot = virtual_service(to_cart(json!([share("v1", 100 - weight), share("v2", weight)])));
    for letter in ["a", "b", "c"] {
        snapshot.with_pod("shop", &format!("cart-7d4b-{letter}"), |pod| {
            let labels = pod.metadata.labels.as_mut().unwrap();
            labels.insert("version".to_owned(), "v1".to_owned());
        });
    }
    let subset = |name: &str| json!({ "name": name, "labels": { "version": name } });
    let rule = json!({ "host": host, "subsets": [subset("v1"), subset("v2")] });
    snapshot.add_custom(DESTINATION_RULE, "shop", "cart", rule);
    snapshot
}

#[test]
fn subsets_that_nobody_defines_or_that_have_no_pods_are_found() {
    let found = assert_finds("MM0705", &canary("cart", 5), "VirtualService shop/split");
    assert_eq!(found.problem, "it leads to a subset without pods");
    assert!(found.evidence[1].contains("version=v2"));
    let found = findings("MM0705", &canary("catalog", 5));
    assert_eq!(found.len(), 2, "both subsets: {found:#?}");
    assert_eq!(found[0].evidence[1], "no DestinationRule is for that host");
    // The namespace of a short name is that of the object that says it.
    let mut elsewhere = canary("catalog", 5);
    let subsets = json!([{ "name": "v1", "labels": {} }, { "name": "v2", "labels": {} }]);
    elsewhere.add_custom(
        DESTINATION_RULE,
        "till",
        "cart",
        json!({ "host": "cart", "subsets": subsets }),
    );
    assert_eq!(findings("MM0705", &elsewhere).len(), 2);
}

#[test]
fn subsets_in_use_or_out_of_use_are_fine() {
    let mut rolled_out = canary("cart", 5);
    rolled_out.with_pod("shop", "cart-7d4b-b", |pod| {
        pod.metadata
            .labels
            .as_mut()
            .unwrap()
            .insert("version".to_owned(), "v2".to_owned());
    });
    let mut scaled_down = canary("cart", 5);
    scaled_down.drop_pods(|pod| pod.metadata.namespace.as_deref() == Some("shop"));
    for host in [
        "cart.shop.svc.cluster.local",
        "*.shop.svc.cluster.local",
        "*",
        "cart.shop",
    ] {
        assert_passes("MM0705", &canary(host, 0));
    }
    for snapshot in [rolled_out, scaled_down, canary("cart", 0)] {
        assert_passes("MM0705", &snapshot);
    }
}

/// The cart, with another destination for its second share.
fn share(change: impl FnOnce(&mut Value)) -> Snapshot {
    let mut snapshot = canary("cart", 0);
    let part = snapshot
        .custom
        .get_mut("virtualservices.networking.istio.io")
        .unwrap();
    change(&mut had(part)[0].spec["http"][0]);
    snapshot
}

#[test]
fn a_share_without_weight_leads_nowhere_and_hurts_nobody() {
    assert_passes(
        "MM0705",
        &share(|http| http["route"][1]["destination"]["subset"] = json!("gone")),
    );
    // A lone destination takes everything, whatever its weight.
    let lone = share(|http| {
        http["route"] = json!([{ "destination": { "host": "cart", "subset": "gone" }, "weight": 0 }])
    });
    assert_finds("MM0705", &lone, "VirtualService shop/split");
}

#[test]
fn copies_of_requests_are_followed_too() {
    let to = |subset: &str| json!({ "host": "cart", "subset": subset });
    for mirrored in [
        share(|http| http["mirror"] = to("gone")),
        share(|http| http["mirrors"] = json!([{ "destination": to("v1") }, { "destination": to("gone") }])),
        share(|http| http["mirrors"] = json!([{ "destination": to("v2"), "percentage": { "value": 5 } }])),
    ] {
        let found = assert_finds("MM0705", &mirrored, "VirtualService shop/split");
        assert!(found.effect.contains("Callers notice nothing"), "{found:#?}");
    }
    assert_passes(
        "MM0705",
        &share(|http| http["mirrors"] = json!([{ "destination": to("v1") }])),
    );
}

#[test]
fn a_host_that_does_not_exist_is_said_to_be_that() {
    for host in ["crat", "cart.till", "reviews.example.com"] {
        let gone = share(|http| http["route"][0]["destination"]["host"] = json!(host));
        let found = assert_finds("MM0705", &gone, "VirtualService shop/split");
        assert_eq!(found.problem, "it leads to a host that does not exist", "{host}");
    }
    let mut known = share(|http| http["route"][0]["destination"]["host"] = json!("reviews.example.com"));
    known.add_custom(
        "serviceentries.networking.istio.io",
        "till",
        "out",
        json!({ "hosts": ["*.example.com"] }),
    );
    let rule = json!({ "host": "reviews.example.com", "subsets": [{ "name": "v1", "labels": {} }] });
    known.add_custom(DESTINATION_RULE, "shop", "reviews", rule);
    assert_passes("MM0705", &known);
}

#[test]
fn labels_that_come_from_the_node_are_no_labels_of_pods() {
    let subset = |labels: Value| {
        let mut snapshot = canary("cart", 5);
        let part = snapshot.custom.get_mut(DESTINATION_RULE).unwrap();
        had(part)[0].spec["subsets"][1]["labels"] = labels;
        snapshot
    };
    let zone = json!({ "topology.kubernetes.io/zone": "eu-1a", "topology.istio.io/network": "n1" });
    assert_passes("MM0705", &subset(zone));
    let both = json!({ "topology.kubernetes.io/zone": "eu-1a", "version": "v9" });
    assert_finds("MM0705", &subset(both), "VirtualService shop/split");
}
