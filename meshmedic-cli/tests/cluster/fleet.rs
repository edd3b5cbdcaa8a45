// SPDX-License-Identifier: Apache-2.0
//! `meshmedic status`, `pause`, `resume` and `explain` in a cluster in which agents run.

use std::process::Command;

use meshmedic_common::verdict::State;
use meshmedic_lab::api::documents;
use meshmedic_lab::{Pod, PodRef, need};
use serde_json::{Value, json};

use crate::process::Agent;
use crate::world::{REPAIR, World};

/// Runs a command; gives its exit code and what it printed.
pub(crate) fn run(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_meshmedic"))
        .args(arguments)
        .arg("--kubeconfig")
        .arg(world.cluster.api().kubeconfig())
        .env("USER", "ann")
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code(), text)
}

#[track_caller]
pub(crate) fn assert_says(text: &str, words: &[&str]) {
    // Sentences are broken where a line is full.
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(flat.contains(word), "{word:?} is not in:\n{text}");
    }
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "too wide:\n{text}"
    );
}

/// Makes MeshMedic's DaemonSet, whose pods lead to this agent.
pub(crate) fn install(world: &World, agent: &Agent) {
    let manifest = documents(include_str!("../../../deploy/meshmedic-daemonset.yaml")).unwrap();
    let set = manifest
        .iter()
        .find(|object| object["kind"] == "DaemonSet")
        .unwrap();
    world.cluster.api().apply(set).unwrap();
    let place = PodRef::all_in("meshmedic");
    world
        .cluster
        .api()
        .set_forward(place, 9101, agent.status())
        .unwrap();
    let sets = || {
        let query = "labelSelector=app.kubernetes.io%2Fname%3Dmeshmedic";
        world
            .cluster
            .api()
            .list_where("pods", "meshmedic", query)
            .unwrap()
    };
    let running = |pod: &Value| pod["status"]["phase"] == "Running";
    meshmedic_lab::wait::until("the agents' pods", crate::process::PATIENCE, || {
        let pods = sets();
        !pods.is_empty() && pods.iter().all(running)
    })
    .unwrap();
}

/// A cluster with two pods, of which the first one is an orphan, and the agent that says so.
pub(crate) fn an_orphan_of_two() -> (World, Vec<Pod>, Agent) {
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&[]);
    install(&world, &agent);
    world.cluster.orphan(&pods[0]).unwrap();
    await_orphan(&mut agent, &pods[0]);
    (world, pods, agent)
}

pub(crate) fn await_orphan(agent: &mut Agent, pod: &Pod) {
    agent.until("the agent's verdict", |agent| {
        let mut pods = agent.report().pods.into_iter();
        pods.any(|found| found.uid.as_str() == pod.uid() && found.state == State::Orphan)
    });
}

