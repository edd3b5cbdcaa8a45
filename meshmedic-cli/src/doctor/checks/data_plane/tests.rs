// SPDX-License-Identifier: Apache-2.0
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::doctor::fixtures::{
    ambient_pod, annotate, assert_finds, assert_passes, findings, had, healthy, object, uid,
};
use crate::doctor::snapshot::{LogFacts, Sighting, Snapshot, ZtunnelDump};

fn not_ready(pod: &mut Pod) {
    let conditions = pod.status.as_mut().unwrap().conditions.as_mut().unwrap();
    conditions[0].status = "False".to_owned();
}

fn dump(snapshot: &mut Snapshot, at: usize) -> &mut ZtunnelDump {
    had(&mut had(&mut snapshot.ztunnels)[at].dump)
}

fn log(snapshot: &mut Snapshot, at: usize) -> &mut LogFacts {
    had(&mut had(&mut snapshot.ztunnels)[at].log)
}

fn sighting(count: u64, last: &str, sample: &str) -> Sighting {
    Sighting {
        count,
        last: last.parse().unwrap(),
        sample: sample.to_owned(),
    }
}

fn ended(reason: &str, restarts: i32, at: &str) -> k8s_openapi::api::core::v1::ContainerStatus {
    object(json!({
        "name": "app", "image": "", "imageID": "", "ready": true, "restartCount": restarts,
        "state": { "running": {} },
        "lastState": { "terminated": { "exitCode": 137, "reason": reason, "finishedAt": at } },
    }))
}

#[test]
fn a_node_without_a_ready_ztunnel_is_found() {
    let mut snapshot = healthy();
    snapshot.with_pod("istio-system", "ztunnel-b", not_ready);
    let finding = assert_finds("MM0201", &snapshot, "Node node-b");
    assert!(finding.evidence[0].contains("3 ambient pods"), "{finding:?}");
    snapshot.drop_pods(|pod| pod.metadata.name.as_deref() == Some("ztunnel-b"));
    assert!(
        assert_finds("MM0201", &snapshot, "Node node-b")
            .problem
            .contains("no ztunnel runs")
    );
}

#[test]
fn a_node_without_ambient_pods_needs_no_ztunnel() {
    let mut snapshot = healthy();
    snapshot.drop_pods(|pod| {
        let on_b = pod.spec.as_ref().unwrap().node_name.as_deref() == Some("node-b");
        let namespace = pod.metadata.namespace.as_deref();
        on_b && (matches!(namespace, Some("shop" | "till"))
            || pod.metadata.name.as_deref() == Some("ztunnel-b"))
    });
    assert_passes("MM0201", &snapshot);
}

#[test]
fn while_one_ztunnel_replaces_another_nothing_is_wrong() {
    let mut snapshot = healthy();
    let mut second = had(&mut snapshot.pods)[0].clone();
    assert_eq!(second.metadata.name.as_deref(), Some("ztunnel-a"));
    second.metadata.name = Some("ztunnel-new".to_owned());
    not_ready(&mut second);
    snapshot.add_pod(second);
    assert_passes("MM0201", &snapshot);
}

#[test]
fn a_node_without_a_ready_istio_cni_is_found() {
    let mut snapshot = healthy();
    snapshot.with_pod("istio-system", "istio-cni-node-c", not_ready);
    assert_finds("MM0202", &snapshot, "Node node-c");
    assert_passes("MM0201", &snapshot);
    // Where it goes by another name nothing can be said.
    snapshot.drop_pods(|pod| {
        pod.metadata
            .name
            .as_deref()
            .is_some_and(|name| name.starts_with("istio-cni"))
    });
    assert_eq!(findings("MM0202", &snapshot).len(), 3);
    had(&mut snapshot.daemon_sets).remove(0);
    assert_passes("MM0202", &snapshot);
}

#[test]
fn a_ztunnel_that_ran_out_of_memory_is_found_once() {
    let mut snapshot = healthy();
    snapshot.with_pod("istio-system", "ztunnel-a", |pod| {
        pod.status.as_mut().unwrap().container_statuses =
            Some(vec![ended("OOMKilled", 5, "2026-01-01T23:50:00Z")]);
    });
    assert_finds("MM0203", &snapshot, "Pod istio-system/ztunnel-a");
    assert_passes("MM0204", &snapshot);
}

#[test]
fn restarts_count_when_they_are_many_and_recent() {
    let with = |restarts, at| {
        let mut snapshot = healthy();
        snapshot.with_pod("istio-system", "istio-cni-node-a", |pod| {
            pod.status.as_mut().unwrap().container_statuses = Some(vec![ended("Error", restarts, at)]);
        });
        snapshot
    };
    let many = with(5, "2026-01-01T23:50:00Z");
    assert_finds("MM0204", &many, "Pod istio-system/istio-cni-node-a");
    assert_passes("MM0203", &many);
    assert_passes("MM0204", &with(1, "2026-01-01T23:50:00Z"));
    assert_passes("MM0204", &with(50, "2026-01-01T20:00:00Z"));
}

