// SPDX-License-Identifier: Apache-2.0
use k8s_openapi::api::core::v1::Pod;
use meshmedic_common::verdict::State;
use serde_json::json;

use crate::doctor::fixtures::{
    ambient_pod, annotate, assert_finds, assert_passes, assert_skipped, had, healthy, object, sidecar_pod,
};
use crate::doctor::snapshot::{Part, Snapshot};

const MODE: &str = "istio.io/dataplane-mode";
const REDIRECTION: &str = "ambient.istio.io/redirection";
const CART: &str = "Pod shop/cart-7d4b-a";

fn label(pod: &mut Pod, key: &str, value: &str) {
    pod.metadata
        .labels
        .get_or_insert_default()
        .insert(key.to_owned(), value.to_owned());
}

fn in_state(state: State) -> Snapshot {
    let mut snapshot = healthy();
    let pods = had(&mut snapshot.scan);
    pods.iter_mut()
        .find(|pod| pod.name == "cart-7d4b-a")
        .unwrap()
        .state = state;
    snapshot
}

#[test]
fn what_the_scan_finds_is_found_each_under_its_code() {
    let codes = ["MM0401", "MM0402", "MM0403", "MM0413", "MM0414"];
    for (state, found) in [
        (State::Orphan, Some("MM0401")),
        (State::Partial, Some("MM0402")),
        (State::Imposter, Some("MM0403")),
        (State::Bypassing, Some("MM0413")),
        (State::Stalled, Some("MM0414")),
        (State::Suspect, None),
        (State::Unverifiable, None),
        (State::Exempt, None),
    ] {
        let snapshot = in_state(state);
        for code in codes {
            if Some(code) == found {
                let finding = assert_finds(code, &snapshot, CART);
                assert_eq!(finding.workload.unwrap().to_string(), "Deployment shop/cart");
            } else {
                assert_passes(code, &snapshot);
            }
        }
    }
    let mut snapshot = healthy();
    snapshot.scan = Part::not_asked("it needs MeshMedic's agents");
    assert!(assert_skipped("MM0401", &snapshot).contains("agents"));
}

#[test]
fn listeners_without_routes_are_found() {
    let with = |redirection: &str| {
        let mut snapshot = healthy();
        let pods = had(&mut snapshot.scan);
        let pod = pods.iter_mut().find(|pod| pod.name == "cart-7d4b-a").unwrap();
        pod.redirection = Some(redirection.to_owned());
        snapshot
    };
    assert_finds("MM0404", &with("absent"), CART);
    assert_passes("MM0404", &with("unknown"));
    // An orphan has no routes either, and that is said already.
    let mut orphan = with("absent");
    had(&mut orphan.scan)
        .iter_mut()
        .for_each(|pod| pod.state = State::Orphan);
    assert_passes("MM0404", &orphan);
}

#[test]
fn a_pod_that_should_be_enrolled_and_is_not_is_found() {
    let mut snapshot = healthy();
    snapshot.with_pod("shop", "cart-7d4b-a", |pod| pod.metadata.annotations = None);
    let finding = assert_finds("MM0405", &snapshot, CART);
    assert!(finding.evidence[0].contains("on its namespace"), "{finding:?}");
    // A label on the pod counts too.
    let mut snapshot = healthy();
    let mut pod = ambient_pod("plain", "web", "node-a", "10.244.0.70");
    pod.metadata.annotations = None;
    label(&mut pod, MODE, "ambient");
    snapshot.add_pod(pod);
    assert!(assert_finds("MM0405", &snapshot, "Pod plain/web-7d4b-a").evidence[0].contains("on the pod"));
}

#[test]
fn whoever_need_not_or_cannot_yet_be_enrolled_is_left_in_peace() {
    let bare = |change: &dyn Fn(&mut Pod)| {
        let mut snapshot = healthy();
        snapshot.with_pod("shop", "cart-7d4b-a", |pod| {
            pod.metadata.annotations = None;
            change(pod);
        });
        snapshot
    };
    let changes: [&dyn Fn(&mut Pod); 6] = [
        &|pod| label(pod, MODE, "none"),
        &|pod| pod.spec.as_mut().unwrap().host_network = Some(true),
        &|pod| annotate(pod, "sidecar.istio.io/status", ""),
        &|pod| pod.status.as_mut().unwrap().phase = Some("Succeeded".to_owned()),
        &|pod| pod.metadata.deletion_timestamp = Some(object(json!("2026-01-01T23:59:59Z"))),
        &|pod| pod.metadata.creation_timestamp = Some(object(json!("2026-01-01T23:59:59Z"))),
    ];
    for (at, change) in changes.iter().enumerate() {
        let found = crate::doctor::fixtures::findings("MM0405", &bare(change));
        assert!(found.is_empty(), "{at}: {found:?}");
    }
    let mut snapshot = bare(&|_| {});
    snapshot.drop_pods(|pod| pod.metadata.name.as_deref() == Some("istio-cni-node-a"));
    assert_passes("MM0405", &snapshot);
}

#[test]
fn a_pending_enrolment_counts_when_it_lasts() {
    let mut snapshot = healthy();
    snapshot.with_pod("shop", "cart-7d4b-a", |pod| annotate(pod, REDIRECTION, "pending"));
    assert_finds("MM0406", &snapshot, CART);
    snapshot.with_pod("shop", "cart-7d4b-a", |pod| {
        pod.metadata.creation_timestamp = Some(object(json!("2026-01-01T23:58:00Z")));
    });
    assert_passes("MM0406", &snapshot);
}

