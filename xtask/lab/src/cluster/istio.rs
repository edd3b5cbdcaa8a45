// SPDX-License-Identifier: Apache-2.0
//! Istio: its objects, and what can be seen of it.

use std::fs;

use serde_json::{Value, json};

use super::controllers::workload;
use super::{KUBELET, Shared};
use crate::apiserver::object::{meta, text};
use crate::error::Result;

/// The label that puts a namespace or a pod into the mesh.
pub(super) const MODE: &str = "istio.io/dataplane-mode";
/// Says that a pod is captured, or shall be.
const REDIRECTION: &str = "ambient.istio.io/redirection";
/// What istiod, its Service and its label are called.
const ISTIOD: &str = "istiod";
/// The endpoints of istiod.
pub(super) const ISTIOD_SLICE: &str = "istiod-x7k2p";
/// Ztunnel's ports in a pod, as the kernel's tables write them: 15008, 15006, 15001.
const PORTS: [&str; 3] = [":3AA0", ":3A9E", ":3A99"];
/// LISTEN, in the kernel's tables.
const LISTEN: &str = "0A";

/// What an installation of Istio leaves in the API, before its control plane runs.
pub(super) fn objects(namespace: &str) -> Vec<Value> {
    let set = |name: &str, key: &str| {
        let mut set = workload("DaemonSet", namespace, name);
        let labels = json!({ key: name });
        set["metadata"]["labels"] = labels.clone();
        set["spec"]["selector"]["matchLabels"] = labels.clone();
        set["spec"]["template"]["metadata"]["labels"] = labels;
        set
    };
    let mut cni = set("istio-cni-node", "k8s-app");
    cni["spec"]["template"]["spec"]["hostNetwork"] = false.into();
    let mut istiod = workload("Deployment", namespace, ISTIOD);
    // None of the lab's nodes: nothing runs for it.
    istiod["spec"]["template"]["spec"]["nodeName"] = "control-plane".into();
    vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }),
        istiod,
        set("ztunnel", "app"),
        cni,
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "namespace": namespace, "name": "istio-cni-config" },
            "data": { "AMBIENT_ENABLED": "true", "AMBIENT_DNS_CAPTURE": "true", "AMBIENT_IPV6": "true" },
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": labelled(namespace, ISTIOD),
            "spec": { "selector": { "app": "istiod" }, "ports": [{ "name": "https-dns", "port": 15012 }] },
        }),
    ]
}

fn labelled(namespace: &str, name: &str) -> Value {
    json!({ "namespace": namespace, "name": name, "labels": { "app": ISTIOD } })
}

/// Lets istiod's pod be Ready, and its Service lead to it; false as long as there is no pod.
pub(super) fn start_istiod(shared: &Shared) -> Result<bool> {
    let client = shared.client(KUBELET);
    let Some(endpoints) = endpoints(shared, true)? else {
        return Ok(false);
    };
    let status =
        json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
    let name = text(&endpoints, "/0/targetRef/name");
    client.patch("pods/status", shared.istio_namespace, name, &status)?;
    let mut metadata = labelled(shared.istio_namespace, ISTIOD_SLICE);
    metadata["labels"]["kubernetes.io/service-name"] = ISTIOD.into();
    client.create(&json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": "IPv4",
        "ports": [{ "name": "https-dns", "port": 15012, "protocol": "TCP" }],
        "endpoints": endpoints,
    }))?;
    Ok(true)
}

/// The endpoints of istiod; none as long as it has no pod.
pub(super) fn endpoints(shared: &Shared, ready: bool) -> Result<Option<Value>> {
    let client = shared.client(KUBELET);
    let query = format!("labelSelector=app%3D{ISTIOD}");
    let pods = client.list_where("pods", shared.istio_namespace, &query)?;
    Ok(pods.first().map(|pod| {
        json!([{
            "addresses": ["10.244.0.250"],
            "conditions": { "ready": ready, "serving": ready, "terminating": false },
            "targetRef": {
                "kind": "Pod",
                "namespace": shared.istio_namespace,
                "name": meta(pod, "name"),
                "uid": meta(pod, "uid"),
            },
        }])
    }))
}

/// Whether istio-cni says that a pod is captured.
pub(super) fn is_annotated(pod: &Value) -> bool {
    pod["metadata"]["annotations"][REDIRECTION] == "enabled"
}

/// Whether istio-cni is still trying, or somebody asked it to try.
pub(super) fn is_pending(pod: &Value) -> bool {
    pod["metadata"]["annotations"][REDIRECTION] == "pending"
}

/// Whether all of ztunnel's ports are open in the network namespace of a process.
pub(super) fn listens(pid: u32) -> bool {
    let tables = ["tcp", "tcp6"].map(|table| {
        let path = format!("/proc/{pid}/net/{table}");
        fs::read_to_string(path).unwrap_or_default()
    });
    let listening = |port: &str| {
        let mut rows = tables.iter().flat_map(|table| table.lines().skip(1));
        rows.any(|row| {
            let mut words = row.split_whitespace().skip(1);
            let local = words.next().unwrap_or_default();
            local.ends_with(port) && words.nth(1) == Some(LISTEN)
        })
    };
    PORTS.iter().all(|port| listening(port))
}