#[test]
fn a_ztunnel_that_cannot_reach_istiod_says_so_until_now() {
    let with = |count, last| {
        let mut snapshot = healthy();
        let seen = sighting(count, last, "XDS client connection error: deadline has elapsed");
        log(&mut snapshot, 1).events.insert("xds-failed".to_owned(), seen);
        snapshot
    };
    let finding = assert_finds(
        "MM0205",
        &with(40, "2026-01-01T23:59:50Z"),
        "Pod istio-system/ztunnel-b",
    );
    assert!(finding.evidence[0].contains("40 times"), "{finding:?}");
    assert_passes("MM0205", &with(40, "2026-01-01T23:50:00Z"));
    assert_passes("MM0205", &with(1, "2026-01-01T23:59:50Z"));
}

#[test]
fn certificates_that_end_soon_or_cannot_be_had_are_found() {
    let on = "Pod istio-system/ztunnel-c";
    for (expires, state, words) in [
        ("2026-01-01T23:00:00Z", "Available", "has expired"),
        ("2026-01-02T03:00:00Z", "Available", "near its end"),
        (
            "2026-01-02T12:00:00Z",
            "Unavailable: signing refused",
            "gives it no certificate",
        ),
    ] {
        let mut snapshot = healthy();
        let certificate = &mut dump(&mut snapshot, 2).certificates[0];
        certificate.expires = Some(expires.parse().unwrap());
        certificate.state = state.to_owned();
        let finding = assert_finds("MM0206", &snapshot, on);
        assert!(finding.problem.contains(words), "{finding:?}");
    }
    let mut snapshot = healthy();
    dump(&mut snapshot, 2).certificates.clear();
    assert!(
        assert_finds("MM0206", &snapshot, on)
            .problem
            .contains("holds no certificate")
    );
}

#[test]
fn a_certificate_that_is_half_over_or_on_its_way_is_well() {
    let mut snapshot = healthy();
    dump(&mut snapshot, 2).certificates[0].expires = Some("2026-01-02T06:00:00Z".parse().unwrap());
    assert_passes("MM0206", &snapshot);
    let certificate = &mut dump(&mut snapshot, 2).certificates[0];
    (certificate.state, certificate.expires) = ("Initializing".to_owned(), None);
    assert_passes("MM0206", &snapshot);
    // Whoever serves nobody needs none.
    let idle = dump(&mut snapshot, 2);
    idle.certificates.clear();
    idle.proxies.clear();
    assert_passes("MM0206", &snapshot);
}

#[test]
fn a_ztunnel_that_knows_nobody_is_found() {
    let mut snapshot = healthy();
    dump(&mut snapshot, 0).workloads_known = 0;
    assert_finds("MM0207", &snapshot, "Pod istio-system/ztunnel-a");
    dump(&mut snapshot, 0).workloads_known = 1;
    assert_passes("MM0207", &snapshot);
}

#[test]
fn a_proxy_that_stays_pending_is_found_with_what_the_log_says() {
    let mut snapshot = healthy();
    let pod = uid("shop", "cart-7d4b-a");
    dump(&mut snapshot, 0)
        .proxies
        .insert(pod.clone(), "Pending".to_owned());
    let why = "failed to start proxy: Bind([::]:15008, Os { code: 98, kind: AddrInUse })";
    log(&mut snapshot, 0)
        .start_failures
        .insert(pod, sighting(12, "2026-01-01T23:59:59Z", why));
    let finding = assert_finds("MM0208", &snapshot, "Pod shop/cart-7d4b-a");
    assert!(finding.evidence[1].contains("12 times"), "{finding:?}");
    assert!(
        format!("{:?}", finding.remedy).contains("use another"),
        "{finding:?}"
    );
}

#[test]
fn a_proxy_of_a_new_pod_may_be_pending() {
    let mut snapshot = healthy();
    dump(&mut snapshot, 0)
        .proxies
        .insert(uid("shop", "cart-7d4b-a"), "Pending".to_owned());
    snapshot.with_pod("shop", "cart-7d4b-a", |pod| {
        pod.metadata.creation_timestamp = Some(object(json!("2026-01-01T23:59:30Z")));
    });
    assert_passes("MM0208", &snapshot);
}

#[test]
fn a_pod_that_its_ztunnel_does_not_serve_is_found() {
    let mut snapshot = healthy();
    dump(&mut snapshot, 0).proxies.remove(&uid("shop", "cart-7d4b-a"));
    let finding = assert_finds("MM0209", &snapshot, "Pod shop/cart-7d4b-a");
    assert_eq!(finding.workload.unwrap().to_string(), "Deployment shop/cart");
}

#[test]
fn a_pod_of_another_node_or_just_made_or_not_enrolled_is_not_missed() {
    let mut snapshot = healthy();
    let mut new = ambient_pod("shop", "new", "node-a", "10.244.0.50");
    new.metadata.creation_timestamp = Some(object(json!("2026-01-01T23:59:30Z")));
    snapshot.add_pod(new);
    let mut pending = ambient_pod("shop", "late", "node-a", "10.244.0.51");
    annotate(&mut pending, "ambient.istio.io/redirection", "pending");
    snapshot.add_pod(pending);
    assert_passes("MM0209", &snapshot);
    // While ztunnel is replaced, the dump is of one that lets go.
    dump(&mut snapshot, 0).proxies.clear();
    snapshot.with_pod("istio-system", "ztunnel-a", not_ready);
    assert_passes("MM0209", &snapshot);
}
