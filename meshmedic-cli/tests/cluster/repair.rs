// SPDX-License-Identifier: Apache-2.0
//! `meshmedic repair` of pods that really run, by exec: what is done, what is withheld, and what an interruption leaves.

mod in_place;
mod toggle;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use meshmedic_lab::{Fault, Log, Pod, PodRef, need, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::process::PATIENCE;
use crate::world::{REPAIR, World};

const ADMIN: &str = "meshmedic/";

/// By exec and by restarts, unless the arguments say otherwise.
fn command(world: &World, arguments: &[&str]) -> Command {
    let or = |flag: &str, value: &'static str| {
        let said = arguments.contains(&flag);
        (!said).then(|| [flag.to_owned(), value.to_owned()])
    };
    let defaults = [or("--via", "exec"), or("--strategy", "restart")];
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshmedic"));
    command
        .args([
            "repair",
            "--confirm",
            "200ms",
            "--settle",
            "0s",
            "--deadline",
            "60s",
        ])
        .args(defaults.into_iter().flatten().flatten())
        .args(["-o", "json", "--kubeconfig"])
        .arg(world.cluster.api().kubeconfig())
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// Repairs; gives the exit code and what became of each pod.
pub(crate) fn repair(world: &World, arguments: &[&str]) -> (Option<i32>, Value) {
    read(&command(world, arguments).output().unwrap())
}

fn read(output: &Output) -> (Option<i32>, Value) {
    let items = serde_json::from_slice(&output.stdout);
    let items = items.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), items)
}

#[track_caller]
fn item<'a>(items: &'a Value, pod: &Pod) -> &'a Value {
    let name = format!("{}/{}", pod.namespace(), pod.name());
    let mut all = items.as_array().unwrap().iter();
    let found = all.find(|item| item["pod"] == name.as_str());
    found.unwrap_or_else(|| panic!("{name} is not in {items:#}"))
}

/// How many evictions the command asked for.
fn evictions(world: &World) -> usize {
    let requests = world.cluster.api().requests().unwrap();
    let ours = requests
        .iter()
        .filter(|request| request.user_agent.starts_with(ADMIN));
    ours.filter(|request| request.full_resource() == "pods/eviction" && !request.is_dry_run())
        .count()
}

fn object(world: &World, pod: &Pod) -> Value {
    let found = world.cluster.api().find("pods", pod.namespace(), pod.name());
    found.unwrap().unwrap()
}

fn annotate(world: &World, pod: &Pod, key: &str, value: &str) {
    let patch = json!({ "metadata": { "annotations": { key: value } } });
    world
        .cluster
        .api()
        .patch("pods", pod.namespace(), pod.name(), &patch)
        .unwrap();
}

#[test]
fn a_pod_is_evicted_only_when_told_and_its_successor_followed() {
    if !need::root("a_pod_is_evicted_only_when_told_and_its_successor_followed") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let (code, items) = repair(&world, &["-n", "shop"]);
    assert_eq!((code, items), (Some(0), json!([])), "nothing is out of the mesh");

    world.cluster.orphan(&pods[0]).unwrap();
    let (code, items) = repair(&world, &["-n", "shop"]);
    let found = item(&items, &pods[0]);
    assert_eq!(
        (code, found["action"].as_str()),
        (Some(1), Some("would-repair")),
        "{items:#}"
    );
    assert!(
        found["detail"].as_str().unwrap().contains("ReplicaSet cart-"),
        "{items:#}"
    );
    assert!(world.is_untouched(&pods[0]));

    let (code, items) = repair(&world, &["-n", "shop", "--yes"]);
    let found = item(&items, &pods[0]);
    assert_eq!(
        (code, found["action"].as_str()),
        (Some(0), Some("restarted")),
        "{items:#}"
    );
    assert_eq!(items.as_array().unwrap().len(), 1);
    let after = world.cluster.wait_captured("shop", "cart", 2).unwrap();
    assert!(
        after.iter().any(|pod| pod.uid() == pods[1].uid()),
        "the other one was not touched"
    );
    let successor = found["successor"].as_str().unwrap();
    assert!(
        after.iter().any(|pod| successor.ends_with(pod.name())),
        "{successor}"
    );
    assert_eq!(evictions(&world), 1);
    assert!(world.leases_are_free());
}

