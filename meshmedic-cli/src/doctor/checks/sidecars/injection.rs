// SPDX-License-Identifier: Apache-2.0
//! Pods that should have been given a sidecar, and were not.

use meshmedic_common::eligibility::MODE_LABEL;
use meshmedic_common::facts::Labels;

use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::view::{PodView, View, endpoints};

/// Nothing is ever injected into these.
const LEFT_ALONE: [&str; 4] = [
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "local-path-storage",
];

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let pods = view.pods().iter().filter(|pod| {
        let given = pod.facts.sidecar || endpoints::has_proxy(pod.pod);
        pod.is_live() && !given && !pod.facts.host_network && !pod.facts.mirror
    });
    pods.filter_map(|pod| finding(view, pod)).collect()
}

fn finding(view: &View<'_>, pod: &PodView<'_>) -> Option<Finding> {
    let namespace = pod.facts.namespace.as_str();
    // Where the ambient mesh is asked for as well, that is the fault, and another check's.
    let ambient = |labels: &Labels| labels.get(MODE_LABEL).is_some_and(|mode| mode == "ambient");
    let asked_for = ambient(&pod.facts.labels) || ambient(view.namespace_labels(namespace));
    if LEFT_ALONE.contains(&namespace) || namespace == view.istio || asked_for || endpoints::is_captured(pod)
    {
        return None;
    }
    let asked = view.injection(pod)?;
    let revision = view.resolve(&asked.name);
    let finding = Finding::on(pod.object(), "it is to have a sidecar, and has none")
        .of(pod.workload.clone())
        .because(asked.by)
        .so("Its traffic is neither encrypted nor seen by the mesh, and where STRICT is in force it is turned away.");
    let Some(revision) = revision else {
        return Some(
            finding
                .because(format!(
                    "no MutatingWebhookConfiguration injects revision {}",
                    asked.name
                ))
                .run(Command::new("istioctl tag list"))
                .by_hand(
                    "Install that revision or let a tag of this name point to the one that is installed \
                     (`istioctl tag set`); then restart the pods.",
                ),
        );
    };
    if !view.is_revision_ready(revision) {
        return Some(
            finding
                .because(format!(
                    "revision {revision} is to inject it, and no istiod of that revision is Ready"
                ))
                .by_hand(
                    "Bring istiod of that revision back (MM0101), or name another; then restart the pods.",
                ),
        );
    }
    let finding = finding.because(
        "the webhook is there, so the pod was made before injection was asked for, or while the webhook did not answer",
    );
    Some(match pod.restart() {
        Some(restart) => finding.run(restart),
        None => finding.by_hand("Nothing makes this pod anew: delete it and create it again."),
    })
}
