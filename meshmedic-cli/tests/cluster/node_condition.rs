// SPDX-License-Identifier: Apache-2.0
//! The condition `MeshCaptureReady` that an agent keeps of its own node.

use meshmedic_lab::{ClusterSpec, need};
use serde_json::{Value, json};

use crate::world::{DETECT, World};

const RIGHTS: [&str; 3] = [
    DETECT,
    include_str!("../../../deploy/kustomize/node-condition/rights.yaml"),
    include_str!("../../../deploy/kustomize/node-condition/policy.yaml"),
];
const FLAG: [&str; 1] = ["--node-condition"];

/// The condition of a node, if it has one.
fn condition(world: &World, node: &str, kind: &str) -> Option<Value> {
    let node = world.cluster.api().get("nodes", "", node).unwrap();
    let all = node["status"]["conditions"].as_array()?;
    all.iter().find(|found| found["type"] == kind).cloned()
}

fn says(world: &World, status: &str, reason: &str) -> bool {
    condition(world, "node-a", "MeshCaptureReady")
        .is_some_and(|found| found["status"] == status && found["reason"] == reason)
}

fn the_condition_follows_the_node(world: &World) {
    let theirs =
        json!({ "status": { "conditions": [{ "type": "Theirs", "status": "True", "reason": "Kept" }] } });
    let strategic = "application/strategic-merge-patch+json";
    world
        .cluster
        .api()
        .patch_as(strategic, "nodes/status", "", "node-a", &theirs)
        .unwrap();
    let kept = condition(world, "node-a", "Theirs");
    world.deployment("cart", 2);
    let mut agent = world.ready_agent(&FLAG);
    agent.until("the node to be ready", |_| says(world, "True", "Captures"));
    let well = condition(world, "node-a", "MeshCaptureReady").unwrap();

    // Another agent of the node, as after an update, knows since when that is so.
    assert!(agent.terminate().success());
    let mut agent = world.ready_agent(&FLAG);
    agent.until("the condition to be written anew", |agent| {
        agent
            .find(|line| line["fields"]["reason"] == "Captures" && line["fields"]["status"] == "True")
            .is_some()
    });
    let again = condition(world, "node-a", "MeshCaptureReady").unwrap();
    assert_eq!(again["status"], "True");

    world.cluster.kill_ztunnel("node-a").unwrap();
    agent.until("the node to be at fault", |_| says(world, "False", "NodeFault"));
    let lost = condition(world, "node-a", "MeshCaptureReady").unwrap();
    assert!(lost["message"].as_str().unwrap().contains("ztunnel"), "{lost}");
    assert!(lost["lastTransitionTime"].as_str() >= well["lastTransitionTime"].as_str());
    world.cluster.start_ztunnel("node-a").unwrap();
    agent.until("the node to be ready again", |_| says(world, "True", "Captures"));
    assert_eq!(condition(world, "node-a", "Theirs"), kept);
    assert!(agent.terminate().success());
}

#[test]
fn the_condition_follows_the_node_in_the_lab() {
    if need::root("the_condition_follows_the_node_in_the_lab") {
        the_condition_follows_the_node(&World::granting(ClusterSpec::default(), &RIGHTS, "meshmedic"));
    }
}

#[test]
fn the_condition_follows_the_node_under_a_real_api_server() {
    let test = "the_condition_follows_the_node_under_a_real_api_server";
    if !need::root(test) || !need::real_apiserver(test) {
        return;
    }
    let spec = ClusterSpec {
        real_api: true,
        ..ClusterSpec::default()
    };
    the_condition_follows_the_node(&World::granting(spec, &RIGHTS, "meshmedic"));
}

#[test]
fn without_the_right_an_agent_says_so_once_and_goes_on() {
    if !need::root("without_the_right_an_agent_says_so_once_and_goes_on") {
        return;
    }
    let world = World::detecting();
    let pods = world.deployment("cart", 1);
    let mut agent = world.ready_agent(&FLAG);
    agent.until("the warning", |agent| {
        let warning = agent.find(|line| {
            line["fields"]["message"].as_str().is_some_and(|text| {
                text.contains("MeshCaptureReady") && text.contains("deploy/kustomize/node-condition")
            })
        });
        warning.is_some()
    });
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("the orphan", |agent| {
        agent.metric("meshmedic_orphans_total") == 1.0
    });
    assert_eq!(condition(&world, "node-a", "MeshCaptureReady"), None);
}

#[test]
fn without_the_flag_no_node_is_written() {
    if !need::root("without_the_flag_no_node_is_written") {
        return;
    }
    let world = World::granting(ClusterSpec::default(), &RIGHTS, "meshmedic");
    let pods = world.deployment("cart", 1);
    let mut agent = world.ready_agent(&[]);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("the orphan", |agent| {
        agent.metric("meshmedic_orphans_total") == 1.0
    });
    assert_eq!(condition(&world, "node-a", "MeshCaptureReady"), None);
}
