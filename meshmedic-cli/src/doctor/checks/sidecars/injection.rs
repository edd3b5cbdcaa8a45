// SPDX-License-Identifier: Apache-2.0
//! Pods that should have been given a sidecar, and were not.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use meshmedic_common::eligibility::MODE_LABEL;
use meshmedic_common::facts::Labels;

use crate::doctor::finding::Finding;
use crate::doctor::view::{PodView, View, endpoints};

/// Nothing is ever injected into these.
const LEFT_ALONE: [&str; 4] = [
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "local-path-storage",
];
const INJECT: &str = "sidecar.istio.io/inject";
const REVISION: &str = "istio.io/rev";
const DEFAULT: &str = "default";

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
    let (revision, said_by) = wanted(view, pod)?;
    let hooks = view.snapshot.mutating_webhooks.all();
    let hooked = hooks.iter().any(|hook| serves(hook, &revision));
    let finding = Finding::on(pod.object(), "it is to have a sidecar, and has none")
        .of(pod.workload.clone())
        .because(said_by)
        .so("Its traffic is neither encrypted nor seen by the mesh, and where STRICT is in force it is turned away.");
    if !hooked {
        return Some(
            finding
                .because(format!(
                    "no MutatingWebhookConfiguration injects revision {revision}"
                ))
                .run("istioctl tag list")
                .by_hand(
                    "Install that revision or let a tag of this name point to the one that is installed \
                     (`istioctl tag set`); then restart the pods.",
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

/// The revision that is to inject, and who says so; none if nothing is to be injected.
fn wanted(view: &View<'_>, pod: &PodView<'_>) -> Option<(String, String)> {
    let namespace = pod.facts.namespace.as_str();
    let labels = view.namespace_labels(namespace);
    let own = &pod.facts.labels;
    let annotated = pod
        .pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(INJECT));
    let of_pod = own.get(INJECT).or(annotated).map(String::as_str);
    let revision = own.get(REVISION).or_else(|| labels.get(REVISION));
    let revision = revision.cloned().unwrap_or_else(|| DEFAULT.to_owned());
    let of_namespace = labels.get("istio-injection").map(String::as_str);
    match (of_pod, of_namespace) {
        // What an annotation may say for no.
        (Some("false" | "no" | "off" | "n"), _) | (_, Some("disabled")) => None,
        (_, Some("enabled")) => Some((
            DEFAULT.to_owned(),
            format!("namespace {namespace} has the label istio-injection=enabled"),
        )),
        _ if labels.contains_key(REVISION) => Some((
            revision.clone(),
            format!("namespace {namespace} has the label {REVISION}={revision}"),
        )),
        // The webhook heeds the label alone where the namespace says nothing.
        _ if own.get(INJECT).is_some_and(|inject| inject == "true") => {
            Some((revision, format!("it has the label {INJECT}=true")))
        }
        _ => None,
    }
}

/// Whether a webhook injects for a revision, by its own name or by a tag.
fn serves(hook: &MutatingWebhookConfiguration, revision: &str) -> bool {
    let labels = hook.metadata.labels.as_ref();
    let has = |key: &str, value: &str| {
        labels
            .and_then(|labels| labels.get(key))
            .is_some_and(|label| label == value)
    };
    let injector = has("app", "sidecar-injector");
    // Without a revision of its own it is the default one.
    let plain = labels.is_none_or(|labels| !labels.contains_key(REVISION)) && revision == DEFAULT;
    let tagged = has("istio.io/tag", revision);
    injector && (has(REVISION, revision) || tagged || plain)
}
