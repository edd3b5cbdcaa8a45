// SPDX-License-Identifier: Apache-2.0
//! What the API says of the pods, beside what the agent says.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use meshmedic_common::kube::leases::HEALS_LEASE;
use meshmedic_lab::Cluster;
use meshmedic_lab::api::{Client, Request};
use serde_json::Value;

/// Whom the manifest makes the agent.
const USER: &str = "system:serviceaccount:meshmedic:meshmedic";

/// A pod that the API told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Added {
    pub(super) at: Timestamp,
    pub(super) namespace: String,
    pub(super) app: String,
    pub(super) name: String,
    pub(super) uid: String,
}

impl Added {
    fn read(event: &Value) -> Option<Self> {
        if event["type"] != "ADDED" {
            return None;
        }
        let meta = &event["object"]["metadata"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Self {
            at: Timestamp::now(),
            namespace: text(&meta["namespace"])?,
            app: text(&meta["labels"]["app"])?,
            name: text(&meta["name"])?,
            uid: text(&meta["uid"])?,
        })
    }
}

/// Watches the pods, so that each that comes has its moment.
#[derive(Clone, Default)]
pub(super) struct Arrivals(Arc<Mutex<Vec<Added>>>);

impl Arrivals {
    /// Begins with what comes from now on; ends with the API server.
    pub(super) fn watch(client: &Client) -> anyhow::Result<Self> {
        let version = &client.list_answer("pods", "", "")?["metadata"]["resourceVersion"];
        let version = version.as_str().context("a list without a version")?;
        let mut watch = client.watch("pods", "", &format!("resourceVersion={version}"))?;
        let arrivals = Self::default();
        let kept = arrivals.clone();
        thread::spawn(move || {
            while let Ok(Some(event)) = watch.next_event() {
                kept.lock().extend(Added::read(&event));
            }
        });
        Ok(arrivals)
    }

    /// The first pod of an application that came after a moment.
    pub(super) fn after(&self, moment: Timestamp, namespace: &str, app: &str) -> Option<Added> {
        let is_it = |pod: &&Added| pod.at >= moment && pod.namespace == namespace && pod.app == app;
        self.lock().iter().find(is_it).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Added>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `kubectl get` shows of a pod: its phase, whether it is Ready, and whether istio-cni says that it is enrolled.
pub(super) fn shown(pod: &Value) -> (String, bool, bool) {
    let phase = pod["status"]["phase"].as_str().unwrap_or("Unknown").to_owned();
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let enrolled = pod["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled";
    (phase, ready, enrolled)
}

/// The evictions that the agent asked for, in order.
pub(super) fn evictions(cluster: &Cluster) -> anyhow::Result<Vec<Request>> {
    let mut requests = cluster.api().requests_of(USER)?;
    requests.retain(|request| request.full_resource() == "pods/eviction" && !request.is_dry_run());
    Ok(requests)
}

/// The evictions of which it asked whether the API would refuse them, in order.
pub(super) fn rehearsals(cluster: &Cluster) -> anyhow::Result<Vec<Request>> {
    let mut requests = cluster.api().requests_of(USER)?;
    requests.retain(|request| request.full_resource() == "pods/eviction" && request.is_dry_run());
    Ok(requests)
}

/// What the agent wrote otherwise: nothing but asks, Leases and Events is its own to write.
pub(super) fn other_writes(cluster: &Cluster) -> anyhow::Result<Vec<Request>> {
    let mut requests = cluster.api().requests_of(USER)?;
    requests.retain(|request| {
        let own = ["pods/eviction", "pods/status", "leases", "events"];
        request.is_write() && !own.contains(&request.full_resource().as_str())
    });
    Ok(requests)
}

/// The note of an Event on a pod, by its reason.
pub(super) fn event(
    cluster: &Cluster,
    namespace: &str,
    uid: &str,
    reason: &str,
) -> anyhow::Result<Option<String>> {
    let events = cluster.api().list("events.events.k8s.io", namespace)?;
    let found = events
        .iter()
        .find(|event| event["regarding"]["uid"] == uid && event["reason"] == reason);
    Ok(found.and_then(|event| event["note"].as_str().map(str::to_owned)))
}

/// What the agent wrote into Leases.
pub(super) fn lease_writes(cluster: &Cluster) -> anyhow::Result<Vec<Request>> {
    let mut requests = cluster.api().requests_of(USER)?;
    requests.retain(|request| request.full_resource() == "leases" && request.is_write());
    Ok(requests)
}

/// How many Leases of restarts there are, if each is free and no repair stands in one.
pub(super) fn free_leases(cluster: &Cluster) -> anyhow::Result<Option<usize>> {
    let mut leases = cluster.api().list("leases", "meshmedic")?;
    // It comes with the manifests, and no restart writes it.
    leases.retain(|lease| lease["metadata"]["name"] != HEALS_LEASE);
    for lease in &leases {
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let record = lease["metadata"]["annotations"]["meshmedic.io/record"].as_str();
        let record: Value = serde_json::from_str(record.unwrap_or("{}")).context("a Lease's record")?;
        let free = holder.is_empty() && record["repairs"].as_array().is_none_or(Vec::is_empty);
        if !free {
            return Ok(None);
        }
    }
    ensure!(!leases.is_empty(), "the agent wrote no Lease");
    Ok(Some(leases.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_was_added_has_come() {
        let pod = json!({ "metadata": { "namespace": "shop", "name": "a-1", "uid": "u", "labels": { "app": "a" } } });
        let read = |kind: &str| Added::read(&json!({ "type": kind, "object": pod }));
        assert!(read("MODIFIED").is_none());
        assert_eq!(read("ADDED").map(|pod| pod.name), Some("a-1".to_owned()));
    }

    #[test]
    fn a_pod_is_shown_as_the_api_has_it() {
        let pod = json!({
            "metadata": { "annotations": { "ambient.istio.io/redirection": "enabled" } },
            "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        assert_eq!(shown(&pod), ("Running".to_owned(), true, true));
        assert_eq!(shown(&Value::Null), ("Unknown".to_owned(), false, false));
    }
}
