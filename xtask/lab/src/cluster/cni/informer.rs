// SPDX-License-Identifier: Apache-2.0
//! What wakes istio-cni's workers: pods and namespaces as the API tells of them.
//!
//! One for all nodes, which are told of their own pods alone. A pod that is new to a node means nothing to it, as to
//! the real one: the plugin tells of those.

use std::collections::BTreeMap;
use std::thread;

use serde_json::Value;

use super::Work;
use crate::api::{Client, Watch};
use crate::apiserver::object::{meta, text};
use crate::cluster::{AGAIN, CNI, Shared};
use crate::error::Result;
use crate::process::lock;

/// Tells every node of what happens to one resource, until the cluster ends.
pub(in crate::cluster) fn inform(shared: &Shared, resource: &str) {
    let client = shared.client(CNI);
    while !shared.is_stopping() {
        // Whatever went wrong, a new list tells what was missed.
        let _ = follow(shared, &client, resource);
        if !shared.is_stopping() {
            thread::sleep(AGAIN);
        }
    }
}

fn follow(shared: &Shared, client: &Client, resource: &str) -> Result<()> {
    let listed = client.list_answer(resource, "", "")?;
    let version = text(&listed, "/metadata/resourceVersion");
    let mut watch: Watch = client.watch(resource, "", &format!("resourceVersion={version}"))?;
    let items = listed["items"].as_array().cloned().unwrap_or_default();
    let pods = resource == "pods";
    if pods {
        forget_others(shared, &items);
    }
    for item in items {
        if pods {
            pod(shared, item, false);
        } else {
            namespace(shared, &item);
        }
    }
    while let Some(mut event) = watch.next_event()? {
        let object = event["object"].take();
        match (event["type"].as_str(), pods) {
            (Some("ADDED" | "MODIFIED"), true) => pod(shared, object, false),
            (Some("DELETED"), true) => pod(shared, object, true),
            (Some("ADDED" | "MODIFIED"), false) => namespace(shared, &object),
            (Some("ERROR"), _) => return Ok(()),
            _ => {}
        }
    }
    Ok(())
}

/// Pods that went while nobody watched.
fn forget_others(shared: &Shared, items: &[Value]) {
    for node in &shared.nodes {
        let known: Vec<Value> = lock(&node.cni().state).pods.values().cloned().collect();
        for gone in known {
            if items.iter().all(|item| meta(item, "uid") != meta(&gone, "uid")) {
                pod(shared, gone, true);
            }
        }
    }
}

fn pod(shared: &Shared, object: Value, deleted: bool) {
    let Some(node) = shared.node(text(&object, "/spec/nodeName")) else {
        return;
    };
    let (cni, uid) = (node.cni(), meta(&object, "uid").to_owned());
    if deleted {
        if lock(&cni.state).pods.remove(&uid).is_some() {
            cni.queue(Work::Delete(object));
        }
        return;
    }
    let version = |object: &Value| meta(object, "resourceVersion").parse::<u64>().unwrap_or(0);
    let mut state = lock(&cni.state);
    // It knows what it wrote itself before the watch tells of it.
    if state
        .pods
        .get(&uid)
        .is_some_and(|known| version(known) >= version(&object))
    {
        return;
    }
    let old = state.pods.insert(uid.clone(), object);
    drop(state);
    if let Some(old) = old {
        cni.queue(Work::Update { uid, old });
    }
}

/// A namespace is new, or its labels are: every pod in it counts as changed.
fn namespace(shared: &Shared, object: &Value) {
    let name = meta(object, "name");
    let labels = object["metadata"]["labels"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let labels: BTreeMap<String, Value> = labels.into_iter().collect();
    let before = lock(&shared.namespaces).insert(name.to_owned(), labels.clone());
    if before == Some(labels) {
        return;
    }
    for node in &shared.nodes {
        let here: Vec<Value> = {
            let state = lock(&node.cni().state);
            let in_it = state.pods.values().filter(|pod| meta(pod, "namespace") == name);
            in_it.cloned().collect()
        };
        for pod in here {
            let uid = meta(&pod, "uid").to_owned();
            node.cni().queue(Work::Update { uid, old: pod });
        }
    }
}
