// SPDX-License-Identifier: Apache-2.0
//! `scan --behavioral`: whom the ztunnels' logs accuse, and what a look at those pods gives.

use std::path::Path;

use jiff::Timestamp;
use meshmedic_lab::{Exec, Fault, Log};
use serde_json::{Value, json};

use crate::world::{Ran, World, assert_says, meshmedic};

/// The pods of the recordings, and their addresses.
const PODS: [(&str, &str); 4] = [
    ("pod-1", "10.77.0.11"),
    ("pod-2", "10.77.0.12"),
    ("pod-3", "10.77.0.13"),
    ("pod-u1", "10.77.0.201"),
];
const IDLE: &str = "an orphan without traffic leaves no trace in any log";

/// A mesh whose pods are those of the recordings; `pod-u1` answers so, the others are captured.
fn recorded(accused: Exec) -> World {
    let world = World::new();
    let ambient = serde_json::json!({ "metadata": { "labels": { "istio.io/dataplane-mode": "ambient" } } });
    world.api.patch("namespaces", "", "default", &ambient).unwrap();
    for (name, address) in PODS {
        let exec = if name == "pod-u1" {
            accused.clone()
        } else {
            Exec::captured()
        };
        world.api.set_exec(("default", name), exec).unwrap();
        let mut pod = world.enrolled(name);
        pod["metadata"]["namespace"] = "default".into();
        world.create_at(address, pod, "2026-01-01T00:00:00Z");
    }
    world
}

/// A recording as if it were of just now.
fn recording(name: &str) -> String {
    let path = "../meshmedic-common/tests/fixtures/ztunnel-logs";
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(path)
        .join(format!("scn.{name}.log"));
    let text = std::fs::read_to_string(&path).unwrap();
    let now = format!("{:.6}", Timestamp::now());
    let length = "2026-11-21T09:13:51.166879Z".len();
    let mut out = String::new();
    for line in text.lines() {
        let at = line.find("2026-11-21T").unwrap();
        out += &format!("{}{now}{}\n", &line[..at], &line[at + length..]);
    }
    out
}

fn log(world: &World, ztunnel: &str, text: &str) {
    world
        .api
        .set_log(("istio-system", ztunnel), Log::text(text))
        .unwrap();
}

fn scan(world: &World, arguments: &[&str]) -> Ran {
    world.scan(&[&["--behavioral"], arguments].concat())
}

fn accused(report: &Value) -> Vec<(&str, &str)> {
    let all = report["candidates"].as_array().unwrap();
    all.iter()
        .map(|candidate| {
            (
                candidate["name"].as_str().unwrap(),
                candidate["state"].as_str().unwrap(),
            )
        })
        .collect()
}

