// SPDX-License-Identifier: Apache-2.0
//! Heals in place: nothing restarts, and what istio-cni cannot do goes to the next rung.

use meshmedic_common::policy::Withheld;
use meshmedic_common::report::HealStanding;
use meshmedic_lab::{ClusterSpec, Pod, need};

use crate::process::Agent;
use crate::world::{DETECT, HEAL, REPAIR_RIGHTS, USER, World};

const HEALED: &str = "meshmedic_heals_total{result=\"healed\",reason=\"\"}";
/// What a test has no time to wait for.
const QUICK: [&str; 2] = ["--heal-deadline", "2s"];

fn annotation(world: &World, pod: &Pod, key: &str) -> Option<String> {
    let object = world
        .cluster
        .api()
        .get("pods", pod.namespace(), pod.name())
        .unwrap();
    object["metadata"]["annotations"][key].as_str().map(str::to_owned)
}

/// Whether istio-cni was ever asked for a pod.
fn was_asked(world: &World, pod: &Pod) -> bool {
    annotation(world, pod, "meshmedic.io/heal").is_some()
}

fn asks(world: &World) -> usize {
    let requests = world.cluster.api().requests_of(USER).unwrap();
    let asks = requests
        .iter()
        .filter(|request| request.full_resource() == "pods/status");
    asks.count()
}

fn standing(agent: &Agent, pod: &Pod) -> Option<HealStanding> {
    let report = agent.report();
    let found = report
        .pods
        .into_iter()
        .find(|found| found.uid.as_str() == pod.uid());
    found?.heal
}

/// Nothing of a restart was touched: no eviction was asked for and no Lease written.
#[track_caller]
fn nothing_restarted(world: &World) {
    assert_eq!(world.evictions(), 0);
    let leases = world.leases_of_restarts();
    assert!(leases.is_empty(), "{leases:?}");
}

#[test]
fn an_orphan_is_healed_in_place() {
    if !need::root("an_orphan_is_healed_in_place") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let netns = pods[0].netns().unwrap();
    let mut agent = world.ready_agent(&HEAL);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("a heal that took", |agent| agent.metric(HEALED) == 1.0);
    assert!(world.cluster.is_captured(&pods[0]) && world.is_untouched(&pods[0]));
    assert_eq!(pods[0].netns().unwrap(), netns);
    assert_eq!(asks(&world), 1);
    agent.until("the Events", |_| {
        let events = world.events_of(&pods[0]);
        events.contains(&"MeshRepairStarted".to_owned()) && events.contains(&"MeshRepairSucceeded".to_owned())
    });
    assert_eq!(agent.metric("meshmedic_outside_mesh_seconds_count"), 1.0);
    nothing_restarted(&world);
    assert!(agent.terminate().success());
}

/// Its listeners are there all the while; only its rules come back.
#[test]
fn a_pod_that_bypasses_is_healed_in_place() {
    if !need::ebpf("a_pod_that_bypasses_is_healed_in_place") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let netns = pods[0].netns().unwrap();
    let mut agent = world.ready_agent(&[&HEAL[..], &["--trigger", "ebpf"]].concat());
    let present = "meshmedic_pods_rules{verdict=\"present\"}";
    agent.until("the rules of both to be read", |agent| {
        agent.metric(present) == 2.0
    });
    pods[0].set_redirected(false).unwrap();
    agent.until("a heal that took", |agent| agent.metric(HEALED) == 1.0);
    agent.until("the rules of both to be back", |agent| {
        agent.metric(present) == 2.0
    });
    assert!(world.cluster.is_captured(&pods[0]) && world.is_untouched(&pods[0]));
    assert_eq!((pods[0].netns().unwrap(), asks(&world)), (netns, 1));
    agent.until("the Events", |_| {
        let events = world.events_of(&pods[0]);
        events.contains(&"MeshCaptureLost".to_owned()) && events.contains(&"MeshRepairSucceeded".to_owned())
    });
    nothing_restarted(&world);
}

