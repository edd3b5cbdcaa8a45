// SPDX-License-Identifier: Apache-2.0
//! Istio: its objects, and what can be seen of it.

use std::fs;

use serde_json::{Value, json};

use super::controllers::workload;

/// The label that puts a namespace or a pod into the mesh.
pub(super) const MODE: &str = "istio.io/dataplane-mode";
/// Says that a pod is captured, or shall be.
const REDIRECTION: &str = "ambient.istio.io/redirection";
/// The endpoints of istiod.
pub(super) const ISTIOD_SLICE: &str = "istiod-x7k2p";
/// Ztunnel's ports in a pod, as the kernel's tables write them: 15008, 15006, 15001.
const PORTS: [&str; 3] = [":3AA0", ":3A9E", ":3A99"];
/// LISTEN, in the kernel's tables.
const LISTEN: &str = "0A";

/// What an installation of Istio leaves in the API.
pub(super) fn objects() -> Vec<Value> {
    let set = |name: &str, key: &str| {
        let mut set = workload("DaemonSet", "istio-system", name);
        let labels = json!({ key: name });
        set["metadata"]["labels"] = labels.clone();
        set["spec"]["selector"]["matchLabels"] = labels.clone();
        set["spec"]["template"]["metadata"]["labels"] = labels;
        set
    };
    let mut cni = set("istio-cni-node", "k8s-app");
    cni["spec"]["template"]["spec"]["hostNetwork"] = false.into();
    // Its enrolment is the one that the stand-in follows.
    cni["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/version"] = "1.30.3".into();
    let meta =
        |name: &str| json!({ "namespace": "istio-system", "name": name, "labels": { "app": "istiod" } });
    let mut slice = meta(ISTIOD_SLICE);
    slice["labels"]["kubernetes.io/service-name"] = "istiod".into();
    vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "istio-system" } }),
        set("ztunnel", "app"),
        cni,
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "namespace": "istio-system", "name": "istio-cni-config" },
            "data": { "AMBIENT_ENABLED": "true", "AMBIENT_DNS_CAPTURE": "true", "AMBIENT_IPV6": "true" },
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta("istiod"),
            "spec": { "selector": { "app": "istiod" }, "ports": [{ "name": "https-dns", "port": 15012 }] },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": slice,
            "addressType": "IPv4",
            "ports": [{ "name": "https-dns", "port": 15012, "protocol": "TCP" }],
            "endpoints": endpoints(true),
        }),
    ]
}

/// The endpoints of istiod.
pub(super) fn endpoints(ready: bool) -> Value {
    json!([{
        "addresses": ["10.244.0.250"],
        "conditions": { "ready": ready, "serving": ready, "terminating": false },
    }])
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