#[test]
fn an_orphan_that_is_talked_to_is_accused_and_proved() {
    for (form, address) in [
        ("plain", "dst.addr=10.77.0.201:15008"),
        ("json", r#""dst.addr":"10.77.0.201:15008""#),
    ] {
        let world = recorded(Exec::orphan());
        let refused = recording(&format!("dest-not-captured-refused.{form}"));
        log(&world, "ztunnel-x", &format!("{refused}{refused}"));
        let ran = scan(&world, &["-o", "json"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert_says(
            &ran.stderr,
            &["1 candidate in the last 15m of 1 ztunnel log; looking at 1"],
        );
        let report = ran.json();
        assert_eq!(accused(&report), [("pod-u1", "orphan")]);
        assert_eq!(
            (report["checked"].as_u64(), report["orphans"][0]["via"].as_str()),
            (Some(1), Some("exec"))
        );
        let evidence = &report["candidates"][0]["evidence"][0];
        assert_eq!(
            (
                evidence["signature"].as_str(),
                evidence["count"].as_u64(),
                evidence["ztunnels"][0].as_str()
            ),
            (Some("hbone-refused"), Some(2), Some("istio-system/ztunnel-x"))
        );
        assert!(evidence["sample"].as_str().unwrap().contains("10.77.0.201"));
        assert!(
            evidence["last"].is_string() && evidence["suspicion"] == "not-captured",
            "{evidence}"
        );
        assert_eq!(
            (
                report["logs"]["read"].as_u64(),
                report["logs"]["complete"].as_bool()
            ),
            (Some(1), Some(true))
        );
        let ran = scan(&world, &[]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert_says(
            &ran.stdout,
            &[
                "default/pod-u1 orphan",
                "What ztunnel's logs of the last 15m say:",
                "default/pod-u1 (orphan):",
                "hbone-refused 2 times",
                "said by istio-system/ztunnel-x",
                address,
                IDLE,
                "1 pod checked: 1 orphan.",
            ],
        );
        // The same for YAML, and for names.
        assert_says(
            &scan(&world, &["-o", "yaml"]).stdout,
            &["signature: hbone-refused", "count: 2"],
        );
        assert_eq!(scan(&world, &["-o", "name"]).stdout, "default/pod-u1\n");
    }
}

#[test]
fn an_accused_pod_that_is_captured_by_now_is_no_finding() {
    let world = recorded(Exec::captured());
    world.ztunnel_called("ztunnel-y", "2026-01-01T00:00:00Z");
    log(&world, "ztunnel-x", &recording("dest-not-captured-refused.plain"));
    log(&world, "ztunnel-y", &recording("rbac-plaintext-no-identity.json"));
    let ran = scan(&world, &["-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let report = ran.json();
    assert_eq!(accused(&report), [("pod-u1", "captured")]);
    assert_eq!(report["candidates"][0]["evidence"].as_array().unwrap().len(), 2);
    let ran = scan(&world, &["--since", "1h"]);
    assert_says(
        &ran.stdout,
        &[
            "default/pod-u1 captured",
            "logs of the last 1h",
            "plaintext-rejected once",
        ],
    );
    let requests = world.api.requests().unwrap();
    let execs = requests
        .iter()
        .filter(|request| request.full_resource() == "pods/exec");
    assert_eq!(execs.count(), 2, "nobody else was looked at");
}

#[test]
fn a_log_that_cannot_be_read_leaves_the_result_open() {
    let world = recorded(Exec::captured());
    world.ztunnel_called("ztunnel-y", "2026-01-01T00:00:00Z");
    log(&world, "ztunnel-x", &recording("hbone-ok.plain"));
    let refusal = Fault::status(403).resource("pods/log").name("ztunnel-y");
    let refusal = world.api.fault(refusal).unwrap();
    for format in ["table", "wide", "json", "yaml", "name"] {
        let ran = scan(&world, &["-o", format]);
        assert_eq!(ran.code, 3, "{format}: {ran:?}");
        if format != "name" {
            assert_says(
                &ran.stdout,
                &["the log of istio-system/ztunnel-y could not be read to the end"],
            );
        }
    }
    let report = scan(&world, &["-o", "json"]).json();
    assert_eq!(
        (
            report["logs"]["read"].as_u64(),
            report["logs"]["complete"].as_bool()
        ),
        (Some(1), Some(false))
    );
    assert_eq!(report["logs"]["failed"][0]["ztunnel"], "istio-system/ztunnel-y");
    assert_says(
        &scan(&world, &[]).stdout,
        &["accuse no pod, as far as they could be read."],
    );
    // Something worse counts for more.
    world.api.set_exec(("default", "pod-u1"), Exec::orphan()).unwrap();
    log(&world, "ztunnel-x", &recording("dest-not-captured-refused.plain"));
    assert_eq!(scan(&world, &[]).code, 1);
    drop(refusal);
    log(&world, "ztunnel-y", "");
    assert_eq!(scan(&world, &["--no-probe", "default/pod-1"]).code, 0);
}

#[test]
fn whoever_may_not_read_logs_is_told() {
    let world = recorded(Exec::captured());
    world.ztunnel_called("ztunnel-y", "2026-01-01T00:00:00Z");
    let rules = serde_json::json!([
        { "apiGroups": [""], "resources": ["pods", "namespaces", "configmaps"], "verbs": ["get", "list"] },
    ]);
    let ann = world.user(rules);
    let ran = world.scan_as(&ann, &["--behavioral"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_says(
        &ran.stdout,
        &[
            "the logs of istio-system/ztunnel-x, istio-system/ztunnel-y could not be read to the end",
            "may not get pods/log",
            "0 logs were read, 2 failed.",
        ],
    );
}

#[test]
fn what_looks_alike_accuses_nobody() {
    let world = recorded(Exec::orphan());
    // STRICT turns away whoever is outside the mesh.
    let strict = recording("rbac-plaintext-no-identity.plain")
        .replace("10.77.0.201", "10.99.0.1")
        .replace(
            " src.workload=\"pod-u1\" src.namespace=\"default\" src.cluster=\"Kubernetes\"",
            "",
        )
        .replace(
            "allow policies exist, but none allowed",
            "explicitly denied by: istio-system/istio_converted_static_strict",
        );
    let mut text = strict;
    for name in [
        "networkpolicy-timeout.plain",
        "networkpolicy-timeout.json",
        "rbac-wrong-identity.plain",
        "app-port-closed.plain",
        "dest-address-gone.plain",
        "hbone-ok.plain",
    ] {
        text += &recording(name);
    }
    // A configuration dump is no access line.
    text += &format!("{}\n", "x".repeat(20_000));
    log(&world, "ztunnel-x", &text);
    let ran = scan(&world, &["-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let report = ran.json();
    assert_eq!(accused(&report), []);
    assert_eq!(report["logs"]["overlong"], 1);
    assert_eq!(
        report["logs"]["apart"]["unmeshed-client"]["count"], 1,
        "{report:#}"
    );
    assert_eq!(report["logs"]["apart"]["network-policy-timeout"]["count"], 2);
    let ran = scan(&world, &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_says(
        &ran.stdout,
        &[
            "they accuse no pod.",
            IDLE,
            "No pod was looked at; 1 log was read, 0 failed.",
        ],
    );
    assert_says(
        &ran.stderr,
        &["0 candidates in the last 15m of 1 ztunnel log; looking at 0"],
    );
}

#[test]
fn the_whole_cluster_says_who_is_who_whatever_was_asked_for() {
    let world = recorded(Exec::orphan());
    log(&world, "ztunnel-x", &recording("dest-not-captured-refused.plain"));
    world.pod("cart-1", Exec::orphan());
    let mut other = world.enrolled("till-1");
    other["metadata"]["labels"] = json!({ "app": "till" });
    world.create(other, "2025-01-01T00:00:00Z");
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-z" } });
    world.api.create(&node).unwrap();
    for arguments in [
        &["-n", "shop"][..],
        &["-l", "app=till"],
        &["--node", "node-z"],
        &["shop/cart-1"],
    ] {
        let ran = scan(&world, &[arguments, &["-o", "json"]].concat());
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        let report = ran.json();
        assert_eq!(accused(&report), [], "{arguments:?}");
        assert_eq!(report["logs"]["elsewhere"], 1, "{arguments:?}");
    }
    assert_says(
        &scan(&world, &["-n", "shop"]).stdout,
        &[
            "they accuse none of the pods that were asked for.",
            "1 pod beyond what was asked for: accused too",
        ],
    );
    for arguments in [&["-n", "default"][..], &["-l", "app=cart"], &["default/pod-u1"]] {
        assert_eq!(scan(&world, arguments).code, 1, "{arguments:?}");
    }
    // A pod that is not there stays unverifiable, as in any scan.
    assert_eq!(scan(&world, &["shop/cart-2"]).code, 3);
}

#[test]
fn a_candidate_counts_as_named_for_probes() {
    let world = recorded(Exec::distroless());
    log(&world, "ztunnel-x", &recording("dest-not-captured-refused.plain"));
    world
        .api
        .set_ephemeral(
            ("default", "pod-u1"),
            meshmedic_lab::Ephemeral::runs(Exec::orphan()),
        )
        .unwrap();
    assert_eq!(scan(&world, &["--no-probe"]).code, 3);
    let ran = scan(&world, &["--probe-image", "busybox:1", "-o", "json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(ran.json()["orphans"][0]["via"], "probe");
}

#[test]
fn a_candidate_that_went_away_while_logs_were_read_is_no_finding() {
    let world = recorded(Exec::orphan());
    log(&world, "ztunnel-x", &recording("dest-not-captured-refused.plain"));
    let gone = Fault::status(404).verb("get").resource("pods").name("pod-u1");
    let gone = world.api.fault(gone).unwrap();
    let ran = scan(&world, &["-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(accused(&ran.json()), [("pod-u1", "exempt")]);
    assert_eq!(ran.json()["candidates"][0]["reason"], "deleting");
    assert!(gone.hits().unwrap() > 0);
}

#[test]
fn without_a_ztunnel_there_is_nobody_to_listen_to() {
    let world = World::new();
    world.kill_ztunnel();
    let ran = scan(&world, &[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, ""), "{ran:?}");
    assert_says(&ran.stderr, &["no ztunnel found"]);
    // A label anybody can have.
    let pod = world.template("shop", "liar", serde_json::json!({ "app": "ztunnel" }));
    world.create(pod, "2026-01-01T00:00:00Z");
    let ran = scan(&world, &[]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_says(
        &ran.stderr,
        &[
            "no ztunnel is in istio-system, kube-system",
            "Pod shop/liar claims to be ztunnel: what Istio's charts install is made by a DaemonSet",
        ],
    );
}

#[test]
fn since_is_about_logs() {
    for arguments in [
        &["scan", "--since", "15m"][..],
        &["scan", "--behavioral", "--since", "10ms"],
        &["scan", "--behavioral", "--watch"],
    ] {
        assert_eq!(
            meshmedic(arguments).output().unwrap().status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
}
