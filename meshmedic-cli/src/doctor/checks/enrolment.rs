// SPDX-License-Identifier: Apache-2.0
//! Whether the pods that should be in the mesh are, and no others.

mod captured;

use jiff::SignedDuration;
use meshmedic_common::eligibility::{Expectation, MODE_LABEL, NONE};
use meshmedic_common::facts::Labels;
use meshmedic_common::facts::{Enrolment, REDIRECTION, TOGGLE_RESTORE};
use meshmedic_common::verdict::Reason;

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::need::Need;
use crate::doctor::view::revisions::{INJECTION, REVISION};
use crate::doctor::view::{PodView, View};

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM0401",
        category: Category::Enrolment,
        title: "no pod fell out of the mesh",
        severity: Severity::Error,
        needs: &[Need::Ambient, Need::Scan],
        run: captured::orphans,
    },
    Check {
        code: "MM0402",
        category: Category::Enrolment,
        title: "no pod is captured in part",
        severity: Severity::Error,
        needs: &[Need::Ambient, Need::Scan],
        run: captured::partial,
    },
    Check {
        code: "MM0403",
        category: Category::Enrolment,
        title: "only ztunnel holds the capture ports",
        severity: Severity::Error,
        needs: &[Need::Ambient, Need::Scan],
        run: captured::imposters,
    },
    Check {
        code: "MM0404",
        category: Category::Enrolment,
        title: "captured pods have Istio's routes",
        severity: Severity::Warning,
        needs: &[Need::Ambient, Need::Scan],
        run: captured::unredirected,
    },
    Check {
        code: "MM0405",
        category: Category::Enrolment,
        title: "pods whose labels ask for ambient mode are enrolled",
        severity: Severity::Error,
        needs: &[Need::Ambient, Need::Pods, Need::Namespaces],
        run: not_enrolled,
    },
    Check {
        code: "MM0406",
        category: Category::Enrolment,
        title: "no enrolment is pending for long",
        severity: Severity::Warning,
        needs: &[Need::Ambient, Need::Pods],
        run: pending,
    },
    Check {
        code: "MM0407",
        category: Category::Enrolment,
        title: "pods that left the mesh are no longer marked as enrolled",
        severity: Severity::Warning,
        needs: &[Need::Istio, Need::Pods, Need::Namespaces],
        run: left_over,
    },
    Check {
        code: "MM0408",
        category: Category::Enrolment,
        title: "no pod has a sidecar and is captured by ztunnel as well",
        severity: Severity::Error,
        needs: &[Need::Istio, Need::Pods],
        run: both,
    },
    Check {
        code: "MM0409",
        category: Category::Enrolment,
        title: "no namespace asks for sidecars and for ambient mode",
        severity: Severity::Warning,
        needs: &[Need::Istio, Need::Namespaces],
        run: asks_for_both,
    },
    Check {
        code: "MM0410",
        category: Category::Enrolment,
        title: "no interrupted toggle keeps a pod out of the mesh",
        severity: Severity::Error,
        needs: &[Need::Pods],
        run: toggled,
    },
    Check {
        code: "MM0411",
        category: Category::Enrolment,
        title: "pods in ambient namespaces can be captured",
        severity: Severity::Info,
        needs: &[Need::Ambient, Need::Pods, Need::Namespaces],
        run: host_network,
    },
    Check {
        code: "MM0412",
        category: Category::Enrolment,
        title: "ztunnel speaks HBONE with every pod that is enrolled",
        severity: Severity::Error,
        needs: &[Need::Ambient, Need::Pods, Need::Namespaces, Need::Dumps],
        run: captured::not_hbone,
    },
    Check {
        code: "MM0413",
        category: Category::Enrolment,
        title: "ztunnel's listeners have Istio's redirection rules beside them",
        severity: Severity::Error,
        needs: &[Need::Ambient, Need::Scan],
        run: captured::bypassing,
    },
    Check {
        code: "MM0414",
        category: Category::Enrolment,
        title: "istio-cni has come to an end with every pod",
        severity: Severity::Error,
        needs: &[Need::Ambient, Need::Scan],
        run: captured::stalled,
    },
];

