// SPDX-License-Identifier: Apache-2.0
//! Two revisions of istiod, a tag, and what each of them is asked for.

use super::*;
use crate::doctor::fixtures::{annotate, gateway_pod, namespace};

/// The healthy mesh with a second istiod, of revision 1-29: its pods, Service, webhook and the tag `canary`.
fn two_revisions() -> Snapshot {
    let mut snapshot = healthy();
    let labels =
        json!({ "app": "istiod", "istio": "pilot", "istio.io/rev": "1-29", "pod-template-hash": "9a" });
    let mut istiod = pod(
        "istio-system",
        "istiod-1-29-9a-x",
        "node-c",
        "10.244.2.31",
        labels.clone(),
        ("ReplicaSet", "istiod-1-29-9a"),
    );
    istiod.spec.as_mut().unwrap().containers[0].image = Some("istio/pilot:1.29.0".to_owned());
    snapshot.add_pod(istiod);
    had(&mut snapshot.deployments).push(object(json!({
        "metadata": { "namespace": "istio-system", "name": "istiod-1-29", "labels": { "istio.io/rev": "1-29" } },
        "spec": {
            "replicas": 1, "selector": { "matchLabels": { "istio.io/rev": "1-29" } },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "discovery" }] } },
        },
        "status": { "replicas": 1, "readyReplicas": 1 },
    })));
    had(&mut snapshot.replica_sets).push(object(json!({
        "metadata": {
            "namespace": "istio-system", "name": "istiod-1-29-9a",
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "Deployment", "name": "istiod-1-29", "uid": "29", "controller": true,
            }],
        },
    })));
    had(&mut snapshot.services).push(object(json!({
        "metadata": { "namespace": "istio-system", "name": "istiod-1-29" },
        "spec": {
            "selector": { "app": "istiod", "istio.io/rev": "1-29" },
            "ports": [{ "name": "https-dns", "port": 15012 }, { "name": "https-webhook", "port": 443 }],
        },
    })));
    let mut slice = had(&mut snapshot.endpoint_slices)[0].clone();
    slice.metadata.labels =
        Some([("kubernetes.io/service-name".to_owned(), "istiod-1-29".to_owned())].into());
    had(&mut snapshot.endpoint_slices).push(slice);
    for (name, labels, selector) in [
        (
            "istio-sidecar-injector-1-29",
            json!({ "app": "sidecar-injector", "istio.io/rev": "1-29" }),
            json!({ "matchLabels": { "istio.io/rev": "1-29" } }),
        ),
        (
            "istio-revision-tag-canary",
            json!({ "app": "sidecar-injector", "istio.io/rev": "1-29", "istio.io/tag": "canary" }),
            json!({ "matchLabels": { "istio.io/rev": "canary" } }),
        ),
    ] {
        had(&mut snapshot.mutating_webhooks).push(object(json!({
            "metadata": { "name": name, "labels": labels },
            "webhooks": [{
                "name": "rev.namespace.sidecar-injector.istio.io", "admissionReviewVersions": ["v1"],
                "sideEffects": "None", "namespaceSelector": selector,
                "clientConfig": {
                    "caBundle": "bm90IGVtcHR5",
                    "service": { "namespace": "istio-system", "name": "istiod-1-29", "path": "/inject", "port": 443 },
                },
            }],
        })));
    }
    had(&mut snapshot.namespaces).push(namespace("canary", json!({ "istio.io/rev": "canary" })));
    snapshot
}

fn down(snapshot: &mut Snapshot) {
    snapshot.with_pod("istio-system", "istiod-1-29-9a-x", |pod| {
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "False".to_owned();
    });
}

#[test]
fn two_revisions_that_are_up_are_fine() {
    for code in [
        "MM0101", "MM0102", "MM0103", "MM0104", "MM0105", "MM0107", "MM0108", "MM0801",
    ] {
        assert_passes(code, &two_revisions());
    }
}

