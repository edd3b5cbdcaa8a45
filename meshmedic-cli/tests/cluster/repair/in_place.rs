// SPDX-License-Identifier: Apache-2.0
//! Heals in place by hand: nothing restarts, and what istio-cni cannot do goes to the next way.

use std::process::Stdio;

use meshmedic_common::verdict::Reason;
use meshmedic_lab::api::Fault;
use meshmedic_lab::{Pod, need, wait};
use serde_json::{Value, json};

use super::{ADMIN, command, evictions, interrupt, item, object, read, repair};
use crate::fleet::{install, run};
use crate::process::PATIENCE;
use crate::world::World;

const LADDER: [&str; 2] = ["--strategy", "heal,restart"];

/// How often the command asked istio-cni.
fn asks(world: &World) -> usize {
    let requests = world.cluster.api().requests().unwrap();
    let ours = requests
        .iter()
        .filter(|request| request.user_agent.starts_with(ADMIN));
    ours.filter(|request| request.full_resource() == "pods/status" && request.is_write())
        .count()
}

fn ask_of(world: &World, pod: &Pod) -> String {
    let object = object(world, pod);
    let ask = &object["metadata"]["annotations"]["meshmedic.io/heal"];
    ask.as_str().unwrap_or_default().to_owned()
}

fn restarts(world: &World, pod: &Pod) -> Vec<Option<u64>> {
    let object = object(world, pod);
    let all = object["status"]["containerStatuses"].as_array();
    let count = |container: &Value| container["restartCount"].as_u64();
    all.into_iter().flatten().map(count).collect()
}

#[test]
fn an_orphan_is_healed_by_hand_and_nothing_restarts() {
    if !need::root("an_orphan_is_healed_by_hand_and_nothing_restarts") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let netns = pods[0].netns().unwrap();
    let before = restarts(&world, &pods[0]);
    world.cluster.orphan(&pods[0]).unwrap();
    let (code, items) = repair(&world, &[&["-n", "shop"], &LADDER[..]].concat());
    let found = item(&items, &pods[0]);
    assert_eq!(
        (code, found["action"].as_str(), found["means"].as_str()),
        (Some(1), Some("would-repair"), Some("heal")),
        "{items:#}"
    );
    let told = found["detail"].as_str().unwrap();
    assert!(told.contains("no restart") && told.contains("evicted"), "{told}");
    assert_eq!(asks(&world), 0);

    let (code, items) = repair(&world, &[&["-n", "shop", "--yes"], &LADDER[..]].concat());
    let found = item(&items, &pods[0]);
    assert_eq!(
        (code, found["action"].as_str(), found["means"].as_str()),
        (Some(0), Some("repaired"), Some("heal")),
        "{items:#}"
    );
    assert!(world.cluster.is_captured(&pods[0]) && world.is_untouched(&pods[0]));
    assert_eq!(pods[0].netns().unwrap(), netns);
    assert_eq!(restarts(&world, &pods[0]), before);
    assert_eq!((asks(&world), evictions(&world)), (1, 0));
    assert!(world.leases_of_restarts().is_empty());
    let name = format!("shop/{}", pods[0].name());
    let (_, story) = run(
        &world,
        &["explain", &name, "--confirm", "200ms", "--settle", "0s"],
    );
    let story = story.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(story.contains("istio-cni was asked to enrol it again"), "{story}");
}

/// A bare pod gains most: nothing would recreate it.
#[test]
fn what_a_heal_costs_is_counted() {
    if !need::root("what_a_heal_costs_is_counted") {
        return;
    }
    let world = World::new(1);
    let bare = world.cluster.bare_pod("shop", "bare", "node-a").unwrap();
    world.cluster.wait_captured("shop", "bare", 1).unwrap();
    world.deployment("cart", 1);
    world.cluster.orphan(&bare).unwrap();
    let (_, items) = repair(&world, &[&["-n", "shop"], &LADDER[..]].concat());
    let found = item(&items, &bare);
    let told = found["detail"].as_str().unwrap();
    assert!(told.contains("no connection of it is open"), "{told}");
    assert_eq!(
        found["passed_over"][0]["reason"], "nothing-recreates",
        "{found:#}"
    );
}

