// SPDX-License-Identifier: Apache-2.0
//! The stand-in istio-cni does with an annotation what the real one was seen to do.

use meshmedic_lab::{Cluster, Pod, need, wait};
use serde_json::{Value, json};

use super::{REDIRECTION, SOON, start};

/// An annotation of somebody else's: a change that istio-cni's informer hears of.
pub(super) const OTHER: &str = "example.com/other";

pub(super) fn annotate(cluster: &Cluster, pod: &Pod, key: &str, value: Value) {
    let patch = json!({ "metadata": { "annotations": { key: value } } });
    let api = cluster.api();
    api.patch("pods/status", pod.namespace(), pod.name(), &patch)
        .unwrap();
}

/// Asks istio-cni to take a pod in again.
pub(super) fn ask(cluster: &Cluster, pod: &Pod) {
    annotate(cluster, pod, REDIRECTION, "pending".into());
}

fn annotation(cluster: &Cluster, pod: &Pod) -> String {
    let object = cluster.api().get("pods", pod.namespace(), pod.name()).unwrap();
    let value = &object["metadata"]["annotations"][REDIRECTION];
    value.as_str().unwrap_or_default().to_owned()
}

/// Waits for what the annotation says, and for whether the pod is captured.
#[track_caller]
pub(super) fn becomes(cluster: &Cluster, pod: &Pod, said: &str, captured: bool) {
    let what = format!("{pod:?} to be {said}, captured: {captured}");
    wait::until(&what, SOON, || {
        annotation(cluster, pod) == said && cluster.is_captured(pod) == captured
    })
    .unwrap();
}

/// Has istio-cni handle one more pod, and waits until it is done: what came before is done, too.
fn flush(cluster: &Cluster, probe: &Pod) {
    ask(cluster, probe);
    becomes(cluster, probe, "enabled", true);
}

fn pods(cluster: &Cluster, count: usize) -> Vec<Pod> {
    cluster.deployment("shop", "cart", count).unwrap();
    cluster.wait_captured("shop", "cart", count).unwrap()
}

#[test]
fn pending_takes_a_running_pod_in_again() {
    if !need::root("pending_takes_a_running_pod_in_again") {
        return;
    }
    let cluster = start(1);
    let pods = pods(&cluster, 2);
    let netns = pods[0].netns().unwrap();
    cluster.orphan(&pods[0]).unwrap();
    // What is said to be captured is not looked at, whatever else changes.
    annotate(&cluster, &pods[0], OTHER, "1".into());
    flush(&cluster, &pods[1]);
    assert!(!cluster.is_captured(&pods[0]));
    ask(&cluster, &pods[0]);
    becomes(&cluster, &pods[0], "enabled", true);
    assert_eq!(pods[0].netns().unwrap(), netns);
}

#[test]
fn a_stale_namespace_costs_the_first_ask() {
    if !need::root("a_stale_namespace_costs_the_first_ask") {
        return;
    }
    let cluster = start(1);
    let pods = pods(&cluster, 2);
    cluster.replace_sandbox(&pods[0]).unwrap();
    ask(&cluster, &pods[0]);
    flush(&cluster, &pods[1]);
    becomes(&cluster, &pods[0], "pending", false);
    // The same again is no change, and no event.
    ask(&cluster, &pods[0]);
    flush(&cluster, &pods[1]);
    becomes(&cluster, &pods[0], "pending", false);
    annotate(&cluster, &pods[0], OTHER, "2".into());
    becomes(&cluster, &pods[0], "enabled", true);
}

#[test]
fn ztunnel_is_believed() {
    if !need::root("ztunnel_is_believed") {
        return;
    }
    let cluster = start(1);
    let pods = pods(&cluster, 2);
    cluster.orphan_believed(&pods[0]).unwrap();
    ask(&cluster, &pods[0]);
    becomes(&cluster, &pods[0], "enabled", false);
    // Only letting it go first helps.
    let label = |value: Value| {
        let patch = json!({ "metadata": { "labels": { "istio.io/dataplane-mode": value } } });
        cluster
            .api()
            .patch("pods", "shop", pods[0].name(), &patch)
            .unwrap();
    };
    label("none".into());
    becomes(&cluster, &pods[0], "", false);
    label(Value::Null);
    becomes(&cluster, &pods[0], "enabled", true);
}

#[test]
fn what_a_scan_does_not_find_is_forgotten() {
    if !need::root("what_a_scan_does_not_find_is_forgotten") {
        return;
    }
    let cluster = start(1);
    let pods = pods(&cluster, 2);
    cluster.hide_from_cni(&pods[0]).unwrap();
    cluster.reboot("node-a").unwrap();
    ask(&cluster, &pods[0]);
    flush(&cluster, &pods[1]);
    becomes(&cluster, &pods[0], "pending", false);
}

#[test]
fn a_reboot_leaves_orphans_that_a_patch_or_a_restart_of_istio_cni_heals() {
    if !need::root("a_reboot_leaves_orphans_that_a_patch_or_a_restart_of_istio_cni_heals") {
        return;
    }
    let cluster = start(1);
    let pods = pods(&cluster, 3);
    cluster.reboot("node-a").unwrap();
    for pod in &pods {
        becomes(&cluster, pod, "enabled", false);
    }
    ask(&cluster, &pods[0]);
    becomes(&cluster, &pods[0], "enabled", true);
    assert!(!cluster.is_captured(&pods[1]));
    cluster.restart_cni("node-a").unwrap();
    for pod in &pods {
        becomes(&cluster, pod, "enabled", true);
    }
}

#[test]
fn without_ztunnel_the_rules_come_first() {
    if !need::root("without_ztunnel_the_rules_come_first") {
        return;
    }
    let cluster = start(1);
    let pods = pods(&cluster, 1);
    cluster.kill_ztunnel("node-a").unwrap();
    pods[0].set_redirected(false).unwrap();
    ask(&cluster, &pods[0]);
    wait::until("the rules to be there", SOON, || {
        let pid = pods[0].pid();
        let trie = std::fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).unwrap();
        trie.contains("Id 100")
    })
    .unwrap();
    becomes(&cluster, &pods[0], "pending", false);
    // It is tried again for ever.
    cluster.start_ztunnel("node-a").unwrap();
    becomes(&cluster, &pods[0], "enabled", true);
}

#[test]
fn a_restart_of_istio_cni_changes_nothing_for_who_is_captured() {
    if !need::root("a_restart_of_istio_cni_changes_nothing_for_who_is_captured") {
        return;
    }
    let cluster = start(1);
    let pods = pods(&cluster, 2);
    cluster.restart_cni("node-a").unwrap();
    assert!(pods.iter().all(|pod| cluster.is_captured(pod)));
    // Nobody who fell out of the cache is in the next snapshot.
    cluster.hide_from_cni(&pods[0]).unwrap();
    cluster.replace_sandbox(&pods[0]).unwrap();
    ask(&cluster, &pods[0]);
    flush(&cluster, &pods[1]);
    cluster.restart_cni("node-a").unwrap();
    becomes(&cluster, &pods[0], "pending", false);
    assert!(cluster.is_captured(&pods[1]));
}
