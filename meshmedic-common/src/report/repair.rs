// SPDX-License-Identifier: Apache-2.0
//! What a report says of repairs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::read;
use crate::policy::{Means, Withheld};
use crate::repair::heal::{Diagnosis, Progress};
use crate::verdict::named;

/// How it stands with the repair of a pod that is out of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum RepairStanding {
    /// It is under way.
    UnderWay {
        /// Whether the API was asked to evict the pod already.
        acted: bool,
    },
    /// Repairs of such pods are off; it would have been repaired.
    WouldRepair,
    /// It was withheld.
    Withheld {
        /// Why; none if the writer has a reason that is not known here.
        #[serde(default, deserialize_with = "read::known")]
        reason: Option<Withheld>,
        /// The number of the rule in "Do no harm".
        rule: u8,
        /// The same for people.
        sentence: String,
        /// More about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        /// Whether repairs of such pods are off, so that this is what would have been.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        shadow: bool,
    },
    /// Something that a newer agent says.
    #[serde(other)]
    Other,
}

impl RepairStanding {
    /// A repair that was withheld.
    #[must_use]
    pub fn withheld(why: Withheld, detail: Option<String>, shadow: bool) -> Self {
        Self::Withheld {
            reason: Some(why),
            rule: why.rule(),
            sentence: why.sentence().to_owned(),
            detail,
            shadow,
        }
    }
}

/// How far a pod's heal in place is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum HealStanding {
    /// istio-cni is asked to take it in again.
    Asked,
    /// The ask did not take.
    Failed {
        /// Why; none if the writer has a reason that is not known here.
        #[serde(default, deserialize_with = "read::known")]
        reason: Option<Diagnosis>,
        /// The same for people.
        sentence: String,
    },
    /// The ask made it unreachable, and that could not be taken back.
    MadeUnreachable,
    /// Repairs of such pods are off; it would have been asked for.
    WouldHeal,
    /// It has to wait for its turn, or for what forbids it to end.
    Withheld {
        /// Why; none if the writer has a reason that is not known here.
        #[serde(default, deserialize_with = "read::known")]
        reason: Option<Withheld>,
        /// The number of the rule in "Do no harm".
        rule: u8,
        /// The same for people.
        sentence: String,
    },
    /// Something that a newer agent says.
    #[serde(other)]
    Other,
}

impl HealStanding {
    /// A heal that was withheld.
    #[must_use]
    pub fn withheld(why: Withheld) -> Self {
        Self::Withheld {
            reason: Some(why),
            rule: why.rule(),
            sentence: why.sentence().to_owned(),
        }
    }
}

impl From<Progress> for HealStanding {
    fn from(progress: Progress) -> Self {
        match progress {
            Progress::Asked => Self::Asked,
            Progress::Failed(why) => Self::Failed {
                reason: Some(why),
                sentence: why.sentence().to_owned(),
            },
            Progress::MadeUnreachable => Self::MadeUnreachable,
        }
    }
}

/// What repairs may still be begun on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budgets {
    /// Whether Ready orphans may be repaired (`--auto-repair`).
    pub repairs_ready: bool,
    /// Whether stuck orphans may be repaired (`--repair-stuck`).
    pub repairs_stuck: bool,
    /// Acts of the last hour.
    pub acts_this_hour: u64,
    /// The most that are allowed in an hour.
    pub acts_an_hour: u64,
    /// Repairs under way.
    pub in_flight: u64,
    /// The most that may be under way.
    pub in_flight_most: u64,
}

named! {
    /// What a breaker stands for.
    pub enum BreakerScope {
        /// The pods of one owner.
        Owner = "owner", "repairs of this owner's pods failed";
        /// One node.
        Node = "node", "repairs on this node failed";
        /// The whole cluster.
        Cluster = "cluster", "repairs in this cluster failed";
    }
}

/// A breaker that is open: nothing is repaired behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerReport {
    /// What it stands for.
    pub scope: BreakerScope,
    /// Which one, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Repairs in a row that did not take.
    pub failures: u32,
    /// Until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

named! {
    /// How a repair ended.
    pub enum RepairResult {
        /// Its successor is captured.
        Succeeded = "succeeded", "its successor is captured";
        /// Its successor fell out as well.
        Failed = "failed", "its successor fell out of the mesh as well";
        /// Nobody proved anything by the deadline.
        Unproven = "unproven", "no proof by the deadline that its successor is captured";
        /// By the deadline no successor ran.
        Waiting = "waiting", "by the deadline no successor ran";
        /// Its owner wants no successor.
        Unwanted = "unwanted", "its owner wants no pod in its place any more";
        /// The API's answer was lost.
        InDoubt = "in-doubt", "whether it was done is not known, and it seems not";
    }
}

/// A repair that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairReport {
    /// When it ended.
    pub at: Timestamp,
    /// The pod, as `namespace/name`.
    pub pod: String,
    /// Its UID.
    pub uid: String,
    /// What was done; none if an earlier agent did it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "read::known"
    )]
    pub action: Option<Means>,
    /// How it ended; none if the writer has a result that is not known here.
    #[serde(default, deserialize_with = "read::known")]
    pub result: Option<RepairResult>,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// From the act to its proof, in milliseconds.
    #[serde(default)]
    pub took_ms: u64,
}

impl RepairReport {
    /// What was done, and what came of it.
    #[must_use]
    pub fn sentence(&self) -> String {
        let action = self.action.map_or("repaired", Means::sentence);
        let result = self
            .result
            .map_or("with an unknown result", RepairResult::sentence);
        let in_place = self.action.is_some_and(|means| !means.replaces());
        match (&self.detail, self.result) {
            // It says what came of it, of the pod or of its successor.
            (Some(detail), Some(RepairResult::Succeeded)) => format!("{action}: {detail}"),
            (Some(detail), Some(RepairResult::Failed)) if in_place => detail.clone(),
            (Some(detail), _) => format!("{action}: {result} ({detail})"),
            // Nothing succeeds a pod that is not replaced.
            (None, Some(RepairResult::Succeeded)) if in_place => format!("{action}: it is captured again"),
            (None, Some(RepairResult::Failed)) if in_place => format!("{action}: it is not captured"),
            (None, _) => format!("{action}: {result}"),
        }
    }
}
