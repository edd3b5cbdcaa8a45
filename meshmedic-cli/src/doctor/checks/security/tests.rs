// SPDX-License-Identifier: Apache-2.0
use crate::doctor::kind::{AUTHORIZATION, PEER};
use serde_json::{Value, json};

use crate::doctor::finding::Remedy;
use crate::doctor::fixtures::{
    NOW, annotate, assert_finds, assert_passes, findings, had, healthy, object, pod,
};
use crate::doctor::snapshot::{Custom, Link, LinkKind, Part, Sighting, Snapshot};
use crate::doctor::view::View;

/// The healthy mesh with this mode for the whole of it.
fn mesh(mode: &str) -> Snapshot {
    let mut snapshot = healthy();
    let Some(Part::Had(all)) = snapshot.custom.get_mut(PEER) else {
        panic!("no PeerAuthentications")
    };
    all[0].spec["mtls"]["mode"] = json!(mode);
    snapshot
}

fn peer(snapshot: &mut Snapshot, namespace: &str, name: &str, spec: Value, created: &str) {
    snapshot.add_custom(PEER, namespace, name, spec);
    let Some(Part::Had(all)) = snapshot.custom.get_mut(PEER) else {
        panic!("no PeerAuthentications")
    };
    let last: &mut Custom = all.last_mut().unwrap();
    last.metadata.creation_timestamp = Some(object(json!(created)));
}

fn in_force(snapshot: &Snapshot, namespace: &str, name: &str) -> String {
    let view = View::new(snapshot);
    super::mtls::in_force(&view, view.pod(namespace, name).unwrap()).words()
}

#[test]
fn the_mode_comes_from_the_closest_that_says_one() {
    let mut snapshot = healthy();
    let cart = |snapshot: &Snapshot| in_force(snapshot, "shop", "cart-7d4b-a");
    assert_eq!(
        cart(&snapshot),
        "STRICT by PeerAuthentication istio-system/default"
    );
    peer(
        &mut snapshot,
        "shop",
        "later",
        json!({ "mtls": { "mode": "PERMISSIVE" } }),
        "2026-01-01T02:00:00Z",
    );
    assert_eq!(cart(&snapshot), "PERMISSIVE by PeerAuthentication shop/later");
    peer(
        &mut snapshot,
        "shop",
        "first",
        json!({ "mtls": { "mode": "UNSET" } }),
        "2026-01-01T01:00:00Z",
    );
    assert_eq!(
        cart(&snapshot),
        "STRICT by PeerAuthentication istio-system/default",
        "the oldest holds"
    );
    let of_cart = json!({ "selector": { "matchLabels": { "app": "cart" } },
        "portLevelMtls": { "8080": { "mode": "DISABLE" }, "9090": { "mode": "STRICT" } } });
    peer(&mut snapshot, "shop", "cart", of_cart, "2026-01-01T03:00:00Z");
    assert_eq!(
        cart(&snapshot),
        "STRICT by PeerAuthentication istio-system/default (DISABLE on port 8080)"
    );
    assert_eq!(
        in_force(&snapshot, "shop", "catalog-7d4b-a"),
        "STRICT by PeerAuthentication istio-system/default"
    );
    let mut none = healthy();
    none.custom.insert(PEER.to_owned(), Part::Had(Vec::new()));
    assert!(cart(&none).starts_with("PERMISSIVE as it is where"));
}

#[test]
fn namespaces_that_take_plaintext_are_named() {
    let found = findings("MM0606", &mesh("PERMISSIVE"));
    let on: Vec<String> = found.iter().map(|finding| finding.object.to_string()).collect();
    assert_eq!(on, ["Namespace legacy", "Namespace shop", "Namespace till"]);
    assert!(found[0].evidence[0].starts_with("3 pods are PERMISSIVE by PeerAuthentication"));
    assert_passes("MM0606", &healthy());
    // One port is enough; a port of pods outside the mesh is nobody's concern.
    let mut snapshot = healthy();
    let ports = json!({ "selector": { "matchLabels": { "app": "pay" } }, "portLevelMtls": { "9": { "mode": "PERMISSIVE" } } });
    peer(&mut snapshot, "till", "pay", ports, NOW);
    peer(
        &mut snapshot,
        "plain",
        "all",
        json!({ "mtls": { "mode": "PERMISSIVE" } }),
        NOW,
    );
    assert_finds("MM0606", &snapshot, "Namespace till");
}

