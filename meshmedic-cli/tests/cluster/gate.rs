// SPDX-License-Identifier: Apache-2.0
//! A reboot in which pods have a gate, beside the same reboot without.

use std::process::{Child, Command, Stdio};
use std::thread::{self, ScopedJoinHandle};

use meshmedic_lab::{Pod, need};

use crate::process::PATIENCE;
use crate::world::{HEAL, World};

/// How a pod of the lab starts after a reboot: its gate, if it has one, and then its application.
struct Start<'a> {
    world: &'a World,
    pod: &'a Pod,
    gate: Option<Child>,
}

impl<'a> Start<'a> {
    fn of(world: &'a World, pod: &'a Pod, gated: bool) -> Self {
        let gate = gated.then(|| {
            Command::new("nsenter")
                .arg(format!("--net=/proc/{}/ns/net", pod.pid()))
                .args(["--", env!("CARGO_BIN_EXE_meshmedic"), "gate", "--timeout"])
                .arg(format!("{}s", PATIENCE.as_secs()))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        });
        Self { world, pod, gate }
    }

    /// Waits for the gate and starts the application: a listener and a connection. Says whether the pod was captured when
    /// its first socket was opened.
    fn application(mut self) -> bool {
        if let Some(gate) = &mut self.gate {
            assert!(
                gate.wait().unwrap().success(),
                "the gate of {:?} stayed shut",
                self.pod
            );
        }
        let captured = self.world.cluster.is_captured(self.pod);
        let address = self.pod.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        self.pod.connect(address).unwrap();
        captured
    }
}

impl Drop for Start<'_> {
    fn drop(&mut self) {
        if let Some(gate) = &mut self.gate {
            let _ = gate.kill();
            let _ = gate.wait();
        }
    }
}

/// In how many pods the application opened its first socket outside the mesh, of six.
fn outside_after_a_reboot(gated: bool) -> usize {
    let world = World::new(1);
    let pods: Vec<Pod> = ["cart", "pay"]
        .iter()
        .flat_map(|name| world.deployment(name, 3))
        .collect();
    world.cluster.reboot("node-a").unwrap();
    assert!(pods.iter().all(|pod| !world.cluster.is_captured(pod)));
    if gated {
        // What has not passed its gate is not Ready.
        for pod in &pods {
            world.cluster.set_ready(pod, false).unwrap();
        }
    }
    let starts: Vec<Start<'_>> = pods.iter().map(|pod| Start::of(&world, pod, gated)).collect();
    thread::scope(|scope| {
        let heal = || {
            let mut agent = world.agent("node-a", &[&HEAL[..], &["--heal-owner-gap", "1s"]].concat());
            agent.until("every pod to be back", |_| {
                pods.iter().all(|pod| world.cluster.is_captured(pod))
            });
            agent
        };
        let applications: Vec<_> = starts
            .into_iter()
            .map(|start| scope.spawn(move || start.application()))
            .collect();
        let outside = |applications: Vec<ScopedJoinHandle<'_, bool>>| {
            let captured = applications.into_iter().map(|start| start.join().unwrap());
            captured.filter(|captured| !captured).count()
        };
        let (outside, agent) = if gated {
            let agent = heal();
            (outside(applications), agent)
        } else {
            // The kubelet starts them before any agent has read a pod.
            (outside(applications), heal())
        };
        assert!(pods.iter().all(|pod| world.is_untouched(pod)), "healed in place");
        assert!(agent.terminate().success());
        outside
    })
}

#[test]
fn after_a_reboot_no_application_with_a_gate_starts_outside_the_mesh() {
    if !need::root("after_a_reboot_no_application_with_a_gate_starts_outside_the_mesh") {
        return;
    }
    assert_eq!(outside_after_a_reboot(true), 0);
    assert_eq!(outside_after_a_reboot(false), 6);
}
