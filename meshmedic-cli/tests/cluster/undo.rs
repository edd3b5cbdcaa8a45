// SPDX-License-Identifier: Apache-2.0
//! `meshmedic undo`: what repairs left on pods is taken back, and nothing else.

use std::process::Command;

use jiff::Timestamp;
use meshmedic_lab::{Pod, need};
use serde_json::{Value, json};

use crate::world::World;

const HEAL: &str = "meshmedic.io/heal";
const TOGGLE: &str = "meshmedic.io/toggle-restore";
const MODE: &str = "istio.io/dataplane-mode";

fn undo(world: &World, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_meshmedic"))
        .args(["undo", "-o", "json", "--settle", "0s", "--kubeconfig"])
        .arg(world.cluster.api().kubeconfig())
        .args(arguments)
        .output()
        .unwrap();
    let items = serde_json::from_slice(&output.stdout);
    let items = items.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), items)
}

fn metadata(world: &World, pod: &Pod) -> Value {
    let object = world.cluster.api().get("pods", pod.namespace(), pod.name());
    object.unwrap()["metadata"].clone()
}

fn annotate(world: &World, pod: &Pod, metadata: &Value) {
    let patch = json!({ "metadata": metadata });
    let api = world.cluster.api();
    api.patch("pods", pod.namespace(), pod.name(), &patch).unwrap();
}

/// What an ask of this time leaves.
fn ask(at: Timestamp) -> String {
    let at = Timestamp::from_second(at.as_second()).unwrap();
    format!("v1 1 {at} 7-8 c z")
}

#[test]
fn what_repairs_left_is_taken_back_and_nothing_else() {
    if !need::root("what_repairs_left_is_taken_back_and_nothing_else") {
        return;
    }
    let world = World::new(1);
    let asked = world.deployment("cart", 1).remove(0);
    let bare = world.cluster.bare_pod("shop", "bare", "node-a").unwrap();
    world.cluster.wait_captured("shop", "bare", 1).unwrap();
    let before = metadata(&world, &bare)["labels"].clone();
    let long_ago = "2026-01-01T00:00:00Z".parse().unwrap();
    annotate(
        &world,
        &asked,
        &json!({ "annotations": { HEAL: ask(long_ago), "team": "web" } }),
    );
    let out = json!({ "labels": { MODE: "none" }, "annotations": { TOGGLE: "{\"label\":null}" } });
    annotate(&world, &bare, &out);

    let (code, items) = undo(&world, &["-n", "shop"]);
    let actions: Vec<&str> = items
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        (code, &actions[..]),
        (Some(1), &["would-undo"; 2][..]),
        "{items:#}"
    );
    assert_eq!(metadata(&world, &bare)["labels"][MODE], "none");

    let (code, items) = undo(&world, &["--all", "--yes"]);
    assert_eq!(code, Some(0), "{items:#}");
    assert_eq!(metadata(&world, &bare)["labels"], before);
    let left = metadata(&world, &asked)["annotations"].clone();
    assert!(left[HEAL].is_null(), "{left:#}");
    assert_eq!(
        (
            left["team"].as_str(),
            left["ambient.istio.io/redirection"].as_str()
        ),
        (Some("web"), Some("enabled"))
    );
    assert!(world.is_untouched(&asked) && world.is_untouched(&bare));
    assert_eq!(undo(&world, &["--all", "--yes"]), (Some(0), json!([])));
}

#[test]
fn what_would_do_harm_is_not_taken_back() {
    if !need::root("what_would_do_harm_is_not_taken_back") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let out = json!({ "labels": { MODE: "none" }, "annotations": { TOGGLE: "{\"label\":null}" } });
    annotate(&world, &pods[0], &out);
    world.cluster.kill_ztunnel("node-a").unwrap();
    let name = format!("shop/{}", pods[0].name());
    let (code, items) = undo(&world, &[&name, "--yes"]);
    assert_eq!(
        (code, items[0]["action"].as_str()),
        (Some(1), Some("withheld")),
        "{items:#}"
    );
    assert_eq!(metadata(&world, &pods[0])["labels"][MODE], "none");

    // Nothing answers it while istio-cni does nothing.
    world.cluster.set_cni(false);
    let asked =
        json!({ "annotations": { HEAL: ask(Timestamp::now()), "ambient.istio.io/redirection": "pending" } });
    annotate(&world, &pods[1], &asked);
    let name = format!("shop/{}", pods[1].name());
    let (code, items) = undo(&world, &[&name, "--yes"]);
    assert_eq!(
        (code, items[0]["action"].as_str()),
        (Some(1), Some("withheld")),
        "{items:#}"
    );
}

#[test]
fn it_is_told_whose_pods_are_meant() {
    for arguments in [&["--yes"][..], &["-A", "--yes"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_meshmedic"))
            .args(["undo", "--kubeconfig", "/nonexistent"])
            .args(arguments)
            .output()
            .unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(words.contains("--all"), "{words}");
    }
}