fn plaintext(snapshot: &mut Snapshot, source: &str, destination: &str) {
    let ztunnels = had(&mut snapshot.ztunnels);
    let Part::Had(log) = &mut ztunnels[0].log else {
        panic!("no log")
    };
    log.links.push(Link {
        kind: LinkKind::Plaintext,
        source: source.to_owned(),
        destination: destination.to_owned(),
        seen: Sighting {
            count: 7,
            last: NOW.parse().unwrap(),
            sample: String::new(),
        },
    });
}

#[test]
fn plaintext_that_is_taken_is_found_with_its_callers() {
    let mut snapshot = mesh("PERMISSIVE");
    let prom = ("StatefulSet", "prom");
    snapshot.add_pod(pod("plain", "prom-0", "node-a", "10.244.0.90", json!({}), prom));
    plaintext(&mut snapshot, "plain/prom-0", "shop/cart-7d4b-a");
    plaintext(&mut snapshot, "till/pay-7d4b-a", "shop/cart-7d4b-a");
    plaintext(&mut snapshot, "192.0.2.1", "shop/cart-7d4b-a");
    plaintext(&mut snapshot, "192.0.2.2", "shop/cart-7d4b-a");
    had(&mut had(&mut snapshot.ztunnels)[1].metrics)
        .plaintext
        .insert("shop/cart".to_owned(), 40.0);
    let found = assert_finds("MM0601", &snapshot, "Pod shop/cart-7d4b-a");
    assert!(found.evidence[0].contains("PERMISSIVE by"));
    assert!(found.evidence[1].contains("plain/prom-0 (outside the mesh)"));
    assert!(found.evidence[2].contains("till/pay-7d4b-a (which should be captured)"));
    assert_eq!(found.evidence[4], "and 1 callers more");
    assert!(found.evidence[5].contains("count 40 connections without mTLS"));
}

#[test]
fn plaintext_that_is_turned_away_or_goes_elsewhere_is_none() {
    let mut strict = healthy();
    plaintext(&mut strict, "192.0.2.1", "shop/cart-7d4b-a");
    let mut elsewhere = mesh("PERMISSIVE");
    plaintext(&mut elsewhere, "192.0.2.1", "shop/gone");
    plaintext(&mut elsewhere, "192.0.2.1", "kube-system/coredns-66bc-a");
    for snapshot in [strict, elsewhere] {
        assert_passes("MM0601", &snapshot);
    }
}

fn authorization(namespace: &str, spec: Value) -> Snapshot {
    let mut snapshot = healthy();
    snapshot.add_custom(AUTHORIZATION, namespace, "guard", spec);
    snapshot
}

fn rule(operation: Value) -> Value {
    json!({ "to": [{ "operation": operation }] })
}

#[test]
fn what_ztunnel_cannot_see_is_found_with_what_it_makes_of_it() {
    let app = json!({ "matchLabels": { "app": "cart" } });
    let get = || rule(json!({ "methods": ["GET"], "paths": ["/a"] }));
    let l4 = json!({ "from": [{ "source": { "namespaces": ["till"] } }] });
    let cases = [
        (json!({ "selector": app, "rules": [get()] }), "none is left"),
        (
            json!({ "selector": app, "rules": [get(), l4] }),
            "what only they allow is rejected",
        ),
        (
            json!({ "action": "DENY", "rules": [get()] }),
            "more than is written",
        ),
        (
            json!({ "rules": [{ "from": [{ "source": { "requestPrincipals": ["*"] } }] }] }),
            "none is left",
        ),
        (
            json!({ "rules": [{ "when": [{ "key": "request.headers[x]", "values": {} }] }] }),
            "none is left",
        ),
        (
            json!({ "action": "CUSTOM", "provider": {}, "rules": [{}] }),
            "unchecked",
        ),
    ];
    for (spec, effect) in cases {
        let snapshot = authorization("shop", spec.clone());
        let found = assert_finds("MM0602", &snapshot, "AuthorizationPolicy shop/guard");
        assert!(found.effect.contains(effect), "{spec} {found:#?}");
        let waypoint = "istioctl waypoint apply --enroll-namespace --wait -n shop";
        assert_eq!(found.commands(), [waypoint]);
    }
}