/// istio-cni enrols a pod within seconds.
const SOON: SignedDuration = SignedDuration::from_mins(1);
/// It retries without an end, so what is pending for so long stays so.
const LONG: SignedDuration = SignedDuration::from_mins(5);

fn not_enrolled(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pod in view.pods() {
        let facts = &pod.facts;
        let absent = facts.enrolment == Enrolment::None && !facts.addresses.is_empty();
        if !absent || !pod.is_live() || !view.is_ambient(facts) || !view.is_older(facts, SOON) {
            continue;
        }
        // While no istio-cni is there nothing is enrolled: that has a finding of its own.
        let on_node = |one: &&PodView<'_>| one.facts.node == facts.node && one.facts.ready;
        if !view.cnis().any(|cni| on_node(&cni)) {
            continue;
        }
        let from = if facts.labels.contains_key(MODE_LABEL) {
            "the pod"
        } else {
            "its namespace"
        };
        let finding = Finding::on(
            pod.object(),
            "its labels ask for ambient mode, and istio-cni has not enrolled it",
        )
        .of(pod.workload.clone())
        .because(format!(
            "{MODE_LABEL}: ambient on {from}; no annotation {REDIRECTION}"
        ))
        .so("it speaks plaintext: no mTLS, no identity, and STRICT peers turn it away");
        findings.push(pod.made_anew(finding));
    }
    findings
}

fn pending(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pod in view
        .pods()
        .iter()
        .filter(|pod| pod.is_live() && pod.facts.enrolment == Enrolment::Pending)
    {
        if !view.is_older(&pod.facts, LONG) {
            continue;
        }
        let finding = Finding::on(pod.object(), "istio-cni has been trying to enrol it for long")
            .of(pod.workload.clone())
            .because(format!("{REDIRECTION}: pending"))
            .so("its redirection is in place, and no ztunnel listens: its connections are refused");
        let node = pod.facts.node.as_deref().unwrap_or_default();
        let cni = view.cnis().find(|cni| cni.facts.node.as_deref() == Some(node));
        let finding = match cni {
            Some(cni) => finding
                .run(cni.logs())
                .by_hand("Look there for the lines that name this pod."),
            None => finding,
        };
        findings.push(pod.made_anew(finding));
    }
    findings
}

fn left_over(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pod in view
        .pods()
        .iter()
        .filter(|pod| pod.is_live() && pod.facts.enrolment != Enrolment::None)
    {
        if !matches!(
            pod.expectation,
            Expectation::Exempt(Reason::NotSelected | Reason::OptedOut)
        ) {
            continue;
        }
        // A toggle that is under way, or was interrupted, has a check of its own.
        if pod.facts.toggle_restore.is_some() {
            continue;
        }
        let finding = Finding::on(
            pod.object(),
            "it is marked as enrolled, and no label asks for that any more",
        )
        .of(pod.workload.clone())
        .because(format!(
            "annotation {REDIRECTION}; label {MODE_LABEL} on the pod: {}",
            mode(pod)
        ))
        .so("istiod makes peers speak HBONE to a pod that ztunnel may not serve: they are refused");
        findings.push(pod.made_anew(finding));
    }
    findings
}

fn mode<'p>(pod: &'p PodView<'_>) -> &'p str {
    pod.facts
        .labels
        .get(MODE_LABEL)
        .map_or("none set", String::as_str)
}

fn both(view: &View<'_>) -> Vec<Finding> {
    let both =
        |pod: &&PodView<'_>| pod.is_live() && pod.facts.sidecar && pod.facts.enrolment != Enrolment::None;
    let mut findings = Vec::new();
    for pod in view.pods().iter().filter(both) {
        let finding = Finding::on(pod.object(), "it has a sidecar, and istio-cni enrolled it in ambient mode as well")
            .of(pod.workload.clone())
            .because(format!("annotations sidecar.istio.io/status and {REDIRECTION}"))
            .so("both redirect its connections: they loop, or are refused")
            .by_hand("decide for one: take the label for injection or that for ambient mode off the pod and its namespace");
        findings.push(pod.made_anew(finding));
    }
    findings
}

