// SPDX-License-Identifier: Apache-2.0
//! Who puts what into HBONE, and who takes it out again: Envoys too, while ambient mode is on.

use super::*;
use crate::doctor::fixtures::gateway_pod;

fn gateway(labels: Value, change: impl FnOnce(&mut k8s_openapi::api::core::v1::Pod)) -> Snapshot {
    let mut snapshot = healthy();
    let mut gateway = gateway_pod(labels);
    change(&mut gateway);
    snapshot.add_pod(gateway);
    snapshot
}

fn of_gateway_api() -> Snapshot {
    gateway(json!({ "gateway.networking.k8s.io/gateway-name": "gw" }), |_| {})
}

fn of_injection() -> Snapshot {
    gateway(json!({ "istio": "ingressgateway" }), |pod| {
        annotate(pod, "sidecar.istio.io/status", "")
    })
}

fn of(namespace: &str) -> Value {
    json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } } })
}

fn cart(ports: &[u16], namespace: &str) -> Value {
    json!({ "podSelector": app("cart"), "ingress": [from(of(namespace), ports)] })
}

fn without_ambient(snapshot: &mut Snapshot) {
    for letter in ["a", "b"] {
        snapshot.with_pod("istio-system", &format!("istiod-5f6c-{letter}"), |pod| {
            pod.spec.as_mut().unwrap().containers[0].env = None;
        });
    }
    let template = &mut had(&mut snapshot.deployments)[0].spec.as_mut().unwrap().template;
    template.spec.as_mut().unwrap().containers[0].env = None;
}

#[test]
fn gateways_of_both_kinds_and_sidecars_send_hbone_to_captured_pods() {
    for (from, mut snapshot) in [
        ("plain", of_gateway_api()),
        ("plain", of_injection()),
        ("legacy", healthy()),
    ] {
        add(&mut snapshot, "shop", "cart", &cart(&[8080], from));
        let mut off = snapshot.clone();
        without_ambient(&mut off);
        assert_passes("MM0501", &off);
        let found = assert_cured("MM0501", snapshot, "NetworkPolicy shop/cart");
        assert!(found.evidence[0].contains("admits TCP 8080"), "{found:#?}");
        let mut healthy_twin = of_gateway_api();
        add(&mut healthy_twin, "shop", "cart", &cart(&[8080, 15008], from));
        assert_passes("MM0501", &healthy_twin);
    }
}

#[test]
fn what_gateways_and_sidecars_may_send_is_asked_of_their_own_policies_too() {
    for (mut snapshot, namespace) in [(of_gateway_api(), "plain"), (healthy(), "legacy")] {
        let egress = |ports: &[u16]| {
            let ports: Vec<_> = ports.iter().map(|port| json!({ "port": port })).collect();
            json!({ "policyTypes": ["Egress"], "egress": [{ "to": [of("shop")], "ports": ports }] })
        };
        let mut open = snapshot.clone();
        add(&mut open, namespace, "out", &egress(&[8080, 15008]));
        assert_passes("MM0502", &open);
        add(&mut snapshot, namespace, "out", &egress(&[8080]));
        assert_cured("MM0502", snapshot, &format!("NetworkPolicy {namespace}/out"));
    }
}

#[test]
fn istiod_may_be_told_that_envoys_send_none() {
    let mut snapshot = healthy();
    add(&mut snapshot, "shop", "cart", &cart(&[8080], "legacy"));
    assert_finds("MM0501", &snapshot, "NetworkPolicy shop/cart");
    snapshot.with_pod("istio-system", "istiod-5f6c-a", |pod| {
        let variable = json!({ "name": "PILOT_ENABLE_SENDING_HBONE", "value": "false" });
        let env = pod.spec.as_mut().unwrap().containers[0].env.as_mut();
        env.unwrap().push(object(variable));
    });
    assert_passes("MM0501", &snapshot);
}

#[test]
fn a_sidecar_that_takes_hbone_needs_the_port_open() {
    let spec = |ports: &[u16]| json!({ "podSelector": app("orders"), "ingress": [from(of("shop"), ports)] });
    let tunnelled = || {
        let mut snapshot = healthy();
        for letter in ["a", "b", "c"] {
            snapshot.with_pod("legacy", &format!("orders-7d4b-{letter}"), |pod| {
                let labels = pod.metadata.labels.as_mut().unwrap();
                labels.insert("networking.istio.io/tunnel".to_owned(), "http".to_owned());
            });
        }
        snapshot
    };
    let mut snapshot = tunnelled();
    add(&mut snapshot, "legacy", "orders", &spec(&[8080]));
    assert_cured("MM0501", snapshot, "NetworkPolicy legacy/orders");
    let mut open = tunnelled();
    add(&mut open, "legacy", "orders", &spec(&[8080, 15008]));
    assert_passes("MM0501", &open);
    // Without the label what goes to a sidecar goes to the port of its app.
    let mut plain = healthy();
    add(&mut plain, "legacy", "orders", &spec(&[8080]));
    assert_passes("MM0501", &plain);
}

