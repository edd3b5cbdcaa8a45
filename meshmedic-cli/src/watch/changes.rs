// SPDX-License-Identifier: Apache-2.0
//! Transitions over all agents: which are new since the last round, and how long a pod was out of the mesh.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use meshmedic_common::report::{NodeReport, PodReport, TransitionReport};
use meshmedic_common::text::clean;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Reason, State};
use serde::Serialize;

/// How much of a name is kept; Kubernetes' own are shorter.
const MAX_NAME: usize = 253;

/// A pod's change of state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Change {
    pub(super) at: Timestamp,
    pub(super) node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    /// Its name, or its UID where no name is known.
    pub(super) pod: String,
    pub(super) uid: PodUid,
    /// The state before; none for the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<State>,
    pub(super) to: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Reason>,
    /// For how long it was in the state before, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) after_ms: Option<u64>,
    /// Of a pod that is captured again: for how long it was not, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) outside_ms: Option<u64>,
}

impl Change {
    /// `shop/cart-0`, or the UID.
    pub(super) fn name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.pod),
            None => self.pod.clone(),
        }
    }
}

/// All transitions that the agent still knows of a pod, oldest first.
pub(super) fn of_pod(node: &str, pod: &PodReport) -> Vec<Change> {
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

/// What was told already. Agents keep what happened, so a round that failed loses nothing that they still know.
pub(super) struct Told {
    begun: Instant,
    since: Option<Timestamp>,
    /// By node: each pod's last transition that was told.
    nodes: BTreeMap<String, BTreeMap<PodUid, TransitionReport>>,
}

impl Told {
    /// Begins now, or with what happened after that time.
    pub(super) const fn new(begun: Instant, since: Option<Timestamp>) -> Self {
        Self {
            begun,
            since,
            nodes: BTreeMap::new(),
        }
    }

    /// What is new in a node's report, oldest first. A pod that it no longer knows is forgotten.
    pub(super) fn new_of(&mut self, node: &str, report: &NodeReport, now: Instant) -> Vec<Change> {
        // By the agent's own clock, for its transitions are.
        let start = self
            .since
            .or_else(|| report.at?.checked_sub(now - self.begun).ok());
        let earlier = self.nodes.remove(node).unwrap_or_default();
        let mut kept = BTreeMap::new();
        let mut new = Vec::new();
        for pod in &report.pods {
            let last = earlier.get(&pod.uid);
            let told = last.and_then(|last| pod.transitions.iter().rposition(|one| one == last));
            let is_new = |at: usize, change: &Change| match (told, last, start) {
                (Some(told), ..) => at > told,
                (None, Some(last), _) => change.at > last.at,
                (None, None, Some(start)) => change.at > start,
                (None, None, None) => false,
            };
            let changes = of_pod(node, pod).into_iter().enumerate();
            new.extend(changes.filter_map(|(at, change)| is_new(at, &change).then_some(change)));
            if let Some(last) = pod.transitions.iter().next_back() {
                kept.insert(pod.uid.clone(), last.clone());
            }
        }
        self.nodes.insert(node.to_owned(), kept);
        new.sort_by_key(|change| change.at);
        new
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(in crate::watch) fn report(at: &str, transitions: &[(&str, &str, &str)]) -> NodeReport {
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

    const LOST: (&str, &str, &str) = ("2026-01-01T00:00:10Z", "captured", "suspect");
    const PROVED: (&str, &str, &str) = ("2026-01-01T00:00:20Z", "suspect", "orphan");
    const BACK: (&str, &str, &str) = ("2026-01-01T00:00:21.5Z", "orphan", "captured");
    const FIRST: (&str, &str, &str) = ("2026-01-01T00:00:00Z", "unverifiable", "captured");

    #[test]
    fn a_change_tells_how_long_the_pod_was_outside() {
        let report = report("2026-01-01T00:01:00Z", &[FIRST, LOST, PROVED, BACK]);
        let changes = of_pod("node-a", &report.pods[0]);
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
        assert_eq!(of_pod("node-a", &late.pods[0])[1].outside_ms, None);
    }

    #[test]
    fn each_transition_is_told_once_whatever_rounds_fail() {
        let begun = Instant::now();
        let mut told = Told::new(begun, None);
        let old = report("2026-01-01T00:00:05Z", &[FIRST]);
        assert_eq!(
            told.new_of("node-a", &old, begun),
            [],
            "what was before is no news"
        );
        // Two rounds failed in between.
        let later = begun + Duration::from_secs(20);
        let two = report("2026-01-01T00:00:25Z", &[FIRST, LOST, PROVED]);
        let new = told.new_of("node-a", &two, later);
        let states: Vec<State> = new.iter().map(|change| change.to).collect();
        assert_eq!(states, [State::Suspect, State::Orphan]);
        assert_eq!(told.new_of("node-a", &two, later), [], "once");
        // The agent has forgotten all that was told.
        let rest = report("2026-01-01T00:00:30Z", &[BACK]);
        assert_eq!(told.new_of("node-a", &rest, later).len(), 1);
    }

    #[test]
    fn an_agent_that_is_heard_late_tells_what_happened_since_the_begin() {
        let begun = Instant::now();
        // Its clock is years away from ours: what counts is how long ago it says that something was.
        let report = report("2026-01-01T00:00:25Z", &[FIRST, LOST, PROVED]);
        let mut told = Told::new(begun, None);
        let new = told.new_of("node-a", &report, begun + Duration::from_secs(10));
        assert_eq!(
            new.iter().map(|change| change.to).collect::<Vec<_>>(),
            [State::Orphan]
        );
        let since = Some("2026-01-01T00:00:00Z".parse().unwrap());
        let mut resumed = Told::new(begun, since);
        assert_eq!(
            resumed.new_of("node-a", &report, begun).len(),
            2,
            "after the last one that was had"
        );
    }
}
