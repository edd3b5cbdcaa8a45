// SPDX-License-Identifier: Apache-2.0
//! Something that was asked for: had, or why not.

use serde::{Deserialize, Serialize};

/// Something that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Part<T> {
    /// It was had.
    Had(T),
    /// It was not, and why.
    Unknown(Unknown),
}

/// Why something is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Unknown {
    /// Whoever asked may not; with the rule that would allow it.
    Forbidden(String),
    /// The cluster has no such thing.
    Absent(String),
    /// The question failed.
    Failed(String),
    /// Nobody asked, and why.
    NotAsked(String),
}

impl<T> Default for Part<T> {
    fn default() -> Self {
        Self::Unknown(Unknown::NotAsked("this snapshot does not have it".to_owned()))
    }
}

impl<T> Part<T> {
    /// What was had.
    pub(crate) const fn had(&self) -> Option<&T> {
        match self {
            Self::Had(had) => Some(had),
            Self::Unknown(_) => None,
        }
    }

    /// Why it was not.
    pub(crate) const fn unknown(&self) -> Option<&Unknown> {
        match self {
            Self::Had(_) => None,
            Self::Unknown(why) => Some(why),
        }
    }

    /// The same of something made of it.
    pub(crate) fn map<U>(self, map: impl FnOnce(T) -> U) -> Part<U> {
        match self {
            Self::Had(had) => Part::Had(map(had)),
            Self::Unknown(why) => Part::Unknown(why),
        }
    }

    pub(crate) fn absent(why: impl Into<String>) -> Self {
        Self::Unknown(Unknown::Absent(why.into()))
    }

    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self::Unknown(Unknown::Failed(why.into()))
    }

    pub(crate) fn not_asked(why: impl Into<String>) -> Self {
        Self::Unknown(Unknown::NotAsked(why.into()))
    }
}

impl<T> Part<Vec<T>> {
    /// All that were had; none where they could not be.
    pub(crate) fn all(&self) -> &[T] {
        self.had().map_or(&[], Vec::as_slice)
    }
}

impl Unknown {
    /// Why, in one line or, where a rule is missing, with the rule below.
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Forbidden(why) | Self::Absent(why) | Self::Failed(why) | Self::NotAsked(why) => why,
        }
    }
}
