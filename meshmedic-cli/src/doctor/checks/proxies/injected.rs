// SPDX-License-Identifier: Apache-2.0
//! Pods into which a proxy is put twice.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use meshmedic_common::facts::Labels;

use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::gateways::selects;
use crate::doctor::view::{View, endpoints, name};

/// What proxies of meshes are called in their pods.
const PROXIES: [&str; 4] = ["istio-proxy", "linkerd-proxy", "kuma-sidecar", "consul-dataplane"];
/// How the hooks of Istio's injectors end.
const INJECTOR: &str = "sidecar-injector.istio.io";
/// How many injectors or pods are named.
const NAMED: usize = 3;

pub(super) fn twice(view: &View<'_>) -> Vec<Finding> {
    let mut findings: BTreeMap<ObjectRef, Finding> = BTreeMap::new();
    for pod in view.pods().iter().filter(|pod| pod.is_live()) {
        let proxies: Vec<&str> = endpoints::containers(pod.pod)
            .map(|container| container.name.as_str())
            .filter(|name| PROXIES.iter().any(|proxy| name == proxy || is_copy(name, proxy)))
            .collect();
        if proxies.len() < 2 {
            continue;
        }
        let key = pod.workload.clone().unwrap_or_else(|| pod.object());
        findings.entry(key).or_insert_with(|| {
            let finding = Finding::on(pod.object(), "it has two proxies of a mesh")
                .of(pod.workload.clone())
                .because(format!("its containers are, among others, {}", proxies.join(" and ")))
                .so("Both redirect its traffic: connections loop or fail, and it has whichever identity comes first.")
                .by_hand(
                    "Let one inject it: look for the labels and annotations of both meshes on the pod's template and its \
                     namespace, and for a proxy that the template itself has. Then:",
                );
            pod.made_anew(finding)
        });
    }
    findings.into_values().collect()
}

/// `istio-proxy-2`, as a second injection calls it where the first name is taken.
fn is_copy(name: &str, proxy: &str) -> bool {
    let rest = name.strip_prefix(proxy).and_then(|rest| rest.strip_prefix('-'));
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

/// Istio's injectors are known by their label and by the names of their hooks.
fn injectors<'s>(view: &View<'s>) -> impl Iterator<Item = &'s MutatingWebhookConfiguration> + use<'s> {
    let ours = |one: &&MutatingWebhookConfiguration| {
        let label = one.metadata.labels.as_ref().and_then(|labels| labels.get("app"));
        let hooks = one.webhooks.iter().flatten();
        label.is_some_and(|label| label == "sidecar-injector")
            && hooks.into_iter().any(|hook| hook.name.ends_with(INJECTOR))
    };
    view.snapshot.mutating_webhooks.all().iter().filter(ours)
}

pub(super) fn by_two(view: &View<'_>) -> Vec<Finding> {
    let injectors: Vec<_> = injectors(view).collect();
    if injectors.len() < 2 {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (called, of) in view.namespaces() {
        let of_namespace = of.metadata.labels.clone().unwrap_or_default();
        // Pods with the same labels that hooks ask for are the same here.
        let mut seen: BTreeSet<Vec<(&String, &String)>> = BTreeSet::new();
        for pod in view
            .pods_in(called)
            .filter(|pod| pod.is_live() && !pod.facts.host_network)
        {
            let labels = &pod.facts.labels;
            let asked = labels
                .iter()
                .filter(|(key, _)| key.contains("istio.io/"))
                .collect();
            if !seen.insert(asked) {
                continue;
            }
            let hit: Vec<&str> = injectors
                .iter()
                .filter(|one| {
                    one.webhooks
                        .iter()
                        .flatten()
                        .any(|hook| takes(hook, &of_namespace, labels))
                })
                .map(|one| name(&one.metadata))
                .collect();
            if hit.len() > 1 {
                findings.push(finding(called, &hit, &pod.facts.name));
                break;
            }
        }
    }
    findings
}

fn takes(hook: &MutatingWebhook, of_namespace: &Labels, of_pod: &Labels) -> bool {
    let fits = |selector: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
                labels: &Labels| { selector.is_none_or(|selector| selects(selector, labels)) };
    fits(hook.namespace_selector.as_ref(), of_namespace) && fits(hook.object_selector.as_ref(), of_pod)
}

fn finding(namespace: &str, hit: &[&str], pod: &str) -> Finding {
    let named: Vec<&str> = hit.iter().copied().take(NAMED).collect();
    let finding = Finding::on(ObjectRef::cluster("Namespace", namespace), "two injectors put a sidecar into its pods")
        .because(format!("the selectors of {} all take pod {pod}", named.join(" and ")))
        .so("Which revision a pod belongs to is chance, or it gets two proxies and does not start.")
        .by_hand(
            "Keep one label of the namespace, istio-injection or istio.io/rev, and one tag or revision for it. An injector that \
             was left behind by a revision that is gone has to be deleted:",
        );
    finding.run(Command::new(
        "kubectl get mutatingwebhookconfigurations -l app=sidecar-injector",
    ))
}
