// SPDX-License-Identifier: Apache-2.0
//! An API that refuses, loses answers, is silent, or is away.

use meshmedic_lab::{Fault, Outage, need};
use serde_json::json;

use crate::world::{REPAIR, USER, World};

#[test]
fn a_refused_eviction_is_not_fired_again_after_the_pod_recovered() {
    if !need::root("a_refused_eviction_is_not_fired_again_after_the_pod_recovered") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 1);
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": "cart", "namespace": "shop" },
        "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "cart" } } },
    });
    world.cluster.api().apply(&budget).unwrap();
    let mut agent = world.ready_agent(&REPAIR);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("the refusal", |agent| {
        agent
            .audit(pods[0].name())
            .contains(&("withheld".into(), "disruption-budget".into()))
    });
    let ztunnel = world.cluster.node("node-a").unwrap().ztunnel().unwrap();
    ztunnel.enrol(&pods[0]).unwrap();
    agent.until("the recovery", |_| {
        world.events_of(&pods[0]).contains(&"MeshCaptureRecovered".into())
    });
    world
        .cluster
        .api()
        .delete("poddisruptionbudgets", "shop", "cart")
        .unwrap();
    // Past the time after which kube's own retries, or ours without a new judgement, would have come.
    let sweeps = agent.metric("meshmedic_sweeps_total");
    agent.until("time to pass", |agent| {
        agent.metric("meshmedic_sweeps_total") >= sweeps + 20.0
    });
    assert_eq!((world.rehearsals(), world.evictions()), (1, 0));
    let leases = world.leases_of_restarts();
    assert!(
        leases.is_empty(),
        "nothing is written for what would be refused: {leases:?}"
    );
    assert!(world.is_untouched(&pods[0]));
}

#[test]
fn a_lost_answer_is_looked_into_and_not_asked_again() {
    if !need::root("a_lost_answer_is_looked_into_and_not_asked_again") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 1);
    let mut agent = world.ready_agent(&REPAIR);
    let fault = Fault::drop_after()
        .resource("pods/eviction")
        .in_earnest()
        .times(1);
    let fault = world.cluster.api().fault(fault).unwrap();
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until_repaired(1);
    assert_eq!(fault.hits().unwrap(), 1);
    assert_eq!(world.evictions(), 1);
}

#[test]
fn a_pause_is_obeyed_though_the_watches_are_silent() {
    if !need::root("a_pause_is_obeyed_though_the_watches_are_silent") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 1);
    let mut agent = world.ready_agent(&REPAIR);
    let silence = world.cluster.api().fault(Fault::silence().user(USER)).unwrap();
    let pause = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "meshmedic-control", "namespace": "meshmedic" },
        "data": { "repairs": "paused" },
    });
    world.cluster.api().apply(&pause).unwrap();
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("the pause to be noticed", |agent| {
        agent
            .audit(pods[0].name())
            .contains(&("withheld".into(), "paused".into()))
    });
    assert_eq!(world.evictions(), 0);
    drop(silence);
}

#[test]
fn an_outage_costs_nothing_but_time() {
    if !need::root("an_outage_costs_nothing_but_time") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&REPAIR);
    world.cluster.api().outage(Outage::Reset).unwrap();
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("the loss to be known without the API", |agent| {
        agent.metric("meshmedic_orphans_total") == 1.0
    });
    agent.until("the repair to be withheld for want of the API", |agent| {
        let acts = agent.audit(pods[0].name());
        acts.iter()
            .any(|(act, why)| act == "withheld" && why == "no-ledger")
    });
    assert_eq!(agent.health("/healthz").0, 200);
    world.cluster.api().recover().unwrap();
    agent.until_repaired(1);
    assert_eq!(world.evictions(), 1);
}

#[test]
fn watches_go_on_after_they_were_cut_off_and_their_history_was_forgotten() {
    if !need::root("watches_go_on_after_they_were_cut_off_and_their_history_was_forgotten") {
        return;
    }
    let world = World::new(1);
    world.deployment("cart", 1);
    let mut agent = world.ready_agent(&REPAIR);
    for _ in 0..3 {
        world.cluster.api().compact().unwrap();
        world.cluster.api().break_watches().unwrap();
    }
    let late = world.deployment("late", 1);
    agent.until("the new pod to be known", |agent| {
        agent
            .report()
            .pods
            .iter()
            .any(|pod| pod.uid.as_str() == late[0].uid())
    });
    world.cluster.orphan(&late[0]).unwrap();
    agent.until_repaired(1);
}

#[test]
fn a_conflict_over_a_lease_is_settled() {
    if !need::root("a_conflict_over_a_lease_is_settled") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 1);
    let mut agent = world.ready_agent(&REPAIR);
    let conflicts = Fault::status(409)
        .verb("update")
        .resource("leases")
        .user(USER)
        .times(2);
    let conflicts = world.cluster.api().fault(conflicts).unwrap();
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until_repaired(1);
    assert_eq!(conflicts.hits().unwrap(), 2);
    agent.until("the Leases to be free", |_| world.leases_are_free());
}