#[test]
fn what_ztunnel_can_judge_or_never_sees_is_fine() {
    let l4 = json!({ "from": [{ "source": { "principals": ["*"], "ipBlocks": ["10.0.0.0/8"] } }],
        "to": [{ "operation": { "ports": ["8080"] } }],
        "when": [{ "key": "source.namespace", "values": ["till"] }] });
    let get = || rule(json!({ "methods": ["GET"] }));
    let targets = json!([{ "kind": "Service", "group": "", "name": "cart" }]);
    let other = json!({ "matchLabels": { "app": "other" } });
    for (namespace, spec) in [
        ("shop", json!({ "rules": [l4] })),
        ("shop", json!({})),
        ("shop", json!({ "targetRefs": targets, "rules": [get()] })),
        ("shop", json!({ "selector": other, "rules": [get()] })),
        // Sidecars see HTTP.
        ("legacy", json!({ "rules": [get()] })),
        ("plain", json!({ "rules": [get()] })),
    ] {
        assert_passes("MM0602", &authorization(namespace, spec));
    }
    // In the root namespace it is for everybody.
    let found = findings(
        "MM0602",
        &authorization("istio-system", json!({ "rules": [get()] })),
    );
    assert_eq!(found.len(), 1);
}

#[test]
fn policies_for_nobody_are_found() {
    let nobody = json!({ "selector": { "matchLabels": { "app": "crat" } } });
    let found = assert_finds(
        "MM0603",
        &authorization("shop", nobody),
        "AuthorizationPolicy shop/guard",
    );
    assert!(found.evidence[0].contains("app=crat"));
    let targets = json!([{ "kind": "Service", "group": "", "name": "crat" }]);
    let found = assert_finds(
        "MM0603",
        &authorization("shop", json!({ "targetRefs": targets })),
        "AuthorizationPolicy shop/guard",
    );
    assert!(found.evidence[0].contains("Service shop/crat"));
    // Right labels, wrong namespace.
    let elsewhere = json!({ "selector": { "matchLabels": { "app": "cart" } } });
    assert_finds(
        "MM0603",
        &authorization("till", elsewhere),
        "AuthorizationPolicy till/guard",
    );
}

#[test]
fn policies_for_somebody_or_for_all_are_fine() {
    let by_app = |app: &str| json!({ "selector": { "matchLabels": { "app": app } } });
    let mut scaled_down = authorization("shop", by_app("cart"));
    scaled_down.drop_pods(|pod| pod.metadata.namespace.as_deref() == Some("shop"));
    let targets = json!([
        { "kind": "Service", "group": "", "name": "cart" },
        { "kind": "GatewayClass", "group": "gateway.networking.k8s.io", "name": "istio-waypoint" },
    ]);
    let mut machine = authorization("shop", by_app("mainframe"));
    machine.add_custom(
        "workloadentries.networking.istio.io",
        "shop",
        "m",
        json!({ "labels": { "app": "mainframe" } }),
    );
    let mut group = authorization("shop", by_app("mainframe"));
    let labels = json!({ "metadata": { "labels": { "app": "mainframe" } } });
    group.add_custom("workloadgroups.networking.istio.io", "shop", "m", labels);
    for snapshot in [
        machine,
        group,
        authorization("shop", json!({ "selector": {} })),
        authorization("shop", by_app("cart")),
        authorization("istio-system", by_app("cart")),
        authorization("shop", json!({ "targetRefs": targets })),
        scaled_down,
    ] {
        assert_passes("MM0603", &snapshot);
    }
}

/// A sidecar's pod whose readiness probe goes to the app itself.
fn probed(spec: Value) -> Snapshot {
    let mut snapshot = authorization("legacy", spec);
    snapshot.with_pod("legacy", "orders-7d4b-a", |pod| {
        let app = &mut pod.spec.as_mut().unwrap().containers[0];
        app.readiness_probe = Some(object(json!({ "httpGet": { "path": "/ready", "port": "http" } })));
    });
    snapshot
}

