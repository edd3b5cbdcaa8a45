// SPDX-License-Identifier: Apache-2.0
//! Each way in which a repair must be withheld.

use std::net::{Ipv4Addr, SocketAddr};

use meshmedic_lab::{Pod, need};
use serde_json::{Value, json};

use crate::process::Agent;
use crate::world::{REPAIR, World};

fn withheld(agent: &Agent, pod: &Pod, why: &str) -> bool {
    agent
        .audit(pod.name())
        .contains(&("withheld".to_owned(), why.to_owned()))
}

fn annotate(world: &World, pod: &Pod, key: &str, value: &str) {
    let patch = json!({ "metadata": { "annotations": { key: value } } });
    world
        .cluster
        .api()
        .patch("pods", pod.namespace(), pod.name(), &patch)
        .unwrap();
}

fn set_controller(world: &World, pod: &Pod, kind: &str) {
    let api_version = if kind == "Job" {
        "batch/v1"
    } else {
        "example.com/v1"
    };
    let owners = json!([{
        "apiVersion": api_version, "kind": kind, "name": "some", "uid": format!("uid-of-{kind}"), "controller": true,
    }]);
    let patch = json!({ "metadata": { "ownerReferences": owners } });
    world
        .cluster
        .api()
        .patch("pods", pod.namespace(), pod.name(), &patch)
        .unwrap();
}

fn budget(world: &World, name: &str, min_available: usize) {
    let object = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "minAvailable": min_available, "selector": { "matchLabels": { "app": name } } },
    });
    world.cluster.api().apply(&object).unwrap();
}

#[test]
fn pods_that_must_not_be_touched_are_not_and_the_reason_is_told() {
    if !need::root("pods_that_must_not_be_touched_are_not_and_the_reason_is_told") {
        return;
    }
    let world = World::new(1);
    let cluster = &world.cluster;
    cluster.namespace("quiet", true).unwrap();
    let opt_out = json!({ "metadata": { "annotations": { "meshmedic.io/repair": "disabled" } } });
    cluster.api().patch("namespaces", "", "quiet", &opt_out).unwrap();
    cluster.deployment("quiet", "still", 1).unwrap();

    let bare = cluster.bare_pod("shop", "bare", "node-a").unwrap();
    let fixed = cluster.static_pod("shop", "fixed", "node-a").unwrap();
    let one = |name: &str| world.deployment(name, 1).remove(0);
    let (opted_out, unclear, batch, foreign) = (one("opted"), one("unclear"), one("batch"), one("foreign"));
    let (toggled, guarded, sick, partial, taken) = (
        one("toggled"),
        one("guarded"),
        one("sick"),
        one("partial"),
        one("taken"),
    );
    let quiet = cluster.wait_captured("quiet", "still", 1).unwrap().remove(0);
    annotate(&world, &opted_out, "meshmedic.io/repair", "disabled");
    annotate(&world, &unclear, "meshmedic.io/repair", "perhaps");
    annotate(
        &world,
        &toggled,
        "meshmedic.io/toggle-restore",
        "{\"label\":null}",
    );
    set_controller(&world, &batch, "Job");
    set_controller(&world, &foreign, "Contraption");
    budget(&world, "guarded", 1);
    budget(&world, "sick", 1);
    cluster.set_ready(&sick, false).unwrap();

    let mut agent = world.ready_agent(&[&REPAIR[..], &["--grace-period", "1s"]].concat());
    let expected = [
        (&bare, "nothing-recreates"),
        (&fixed, "static-pod"),
        (&opted_out, "opted-out-pod"),
        (&quiet, "opted-out-namespace"),
        (&unclear, "untrusted"),
        (&batch, "job-pod"),
        (&foreign, "unknown-controller"),
        (&toggled, "toggling"),
        (&guarded, "disruption-budget"),
        (&sick, "unhealthy-policy"),
        (&partial, "by-hand"),
        (&taken, "imposter"),
    ];
    let ztunnel = cluster.node("node-a").unwrap().ztunnel().unwrap();
    ztunnel.close_port(&partial, 15006).unwrap();
    for (pod, why) in expected.iter().filter(|(_, why)| *why != "by-hand") {
        cluster.orphan(pod).unwrap();
        if *why == "imposter" {
            for port in [15001, 15006, 15008] {
                pod.listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
                    .unwrap();
            }
        }
    }
    for (pod, why) in expected {
        agent.until(&format!("{} to be left alone: {why}", pod.name()), |agent| {
            withheld(agent, pod, why)
        });
    }
    for (pod, why) in expected {
        assert!(world.is_untouched(pod), "{why}");
    }
    // Of more than five pods of a node no pod has an Event for certain.
    agent.until("an Event of the node", |_| {
        let events = cluster.api().list("events.events.k8s.io", "default").unwrap();
        events.iter().any(|event| event["regarding"]["kind"] == "Node")
    });
    let told = expected
        .iter()
        .filter(|(pod, _)| !world.events_of(pod).is_empty());
    assert!(told.count() <= 5, "Events of the node's pods are few");
    let metric = "meshmedic_repairs_withheld_total{rule=\"8\",reason=\"opted-out-pod\",shadow=\"false\"}";
    assert_eq!(agent.metric(metric), 1.0);
}

