// SPDX-License-Identifier: Apache-2.0
//! What happened last, and no more than fits.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::read;
use crate::verdict::{Reason, State};

/// So much is kept: enough to see a pattern, little enough for every pod of a full node.
const KEPT: usize = 16;

/// The last of what happened, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recent<T>(VecDeque<T>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Recent<T> {
    /// Adds the newest and lets go of what is too old.
    pub fn push(&mut self, item: T) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(item);
    }

    /// The newest, to add to what is known of it.
    pub fn last_mut(&mut self) -> Option<&mut T> {
        self.0.back_mut()
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.0.iter()
    }

    /// Whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A change of a pod's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TransitionReport {
    /// When.
    pub at: Timestamp,
    /// The state before; none for the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<State>,
    /// The state after.
    pub to: State,
    /// Why.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "read::known"
    )]
    pub reason: Option<Reason>,
    /// Of a return to captured: how long it was outside, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside_ms: Option<u64>,
}
