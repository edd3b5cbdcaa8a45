// SPDX-License-Identifier: Apache-2.0
//! istio-cni runs and is Ready, and can write no rules: two pods may learn that, and no more.

use std::collections::BTreeSet;
use std::fs;

use super::faults::kill;
use super::mesh::Mesh;

#[test]
#[ignore = "a whole node: `cargo xtask cluster build`, then `cargo xtask test --real`"]
fn a_node_whose_istio_cni_is_broken_touches_two_pods() {
    let mesh = Mesh::start();
    mesh.set_agents("MESHMEDIC_STRATEGY=heal");
    let names = ["bank", "mart", "post"];
    for name in names {
        mesh.application(name, "desk", 3);
    }
    let mut pods = Vec::new();
    for name in names {
        pods.extend(mesh.captured(name, 3));
    }
    mesh.settled();
    mesh.say("nine pods are enrolled, and the agent has settled");

    assert!(mesh.meshmedic(&["pause", "--reason", "a scene"]).status.success());
    for pod in &pods {
        mesh.orphan(pod);
    }
    break_istio_cni(&mesh);
    mesh.until("nine orphans", || {
        pods.iter().all(|pod| mesh.state(pod) == "orphan")
    });
    assert_eq!(mesh.asks(), 0);
    mesh.say("nine pods are outside the mesh, and istio-cni can write no rules");

    assert!(mesh.meshmedic(&["resume"]).status.success());
    mesh.until("the node to be given up", || {
        mesh.metric("meshmedic_heals_total{result=\"stopped\",reason=\"\"}") == 1.0
    });
    mesh.say("the agent asks no more");
    let touched = touched(&mesh);
    assert_eq!(touched.len(), 2, "{touched:?}");
    assert!(mesh.component("istio-cni-node").unwrap().ready);
    assert_eq!(mesh.count_captured(&pods), 0);
    let other = pods.iter().find(|pod| !touched.contains(&pod.name)).unwrap();
    let other = format!("{}/{}", other.namespace, other.name);
    mesh.until("a pod that waits to be explained", || {
        let said = mesh.meshmedic(&["explain", &other]);
        let said = String::from_utf8_lossy(&said.stdout).replace("\n    ", " ");
        said.contains("heals of pods of different owners and namespaces failed on this node")
    });

    // The kubelet starts it again, from its image.
    kill(&mesh, "install-cni");
    mesh.say("istio-cni is whole again");
    mesh.until("every pod to be back", || {
        mesh.count_captured(&pods) == pods.len()
    });
    mesh.say("and all pods are back");
    mesh.settled();
    mesh.assert_untouched(&pods);
    mesh.assert_no_restart();
}

/// Takes from its container what it writes rules with.
fn break_istio_cni(mesh: &Mesh) {
    let process = mesh.process("install-cni").as_raw_nonzero();
    let programs = fs::read_dir(format!("/proc/{process}/root/usr/sbin")).unwrap();
    let mut taken = 0;
    for program in programs.map(|entry| entry.unwrap().path()) {
        if program.to_string_lossy().contains("tables") {
            fs::remove_file(program).unwrap();
            taken += 1;
        }
    }
    assert!(taken > 0, "istio-cni writes rules with something else");
}

/// The pods that were asked for or evicted.
fn touched(mesh: &Mesh) -> BTreeSet<String> {
    let writes = mesh.writes();
    let touching = writes
        .iter()
        .filter(|write| write.is_ask() || write.is_eviction());
    touching.map(|write| write.object_ref.name.clone()).collect()
}
