// SPDX-License-Identifier: Apache-2.0
//! What a running agent has given up, by the kernel's word and by its own.

use meshmedic_common::verdict::State;
use meshmedic_lab::need;

use crate::process::Agent;
use crate::world::World;

/// In `CapPrm` and `CapEff`.
const CAPABILITIES: [(&str, u32); 4] = [
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map_or("", str::trim)
}

/// All its threads are as confined as it says.
fn assert_confined(agent: &Agent, most: &[&str]) {
    let confinement = agent.report().confinement.expect("an agent says what it holds");
    assert_eq!(confinement.kept, [""; 0]);
    assert!(confinement.seccomp && confinement.no_new_privs, "{confinement:?}");
    let held: Vec<&str> = confinement.capabilities.iter().map(String::as_str).collect();
    assert!(held.contains(&"CAP_SYS_PTRACE"), "{held:?}");
    assert!(held.iter().all(|name| most.contains(name)), "{held:?}");
    let bits = CAPABILITIES.into_iter().filter(|(name, _)| held.contains(name));
    let mask = format!("{:016x}", bits.fold(0_u64, |mask, (_, bit)| mask | 1 << bit));
    let threads = agent.threads();
    assert!(threads.len() > 1, "it has one for whoever asks");
    for status in threads {
        assert_eq!(field(&status, "Seccomp"), "2", "{status}");
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{status}");
        assert_eq!(field(&status, "CapPrm"), mask, "{status}");
        assert_eq!(field(&status, "CapEff"), mask, "{status}");
        assert_eq!(field(&status, "CapInh"), "0000000000000000", "{status}");
    }
    let line = agent.find(|line| line["fields"]["message"] == "what this agent still holds");
    let line = line.expect("it says so in its log");
    assert_eq!(line["fields"]["capabilities"], held.join(","));
    assert_eq!(
        (&line["fields"]["seccomp"], &line["fields"]["no_new_privs"]),
        (&true.into(), &true.into())
    );
}

fn finds_an_orphan(world: &World, agent: &mut Agent, name: &str) {
    let pods = world.deployment(name, 2);
    let state = |agent: &Agent, pod: &meshmedic_lab::Pod| {
        let report = agent.report();
        report
            .pods
            .iter()
            .find(|other| other.uid.as_str() == pod.uid())
            .map(|pod| pod.state)
    };
    agent.until("the pods to be known as captured", |agent| {
        pods.iter().all(|pod| state(agent, pod) == Some(State::Captured))
    });
    let ztunnel = world.cluster.node("node-a").unwrap().ztunnel().unwrap();
    ztunnel.lose_listeners(&pods[0]).unwrap();
    agent.until("the orphan to be proved", |agent| {
        state(agent, &pods[0]) == Some(State::Orphan)
    });
}

#[test]
fn an_agent_with_kernel_programs_keeps_what_it_needs_and_works() {
    if !need::ebpf("cluster: confined with eBPF") {
        return;
    }
    let world = World::detecting();
    let mut agent = world.agent("node-a", &["--trigger", "ebpf"]);
    finds_an_orphan(&world, &mut agent, "ebpf");
    assert_confined(&agent, &["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"]);
}

#[test]
fn an_agent_that_polls_keeps_no_right_to_kernel_programs() {
    if !need::root("cluster: confined and polling") {
        return;
    }
    let world = World::detecting();
    let mut agent = world.agent("node-a", &["--trigger", "poll"]);
    finds_an_orphan(&world, &mut agent, "poll");
    assert_confined(&agent, &["CAP_SYS_PTRACE"]);
}
