// SPDX-License-Identifier: Apache-2.0
//! What did slow harm once, each as a cluster of its own in which nothing else goes wrong.

use super::super::judge::judge;
use super::super::trace::{PodId, Shows, What};
use super::super::{HOUR, MINUTE, Plan, Sim};
use super::super::{span, trace::Rules};
use meshmedic_common::policy::Withheld;
use meshmedic_common::repair::sabotage::{Defence, OUT};

/// A quiet cluster of four nodes under the defaults.
fn cluster() -> Sim {
    let mut plan = Plan::new(1);
    plan.rules = Rules::usual();
    plan.nodes = vec![3; 4];
    (plan.faults, plan.people) = (0, 0);
    let mut sim = Sim::new(plan);
    let settled = sim.now + span(HOUR);
    sim.until(settled);
    sim
}

/// An owner with one pod on each node.
fn owner_of_four(sim: &mut Sim) -> (usize, Vec<PodId>) {
    let owner = sim.found("ReplicaSet", 0, true);
    let pods = (0..4).map(|node| sim.settled(owner, node)).collect();
    let settled = sim.now + span(MINUTE);
    sim.until(settled);
    (owner, pods)
}

fn pass(sim: &mut Sim, milliseconds: u64) {
    let then = sim.now + span(milliseconds);
    sim.until(then);
}

/// How many of an owner's pods were evicted.
fn evicted(sim: &Sim, owner: usize) -> usize {
    let of_owner = |id: PodId| sim.world.pods[id as usize].owner == owner;
    let accepted = sim.trace.iter().filter(|event| match event.what {
        What::Act { pod, accepted, .. } => accepted && pod.is_some_and(of_owner),
        _ => false,
    });
    accepted.count()
}

#[track_caller]
fn assert_clean(sim: &Sim) {
    let breaches = judge(&sim.plan.rules, &sim.trace);
    let told: Vec<String> = breaches.iter().map(ToString::to_string).collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
}

/// A registry is down: what comes after a pod never comes. All four that serve fall out of the mesh.
fn no_capacity() -> (Sim, usize) {
    let mut sim = cluster();
    let (owner, pods) = owner_of_four(&mut sim);
    sim.world.owners[owner].absent = true;
    for pod in pods {
        sim.listen(pod, Shows::None);
    }
    pass(&mut sim, 7 * 24 * HOUR);
    (sim, owner)
}

#[test]
fn an_owner_with_no_capacity_loses_one_pod_and_never_another() {
    let (mut sim, owner) = no_capacity();
    assert_eq!(evicted(&sim, owner), 1);
    assert_clean(&sim);
    // The registry is back: a Ready pod in the place of the first opens the way for the others.
    sim.world.owners[owner].absent = false;
    pass(&mut sim, 24 * HOUR);
    assert_eq!(evicted(&sim, owner), 4);
    assert!(sim.healable().is_empty());
    assert_clean(&sim);
}

#[test]
fn without_rule_eleven_time_alone_would_drain_it() {
    OUT.set(Some(Defence::Reason(Withheld::OwnerDegraded)));
    let (sim, owner) = no_capacity();
    OUT.set(None);
    assert_eq!(evicted(&sim, owner), 4);
    let breaches = judge(&sim.plan.rules, &sim.trace);
    assert!(breaches.iter().any(|breach| breach.rule == 11), "{breaches:?}");
}
