// SPDX-License-Identifier: Apache-2.0
//! What the agents do about a pod outside the mesh: in place, and where that is not allowed by a real eviction.

use serde_json::{Value, json};

use super::mesh::{Mesh, Pod, REDIRECTION, Write};

#[test]
#[ignore = "a whole node: `cargo xtask cluster build`, then `cargo xtask test --real`"]
fn a_node_heals_pods_in_place_and_evicts_what_it_may_not_heal() {
    let mesh = Mesh::start();
    mesh.application("mart", "till", 2);
    mesh.application("mart", "shelf", 2);
    let pods = mesh.captured("mart", 4);
    mesh.settled();
    mesh.say("four pods are enrolled, and the agent has settled");

    a_healthy_pod_that_is_asked_for_keeps_its_rules(&mesh, &pods[0]);
    a_single_loss(&mesh, &pods[1]);
    rules_flushed(&mesh, &pods[0]);
    if mesh.forgets() {
        let replaced = a_stale_cache(&mesh, &pods[2]);
        a_stalled_pod(&mesh, &pods[3]);
        mesh.assert_untouched(&[replaced]);
    } else {
        a_sandbox_that_istio_cni_finds_itself(&mesh, &pods[2]);
    }
    mesh.assert_untouched(&[pods[0].clone(), pods[1].clone()]);
    mesh.assert_no_restart();

    evictions(&mesh);
}

/// A person asks istio-cni for a pod that is well.
fn a_healthy_pod_that_is_asked_for_keeps_its_rules(mesh: &Mesh, pod: &Pod) {
    let (netns, rules) = (mesh.netns(pod), mesh.rules(pod));
    assert!(rules > 0);
    set_redirection(mesh, pod, "pending");
    mesh.until("istio-cni to have answered", || {
        assert_eq!(mesh.count_captured(std::slice::from_ref(pod)), 1, "it was let go");
        mesh.again(pod).redirection == "enabled"
    });
    assert_eq!((mesh.netns(pod), mesh.rules(pod)), (netns, rules));
    mesh.until("the agent to have seen it", || mesh.state(pod) == "captured");
    assert_eq!(mesh.asks(), 0, "the agent asked for a pod that was well");
    mesh.say("a healthy pod was asked for by mistake: its rules and listeners stayed");
}

fn a_single_loss(mesh: &Mesh, pod: &Pod) {
    let netns = mesh.netns(pod);
    let before = mesh.asks_for(pod);
    mesh.orphan(pod);
    mesh.say("a pod is outside the mesh");
    healed(mesh, pod);
    mesh.say("and back, by its own agent");
    assert_eq!(mesh.netns(pod), netns);
    assert_eq!(mesh.asks_for(pod) - before, 1);
    let scan = mesh.meshmedic(&["scan", "--namespace", "mart"]);
    assert_eq!(scan.status.code(), Some(0), "{scan:?}");
}

/// Its listeners stay: only the kernel shows that its traffic goes past them.
fn rules_flushed(mesh: &Mesh, pod: &Pod) {
    let (before, rules) = (mesh.asks_for(pod), mesh.rules(pod));
    assert_eq!(connection(mesh, pod), (Some(0), "proved".to_owned()));
    mesh.say("ztunnel took a connection to the API that was opened in a pod");
    let pause = ["pause", "--reason", "a look at what is lost"];
    assert!(mesh.meshmedic(&pause).status.success());
    mesh.flush(pod);
    mesh.say("a pod's rules are gone, its listeners are not");
    assert_eq!(connection(mesh, pod), (Some(1), "disproved".to_owned()));
    mesh.say("such a connection goes past ztunnel");
    assert!(mesh.meshmedic(&["resume"]).status.success());
    mesh.until("its rules to be back", || mesh.rules(pod) == rules);
    mesh.say("its rules are back");
    mesh.until("the agent to have proved it", || mesh.state(pod) == "captured");
    assert_eq!(mesh.asks_for(pod) - before, 1);
}

/// What `prove --active` ends with, and says of the connection.
fn connection(mesh: &Mesh, pod: &Pod) -> (Option<i32>, String) {
    let name = format!("{}/{}", pod.namespace, pod.name);
    let output = mesh.meshmedic(&["prove", &name, "--active", "-o", "json"]);
    let proof: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let mut legs = proof["legs"].as_array().into_iter().flatten();
    let leg = legs.find(|leg| leg["leg"] == "connection");
    let leg = leg.unwrap_or_else(|| panic!("no connection was opened: {proof:#}"));
    println!("{leg:#}");
    (
        output.status.code(),
        leg["verdict"].as_str().unwrap_or_default().to_owned(),
    )
}

