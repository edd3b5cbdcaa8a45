// SPDX-License-Identifier: Apache-2.0
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use crate::doctor::finding::{Finding, Remedy};
use crate::doctor::fixtures::{
    NOW, ambient_pod, annotate, assert_finds, assert_passes, findings, had, healthy, object, pod,
};
use crate::doctor::snapshot::{Link, LinkKind, Part, Sighting, Snapshot};

mod patches;
mod speakers;

/// The healthy mesh with these policies more: namespace, name, spec.
fn with(policies: &[(&str, &str, Value)]) -> Snapshot {
    let mut snapshot = healthy();
    for (namespace, name, spec) in policies {
        add(&mut snapshot, namespace, name, spec);
    }
    snapshot
}

fn add(snapshot: &mut Snapshot, namespace: &str, name: &str, spec: &Value) {
    let policy = json!({ "metadata": { "namespace": namespace, "name": name }, "spec": spec });
    had(&mut snapshot.network_policies).push(object(policy));
}

/// Does what `kubectl apply` would do with the finding's remedy.
#[track_caller]
fn apply(snapshot: &mut Snapshot, finding: &Finding) {
    let [Remedy::Apply(yaml)] = finding.remedy.as_slice() else {
        panic!("no patch: {finding:#?}")
    };
    let policy: NetworkPolicy = serde_saphyr::from_str(yaml).unwrap();
    let policies = had(&mut snapshot.network_policies);
    let same = |known: &&mut NetworkPolicy| {
        (&known.metadata.namespace, &known.metadata.name)
            == (&policy.metadata.namespace, &policy.metadata.name)
    };
    let known = policies.iter_mut().find(same).unwrap();
    known.spec = policy.spec;
}

/// A check finds one thing on this policy, and its patch cures it.
#[track_caller]
fn assert_cured(code: &str, mut snapshot: Snapshot, on: &str) -> Finding {
    let finding = assert_finds(code, &snapshot, on);
    apply(&mut snapshot, &finding);
    assert_passes(code, &snapshot);
    finding
}

fn app(name: &str) -> Value {
    json!({ "matchLabels": { "app": name } })
}

fn from(peer: Value, ports: &[u16]) -> Value {
    let ports: Vec<_> = ports.iter().map(|port| json!({ "port": port })).collect();
    json!({ "from": [peer], "ports": ports })
}

#[test]
fn an_app_port_without_15008_is_found_and_the_patch_cures_it() {
    let spec = json!({ "podSelector": app("cart"), "ingress": [
        from(json!({ "podSelector": app("catalog") }), &[8080]),
        from(json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "till" } } }), &[8080]),
    ] });
    let deny = json!({ "podSelector": {} });
    let found = assert_cured(
        "MM0501",
        with(&[("shop", "deny", deny), ("shop", "cart", spec)]),
        "NetworkPolicy shop/cart",
    );
    assert_eq!(
        found.evidence,
        [
            "spec.ingress[0] admits TCP 8080 from 3 pods of Deployment shop/catalog to 3 pods of Deployment shop/cart",
            "spec.ingress[1] admits TCP 8080 from 3 pods of Deployment till/pay to 3 pods of Deployment shop/cart",
            "no rule of NetworkPolicies shop/deny, shop/cart admits TCP 15008 there",
        ]
    );
    let told = crate::doctor::sentences([&found]);
    assert_eq!(told, ["6 callers cannot reach Deployment shop/cart"]);
}

#[test]
fn what_lies_close_to_a_missing_15008_is_none() {
    let catalog = || json!({ "podSelector": app("catalog") });
    let cart = |ingress: Value| json!({ "podSelector": app("cart"), "ingress": ingress });
    let plain = json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "plain" } } });
    let mut of_plain = healthy();
    of_plain.add_pod(pod(
        "plain",
        "prom-0",
        "node-a",
        "10.244.0.90",
        json!({}),
        ("StatefulSet", "prom"),
    ));
    add(
        &mut of_plain,
        "shop",
        "cart",
        &cart(json!([from(plain, &[8080])])),
    );
    let cases = [
        with(&[("shop", "cart", cart(json!([from(catalog(), &[8080, 15008])])))]),
        // Another policy admits 15008.
        with(&[
            ("shop", "cart", cart(json!([from(catalog(), &[8080])]))),
            (
                "shop",
                "hbone",
                json!({ "ingress": [{ "ports": [{ "port": 15008 }] }] }),
            ),
        ]),
        // A port that nobody serves.
        with(&[("shop", "cart", cart(json!([from(catalog(), &[9999])])))]),
        // Every port.
        with(&[("shop", "cart", cart(json!([{ "from": [catalog()] }])))]),
        // Sidecars: not captured.
        with(&[(
            "legacy",
            "orders",
            json!({ "ingress": [{ "ports": [{ "port": 8080 }] }] }),
        )]),
        // The only peer is outside the mesh, and speaks plaintext.
        of_plain,
    ];
    for snapshot in cases {
        assert_passes("MM0501", &snapshot);
        assert_passes("MM0502", &snapshot);
    }
}