#[test]
fn what_istio_cni_cannot_heal_by_hand_goes_to_the_next_way() {
    if !need::root("what_istio_cni_cannot_heal_by_hand_goes_to_the_next_way") {
        return;
    }
    let world = World::new(1);
    let (cart, pay) = (world.deployment("cart", 2), world.deployment("pay", 1));
    world.cluster.orphan_believed(&cart[0]).unwrap();
    let of_app = ["-n", "shop", "-l", "app in (cart,pay)", "--yes", "--strategy"];
    let (code, items) = repair(&world, &[&of_app[..], &["heal,toggle"]].concat());
    let found = item(&items, &cart[0]);
    assert_eq!(
        (code, found["action"].as_str(), found["means"].as_str()),
        (Some(0), Some("repaired"), Some("toggle")),
        "{items:#}"
    );
    let told = found["detail"].as_str().unwrap();
    assert!(told.contains("failed"), "{told}");
    assert!(world.cluster.is_captured(&cart[0]) && world.is_untouched(&cart[0]));

    world.cluster.orphan_believed(&pay[0]).unwrap();
    let (code, items) = repair(&world, &[&of_app[..], &["heal"]].concat());
    let found = item(&items, &pay[0]);
    assert_eq!(
        (code, found["action"].as_str()),
        (Some(1), Some("failed")),
        "{items:#}"
    );
    assert!(world.is_untouched(&pay[0]));

    let web = world.deployment("web", 1);
    world.cluster.orphan_believed(&web[0]).unwrap();
    let name = format!("shop/{}", web[0].name());
    let (code, items) = repair(&world, &[&[&*name, "--yes"], &LADDER[..]].concat());
    assert_eq!(
        (code, items[0]["action"].as_str(), evictions(&world)),
        (Some(0), Some("restarted"), 1),
        "{items:#}"
    );
}

/// Nobody asked for the other pod: it is looked at for what it shows of ztunnel.
#[test]
fn one_pod_that_is_named_is_healed_where_another_shows_that_ztunnel_serves() {
    if !need::root("one_pod_that_is_named_is_healed_where_another_shows_that_ztunnel_serves") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    world.cluster.orphan(&pods[0]).unwrap();
    let name = format!("shop/{}", pods[0].name());
    let arguments = [&[&*name, "--yes"], &LADDER[..]].concat();
    world.cluster.orphan(&pods[1]).unwrap();
    let (code, items) = repair(&world, &arguments);
    assert_eq!(
        (code, items[0]["reason"].as_str(), asks(&world)),
        (Some(1), Some("ztunnel-unproven"), 0),
        "{items:#}"
    );
    world.deployment("web", 1);
    let (code, items) = repair(&world, &arguments);
    assert_eq!(
        (code, items[0]["means"].as_str(), asks(&world)),
        (Some(0), Some("heal"), 1),
        "{items:#}"
    );
    assert!(world.is_untouched(&pods[0]) && world.is_untouched(&pods[1]));
}

#[test]
fn whoever_may_not_ask_restarts_nothing_instead() {
    if !need::root("whoever_may_not_ask_restarts_nothing_instead") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    world.cluster.orphan(&pods[0]).unwrap();
    let api = world.cluster.api();
    let refusal = Fault::refusal(403, "pods/status is forbidden")
        .verb("patch")
        .resource("pods/status");
    let _refused = api.fault(refusal.user_agent(ADMIN)).unwrap();
    let (code, items) = repair(&world, &[&["-n", "shop", "--yes"], &LADDER[..]].concat());
    let found = item(&items, &pods[0]);
    assert_eq!(
        (code, found["action"].as_str(), found["reason"].as_str()),
        (Some(1), Some("withheld"), Some("heal-not-permitted")),
        "{items:#}"
    );
    assert!(world.is_untouched(&pods[0]));
    assert_eq!((asks(&world), evictions(&world)), (1, 0));
}