#[test]
fn an_annotation_that_outlived_its_label_is_found() {
    let mut snapshot = healthy();
    snapshot.with_pod("shop", "cart-7d4b-a", |pod| label(pod, MODE, "none"));
    assert!(assert_finds("MM0407", &snapshot, CART).evidence[0].contains("none"));
    // A whole namespace that left.
    let mut snapshot = healthy();
    snapshot.with_namespace("till", |namespace| {
        namespace.metadata.labels.as_mut().unwrap().remove(MODE);
    });
    assert_eq!(crate::doctor::fixtures::findings("MM0407", &snapshot).len(), 3);
    // The label on the pod keeps it in.
    for node in ["a", "b", "c"] {
        snapshot.with_pod("till", &format!("pay-7d4b-{node}"), |pod| {
            label(pod, MODE, "ambient")
        });
    }
    assert_passes("MM0407", &snapshot);
}

#[test]
fn a_pod_with_both_is_found_and_one_with_a_sidecar_alone_is_not() {
    let mut snapshot = healthy();
    snapshot.with_pod("legacy", "orders-7d4b-a", |pod| {
        annotate(pod, REDIRECTION, "enabled")
    });
    assert_finds("MM0408", &snapshot, "Pod legacy/orders-7d4b-a");
    let mut snapshot = healthy();
    snapshot.add_pod(sidecar_pod("shop", "mixed", "node-a", "10.244.0.71"));
    assert_passes("MM0408", &snapshot);
    assert_passes("MM0405", &snapshot);
}

#[test]
fn a_namespace_that_asks_for_both_is_found() {
    let with = |value: &str| {
        let mut snapshot = healthy();
        snapshot.with_namespace("shop", |namespace| {
            let labels = namespace.metadata.labels.as_mut().unwrap();
            labels.insert("istio-injection".to_owned(), value.to_owned());
        });
        snapshot
    };
    assert_finds("MM0409", &with("enabled"), "Namespace shop");
    assert_passes("MM0409", &with("disabled"));
}

#[test]
fn what_a_toggle_left_is_found_and_nothing_else_says_it_again() {
    let mut snapshot = healthy();
    snapshot.with_pod("shop", "cart-7d4b-a", |pod| {
        label(pod, MODE, "none");
        annotate(pod, "meshmedic.io/toggle-restore", "absent");
    });
    assert_finds("MM0410", &snapshot, CART);
    assert_passes("MM0407", &snapshot);
    // Whoever opted out by hand meant it.
    let mut snapshot = healthy();
    snapshot.with_pod("shop", "cart-7d4b-a", |pod| {
        label(pod, MODE, "none");
        pod.metadata.annotations = None;
    });
    assert_passes("MM0410", &snapshot);
}

#[test]
fn a_pod_on_the_network_of_its_node_is_remarked_on() {
    let mut snapshot = healthy();
    let mut pod = ambient_pod("shop", "probe", "node-a", "192.168.0.10");
    pod.spec.as_mut().unwrap().host_network = Some(true);
    pod.metadata.annotations = None;
    snapshot.add_pod(pod);
    assert_finds("MM0411", &snapshot, "Pod shop/probe-7d4b-a");
    snapshot.with_pod("shop", "probe-7d4b-a", |pod| label(pod, MODE, "none"));
    assert_passes("MM0411", &snapshot);
    let mut snapshot = healthy();
    let mut pod = ambient_pod("plain", "probe", "node-a", "192.168.0.10");
    pod.spec.as_mut().unwrap().host_network = Some(true);
    pod.metadata.annotations = None;
    snapshot.add_pod(pod);
    assert_passes("MM0411", &snapshot);
}

#[test]
fn a_workload_on_tcp_is_found_if_it_is_enrolled() {
    let with = |name: &str, namespace: &str| {
        let mut snapshot = healthy();
        let dump = had(&mut had(&mut snapshot.ztunnels)[0].dump);
        let workload = &mut dump.workloads[0];
        workload.protocol = "TCP".to_owned();
        (workload.name, workload.namespace) = (name.to_owned(), namespace.to_owned());
        snapshot
    };
    assert_finds("MM0412", &with("cart-7d4b-a", "shop"), CART);
    assert_passes("MM0412", &with("orders-7d4b-a", "legacy"));
    assert_passes("MM0412", &with("gone", "shop"));
}

#[test]
fn a_revision_beside_ambient_mode_is_found_where_a_webhook_injects_it() {
    let with = |revision: &str| {
        let mut snapshot = healthy();
        snapshot.with_namespace("shop", |namespace| {
            let labels = namespace.metadata.labels.as_mut().unwrap();
            labels.insert("istio.io/rev".to_owned(), revision.to_owned());
        });
        let selector = json!({ "matchLabels": { "istio.io/rev": "canary" } });
        had(&mut snapshot.mutating_webhooks).push(object(json!({
            "metadata": { "name": "tag", "labels": {
                "app": "sidecar-injector", "istio.io/rev": "default", "istio.io/tag": "canary",
            } },
            "webhooks": [{
                "name": "rev.namespace.sidecar-injector.istio.io", "clientConfig": {}, "namespaceSelector": selector,
                "admissionReviewVersions": ["v1"], "sideEffects": "None",
            }],
        })));
        snapshot
    };
    let found = assert_finds("MM0409", &with("canary"), "Namespace shop");
    assert_eq!(found.commands(), ["kubectl label namespace shop istio.io/rev-"]);
    // A revision for waypoints alone.
    assert_passes("MM0409", &with("waypoints"));
}