#[test]
fn what_goes_to_a_waypoint_first_needs_no_15008_from_everybody() {
    let spec =
        json!({ "podSelector": app("cart"), "ingress": [from(json!({ "podSelector": {} }), &[8080])] });
    let mut snapshot = with(&[("shop", "cart", spec)]);
    assert_finds("MM0501", &snapshot, "NetworkPolicy shop/cart");
    let services = had(&mut snapshot.services);
    let cart = services
        .iter_mut()
        .find(|service| service.metadata.name.as_deref() == Some("cart"));
    cart.unwrap().metadata.labels = Some([("istio.io/use-waypoint".to_owned(), "wp".to_owned())].into());
    assert_passes("MM0501", &snapshot);
}

#[test]
fn egress_to_the_mesh_without_15008_is_found_and_the_patch_cures_it() {
    let spec = json!({ "podSelector": app("cart"), "policyTypes": ["Egress"], "egress": [
        { "to": [{ "namespaceSelector": {}, "podSelector": { "matchLabels": { "k8s-app": "kube-dns" } } }],
          "ports": [{ "port": 53, "protocol": "UDP" }] },
        { "to": [{ "namespaceSelector": {} }], "ports": [{ "port": "http" }] },
    ] });
    let found = assert_cured(
        "MM0502",
        with(&[("shop", "cart", spec)]),
        "NetworkPolicy shop/cart",
    );
    assert_eq!(
        found.evidence[0],
        "spec.egress[1] admits TCP 8080 from 3 pods of Deployment shop/cart to 9 pods of Deployment shop/cart, \
         Deployment shop/catalog, Deployment till/pay"
    );
    let told = crate::doctor::sentences([&found]);
    let targets = ["shop/cart", "shop/catalog", "till/pay"];
    assert_eq!(
        told,
        targets.map(|to| format!("3 callers cannot reach Deployment {to}"))
    );
}

#[test]
fn egress_to_the_outside_needs_no_15008() {
    let to = |peer: Value, port: u16| {
        json!({ "podSelector": app("cart"), "policyTypes": ["Egress"],
                "egress": [{ "to": [peer], "ports": [{ "port": port }] }] })
    };
    let outside = to(
        json!({ "ipBlock": { "cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"] } }),
        8080,
    );
    let https = to(json!({ "ipBlock": { "cidr": "0.0.0.0/0" } }), 443);
    let sidecars = to(
        json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "legacy" } } }),
        8080,
    );
    for spec in [outside, https, sidecars] {
        assert_passes("MM0502", &with(&[("shop", "cart", spec)]));
    }
}

/// A shop whose cart on node a is not Ready, behind a policy that admits nothing but 15008.
fn unready() -> Snapshot {
    let spec = json!({ "podSelector": app("cart"), "ingress": [{ "ports": [{ "port": 15008 }] }] });
    let mut snapshot = with(&[("shop", "cart", spec)]);
    snapshot.with_pod("shop", "cart-7d4b-a", |pod| {
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        container.readiness_probe = Some(object(json!({ "httpGet": { "path": "/", "port": "http" } })));
        let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut();
        statuses.unwrap()[0].ready = false;
    });
    snapshot
}

fn unhealthy(snapshot: &mut Snapshot, message: &str) {
    had(&mut snapshot.events).push(object(json!({
        "kind": "Pod", "namespace": "shop", "name": "cart-7d4b-a", "reason": "Unhealthy", "message": message,
    })));
}

#[test]
fn probes_that_a_policy_cuts_off_are_found_and_the_patch_cures_it() {
    let mut snapshot = unready();
    unhealthy(&mut snapshot, "Readiness probe failed: context deadline exceeded");
    let found = assert_cured("MM0503", snapshot, "NetworkPolicy shop/cart");
    assert_eq!(
        found.evidence[0],
        "a pod of Deployment shop/cart is not Ready, and asked on port 8080"
    );
    assert!(found.evidence[1].contains("deadline"));
    // In IPv6 alone the twin of the address counts.
    let mut snapshot = unready();
    snapshot.with_pod("shop", "cart-7d4b-a", |pod| {
        let status = pod.status.as_mut().unwrap();
        status.pod_ip = Some("fd00::20".to_owned());
        status.pod_ips = Some(vec![object(json!({ "ip": "fd00::20" }))]);
    });
    assert_cured("MM0503", snapshot, "NetworkPolicy shop/cart");
}

