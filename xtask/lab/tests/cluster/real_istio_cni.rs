// SPDX-License-Identifier: Apache-2.0
//! The real istio-cni, on pods of the lab: what the stand-in copies, and what an agent that heals in place relies on.

use std::path::Path;

use meshmedic_lab::{Cluster, ClusterSpec, IstioCni, Pod, Room, Ztunnel, ZtunnelSpec, need, wait};

use super::SOON;
use super::istio_cni::{OTHER, annotate, ask, becomes};

/// A node with the real agent, and a stand-in ztunnel that it has found.
struct Node {
    // Goes first: it writes into the folders of the cluster's node.
    agent: IstioCni,
    ztunnel: Ztunnel,
    cluster: Cluster,
}

impl Node {
    fn start() -> Self {
        let cluster = Cluster::start(ClusterSpec {
            istio: false,
            real_api: true,
            ..ClusterSpec::default()
        })
        .unwrap();
        cluster.namespace("shop", true).unwrap();
        let agent = IstioCni::start(&cluster, "node-a").unwrap();
        let lab = cluster.nodes()[0].lab();
        let ztunnel = lab
            .ztunnel(ZtunnelSpec {
                zds: Some(lab.folder().join("ztunnel.sock")),
                ..ZtunnelSpec::default()
            })
            .unwrap();
        Self {
            agent,
            ztunnel,
            cluster,
        }
    }

    /// Pods that were taken in.
    fn pods(&self, count: usize) -> Vec<Pod> {
        self.cluster.deployment("shop", "cart", count).unwrap();
        self.explain(|| self.cluster.wait_captured("shop", "cart", count).unwrap())
    }

    /// Says what the agent said where something did not come about.
    #[expect(clippy::print_stdout, reason = "a test's output is shown where it fails")]
    fn explain<T>(&self, act: impl FnOnce() -> T) -> T {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        result.unwrap_or_else(|panic| {
            println!("install-cni says:\n{}", self.agent.said());
            std::panic::resume_unwind(panic)
        })
    }

    fn becomes(&self, pod: &Pod, said: &str, captured: bool) {
        self.explain(|| becomes(&self.cluster, pod, said, captured));
    }

    /// Has the agent handle one more pod, and waits until it is done: what came before is done, too.
    fn flush(&self, probe: &Pod) {
        self.ztunnel.unenrol(probe).unwrap();
        ask(&self.cluster, probe);
        self.becomes(probe, "enabled", true);
    }
}

/// Whether Istio's routing table is in a pod's network namespace.
fn has_rules(pod: &Pod) -> bool {
    let trie = std::fs::read_to_string(format!("/proc/{}/net/fib_trie", pod.pid())).unwrap();
    trie.contains("Id 100:")
}

#[test]
fn the_real_one_takes_pods_in_and_lets_them_go() {
    if !need::real_istio_cni("the_real_one_takes_pods_in_and_lets_them_go") {
        return;
    }
    let node = Node::start();
    let pod = node.pods(1).remove(0);
    assert!(has_rules(&pod));
    let label = |mode: Option<&str>| {
        let patch = serde_json::json!({ "metadata": { "labels": { "istio.io/dataplane-mode": mode } } });
        node.cluster
            .api()
            .patch("pods", "shop", pod.name(), &patch)
            .unwrap();
    };
    label(Some("none"));
    node.becomes(&pod, "", false);
    assert!(!has_rules(&pod));
    label(None);
    node.becomes(&pod, "enabled", true);
    // A sandbox of which the container runtime tells is taken in before the kubelet says that the pod runs.
    node.ztunnel.unenrol(&pod).unwrap();
    assert!(!node.cluster.is_captured(&pod));
    node.explain(|| node.agent.plug(&pod).unwrap());
    node.becomes(&pod, "enabled", true);
}

#[test]
fn the_real_one_can_be_asked_to_take_a_running_pod_in_again() {
    if !need::real_istio_cni("the_real_one_can_be_asked_to_take_a_running_pod_in_again") {
        return;
    }
    let node = Node::start();
    let pods = node.pods(2);
    let netns = pods[0].netns().unwrap();
    node.ztunnel.unenrol(&pods[0]).unwrap();
    // What is said to be captured is not looked at, whatever else changes.
    annotate(&node.cluster, &pods[0], OTHER, "1".into());
    node.flush(&pods[1]);
    assert!(!node.cluster.is_captured(&pods[0]));
    ask(&node.cluster, &pods[0]);
    node.becomes(&pods[0], "enabled", true);
    assert_eq!(pods[0].netns().unwrap(), netns);
}

/// What the loopback plugin does in a network namespace when its sandbox goes.
fn take_loopback_down(node: &Node, pod: &Pod) {
    let scratch = node.cluster.nodes()[0].lab().folder().join("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    let room = Room {
        scratch,
        netns: Some(format!("/proc/{}/ns/net", pod.pid()).into()),
        ..Room::default()
    };
    let mut ip = room.command(Path::new("/bin/ip")).unwrap();
    let done = ip.args(["link", "set", "lo", "down"]).status().unwrap();
    assert!(done.success());
}

#[test]
fn a_stale_namespace_costs_the_real_one_the_first_ask_too() {
    if !need::real_istio_cni("a_stale_namespace_costs_the_real_one_the_first_ask_too") {
        return;
    }
    let node = Node::start();
    let pods = node.pods(2);
    take_loopback_down(&node, &pods[0]);
    node.cluster.replace_sandbox(&pods[0]).unwrap();
    // What tells of the new sandbox would otherwise be a second event of the ask.
    node.flush(&pods[1]);
    ask(&node.cluster, &pods[0]);
    node.flush(&pods[1]);
    node.becomes(&pods[0], "pending", false);
    // The same again is no change, and no event.
    ask(&node.cluster, &pods[0]);
    node.flush(&pods[1]);
    node.becomes(&pods[0], "pending", false);
    annotate(&node.cluster, &pods[0], OTHER, "2".into());
    node.becomes(&pods[0], "enabled", true);
    assert!(has_rules(&pods[0]));
}

#[test]
fn the_real_one_says_enabled_of_a_pod_whose_old_namespace_it_served() {
    if !need::real_istio_cni("the_real_one_says_enabled_of_a_pod_whose_old_namespace_it_served") {
        return;
    }
    let node = Node::start();
    let pods = node.pods(2);
    // Nobody takes the old one down, and the agent's own descriptor keeps it: rules and ztunnel are found in order.
    node.cluster.replace_sandbox(&pods[0]).unwrap();
    ask(&node.cluster, &pods[0]);
    node.flush(&pods[1]);
    node.becomes(&pods[0], "enabled", false);
    assert!(!has_rules(&pods[0]));
}

#[test]
fn a_restart_of_the_real_one_heals_what_it_missed() {
    if !need::real_istio_cni("a_restart_of_the_real_one_heals_what_it_missed") {
        return;
    }
    let node = Node::start();
    let pods = node.pods(2);
    node.agent.kill();
    node.cluster.replace_sandbox(&pods[0]).unwrap();
    assert!(!node.cluster.is_captured(&pods[0]));
    assert!(
        node.cluster.is_captured(&pods[1]),
        "ztunnel needs no agent for those that it serves"
    );
    node.agent.run().unwrap();
    node.becomes(&pods[0], "enabled", true);
    node.explain(|| wait::until("the rules to be there", SOON, || has_rules(&pods[0])).unwrap());
}