/// As after a power cut: both ztunnels became Ready lately.
#[test]
fn where_other_nodes_lost_their_pods_too_events_tell_of_nodes() {
    if !need::root("where_other_nodes_lost_their_pods_too_events_tell_of_nodes") {
        return;
    }
    let world = World::new(2);
    let solo = |number: usize| {
        let name = format!("solo-{number}");
        world.cluster.bare_pod("shop", &name, "node-a").unwrap();
        world.cluster.wait_captured("shop", &name, 1).unwrap().remove(0)
    };
    let pods: Vec<Pod> = (0..6).map(solo).collect();
    let mut agent = world.ready_agent(&[&HEAL[..], &["--heal-owner-gap", "1s"]].concat());
    for pod in &pods {
        world.cluster.orphan(pod).unwrap();
    }
    agent.until("heals that took", |agent| agent.metric(HEALED) == 6.0);
    agent.until("the Event of the node", |_| {
        let events = world
            .cluster
            .api()
            .list("events.events.k8s.io", "default")
            .unwrap();
        events.iter().any(|event| {
            let note = event["note"].as_str().unwrap_or_default();
            event["regarding"]["name"] == "node-a" && note.contains("as on about 2 nodes")
        })
    });
    for pod in &pods {
        assert_eq!(world.events_of(pod), [""; 0], "{}", pod.name());
    }
    nothing_restarted(&world);
    assert!(agent.terminate().success());
}

/// There the admission policies hold, and the agent's token names its node.
#[test]
fn a_real_api_server_lets_an_orphan_be_healed_in_place() {
    let test = "a_real_api_server_lets_an_orphan_be_healed_in_place";
    if !need::root(test) || !need::real_apiserver(test) {
        return;
    }
    let world = World::real();
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&HEAL);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("a heal that took", |agent| agent.metric(HEALED) == 1.0);
    assert!(world.cluster.is_captured(&pods[0]) && world.is_untouched(&pods[0]));
}

#[test]
fn a_reboot_is_healed_in_place() {
    if !need::root("a_reboot_is_healed_in_place") {
        return;
    }
    let world = World::new(1);
    let pods: Vec<Pod> = ["cart", "pay", "web"]
        .iter()
        .flat_map(|name| world.deployment(name, 4))
        .collect();
    world.cluster.reboot("node-a").unwrap();
    assert!(pods.iter().all(|pod| !world.cluster.is_captured(pod)));
    let mut agent = world.agent("node-a", &[&HEAL[..], &["--heal-owner-gap", "1s"]].concat());
    agent.until("every pod to be back", |_| {
        pods.iter().all(|pod| world.cluster.is_captured(pod))
    });
    agent.until("every heal to be proved", |agent| agent.metric(HEALED) == 12.0);
    assert!(pods.iter().all(|pod| world.is_untouched(pod)));
    assert_eq!(asks(&world), 12);
    nothing_restarted(&world);
}

#[test]
fn a_sandbox_that_istio_cni_missed_takes_a_second_ask() {
    if !need::root("a_sandbox_that_istio_cni_missed_takes_a_second_ask") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&HEAL);
    world.cluster.replace_sandbox(&pods[0]).unwrap();
    agent.until("a heal that took", |agent| agent.metric(HEALED) == 1.0);
    assert!(world.cluster.is_captured(&pods[0]) && world.is_untouched(&pods[0]));
    assert_eq!(asks(&world), 2);
    nothing_restarted(&world);
}

#[test]
fn what_istio_cni_cannot_heal_is_restarted() {
    if !need::root("what_istio_cni_cannot_heal_is_restarted") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&[&HEAL[..], &QUICK].concat());
    world.cluster.orphan_believed(&pods[0]).unwrap();
    let failed = "meshmedic_heals_total{result=\"failed\",reason=\"believed\"}";
    agent.until("the heal to be given up", |agent| agent.metric(failed) == 1.0);
    world.cluster.wait_gone(&pods[0]).unwrap();
    world.cluster.wait_captured("shop", "cart", 2).unwrap();
    assert_eq!((asks(&world), world.evictions()), (1, 1));
}

#[test]
fn what_istio_cni_cannot_heal_is_toggled_where_that_is_allowed() {
    if !need::root("what_istio_cni_cannot_heal_is_toggled_where_that_is_allowed") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let object = |pod: &Pod| {
        let api = world.cluster.api();
        api.get("pods", pod.namespace(), pod.name()).unwrap()
    };
    let labels = object(&pods[0])["metadata"]["labels"].clone();
    let flags = [&HEAL[..], &QUICK, &["--strategy", "heal,toggle,restart"]].concat();
    let mut agent = world.ready_agent(&flags);
    world.cluster.orphan_believed(&pods[0]).unwrap();
    let toggled = "meshmedic_repairs_total{action=\"toggle\",result=\"succeeded\"}";
    agent.until("a toggle that took", |agent| agent.metric(toggled) == 1.0);
    assert!(world.cluster.is_captured(&pods[0]) && world.is_untouched(&pods[0]));
    assert_eq!(object(&pods[0])["metadata"]["labels"], labels);
    assert_eq!(annotation(&world, &pods[0], "meshmedic.io/toggle-restore"), None);
    nothing_restarted(&world);
}