#[test]
fn probes_are_left_alone_where_they_answer_or_may_come() {
    // Ready: this network plugin lets the kubelet through.
    let mut ready = unready();
    ready.with_pod("shop", "cart-7d4b-a", |pod| {
        pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].ready = true;
    });
    // The app answers, and badly.
    let mut answers = unready();
    unhealthy(
        &mut answers,
        "Readiness probe failed: HTTP probe failed with statuscode: 500",
    );
    let mut refuses = unready();
    unhealthy(
        &mut refuses,
        "Readiness probe failed: dial tcp 10.244.0.20:8080: connect: connection refused",
    );
    let mut admitted = unready();
    add(
        &mut admitted,
        "shop",
        "probes",
        &json!({ "ingress": [
        { "from": [{ "ipBlock": { "cidr": "169.254.0.0/16" } }] },
    ] }),
    );
    // Not captured: the kubelet comes from its node.
    let mut outside = unready();
    outside.with_pod("shop", "cart-7d4b-a", |pod| pod.metadata.annotations = None);
    for snapshot in [ready, answers, refuses, admitted, outside] {
        assert_passes("MM0503", &snapshot);
    }
}

#[test]
fn a_policy_that_keeps_proxies_or_the_api_server_from_istiod_is_found() {
    let istiod = |ports: &[u16]| json!({ "podSelector": app("istiod"), "ingress": [from(json!({ "namespaceSelector": {} }), ports)] });
    assert_passes(
        "MM0504",
        &with(&[("istio-system", "guard", istiod(&[15010, 15012, 15017]))]),
    );
    let of = "NetworkPolicy istio-system/guard";
    let found = assert_cured(
        "MM0504",
        with(&[("istio-system", "guard", istiod(&[15017, 15008]))]),
        of,
    );
    assert_eq!(
        found.evidence,
        [
            "no rule of NetworkPolicy istio-system/guard admits TCP 15012 from 6 pods of DaemonSet \
          istio-system/ztunnel, Deployment legacy/orders to 2 pods of Deployment istio-system/istiod"
        ]
    );
    let told = crate::doctor::sentences([&found]);
    assert_eq!(told, ["6 callers cannot reach Deployment istio-system/istiod"]);
    let found = assert_cured("MM0504", with(&[("istio-system", "guard", istiod(&[15012]))]), of);
    assert!(found.evidence[0].contains("15017"));
    // Everything shut, in both directions: one finding for each of the two ports, and one for egress.
    let shut = json!({ "policyTypes": ["Ingress", "Egress"] });
    assert_eq!(
        findings("MM0504", &with(&[("istio-system", "shut", shut)])).len(),
        3
    );
}

#[test]
fn egress_to_istiod_that_a_policy_forbids_is_found() {
    let spec =
        json!({ "policyTypes": ["Egress"], "egress": [{ "ports": [{ "port": 53, "protocol": "UDP" }] }] });
    // Sidecars ask istiod themselves, and ambient pods do not.
    assert_cured(
        "MM0504",
        with(&[("legacy", "egress", spec.clone())]),
        "NetworkPolicy legacy/egress",
    );
    assert_passes("MM0504", &with(&[("shop", "egress", spec)]));
}

#[test]
fn one_istiod_that_may_be_asked_is_enough() {
    let other = json!({ "podSelector": { "matchLabels": { "istio.io/rev": "canary" } } });
    let mut snapshot = with(&[("istio-system", "canary", other)]);
    snapshot.with_pod("istio-system", "istiod-5f6c-b", |pod| {
        pod.metadata
            .labels
            .as_mut()
            .unwrap()
            .insert("istio.io/rev".to_owned(), "canary".to_owned());
    });
    assert_passes("MM0504", &snapshot);
}

/// A shop behind a waypoint of its own.
fn waypoint() -> Snapshot {
    let mut snapshot = healthy();
    let labels = json!({
        "gateway.istio.io/managed": "istio.io-mesh-controller", "gateway.networking.k8s.io/gateway-name": "wp",
        "istio.io/dataplane-mode": "none",
    });
    snapshot.add_pod(pod(
        "shop",
        "wp-1",
        "node-a",
        "10.244.0.80",
        labels,
        ("ReplicaSet", "wp"),
    ));
    snapshot.with_namespace("shop", |namespace| {
        let labels = namespace.metadata.labels.as_mut().unwrap();
        labels.insert("istio.io/use-waypoint".to_owned(), "wp".to_owned());
    });
    snapshot
}

fn namespace_without_waypoint(snapshot: &mut Snapshot) {
    snapshot.with_namespace("shop", |namespace| {
        let labels = namespace.metadata.labels.as_mut().unwrap();
        labels.remove("istio.io/use-waypoint");
    });
}

