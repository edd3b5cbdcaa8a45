// SPDX-License-Identifier: Apache-2.0
//! Repairs by the label: nothing restarts, and the label is as it was, whatever comes in between.

use std::process::Stdio;

use meshmedic_lab::{need, wait};
use serde_json::json;

use super::{command, interrupt, object, read, repair};
use crate::process::PATIENCE;
use crate::world::World;

#[test]
fn a_toggle_restarts_nothing_and_leaves_nothing() {
    if !need::root("a_toggle_restarts_nothing_and_leaves_nothing") {
        return;
    }
    let world = World::new(1);
    let bare = world.cluster.bare_pod("shop", "bare", "node-a").unwrap();
    world.cluster.wait_captured("shop", "bare", 1).unwrap();
    let before = object(&world, &bare)["metadata"]["labels"].clone();
    world.cluster.orphan(&bare).unwrap();
    let (code, items) = repair(&world, &["shop/bare", "--yes", "--strategy", "toggle"]);
    assert_eq!(
        (code, items[0]["action"].as_str()),
        (Some(0), Some("repaired")),
        "{items:#}"
    );
    let after = world.cluster.wait_captured("shop", "bare", 1).unwrap();
    assert_eq!(after[0].uid(), bare.uid());
    let object = object(&world, &bare);
    assert_eq!(object["metadata"]["labels"], before);
    assert!(object["metadata"]["annotations"]["meshmedic.io/toggle-restore"].is_null());
    assert!(world.leases_are_free());
}

#[test]
fn what_another_toggle_left_is_put_back() {
    if !need::root("what_another_toggle_left_is_put_back") {
        return;
    }
    let world = World::new(1);
    let bare = world.cluster.bare_pod("shop", "bare", "node-a").unwrap();
    world.cluster.wait_captured("shop", "bare", 1).unwrap();
    let patch = json!({ "metadata": {
        "labels": { "istio.io/dataplane-mode": "none" },
        "annotations": { "meshmedic.io/toggle-restore": "{\"label\":null}" },
    }});
    let api = world.cluster.api();
    api.patch("pods", "shop", "bare", &patch).unwrap();
    let arguments = ["shop/bare", "--yes", "--strategy", "toggle"];
    let (code, items) = repair(&world, &arguments);
    assert_eq!(
        (code, items[0]["action"].as_str()),
        (Some(0), Some("repaired")),
        "{items:#}"
    );
    let object = object(&world, &bare);
    assert!(
        object["metadata"]["labels"]["istio.io/dataplane-mode"].is_null(),
        "{object:#}"
    );
    assert!(object["metadata"]["annotations"]["meshmedic.io/toggle-restore"].is_null());
    let (code, items) = repair(&world, &arguments);
    assert_eq!((code, items), (Some(0), json!([])), "nothing is left");
}

#[test]
fn an_interrupted_toggle_puts_the_label_back_first() {
    if !need::root("an_interrupted_toggle_puts_the_label_back_first") {
        return;
    }
    let world = World::new(1);
    let bare = world.cluster.bare_pod("shop", "bare", "node-a").unwrap();
    world.cluster.wait_captured("shop", "bare", 1).unwrap();
    let before = object(&world, &bare)["metadata"]["labels"].clone();
    world.cluster.orphan(&bare).unwrap();
    // istio-cni does nothing, so the toggle waits half done.
    world.cluster.set_cni(false);
    let mut command = command(&world, &["shop/bare", "--yes", "--strategy", "toggle"]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait::until("the label to be away", PATIENCE, || {
        object(&world, &bare)["metadata"]["labels"]["istio.io/dataplane-mode"] == "none"
    })
    .unwrap();
    interrupt(&child);
    let (code, items) = read(&child.wait_with_output().unwrap());
    assert_eq!(
        (code, items[0]["action"].as_str()),
        (Some(1), Some("failed")),
        "{items:#}"
    );
    assert!(
        items[0]["detail"].as_str().unwrap().contains("interrupted"),
        "{items:#}"
    );
    let object = object(&world, &bare);
    assert_eq!(object["metadata"]["labels"], before);
    assert!(object["metadata"]["annotations"]["meshmedic.io/toggle-restore"].is_null());
}
