// SPDX-License-Identifier: Apache-2.0
//! What a workload's controller, the kubelet and istio-cni make of a pod that was deleted.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::doctor::fixtures::{LONG_AGO, annotate, had, object};
use crate::doctor::snapshot::{Snapshot, Workload};

/// The same pod from its template: it runs, is Ready, and where it is to be captured it is.
pub(super) fn pod(snapshot: &mut Snapshot, of: &str, name: &str) {
    let ambient = had(&mut snapshot.namespaces).iter().any(|one| {
        let label = one
            .metadata
            .labels
            .as_ref()
            .and_then(|all| all.get("istio.io/dataplane-mode"));
        one.metadata.name.as_deref() == Some(of) && label.is_some_and(|mode| mode == "ambient")
    });
    let mut made = None;
    snapshot.with_pod(of, name, |pod| {
        run(pod);
        if of == "istio-system" {
            return;
        }
        // A person set these on this pod alone; its template has none.
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.remove("istio.io/dataplane-mode");
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.remove("meshmedic.io/toggle-restore");
        if ambient {
            annotate(pod, "ambient.istio.io/redirection", "enabled");
            made = Some(pod.clone());
        }
    });
    if let Some(pod) = made {
        capture(snapshot, &pod);
    }
}

fn run(pod: &mut Pod) {
    let status = pod.status.get_or_insert_default();
    status.phase = Some("Running".to_owned());
    let ip = status.pod_ip.clone().unwrap_or_else(|| "10.244.0.250".to_owned());
    status.pod_ips = Some(vec![object(json!({ "ip": ip }))]);
    status.pod_ip = Some(ip);
    status.conditions = Some(vec![object(
        json!({ "type": "Ready", "status": "True", "lastTransitionTime": LONG_AGO }),
    )]);
    status.container_statuses = Some(vec![object(json!({
        "name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "state": { "running": { "startedAt": LONG_AGO } },
    }))]);
    status.init_container_statuses = None;
}

/// Its ztunnel serves it, and whoever looks sees it captured.
fn capture(snapshot: &mut Snapshot, pod: &Pod) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (of, name, uid) = (
        text(&pod.metadata.namespace),
        text(&pod.metadata.name),
        text(&pod.metadata.uid),
    );
    let node = pod.spec.as_ref().unwrap().node_name.as_deref();
    for ztunnel in had(&mut snapshot.ztunnels)
        .iter_mut()
        .filter(|one| Some(one.node.as_str()) == node)
    {
        let dump = had(&mut ztunnel.dump);
        dump.proxies.insert(uid.clone(), "Up".to_owned());
        dump.workloads
            .retain(|one| (one.namespace.as_str(), one.name.as_str()) != (of.as_str(), name.as_str()));
        dump.workloads.push(Workload {
            namespace: of.clone(),
            name: name.clone(),
            protocol: "HBONE".to_owned(),
            waypoint: None,
        });
    }
    for state in had(&mut snapshot.scan).iter_mut().filter(|one| one.uid == uid) {
        state.state = meshmedic_common::verdict::State::Captured;
        state.redirection = Some("routed".to_owned());
    }
}

/// All pods of a workload.
pub(super) fn workload(snapshot: &mut Snapshot, of: &str, workload: &str) {
    let (_, name) = workload.split_once('/').unwrap_or(("", workload));
    let beginning = format!("{name}-");
    let pods = had(&mut snapshot.pods).iter();
    let names: Vec<String> = pods
        .filter(|pod| pod.metadata.namespace.as_deref() == Some(of))
        .filter_map(|pod| pod.metadata.name.clone())
        .filter(|pod| pod.starts_with(&beginning))
        .collect();
    for name in names {
        pod(snapshot, of, &name);
    }
}
