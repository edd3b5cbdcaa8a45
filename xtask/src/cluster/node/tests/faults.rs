// SPDX-License-Identifier: Apache-2.0
//! What fails beside the pods: agents wait, do no harm, and mend what is left to mend.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::mesh::Mesh;

/// How long the API server is away.
const OUTAGE: Duration = Duration::from_secs(120);

#[test]
#[ignore = "a whole node: `cargo xtask cluster build`, then `cargo xtask test --real`"]
fn a_node_keeps_its_pods_while_others_fail() {
    let mesh = Mesh::start();
    for name in ["till", "shelf", "stamp"] {
        mesh.application("mart", name, 3);
    }
    let pods = mesh.captured("mart", 9);
    mesh.settled();
    mesh.say("nine pods are enrolled, and the agent has settled");

    ztunnel_killed(&mesh);
    ztunnel_away(&mesh);
    istio_cni_killed_in_the_middle(&mesh);
    kubelet_killed(&mesh);
    api_server_away(&mesh);

    mesh.captured("mart", 9);
    mesh.assert_untouched(&pods);
    mesh.assert_no_restart();
}

/// Ends the node's one process of a program, and waits for the one that is started in its place.
pub(super) fn kill(mesh: &Mesh, program: &str) {
    let before = mesh.process(program);
    kill_process(before, Signal::KILL).unwrap();
    mesh.until(&format!("another {program}"), || {
        mesh.find_process(program).is_some_and(|now| now != before)
    });
}

/// Its listeners go with it. The kubelet starts it again, and it takes its pods up by itself.
fn ztunnel_killed(mesh: &Mesh) {
    let asks = mesh.asks();
    kill(mesh, "ztunnel");
    mesh.captured("mart", 9);
    mesh.settled();
    assert_eq!(
        mesh.asks(),
        asks,
        "a pod was asked for that ztunnel took up by itself"
    );
    mesh.say("ztunnel was killed and is back: no pod was asked for");
}

/// A pod is lost while there is no ztunnel: rules without a listener would cut it off.
fn ztunnel_away(mesh: &Mesh) {
    let asks = mesh.asks();
    let pods = mesh.pods("mart");
    mesh.orphan(&pods[0]);
    mesh.until("the pod to be asked for", || mesh.asks() > asks);
    mesh.captured("mart", 9);
    let asks = mesh.asks();

    let select = |value: &str| {
        let patch = format!(r#"{{"spec":{{"template":{{"spec":{{"nodeSelector":{value}}}}}}}}}"#);
        let patch = ["patch", "daemonset", "ztunnel", "--patch", &patch];
        mesh.kubectl(&[&["--namespace", "istio-system"][..], &patch].concat());
    };
    select(r#"{"there-is":"none"}"#);
    mesh.until("ztunnel to be gone", || mesh.find_process("ztunnel").is_none());
    mesh.until("the agent to know of it", || {
        mesh.conditions().contains("node-fault")
    });
    for pod in &pods[..2] {
        mesh.flush(pod);
    }
    // Longer than any proof of a loss takes.
    std::thread::sleep(Duration::from_secs(60));
    assert_eq!(mesh.asks(), asks, "a pod was asked for without a ztunnel");
    assert_eq!(mesh.count_captured(&pods), 0);
    mesh.say("ztunnel is away: no pod was asked for");

    select("null");
    mesh.captured("mart", 9);
    mesh.until("all rules to be back", || {
        pods.iter().all(|pod| mesh.rules(pod) > 0)
    });
    mesh.settled();
    mesh.assert_no_restart();
    mesh.say("ztunnel is back, and so are all pods");
}

fn istio_cni_killed_in_the_middle(mesh: &Mesh) {
    assert!(mesh.meshmedic(&["pause", "--reason", "a scene"]).status.success());
    let asks = mesh.asks();
    let pods = mesh.pods("mart");
    for pod in &pods {
        mesh.orphan(pod);
    }
    assert_eq!(mesh.asks(), asks, "a pod was asked for while repairs were paused");
    mesh.say("nine pods are outside the mesh");
    assert!(mesh.meshmedic(&["resume"]).status.success());
    mesh.until("the first ask", || mesh.asks() > asks);
    kill(mesh, "install-cni");
    mesh.captured("mart", 9);
    mesh.settled();
    mesh.assert_untouched(&pods);
    mesh.assert_no_restart();
    mesh.say("istio-cni was killed in the middle, and all pods are back");
}

fn kubelet_killed(mesh: &Mesh) {
    let asks = mesh.asks();
    let pods = mesh.pods("mart");
    kill(mesh, "kubelet");
    mesh.until("the kubelet to answer", || {
        let asked = ["kubectl", "get", "--raw", "/api/v1/nodes/node-a/proxy/healthz"];
        mesh.succeeds(&asked)
    });
    mesh.captured("mart", 9);
    mesh.settled();
    mesh.assert_untouched(&pods);
    assert_eq!(mesh.asks(), asks);
    mesh.say("the kubelet was killed and is back: no pod was touched");
}

/// A pod is lost meanwhile, which the agent sees and may not mend.
fn api_server_away(mesh: &Mesh) {
    let asks = mesh.asks();
    let pods = mesh.pods("mart");
    let back = mesh.stop_service("kube-apiserver");
    let begun = Instant::now();
    mesh.flush(&pods[0]);
    mesh.until("the agent to see the loss", || {
        mesh.state(&pods[0]) == "bypassing"
    });
    mesh.say("the API server is away, and the agent saw a loss");
    while begun.elapsed() < OUTAGE {
        std::thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(mesh.rules(&pods[0]), 0);
    assert_eq!(mesh.count_captured(&pods), 9);
    drop(back);
    mesh.until("the API server", || {
        mesh.succeeds(&["kubectl", "get", "--raw", "/readyz"])
    });
    mesh.say("the API server is back");
    mesh.until("the pod's rules", || mesh.rules(&pods[0]) > 0);
    mesh.say("and so is the pod");
    mesh.captured("mart", 9);
    mesh.settled();
    mesh.assert_untouched(&pods);
    assert_eq!(mesh.asks() - asks, 1);
}
