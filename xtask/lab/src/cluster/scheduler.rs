// SPDX-License-Identifier: Apache-2.0
//! What sends pods to nodes.

use serde_json::{Value, json};

use super::{SCHEDULER, Shared, tolerate};
use crate::apiserver::object::{is_deleted, meta, text};
use crate::error::Result;
use crate::process::lock;

/// One round: every pod without a node gets one, if there is one to be had.
pub(super) fn schedule(shared: &Shared) -> Result<()> {
    let client = shared.client(SCHEDULER);
    let pods = client.list_where("pods", "", "fieldSelector=spec.nodeName%3D")?;
    let waiting: Vec<_> = pods.iter().filter(|pod| !is_deleted(pod)).collect();
    if waiting.is_empty() {
        return Ok(());
    }
    let nodes = client.list("nodes", "")?;
    let open = |node: &&Value| node["spec"]["unschedulable"] != true;
    let open: Vec<_> = nodes.iter().filter(open).map(|node| meta(node, "name")).collect();
    for pod in waiting {
        let Some(node) = choose(shared, pod, &open) else {
            continue;
        };
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": { "name": meta(pod, "name"), "uid": meta(pod, "uid") },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        tolerate(client.post(
            "pods/binding",
            meta(pod, "namespace"),
            meta(pod, "name"),
            &binding,
        ))?;
    }
    Ok(())
}

fn choose(shared: &Shared, pod: &Value, open: &[&str]) -> Option<String> {
    let selected = text(pod, "/spec/nodeSelector/kubernetes.io~1hostname");
    let mut controls = lock(&shared.controls);
    let wanted = [selected, controls.next_node.as_deref().unwrap_or_default()];
    if let Some(wanted) = wanted.into_iter().find(|name| !name.is_empty()) {
        return open.contains(&wanted).then(|| wanted.to_owned());
    }
    let node = open.get(controls.scheduled % open.len().max(1))?;
    controls.scheduled += 1;
    Some((*node).to_owned())
}
