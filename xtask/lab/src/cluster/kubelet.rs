// SPDX-License-Identifier: Apache-2.0
//! What runs the pods of a node.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::node::{Local, Node, What};
use super::{KUBELET, Shared, tolerate};
use crate::api::{Client, PodRef};
use crate::apiserver::object::{is_deleted, is_ready, list, meta, text};
use crate::error::Result;
use crate::pod::{PodSpec, hex};
use crate::process::lock;
use crate::ztunnel::ZtunnelSpec;

/// Says that a pod is only the mirror of a static one.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// One round of every node's kubelet.
pub(super) fn keep(shared: &Shared) -> Result<()> {
    let client = shared.client(KUBELET);
    let pods = client.list("pods", "")?;
    for node in &shared.nodes {
        let here: Vec<_> = pods
            .iter()
            .filter(|pod| text(pod, "/spec/nodeName") == node.name())
            .collect();
        node.local().retain(|uid, local| {
            let found = here.iter().any(|pod| meta(pod, "uid") == uid);
            let stays = found || !local.seen;
            local.seen |= found;
            if !stays {
                end(local);
            }
            stays
        });
        for pod in here {
            if is_deleted(pod) {
                terminate(shared, node, &client, pod)?;
            } else {
                run(shared, node, &client, pod)?;
            }
        }
    }
    Ok(())
}

fn end(local: &Local) {
    match &local.what {
        What::Pod(pod) | What::Cni(pod) => pod.kill(),
        What::Ztunnel(ztunnel) => ztunnel.kill(),
    }
}

fn terminate(shared: &Shared, node: &Node, client: &Client, pod: &Value) -> Result<()> {
    if lock(&shared.controls).held_terminations {
        return Ok(());
    }
    if let Some(local) = node.local().remove(meta(pod, "uid")) {
        end(&local);
    }
    let now = json!({ "gracePeriodSeconds": 0, "preconditions": { "uid": meta(pod, "uid") } });
    tolerate(client.delete_with("pods", meta(pod, "namespace"), meta(pod, "name"), &now))
}

fn run(shared: &Shared, node: &Node, client: &Client, pod: &Value) -> Result<()> {
    let uid = meta(pod, "uid");
    if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return Ok(());
    }
    let mut local = node.local();
    if !local.contains_key(uid) {
        if !pod["metadata"]["annotations"][MIRROR].is_null() {
            // A mirror for which nothing runs: the static pod was taken away.
            return Ok(());
        }
        let plugged = !lock(&shared.controls).cni_off;
        local.insert(uid.to_owned(), start(shared, node, pod, plugged)?);
    }
    let Some(local) = local.get_mut(uid) else {
        return Ok(());
    };
    let again = tell(shared, pod, local)?;
    let ready = !lock(&shared.controls).unready.contains(uid);
    if text(pod, "/status/phase") != "Running" || is_ready(pod) != ready || local.ready != ready || again {
        let patch = json!({ "status": status(node, pod, local, ready) });
        tolerate(client.patch("pods/status", meta(pod, "namespace"), meta(pod, "name"), &patch))?;
        local.ready = ready;
    }
    Ok(())
}

/// Tells the API server which process stands behind a pod, as it asks a kubelet. Whether that is another than before.
fn tell(shared: &Shared, pod: &Value, local: &mut Local) -> Result<bool> {
    let (pid, logs) = match &local.what {
        What::Pod(pod) | What::Cni(pod) => (pod.pid(), Some(pod.log_folder())),
        What::Ztunnel(ztunnel) => (ztunnel.pid(), None),
    };
    if local.told != Some(pid) {
        let pod = PodRef::new(meta(pod, "namespace"), meta(pod, "name"));
        shared.api.locate(pod, pid, logs)?;
        let again = local.told.replace(pid).is_some();
        if again {
            local.restarts += 1;
            local.restarted = Some(Timestamp::now());
        }
        return Ok(again);
    }
    Ok(false)
}

