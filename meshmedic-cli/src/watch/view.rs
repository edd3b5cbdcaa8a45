// SPDX-License-Identifier: Apache-2.0
//! What the screen shows, put together from one round through the fleet.

use std::cmp::Reverse;

use jiff::Timestamp;
use meshmedic_common::report::{HealStanding, PodReport, RepairStanding};
use meshmedic_common::text::clean;
use meshmedic_common::verdict::State;

use super::Args;
use super::changes::{Change, of_pod};
use crate::status::{Answers, FleetStatus};

/// How many of the last transitions are kept for the screen: more than the tallest terminal has lines.
const CHANGES: usize = 300;
/// How much of an agent's words is kept.
const MAX_WORDS: usize = 300;

/// The fleet, and its pods that are not well.
pub(super) struct View {
    pub(super) status: FleetStatus,
    /// The worst first, then those that have been so for longest.
    pub(super) unwell: Vec<Unwell>,
    /// The newest first.
    pub(super) changes: Vec<Change>,
    pub(super) at: Timestamp,
}

/// A pod that is out of the mesh, or may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unwell {
    pub(super) node: String,
    /// `namespace/name`.
    pub(super) pod: String,
    pub(super) state: State,
    pub(super) since: Option<Timestamp>,
    /// What is done about it, or why nothing is.
    pub(super) doing: String,
}

impl View {
    pub(super) fn of(args: &Args, answers: Answers, at: Timestamp) -> Self {
        let mut unwell = Vec::new();
        let mut changes = Vec::new();
        for (node, report) in &answers.fleet.reports {
            let pods = report.iter().flat_map(|report| &report.pods);
            for pod in pods.filter(|pod| args.wants(pod.namespace.as_deref())) {
                changes.extend(of_pod(node, pod));
                if pod.state.is_lost() || pod.state == State::Unverifiable {
                    unwell.push(Unwell::of(node, pod));
                }
            }
        }
        let rank = |state: State| (!state.is_finding(), !state.is_lost());
        unwell.sort_by(|a, b| {
            let key = |one: &Unwell| (rank(one.state), one.since.unwrap_or(Timestamp::MAX));
            key(a).cmp(&key(b)).then_with(|| a.pod.cmp(&b.pod))
        });
        changes.sort_by_key(|change| Reverse(change.at));
        changes.truncate(CHANGES);
        Self {
            status: FleetStatus::of(answers),
            unwell,
            changes,
            at,
        }
    }
}

impl Unwell {
    fn of(node: &str, pod: &PodReport) -> Self {
        Self {
            node: node.to_owned(),
            pod: clean(&pod.display_name(), MAX_WORDS),
            state: pod.state,
            since: pod.since,
            doing: clean(&doing(pod), MAX_WORDS),
        }
    }

    /// Whether a word of the filter is in any of its columns.
    pub(super) fn matches(&self, word: &str) -> bool {
        [&self.node, &self.pod, &self.doing, self.state.as_str()]
            .iter()
            .any(|text| text.contains(word))
    }
}

/// The gentler rung first: while a heal is under way nothing else is.
fn doing(pod: &PodReport) -> String {
    match (&pod.heal, &pod.repair) {
        (Some(HealStanding::Asked), _) => "healing in place: istio-cni is asked".to_owned(),
        (Some(HealStanding::MadeUnreachable), _) => "a heal left it unreachable".to_owned(),
        (_, Some(RepairStanding::UnderWay { acted: true })) => "restarting: evicted".to_owned(),
        (_, Some(RepairStanding::UnderWay { acted: false })) => "restarting: about to be evicted".to_owned(),
        (Some(HealStanding::Failed { sentence, .. }), None) => format!("a heal did not take: {sentence}"),
        (heal, Some(RepairStanding::Withheld { rule, sentence, .. })) => {
            let tried = matches!(heal, Some(HealStanding::Failed { .. }));
            let tried = if tried { "a heal did not take; " } else { "" };
            format!("{tried}left alone by rule {rule}: {sentence}")
        }
        (Some(HealStanding::WouldHeal), _) => "would be healed in place; repairs are off".to_owned(),
        (_, Some(RepairStanding::WouldRepair)) => "would be restarted; repairs are off".to_owned(),
        _ => match (pod.reason, &pod.detail) {
            (_, Some(detail)) => detail.clone(),
            (Some(reason), None) => reason.sentence().to_owned(),
            (None, None) => "nothing yet".to_owned(),
        },
    }
}