#[test]
fn an_allow_that_locks_probes_out_is_found_and_the_policy_cures_it() {
    let of_till = || json!([{ "from": [{ "source": { "namespaces": ["till"] } }] }]);
    for rules in [
        json!([]),
        of_till(),
        json!([rule(json!({ "paths": ["/api/*"] }))]),
        json!([rule(json!({ "methods": ["POST"] }))]),
        json!([rule(json!({ "ports": ["9090"] }))]),
        json!([{ "when": [{ "key": "source.principal", "values": ["*"] }] }]),
    ] {
        let found = assert_finds(
            "MM0604",
            &probed(json!({ "rules": rules })),
            "Pod legacy/orders-7d4b-a",
        );
        let Remedy::Apply(yaml) = &found.remedy[0] else {
            panic!("{found:#?}")
        };
        let policy: Custom = serde_saphyr::from_str(yaml).unwrap();
        let mut cured = probed(json!({ "rules": rules }));
        cured.add_custom(AUTHORIZATION, "legacy", "orders-probes", policy.spec);
        assert_passes("MM0604", &cured);
    }
}

#[test]
fn probes_that_get_in_or_go_past_the_sidecar_are_fine() {
    let all = |rules: Value| json!({ "rules": rules });
    let shut = || probed(json!({}));
    let mut rewritten = shut();
    rewritten.with_pod("legacy", "orders-7d4b-a", |pod| {
        let app = &mut pod.spec.as_mut().unwrap().containers[0];
        let path = "/app-health/app/readyz";
        app.readiness_probe = Some(object(json!({ "httpGet": { "path": path, "port": 15020 } })));
    });
    let mut excluded = shut();
    excluded.with_pod("legacy", "orders-7d4b-a", |pod| {
        annotate(pod, "traffic.sidecar.istio.io/excludeInboundPorts", "9090, 8080");
    });
    let mut denies = probed(json!({ "action": "DENY", "rules": [] }));
    denies.add_custom(AUTHORIZATION, "shop", "other", json!({}));
    for snapshot in [
        probed(all(json!([{}]))),
        probed(all(json!([rule(json!({ "paths": ["/live", "/rea*"] }))]))),
        probed(all(
            json!([{ "from": [{ "source": { "ipBlocks": ["10.0.0.0/8"] } }] }]),
        )),
        probed(all(
            json!([{ "from": [{ "source": { "notNamespaces": ["till"] } }] }]),
        )),
        rewritten,
        excluded,
        denies,
    ] {
        assert_passes("MM0604", &snapshot);
    }
}

#[test]
fn peer_authentications_without_effect_are_found() {
    let mut second = healthy();
    let strict = || json!({ "mtls": { "mode": "STRICT" } });
    peer(&mut second, "shop", "new", strict(), "2026-01-01T02:00:00Z");
    assert_passes("MM0605", &second);
    peer(&mut second, "shop", "old", strict(), "2026-01-01T01:00:00Z");
    let found = assert_finds("MM0605", &second, "PeerAuthentication shop/new");
    assert!(found.evidence[0].contains("PeerAuthentication shop/old"));
    let mut disabled = healthy();
    let disable = || json!({ "mtls": { "mode": "DISABLE" } });
    peer(&mut disabled, "legacy", "default", disable(), NOW);
    assert_passes("MM0605", &disabled);
    peer(&mut disabled, "till", "default", disable(), NOW);
    let found = assert_finds("MM0605", &disabled, "PeerAuthentication till/default");
    assert!(found.evidence[0].contains("3 captured pods stand under it"));
}

#[test]
fn whoever_claims_to_be_istio_is_named() {
    assert_passes("MM0607", &healthy());
    let mut snapshot = healthy();
    let labels = json!({ "app": "ztunnel" });
    let fake = pod(
        "shop",
        "fake-a",
        "node-a",
        "10.244.0.90",
        labels,
        ("DaemonSet", "fake"),
    );
    had(&mut snapshot.pods).push(fake);
    let finding = assert_finds("MM0607", &snapshot, "DaemonSet shop/fake");
    assert_eq!(finding.problem, "it claims to be ztunnel, and is ignored");
    assert!(matches!(&finding.remedy[0], Remedy::ByHand(what) if what.contains("--istio-namespace shop")));
    // It is Istio, as soon as somebody says so; then the nodes have two.
    snapshot.istio.namespaces.push("shop".to_owned());
    assert_passes("MM0607", &snapshot);

    let mut snapshot = healthy();
    let slice = object(json!({
        "metadata": {
            "namespace": "shop", "name": "istiod-x",
            "labels": { "app": "istiod", "kubernetes.io/service-name": "istiod" },
        },
        "addressType": "IPv4", "endpoints": [],
    }));
    had(&mut snapshot.endpoint_slices).push(slice);
    assert_finds("MM0607", &snapshot, "Service shop/istiod");
}