/// istio-cni remembers the sandbox before, so the first ask fails and costs it that memory.
fn a_stale_cache(mesh: &Mesh, pod: &Pod) -> Pod {
    let before = mesh.asks_for(pod);
    let now = mesh.replace_sandbox(pod);
    mesh.say("a sandbox was replaced past istio-cni");
    healed(mesh, &now);
    mesh.say("and the pod is back");
    assert!(mesh.rules(&now) > 0);
    let asks = mesh.asks_for(pod) - before;
    assert!((1..=2).contains(&asks), "{asks} asks");
    now
}

/// The agent waits, and asks for nothing.
fn a_sandbox_that_istio_cni_finds_itself(mesh: &Mesh, pod: &Pod) {
    let before = mesh.asks_for(pod);
    let now = mesh.replace_sandbox(pod);
    mesh.say("a sandbox was replaced past istio-cni");
    healed(mesh, &now);
    assert!(mesh.rules(&now) > 0);
    assert_eq!(mesh.asks_for(pod), before, "the agent asked");
    mesh.say("and this istio-cni took the pod in by itself");
}

/// Someone else's ask failed, and istio-cni will not try again by itself.
fn a_stalled_pod(mesh: &Mesh, pod: &Pod) {
    let pause = ["pause", "--reason", "a scene"];
    assert!(mesh.meshmedic(&pause).status.success());
    let now = mesh.replace_sandbox(pod);
    let before = mesh.asks_for(pod);
    set_redirection(mesh, &now, "pending");
    mesh.until("the pod to be stalled", || mesh.state(&now) == "stalled");
    mesh.say("a pod is stalled: istio-cni does not try any more");
    assert_eq!(
        mesh.asks_for(pod),
        before,
        "the agent asked while repairs were paused"
    );
    assert!(mesh.meshmedic(&["resume"]).status.success());
    healed(mesh, &now);
    mesh.say("and back");
    mesh.assert_untouched(&[now]);
}

/// Where healing is not allowed, the pod is restarted: as its disruption budget lets it.
fn evictions(mesh: &Mesh) {
    mesh.set_agents("MESHMEDIC_STRATEGY=restart");
    mesh.application("post", "stamp", 2);
    let pods = mesh.captured("post", 2);
    budget(mesh, 2);
    mesh.settled();
    mesh.say("agents may restart and not heal, and a budget forbids it");

    let asks = mesh.asks();
    mesh.orphan(&pods[0]);
    let refused = |write: &Write| write.object_ref.subresource == "eviction" && !write.is_done();
    mesh.until("an eviction to be refused", || mesh.writes().iter().any(refused));
    assert!(
        !mesh
            .writes()
            .iter()
            .any(|write| write.is_eviction() && write.is_done())
    );
    mesh.assert_untouched(&pods);
    mesh.say("the API server refused the eviction, and the pod stays");

    budget(mesh, 1);
    mesh.until("the pod to be gone", || {
        mesh.pods("post").iter().all(|pod| pod.uid != pods[0].uid)
    });
    mesh.say("the budget allows one, and the pod is evicted");
    let after = mesh.captured("post", 2);
    assert!(after.iter().any(|pod| pod.uid == pods[1].uid));
    mesh.until("the proof of its successor", || {
        let reason = [
            "--field-selector",
            "reason=MeshRepairSucceeded",
            "--output",
            "name",
        ];
        !mesh
            .kubectl(&[&["--namespace", "post", "get", "events"][..], &reason].concat())
            .is_empty()
    });
    mesh.say("its successor is proved captured");
    let writes = mesh.writes();
    let evicted: Vec<&str> = writes
        .iter()
        .filter(|write| write.is_eviction() && write.is_done())
        .map(|write| write.object_ref.name.as_str())
        .collect();
    assert_eq!(evicted, [pods[0].name.as_str()]);
    // What no heal writes is seen where it is written.
    let lease = |write: &Write| write.object_ref.resource == "leases" && write.is_of_a_restart();
    assert!(writes.iter().any(lease));
    assert_eq!(mesh.asks(), asks);
}

fn budget(mesh: &Mesh, available: usize) {
    mesh.apply(&json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": "stamp", "namespace": "post" },
        "spec": { "minAvailable": available, "selector": { "matchLabels": { "app": "stamp" } } },
    }));
}

#[track_caller]
fn healed(mesh: &Mesh, pod: &Pod) {
    mesh.until(&format!("{} to be back in the mesh", pod.name), || {
        mesh.all_captured(&[mesh.again(pod)])
    });
    mesh.until("the agent to have proved it", || mesh.state(pod) == "captured");
}

fn set_redirection(mesh: &Mesh, pod: &Pod, value: &str) {
    let value = format!("{REDIRECTION}={value}");
    mesh.kubectl(&[
        "--namespace",
        &pod.namespace,
        "annotate",
        "pod",
        &pod.name,
        "--overwrite",
        &value,
    ]);
}
