// SPDX-License-Identifier: Apache-2.0
//! What keeps as many pods as are wanted.

use serde_json::{Value, json};

use super::{MANAGER, Shared, is_owned_by, tolerate};
use crate::api::Client;
use crate::apiserver::object::{is_deleted, is_ready, meta, text};
use crate::error::Result;
use crate::pod::hex;

/// How long the hash of a pod template is.
const HASH: usize = 9;

/// A workload whose pods are labelled `app=<name>`.
pub(super) fn workload(kind: &str, namespace: &str, name: &str) -> Value {
    let labels = json!({ "app": name });
    let pod = json!({ "containers": [{ "name": "app", "image": "registry.example/app:1" }] });
    if kind == "Pod" {
        return json!({
            "apiVersion": "v1",
            "kind": kind,
            "metadata": { "namespace": namespace, "name": name, "labels": labels },
            "spec": pod,
        });
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": { "namespace": namespace, "name": name, "labels": labels },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod },
        },
    })
}

/// One round of all controllers, on what is there now.
pub(super) fn control(shared: &Shared) -> Result<()> {
    let client = shared.client(MANAGER);
    let sets = client.list("replicasets", "")?;
    for deployment in client.list("deployments", "")? {
        deploy(&client, &deployment, &sets)?;
    }
    let sets = client.list("replicasets", "")?;
    let pods = client.list("pods", "")?;
    for set in &sets {
        replicate(&client, set, &pods)?;
    }
    for set in client.list("statefulsets", "")? {
        number(&client, &set, &pods)?;
    }
    for set in client.list("daemonsets", "")? {
        spread(shared, &client, &set, &pods)?;
    }
    Ok(())
}

fn wanted(object: &Value) -> usize {
    let replicas = object["spec"]["replicas"].as_u64().unwrap_or(1);
    usize::try_from(replicas).unwrap_or_default()
}

fn owner(object: &Value, kind: &str) -> Value {
    json!([{
        "apiVersion": "apps/v1",
        "kind": kind,
        "name": meta(object, "name"),
        "uid": meta(object, "uid"),
        "controller": true,
        "blockOwnerDeletion": true,
    }])
}

/// Keeps one ReplicaSet for the template as it is now, and none of the others.
fn deploy(client: &Client, deployment: &Value, sets: &[Value]) -> Result<()> {
    if is_deleted(deployment) {
        return Ok(());
    }
    let (namespace, name) = (meta(deployment, "namespace"), meta(deployment, "name"));
    let template = &deployment["spec"]["template"];
    let hash = hex(&template.to_string(), HASH);
    let current = format!("{name}-{hash}");
    let own: Vec<_> = sets
        .iter()
        .filter(|set| is_owned_by(set, meta(deployment, "uid")))
        .collect();
    for set in &own {
        let replicas = if meta(set, "name") == current {
            wanted(deployment)
        } else {
            0
        };
        if wanted(set) != replicas {
            let patch = json!({ "spec": { "replicas": replicas } });
            tolerate(client.patch("replicasets", namespace, meta(set, "name"), &patch))?;
        }
    }
    match own.iter().find(|set| meta(set, "name") == current) {
        Some(set) => {
            let mut status = set["status"].clone();
            status["updatedReplicas"] = status["replicas"].clone();
            status["observedGeneration"] = deployment["metadata"]["generation"].clone();
            report(client, "deployments", deployment, &status)
        }
        None => {
            let mut template = template.clone();
            let mut selector = deployment["spec"]["selector"].clone();
            template["metadata"]["labels"]["pod-template-hash"] = hash.as_str().into();
            selector["matchLabels"]["pod-template-hash"] = hash.as_str().into();
            tolerate(client.create(&json!({
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "metadata": {
                    "namespace": namespace,
                    "name": current,
                    "labels": template["metadata"]["labels"],
                    "ownerReferences": owner(deployment, "Deployment"),
                },
                "spec": { "replicas": wanted(deployment), "selector": selector, "template": template },
            })))
        }
    }
}

/// A pod after the template of what owns it.
fn pod(set: &Value, kind: &str) -> Value {
    let template = &set["spec"]["template"];
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": template["metadata"],
        "spec": template["spec"],
    });
    pod["metadata"]["namespace"] = meta(set, "namespace").into();
    pod["metadata"]["generateName"] = format!("{}-", meta(set, "name")).into();
    pod["metadata"]["ownerReferences"] = owner(set, kind);
    pod
}

fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Keeps as many pods as a ReplicaSet wants; a terminating one is replaced at once.
fn replicate(client: &Client, set: &Value, pods: &[Value]) -> Result<()> {
    if is_deleted(set) {
        return Ok(());
    }
    let own = pods.iter().filter(|pod| is_owned_by(pod, meta(set, "uid")));
    let own: Vec<_> = own.filter(|pod| !is_deleted(pod) && !has_ended(pod)).collect();
    for _ in own.len()..wanted(set) {
        client.create(&pod(set, "ReplicaSet"))?;
    }
    // The ones that are not ready go first.
    let (ready, unready): (Vec<&Value>, Vec<&Value>) = own.iter().copied().partition(|pod| is_ready(pod));
    let surplus = own.len().saturating_sub(wanted(set));
    for pod in unready.iter().chain(&ready).take(surplus) {
        tolerate(client.delete("pods", meta(pod, "namespace"), meta(pod, "name")))?;
    }
    let status = json!({
        "replicas": own.len(),
        "readyReplicas": ready.len(),
        "availableReplicas": ready.len(),
        "observedGeneration": set["metadata"]["generation"],
    });
    report(client, "replicasets", set, &status)
}

/// Keeps the numbered pods of a StatefulSet; one that terminates must be gone before its successor comes.
fn number(client: &Client, set: &Value, pods: &[Value]) -> Result<()> {
    if is_deleted(set) {
        return Ok(());
    }
    let namespace = meta(set, "namespace");
    let own: Vec<_> = pods
        .iter()
        .filter(|pod| is_owned_by(pod, meta(set, "uid")))
        .collect();
    for number in 0..wanted(set) {
        let name = format!("{}-{number}", meta(set, "name"));
        if !own.iter().any(|pod| meta(pod, "name") == name) {
            let mut pod = pod(set, "StatefulSet");
            pod["metadata"]["name"] = name.into();
            tolerate(client.create(&pod))?;
        }
    }
    for pod in own.iter().filter(|pod| !is_deleted(pod)) {
        let number = meta(pod, "name")
            .rsplit('-')
            .next()
            .and_then(|number| number.parse().ok());
        if number.is_some_and(|number: usize| number >= wanted(set)) {
            tolerate(client.delete("pods", namespace, meta(pod, "name")))?;
        }
    }
    let ready = own.iter().filter(|pod| is_ready(pod)).count();
    let status = json!({
        "replicas": own.len(),
        "readyReplicas": ready,
        "observedGeneration": set["metadata"]["generation"],
    });
    report(client, "statefulsets", set, &status)
}

/// Keeps one pod of a DaemonSet on every node.
fn spread(shared: &Shared, client: &Client, set: &Value, pods: &[Value]) -> Result<()> {
    if is_deleted(set) {
        return Ok(());
    }
    let own: Vec<_> = pods
        .iter()
        .filter(|pod| is_owned_by(pod, meta(set, "uid")))
        .collect();
    for node in &shared.nodes {
        let here = |pod: &&&Value| text(pod, "/spec/nodeName") == node.name();
        if !own
            .iter()
            .filter(here)
            .any(|pod| !is_deleted(pod) && !has_ended(pod))
        {
            let mut pod = pod(set, "DaemonSet");
            pod["spec"]["nodeName"] = node.name().into();
            client.create(&pod)?;
        }
    }
    let ready = own.iter().filter(|pod| is_ready(pod)).count();
    let status = json!({
        "desiredNumberScheduled": shared.nodes.len(),
        "currentNumberScheduled": own.len(),
        "numberReady": ready,
        "numberAvailable": ready,
        "updatedNumberScheduled": own.len(),
        "numberMisscheduled": 0,
        "observedGeneration": set["metadata"]["generation"],
    });
    report(client, "daemonsets", set, &status)
}

/// Writes a status that is new.
fn report(client: &Client, resource: &str, object: &Value, status: &Value) -> Result<()> {
    if object["status"] == *status {
        return Ok(());
    }
    let (namespace, name) = (meta(object, "namespace"), meta(object, "name"));
    let patch = json!({ "status": status });
    tolerate(client.patch(&format!("{resource}/status"), namespace, name, &patch))
}