#[test]
fn a_revision_that_is_down_is_found_though_another_is_up() {
    let mut snapshot = two_revisions();
    down(&mut snapshot);
    let found = assert_finds("MM0101", &snapshot, "Deployment istio-system/istiod-1-29");
    assert!(found.evidence[1].contains("revision 1-29"), "{found:#?}");
    assert!(
        found
            .commands()
            .contains(&"kubectl rollout restart -n istio-system deployment/istiod-1-29".to_owned())
    );
    // That it has no endpoint follows.
    let slices = had(&mut snapshot.endpoint_slices);
    slices.pop();
    assert_passes("MM0103", &snapshot);
    // A pod that it is to inject.
    let bare = pod(
        "canary",
        "bare-0",
        "node-a",
        "10.244.0.71",
        json!({}),
        ("StatefulSet", "bare"),
    );
    snapshot.add_pod(bare);
    let found = assert_finds("MM0801", &snapshot, "Pod canary/bare-0");
    assert!(
        found.evidence[1].contains("no istiod of that revision is Ready"),
        "{found:#?}"
    );
}

#[test]
fn a_revision_without_a_service_is_found_though_another_has_one() {
    let mut snapshot = two_revisions();
    had(&mut snapshot.services).retain(|service| service.metadata.name.as_deref() != Some("istiod-1-29"));
    // The other's Service is for its own pods alone.
    let selector = [("app", "istiod"), ("pod-template-hash", "5f6c")];
    let selector = selector.map(|(key, value)| (key.to_owned(), value.to_owned()));
    had(&mut snapshot.services)[0].spec.as_mut().unwrap().selector = Some(selector.into());
    assert_finds("MM0103", &snapshot, "Deployment istio-system/istiod-1-29");
}

#[test]
fn a_revision_that_is_scaled_away_is_missed_only_by_those_that_ask_for_it() {
    let mut snapshot = two_revisions();
    snapshot.drop_pods(|pod| pod.metadata.name.as_deref() == Some("istiod-1-29-9a-x"));
    had(&mut snapshot.deployments)
        .last_mut()
        .unwrap()
        .spec
        .as_mut()
        .unwrap()
        .replicas = Some(0);
    assert_finds("MM0101", &snapshot, "Deployment istio-system/istiod-1-29");
    had(&mut snapshot.namespaces).pop();
    assert_passes("MM0101", &snapshot);
    // A pod that was injected by it asks for it still.
    snapshot.with_pod("legacy", "orders-7d4b-a", |pod| {
        annotate(pod, "istio.io/rev", "canary")
    });
    assert_finds("MM0101", &snapshot, "Deployment istio-system/istiod-1-29");
}

#[test]
fn a_namespace_is_asked_before_its_pod() {
    let with = |labels: serde_json::Value, own: serde_json::Value| {
        let mut snapshot = two_revisions();
        had(&mut snapshot.namespaces).push(namespace("new", labels));
        snapshot.add_pod(pod(
            "new",
            "bare-0",
            "node-a",
            "10.244.0.71",
            own,
            ("StatefulSet", "bare"),
        ));
        snapshot
    };
    let asks = |labels: serde_json::Value, own: serde_json::Value| {
        assert_finds("MM0801", &with(labels, own), "Pod new/bare-0").evidence[0].clone()
    };
    let canary = || json!({ "istio.io/rev": "canary" });
    assert!(asks(json!({ "istio-injection": "enabled" }), canary()).contains("istio-injection=enabled"));
    assert!(
        asks(json!({ "istio.io/rev": "1-29" }), canary())
            .contains("namespace new has the label istio.io/rev=1-29")
    );
    // Where the namespace says nothing, the pod's own revision is enough.
    assert_eq!(asks(json!({}), canary()), "it has the label istio.io/rev=canary");
    let none = with(json!({ "istio-injection": "disabled" }), canary());
    assert_passes("MM0801", &none);
    assert_passes(
        "MM0801",
        &with(
            json!({}),
            json!({ "istio.io/rev": "canary", "sidecar.istio.io/inject": "false" }),
        ),
    );
}