/// The ladder from its first rung to its last: the one pod is as it was, the other has a successor.
#[test]
fn one_orphan_is_healed_in_place_and_another_goes_to_the_next_rung() {
    if !need::root("one_orphan_is_healed_in_place_and_another_goes_to_the_next_rung") {
        return;
    }
    let world = World::new(1);
    let healed = world.deployment("cart", 2);
    let restarted = world.deployment("pay", 2);
    let containers = |pod: &Pod| {
        let object = world
            .cluster
            .api()
            .get("pods", pod.namespace(), pod.name())
            .unwrap();
        let restarts = |container: &serde_json::Value| container["restartCount"].as_u64();
        let all = object["status"]["containerStatuses"].as_array();
        all.into_iter().flatten().map(restarts).collect::<Vec<_>>()
    };
    let (before, netns) = (containers(&healed[0]), healed[0].netns().unwrap());
    let mut agent = world.ready_agent(&[&HEAL[..], &QUICK].concat());
    world.cluster.orphan(&healed[0]).unwrap();
    agent.until("a heal that took", |agent| agent.metric(HEALED) == 1.0);
    assert!(world.cluster.is_captured(&healed[0]) && world.is_untouched(&healed[0]));
    assert_eq!(containers(&healed[0]), before);
    assert_eq!(healed[0].netns().unwrap(), netns);
    nothing_restarted(&world);

    world.cluster.orphan_believed(&restarted[0]).unwrap();
    world.cluster.wait_gone(&restarted[0]).unwrap();
    world.cluster.wait_captured("shop", "pay", 2).unwrap();
    assert_eq!((asks(&world), world.evictions()), (2, 1));
    let ways: Vec<String> = agent
        .audit(restarted[0].name())
        .into_iter()
        .map(|(act, _)| act)
        .collect();
    let at = |act: &str| ways.iter().position(|way| way == act);
    assert!(at("healed") < at("evict") && at("healed").is_some(), "{ways:?}");
}

#[test]
fn with_istio_cni_broken_two_pods_are_asked_for() {
    if !need::root("with_istio_cni_broken_two_pods_are_asked_for") {
        return;
    }
    let world = World::new(1);
    world.cluster.namespace("bank", true).unwrap();
    let mut pods = world.deployment("cart", 3);
    world.cluster.deployment("bank", "pay", 3).unwrap();
    pods.extend(world.cluster.wait_captured("bank", "pay", 3).unwrap());
    // One of a third owner stays captured, so that ztunnel is proved to serve.
    world.deployment("web", 1);
    let flags = [&HEAL[..], &QUICK, &["--strategy", "heal"]].concat();
    let mut agent = world.ready_agent(&flags);
    world.cluster.set_cni(false);
    for pod in &pods {
        world.cluster.orphan(pod).unwrap();
    }
    let stopped = "meshmedic_heals_total{result=\"stopped\",reason=\"\"}";
    agent.until("the node to be given up", |agent| agent.metric(stopped) == 1.0);
    let asked = pods.iter().filter(|pod| was_asked(&world, pod));
    assert_eq!(asked.count(), 2);
    agent.until("the others to be told why", |agent| {
        let log = agent.log();
        log.iter().any(|line| line["fields"]["result"] == "heal-stopped")
    });
    agent.until("the report to say it of each", |agent| {
        let waits = |heal: &HealStanding| matches!(heal, HealStanding::Withheld { reason, .. } if *reason == Some(Withheld::HealStopped));
        let pods = agent.report().pods;
        pods.iter().filter_map(|pod| pod.heal.as_ref()).filter(|heal| waits(heal)).count() == 4
    });
    assert!(pods.iter().all(|pod| world.is_untouched(pod)));
    nothing_restarted(&world);
}

