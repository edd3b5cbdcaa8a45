// SPDX-License-Identifier: Apache-2.0
//! What a look into pods shows, and what ztunnel thinks of them.

use meshmedic_common::eligibility::Expectation;
use meshmedic_common::kube::facts::annotated_at;
use meshmedic_common::policy::DISABLED;
use meshmedic_common::times::Times;
use meshmedic_common::verdict::State;

use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::snapshot::PodState;
use crate::doctor::view::{PodView, View};

/// The pods in this state, each with a finding begun.
fn in_state(
    view: &View<'_>,
    wanted: impl Fn(&PodState) -> bool,
    problem: &str,
    effect: &str,
) -> Vec<Finding> {
    let states = view.snapshot.scan.all().iter().filter(|pod| wanted(pod));
    states
        .map(|seen| {
            let by = seen.via.as_deref().unwrap_or("no one");
            let detail = seen
                .detail
                .as_ref()
                .map(|detail| format!("; {detail}"))
                .unwrap_or_default();
            let finding = Finding::on(ObjectRef::new("Pod", &seen.namespace, &seen.name), problem)
                .because(format!("{} (read by {by}){detail}", seen.state.sentence()))
                .so(effect);
            match view
                .pod(&seen.namespace, &seen.name)
                .filter(|pod| pod.facts.uid == seen.uid)
            {
                Some(pod) => {
                    let finding = finding.of(pod.workload.clone());
                    let times = times(view, pod).shown();
                    times.into_iter().fold(finding, Finding::because)
                }
                None => finding,
            }
        })
        .collect()
}

/// When what led to it happened.
fn times(view: &View<'_>, pod: &PodView<'_>) -> Times {
    let node = pod.facts.node.as_deref();
    let mut cnis = view.cnis().filter(|cni| cni.facts.node.as_deref() == node);
    let times = Times {
        sandbox: pod.facts.sandbox_since,
        cni: cnis.find_map(|cni| cni.facts.container.as_ref()?.started),
        annotated: annotated_at(pod.pod),
        ..Times::default()
    };
    match view.snapshot.reports().find(|(of, _)| Some(*of) == node) {
        Some((_, report)) => times.told_by(report, &pod.facts),
        None => times,
    }
}

/// A command on the pod that a finding is on.
fn of_pod(words: &'static str, finding: &Finding) -> Command {
    let namespace = finding.object.namespace.as_deref().unwrap_or_default();
    Command::new(words).path(namespace, &finding.object.name)
}

fn explained(finding: Finding) -> Finding {
    let explain = of_pod("meshmedic explain", &finding);
    finding.run(explain)
}

/// With the command that repairs it, unless its annotation forbids that.
fn repaired(view: &View<'_>, finding: Finding) -> Finding {
    let namespace = finding.object.namespace.as_deref().unwrap_or_default();
    let pod = view.pod(namespace, &finding.object.name);
    if pod.is_some_and(|pod| pod.facts.repair.as_deref() == Some(DISABLED)) {
        return explained(finding).by_hand(
            "its annotation meshmedic.io/repair forbids repairs: remove it, or restart the pod when it suits",
        );
    }
    let repair = of_pod("meshmedic repair --yes", &finding);
    explained(finding).run(repair)
}

fn mended_by_hand(found: Vec<Finding>, how: &str) -> Vec<Finding> {
    let mended = found.into_iter().map(|finding| explained(finding).by_hand(how));
    mended.collect()
}

pub(super) fn orphans(view: &View<'_>) -> Vec<Finding> {
    let effect = "ztunnel does not take its connections: they are refused, or bypass the mesh in plaintext";
    let found = in_state(
        view,
        |pod| pod.state == State::Orphan,
        "fell out of the mesh",
        effect,
    );
    found.into_iter().map(|finding| repaired(view, finding)).collect()
}

pub(super) fn partial(view: &View<'_>) -> Vec<Finding> {
    let effect = "some of its connections are captured, and others are refused";
    let found = in_state(
        view,
        |pod| pod.state == State::Partial,
        "only some of ztunnel's listeners are in it",
        effect,
    );
    found.into_iter().map(|finding| repaired(view, finding)).collect()
}

pub(super) fn imposters(view: &View<'_>) -> Vec<Finding> {
    let effect = "its connections end at something that is not the mesh, and a new pod would meet the same";
    let found = in_state(
        view,
        |pod| pod.state == State::Imposter,
        "something else holds ztunnel's ports in it",
        effect,
    );
    let moved = "let the app use ports other than 15001, 15006 and 15008, then make the pod anew";
    mended_by_hand(found, moved)
}

pub(super) fn bypassing(view: &View<'_>) -> Vec<Finding> {
    let effect = "what it sends and receives goes past ztunnel in plaintext, while every label and listener looks well";
    let found = in_state(
        view,
        |pod| pod.state == State::Bypassing,
        "ztunnel listens in it, and Istio's redirection rules are gone",
        effect,
    );
    let healed = "let the agent of its node heal it in place (--auto-repair): istio-cni writes the rules anew, without a restart";
    mended_by_hand(found, healed)
}

pub(super) fn stalled(view: &View<'_>) -> Vec<Finding> {
    let effect =
        "its rules may be in place while no ztunnel listens: its connections are refused, or bypass the mesh";
    let found = in_state(
        view,
        |pod| pod.state == State::Stalled,
        "istio-cni has been trying to enrol it for too long",
        effect,
    );
    let healed = "look into istio-cni's log on its node for the lines that name this pod; with --auto-repair its agent asks \
                  istio-cni once more";
    mended_by_hand(found, healed)
}

pub(super) fn unredirected(view: &View<'_>) -> Vec<Finding> {
    let bare = |pod: &PodState| pod.state == State::Captured && pod.redirection.as_deref() == Some("absent");
    let effect = "ztunnel listens, and what the pod sends goes past it in plaintext; HBONE to it may hang";
    let found = in_state(
        view,
        bare,
        "ztunnel listens in it, and Istio's routes are gone",
        effect,
    );
    let anew = found.into_iter().map(|finding| {
        let known = finding
            .object
            .namespace
            .as_deref()
            .and_then(|of| view.pod(of, &finding.object.name));
        match known {
            Some(pod) => pod.made_anew(finding),
            None => finding.by_hand("make the pod anew"),
        }
    });
    anew.collect()
}

pub(super) fn not_hbone(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ztunnel in view.snapshot.ztunnels.all() {
        let workloads = ztunnel.dump.had().into_iter().flat_map(|dump| &dump.workloads);
        for workload in workloads.filter(|workload| workload.protocol == "TCP") {
            let pod = view.pod(&workload.namespace, &workload.name);
            let Some(pod) = pod.filter(|pod| pod.expectation == Expectation::Expected) else {
                continue;
            };
            if !view.is_older(&pod.facts, super::SOON) {
                continue;
            }
            let finding = Finding::on(
                pod.object(),
                "ztunnel's own view says plain TCP for it, though it is enrolled",
            )
            .of(pod.workload.clone())
            .because(format!(
                "config_dump of {}: protocol TCP, where HBONE is expected",
                ztunnel.name
            ))
            .so("peers send it plaintext: no mTLS, and policies that ask for identities turn it away")
            .run(Command::new("istioctl ztunnel-config workloads").joined(
                &ztunnel.name,
                ".",
                &ztunnel.namespace,
            ));
            findings.push(pod.made_anew(finding));
        }
    }
    findings
}
