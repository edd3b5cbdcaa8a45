// SPDX-License-Identifier: Apache-2.0
//! `meshmedic scan` of pods that really run, by every way.

use std::path::Path;
use std::process::Command;

use meshmedic_common::verdict::State;
use meshmedic_lab::api::documents;
use meshmedic_lab::{Exec, PodRef, need};
use serde_json::{Value, json};

use crate::world::World;

/// Scans as JSON; gives the exit code, too.
fn scan(world: &World, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_meshmedic"))
        .args([
            "scan",
            "-o",
            "json",
            "--confirm",
            "200ms",
            "--settle",
            "0s",
            "-n",
            "shop",
            "--kubeconfig",
        ])
        .arg(world.cluster.api().kubeconfig())
        .args(arguments)
        .output()
        .expect("the binary was built beside this test");
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), report)
}

#[test]
fn every_way_shows_what_the_kernel_has() {
    if !need::root("every_way_shows_what_the_kernel_has") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 3);
    world.cluster.orphan(&pods[0]).unwrap();
    let api = world.cluster.api();
    api.set_program("meshmedic", Path::new(env!("CARGO_BIN_EXE_meshmedic")))
        .unwrap();
    let manifest = documents(include_str!("../../../deploy/meshmedic-daemonset.yaml")).unwrap();
    let set = manifest
        .iter()
        .find(|object| object["kind"] == "DaemonSet")
        .unwrap();
    api.apply(set).unwrap();
    let mut agent = world.ready_agent(&[]);
    agent.until("the agent's verdict", |agent| {
        let mut pods = agent.report().pods.into_iter();
        pods.any(|pod| pod.state == State::Orphan)
    });
    api.set_forward(PodRef::all_in("meshmedic"), 9101, agent.status())
        .unwrap();

    let expected = |way: &str, owner: &str| {
        let (code, report) = scan(&world, &["--via", way]);
        assert_eq!(code, Some(1), "{way}: {report:#}");
        let orphans = report["orphans"].as_array().unwrap();
        assert_eq!(orphans.len(), 1, "{way}: {report:#}");
        let orphan = &orphans[0];
        assert_eq!(
            (
                orphan["name"].as_str(),
                orphan["traffic"].as_str(),
                orphan["via"].as_str()
            ),
            (Some(pods[0].name()), Some("fail-closed"), Some(way)),
            "{report:#}"
        );
        assert_eq!(report["healthy"], 2, "{way}: {report:#}");
        for pod in report["pods"].as_array().unwrap() {
            assert_eq!(pod["redirection"], "routed", "{way}: {report:#}");
            if pod["state"] == "captured" {
                assert_eq!(pod["owner"], owner, "{way}: {report:#}");
            }
        }
        report
    };
    expected("exec", "unproven");
    expected("agent", "ztunnel");
    // Where there is no cat, our own image prints the tables by itself.
    api.set_exec(PodRef::all_in("shop"), Exec::distroless()).unwrap();
    let report = expected("probe", "unproven");
    assert_eq!(report["probed"], json!(3));
}