/// Each agent is a process of its own; what they know of one another stands in one Lease.
#[test]
fn agents_whose_heals_did_not_take_hold_back_a_fourth() {
    if !need::root("agents_whose_heals_did_not_take_hold_back_a_fourth") {
        return;
    }
    let world = World::new(4);
    let nodes = ["node-a", "node-b", "node-c", "node-d"];
    let pods = nodes.map(|node| world.on_node(node));
    let flags = [&HEAL[..], &QUICK, &["--strategy", "heal"]].concat();
    let mut agents = nodes.map(|node| world.agent(node, &flags));
    for agent in &mut agents {
        agent.until("the agent to be ready", |agent| agent.health("/readyz").0 == 200);
    }
    world.cluster.set_cni(false);
    for pod in pods[..3].iter().flat_map(|pods| &pods[..2]) {
        world.cluster.orphan(pod).unwrap();
    }
    let [_, _, _, fourth] = &mut agents;
    let open = "meshmedic_condition{condition=\"heal-breaker\"}";
    fourth.until("the fourth to hear of it", |agent| agent.metric(open) == 1.0);
    assert_eq!(world.failed_nodes(), nodes[..3]);
    world.cluster.set_cni(true);
    let lost = &pods[3][0];
    world.cluster.orphan(lost).unwrap();
    fourth.until("it to be held back", |agent| {
        let audit = agent.audit(lost.name());
        audit.contains(&("withheld".into(), "heal-breaker".into()))
    });
    assert!(!was_asked(&world, lost));
    let detail = fourth.report().conditions.into_iter();
    let details: Vec<String> = detail.map(|condition| condition.detail).collect();
    assert!(
        details
            .iter()
            .any(|detail| detail.starts_with("on node-a, node-b, node-c, until")),
        "{details:?}"
    );
    nothing_restarted(&world);
    // A person closes it.
    let nothing = serde_json::json!({ "metadata": { "annotations": { "meshmedic.io/record": null } } });
    let api = world.cluster.api();
    api.patch("leases", "meshmedic", "meshmedic-heals", &nothing)
        .unwrap();
    fourth.until("the heal that waited", |agent| agent.metric(HEALED) == 1.0);
    fourth.until("it to say that nothing holds heals back", |agent| {
        agent.metric(open) == 0.0
    });
}

#[test]
fn without_a_ztunnel_that_serves_nothing_is_asked() {
    if !need::root("without_a_ztunnel_that_serves_nothing_is_asked") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&HEAL);
    world.cluster.kill_ztunnel("node-a").unwrap();
    agent.until("the loss to be seen", |agent| {
        agent
            .report()
            .pods
            .iter()
            .filter(|pod| pod.state.as_str() == "suspect")
            .count()
            == 2
    });
    world.cluster.start_ztunnel("node-a").unwrap();
    agent.until("the pods to be captured", |_| {
        pods.iter().all(|pod| world.cluster.is_captured(pod))
    });
    assert_eq!(asks(&world), 0);
    nothing_restarted(&world);
}

#[test]
fn a_missing_right_to_heal_restarts_nothing() {
    if !need::root("a_missing_right_to_heal_restarts_nothing") {
        return;
    }
    let [_heal, restart, policies] = REPAIR_RIGHTS;
    let world = World::granting(ClusterSpec::default(), &[DETECT, restart, policies], "meshmedic");
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&HEAL);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("the condition", |agent| {
        agent.metric("meshmedic_condition{condition=\"heal-not-permitted\"}") == 1.0
    });
    agent.until("why nothing is done", |agent| {
        agent
            .audit(pods[0].name())
            .contains(&("withheld".into(), "heal-not-permitted".into()))
    });
    assert!(world.is_untouched(&pods[0]));
    nothing_restarted(&world);
}

#[test]
fn an_agent_that_crashed_is_followed_by_one_that_knows() {
    if !need::root("an_agent_that_crashed_is_followed_by_one_that_knows") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&[&HEAL[..], &["--strategy", "heal"]].concat());
    world.cluster.set_cni(false);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("the ask", |_| was_asked(&world, &pods[0]));
    agent.kill();
    let before = asks(&world);
    let mut next = world.agent("node-a", &[&HEAL[..], &["--strategy", "heal"]].concat());
    next.until("it to know", |agent| {
        agent.health("/readyz").0 == 200 && standing(agent, &pods[0]) == Some(HealStanding::Asked)
    });
    assert_eq!(asks(&world), before, "the pod says that it was asked for");
    world.cluster.set_cni(true);
    next.until("the proof", |agent| agent.metric(HEALED) == 1.0);
    assert!(world.is_untouched(&pods[0]));
}