/// The shop behind its waypoint, by the label of the Service alone.
fn service_behind_waypoint() -> Snapshot {
    let mut snapshot = waypoint();
    namespace_without_waypoint(&mut snapshot);
    label_cart(&mut snapshot, "istio.io/use-waypoint", "wp");
    snapshot
}

fn label_cart(snapshot: &mut Snapshot, key: &str, value: &str) {
    let services = had(&mut snapshot.services).iter_mut();
    let mut carts = services.filter(|service| service.metadata.name.as_deref() == Some("cart"));
    let labels = carts.next().unwrap().metadata.labels.get_or_insert_default();
    labels.insert(key.to_owned(), value.to_owned());
}

#[test]
fn sidecars_and_gateways_go_past_waypoints_and_ztunnel_does_not() {
    for (from, asks) in [("legacy", true), ("till", false)] {
        let mut snapshot = service_behind_waypoint();
        add(&mut snapshot, "shop", "cart", &cart(&[8080], from));
        assert_eq!(!findings("MM0501", &snapshot).is_empty(), asks, "{from}");
    }
    let mut through = service_behind_waypoint();
    let gateway = of_gateway_api().pods;
    let Part::Had(pods) = gateway else { panic!() };
    through.add_pod(pods.last().unwrap().clone());
    add(&mut through, "shop", "cart", &cart(&[8080], "plain"));
    assert_finds("MM0501", &through, "NetworkPolicy shop/cart");
    label_cart(&mut through, "istio.io/ingress-use-waypoint", "true");
    assert_passes("MM0501", &through);
}

#[test]
fn a_waypoint_that_a_service_names_has_to_reach_its_pods() {
    let spec = cart(&[8080, 15008], "till");
    let mut snapshot = service_behind_waypoint();
    add(&mut snapshot, "shop", "cart", &spec);
    let found = assert_cured("MM0505", snapshot, "NetworkPolicy shop/cart");
    assert!(
        found.evidence[0].contains("to 3 pods of Deployment shop/cart"),
        "{found:#?}"
    );
    // A Service that wants none, in a namespace that wants one.
    let mut none = waypoint();
    label_cart(&mut none, "istio.io/use-waypoint", "none");
    add(&mut none, "shop", "cart", &spec);
    assert_passes("MM0505", &none);
    // A waypoint for workloads is not asked for Services.
    let mut workloads = service_behind_waypoint();
    workloads.add_custom("gateways.gateway.networking.k8s.io", "shop", "wp", json!({}));
    let part = workloads
        .custom
        .get_mut("gateways.gateway.networking.k8s.io")
        .unwrap();
    had(part)[0].metadata.labels = Some([("istio.io/waypoint-for".to_owned(), "workload".to_owned())].into());
    add(&mut workloads, "shop", "cart", &spec);
    assert_passes("MM0505", &workloads);
}

#[test]
fn callers_have_to_reach_the_waypoint_that_stands_before_those_they_mean() {
    let of_waypoint = |from: Value| {
        let select = json!({ "matchLabels": { "gateway.networking.k8s.io/gateway-name": "wp" } });
        json!({ "podSelector": select, "ingress": from })
    };
    let app_rule = json!({ "podSelector": app("cart"), "ingress": [
        from(of("till"), &[8080]), from(of("shop"), &[15008]),
    ] });
    // The pods' own policy says whom they expect, and the waypoint does not let those in.
    let mut snapshot = service_behind_waypoint();
    add(&mut snapshot, "shop", "cart", &app_rule);
    add(
        &mut snapshot,
        "shop",
        "wp",
        &of_waypoint(json!([from(of("shop"), &[15008])])),
    );
    let found = assert_cured("MM0505", snapshot, "NetworkPolicy shop/wp");
    assert!(
        found.evidence[0].contains("from 3 pods of Deployment till/pay to a pod of ReplicaSet shop/wp"),
        "{found:#?}"
    );
    assert!(
        found.evidence[1].contains("spec.ingress[0] of NetworkPolicy shop/cart"),
        "{found:#?}"
    );
    let told = crate::doctor::sentences([&found]);
    assert_eq!(told, ["3 callers cannot reach ReplicaSet shop/wp"]);
    // A waypoint that lets nobody in.
    let mut shut = service_behind_waypoint();
    add(&mut shut, "shop", "wp", &of_waypoint(json!([])));
    assert_cured("MM0505", shut, "NetworkPolicy shop/wp");
    // Whom to let in is the waypoint's to choose where no policy of the pods says otherwise.
    let mut chosen = service_behind_waypoint();
    add(
        &mut chosen,
        "shop",
        "wp",
        &of_waypoint(json!([from(of("till"), &[15008])])),
    );
    assert_passes("MM0505", &chosen);
}

