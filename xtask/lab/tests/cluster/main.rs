// SPDX-License-Identifier: Apache-2.0
//! A cluster of the lab does what a real one does with its pods.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod istio_cni;
mod real_istio_cni;

use std::time::Duration;

use meshmedic_lab::{Cluster, ClusterSpec, need, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const REDIRECTION: &str = "ambient.istio.io/redirection";

fn start(nodes: usize) -> Cluster {
    let spec = ClusterSpec {
        nodes,
        ..ClusterSpec::default()
    };
    let cluster = Cluster::start(spec).unwrap();
    cluster.namespace("shop", true).unwrap();
    cluster
}

#[test]
fn an_orphan_is_replaced_by_a_captured_pod() {
    if !need::root("an_orphan_is_replaced_by_a_captured_pod") {
        return;
    }
    let cluster = start(1);
    cluster.deployment("shop", "cart", 2).unwrap();
    let pods = cluster.wait_captured("shop", "cart", 2).unwrap();
    let object = cluster.api().get("pods", "shop", pods[0].name()).unwrap();
    assert_eq!(object["metadata"]["uid"], pods[0].uid());
    assert_eq!(object["status"]["podIP"], pods[0].addresses()[0].to_string());
    let owner = &object["metadata"]["ownerReferences"][0];
    assert_eq!(owner["kind"], "ReplicaSet");
    let set = cluster
        .api()
        .get("replicasets", "shop", owner["name"].as_str().unwrap())
        .unwrap();
    assert_eq!(set["metadata"]["ownerReferences"][0]["kind"], "Deployment");

    cluster.orphan(&pods[0]).unwrap();
    assert!(!cluster.is_captured(&pods[0]) && cluster.is_captured(&pods[1]));
    let object = cluster.api().get("pods", "shop", pods[0].name()).unwrap();
    assert_eq!(object["metadata"]["annotations"][REDIRECTION], "enabled");

    cluster.api().evict("shop", pods[0].name(), &Value::Null).unwrap();
    cluster.wait_gone(&pods[0]).unwrap();
    let after = cluster.wait_captured("shop", "cart", 2).unwrap();
    assert!(after.iter().all(|pod| pod.uid() != pods[0].uid()));
    assert!(after.iter().any(|pod| pod.uid() == pods[1].uid()));
}

#[test]
fn a_label_takes_a_pod_out_and_back_in() {
    if !need::root("a_label_takes_a_pod_out_and_back_in") {
        return;
    }
    let cluster = start(1);
    cluster.stateful_set("shop", "db", 1).unwrap();
    let pod = cluster.wait_captured("shop", "db", 1).unwrap().remove(0);
    assert_eq!(pod.name(), "db-0");
    cluster.orphan(&pod).unwrap();
    let label = |value: Value| {
        let patch = json!({ "metadata": { "labels": { "istio.io/dataplane-mode": value } } });
        cluster.api().patch("pods", "shop", "db-0", &patch).unwrap();
    };
    label("none".into());
    wait::until("the annotation to go", SOON, || {
        let pod = cluster.api().get("pods", "shop", "db-0").unwrap();
        pod["metadata"]["annotations"][REDIRECTION].is_null()
    })
    .unwrap();
    label(Value::Null);
    let again = cluster.wait_captured("shop", "db", 1).unwrap();
    assert_eq!(again[0].uid(), pod.uid());
}

#[test]
fn what_can_go_wrong_goes_wrong_on_demand() {
    if !need::root("what_can_go_wrong_goes_wrong_on_demand") {
        return;
    }
    let cluster = start(2);
    cluster.schedule_on(Some("node-b"));
    cluster.deployment("shop", "cart", 1).unwrap();
    let first = cluster.wait_captured("shop", "cart", 1).unwrap().remove(0);
    assert_eq!(cluster.node_of(&first).unwrap().name(), "node-b");

    // The successor is annotated, and ztunnel never hears of it.
    cluster.lose_enrolments(1);
    cluster.api().delete("pods", "shop", first.name()).unwrap();
    cluster.wait_gone(&first).unwrap();
    let second = cluster.wait_ready("shop", "cart", 1).unwrap().remove(0);
    wait::until("the annotation", SOON, || {
        let pod = cluster.api().get("pods", "shop", second.name()).unwrap();
        pod["metadata"]["annotations"][REDIRECTION] == "enabled"
    })
    .unwrap();
    assert!(!cluster.is_captured(&second));

    cluster.set_ready(&second, false).unwrap();
    cluster.set_ready(&second, true).unwrap();
    cluster.kill_ztunnel("node-b").unwrap();
    cluster.start_ztunnel("node-b").unwrap();
    cluster.set_cni_ready("node-a", false).unwrap();
    cluster.set_istiod_ready(false).unwrap();
    let slices = cluster.api().list("endpointslices", "istio-system").unwrap();
    assert_eq!(slices[0]["endpoints"][0]["conditions"]["ready"], false);

    // A new ztunnel pod is told of everything.
    let old = cluster.node("node-b").unwrap().ztunnel().unwrap();
    cluster.api().delete("pods", "istio-system", old.name()).unwrap();
    let third = cluster.wait_captured("shop", "cart", 1).unwrap();
    assert_eq!(third[0].uid(), second.uid());
    wait::until("the old ztunnel's end", SOON, || !old.is_running()).unwrap();

    cluster.hold_terminations(true);
    cluster.api().delete("pods", "shop", second.name()).unwrap();
    cluster.wait_captured("shop", "cart", 1).unwrap();
    assert!(
        cluster
            .api()
            .find("pods", "shop", second.name())
            .unwrap()
            .is_some()
    );
    cluster.hold_terminations(false);
    cluster.wait_gone(&second).unwrap();
}

#[test]
fn a_static_pod_has_a_mirror() {
    if !need::root("a_static_pod_has_a_mirror") {
        return;
    }
    let cluster = start(1);
    let pod = cluster.static_pod("shop", "static", "node-a").unwrap();
    let mirror = cluster.api().get("pods", "shop", "static").unwrap();
    let annotations = &mirror["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.hash"], pod.cgroup_uid());
    assert_eq!(mirror["metadata"]["uid"], pod.uid());
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");
    let bare = cluster.bare_pod("shop", "bare", "node-a").unwrap();
    cluster.set_cni(false);
    cluster.api().delete("pods", "shop", "bare").unwrap();
    cluster.wait_gone(&bare).unwrap();
    assert_eq!(cluster.daemon_set("shop", "log").unwrap().len(), 1);
}
