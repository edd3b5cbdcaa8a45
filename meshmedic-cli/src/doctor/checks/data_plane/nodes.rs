// SPDX-License-Identifier: Apache-2.0
//! ztunnel and istio-cni as pods.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::ContainerStatus;

use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::{PodView, View};

/// Fewer restarts may be an upgrade of the node.
const MANY_RESTARTS: i32 = 3;
/// A restart is recent within this time.
const RECENT: SignedDuration = SignedDuration::from_hours(1);

pub(super) fn ztunnel_ready(view: &View<'_>) -> Vec<Finding> {
    let ztunnels: Vec<_> = view.ztunnels().collect();
    let effect =
        "ambient pods on this node have no connections into or out of the mesh, and new ones do not start";
    missing(view, &ztunnels, "ztunnel", effect)
}

pub(super) fn cni_ready(view: &View<'_>) -> Vec<Finding> {
    let cnis: Vec<_> = view.cnis().collect();
    let effect = "pods that start on this node now are not captured, or do not start at all";
    // Where no node has one, it goes by another name.
    if cnis.is_empty() && view.cni_sets().next().is_none() {
        return Vec::new();
    }
    missing(view, &cnis, "istio-cni", effect)
}

/// How many ambient pods live on each node.
fn ambient_nodes<'v>(view: &'v View<'_>) -> BTreeMap<&'v str, usize> {
    let mut nodes = BTreeMap::new();
    for pod in view
        .pods()
        .iter()
        .filter(|pod| pod.is_live() && view.is_ambient(&pod.facts))
    {
        if let Some(node) = &pod.facts.node {
            *nodes.entry(node.as_str()).or_default() += 1;
        }
    }
    nodes
}

fn missing(view: &View<'_>, parts: &[&PodView<'_>], part: &str, effect: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (node, pods) in ambient_nodes(view) {
        let here: Vec<_> = parts
            .iter()
            .filter(|one| one.facts.node.as_deref() == Some(node))
            .collect();
        if here.iter().any(|one| one.facts.ready) {
            continue;
        }
        let on = |problem: String| {
            Finding::on(ObjectRef::cluster("Node", node), problem)
                .so(effect)
                .because(format!("{pods} ambient pods live on it"))
        };
        findings.push(match here.first() {
            Some(one) => {
                let (of, called) = (&one.facts.namespace, &one.facts.name);
                on(format!("{part} is not Ready here"))
                    .because(format!("pod {of}/{called}: {}", why(one)))
                    .run(Command::new("kubectl describe pod").namespace(of).name(called))
                    .run(one.logs())
                    .run(one.delete())
            }
            None => on(format!("no {part} runs here"))
                .because(format!("no pod of {part}'s DaemonSet is on it"))
                .run(Command::new("kubectl describe node").name(node))
                .by_hand(format!("let {part}'s DaemonSet tolerate the node's taints and select the node, or take the label off these pods")),
        });
    }
    findings
}

/// Why a pod is not Ready, in a few words.
fn why(pod: &PodView<'_>) -> String {
    let waiting = statuses(pod).find_map(|status| {
        let state = status.state.as_ref()?;
        let reason = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
        reason.or_else(|| state.terminated.as_ref().and_then(|ended| ended.reason.clone()))
    });
    waiting.unwrap_or_else(|| "it runs, and its readiness probe fails".to_owned())
}

fn statuses<'v>(pod: &'v PodView<'_>) -> impl Iterator<Item = &'v ContainerStatus> {
    let status = pod.pod.status.as_ref();
    status
        .into_iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
}

fn parts<'v>(view: &'v View<'_>) -> impl Iterator<Item = (&'static str, &'v PodView<'v>)> {
    let ztunnels = view.ztunnels().map(|pod| ("ztunnel", pod));
    ztunnels.chain(view.cnis().map(|pod| ("istio-cni", pod)))
}

pub(super) fn out_of_memory(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (part, pod) in parts(view) {
        for status in statuses(pod) {
            let states = [&status.state, &status.last_state];
            let mut ended = states
                .into_iter()
                .flatten()
                .filter_map(|state| state.terminated.as_ref());
            let Some(killed) = ended.find(|ended| ended.reason.as_deref() == Some("OOMKilled")) else {
                continue;
            };
            let when = killed
                .finished_at
                .as_ref()
                .map(|time| format!(" at {:.0}", time.0))
                .unwrap_or_default();
            findings.push(
                Finding::on(
                    pod.object(),
                    format!("{part} was killed because it needed more memory than its limit"),
                )
                .of(pod.workload.clone())
                .because(format!(
                    "container {}: OOMKilled{when}, {} restarts; limit {}",
                    status.name,
                    status.restart_count,
                    limit(pod, &status.name).unwrap_or_else(|| "of the node".to_owned())
                ))
                .so("when it is killed, every connection of the mesh on its node breaks at once")
                .by_hand(format!(
                    "raise resources.limits.memory of {part} in the values of its chart, then upgrade it"
                )),
            );
        }
    }
    findings
}

fn limit(pod: &PodView<'_>, container: &str) -> Option<String> {
    let spec = pod.pod.spec.as_ref()?;
    let container = spec.containers.iter().find(|one| one.name == container)?;
    Some(
        container
            .resources
            .as_ref()?
            .limits
            .as_ref()?
            .get("memory")?
            .0
            .clone(),
    )
}

pub(super) fn restarts(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (part, pod) in parts(view) {
        for status in statuses(pod).filter(|status| status.restart_count >= MANY_RESTARTS) {
            let ended = status
                .last_state
                .as_ref()
                .and_then(|state| state.terminated.as_ref());
            let Some((ended, at)) = ended.and_then(|ended| Some((ended, ended.finished_at.as_ref()?.0)))
            else {
                continue;
            };
            // What ran out of memory has a finding of its own.
            if view.now.duration_since(at) > RECENT || ended.reason.as_deref() == Some("OOMKilled") {
                continue;
            }
            let (of, called) = (&pod.facts.namespace, &pod.facts.name);
            findings.push(
                Finding::on(pod.object(), format!("{part} restarts again and again"))
                    .of(pod.workload.clone())
                    .because(format!(
                        "container {}: {} restarts, the last at {at:.0} with exit code {} ({})",
                        status.name,
                        status.restart_count,
                        ended.exit_code,
                        ended.reason.as_deref().unwrap_or("no reason")
                    ))
                    .so("each time the connections of the mesh on its node break, and pods may come back uncaptured")
                    .run(
                        Command::new("kubectl logs --previous --tail 200")
                            .namespace(of)
                            .name(called)
                            .words("-c")
                            .name(&status.name),
                    ),
            );
        }
    }
    findings
}