#[test]
fn callers_own_policies_have_to_let_them_out_to_the_waypoint() {
    let egress = |more: Value| {
        json!({ "policyTypes": ["Egress"], "egress": [
            { "to": [{ "namespaceSelector": of("shop")["namespaceSelector"], "podSelector": app("cart") }],
              "ports": [{ "port": 8080 }] }, more,
        ] })
    };
    let dns = json!({ "ports": [{ "port": 53, "protocol": "UDP" }] });
    let mut snapshot = service_behind_waypoint();
    add(&mut snapshot, "till", "out", &egress(dns.clone()));
    assert_cured("MM0505", snapshot, "NetworkPolicy till/out");
    let mut open = service_behind_waypoint();
    add(
        &mut open,
        "till",
        "out",
        &egress(json!({ "to": [of("shop")], "ports": [{ "port": 15008 }] })),
    );
    assert_passes("MM0505", &open);
    // Without the waypoint the pods are meant themselves: that is another check's.
    let mut bare = healthy();
    add(&mut bare, "till", "out", &egress(dns));
    assert_passes("MM0505", &bare);
}

#[test]
fn an_istiod_in_its_nodes_network_is_reached_by_address_or_by_everything() {
    let egress = |to: Value| json!({ "policyTypes": ["Egress"], "egress": [to] });
    let on_host = |spec: &Value| {
        let mut snapshot = healthy();
        for (letter, address) in [("a", "192.168.0.10"), ("b", "192.168.0.11")] {
            snapshot.with_pod("istio-system", &format!("istiod-5f6c-{letter}"), |pod| {
                pod.spec.as_mut().unwrap().host_network = Some(true);
                let status = pod.status.as_mut().unwrap();
                status.pod_ip = Some(address.to_owned());
                status.pod_ips = Some(vec![object(json!({ "ip": address }))]);
            });
        }
        add(&mut snapshot, "legacy", "out", spec);
        snapshot
    };
    let by_selector = egress(json!({ "to": [of("istio-system")], "ports": [{ "port": 15012 }] }));
    let found = assert_cured("MM0504", on_host(&by_selector), "NetworkPolicy legacy/out");
    let [Remedy::Apply(yaml)] = found.remedy.as_slice() else {
        panic!()
    };
    assert!(
        yaml.contains("192.168.0.10/32") && yaml.contains("192.168.0.11/32"),
        "{yaml}"
    );
    assert_passes("MM0504", &on_host(&egress(json!({}))));
    let by_address =
        json!({ "to": [{ "ipBlock": { "cidr": "192.168.0.0/24" } }], "ports": [{ "port": 15012 }] });
    assert_passes("MM0504", &on_host(&egress(by_address)));
}

/// The cluster before Istio is installed, with its namespace made.
fn before() -> Snapshot {
    let mut snapshot = healthy();
    snapshot.drop_pods(|pod| pod.metadata.namespace.as_deref() == Some("istio-system"));
    had(&mut snapshot.deployments).retain(|one| one.metadata.name.as_deref() != Some("istiod"));
    had(&mut snapshot.daemon_sets).clear();
    snapshot
}

#[test]
fn before_an_installation_the_policies_of_istios_namespace_are_judged_for_what_will_come() {
    assert_passes("MM0504", &before());
    let deny = json!({ "policyTypes": ["Ingress", "Egress"] });
    let mut snapshot = before();
    add(&mut snapshot, "istio-system", "deny", &deny);
    assert_eq!(findings("MM0504", &snapshot).len(), 3);
    let found = findings("MM0504", &snapshot).remove(0);
    assert!(
        found.evidence[0].contains("the pods that an installation of Istio brings"),
        "{found:#?}"
    );
    apply(&mut snapshot, &found);
    assert_passes("MM0504", &snapshot);
    // Policies of other namespaces are not about them.
    let mut elsewhere = before();
    add(&mut elsewhere, "shop", "deny", &deny);
    assert_passes("MM0504", &elsewhere);
}