#[test]
fn nothing_is_repaired_while_something_above_the_pods_is_wrong() {
    if !need::root("nothing_is_repaired_while_something_above_the_pods_is_wrong") {
        return;
    }
    let world = World::new(1);
    let cluster = &world.cluster;
    let pause = |paused: bool| {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "meshmedic-control", "namespace": "meshmedic" },
            "data": { "repairs": if paused { "paused" } else { "on" }, "reason": "maintenance" },
        });
        cluster.api().apply(&object).unwrap();
    };
    let pods = world.deployment("cart", 1);
    let mut agent = world.ready_agent(&REPAIR);
    // All of it at once; each is told when the one before it is over.
    pause(true);
    cluster.orphan(&pods[0]).unwrap();
    agent.until("it to be paused", |agent| withheld(agent, &pods[0], "paused"));
    cluster.set_cni_ready("node-a", false).unwrap();
    pause(false);
    agent.until("the node's fault", |agent| {
        withheld(agent, &pods[0], "node-fault")
    });
    cluster.set_istiod_ready(false).unwrap();
    cluster.set_cni_ready("node-a", true).unwrap();
    agent.until("the mesh's fault", |agent| {
        withheld(agent, &pods[0], "mesh-fault")
    });
    cluster.cordon("node-a", true).unwrap();
    cluster.set_istiod_ready(true).unwrap();
    agent.until("the node to be cordoned", |agent| {
        withheld(agent, &pods[0], "cordoned")
    });
    assert!(world.is_untouched(&pods[0]));
    assert_eq!(world.evictions(), 0);
    cluster.cordon("node-a", false).unwrap();
    // A cordoned node gets no new pods, so the successor needed that too.
    agent.until("its repair", |agent| {
        agent.metric("meshmedic_repairs_total{action=\"evict\",result=\"succeeded\"}") == 1.0
    });
}

#[test]
fn a_repair_that_does_not_take_is_not_repeated() {
    if !need::root("a_repair_that_does_not_take_is_not_repeated") {
        return;
    }
    let world = World::new(1);
    let cluster = &world.cluster;
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&REPAIR);
    cluster.lose_enrolments(1);
    cluster.orphan(&pods[0]).unwrap();
    agent.until("the repair to fail", |agent| {
        agent.metric("meshmedic_repairs_total{action=\"evict\",result=\"failed\"}") == 1.0
    });
    agent.until("its successor to be left in peace for a while", |agent| {
        let cooled = |line: &Value| line["fields"]["result"] == "cooldown";
        agent
            .find(|line| line["target"] == "meshmedic::audit" && cooled(line))
            .is_some()
    });
    assert_eq!(world.evictions(), 1);
    agent.until("the Leases to be free", |_| world.leases_are_free());
}

#[test]
fn what_rests_on_a_guess_is_not_repaired() {
    if !need::root("what_rests_on_a_guess_is_not_repaired") {
        return;
    }
    let world = World::new(1);
    let cluster = &world.cluster;
    let broken = json!({ "data": { "AMBIENT_ENABLEMENT_SELECTOR": "- podSelector: [" } });
    cluster
        .api()
        .patch("configmaps", "istio-system", "istio-cni-config", &broken)
        .unwrap();
    let pods = world.deployment("cart", 1);
    let mut agent = world.ready_agent(&REPAIR);
    cluster.orphan(&pods[0]).unwrap();
    agent.until("it to be withheld", |agent| withheld(agent, &pods[0], "guessed"));
    assert!(world.is_untouched(&pods[0]));
}

/// Settings that changed while istio-cni did not begin anew reach the agent by no news.
#[test]
fn settings_are_read_again_just_before_an_act() {
    if !need::root("settings_are_read_again_just_before_an_act") {
        return;
    }
    let world = World::new(1);
    let cluster = &world.cluster;
    let pods = world.deployment("cart", 1);
    let mut agent = world.ready_agent(&REPAIR);
    let broken = json!({ "data": { "AMBIENT_ENABLEMENT_SELECTOR": "- podSelector: [" } });
    cluster
        .api()
        .patch("configmaps", "istio-system", "istio-cni-config", &broken)
        .unwrap();
    cluster.orphan(&pods[0]).unwrap();
    agent.until("it to be withheld", |agent| withheld(agent, &pods[0], "guessed"));
    assert!(world.is_untouched(&pods[0]));
    assert_eq!(world.evictions(), 0);
}
