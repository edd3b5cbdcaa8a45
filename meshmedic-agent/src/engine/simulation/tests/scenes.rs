// SPDX-License-Identifier: Apache-2.0
//! What did slow harm once, each as a cluster of its own in which nothing else goes wrong.

use super::super::judge::judge;
use super::super::trace::{Held, PodId, Shows, What};
use super::super::{HOUR, MINUTE, Plan, SECOND, Sim};
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
    // What goes wrong is the scene's alone.
    sim.calm = true;
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

/// A pod falls out of the mesh, and its agent is told.
fn lose(sim: &mut Sim, pod: PodId) {
    sim.listen(pod, Shows::None);
    let node = sim.world.pods[pod as usize].node;
    let life = sim.agents[node].life;
    sim.hint(node, life, pod);
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

/// In which Leases repairs of an owner's pods were counted as ones that did not take.
fn counted(sim: &Sim, owner: usize) -> Vec<Held> {
    let failed = sim.trace.iter().filter_map(|event| match event.what {
        What::Failed { pod, held } if sim.world.pods[pod as usize].owner == owner => Some(held),
        _ => None,
    });
    failed.collect()
}

/// The rules that are broken if this defence is out.
fn broken_without(out: Defence, scene: impl FnOnce() -> Sim) -> Vec<u8> {
    OUT.set(Some(out));
    let sim = scene();
    OUT.set(None);
    let breaches = judge(&sim.plan.rules, &sim.trace);
    breaches.iter().map(|breach| breach.rule).collect()
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

/// Five owners of one tenant whose registry is down, and one of somebody else.
fn a_tenant_without_images() -> (Sim, Vec<usize>, PodId) {
    let mut sim = cluster();
    let tenant: Vec<usize> = (0..5).map(|_| sim.found("ReplicaSet", 0, true)).collect();
    for (n, owner) in tenant.iter().enumerate() {
        sim.world.owners[*owner].absent = true;
        let pod = sim.settled(*owner, n % 4);
        pass(&mut sim, MINUTE);
        lose(&mut sim, pod);
        pass(&mut sim, 20 * MINUTE);
    }
    let other = sim.found("ReplicaSet", 1, true);
    let pod = sim.settled(other, 0);
    pass(&mut sim, MINUTE);
    lose(&mut sim, pod);
    pass(&mut sim, 30 * MINUTE);
    (sim, tenant, pod)
}

#[test]
fn owners_whose_pods_cannot_come_back_withhold_nobody_elses_repairs() {
    let (sim, tenant, pod) = a_tenant_without_images();
    for owner in tenant {
        assert_eq!(evicted(&sim, owner), 1);
        assert_eq!(counted(&sim, owner), [Held::Owner]);
    }
    assert!(
        sim.world.pods[pod as usize].gone,
        "the other's pod was not repaired"
    );
    assert_clean(&sim);
    let broken = broken_without(Defence::Aftermath, || {
        let (sim, _, pod) = a_tenant_without_images();
        assert!(!sim.world.pods[pod as usize].gone);
        sim
    });
    assert!(broken.contains(&6), "{broken:?}");
}

/// Pods that take ten minutes to end, as they may.
fn long_grace() -> (Sim, usize) {
    let mut sim = cluster();
    let owner = sim.found("StatefulSet", 0, true);
    sim.world.owners[owner].grace = 10 * MINUTE;
    let pod = sim.settled(owner, 0);
    pass(&mut sim, MINUTE);
    lose(&mut sim, pod);
    pass(&mut sim, HOUR);
    (sim, owner)
}

#[test]
fn a_pod_that_takes_long_to_end_takes_nothing_from_its_successor() {
    let (sim, owner) = long_grace();
    assert_eq!(evicted(&sim, owner), 1);
    assert!(counted(&sim, owner).is_empty());
    let proved = |what: &What| matches!(what, What::Proved { captured: true, .. });
    assert!(sim.trace.iter().any(|event| proved(&event.what)));
    assert_clean(&sim);
    let broken = broken_without(Defence::Grace, || long_grace().0);
    assert!(broken.contains(&6), "{broken:?}");
}

/// A pod of a `DaemonSet` is repaired, and meanwhile the set grows to one more node.
#[test]
fn a_daemon_set_that_grows_meanwhile_proves_nothing_by_its_new_pods() {
    let mut sim = cluster();
    let owner = sim.found("DaemonSet", 0, true);
    let pods: Vec<PodId> = (0..3).map(|node| sim.settled(owner, node)).collect();
    pass(&mut sim, MINUTE);
    lose(&mut sim, pods[0]);
    while evicted(&sim, owner) == 0 {
        pass(&mut sim, SECOND);
    }
    // Its pod's own successor does not come for now.
    sim.world.owners[owner].absent = true;
    let new = sim.settled(owner, 3);
    pass(&mut sim, 20 * MINUTE);
    let proved = |what: &What| matches!(what, What::Proved { by, .. } if *by == new);
    assert!(!sim.trace.iter().any(|event| proved(&event.what)));
    assert_eq!(
        counted(&sim, owner),
        [Held::Owner],
        "the new node's pod is no successor that runs"
    );
    assert_clean(&sim);
}

/// A pod is repaired, and meanwhile its owner is told to do with one less.
#[test]
fn an_owner_that_wants_no_successor_is_held_against_nobody() {
    for kind in ["ReplicaSet", "DaemonSet", "StatefulSet"] {
        let mut sim = cluster();
        let owner = sim.found(kind, 0, true);
        let pods: Vec<PodId> = (0..3).map(|node| sim.settled(owner, node)).collect();
        pass(&mut sim, MINUTE);
        lose(&mut sim, pods[0]);
        while evicted(&sim, owner) == 0 {
            pass(&mut sim, SECOND);
        }
        sim.want(owner, -1);
        pass(&mut sim, 6 * MINUTE);
        assert!(counted(&sim, owner).is_empty(), "{kind}");
        // No cooldown stands in the way of its next pod.
        lose(&mut sim, pods[1]);
        pass(&mut sim, 2 * MINUTE);
        assert_eq!(evicted(&sim, owner), 2, "{kind}");
        assert_clean(&sim);
    }
}