#[test]
fn an_interrupted_heal_is_gone_on_with() {
    if !need::root("an_interrupted_heal_is_gone_on_with") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    world.cluster.orphan(&pods[0]).unwrap();
    world.cluster.set_cni(false);
    let arguments = [&["-n", "shop", "--yes"], &["--strategy", "heal"][..]].concat();
    let spawn = || {
        let mut command = command(&world, &arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let first = spawn();
    wait::until("the ask", PATIENCE, || {
        ask_of(&world, &pods[0]).starts_with("v1 1 ")
    })
    .unwrap();
    interrupt(&first);
    let (code, items) = read(&first.wait_with_output().unwrap());
    assert_eq!(
        (code, items[0]["action"].as_str()),
        (Some(1), Some("failed")),
        "{items:#}"
    );
    assert!(
        items[0]["detail"].as_str().unwrap().contains("interrupted"),
        "{items:#}"
    );
    // Whoever knows of the first ask makes a second one, and no first one again.
    let second = spawn();
    wait::until("the second ask", PATIENCE, || {
        ask_of(&world, &pods[0]).starts_with("v1 2 ")
    })
    .unwrap();
    world.cluster.set_cni(true);
    let (code, items) = read(&second.wait_with_output().unwrap());
    assert_eq!(
        (code, items[0]["action"].as_str()),
        (Some(0), Some("repaired")),
        "{items:#}"
    );
    assert_eq!(asks(&world), 2);
    assert!(world.is_untouched(&pods[0]));
}

/// The agent of the node only looks; its word is the evidence and the proof.
/// While the agent still confirms the loss the pod is read by exec; once it is captured the agent's word
/// counts again. Both must mean the same sandbox.
#[test]
fn a_heal_is_proved_whichever_way_the_pod_is_read() {
    if !need::root("a_heal_is_proved_whichever_way_the_pod_is_read") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&["--confirm", "10m"]);
    install(&world, &agent);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("the suspicion", |agent| {
        let mut all = agent.report().pods.into_iter();
        all.any(|pod| pod.uid.as_str() == pods[0].uid() && pod.reason == Some(Reason::Confirming))
    });
    let name = format!("shop/{}", pods[0].name());
    let (code, items) = repair(&world, &[&name, "--via", "auto", "--strategy", "heal", "--yes"]);
    assert_eq!(
        (code, item(&items, &pods[0])["action"].as_str()),
        (Some(0), Some("repaired")),
        "{items:#}"
    );
}

/// Three nodes failed; nothing else is under way that could show that heals take again.
#[test]
fn a_heal_by_hand_that_takes_lets_the_agents_heal_again() {
    if !need::root("a_heal_by_hand_that_takes_lets_the_agents_heal_again") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let now = jiff::Timestamp::now();
    let places: Vec<Value> = [("till", "node-x"), ("shop", "node-y"), ("pay", "node-z")]
        .iter()
        .map(|(namespace, node)| json!({ "namespace": namespace, "node": node, "at": now }))
        .collect();
    let record = json!({ "places": places, "failures": 3, "lastFailure": now }).to_string();
    let patch = json!({ "metadata": { "annotations": { "meshmedic.io/record": record } } });
    let api = world.cluster.api();
    api.patch("leases", "meshmedic", "meshmedic-heals", &patch)
        .unwrap();
    let mut agent = world.ready_agent(&["--auto-repair", "--strategy", "heal"]);
    install(&world, &agent);
    let open = "meshmedic_condition{condition=\"heal-breaker\"}";
    agent.until("the breaker to be seen", |agent| agent.metric(open) == 1.0);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("it to be held back", |agent| {
        let audit = agent.audit(pods[0].name());
        audit.contains(&("withheld".into(), "heal-breaker".into()))
    });
    let name = format!("shop/{}", pods[0].name());
    let (code, items) = repair(&world, &[&name, "--strategy", "heal", "--yes"]);
    assert_eq!(code, Some(0), "{items:#}");
    agent.until("the breaker to close", |agent| agent.metric(open) == 0.0);
    world.cluster.orphan(&pods[1]).unwrap();
    agent.until("the agent's own heal", |_| world.cluster.is_captured(&pods[1]));
}

#[test]
fn a_node_is_healed_by_hand_after_a_reboot() {
    if !need::root("a_node_is_healed_by_hand_after_a_reboot") {
        return;
    }
    let world = World::new(1);
    let pods: Vec<Pod> = ["cart", "pay", "web"]
        .iter()
        .flat_map(|name| world.deployment(name, 3))
        .collect();
    world.cluster.reboot("node-a").unwrap();
    let mut agent = world.agent("node-a", &[]);
    install(&world, &agent);
    agent.until("the losses", |agent| {
        let report = agent.report();
        let orphans = report.pods.iter().filter(|pod| pod.state.as_str() == "orphan");
        orphans.count() == pods.len() && report.serves == Some(true)
    });
    let node = ["--node", "node-a", "--yes", "--via", "agent"];
    let output = command(&world, &[&node, &LADDER[..]].concat()).output().unwrap();
    let (code, items) = read(&output);
    assert_eq!(code, Some(0), "{items:#}");
    let healed = items.as_array().unwrap().iter();
    let healed = healed.filter(|item| item["means"] == "heal" && item["action"] == "repaired");
    assert_eq!(healed.count(), pods.len(), "{items:#}");
    assert!(
        pods.iter()
            .all(|pod| world.cluster.is_captured(pod) && world.is_untouched(pod))
    );
    assert_eq!((asks(&world), evictions(&world)), (pods.len(), 0));
}
