// SPDX-License-Identifier: Apache-2.0
//! Sidecars that have too little.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Container, ContainerStatus};
use serde_json::json;

use super::PROXY;
use super::quantity::{amount, bytes, cores};
use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::view::{PodView, View, endpoints};

/// Below this a sidecar is throttled before any request comes: it has certificates and configuration to keep.
const CORES_AT_REST: f64 = 0.1;
/// Below this it is killed as soon as the mesh has some services.
const BYTES_AT_REST: f64 = 64.0 * 1_048_576.0;

/// What is longer ago may have been cured since: a container's last state stays as long as the pod.
const RECENT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Those that were killed because it ran out of memory.
pub(super) fn killed(view: &View<'_>) -> Vec<Finding> {
    let pods = view.pods().iter().filter(|pod| pod.is_live());
    pods.filter_map(|pod| {
        let status = status(pod)?;
        let ended = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let ended = ended.or_else(|| status.state.as_ref()?.terminated.as_ref());
        let ended = ended.filter(|ended| ended.reason.as_deref() == Some("OOMKilled"))?;
        let finished = ended.finished_at.as_ref().map(|time| time.0);
        if finished.is_some_and(|finished| view.now.duration_since(finished) > RECENT) {
            return None;
        }
        let limit = limit(proxy(pod)?, "memory");
        let mut finding = Finding::on(pod.object(), "its sidecar was killed because it ran out of memory")
            .of(pod.workload.clone())
            .because(format!(
                "container {PROXY} ended as OOMKilled{}; it was restarted {} times",
                ended.finished_at.as_ref().map(|time| format!(" at {}", time.0)).unwrap_or_default(),
                status.restart_count
            ));
        finding = finding.because(match limit {
            Some(limit) => format!("its limit is {}", bytes(limit)),
            None => "it has no limit: the node ran out of memory".to_owned(),
        });
        finding = finding.so("While the sidecar starts anew, every connection of the pod fails: it looks like the app's fault.");
        Some(match limit {
            Some(limit) => give(finding, pod, limit),
            None => finding.by_hand("Find what uses up the node's memory; the sidecar was only the one that was hit."),
        })
    })
    .collect()
}

/// Twice the memory. Whoever sets one of the four annotations sets them all: Istio drops its defaults then.
fn give(finding: Finding, pod: &PodView<'_>, limit: f64) -> Finding {
    let memory = bytes(limit * 2.0);
    let container = proxy(pod);
    let amount = |which: &str, resource: &str, unsaid: &str| {
        let resources = container.and_then(|container| container.resources.as_ref());
        let amounts = resources.and_then(|resources| match which {
            "requests" => resources.requests.as_ref(),
            _ => resources.limits.as_ref(),
        });
        let said = amounts
            .and_then(|amounts| amounts.get(resource))
            .map(|quantity| quantity.0.clone());
        said.filter(|said| said.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'))
            .unwrap_or_else(|| unsaid.to_owned())
    };
    let annotations = [
        ("proxyCPU", amount("requests", "cpu", "100m")),
        ("proxyCPULimit", amount("limits", "cpu", "2000m")),
        ("proxyMemory", amount("requests", "memory", "128Mi")),
        ("proxyMemoryLimit", memory),
    ];
    let set: BTreeMap<String, String> = annotations
        .into_iter()
        .map(|(name, value)| (format!("sidecar.istio.io/{name}"), value))
        .collect();
    match pod
        .workload
        .as_ref()
        .filter(|workload| is_template(&workload.kind))
    {
        Some(workload) => {
            let patch = json!({ "spec": { "template": { "metadata": { "annotations": set } } } });
            let patched = Command::new("kubectl patch")
                .name(&workload.kind.to_lowercase())
                .namespace(&pod.facts.namespace);
            finding.run(patched.name(&workload.name).option("-p", &patch.to_string()))
        }
        None => finding.by_hand(format!(
            "Give the pod's template these annotations: {}",
            json!(set)
        )),
    }
}

fn is_template(kind: &str) -> bool {
    matches!(kind, "Deployment" | "StatefulSet" | "DaemonSet")
}

/// Those whose limits no sidecar can live with.
pub(super) fn tight(view: &View<'_>) -> Vec<Finding> {
    let pods = view
        .pods()
        .iter()
        .filter(|pod| pod.is_live() && pod.facts.sidecar);
    pods.filter_map(|pod| {
        let container = proxy(pod)?;
        let of_cpu = limit(container, "cpu").filter(|limit| *limit < CORES_AT_REST);
        let of_memory = limit(container, "memory").filter(|limit| *limit < BYTES_AT_REST);
        let mut finding = Finding::on(pod.object(), "its sidecar's limits are below what one needs at rest")
            .of(pod.workload.clone());
        if let Some(limit) = of_cpu {
            finding = finding.because(format!("its limit is {}, and {} is the least", cores(limit), cores(CORES_AT_REST)));
        }
        if let Some(limit) = of_memory {
            finding = finding.because(format!("its limit is {}, and {} is the least", bytes(limit), bytes(BYTES_AT_REST)));
        }
        if finding.evidence.is_empty() {
            return None;
        }
        Some(
            finding
                .so("The sidecar is throttled, which slows every request of the pod, or is killed under load.")
                .by_hand(
                    "Raise the limits, mesh-wide in values.global.proxy.resources or by the annotations \
                     sidecar.istio.io/proxyCPULimit and proxyMemoryLimit together with proxyCPU and proxyMemory.",
                ),
        )
    })
    .collect()
}

/// The sidecar of a pod.
pub(super) fn proxy<'p>(pod: &PodView<'p>) -> Option<&'p Container> {
    endpoints::containers(pod.pod).find(|container| container.name == PROXY)
}

fn limit(container: &Container, resource: &str) -> Option<f64> {
    amount(container.resources.as_ref()?.limits.as_ref()?.get(resource)?)
}

/// What the kubelet says of the sidecar.
pub(super) fn status<'p>(pod: &PodView<'p>) -> Option<&'p ContainerStatus> {
    let status = pod.pod.status.as_ref()?;
    let all = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .flatten();
    all.into_iter().find(|status| status.name == PROXY)
}