#[test]
fn of_two_agents_on_a_node_the_older_one_acts() {
    if !need::root("of_two_agents_on_a_node_the_older_one_acts") {
        return;
    }
    let world = World::new(1);
    let api = world.cluster.api();
    let agent = |name: &str| {
        let owner = serde_json::json!({
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "name": "meshmedic",
            "uid": "0a1b2c3d-1111-2222-3333-444455556666",
            "controller": true,
        });
        let made = api.create(&serde_json::json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "namespace": "meshmedic", "name": name, "ownerReferences": [owner] },
            "spec": { "nodeName": "node-a", "containers": [{ "name": "meshmedic", "image": "meshmedic" }] },
        }));
        let made = made.unwrap();
        let of = |key: &str| made["metadata"][key].as_str().unwrap().to_owned();
        (of("creationTimestamp"), of("uid"), name.to_owned())
    };
    let mut agents = [agent("one"), agent("other")];
    // Of the same second the one whose UID comes first counts as older.
    agents.sort();
    let [(_, _, older), (_, younger, _)] = agents;
    let pods = world.deployment("cart", 2);
    let mut agent = world.agent_in(&younger, "node-a", &HEAL);
    agent.until("it to be ready", |agent| agent.health("/readyz").0 == 200);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("why nothing is done", |agent| {
        agent
            .audit(pods[0].name())
            .contains(&("withheld".into(), "superseded".into()))
    });
    assert!(!was_asked(&world, &pods[0]));
    api.delete("pods", "meshmedic", &older).unwrap();
    agent.until("a heal that took", |agent| agent.metric(HEALED) == 1.0);
    assert!(world.is_untouched(&pods[0]));
}

#[test]
fn a_pod_that_opted_out_of_restarts_is_healed_all_the_same() {
    if !need::root("a_pod_that_opted_out_of_restarts_is_healed_all_the_same") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    for (pod, key, value) in [
        (&pods[0], "meshmedic.io/strategy", "heal"),
        (&pods[1], "meshmedic.io/repair", "disabled"),
    ] {
        let patch = serde_json::json!({ "metadata": { "annotations": { key: value } } });
        world
            .cluster
            .api()
            .patch("pods", "shop", pod.name(), &patch)
            .unwrap();
    }
    let mut agent = world.ready_agent(&HEAL);
    for pod in &pods {
        world.cluster.orphan(pod).unwrap();
    }
    agent.until("a heal that took", |agent| agent.metric(HEALED) == 1.0);
    agent.until("why the other one is left alone", |agent| {
        agent
            .audit(pods[1].name())
            .contains(&("withheld".into(), "opted-out-pod".into()))
    });
    assert!(world.cluster.is_captured(&pods[0]) && !was_asked(&world, &pods[1]));
    nothing_restarted(&world);
}

#[test]
fn of_a_pod_that_only_a_restart_may_help_the_event_says_what_forbids_the_restart() {
    if !need::root("of_a_pod_that_only_a_restart_may_help_the_event_says_what_forbids_the_restart") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let api = world.cluster.api();
    let patch = serde_json::json!({ "metadata": { "annotations": { "meshmedic.io/strategy": "restart" } } });
    api.patch("pods", "shop", pods[0].name(), &patch).unwrap();
    let budget = serde_json::json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": "cart", "namespace": "shop" },
        "spec": { "minAvailable": 2, "selector": { "matchLabels": { "app": "cart" } } },
    });
    api.apply(&budget).unwrap();
    let mut agent = world.ready_agent(&HEAL);
    world.cluster.orphan(&pods[0]).unwrap();
    let notes = || -> Vec<String> {
        let events = api.list("events.events.k8s.io", "shop").unwrap().into_iter();
        let blocked = events.filter(|event| event["reason"] == "MeshRepairBlocked");
        blocked
            .filter_map(|event| event["note"].as_str().map(str::to_owned))
            .collect()
    };
    agent.until("the Event", |_| !notes().is_empty());
    let notes = notes();
    assert!(
        notes
            .iter()
            .all(|note| note.starts_with("not repaired, by rule 5:")),
        "{notes:?}"
    );
    assert!(!was_asked(&world, &pods[0]));
}