/// The plan lists; from the first step towards an act on, what the plan found is looked at by its name.
#[test]
fn the_commands_checks_before_an_act_list_nothing_of_the_cluster() {
    if !need::root("the_commands_checks_before_an_act_list_nothing_of_the_cluster") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    for (way, first) in [("heal", "pods/status"), ("restart", "pods/eviction")] {
        world.cluster.orphan(&pods[0]).unwrap();
        world.cluster.api().forget_requests().unwrap();
        let (code, items) = repair(&world, &["-n", "shop", "--yes", "--strategy", way]);
        assert_eq!(code, Some(0), "{items:#}");
        let requests = world.cluster.api().requests().unwrap();
        let ours = requests
            .iter()
            .filter(|request| request.user_agent.starts_with(ADMIN));
        // The first to do with an act is a restart's rehearsal, or the ask.
        let acting: Vec<_> = ours
            .skip_while(|request| request.full_resource() != first)
            .collect();
        let gets = |resource: &str| {
            let of_istio = |request: &&&meshmedic_lab::api::Request| {
                request.verb == "get" && request.resource == resource && request.namespace == "istio-system"
            };
            acting.iter().filter(of_istio).count()
        };
        assert!(
            gets("pods") >= 2,
            "{way}: ztunnel and istio-cni are looked at by name"
        );
        assert!(
            way == "heal" || gets("endpointslices") >= 1,
            "so are istiod's slices"
        );
        for list in acting.iter().filter(|request| request.verb == "list") {
            assert!(
                !list.namespace.is_empty() && list.namespace != "istio-system",
                "{way}: a check listed {}?{}",
                list.path,
                list.query
            );
        }
    }
}