#[test]
fn a_pause_is_written_shown_obeyed_and_taken_back() {
    if !need::root("a_pause_is_written_shown_obeyed_and_taken_back") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 1);
    let mut agent = world.ready_agent(&REPAIR);
    install(&world, &agent);
    let (code, text) = run(&world, &["pause", "--reason", "a new \u{1b}[2Jcluster"]);
    assert_eq!(code, Some(0), "{text}");
    assert_says(
        &text,
        &["Repairs are paused since", "by ann@", "`meshmedic resume`"],
    );
    let (code, text) = run(
        &world,
        &["pause", "--reason", "a new \u{1b}[2Jcluster", "--by", "bob"],
    );
    assert_eq!(code, Some(0), "{text}");
    let (_, text) = run(&world, &["pause", "--reason", "maintenance", "--by", "bob"]);
    assert_says(
        &text,
        &["by bob: maintenance", "Before, they were paused since", "by ann@"],
    );
    let (_, text) = run(&world, &["pause", "--reason", "maintenance", "--by", "eve"]);
    assert_says(&text, &["paused since", "by bob: maintenance already"]);

    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("it to be paused", |agent| {
        let audit = agent.audit(pods[0].name());
        audit.contains(&("withheld".to_owned(), "paused".to_owned()))
    });
    let (code, text) = run(&world, &["status"]);
    assert_eq!(code, Some(1), "{text}");
    assert_says(
        &text,
        &[
            "Repairs are paused since",
            "by bob: maintenance",
            "1 orphan",
            "1 of 1 agents",
        ],
    );

    // What else is in the ConfigMap stays there.
    let patch = json!({ "data": { "other": "stays" } });
    let api = world.cluster.api();
    api.patch("configmaps", "meshmedic", "meshmedic-control", &patch)
        .unwrap();
    let (code, text) = run(&world, &["resume"]);
    assert_eq!(code, Some(0), "{text}");
    assert_says(
        &text,
        &["Repairs resumed. They were paused since", "by bob: maintenance"],
    );
    let control = api.get("configmaps", "meshmedic", "meshmedic-control").unwrap();
    assert_eq!(control["data"], json!({ "other": "stays" }));
    let (_, text) = run(&world, &["resume"]);
    assert_says(&text, &["Repairs were not paused"]);
    agent.until("its repair to be reported", |agent| {
        let report = agent.report();
        !report.repairs.is_empty() && report.pods.iter().all(|pod| pod.state != State::Orphan)
    });
    let (code, text) = run(&world, &["status"]);
    assert_eq!(code, Some(0), "{text}");
    assert_says(
        &text,
        &["Last repairs:", "evicted: its successor shop/cart-", "1 captured"],
    );
    let (code, text) = run(&world, &["pause", "--reason", " "]);
    assert_eq!(code, Some(2), "{text}");
    let (code, text) = run(
        &world,
        &["pause", "--reason", "x", "--agent-namespace", "nowhere"],
    );
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("there is no namespace \"nowhere\""), "{text}");
}

#[test]
fn nodes_without_an_agent_are_seen() {
    if !need::root("nodes_without_an_agent_are_seen") {
        return;
    }
    let world = World::new(2);
    world.deployment("cart", 2);
    let (code, text) = run(&world, &["status"]);
    assert_eq!(code, Some(3), "{text}");
    assert_says(&text, &["No agents: no agent runs here", "`meshmedic scan`"]);
    let agent = world.ready_agent(&[]);
    // Both pods of the DaemonSet lead to the agent of the first node, which the second one cannot be believed.
    install(&world, &agent);
    let (code, text) = run(&world, &["status", "-o", "json"]);
    let status: Value = serde_json::from_str(&text).unwrap();
    let health: Vec<_> = status["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["agent"].clone())
        .collect();
    assert_eq!(
        (code, health),
        (Some(3), vec![json!("ok"), json!("silent")]),
        "{text}"
    );
    assert!(
        status["nodes"][1]["detail"]
            .as_str()
            .unwrap()
            .contains("not believed"),
        "{text}"
    );
    assert_eq!(status["nodes"][0]["repairs"], "off");
    let touched = |request: &meshmedic_lab::api::Request| {
        request.user_agent.starts_with("meshmedic/") && request.namespace == "shop" && request.verb != "watch"
    };
    let requests = world.cluster.api().requests().unwrap();
    assert!(!requests.iter().any(touched), "no pod is touched");
}

#[test]
fn a_pods_story_is_told() {
    if !need::root("a_pods_story_is_told") {
        return;
    }
    let (world, pods, mut agent) = an_orphan_of_two();
    agent.until("the Event", |_| world.events_of(&pods[0]) == ["MeshCaptureLost"]);
    let name = |pod: &Pod| format!("shop/{}", pod.name());
    let explain = |pod: &str| run(&world, &["explain", pod, "--confirm", "200ms", "--settle", "0s"]);
    let (code, text) = explain(&name(&pods[0]));
    assert_eq!(code, Some(1), "{text}");
    assert_says(
        &text,
        &[
            ": orphan, of ReplicaSet cart-",
            "yes its labels and its namespace's make it ambient",
            "So it should be captured.",
            "It fell out of the mesh",
            "its connections are refused",
            "Read by the agent of its node.",
            "ztunnel and istio-cni are Ready",
            "captured -> suspect",
            "MeshCaptureLost (warning)",
            "By hand it may be repaired: istio-cni is asked to enrol it again",
            "If that fails: evicted; ReplicaSet cart-",
            "The agent would have it healed in place, and its repairs are off.",
            "What to do next meshmedic repair shop/cart-",
        ],
    );
    let (code, text) = explain(&name(&pods[1]));
    assert_eq!(code, Some(0), "{text}");
    assert_says(&text, &[": captured, of", "What to do next Nothing."]);

    world.cluster.namespace("plain", false).unwrap();
    let plain = world.cluster.deployment("plain", "web", 1).unwrap().remove(0);
    let (code, text) = explain(&format!("plain/{}", plain.name()));
    assert_eq!(code, Some(0), "{text}");
    assert_says(
        &text,
        &[
            ": exempt, of",
            "no istio-cni has not enrolled it So it need not be captured.",
        ],
    );
    let (code, text) = explain("shop/nobody");
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("there is no pod \"nobody\" in namespace shop"),
        "{text}"
    );
    assert_eq!(explain("shop/A B").0, Some(2));
}

