// SPDX-License-Identifier: Apache-2.0
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::doctor::fixtures::{
    annotate, assert_finds, assert_passes, findings, had, healthy, namespace, object, pod, sidecar_pod,
};
use crate::doctor::snapshot::Snapshot;

const ORDERS: &str = "orders-7d4b-a";

/// A pod without a sidecar.
fn bare(of: &str, name: &str, labels: Value) -> Pod {
    pod(of, name, "node-a", "10.244.0.70", labels, ("StatefulSet", "bare"))
}

fn with_bare(of: &str, labels: Value) -> Snapshot {
    let mut snapshot = healthy();
    snapshot.add_pod(bare(of, "bare-0", labels));
    snapshot
}

#[test]
fn a_pod_that_is_to_have_a_sidecar_and_has_none_is_found() {
    let found = assert_finds("MM0801", &with_bare("legacy", json!({})), "Pod legacy/bare-0");
    assert_eq!(
        found.commands(),
        ["kubectl rollout restart -n legacy statefulset/bare"]
    );
    let by_label = with_bare("plain", json!({ "sidecar.istio.io/inject": "true" }));
    let found = assert_finds("MM0801", &by_label, "Pod plain/bare-0");
    assert_eq!(found.evidence[0], "it has the label sidecar.istio.io/inject=true");
}

#[test]
fn a_revision_that_nobody_injects_is_told() {
    let mut snapshot = with_bare("canary", json!({}));
    had(&mut snapshot.namespaces).push(namespace("canary", json!({ "istio.io/rev": "1-29" })));
    let found = assert_finds("MM0801", &snapshot, "Pod canary/bare-0");
    assert!(found.evidence[1].contains("no MutatingWebhookConfiguration injects revision 1-29"));
    had(&mut snapshot.mutating_webhooks)[0]
        .metadata
        .labels
        .as_mut()
        .unwrap()
        .insert("istio.io/tag".to_owned(), "1-29".to_owned());
    let found = assert_finds("MM0801", &snapshot, "Pod canary/bare-0");
    assert!(found.evidence[1].contains("the webhook is there"));
    let mut gone = with_bare("legacy", json!({}));
    had(&mut gone.mutating_webhooks).clear();
    let found = assert_finds("MM0801", &gone, "Pod legacy/bare-0");
    assert!(found.evidence[1].contains("injects revision default"));
}

#[test]
fn a_pod_that_is_to_have_no_sidecar_is_fine() {
    let mut host = with_bare("legacy", json!({}));
    host.with_pod("legacy", "bare-0", |pod| {
        pod.spec.as_mut().unwrap().host_network = Some(true)
    });
    let mut annotated = with_bare("legacy", json!({}));
    annotated.with_pod("legacy", "bare-0", |pod| {
        annotate(pod, "sidecar.istio.io/inject", "false")
    });
    let mut done = with_bare("legacy", json!({}));
    done.with_pod("legacy", "bare-0", |pod| {
        pod.status.as_mut().unwrap().phase = Some("Succeeded".to_owned())
    });
    let mut gateway = with_bare("legacy", json!({}));
    gateway.with_pod("legacy", "bare-0", |pod| {
        pod.spec.as_mut().unwrap().containers[0].name = "istio-proxy".to_owned();
    });
    let mut disabled = with_bare("plain", json!({ "sidecar.istio.io/inject": "true" }));
    disabled.with_namespace("plain", |namespace| {
        namespace
            .metadata
            .labels
            .as_mut()
            .unwrap()
            .insert("istio-injection".to_owned(), "disabled".to_owned());
    });
    let mut both = with_bare("shop", json!({ "istio.io/dataplane-mode": "none" }));
    both.with_namespace("shop", |namespace| {
        namespace
            .metadata
            .labels
            .as_mut()
            .unwrap()
            .insert("istio-injection".to_owned(), "enabled".to_owned());
    });
    for snapshot in [
        both,
        with_bare("plain", json!({})),
        with_bare("kube-system", json!({ "sidecar.istio.io/inject": "true" })),
        with_bare("legacy", json!({ "sidecar.istio.io/inject": "false" })),
        host,
        annotated,
        done,
        gateway,
        disabled,
    ] {
        assert_passes("MM0801", &snapshot);
    }
}

