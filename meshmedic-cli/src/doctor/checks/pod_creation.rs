// SPDX-License-Identifier: Apache-2.0
//! Pods that cannot start because of the mesh.

use std::collections::BTreeSet;

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::need::Need;
use crate::doctor::snapshot::EventFact;
use crate::doctor::view::{PodView, View};

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM0301",
        category: Category::PodCreation,
        title: "no pod waits for istio-cni to set up its network",
        severity: Severity::Error,
        needs: &[Need::Pods, Need::Events, Need::Istio],
        run: blocked_by_cni,
    },
    Check {
        code: "MM0302",
        category: Category::PodCreation,
        title: "no pod waits for a ztunnel that is not connected",
        severity: Severity::Error,
        needs: &[Need::Pods, Need::Events, Need::Istio],
        run: blocked_by_ztunnel,
    },
    Check {
        code: "MM0303",
        category: Category::PodCreation,
        title: "the CNI configuration of every node calls istio-cni",
        severity: Severity::Error,
        needs: &[Need::Ambient, Need::CniFolders],
        run: conflist,
    },
];

/// How istio-cni says that it waits for ztunnel.
const NO_ZTUNNEL: &str = "no ztunnel connection";

/// The pods that still have no network, and the Event that says that istio-cni is why.
fn blocked<'v>(view: &'v View<'_>) -> impl Iterator<Item = (&'v PodView<'v>, &'v EventFact)> {
    let events = view.snapshot.events.all().iter();
    let by_cni = events.filter(|event| {
        event.kind == "Pod" && event.reason == "FailedCreatePodSandBox" && event.message.contains("istio-cni")
    });
    let mut seen = BTreeSet::new();
    by_cni.filter_map(move |event| {
        let pod = view.pod(&event.namespace, &event.name)?;
        // What an Event told was so then: a pod that has an address got over it.
        let stuck =
            pod.is_live() && pod.facts.uid == event.uid && pod.facts.addresses.is_empty() && !pod.facts.ready;
        (stuck && seen.insert(&event.uid)).then_some((pod, event))
    })
}

fn told(event: &EventFact) -> String {
    format!("Event {}, {} times: {}", event.reason, event.count, event.message)
}

fn blocked_by_cni(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (pod, event) in blocked(view).filter(|(_, event)| !event.message.contains(NO_ZTUNNEL)) {
        let node = pod.facts.node.as_deref().unwrap_or_default();
        let cni = view.cnis().find(|cni| cni.facts.node.as_deref() == Some(node));
        let finding = Finding::on(pod.object(), "it stays in ContainerCreating: istio-cni fails")
            .of(pod.workload.clone())
            .because(told(event))
            .so("the pod does not start until istio-cni answers on its node");
        findings.push(match cni {
            Some(cni) => finding.run(cni.logs()).run(cni.delete()),
            None => finding.by_hand(format!(
                "no istio-cni runs on node {node}: let its DaemonSet run there (MM0202)"
            )),
        });
    }
    findings
}

fn blocked_by_ztunnel(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (pod, event) in blocked(view).filter(|(_, event)| event.message.contains(NO_ZTUNNEL)) {
        let node = pod.facts.node.as_deref().unwrap_or_default();
        let ztunnel = view
            .ztunnels()
            .find(|ztunnel| ztunnel.facts.node.as_deref() == Some(node));
        let finding = Finding::on(
            pod.object(),
            "it stays in ContainerCreating: istio-cni waits for ztunnel",
        )
        .of(pod.workload.clone())
        .because(told(event))
        .so("the pod does not start until a ztunnel on its node has connected to istio-cni");
        findings.push(match ztunnel {
            Some(ztunnel) => {
                let called = &ztunnel.facts.name;
                let is = if ztunnel.facts.ready { "Ready" } else { "not Ready" };
                finding
                    .because(format!("ztunnel {called} on node {node} is {is}"))
                    .run(ztunnel.logs())
                    .run(ztunnel.delete())
                    .by_hand("a ztunnel that does not reach istiod does not connect to istio-cni either: see MM0205 first")
            }
            None => finding.by_hand(format!("no ztunnel runs on node {node}: let its DaemonSet run there (MM0201)")),
        });
    }
    findings
}

fn conflist(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (_, report) in view.snapshot.reports() {
        let Some(folder) = &report.cni_folder else {
            continue;
        };
        if folder.calls_istio_cni {
            continue;
        }
        let file = folder.file.as_deref().unwrap_or("none");
        let cni = view
            .cnis()
            .find(|cni| cni.facts.node.as_deref() == Some(&report.node));
        let finding = Finding::on(ObjectRef::cluster("Node", &report.node), "its CNI configuration does not call istio-cni")
            .because(format!("the configuration that counts is {file}, with the plugins {}", folder.plugins.join(", ")))
            .so("pods that start or restart on this node get no redirection: after a reboot, all of them are orphans");
        findings.push(match cni {
            Some(cni) => finding
                .run(cni.delete())
                .by_hand(
                    "istio-cni writes itself into the file when it starts. If something takes it out again, such as the \
                     CNI's own installer, set istioOwnedCNIConfig=true in istio-cni's chart",
                ),
            None => finding.by_hand("no istio-cni runs on this node: let its DaemonSet run there (MM0202)"),
        });
    }
    findings
}

#[cfg(test)]
mod tests;