/// What the plan knows by its name may have another one by the time of the act.
#[test]
fn what_got_another_name_after_the_plan_is_looked_for() {
    if !need::root("what_got_another_name_after_the_plan_is_looked_for") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let api = world.cluster.api();
    let slices = api.list_where("endpointslices", "istio-system", "").unwrap();
    let mut slice = slices.into_iter().next().unwrap();
    world.cluster.orphan(&pods[0]).unwrap();
    // The records are what it asks for once it knows the names.
    let late = Fault::latency(Duration::from_secs(3))
        .resource("leases")
        .user_agent(ADMIN);
    let late = api.fault(late.times(1)).unwrap();
    let mut command = command(&world, &["-n", "shop", "--yes"]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait::until("its plan", PATIENCE, || late.hits().unwrap() > 0).unwrap();
    let before = slice["metadata"]["name"].as_str().unwrap().to_owned();
    let labels = slice["metadata"]["labels"].take();
    slice["metadata"] = json!({ "name": "istiod-another", "namespace": "istio-system", "labels": labels });
    // A list leaves these out.
    (slice["apiVersion"], slice["kind"]) = (json!("discovery.k8s.io/v1"), json!("EndpointSlice"));
    api.create(&slice).unwrap();
    api.delete("endpointslices", "istio-system", &before).unwrap();
    let (code, items) = read(&child.wait_with_output().unwrap());
    let found = item(&items, &pods[0]);
    assert_eq!(
        (code, found["action"].as_str()),
        (Some(0), Some("restarted")),
        "{items:#}"
    );
}

#[test]
fn a_stateful_sets_pod_is_followed_by_its_name() {
    if !need::root("a_stateful_sets_pod_is_followed_by_its_name") {
        return;
    }
    let world = World::new(1);
    world.cluster.stateful_set("shop", "db", 1).unwrap();
    let pods = world.cluster.wait_captured("shop", "db", 1).unwrap();
    world.cluster.orphan(&pods[0]).unwrap();
    let (code, items) = repair(&world, &["shop/db-0", "--yes"]);
    assert_eq!(code, Some(0), "{items:#}");
    assert_eq!(items[0]["successor"], "shop/db-0");
    let after = world.cluster.wait_captured("shop", "db", 1).unwrap();
    assert_ne!(after[0].uid(), pods[0].uid());
}

#[test]
fn each_rule_holds_and_says_so() {
    if !need::root("each_rule_holds_and_says_so") {
        return;
    }
    let world = World::new(1);
    let cluster = &world.cluster;
    let one = |name: &str| world.deployment(name, 1).remove(0);
    let (opted_out, guarded, taken, partial) = (one("opted"), one("guarded"), one("taken"), one("partial"));
    let bare = cluster.bare_pod("shop", "bare", "node-a").unwrap();
    cluster.wait_captured("shop", "bare", 1).unwrap();
    annotate(&world, &opted_out, "meshmedic.io/repair", "disabled");
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": "guard", "namespace": "shop" },
        "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "guarded" } } },
    });
    cluster.api().apply(&budget).unwrap();
    for pod in [&opted_out, &guarded, &taken, &bare] {
        cluster.orphan(pod).unwrap();
    }
    for port in [15001, 15006, 15008] {
        taken
            .listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
            .unwrap();
    }
    let ztunnel = cluster.node("node-a").unwrap().ztunnel().unwrap();
    ztunnel.close_port(&partial, 15006).unwrap();

    let (code, items) = repair(&world, &["-n", "shop", "--yes", "--max-in-flight", "4"]);
    assert_eq!(code, Some(1), "{items:#}");
    for (pod, reason, rule) in [
        (&opted_out, "opted-out-pod", 8),
        (&guarded, "disruption-budget", 5),
        (&bare, "nothing-recreates", 4),
    ] {
        let found = item(&items, pod);
        assert_eq!(
            (found["reason"].as_str(), found["rule"].as_u64()),
            (Some(reason), Some(rule)),
            "{found:#}"
        );
        assert_eq!(found["action"], "withheld");
        assert!(world.is_untouched(pod), "{reason}");
    }
    let found = item(&items, &guarded);
    assert!(found["detail"].as_str().unwrap().contains("guard"), "{found:#}");
    // By exec nobody can tell whose the listeners are, so an imposter looks captured and is left alone.
    assert!(world.is_untouched(&taken));
    assert_eq!(
        item(&items, &partial)["action"],
        "restarted",
        "by hand, a partial loss is repaired"
    );
    // What would be refused was not asked for.
    assert_eq!(evictions(&world), 1);
    assert!(world.leases_are_free());

    let (code, items) = repair(
        &world,
        &[
            "-n",
            "shop",
            "-l",
            "app in (opted,guarded)",
            "--yes",
            "--despite-opt-out",
            "--delete-past-disruption-budgets",
        ],
    );
    assert_eq!(code, Some(0), "{items:#}");
    assert_eq!(items.as_array().unwrap().len(), 2, "{items:#}");
    assert_eq!(evictions(&world), 1, "these were deleted");
}

