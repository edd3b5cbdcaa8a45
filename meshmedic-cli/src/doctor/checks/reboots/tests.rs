// SPDX-License-Identifier: Apache-2.0
use meshmedic_common::verdict::State;
use serde_json::json;

use crate::doctor::fixtures::{LONG_AGO, assert_finds, assert_passes, had, healthy, object};
use crate::doctor::snapshot::{Part, Snapshot};

/// A node came back at noon: its pods' containers are gone and start again, istio-cni a little later than they.
pub(in crate::doctor::checks) fn restarted(snapshot: &mut Snapshot, node: &str) {
    for pod in had(&mut snapshot.pods) {
        if pod.spec.as_ref().unwrap().node_name.as_deref() != Some(node) {
            continue;
        }
        let is_cni = pod
            .metadata
            .name
            .as_deref()
            .is_some_and(|name| name.starts_with("istio-cni"));
        let again = if is_cni {
            "2026-01-01T12:00:20Z"
        } else {
            "2026-01-01T12:00:05Z"
        };
        for status in pod
            .status
            .as_mut()
            .unwrap()
            .container_statuses
            .iter_mut()
            .flatten()
        {
            status.restart_count = 1;
            status.state = Some(object(json!({ "running": { "startedAt": again } })));
            status.last_state = Some(object(json!({ "terminated": {
                "exitCode": 255, "reason": "Unknown", "startedAt": LONG_AGO, "finishedAt": "2026-01-01T12:00:00Z",
            } })));
        }
    }
    // No agent runs, and nobody has looked.
    snapshot.scan = Part::not_asked("no agent runs here");
}

#[test]
fn settings_are_found_with_the_release_that_has_them() {
    let off = |key: &str, value: Option<&str>| {
        let mut snapshot = healthy();
        let config = had(&mut snapshot.cni_config);
        match value {
            Some(value) => drop(config.insert(key.to_owned(), value.to_owned())),
            None => drop(config.remove(key)),
        }
        snapshot
    };
    let on = "DaemonSet istio-system/istio-cni-node";
    for (code, key, since) in [
        ("MM1601", "ISTIO_OWNED_CNI_CONFIG", "1.27.0"),
        ("MM1602", "ENABLE_AMBIENT_DETECTION_RETRY", "1.28.4"),
        ("MM1603", "AMBIENT_RECONCILE_POD_RULES_ON_STARTUP", "1.25.0"),
    ] {
        for value in [Some("false"), None] {
            let found = assert_finds(code, &off(key, value), on);
            assert!(
                found
                    .evidence
                    .iter()
                    .any(|line| line.ends_with(&format!("since {since}"))),
                "{found:#?}"
            );
        }
        assert_passes(code, &off(key, Some("true")));
    }
    let mut newer = off("ISTIO_OWNED_CNI_CONFIG", None);
    assert_eq!(assert_finds("MM1601", &newer, on).evidence.len(), 2);
    release(&mut newer, "1.31.0");
    let found = assert_finds("MM1601", &newer, on);
    assert!(
        found.evidence[2].contains("no address yet"),
        "of 1.31 and later: {found:#?}"
    );
}

fn release(snapshot: &mut Snapshot, release: &str) {
    for letter in ["a", "b", "c"] {
        snapshot.with_pod("istio-system", &format!("istio-cni-node-{letter}"), |pod| {
            pod.spec.as_mut().unwrap().containers[0].image =
                Some(format!("docker.io/istio/install-cni:{release}"));
        });
    }
}

#[test]
fn an_older_release_is_told_to_upgrade_first() {
    let mut snapshot = healthy();
    had(&mut snapshot.cni_config).remove("ISTIO_OWNED_CNI_CONFIG");
    release(&mut snapshot, "1.26.4");
    let found = assert_finds("MM1601", &snapshot, "DaemonSet istio-system/istio-cni-node");
    assert!(
        format!("{:?}", found.remedy).contains("Bring Istio to 1.27.0 or later"),
        "{found:#?}"
    );
    assert!(
        !format!("{found:?}").contains("no address yet"),
        "that came later: {found:#?}"
    );
}

#[test]
fn a_standalone_plugin_owns_its_file_anyway() {
    let mut snapshot = healthy();
    let config = had(&mut snapshot.cni_config);
    config.remove("ISTIO_OWNED_CNI_CONFIG");
    config.insert("CHAINED_CNI_PLUGIN".to_owned(), "false".to_owned());
    assert_passes("MM1601", &snapshot);
}

#[test]
fn pods_that_came_back_before_istio_cni_are_found_where_nobody_looked() {
    let mut snapshot = healthy();
    restarted(&mut snapshot, "node-c");
    let found = assert_finds("MM1605", &snapshot, "Node node-c");
    assert!(
        found.evidence[0].contains("3 older pods") && found.evidence[0].contains("shop/cart-7d4b-c"),
        "{found:#?}"
    );
    let printed = format!("{:?}", found.remedy);
    assert!(
        printed.contains("istio-cni-node-c"),
        "the pod whose deletion helped on a real cluster: {printed}"
    );
}

#[test]
fn pods_that_somebody_saw_captured_are_not() {
    let mut snapshot = healthy();
    let seen = snapshot.scan.clone();
    restarted(&mut snapshot, "node-c");
    snapshot.scan = seen;
    assert_passes("MM1605", &snapshot);
}