/// A restart is no gentle way, and the advice is not to make room for one.
#[test]
fn an_annotation_that_forbids_the_gentlest_way_is_named() {
    if !need::root("an_annotation_that_forbids_the_gentlest_way_is_named") {
        return;
    }
    let (world, pods, _agent) = an_orphan_of_two();
    let patch = json!({ "metadata": { "annotations": { "meshmedic.io/strategy": "restart" } } });
    let api = world.cluster.api();
    api.patch("pods", "shop", pods[0].name(), &patch).unwrap();
    let name = format!("shop/{}", pods[0].name());
    let (code, text) = run(
        &world,
        &["explain", &name, "--confirm", "200ms", "--settle", "0s"],
    );
    assert_eq!(code, Some(1), "{text}");
    assert_says(
        &text,
        &[
            "No heal in place: its annotation meshmedic.io/strategy allows only \"restart\".",
            "Let the annotation meshmedic.io/strategy of the pod or its namespace name the gentlest way too",
        ],
    );
    let (_, text) = run(&world, &["repair", &name, "--confirm", "200ms", "--settle", "0s"]);
    assert_says(
        &text,
        &["(heal passed over: its annotation meshmedic.io/strategy allows only \"restart\")"],
    );
}

/// A gap that was over before the pod was lost is remembered.
#[test]
fn a_lost_pod_that_was_made_while_istio_cni_was_not_called_is_told() {
    if !need::root("a_lost_pod_that_was_made_while_istio_cni_was_not_called_is_told") {
        return;
    }
    let cni = tempfile::tempdir().unwrap();
    let configure = |plugins: &str| {
        let text = format!("{{\"plugins\": [{{\"type\": \"ptp\"}}{plugins}]}}");
        std::fs::write(cni.path().join("10-node.conflist"), text).unwrap();
    };
    configure(",{\"type\": \"istio-cni\"}");
    let world = World::new(1);
    let before = world.deployment("before", 1);
    let mut agent = world.ready_agent(&["--host-cni-dir", cni.path().to_str().unwrap()]);
    install(&world, &agent);
    let gap = |agent: &Agent| {
        agent
            .report()
            .cni_folder
            .and_then(|folder| folder.gaps.iter().last().copied())
    };
    configure("");
    agent.until("the gap", |agent| gap(agent).is_some());
    // Nor does istio-cni find it afterwards.
    world.cluster.lose_enrolments(1);
    let late = world.cluster.deployment("shop", "late", 1).unwrap();
    await_orphan(&mut agent, &late[0]);
    configure(",{\"type\": \"istio-cni\"}");
    agent.until("the end of the gap", |agent| {
        gap(agent).is_some_and(|gap| gap.until.is_some())
    });
    let told = "did not call istio-cni: it was made without redirection";
    world.cluster.orphan(&before[0]).unwrap();
    await_orphan(&mut agent, &before[0]);
    for (pod, is) in [(&late[0], true), (&before[0], false)] {
        let (_, text) = run(&world, &["explain", &format!("shop/{}", pod.name())]);
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(flat.contains(told), is, "{text}");
    }
}