/// Starts what a pod stands for. `plugged` is whether the node's CNI configuration names istio-cni's plugin.
fn start(shared: &Shared, node: &Node, pod: &Value, plugged: bool) -> Result<Local> {
    let (namespace, name) = (meta(pod, "namespace"), meta(pod, "name"));
    let uid = Some(meta(pod, "uid").to_owned());
    let labels = &pod["metadata"]["labels"];
    let is_istio = |key: &str, value: &str| namespace == shared.istio_namespace && labels[key] == value;
    let (what, address) = if is_istio("app", "ztunnel") {
        let ztunnel = node.lab().ztunnel(ZtunnelSpec {
            name: name.to_owned(),
            uid,
            zds: Some(node.cni().socket()),
            ..ZtunnelSpec::default()
        })?;
        // It numbers itself in its lab; this is what the API shall say.
        (What::Ztunnel(Arc::new(ztunnel)), Some(node.pod_address()))
    } else {
        let mut spec = PodSpec::new(namespace, name);
        spec.uid = uid;
        spec.host_network = pod["spec"]["hostNetwork"] == true;
        let address = (!spec.host_network).then(|| node.pod_address());
        spec.addresses.extend(address);
        // That is istio-cni's work.
        spec.redirected = false;
        // Whoever claims to be ztunnel calls itself so as well.
        if labels["app"] == "ztunnel" {
            spec.process_name = "ztunnel".to_owned();
        }
        let pod = node.lab().pod(spec)?;
        if plugged && !pod.spec().host_network {
            node.cni().plugin(&pod);
        }
        let what = if is_istio("k8s-app", "istio-cni-node") {
            What::Cni(pod)
        } else {
            What::Pod(pod)
        };
        (what, address)
    };
    Ok(Local {
        what,
        address,
        ready: false,
        seen: true,
        told: None,
        restarts: 0,
        restarted: None,
    })
}

/// What the kubelet says of a pod that runs.
fn status(node: &Node, pod: &Value, local: &Local, ready: bool) -> Value {
    let seconds = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let now = seconds(Timestamp::now());
    let sandbox = local.restarted.map(seconds);
    let earlier = list(pod, "/status/conditions");
    let condition = |kind: &str, on: bool| {
        let on = if on { "True" } else { "False" };
        let same = earlier
            .iter()
            .find(|other| other["type"] == kind && other["status"] == on);
        let since = same.map_or(now.as_str(), |same| text(same, "/lastTransitionTime"));
        let since = sandbox
            .as_deref()
            .filter(|_| kind == "PodReadyToStartContainers")
            .unwrap_or(since);
        json!({ "type": kind, "status": on, "lastTransitionTime": since })
    };
    let started = match text(pod, "/status/startTime") {
        "" => &now,
        earlier => earlier,
    };
    let address = local.address.unwrap_or_else(|| node.address());
    let containers = list(pod, "/spec/containers").iter().map(|container| {
        json!({
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "containerID": format!("containerd://{}", hex(&format!("{}/{}", meta(pod, "uid"), local.restarts), 64)),
            "ready": ready,
            "started": true,
            "restartCount": local.restarts,
            "state": { "running": { "startedAt": sandbox.as_deref().unwrap_or(started) } },
        })
    });
    json!({
        "phase": "Running",
        "hostIP": node.address(),
        "hostIPs": [{ "ip": node.address() }],
        "podIP": address,
        "podIPs": [{ "ip": address }],
        "startTime": started,
        "conditions": [
            condition("PodScheduled", true),
            condition("PodReadyToStartContainers", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ],
        "containerStatuses": containers.collect::<Vec<_>>(),
    })
}

/// Starts a static pod, and makes its mirror. The plugin is told of it by its name, so istio-cni takes it in under the
/// UID of its mirror; in /proc it would look for that in vain.
pub(super) fn start_static(
    node: &Node,
    client: &Client,
    namespace: &str,
    name: &str,
    plugged: bool,
) -> Result<()> {
    let owner = client.get("nodes", "", node.name())?;
    // Of the Node's UID, so that two labs on one machine cannot be taken for each other.
    let config_hash = hex(&format!("config {} {namespace}/{name}", meta(&owner, "uid")), 32);
    let mut mirror = super::controllers::workload("Pod", namespace, name);
    mirror["spec"]["nodeName"] = node.name().into();
    mirror["metadata"]["annotations"] = json!({
        MIRROR: config_hash,
        "kubernetes.io/config.hash": config_hash,
        "kubernetes.io/config.source": "file",
    });
    mirror["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1",
        "kind": "Node",
        "name": node.name(),
        "uid": meta(&owner, "uid"),
        "controller": true,
    }]);
    // Held, so that nobody takes the mirror for one without a pod.
    let mut local = node.local();
    let made = client.create(&mirror)?;
    let address = node.pod_address();
    let mut spec = PodSpec::new(namespace, name);
    spec.uid = Some(meta(&made, "uid").to_owned());
    spec.config_hash = Some(config_hash);
    spec.redirected = false;
    spec.addresses.push(address);
    let pod = node.lab().pod(spec)?;
    if plugged {
        node.cni().plugin(&pod);
    }
    local.insert(
        meta(&made, "uid").to_owned(),
        Local {
            what: What::Pod(pod),
            address: Some(address),
            ready: false,
            seen: false,
            told: None,
            restarts: 0,
            restarted: None,
        },
    );
    Ok(())
}