/// What the kubelet says of the sidecar, a native one.
fn native_status(status: Value) -> Snapshot {
    let mut snapshot = healthy();
    snapshot.with_pod("legacy", ORDERS, |pod| {
        pod.status.as_mut().unwrap().init_container_statuses = Some(vec![object(status)]);
    });
    snapshot
}

fn proxy_status(last: Value) -> Value {
    json!({ "name": "istio-proxy", "image": "", "imageID": "", "ready": true, "restartCount": 2,
        "state": { "running": {} }, "lastState": last })
}

#[test]
fn a_sidecar_killed_for_want_of_memory_is_found_and_given_twice_as_much() {
    let killed = json!({ "terminated": {
        "exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T20:00:00Z",
    } });
    let found = assert_finds(
        "MM0802",
        &native_status(proxy_status(killed)),
        &format!("Pod legacy/{ORDERS}"),
    );
    let commands = found.commands();
    assert!(commands[0].starts_with("kubectl patch deployment -n legacy orders -p '{"));
    assert!(commands[0].contains("\"sidecar.istio.io/proxyMemoryLimit\":\"2048Mi\""));
    assert!(commands[0].contains("\"sidecar.istio.io/proxyCPU\":\"100m\""));
    let patch = commands[0].split('\'').nth(1).unwrap();
    serde_json::from_str::<Value>(patch).unwrap();
}

#[test]
fn a_sidecar_that_ended_otherwise_is_fine() {
    let error = json!({ "terminated": { "exitCode": 1, "reason": "Error" } });
    assert_passes("MM0802", &native_status(proxy_status(error)));
    assert_passes("MM0802", &native_status(proxy_status(json!({}))));
    let long_ago = json!({ "terminated": {
        "exitCode": 137, "reason": "OOMKilled", "finishedAt": "2025-12-01T00:00:00Z",
    } });
    assert_passes("MM0802", &native_status(proxy_status(long_ago)));
    // The app is another's concern.
    let mut snapshot = healthy();
    snapshot.with_pod("legacy", ORDERS, |pod| {
        let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
        let killed = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
        statuses[0].last_state = Some(object(killed));
    });
    assert_passes("MM0802", &snapshot);
}

fn limited(limits: Value) -> Snapshot {
    let mut snapshot = healthy();
    snapshot.with_pod("legacy", ORDERS, |pod| {
        let sidecar = &mut pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[1];
        sidecar.resources = Some(object(json!({ "limits": limits })));
    });
    snapshot
}

#[test]
fn limits_that_no_sidecar_can_live_with_are_found() {
    let on = format!("Pod legacy/{ORDERS}");
    let found = assert_finds("MM0803", &limited(json!({ "cpu": "50m", "memory": "32Mi" })), &on);
    assert_eq!(
        found.evidence,
        [
            "its limit is 50m CPU, and 100m CPU is the least",
            "its limit is 32Mi, and 64Mi is the least",
        ]
    );
    for limits in [
        json!({ "cpu": "100m", "memory": "64Mi" }),
        json!({}),
        json!({ "cpu": "nonsense" }),
    ] {
        assert_passes("MM0803", &limited(limits));
    }
}

/// A sidecar among the containers, as it was before there were native ones.
fn classic(change: impl FnOnce(&mut Pod)) -> Snapshot {
    let mut snapshot = healthy();
    snapshot.with_pod("legacy", ORDERS, |pod| {
        let spec = pod.spec.as_mut().unwrap();
        let mut sidecar = spec.init_containers.take().unwrap().remove(1);
        sidecar.restart_policy = None;
        spec.containers.push(sidecar);
        let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
        let mut status: k8s_openapi::api::core::v1::ContainerStatus = object(proxy_status(json!({})));
        status.restart_count = 0;
        statuses.push(status);
        change(pod);
    });
    snapshot
}

/// The app failed once, at this time, with this code.
fn failed(pod: &mut Pod, at: &str, code: i32) {
    let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
    statuses[0].restart_count = 1;
    statuses[0].last_state = Some(object(
        json!({ "terminated": { "exitCode": code, "finishedAt": at } }),
    ));
}

