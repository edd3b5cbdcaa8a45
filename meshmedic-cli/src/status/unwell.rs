// SPDX-License-Identifier: Apache-2.0
//! The pods that are not well, and what is done about each.

use jiff::Timestamp;
use meshmedic_common::policy::Withheld;
use meshmedic_common::report::{HealStanding, PodReport, RepairStanding};
use meshmedic_common::text::clean;
use meshmedic_common::verdict::State;
use serde::Serialize;

use super::MAX_WORDS;

/// A pod that is out of the mesh, or may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Unwell {
    pub(crate) node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// `namespace/name`, or its UID where no name is known.
    pub(crate) pod: String,
    pub(crate) state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Timestamp>,
    /// What is done about it, or why nothing is.
    pub(crate) doing: String,
}

impl Unwell {
    /// The pod, if it is not well.
    pub(super) fn of(node: &str, pod: &PodReport) -> Option<Self> {
        (pod.state.is_lost() || pod.state == State::Unverifiable).then(|| Self {
            node: node.to_owned(),
            namespace: pod.namespace.as_deref().map(|name| clean(name, MAX_WORDS)),
            pod: clean(&pod.display_name(), MAX_WORDS),
            state: pod.state,
            since: pod.since,
            doing: clean(&doing(pod), MAX_WORDS),
        })
    }

    /// What sorts the worst first, then those that have been so for longest.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        let state = (!self.state.is_finding(), !self.state.is_lost());
        (state, self.since.unwrap_or(Timestamp::MAX), self.pod.clone())
    }

    /// Whether a word of the filter is in any of its columns.
    pub(crate) fn matches(&self, word: &str) -> bool {
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
        (
            Some(HealStanding::Withheld {
                reason,
                rule,
                sentence,
            }),
            _,
        ) => {
            let opted_out = matches!(reason, Some(Withheld::OptedOutPod | Withheld::OptedOutNamespace));
            let waits = if opted_out { "left alone" } else { "waits" };
            format!("{waits} by rule {rule}: {sentence}")
        }
        (Some(HealStanding::Failed { sentence, .. }), None) => format!("a heal failed: {sentence}"),
        (heal, Some(RepairStanding::Withheld { rule, sentence, .. })) => {
            let tried = matches!(heal, Some(HealStanding::Failed { .. }));
            let tried = if tried { "a heal failed; " } else { "" };
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