#[test]
fn a_webhook_belongs_to_the_istiod_of_its_revision() {
    let mut snapshot = two_revisions();
    let hooks = had(&mut snapshot.mutating_webhooks);
    hooks[1].webhooks.as_mut().unwrap()[0].client_config.ca_bundle = None;
    let found = assert_finds(
        "MM0104",
        &snapshot,
        "MutatingWebhookConfiguration istio-sidecar-injector-1-29",
    );
    assert_eq!(
        found.commands(),
        ["kubectl rollout restart -n istio-system deployment/istiod-1-29"]
    );
    // No istiod of that name is here: nothing is there to be restarted.
    had(&mut snapshot.deployments).retain(|one| one.metadata.name.as_deref() != Some("istiod-1-29"));
    let found = assert_finds(
        "MM0104",
        &snapshot,
        "MutatingWebhookConfiguration istio-sidecar-injector-1-29",
    );
    assert!(found.commands().is_empty(), "{found:#?}");
}

#[test]
fn pods_that_are_not_made_for_want_of_a_webhooks_answer_are_told() {
    let failed = |hook: &str, last: &str| {
        let mut snapshot = healthy();
        let message = format!(
            "Error creating: Internal error occurred: failed calling webhook \"{hook}\": context deadline exceeded"
        );
        had(&mut snapshot.events).push(object(json!({
            "kind": "ReplicaSet", "namespace": "legacy", "name": "orders-7d4b", "reason": "FailedCreate",
            "message": message, "count": 7, "last": last,
        })));
        snapshot
    };
    let now = "2026-01-01T23:59:00Z";
    let found = assert_finds(
        "MM0104",
        &failed("namespace.sidecar-injector.istio.io", now),
        "MutatingWebhookConfiguration istio-sidecar-injector",
    );
    assert!(
        found.evidence[0].contains("legacy/orders-7d4b, 7 times"),
        "{found:#?}"
    );
    assert_passes("MM0104", &failed("webhook.cert-manager.io", now));
    assert_passes(
        "MM0104",
        &failed("namespace.sidecar-injector.istio.io", "2026-01-01T20:00:00Z"),
    );
}

#[test]
fn waypoints_and_gateways_are_asked_for_their_version_too() {
    let with = |labels: serde_json::Value, version: &str| {
        let mut snapshot = healthy();
        let mut proxy = gateway_pod(labels);
        proxy.spec.as_mut().unwrap().containers[0].image = Some(format!("docker.io/istio/proxyv2:{version}"));
        snapshot.add_pod(proxy);
        snapshot
    };
    let gateway = || json!({ "gateway.networking.k8s.io/gateway-name": "gw" });
    let waypoint = || json!({ "gateway.networking.k8s.io/gateway-name": "gw", "gateway.istio.io/managed": "istio.io-mesh-controller" });
    for (labels, part) in [(gateway(), "its gateway"), (waypoint(), "its waypoint")] {
        let found = assert_finds("MM0107", &with(labels.clone(), "1.26.0"), "Pod plain/gw-0");
        assert!(found.problem.starts_with(part), "{found:#?}");
        assert_passes("MM0107", &with(labels, "1.27.1"));
    }
}

#[test]
fn ambient_mode_is_off_where_nobody_turns_it_on() {
    let mut snapshot = healthy();
    let template = &mut had(&mut snapshot.deployments)[0].spec.as_mut().unwrap().template;
    template.spec.as_mut().unwrap().containers[0].env = None;
    let found = assert_finds("MM0108", &snapshot, ISTIOD);
    assert!(found.evidence[1].contains("off by default"), "{found:#?}");
    // Of two revisions one is enough.
    assert_passes("MM0108", &two_revisions());
}

#[test]
fn pushes_that_arrive_late_are_found() {
    let with = |count: f64, soon: f64, timed_out: f64| {
        let mut snapshot = healthy();
        let metrics = had(&mut had(&mut snapshot.istiods)[1].metrics);
        metrics.insert("pilot_proxy_convergence_time_count".to_owned(), count);
        metrics.insert("pilot_proxy_convergence_time_bucket{le=10}".to_owned(), soon);
        metrics.insert("pilot_xds_write_timeout".to_owned(), timed_out);
        snapshot
    };
    for late in [with(1000.0, 900.0, 0.0), with(1000.0, 1000.0, 30.0)] {
        assert_finds("MM0106", &late, "Pod istio-system/istiod-5f6c-b");
    }
    for well in [with(1000.0, 995.0, 2.0), with(20.0, 1.0, 0.0)] {
        assert_passes("MM0106", &well);
    }
}