#[test]
fn an_interruption_tells_what_was_done_and_what_was_not() {
    if !need::root("an_interruption_tells_what_was_done_and_what_was_not") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    for pod in &pods {
        world.cluster.orphan(pod).unwrap();
    }
    // Successors are not enrolled, so the first repair waits.
    world.cluster.set_cni(false);
    let mut command = command(&world, &["-n", "shop", "--yes"]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait::until("the eviction", PATIENCE, || evictions(&world) == 1).unwrap();
    interrupt(&child);
    let (code, items) = read(&child.wait_with_output().unwrap());
    assert_eq!(code, Some(1), "{items:#}");
    let items = items.as_array().unwrap();
    let actions: Vec<_> = items
        .iter()
        .map(|item| item["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions, ["failed", "not-done"], "{items:?}");
    assert!(
        items[0]["detail"]
            .as_str()
            .unwrap()
            .contains("interrupted before it was verified")
    );
    assert!(items[1]["detail"].as_str().unwrap().contains("interrupted"));
    assert_eq!(evictions(&world), 1);
}

#[test]
fn an_agent_and_the_command_never_repair_one_pod_twice() {
    if !need::root("an_agent_and_the_command_never_repair_one_pod_twice") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&REPAIR);
    world.cluster.orphan(&pods[0]).unwrap();
    let (_, items) = repair(&world, &["-n", "shop", "--yes"]);
    agent.until("it to be repaired", |_| !world.is_untouched(&pods[0]));
    world.cluster.wait_captured("shop", "cart", 2).unwrap();
    agent.until("the Leases to be free", |_| world.leases_are_free());
    // Both have the same user agent.
    assert_eq!(evictions(&world), 1, "{items:#}");
    assert!(world.is_untouched(&pods[1]));
}

fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::INT).unwrap();
}

#[test]
fn after_a_failure_nothing_further_is_begun() {
    if !need::root("after_a_failure_nothing_further_is_begun") {
        return;
    }
    let world = World::new(1);
    let pods: Vec<Pod> = ["cart", "stock"]
        .iter()
        .flat_map(|name| world.deployment(name, 1))
        .collect();
    for pod in &pods {
        world.cluster.orphan(pod).unwrap();
    }
    world.cluster.lose_enrolments(1);
    let (code, items) = repair(&world, &["-n", "shop", "--yes"]);
    assert_eq!(code, Some(1), "{items:#}");
    let mut actions: Vec<&str> = items
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["action"].as_str().unwrap())
        .collect();
    actions.sort_unstable();
    assert_eq!(actions, ["failed", "not-done"], "{items:#}");
    assert_eq!(evictions(&world), 1);
    assert!(world.leases_are_free());
    // The record says that it did not take, so the owner is left in peace, unless told otherwise.
    let failed = items
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["action"] == "failed")
        .unwrap();
    let app = failed["pod"]
        .as_str()
        .unwrap()
        .trim_start_matches("shop/")
        .split('-')
        .next()
        .unwrap();
    let selector = format!("app={app}");
    let (_, items) = repair(&world, &["-n", "shop", "-l", &selector, "--yes"]);
    assert_eq!(items[0]["reason"], "cooldown", "{items:#}");
    let (code, items) = repair(
        &world,
        &["-n", "shop", "-l", &selector, "--yes", "--despite-failures"],
    );
    assert_eq!(code, Some(0), "{items:#}");
}

#[test]
fn what_an_agent_is_at_is_left_to_it() {
    if !need::root("what_an_agent_is_at_is_left_to_it") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    for pod in &pods {
        world.cluster.orphan(pod).unwrap();
    }
    // A repair that waits for its successor holds the owner's Lease.
    world.cluster.set_cni(false);
    let name = format!("shop/{}", pods[0].name());
    let mut first = command(&world, &[&name, "--yes"]);
    let first = first
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait::until("the eviction", PATIENCE, || evictions(&world) == 1).unwrap();
    let name = format!("shop/{}", pods[1].name());
    let (code, items) = repair(&world, &[&name, "--yes"]);
    assert_eq!(
        (code, items[0]["reason"].as_str()),
        (Some(1), Some("in-flight-owner")),
        "{items:#}"
    );
    assert!(items[0]["detail"].as_str().unwrap().contains("cli:"), "{items:#}");
    world.cluster.set_cni(true);
    let (code, items) = read(&first.wait_with_output().unwrap());
    assert_eq!(
        (code, items[0]["action"].as_str()),
        (Some(0), Some("restarted")),
        "{items:#}"
    );
    assert!(world.leases_are_free());
}

