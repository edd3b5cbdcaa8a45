// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench --doctor`: how long it takes to judge a large cluster from its snapshot.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::demo::build;

const NAMESPACES: usize = 50;
const PODS: usize = 10_000;
const POLICIES: usize = 2_000;
const NODES: usize = 100;
/// Apps in a namespace, each with several pods and policies of its own.
const APPS: usize = 20;
const LONG_AGO: &str = "2026-01-01T00:00:00Z";
/// One policy in so many forgets HBONE, so that there is something to find.
const FAULTY: usize = 400;

/// Writes the snapshot, judges it with the binary, and prints what it took beside what had to be decided.
pub(super) fn run() -> anyhow::Result<()> {
    build(&["meshmedic-cli"])?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("large.json");
    fs::write(&file, snapshot().to_string()).with_context(|| file.display().to_string())?;
    let size = fs::metadata(&file)?.len() / 1024 / 1024;
    let binary = std::env::current_exe()?.with_file_name("meshmedic");
    let begun = Instant::now();
    let output = Command::new(&binary)
        .args(["doctor", "-o", "json", "--from"])
        .arg(&file)
        .output()
        .with_context(|| binary.display().to_string())?;
    let took = begun.elapsed();
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let found: usize = report["checks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|check| Some(check["findings"].as_array()?.len()))
        .sum();
    super::say(&format!(
        "{PODS} pods, {POLICIES} NetworkPolicies, a snapshot of {size} MiB:\n\
         {:.2} s from start to end, {} pairs decided, {found} findings",
        took.as_secs_f64(),
        report["decided"]["pairs"],
    ))
}

fn snapshot() -> Value {
    let namespaces: Vec<Value> = (0..NAMESPACES)
        .map(|at| namespace(&format!("ns-{at}"), "ambient"))
        .chain([namespace("istio-system", "none")])
        .collect();
    let nodes: Vec<Value> = (0..NODES)
        .map(|at| json!({ "metadata": { "name": format!("node-{at}") } }))
        .collect();
    let mut pods: Vec<Value> = (0..PODS).map(pod).collect();
    for node in 0..NODES {
        for (name, key) in [("ztunnel", "app"), ("istio-cni-node", "k8s-app")] {
            pods.push(component(name, key, node));
        }
    }
    json!({
        "kind": "DoctorSnapshot", "version": 1, "taken": "2026-01-02T00:00:00Z",
        "namespaces": { "had": namespaces }, "nodes": { "had": nodes }, "pods": { "had": pods },
        "services": { "had": services() },
        "networkPolicies": { "had": (0..POLICIES).map(policy).collect::<Vec<_>>() },
        "daemonSets": { "had": [] }, "deployments": { "had": [] }, "events": { "had": [] },
        "cniConfig": { "had": { "EXCLUDE_NAMESPACES": "kube-system" } },
    })
}

fn namespace(name: &str, mode: &str) -> Value {
    let labels = json!({ "kubernetes.io/metadata.name": name, "istio.io/dataplane-mode": mode });
    json!({ "metadata": { "name": name, "labels": labels } })
}

fn metadata(namespace: &str, name: &str, labels: &Value, owner: (&str, &str)) -> Value {
    json!({
        "namespace": namespace, "name": name, "uid": format!("uid-{namespace}-{name}"), "labels": labels,
        "creationTimestamp": LONG_AGO,
        "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": owner.0, "name": owner.1, "uid": owner.1, "controller": true,
        }],
    })
}

fn status(at: usize) -> Value {
    let address = format!("10.{}.{}.{}", at / 65_536, at / 256 % 256, at % 256);
    json!({
        "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
        "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": LONG_AGO }],
    })
}

fn pod(at: usize) -> Value {
    let (space, app) = (
        format!("ns-{}", at % NAMESPACES),
        format!("app-{}", at / NAMESPACES % APPS),
    );
    let labels = json!({ "app": app, "pod-template-hash": "7d4b" });
    let mut metadata = metadata(
        &space,
        &format!("{app}-7d4b-{at}"),
        &labels,
        ("ReplicaSet", &format!("{app}-7d4b")),
    );
    metadata["annotations"] = json!({ "ambient.istio.io/redirection": "enabled" });
    json!({
        "metadata": metadata,
        "spec": {
            "nodeName": format!("node-{}", at % NODES),
            "containers": [{ "name": "app", "ports": [{ "name": "http", "containerPort": 8080 }] }],
        },
        "status": status(at),
    })
}

fn component(name: &str, key: &str, node: usize) -> Value {
    let labels = json!({ key: name });
    json!({
        "metadata": metadata("istio-system", &format!("{name}-{node}"), &labels, ("DaemonSet", name)),
        "spec": { "nodeName": format!("node-{node}"), "containers": [{ "name": "app" }] },
        "status": status(PODS + node),
    })
}

fn services() -> Vec<Value> {
    let mut services = Vec::new();
    for space in 0..NAMESPACES {
        for app in 0..APPS {
            services.push(json!({
                "metadata": { "namespace": format!("ns-{space}"), "name": format!("app-{app}") },
                "spec": {
                    "selector": { "app": format!("app-{app}") },
                    "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }],
                },
            }));
        }
    }
    services
}

/// Of each namespace some policies select an app, and admit an app of another namespace or a block of addresses.
fn policy(at: usize) -> Value {
    let (space, app) = (at % NAMESPACES, at / NAMESPACES % APPS);
    let mut ports = vec![json!({ "port": "http" }), json!({ "port": 15008 })];
    if at.is_multiple_of(FAULTY) {
        ports.pop();
    }
    let peer = if at.is_multiple_of(3) {
        json!({ "ipBlock": { "cidr": "10.0.0.0/9", "except": [format!("10.{}.0.0/16", at % 100)] } })
    } else {
        let from = format!("ns-{}", (space + at) % NAMESPACES);
        json!({
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": from } },
            "podSelector": { "matchExpressions": [
                { "key": "app", "operator": "In", "values": [format!("app-{app}"), "app-0", "app-1"] },
            ] },
        })
    };
    json!({
        "metadata": { "namespace": format!("ns-{space}"), "name": format!("policy-{at}") },
        "spec": {
            "podSelector": { "matchLabels": { "app": format!("app-{app}") } },
            "policyTypes": ["Ingress"],
            "ingress": [
                { "from": [peer], "ports": ports },
                { "from": [{ "ipBlock": { "cidr": "169.254.7.127/32" } }] },
            ],
        },
    })
}