#[test]
fn an_agent_that_takes_others_for_istio_is_named() {
    let mut snapshot = healthy();
    let reports = had(&mut snapshot.agents);
    let Some(Part::Had(report)) = reports.get_mut("node-a") else {
        panic!("no report of node-a")
    };
    report.istio = Some(meshmedic_common::identity::Identity::new(
        vec!["mesh".to_owned()],
        false,
    ));
    let finding = assert_finds("MM0607", &snapshot, "Node node-a");
    assert!(
        finding
            .evidence
            .iter()
            .any(|line| line.contains("the agents look for Istio in mesh")),
        "{finding:#?}"
    );
}

#[test]
fn what_makes_pods_later_is_selected_today() {
    let by_app = || {
        authorization(
            "shop",
            json!({ "selector": { "matchLabels": { "app": "nightly" } } }),
        )
    };
    assert_finds("MM0603", &by_app(), "AuthorizationPolicy shop/guard");
    let template = json!({ "metadata": { "labels": { "app": "nightly" } }, "spec": { "containers": [] } });
    let metadata = json!({ "namespace": "shop", "name": "nightly" });
    let mut stateful = by_app();
    had(&mut stateful.stateful_sets).push(object(json!({
        "metadata": metadata,
        "spec": { "replicas": 0, "selector": {}, "serviceName": "nightly", "template": template },
    })));
    let mut cron = by_app();
    had(&mut cron.cron_jobs).push(object(json!({
        "metadata": metadata,
        "spec": { "schedule": "@daily", "jobTemplate": { "spec": { "template": template } } },
    })));
    let mut scaled = by_app();
    had(&mut scaled.deployments).push(object(json!({
        "metadata": metadata, "spec": { "replicas": 0, "selector": {}, "template": template },
    })));
    for snapshot in [stateful, cron, scaled] {
        assert_passes("MM0603", &snapshot);
    }
}

fn denying(rule: &Value) -> Snapshot {
    probed(json!({ "action": "DENY", "rules": [rule] }))
}

#[test]
fn a_deny_of_all_but_some_turns_the_kubelet_away() {
    let source = |source: Value| json!({ "from": [{ "source": source }] });
    for denied in [
        source(json!({ "notPrincipals": ["cluster.local/ns/till/sa/pay"] })),
        source(json!({ "notNamespaces": ["till"] })),
        rule(json!({ "notPaths": ["/api/*"] })),
        rule(json!({ "notMethods": ["POST"], "ports": ["8080"] })),
        json!({ "when": [{ "key": "source.namespace", "notValues": ["till"] }] }),
        json!({}),
    ] {
        let found = assert_finds("MM0604", &denying(&denied), "Pod legacy/orders-7d4b-a");
        assert!(found.problem.contains("DENY"), "{denied} {found:#?}");
    }
    for not_denied in [
        source(json!({ "principals": ["*"] })),
        source(json!({ "notPrincipals": ["a"], "namespaces": ["till"] })),
        // Who knows from which address the kubelet comes.
        source(json!({ "notIpBlocks": ["10.0.0.0/8"] })),
        rule(json!({ "notPaths": ["/ready"] })),
        rule(json!({ "notPaths": ["/api"], "notPorts": ["8080"] })),
        rule(json!({ "paths": ["/admin"] })),
        rule(json!({ "notHosts": ["shop.example.com"] })),
        json!({ "from": [{ "source": { "notNamespaces": ["till"] } }], "when": [{ "key": "request.headers[x]", "values": ["y"] }] }),
    ] {
        assert_passes("MM0604", &denying(&not_denied));
    }
    let mut trial = denying(&json!({}));
    let part = trial.custom.get_mut(AUTHORIZATION).unwrap();
    had(part)[0].metadata.annotations = Some([("istio.io/dry-run".to_owned(), "true".to_owned())].into());
    assert_passes("MM0604", &trial);
    // What an ALLOW leaves out by a negation, it does not let in.
    let allow = json!({ "rules": [rule(json!({ "notPaths": ["/rea*"] }))] });
    assert_finds("MM0604", &probed(allow), "Pod legacy/orders-7d4b-a");
}