#[test]
fn a_restart_of_istio_cni_alone_is_no_reboot() {
    let mut snapshot = healthy();
    restarted(&mut snapshot, "node-c");
    for pod in had(&mut snapshot.pods) {
        if pod.metadata.namespace.as_deref() != Some("istio-system") {
            for status in pod
                .status
                .as_mut()
                .unwrap()
                .container_statuses
                .iter_mut()
                .flatten()
            {
                // The app crashed once, long ago.
                status.last_state = Some(object(
                    json!({ "terminated": { "exitCode": 1, "reason": "Error" } }),
                ));
            }
        }
    }
    assert_passes("MM1605", &snapshot);
}

/// What the kubelet says of the containers of apps, changed after a reboot of node-c.
fn apps(change: impl Fn(&mut k8s_openapi::api::core::v1::Pod)) -> Snapshot {
    let mut snapshot = healthy();
    restarted(&mut snapshot, "node-c");
    let pods = had(&mut snapshot.pods).iter_mut();
    pods.filter(|pod| pod.metadata.namespace.as_deref() != Some("istio-system"))
        .for_each(change);
    snapshot
}

fn status(pod: &mut k8s_openapi::api::core::v1::Pod) -> &mut k8s_openapi::api::core::v1::ContainerStatus {
    &mut pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0]
}

#[test]
fn pods_that_are_new_or_came_after_istio_cni_are_not() {
    assert_finds("MM1605", &apps(|_| ()), "Node node-c");
    // Started once only.
    assert_passes("MM1605", &apps(|pod| status(pod).restart_count = 0));
    // Made a moment before it started.
    let young = |pod: &mut k8s_openapi::api::core::v1::Pod| {
        pod.metadata.creation_timestamp = Some(object(json!("2026-01-01T12:00:04Z")));
    };
    assert_passes("MM1605", &apps(young));
    let later = |pod: &mut k8s_openapi::api::core::v1::Pod| {
        status(pod).state = Some(object(
            json!({ "running": { "startedAt": "2026-01-01T12:00:30Z" } }),
        ));
    };
    assert_passes("MM1605", &apps(later));
}

#[test]
fn whoever_looked_and_could_not_tell_saw_nothing() {
    let mut snapshot = apps(|_| ());
    snapshot.scan = healthy().scan;
    for state in had(&mut snapshot.scan) {
        state.state = State::Unverifiable;
    }
    assert_finds("MM1605", &snapshot, "Node node-c");
}

#[test]
fn a_pod_with_the_rules_of_both_packet_filters_is_named() {
    let of = |ipv4: &str, ipv6: &str| {
        let mut snapshot = healthy();
        let found = had(&mut snapshot.scan)
            .iter_mut()
            .find(|one| one.name == "cart-7d4b-a");
        let rules = serde_json::from_value(json!({
            "verdict": "present",
            "ipv4": { "verdict": "present", "backend": ipv4, "hooks": [3, 4] },
            "ipv6": { "verdict": "present", "backend": ipv6, "hooks": [2, 3] },
        }));
        found.unwrap().rules = rules.unwrap();
        snapshot
    };
    for (ipv4, ipv6) in [("both", "nft"), ("nft", "both")] {
        let found = assert_finds("MM1606", &of(ipv4, ipv6), "Pod shop/cart-7d4b-a");
        assert!(
            found.evidence[0].contains("nf_tables and iptables' legacy tables"),
            "{found:#?}"
        );
    }
    assert_passes("MM1606", &of("nft", "nft"));
    let mut lost = of("both", "nft");
    let found = had(&mut lost.scan)
        .iter_mut()
        .find(|one| one.name == "cart-7d4b-a");
    found.unwrap().state = State::Orphan;
    assert_passes("MM1606", &lost);
}

#[test]
fn a_gate_that_stays_shut_or_comes_late_is_named() {
    let of = |containers: &[&str], state: serde_json::Value| {
        let mut snapshot = healthy();
        snapshot.with_pod("shop", "cart-7d4b-a", |pod| {
            let all = containers
                .iter()
                .map(|name| object(json!({ "name": name, "image": "any" })));
            pod.spec.as_mut().unwrap().init_containers = Some(all.collect());
            let status = json!({
                "name": "meshmedic-gate", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
            });
            pod.status.as_mut().unwrap().init_container_statuses = Some(vec![object(status)]);
        });
        snapshot
    };
    let ended = |code: i32| json!({ "terminated": { "exitCode": code } });
    let gate = "meshmedic-gate";
    let on = "Pod shop/cart-7d4b-a";
    assert_passes("MM1607", &of(&[gate, "migrate"], ended(0)));
    assert_passes("MM1607", &of(&["migrate"], ended(1)));
    let found = assert_finds("MM1607", &of(&[gate], ended(1)), on);
    assert!(found.problem.contains("waits in its gate"), "{found:#?}");
    let found = assert_finds("MM1607", &of(&["migrate", gate], ended(0)), on);
    assert!(found.problem.contains("not the first"), "{found:#?}");
    // For a while it may wait.
    let taken = healthy().taken;
    for (seconds, waits) in [(30, false), (90, true)] {
        let since = taken - jiff::SignedDuration::from_secs(seconds);
        let snapshot = of(&[gate], json!({ "running": { "startedAt": since.to_string() } }));
        if waits {
            assert_finds("MM1607", &snapshot, on);
        } else {
            assert_passes("MM1607", &snapshot);
        }
    }
}
