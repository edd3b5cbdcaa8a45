// SPDX-License-Identifier: Apache-2.0
use serde_json::{Value, json};

use crate::doctor::fixtures::{assert_finds, assert_passes, had, healthy, object};
use crate::doctor::snapshot::Snapshot;

fn with_container(name: &str) -> Snapshot {
    let mut snapshot = healthy();
    snapshot.with_pod("legacy", "orders-7d4b-a", |pod| {
        pod.spec
            .as_mut()
            .unwrap()
            .containers
            .push(object(json!({ "name": name, "image": "x" })));
    });
    snapshot
}

#[test]
fn two_proxies_in_one_pod_are_found() {
    for name in ["linkerd-proxy", "istio-proxy", "istio-proxy-2", "kuma-sidecar"] {
        assert_finds("MM1701", &with_container(name), "Pod legacy/orders-7d4b-a");
    }
    for name in ["istio-proxy-config", "cloud-sql-proxy", "oauth2-proxy"] {
        assert_passes("MM1701", &with_container(name));
    }
}

/// A second injector of Istio with this selector of namespaces.
fn second(name: &str, labels: Value, selector: Value) -> Snapshot {
    let mut snapshot = healthy();
    had(&mut snapshot.mutating_webhooks).push(object(json!({
        "metadata": { "name": name, "labels": labels },
        "webhooks": [{
            "name": "rev.namespace.sidecar-injector.istio.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {}, "namespaceSelector": selector,
        }],
    })));
    snapshot
}

#[test]
fn two_injectors_of_one_namespace_are_found() {
    let ours = json!({ "app": "sidecar-injector", "istio.io/rev": "1-30" });
    let injected = json!({ "matchExpressions": [{ "key": "istio-injection", "operator": "In", "values": ["enabled"] }] });
    let revised = json!({ "matchExpressions": [
        { "key": "istio.io/rev", "operator": "In", "values": ["1-30"] },
        { "key": "istio-injection", "operator": "DoesNotExist" },
    ] });
    let found = assert_finds(
        "MM1702",
        &second("istio-sidecar-injector-1-30", ours.clone(), injected.clone()),
        "Namespace legacy",
    );
    assert!(
        found.evidence[0].contains("istio-sidecar-injector-1-30"),
        "{found:#?}"
    );
    assert_passes("MM1702", &second("istio-sidecar-injector-1-30", ours, revised));
    // Of another vendor, whatever it selects.
    assert_passes(
        "MM1702",
        &second("vault-agent-injector", json!({ "app": "vault" }), injected),
    );
}

#[test]
fn releases_with_known_holes_are_found_once_for_each_workload() {
    let of = |tag: &str| {
        let mut snapshot = healthy();
        for letter in ["a", "b", "c"] {
            snapshot.with_pod("istio-system", &format!("ztunnel-{letter}"), |pod| {
                pod.spec.as_mut().unwrap().containers[0].image =
                    Some(format!("docker.io/istio/ztunnel:{tag}"));
            });
        }
        snapshot
    };
    for (tag, closed) in [
        ("1.30.3", "1.30.4"),
        ("1.29.8-distroless", "1.29.9"),
        ("1.27.0", "1.27.1"),
        ("v1.28.9", "1.28.10"),
    ] {
        let found = assert_finds("MM1703", &of(tag), "Pod istio-system/ztunnel-a");
        assert!(found.evidence[0].ends_with(closed), "{found:#?}");
    }
    for tag in [
        "1.30.4",
        "1.30.7",
        "1.29.9",
        "1.28.10",
        "1.31.0",
        "1.30.0-rc.1",
        "latest",
        "1.32-alpha.0",
    ] {
        assert_passes("MM1703", &of(tag));
    }
}

#[test]
fn an_injector_that_passes_over_all_pods_of_a_namespace_is_no_second() {
    let labels = json!({ "app": "sidecar-injector", "istio.io/rev": "1-30" });
    let injected = json!({ "matchLabels": { "istio-injection": "enabled" } });
    let mut snapshot = second("istio-sidecar-injector-1-30", labels, injected);
    assert_finds("MM1702", &snapshot, "Namespace legacy");
    let hook = &mut had(&mut snapshot.mutating_webhooks)[1].webhooks.as_mut().unwrap()[0];
    hook.object_selector = Some(object(json!({ "matchLabels": { "istio.io/rev": "1-30" } })));
    assert_passes("MM1702", &snapshot);
}

#[test]
fn a_pod_that_has_ended_has_no_holes() {
    let mut snapshot = healthy();
    snapshot.with_pod("legacy", "orders-7d4b-a", |pod| {
        for container in pod.spec.as_mut().unwrap().init_containers.iter_mut().flatten() {
            container.image = Some("docker.io/istio/proxyv2:1.28.9".to_owned());
        }
    });
    assert_finds("MM1703", &snapshot, "Pod legacy/orders-7d4b-a");
    snapshot.with_pod("legacy", "orders-7d4b-a", |pod| {
        pod.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
    });
    assert_passes("MM1703", &snapshot);
}
