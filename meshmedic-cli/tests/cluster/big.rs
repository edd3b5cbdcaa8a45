// SPDX-License-Identifier: Apache-2.0
//! A node full of pods.

use meshmedic_common::verdict::State;
use meshmedic_lab::{Pod, need};

use crate::process::{Agent, SUCCEEDED};
use crate::world::{REPAIR, World};

/// More than the tests need: budgets have tests of their own.
const ENOUGH: [&str; 4] = [
    "--max-repairs-per-hour",
    "60",
    "--max-repairs-per-hour-cluster",
    "60",
];

fn pods(world: &World, deployments: usize) -> Vec<Pod> {
    (0..deployments)
        .flat_map(|number| world.deployment(&format!("app-{number}"), 10))
        .collect()
}

fn count(agent: &Agent, state: State) -> usize {
    let report = agent.report();
    report.pods.iter().filter(|pod| pod.state == state).count()
}

/// The order of acts and ends, as the agent told it.
fn acts(agent: &Agent) -> Vec<String> {
    let lines = agent.log();
    let audit = lines.iter().filter(|line| line["target"] == "meshmedic::audit");
    let acts = audit.filter_map(|line| line["fields"]["act"].as_str().map(str::to_owned));
    acts.filter(|act| act == "evict" || act == "ended").collect()
}

fn heals(world: &World, agent: &mut Agent, lost: &[Pod], before: usize) {
    let ztunnel = world.cluster.node("node-a").unwrap().ztunnel().unwrap();
    ztunnel.unenrol_many(lost).unwrap();
    // One repair after the other, each with the whole patience of the tests.
    for healed in before + 1..=before + lost.len() {
        let healed = f64::from(u32::try_from(healed).unwrap());
        agent.until("the next one to be healed", |agent| {
            agent.metric(SUCCEEDED) >= healed
        });
    }
    // The metric may be ahead of the log.
    let told = 2 * (before + lost.len());
    agent.until("the last end to be told", |agent| acts(agent).len() >= told);
    let acts = acts(agent);
    assert_eq!(
        &acts[before * 2..][..3],
        ["evict", "ended", "evict"],
        "the canary first"
    );
    // One at a time: no act before the one before it was proved.
    assert!(acts.chunks(2).all(|pair| pair == ["evict", "ended"]));
    assert_eq!(world.evictions(), before + lost.len());
    agent.until("no orphan to be left", |agent| {
        agent.metric("meshmedic_orphans_total") == 0.0
    });
    agent.until("the Leases to be free", |_| world.leases_are_free());
}

#[test]
fn two_hundred_pods_survive_a_dead_ztunnel_and_thirty_of_them_a_reboot() {
    if !need::root("two_hundred_pods_survive_a_dead_ztunnel_and_thirty_of_them_a_reboot") {
        return;
    }
    let world = World::new(1);
    let pods = pods(&world, 20);
    let mut agent = world.ready_agent(&[&REPAIR[..], &ENOUGH].concat());
    agent.until("all pods to be captured", |agent| {
        count(agent, State::Captured) == 200
    });

    world.cluster.kill_ztunnel("node-a").unwrap();
    agent.until("the node's fault", |agent| {
        agent.metric("meshmedic_node_fault") == 1.0
    });
    // A census a second: a minute, far more than a loss takes to be confirmed.
    for _ in 0..3 {
        let sweeps = agent.metric("meshmedic_sweeps_total");
        agent.until("a third of it to pass", |agent| {
            agent.metric("meshmedic_sweeps_total") >= sweeps + 18.0
        });
    }
    assert_eq!(count(&agent, State::Suspect), 200);
    world.cluster.start_ztunnel("node-a").unwrap();
    agent.until("every pod to be captured again", |agent| {
        count(agent, State::Captured) == 200
    });
    agent.until("ztunnel to settle", |agent| {
        agent.metric("meshmedic_node_fault") == 0.0
    });
    assert_eq!(world.evictions(), 0);
    assert!(pods.iter().all(|pod| world.is_untouched(pod)));

    heals(&world, &mut agent, &pods[..30], 0);
    assert!(pods[30..].iter().all(|pod| world.is_untouched(pod)));
}

#[test]
fn thirty_of_thirty_pods_are_healed_after_a_reboot() {
    if !need::root("thirty_of_thirty_pods_are_healed_after_a_reboot") {
        return;
    }
    let world = World::new(1);
    let pods = pods(&world, 3);
    let mut agent = world.ready_agent(&[&REPAIR[..], &ENOUGH].concat());
    heals(&world, &mut agent, &pods, 0);
    let told = agent.find(|line| line["fields"]["condition"] == "mass-loss");
    assert!(told.is_some(), "it was a mass loss");
}
