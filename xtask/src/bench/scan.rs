// SPDX-License-Identifier: Apache-2.0
//! How long `meshmedic scan` takes, against asking one pod after the other, and how much memory it needs.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use meshmedic_lab::{Cluster, ClusterSpec, Exec, PodRef, wait};
use serde_json::{Value, json};

use super::figures::{Column, Part, Row};
use super::rest::{Agent, program};
use crate::manifests::apply_with_agents;

/// Pods in one scan, and in the scan by which the growth of memory is seen.
const PODS: usize = 500;
const MANY: usize = 5_000;
/// How long each pod takes to answer.
const DELAY: Duration = Duration::from_millis(50);
/// Nodes with an agent each, for the scan by agents.
const NODES: usize = 5;
/// A scan takes at most this part of the time that one after the other takes.
const EXEC_SHARE: f64 = 10.0;
const AGENT_SHARE: f64 = 50.0;
const DEADLINE: Duration = Duration::from_secs(180);
/// Where the agents serve their report.
const PORT: u16 = 9101;

/// Scans a cluster in which nothing is wrong.
pub(super) fn measure() -> anyhow::Result<Part> {
    let cluster = Cluster::start(ClusterSpec {
        nodes: NODES,
        ..ClusterSpec::default()
    })?;
    // First, while the cluster is small: its controllers look at every pod there is.
    let agent = by_agents(&cluster)?;
    for (namespace, count) in [("few", PODS), ("many", MANY)] {
        cluster.namespace(namespace, true)?;
        cluster.api().populate(&pod(namespace), count)?;
        let answer = Exec::captured().after(DELAY);
        cluster.api().set_exec(PodRef::all_in(namespace), answer)?;
    }
    let (serial, _) = scan(&cluster, "few", &["--via", "exec", "--concurrency", "1"], PODS)?;
    let (exec, mib_few) = scan(&cluster, "few", &["--via", "exec"], PODS)?;
    let (_, mib_many) = scan(&cluster, "many", &["--via", "exec"], MANY)?;
    let row = |what: &str, took: f64| Row::new(what, Column::Both, "s", &[took]).beside(&[took], &[serial]);
    Ok(Part {
        rows: vec![
            row("a scan of 500 pods that take 50 ms each, by exec", exec).within_share(EXEC_SHARE),
            row("a scan of 500 pods by five agents", agent).within_share(AGENT_SHARE),
            Row::new(
                "the scan's memory at its peak, 500 pods",
                Column::Both,
                "MiB",
                &[mib_few],
            ),
            Row::new(
                "the scan's memory at its peak, 5,000 pods",
                Column::Both,
                "MiB",
                &[mib_many],
            ),
        ],
        plots: Vec::new(),
    })
}

fn by_agents(cluster: &Cluster) -> anyhow::Result<f64> {
    apply_with_agents(cluster)?;
    cluster.namespace("real", true)?;
    let each = PODS / NODES;
    for node in cluster.nodes() {
        cluster.schedule_on(Some(node.name()));
        let name = format!("on-{}", node.name());
        cluster.deployment("real", &name, each)?;
        cluster.wait_captured("real", &name, each)?;
    }
    let mut agents = Vec::new();
    for node in cluster.nodes() {
        let agent = Agent::start(cluster, node.name(), &["--auto-repair", "--repair-stuck"])?;
        let query = format!("fieldSelector=spec.nodeName%3D{}", node.name());
        let mut pods = Vec::new();
        wait::until("the DaemonSet's pod", DEADLINE, || {
            pods = cluster
                .api()
                .list_where("pods", "meshmedic", &query)
                .unwrap_or_default();
            !pods.is_empty()
        })?;
        let name = pods[0]["metadata"]["name"].as_str().context("a pod has a name")?;
        cluster
            .api()
            .set_forward(("meshmedic", name), PORT, agent.address())?;
        agents.push(agent);
    }
    // Until every agent has judged its pods, the others would be asked by exec.
    let mut took = Ok(0.0);
    wait::until("the agents to know all pods", DEADLINE, || {
        took = scan(cluster, "real", &["--via", "agent"], PODS).map(|(took, _)| took);
        took.is_ok()
    })
    .or_else(|late| {
        took.as_ref()
            .map(drop)
            .map_err(|error| anyhow::anyhow!("{late}: {error:#}"))
    })?;
    Ok(scan(cluster, "real", &["--via", "agent"], PODS)?.0)
}

/// A pod of the mesh for which nothing runs.
fn pod(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "pod", "namespace": namespace,
            "annotations": { "ambient.istio.io/redirection": "enabled" },
        },
        "spec": {
            "nodeName": "node-a",
            "containers": [{ "name": "app", "image": "example.com/app:1" }],
        },
    })
}

/// The seconds that a scan took, and the most memory that it had, in MiB.
fn scan(cluster: &Cluster, namespace: &str, flags: &[&str], pods: usize) -> anyhow::Result<(f64, f64)> {
    let start = Instant::now();
    let mut child = Command::new(program()?)
        .args([
            "scan",
            "-n",
            namespace,
            "-o",
            "json",
            "--settle",
            "0s",
            "--kubeconfig",
        ])
        .arg(cluster.api().kubeconfig())
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the scan")?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0.0_f64;
    let output = std::thread::spawn({
        let stdout = child.stdout.take().context("the scan writes nothing")?;
        move || std::io::read_to_string(stdout)
    });
    while child.try_wait()?.is_none() {
        peak = peak.max(peak_kib(Path::new(&status)).unwrap_or(0.0));
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = start.elapsed().as_secs_f64();
    let text = output
        .join()
        .map_err(|_| anyhow::anyhow!("the reader of the scan broke off"))??;
    let report: Value = serde_json::from_str(&text).context("the scan wrote no JSON")?;
    ensure!(
        report["healthy"] == pods,
        "the scan of {namespace} {flags:?} found {} of {pods} pods captured",
        report["healthy"]
    );
    Ok((took, peak / 1024.0))
}

/// The most memory that a process held so far.
pub(super) fn peak_kib(status: &Path) -> Option<f64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
