// SPDX-License-Identifier: Apache-2.0
use meshmedic_common::report::Overlay;
use serde_json::json;

use crate::doctor::fixtures::{assert_finds, assert_passes, assert_skipped, findings, had, healthy, pod};
use crate::doctor::snapshot::Snapshot;

fn overlay<'s>(snapshot: &'s mut Snapshot, node: &str) -> &'s mut Option<Overlay> {
    &mut had(had(&mut snapshot.agents).get_mut(node).unwrap()).overlay
}

#[test]
fn a_node_without_the_interface_that_others_have_is_found_once() {
    let mut snapshot = healthy();
    *overlay(&mut snapshot, "node-b") = Some(Overlay::default());
    let finding = assert_finds("MM0901", &snapshot, "Node node-b");
    assert!(finding.problem.contains("flannel"), "{finding:?}");
    assert_passes("MM0902", &snapshot);
    let labels = json!({ "app": "flannel" });
    let flannel = pod(
        "kube-flannel",
        "kube-flannel-ds-x",
        "node-b",
        "192.168.0.11",
        labels,
        ("DaemonSet", "kube-flannel-ds"),
    );
    snapshot.add_pod(flannel);
    let finding = assert_finds("MM0901", &snapshot, "Node node-b");
    assert!(
        finding
            .commands()
            .concat()
            .contains("delete pod -n kube-flannel kube-flannel-ds-x")
    );
}

#[test]
fn a_node_that_does_not_listen_is_found() {
    let mut snapshot = healthy();
    overlay(&mut snapshot, "node-c")
        .as_mut()
        .unwrap()
        .udp_ports
        .clear();
    assert_finds("MM0902", &snapshot, "Node node-c");
    assert_passes("MM0901", &snapshot);
}

#[test]
fn where_there_is_no_overlay_or_no_agreement_nothing_is_missed() {
    let mut snapshot = healthy();
    for node in ["node-a", "node-b", "node-c"] {
        *overlay(&mut snapshot, node) = Some(Overlay::default());
    }
    assert_passes("MM0901", &snapshot);
    assert_passes("MM0902", &snapshot);
    // One of three has what the others have not: Geneve of a tool, say.
    overlay(&mut snapshot, "node-a")
        .as_mut()
        .unwrap()
        .interfaces
        .push("genev_sys_6081".to_owned());
    assert_passes("MM0901", &snapshot);
}

#[test]
fn interfaces_of_one_kind_may_be_numbered_otherwise() {
    let mut snapshot = healthy();
    overlay(&mut snapshot, "node-a").as_mut().unwrap().interfaces = vec!["flannel.4096".to_owned()];
    assert!(findings("MM0901", &snapshot).is_empty());
}

#[test]
fn agents_that_do_not_tell_leave_it_open() {
    let mut snapshot = healthy();
    for node in ["node-a", "node-b", "node-c"] {
        *overlay(&mut snapshot, node) = None;
    }
    assert!(assert_skipped("MM0901", &snapshot).contains("do not report it"));
}

fn fails(snapshot: &mut Snapshot, which: impl Fn(&str, &str) -> bool) {
    for one in had(&mut snapshot.reach) {
        if which(&one.from, &one.to) {
            (one.reached, one.detail) = (Some(false), Some("no answer within 2 s".to_owned()));
        }
    }
}

#[test]
fn a_node_that_is_cut_off_is_found_and_not_those_that_tried_it() {
    let mut snapshot = healthy();
    fails(&mut snapshot, |from, to| from == "node-b" || to == "node-b");
    let finding = assert_finds("MM0903", &snapshot, "Node node-b");
    assert_eq!(finding.evidence.len(), 4, "{finding:?}");
}

#[test]
fn a_pair_that_is_parted_is_found_as_such() {
    let mut snapshot = healthy();
    fails(&mut snapshot, |from, to| (from, to) == ("node-a", "node-c"));
    let finding = assert_finds("MM0903", &snapshot, "Node node-a");
    assert!(finding.problem.contains("some other node"), "{finding:?}");
}

#[test]
fn agents_that_could_not_be_asked_prove_nothing() {
    let mut snapshot = healthy();
    for one in had(&mut snapshot.reach) {
        (one.reached, one.detail) = (None, Some("its agent does not know how".to_owned()));
    }
    assert!(assert_skipped("MM0903", &snapshot).contains("does not know how"));
}