#[test]
fn nothing_is_repaired_while_something_above_the_pods_is_wrong() {
    if !need::root("nothing_is_repaired_while_something_above_the_pods_is_wrong") {
        return;
    }
    let world = World::new(1);
    let cluster = &world.cluster;
    let pods = world.deployment("cart", 1);
    cluster.orphan(&pods[0]).unwrap();
    let reason = |arguments: &[&str]| {
        let (code, items) = repair(&world, &[&["-n", "shop", "--yes"], arguments].concat());
        assert_eq!(code, Some(1), "{items:#}");
        items[0]["reason"].as_str().unwrap_or_default().to_owned()
    };
    cluster.set_istiod_ready(false).unwrap();
    assert_eq!(reason(&[]), "mesh-fault");
    cluster.set_istiod_ready(true).unwrap();
    cluster.cordon("node-a", true).unwrap();
    assert_eq!(reason(&[]), "cordoned");
    cluster.cordon("node-a", false).unwrap();
    let paused = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "meshmedic-control", "namespace": "meshmedic" },
        "data": { "repairs": "paused", "reason": "maintenance" },
    });
    cluster.api().apply(&paused).unwrap();
    assert_eq!(reason(&[]), "paused");
    assert!(world.is_untouched(&pods[0]));
    assert_eq!(evictions(&world), 0);
    let (code, items) = repair(&world, &["-n", "shop", "--yes", "--despite-pause"]);
    assert_eq!(code, Some(0), "{items:#}");
}

#[test]
fn a_whole_cluster_is_refused() {
    let refused = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_meshmedic"))
            .args(["repair", "--kubeconfig", "/nonexistent"])
            .args(arguments)
            .output()
            .unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        let refused = words.contains("whole cluster");
        assert_eq!(output.status.code() == Some(2), refused, "{words}");
        refused
    };
    assert!(refused(&["--yes"]) && refused(&["-A", "--yes"]));
    assert!(!refused(&[]) && !refused(&["-A"]), "a plan does no harm");
}

#[test]
fn the_logs_may_choose_whom_to_repair() {
    if !need::root("the_logs_may_choose_whom_to_repair") {
        return;
    }
    let world = World::new(1);
    let (lost, idle) = (world.deployment("cart", 1), world.deployment("idle", 1));
    let ztunnel = world.cluster.node("node-a").unwrap().ztunnel().unwrap();
    ztunnel.unenrol_many(&[lost[0].clone(), idle[0].clone()]).unwrap();
    let refused = format!(
        "{}\terror\taccess\tconnection complete\tsrc.addr=10.0.0.9:59094 src.workload=\"web\" src.namespace=\"shop\" \
         src.identity=\"spiffe://cluster.local/ns/shop/sa/web\" dst.addr={address}:15008 \
         dst.hbone_addr={address}:8080 dst.workload=\"{}\" dst.namespace=\"shop\" \
         dst.identity=\"spiffe://cluster.local/ns/shop/sa/cart\" direction=\"outbound\" bytes_sent=0 bytes_recv=0 \
         duration=\"0ms\" error=\"io error: Connection refused (os error 111)\"\n",
        jiff::Timestamp::now(),
        lost[0].name(),
        address = lost[0].addresses()[0],
    );
    let api = world.cluster.api();
    api.set_log(PodRef::all_in("istio-system"), Log::text(&refused))
        .unwrap();
    let (code, items) = repair(&world, &["--behavioral", "--yes"]);
    assert_eq!(code, Some(0), "{items:#}");
    assert_eq!(items.as_array().unwrap().len(), 1, "{items:#}");
    assert_eq!(item(&items, &lost[0])["action"], "restarted", "{items:#}");
    assert!(
        world.is_untouched(&idle[0]),
        "nobody talked to it, so no log accuses it"
    );
}
