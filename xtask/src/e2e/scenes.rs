// SPDX-License-Identifier: Apache-2.0
//! What is shown on any cluster: enrolment, a scan, an ask, and an eviction under a disruption budget.

use anyhow::{Result, ensure};
use serde_json::json;

use super::cluster::{Cluster, Pod};

const APP: &str = "till";

pub(super) fn show(cluster: &Cluster) -> Result<()> {
    cluster.make_namespace()?;
    cluster.deploy(APP, 2, None)?;
    let pods = cluster.enrolled(APP, 2)?;
    scan(cluster, 0)?;
    cluster.say("two pods are enrolled, and a scan finds nothing");
    in_place(cluster, &pods[0])?;
    restart(cluster, &pods[1])
}

pub(super) fn scan(cluster: &Cluster, code: i32) -> Result<String> {
    cluster.meshmedic(&["scan", "--namespace", &cluster.namespace], code)
}

/// Repairs pods of the namespace by one way. It is opted out of the agents' repairs, not of a person's.
pub(super) fn repair(cluster: &Cluster, way: &str, code: i32) -> Result<String> {
    let chosen = ["--yes", "--despite-opt-out", "--strategy", way];
    cluster.meshmedic(
        &[&["repair", "--namespace", &cluster.namespace][..], &chosen].concat(),
        code,
    )
}

fn in_place(cluster: &Cluster, pod: &Pod) -> Result<()> {
    cluster.orphan(APP, pod)?;
    let found = scan(cluster, 1)?;
    ensure!(
        found.contains(&pod.name),
        "the scan does not name {}:\n{found}",
        pod.name
    );
    cluster.say("a pod is outside the mesh, and the scan names it");
    repair(cluster, "heal", 0)?;
    cluster.untouched(APP, pod)?;
    scan(cluster, 0)?;
    cluster.say("it was healed in place: the same pod, not started anew");
    Ok(())
}

fn restart(cluster: &Cluster, pod: &Pod) -> Result<()> {
    budget(cluster, 2)?;
    cluster.orphan(APP, pod)?;
    scan(cluster, 1)?;
    repair(cluster, "restart", 1)?;
    cluster.untouched(APP, pod)?;
    cluster.say("another is outside, and its disruption budget forbids a restart: it stays");
    budget(cluster, 1)?;
    repair(cluster, "restart", 0)?;
    let pods = cluster.enrolled(APP, 2)?;
    ensure!(
        pods.iter().all(|now| now.uid != pod.uid),
        "{} was not restarted",
        pod.name
    );
    scan(cluster, 0)?;
    cluster.say("the budget allows one: it was evicted, and its successor is in the mesh");
    Ok(())
}

/// A budget, once the cluster goes by it.
fn budget(cluster: &Cluster, available: usize) -> Result<()> {
    cluster.apply(&json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": APP, "namespace": cluster.namespace },
        "spec": { "minAvailable": available, "selector": { "matchLabels": { "app": APP } } },
    }))?;
    let allowed = (2 - available).to_string();
    cluster.until("the cluster to go by the budget", || {
        let status =
            "jsonpath={.metadata.generation} {.status.observedGeneration} {.status.disruptionsAllowed}";
        let told = cluster.in_namespace(&["get", "poddisruptionbudget", APP, "--output", status])?;
        let mut words = told.split(' ');
        let (made, seen, allows) = (words.next(), words.next(), words.next());
        Ok((made == seen && allows == Some(&allowed)).then_some(()))
    })
}
