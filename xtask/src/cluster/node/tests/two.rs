// SPDX-License-Identifier: Apache-2.0
//! Two nodes: each agent mends its own, and what befalls one leaves the other alone.

use std::collections::BTreeMap;

use serde_json::Value;

use super::mesh::{Mesh, Pod};
use crate::cluster::node::NAMES;

const PODS: usize = 8;

#[test]
#[ignore = "a whole node: `cargo xtask cluster build`, then `cargo xtask test --real`"]
fn a_node_beside_another_is_mended_by_its_own_agent() {
    let mesh = Mesh::start_on(2);
    mesh.application("mart", "till", PODS);
    let pods = mesh.captured("mart", PODS);
    let (first, other): (Vec<Pod>, Vec<Pod>) = pods.into_iter().partition(|pod| pod.node == NAMES[0]);
    assert!(!first.is_empty() && !other.is_empty(), "all pods are on one node");
    all_is_well(&mesh);
    mesh.say("two nodes are up, with pods in the mesh on both");

    let asks = mesh.asks();
    mesh.orphan(&other[0]);
    mesh.until("the pod to be back", || {
        mesh.count_captured(std::slice::from_ref(&other[0])) == 1
    });
    mesh.captured("mart", PODS);
    assert_eq!((mesh.asks_for(&other[0]), mesh.asks() - asks), (1, 1));
    all_is_well(&mesh);
    mesh.say("a pod of the second node fell out, and is back");

    let restarts: BTreeMap<String, u64> = other.iter().map(|pod| (pod.uid.clone(), pod.restarts)).collect();
    mesh.reboot_other(NAMES[1]);
    mesh.until("every pod of it to run again, in the mesh", || {
        let pods = mesh.pods("mart");
        let again = pods.iter().filter(|pod| pod.node == NAMES[1]);
        let again: Vec<Pod> = again
            .filter(|pod| pod.restarts > restarts[&pod.uid])
            .cloned()
            .collect();
        again.len() == other.len() && mesh.all_captured(&again)
    });
    mesh.captured("mart", PODS);
    all_is_well(&mesh);
    mesh.assert_untouched(&first);
    mesh.assert_no_restart();
    mesh.say("the second node was rebooted: its pods are back, and those of the first were not touched");
    for pod in &first {
        assert_eq!(
            mesh.asks_for(pod),
            0,
            "{} was asked for, which was never lost",
            pod.name
        );
    }
}

/// Both agents say so, as somebody at a workstation asks for it.
fn all_is_well(mesh: &Mesh) {
    mesh.until("both agents to find all in order", || {
        let said = mesh.meshmedic(&["status", "--output", "json"]);
        let status: Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
        let nodes = status["nodes"].as_array().map_or(0, Vec::len);
        said.status.success() && nodes == NAMES.len()
    });
    let scan = mesh.meshmedic(&["scan", "--namespace", "mart"]);
    assert_eq!(scan.status.code(), Some(0), "{scan:?}");
}
