// SPDX-License-Identifier: Apache-2.0
//! Transitions of pods as their agents remember them, and how long each pod was out of the mesh.

use std::time::Duration;

use jiff::Timestamp;
use meshmedic_common::report::{PodReport, TransitionReport};
use meshmedic_common::text::clean;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Reason, State};
use serde::Serialize;

/// How much of a name is kept; Kubernetes' own are shorter.
const MAX_NAME: usize = 253;

/// A pod's change of state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Change {
    pub(crate) at: Timestamp,
    pub(crate) node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// Its name, or its UID where no name is known.
    pub(crate) pod: String,
    pub(crate) uid: PodUid,
    /// The state before; none for the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<State>,
    pub(crate) to: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<Reason>,
    /// For how long it was in the state before, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after_ms: Option<u64>,
    /// Of a pod that is captured again: for how long it was not, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outside_ms: Option<u64>,
}

impl Change {
    /// `shop/cart-0`, or the UID.
    pub(crate) fn name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.pod),
            None => self.pod.clone(),
        }
    }
}

/// All transitions that the agent still knows of a pod, oldest first.
pub(crate) fn changes_of(node: &str, pod: &PodReport) -> Vec<Change> {
    let mut before: Option<&TransitionReport> = None;
    let mut left_at: Option<Timestamp> = None;
    let mut changes = Vec::new();
    for transition in pod.transitions.iter() {
        let captured = transition.to == State::Captured;
        let outside = left_at.filter(|_| captured);
        if captured {
            left_at = None;
        } else if before.is_some_and(|before| before.to == State::Captured) {
            left_at = Some(transition.at);
        }
        changes.push(Change {
            at: transition.at,
            node: clean(node, MAX_NAME),
            namespace: pod.namespace.as_deref().map(|name| clean(name, MAX_NAME)),
            pod: pod
                .name
                .as_deref()
                .map_or_else(|| pod.uid.to_string(), |name| clean(name, MAX_NAME)),
            uid: pod.uid.clone(),
            from: transition.from,
            to: transition.to,
            reason: transition.reason,
            after_ms: before.map(|before| millis(before.at, transition.at)),
            outside_ms: outside.map(|since| millis(since, transition.at)),
        });
        before = Some(transition);
    }
    changes
}

fn millis(from: Timestamp, to: Timestamp) -> u64 {
    let span = Duration::try_from(to.duration_since(from)).unwrap_or_default();
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use meshmedic_common::report::NodeReport;
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn report(at: &str, transitions: &[(&str, &str, &str)]) -> NodeReport {
        let transitions: Vec<Value> = transitions
            .iter()
            .map(|(at, from, to)| json!({ "at": at, "from": from, "to": to }))
            .collect();
        let last = transitions
            .last()
            .map_or(json!("captured"), |last| last["to"].clone());
        let report = json!({
            "apiVersion": "meshmedic.io/v1", "kind": "NodeReport", "node": "node-a", "version": "1", "at": at,
            "trigger": "poll", "conditions": [], "ztunnel": [], "pods": [{
                "namespace": "shop", "name": "cart\u{1b}[2J", "uid": "0a1b2c3d-1111-2222-3333-444455556666",
                "state": last, "ports": [], "redirection": "unknown", "flaps": 0, "transitions": transitions,
            }],
        });
        NodeReport::read(report.to_string().as_bytes()).unwrap()
    }

    pub(crate) const LOST: (&str, &str, &str) = ("2026-01-01T00:00:10Z", "captured", "suspect");
    pub(crate) const PROVED: (&str, &str, &str) = ("2026-01-01T00:00:20Z", "suspect", "orphan");
    pub(crate) const BACK: (&str, &str, &str) = ("2026-01-01T00:00:21.5Z", "orphan", "captured");
    pub(crate) const FIRST: (&str, &str, &str) = ("2026-01-01T00:00:00Z", "unverifiable", "captured");

    #[test]
    fn a_change_tells_how_long_the_pod_was_outside() {
        let report = report("2026-01-01T00:01:00Z", &[FIRST, LOST, PROVED, BACK]);
        let changes = changes_of("node-a", &report.pods[0]);
        let spans: Vec<_> = changes.iter().map(|one| (one.after_ms, one.outside_ms)).collect();
        assert_eq!(
            spans,
            [
                (None, None),
                (Some(10_000), None),
                (Some(10_000), None),
                (Some(1_500), Some(11_500))
            ]
        );
        assert_eq!(
            changes[0].name(),
            "shop/cart [2J",
            "nothing for a terminal to interpret"
        );
        // Where the loss itself was forgotten, for how long it was outside is not known.
        let late = self::report("2026-01-01T00:01:00Z", &[PROVED, BACK]);
        assert_eq!(changes_of("node-a", &late.pods[0])[1].outside_ms, None);
    }
}