#[test]
fn a_waypoint_that_does_not_reach_its_pods_is_found() {
    let mut snapshot = waypoint();
    assert_passes("MM0505", &snapshot);
    let spec = json!({ "podSelector": app("cart"), "ingress": [
        from(json!({ "podSelector": app("catalog") }), &[8080, 15008]),
    ] });
    add(&mut snapshot, "shop", "cart", &spec);
    let found = assert_cured("MM0505", snapshot.clone(), "NetworkPolicy shop/cart");
    assert!(
        found.evidence[0].contains("to 3 pods of Deployment shop/cart"),
        "{found:#?}"
    );
    let told = crate::doctor::sentences([&found]);
    assert_eq!(told, ["1 caller cannot reach Deployment shop/cart"]);
    // Others of the namespace let it in: no concern of theirs.
    let mut open = waypoint();
    add(
        &mut open,
        "shop",
        "cart",
        &json!({ "ingress": [from(json!({ "podSelector": {} }), &[15008])] }),
    );
    assert_passes("MM0505", &open);
    // Without the label nothing goes there.
    namespace_without_waypoint(&mut snapshot);
    assert_passes("MM0505", &snapshot);
}

fn timed_out(snapshot: &mut Snapshot, source: &str, destination: &str, count: u64) {
    let ztunnels = had(&mut snapshot.ztunnels);
    let Part::Had(log) = &mut ztunnels[0].log else {
        panic!("no log")
    };
    log.links.push(Link {
        kind: LinkKind::HboneTimeout,
        source: source.to_owned(),
        destination: destination.to_owned(),
        seen: Sighting {
            count,
            last: NOW.parse().unwrap(),
            sample: "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008".to_owned(),
        },
    });
}

#[test]
fn a_timeout_is_tied_to_the_policy_that_causes_it() {
    let spec =
        json!({ "podSelector": app("cart"), "ingress": [from(json!({ "podSelector": {} }), &[8080])] });
    let mut snapshot = with(&[("shop", "cart", spec)]);
    timed_out(&mut snapshot, "shop/catalog-7d4b-a", "shop/cart-7d4b-b", 12);
    let found = assert_finds("MM0506", &snapshot, "NetworkPolicy shop/cart");
    assert!(found.evidence[0].contains("12 connections from shop/catalog-7d4b-a to shop/cart-7d4b-b"));
    assert!(found.evidence[1].contains("no rule of NetworkPolicy shop/cart admits TCP 15008"));
}

#[test]
fn a_timeout_that_no_policy_explains_says_so() {
    let mut snapshot = healthy();
    timed_out(&mut snapshot, "shop/catalog-7d4b-a", "shop/cart-7d4b-b", 3);
    let found = assert_finds("MM0506", &snapshot, "Pod shop/cart-7d4b-b");
    assert!(found.problem.contains("no NetworkPolicy explains it"));
}

#[test]
fn timeouts_of_pods_that_are_gone_or_of_a_moment_are_passed_over() {
    let mut snapshot = healthy();
    timed_out(&mut snapshot, "shop/catalog-7d4b-a", "shop/gone", 30);
    timed_out(&mut snapshot, "10.1.2.3", "shop/cart-7d4b-a", 30);
    timed_out(&mut snapshot, "shop/catalog-7d4b-a", "shop/cart-7d4b-b", 2);
    assert_passes("MM0506", &snapshot);
}

#[test]
fn policies_of_other_kinds_are_named() {
    let mut snapshot = healthy();
    assert_passes("MM0507", &snapshot);
    let key = "ciliumnetworkpolicies.cilium.io";
    snapshot.custom.insert(key.to_owned(), Part::Had(Vec::new()));
    assert_passes("MM0507", &snapshot);
    for number in 0..7 {
        snapshot.add_custom(key, "shop", &format!("policy-{number}"), json!(null));
    }
    let found = assert_finds("MM0507", &snapshot, &format!("CustomResourceDefinition {key}"));
    assert!(
        found.evidence[0].ends_with("shop/policy-4 and 2 more"),
        "{found:#?}"
    );
}

#[test]
fn ten_thousand_alike_are_one_finding() {
    let spec = json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": 8080 }] }] });
    let mut snapshot = with(&[("shop", "web", spec)]);
    for number in 0..10_000_u32 {
        let address = std::net::Ipv4Addr::from_bits(0x0a40_0000 + number).to_string();
        let mut one = ambient_pod("shop", "web", "node-a", &address);
        one.metadata.name = Some(format!("web-{number}"));
        annotate(&mut one, "ambient.istio.io/redirection", "enabled");
        snapshot.add_pod(one);
    }
    assert_cured("MM0501", snapshot, "NetworkPolicy shop/web");
}
