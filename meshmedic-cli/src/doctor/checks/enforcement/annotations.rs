// SPDX-License-Identifier: Apache-2.0
//! Annotations that tell a sidecar what to do, on pods that have none.

use std::collections::BTreeMap;

use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::{View, endpoints};

/// How the annotations begin that only a sidecar follows.
const OF_SIDECARS: [&str; 2] = ["traffic.sidecar.istio.io/", "proxy.istio.io/config"];
/// What keeps a port from a sidecar: ztunnel takes it all the same.
const EXCLUDES: &str = "traffic.sidecar.istio.io/exclude";

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut findings: BTreeMap<ObjectRef, Finding> = BTreeMap::new();
    for pod in view
        .pods()
        .iter()
        .filter(|pod| pod.is_live() && endpoints::is_captured(pod))
    {
        let annotations = pod.pod.metadata.annotations.iter().flatten();
        let mut read =
            annotations.filter(|(key, _)| OF_SIDECARS.iter().any(|beginning| key.starts_with(beginning)));
        let Some((key, value)) = read.next() else {
            continue;
        };
        let written = if value.is_empty() {
            key.clone()
        } else {
            format!("{key}: {value}")
        };
        let object = pod.workload.clone().unwrap_or_else(|| pod.object());
        findings.entry(object).or_insert_with(|| {
            Finding::on(pod.object(), "it has settings that only a sidecar would follow")
                .of(pod.workload.clone())
                .because(format!("annotation {written}"))
                .so(if key.starts_with(EXCLUDES) {
                    "ztunnel takes what was to be kept from the sidecar: those ports and addresses are in the mesh, and under \
                     its policies, like all others."
                } else {
                    "Nothing follows it: ztunnel captures the pod by its own rules."
                })
                .by_hand(
                    "Take the annotation out of the pod's template. Whatever must not be captured at all needs a workload of its \
                     own with the label istio.io/dataplane-mode=none.",
                )
        });
    }
    findings.into_values().collect()
}
