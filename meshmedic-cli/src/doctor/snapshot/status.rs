// SPDX-License-Identifier: Apache-2.0
//! What controllers say about an object in its status.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What controllers say about an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    pub(crate) conditions: Vec<Condition>,
    /// Where a Gateway is reached: addresses and host names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) addresses: Vec<String>,
    /// The listeners of a Gateway, the parents of a route, the ancestors of a policy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) parts: Vec<StatusPart>,
}

/// What is said about one listener, parent or ancestor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct StatusPart {
    /// The listener's name, or the parent as `Kind namespace/name`.
    pub(crate) of: String,
    /// Who says it, such as `istio.io/gateway-controller`; empty for listeners.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) controller: String,
    pub(crate) conditions: Vec<Condition>,
}

/// A condition as the API has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// `True`, `False` or `Unknown`.
    pub(crate) status: String,
    pub(crate) reason: String,
    /// Cleaned and cut.
    pub(crate) message: String,
    /// The generation that it was said of, where the controller tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) observed_generation: Option<i64>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Timestamp>,
}

impl Status {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Condition {
    /// Whether it is denied, of the object as it stands now and not of an earlier generation.
    pub(crate) fn is_false(&self, generation: Option<i64>) -> bool {
        self.status == "False" && self.is_current(generation)
    }

    /// Whether it was said of the object as it stands now. Some of Istio's conditions tell no generation.
    pub(crate) fn is_current(&self, generation: Option<i64>) -> bool {
        match (self.observed_generation, generation) {
            (Some(observed), Some(now)) => observed == 0 || observed >= now,
            _ => true,
        }
    }

    /// Its reason and its message, for people.
    pub(crate) fn words(&self) -> String {
        match (self.reason.as_str(), self.message.as_str()) {
            ("", "") => format!("{} is {}", self.kind, self.status),
            (reason, "") => format!("{} is {}, {reason}", self.kind, self.status),
            (reason, message) => format!("{} is {}, {reason}: {message}", self.kind, self.status),
        }
    }
}
