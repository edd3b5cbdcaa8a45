// SPDX-License-Identifier: Apache-2.0
//! Transitions over all agents: which are new since the last round.

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::Timestamp;
use meshmedic_common::report::{NodeReport, TransitionReport};
use meshmedic_common::uid::PodUid;

use crate::status::{Change, changes_of};

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
            let changes = changes_of(node, pod).into_iter().enumerate();
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
mod tests {
    use std::time::Duration;

    use meshmedic_common::verdict::State;

    use super::*;
    use crate::status::changes::tests::{BACK, FIRST, LOST, PROVED, report};

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