fn asks_for_both(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, namespace) in view.namespaces() {
        let empty = Labels::new();
        let labels = namespace.metadata.labels.as_ref().unwrap_or(&empty);
        if labels.get(MODE_LABEL).is_none_or(|mode| mode != "ambient") {
            continue;
        }
        let Some(asked) = View::asked_by(name, labels).flatten() else {
            continue;
        };
        // A revision that no webhook injects is there for waypoints.
        let key = if labels.contains_key(INJECTION) {
            INJECTION
        } else {
            REVISION
        };
        if key == REVISION && !view.injects_into(&asked.name, labels) {
            continue;
        }
        let by_revision = key == REVISION;
        let finding = Finding::on(
            ObjectRef::cluster("Namespace", name),
            "it asks for sidecars and for ambient mode",
        )
        .because(format!(
            "labels {key}: {} and {MODE_LABEL}: ambient",
            if by_revision { &asked.name } else { "enabled" }
        ))
        .so("new pods get a sidecar and stay out of ambient mode, whatever was meant")
        .run(
            Command::new("kubectl label namespace")
                .name(name)
                .label(key, None),
        )
        .by_hand(format!(
            "Or, if sidecars are meant, take the label {MODE_LABEL} off instead."
        ));
        findings.push(if by_revision {
            finding.by_hand(format!(
                "A waypoint that is to have this revision has the label {REVISION} on its Gateway."
            ))
        } else {
            finding
        });
    }
    findings
}

fn toggled(view: &View<'_>) -> Vec<Finding> {
    let left = |pod: &&PodView<'_>| pod.is_live() && pod.facts.toggle_restore.is_some();
    let mut findings = Vec::new();
    for pod in view.pods().iter().filter(left) {
        // A toggle takes seconds, and a pod that was made in its midst has no annotation of one.
        let out = pod.facts.labels.get(MODE_LABEL).is_some_and(|mode| mode == NONE);
        if !out {
            continue;
        }
        let (of, called) = (&pod.facts.namespace, &pod.facts.name);
        findings.push(
            Finding::on(pod.object(), "a toggle took it out of the mesh and did not bring it back")
                .of(pod.workload.clone())
                .because(format!("label {MODE_LABEL}: {NONE}; annotation {TOGGLE_RESTORE}"))
                .so("it speaks plaintext past the mesh until the label is back as it was")
                .run(Command::new("meshmedic repair --strategy toggle --yes").path(of, called))
                .by_hand("an agent that may patch pods restores it by itself; if a toggle runs right now, wait a minute"),
        );
    }
    findings
}

fn host_network(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pod in view
        .pods()
        .iter()
        .filter(|pod| pod.is_live() && pod.facts.host_network)
    {
        let labels = view.namespace_labels(&pod.facts.namespace);
        let asks = |labels: &Labels| labels.get(MODE_LABEL).is_some_and(|mode| mode == "ambient");
        let opted_out = pod.facts.labels.get(MODE_LABEL).is_some_and(|mode| mode == NONE);
        if opted_out || !(asks(labels) || asks(&pod.facts.labels)) {
            continue;
        }
        findings.push(
            Finding::on(
                pod.object(),
                "it uses the network of its node, so the mesh cannot capture it",
            )
            .of(pod.workload.clone())
            .because("spec.hostNetwork: true")
            .so("it speaks plaintext, and has no identity of its own")
            .by_hand(format!(
                "if that is meant, label it {MODE_LABEL}={NONE}; else give it a network of its own"
            )),
        );
    }
    findings
}

#[cfg(test)]
mod tests;
