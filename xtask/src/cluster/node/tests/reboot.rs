// SPDX-License-Identifier: Apache-2.0
//! The power fails on a full node: every sandbox is new, and istio-cni misses most of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::mesh::{Mesh, Pod, Write};

const APPLICATIONS: usize = 12;
const REPLICAS: usize = 5;
/// Two more are the node's own application.
const PODS: usize = APPLICATIONS * REPLICAS + 2;

/// When things were first seen after the reboot.
#[derive(Default)]
struct Seen {
    ztunnel_ready: Option<Instant>,
    /// istio-cni as well: its readiness is asked for every ten seconds.
    both_ready: Option<Instant>,
    running: BTreeMap<String, Instant>,
    /// When, and how often its container had been started by then.
    captured: BTreeMap<String, (Instant, u64)>,
}

impl Seen {
    /// Looks once, and says whether every pod runs again and is captured.
    fn look(&mut self, mesh: &Mesh, before: &BTreeMap<String, Pod>, [ztunnel, cni]: [u64; 2]) -> bool {
        let ready = |name: &str, before: u64| {
            let component = mesh.component(name);
            component.is_some_and(|pod| pod.ready && pod.restarts > before)
        };
        if self.both_ready.is_none() && ready("ztunnel", ztunnel) {
            self.ztunnel_ready.get_or_insert_with(Instant::now);
            if ready("istio-cni-node", cni) {
                self.both_ready = Some(Instant::now());
            }
        }
        // Until the kubelet has reported, the API shows what was.
        let runs = |pod: &Pod| {
            before
                .get(&pod.uid)
                .is_some_and(|was| pod.restarts > was.restarts)
        };
        for pod in mesh.pods("").into_iter().filter(runs) {
            self.running.entry(pod.uid.clone()).or_insert_with(Instant::now);
            if mesh.all_captured(std::slice::from_ref(&pod)) {
                let now = (Instant::now(), pod.restarts);
                self.captured.entry(pod.uid).or_insert(now);
            }
        }
        self.both_ready.is_some() && self.captured.len() == before.len()
    }
}

#[test]
#[ignore = "a whole node: `cargo xtask cluster build`, then `cargo xtask test --real`"]
fn a_node_of_sixty_pods_is_healed_after_a_reboot() {
    let mesh = Mesh::start();
    for number in 0..APPLICATIONS {
        mesh.application(
            &format!("full-{}", number / 2),
            &format!("app-{number}"),
            REPLICAS,
        );
    }
    let before: BTreeMap<String, Pod> = mesh
        .captured("", PODS)
        .into_iter()
        .map(|pod| (pod.uid.clone(), pod))
        .collect();
    mesh.settled();
    mesh.say(&format!("{PODS} pods are enrolled"));
    let asked = mesh.asks();
    let restarts = ["ztunnel", "istio-cni-node"].map(|name| mesh.component(name).unwrap().restarts);

    mesh.reboot();
    mesh.say("the node was rebooted");
    let seen = RefCell::new(Seen::default());
    mesh.until("every pod to run again, in the mesh", || {
        seen.borrow_mut().look(&mesh, &before, restarts)
    });
    mesh.say("every pod is back");
    mesh.settled();

    let writes = mesh.writes();
    let asks: Vec<&Write> = writes.iter().filter(|write| write.is_ask()).skip(asked).collect();
    let orphans: BTreeSet<&str> = asks.iter().map(|ask| ask.object_ref.name.as_str()).collect();
    let seen = seen.into_inner();
    report(&mesh, &seen, &before, &orphans, asks.len());
    assert_eq!(
        mesh.forgets(),
        !orphans.is_empty(),
        "what istio-cni does about a reboot is not what is said of its version"
    );
    mesh.assert_no_restart();
    let after = mesh.pods("");
    for pod in before.values() {
        let now = after.iter().find(|now| now.uid == pod.uid);
        // The reboot itself started each container anew; on a starved machine the kubelet may have needed two attempts.
        let restarts = now.map(|now| now.restarts);
        let (_, then) = seen.captured[&pod.uid];
        assert_eq!(restarts, Some(then), "{} was started anew", pod.name);
    }
}

/// Says how long it took: of those that the agent healed, from ztunnel's readiness or the pod's own start.
fn report(mesh: &Mesh, seen: &Seen, before: &BTreeMap<String, Pod>, orphans: &BTreeSet<&str>, asks: usize) {
    let (ready, both) = (seen.ztunnel_ready.unwrap(), seen.both_ready.unwrap());
    let (mut since_ztunnel, mut since_start) = (Vec::new(), Vec::new());
    for (uid, (captured, _)) in &seen.captured {
        if orphans.contains(before[uid].name.as_str()) {
            since_ztunnel.push(captured.saturating_duration_since(ready));
            since_start.push(captured.saturating_duration_since(ready.max(seen.running[uid])));
        }
    }
    since_ztunnel.sort();
    since_start.sort();
    let seconds = |time: Option<&Duration>| time.map_or(0.0, Duration::as_secs_f32);
    mesh.say(&format!(
        "{} of {PODS} were orphans and healed by {asks} asks; after ztunnel was Ready istio-cni followed after {:.1} s, \
         the first pod was back after {:.1} s and the last after {:.1} s; after its own start none took longer than {:.1} s",
        orphans.len(),
        both.saturating_duration_since(ready).as_secs_f32(),
        seconds(since_ztunnel.first()),
        seconds(since_ztunnel.last()),
        seconds(since_start.last()),
    ));
}
