// SPDX-License-Identifier: Apache-2.0
//! What is shown on any cluster: enrolment, a scan, an ask, and an eviction under a disruption budget.

use std::slice;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::cluster::{Cluster, Pod};

const APP: &str = "till";

pub(super) fn show(cluster: &Cluster) -> Result<()> {
    cluster.make_namespace()?;
    cluster.deploy(APP, 2, None)?;
    let pods = cluster.enrolled(APP, 2)?;
    cluster.proved(&pods, "captured")?;
    cluster.say("two pods are enrolled, and a scan says captured of both");
    in_place(cluster, &pods[0])?;
    restart(cluster, &pods[1])
}

/// Repairs pods of the namespace by one way, and gives what became of each. It is opted out of the agents' repairs, not
/// of a person's.
pub(super) fn repair(cluster: &Cluster, way: &str) -> Result<Vec<Value>> {
    let chosen = ["--yes", "--despite-opt-out", "--strategy", way];
    let words = [&["repair", "--namespace", &cluster.namespace][..], &chosen].concat();
    let items = cluster.ask(&words)?;
    Ok(items.as_array().cloned().unwrap_or_default())
}

/// Fails unless this was done to these pods, and to no other.
pub(super) fn done_to(items: &[Value], pods: &[Pod], action: &str) -> Result<()> {
    let done = |item: &&Value| item["action"] == action;
    let of = |pod: &Pod| items.iter().filter(done).any(|item| item["uid"] == *pod.uid);
    ensure!(
        pods.iter().all(of) && items.iter().filter(done).count() == pods.len(),
        "not {action}, or others were:\n{:#}",
        Value::from(items.to_vec())
    );
    Ok(())
}

fn in_place(cluster: &Cluster, pod: &Pod) -> Result<()> {
    cluster.orphan(APP, pod)?;
    let one = slice::from_ref(pod);
    cluster.proved(one, "orphan")?;
    cluster.meshmedic(&["scan", "--namespace", &cluster.namespace], 1)?;
    cluster.say("a pod is outside the mesh, and the scan names it");
    done_to(&repair(cluster, "heal")?, one, "repaired")?;
    cluster.proved(one, "captured")?;
    cluster.untouched(APP, pod)?;
    cluster.say("it was healed in place: the same pod, not started anew");
    Ok(())
}

fn restart(cluster: &Cluster, pod: &Pod) -> Result<()> {
    budget(cluster, 2)?;
    cluster.orphan(APP, pod)?;
    let one = slice::from_ref(pod);
    cluster.proved(one, "orphan")?;
    done_to(&repair(cluster, "restart")?, &[], "restarted")?;
    cluster.untouched(APP, pod)?;
    cluster.say("another is outside, and its disruption budget forbids a restart: it stays");
    budget(cluster, 1)?;
    done_to(&repair(cluster, "restart")?, one, "restarted")?;
    let pods = cluster.enrolled(APP, 2)?;
    ensure!(
        pods.iter().all(|now| now.uid != pod.uid),
        "{} was not restarted",
        pod.name
    );
    cluster.proved(&pods, "captured")?;
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