const SOON: &str = "2026-01-01T00:00:05Z";

#[test]
fn an_app_that_started_too_early_is_found() {
    let snapshot = classic(|pod| failed(pod, SOON, 1));
    let found = assert_finds("MM0804", &snapshot, &format!("Pod legacy/{ORDERS}"));
    assert!(found.evidence[0].contains("container app ended with code 1"));
}

#[test]
fn an_app_that_waited_or_failed_later_is_fine() {
    let native = {
        let mut snapshot = healthy();
        snapshot.with_pod("legacy", ORDERS, |pod| failed(pod, SOON, 1));
        snapshot
    };
    let first = classic(|pod| {
        failed(pod, SOON, 1);
        pod.spec.as_mut().unwrap().containers.reverse();
    });
    let annotated = classic(|pod| {
        failed(pod, SOON, 1);
        annotate(
            pod,
            "proxy.istio.io/config",
            "{\"holdApplicationUntilProxyStarts\": true}",
        );
    });
    let mut by_mesh = classic(|pod| failed(pod, SOON, 1));
    had(&mut by_mesh.mesh_config).hold_application_until_proxy_starts = Some(true);
    let often = classic(|pod| {
        failed(pod, SOON, 1);
        let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
        statuses[0].restart_count = 12;
    });
    for snapshot in [
        native,
        first,
        annotated,
        by_mesh,
        often,
        classic(|_| ()),
        classic(|pod| failed(pod, "2026-01-01T00:05:00Z", 1)),
        classic(|pod| failed(pod, SOON, 0)),
    ] {
        assert_passes("MM0804", &snapshot);
    }
}

/// The classic sidecar in a pod of a Job, whose app is in this state.
fn job(state: Value) -> Snapshot {
    classic(|pod| {
        let owner = &mut pod.metadata.owner_references.as_mut().unwrap()[0];
        (owner.kind, owner.name) = ("Job".to_owned(), "nightly".to_owned());
        pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].state = Some(object(state));
    })
}

#[test]
fn a_job_that_is_done_but_for_its_sidecar_is_found() {
    let ended = || json!({ "terminated": { "exitCode": 0 } });
    let found = assert_finds("MM0805", &job(ended()), &format!("Pod legacy/{ORDERS}"));
    assert!(found.commands()[0].ends_with("POST quitquitquit"));
    assert_passes("MM0805", &job(json!({ "running": {} })));
    // A native sidecar ends by itself, and no Job is to end but a Job.
    let mut native = healthy();
    native.with_pod("legacy", ORDERS, |pod| {
        pod.metadata.owner_references.as_mut().unwrap()[0].kind = "Job".to_owned();
        let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
        statuses[0].state = Some(object(ended()));
    });
    let not_a_job = classic(|pod| {
        pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].state = Some(object(ended()));
    });
    for snapshot in [native, not_a_job] {
        assert_passes("MM0805", &snapshot);
    }
}

#[test]
fn sidecars_that_ask_for_more_than_ztunnels_would_are_counted() {
    let mut snapshot = healthy();
    for number in 0..17 {
        let mut one = sidecar_pod(
            "legacy",
            "orders",
            "node-b",
            &format!("10.244.1.{}", 100 + number),
        );
        one.metadata.name = Some(format!("orders-{number}"));
        snapshot.add_pod(one);
    }
    let found = assert_finds("MM0806", &snapshot, "Mesh istio-system");
    assert_eq!(
        found.evidence,
        [
            "20 sidecars ask for 2000m CPU and 2560Mi together",
            "a ztunnel on each of 3 nodes would ask for 600m CPU and 1536Mi (200m CPU and 512Mi each)",
        ]
    );
    // As many more nodes, and ambient asks for more.
    let nodes = had(&mut snapshot.nodes);
    let more: Vec<_> = nodes.iter().cycle().take(12).cloned().collect();
    nodes.extend(more);
    assert_passes("MM0806", &snapshot);
    let mut none = healthy();
    none.drop_pods(|pod| pod.metadata.namespace.as_deref() == Some("legacy"));
    assert_eq!(findings("MM0806", &none), []);
}
