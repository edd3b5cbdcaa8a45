// SPDX-License-Identifier: Apache-2.0
//! Pods that started before their node's istio-cni, and that nobody has looked at since.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use meshmedic_common::verdict::State;

use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::{PodView, View, endpoints};

/// A pod that is made while istio-cni starts is waited for; one that has lived for so long was there before.
const LIVED_BEFORE: SignedDuration = SignedDuration::from_secs(60);
/// How many pods of a node are named.
const NAMED: usize = 5;

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut seen = std::collections::BTreeSet::new();
    for state in view.snapshot.scan.all() {
        // Whoever looked and could not tell saw nothing.
        if state.state != State::Unverifiable {
            seen.insert((state.namespace.as_str(), state.name.as_str()));
        }
    }
    let mut cnis: BTreeMap<&str, (&PodView<'_>, Timestamp)> = BTreeMap::new();
    for cni in view.cnis() {
        if let (Some(node), Some(started)) = (cni.facts.node.as_deref(), first_start(cni.pod)) {
            cnis.insert(node, (cni, started));
        }
    }
    let mut by_node: BTreeMap<&str, Vec<&PodView<'_>>> = BTreeMap::new();
    for pod in view
        .pods()
        .iter()
        .filter(|pod| pod.is_live() && pod.facts.ready && endpoints::is_captured(pod))
    {
        let facts = &pod.facts;
        let known = seen.contains(&(facts.namespace.as_str(), facts.name.as_str()));
        let node = facts.node.as_deref().unwrap_or_default();
        let Some((_, cni)) = cnis.get(node).filter(|_| !known) else {
            continue;
        };
        if restarted_before(pod, *cni) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let found = by_node.into_iter().filter_map(|(node, pods)| {
        let (cni, started) = cnis.get(node)?;
        let named: Vec<String> = pods
            .iter()
            .take(NAMED)
            .map(|pod| format!("{}/{}", pod.facts.namespace, pod.facts.name))
            .collect();
        Some(
            Finding::on(
                ObjectRef::cluster("Node", node),
                "pods of the mesh started again there before istio-cni did",
            )
            .because(format!("istio-cni started at {started}, and {} older pods before that: {}", pods.len(), named.join(", ")))
            .because("their capture has not been checked")
            .so(
                "After a reboot istio-cni passes over pods that it meets before they have an address: they are Ready and marked \
                 as enrolled, and speak plaintext past the mesh.",
            )
            .by_hand(
                "Where MeshMedic's agents run they look, and heal. Without them, let istio-cni scan the node again, which takes \
                 in what it passed over (no pod can start on the node meanwhile):",
            )
            .run(Command::new("kubectl delete pod").namespace(&cni.facts.namespace).name(&cni.facts.name)),
        )
    });
    found.collect()
}

/// When the first of its containers that run now started.
fn first_start(pod: &Pod) -> Option<Timestamp> {
    statuses(pod).filter_map(started).min()
}

/// Whether a pod that was made long before runs in containers that all started before istio-cni, and not for the first
/// time: its node was started again.
fn restarted_before(pod: &PodView<'_>, cni: Timestamp) -> bool {
    let made = pod.facts.created;
    let mut all = statuses(pod.pod).peekable();
    all.peek().is_some()
        && all.all(|status| {
            let again = status.restart_count > 0;
            started(status).is_some_and(|started| {
                let lived = made.is_some_and(|made| started.duration_since(made) > LIVED_BEFORE);
                again && lived && started < cni
            })
        })
        // What ran while istio-cni was replaced alone had its rules from before.
        && statuses(pod.pod).any(ended_with_node)
}

/// How the runtime tells that a container was gone when its node came back.
fn ended_with_node(status: &ContainerStatus) -> bool {
    let last = status
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    last.is_some_and(|ended| ended.exit_code == 255 && ended.reason.as_deref() == Some("Unknown"))
}

fn started(status: &ContainerStatus) -> Option<Timestamp> {
    Some(status.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0)
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    status
        .into_iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
}
