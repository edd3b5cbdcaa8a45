// SPDX-License-Identifier: Apache-2.0
//! The switch that pauses all repairs: a ConfigMap beside the agents, which every one of them watches.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use crate::text::clean;

/// The ConfigMap's name.
pub const CONTROL: &str = "meshmedic-control";
/// The key that switches.
pub const REPAIRS: &str = "repairs";
/// The value of [`REPAIRS`] that pauses.
pub const PAUSED: &str = "paused";
/// The key that tells why, in the words of whoever paused.
pub const REASON: &str = "reason";
/// The key that tells who paused.
pub const BY: &str = "by";
/// The key that tells since when.
pub const SINCE: &str = "since";

/// How much of what is written there is shown.
const MAX_WORDS: usize = 512;

/// Repairs are paused.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pause {
    /// Why; empty where nobody said.
    pub reason: String,
    /// Who did it, as they say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Since when, as they say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

impl Pause {
    /// Reads the switch; `None` where repairs go on. Anybody who may write it may write anything into it.
    #[must_use]
    pub fn read(control: &ConfigMap) -> Option<Self> {
        let data = control.data.as_ref()?;
        let paused = data.get(REPAIRS)?.trim() == PAUSED;
        let words = |key: &str| data.get(key).map(|text| clean(text, MAX_WORDS));
        let said = |key: &str| words(key).filter(|words| !words.is_empty());
        paused.then(|| Self {
            reason: words(REASON).unwrap_or_default(),
            by: said(BY),
            since: said(SINCE),
        })
    }

    /// The ConfigMap's data that say so.
    #[must_use]
    pub fn data(&self) -> BTreeMap<String, String> {
        let mut data = BTreeMap::from([
            (REPAIRS.to_owned(), PAUSED.to_owned()),
            (REASON.to_owned(), self.reason.clone()),
        ]);
        for (key, value) in [(BY, &self.by), (SINCE, &self.since)] {
            if let Some(value) = value {
                data.insert(key.to_owned(), value.clone());
            }
        }
        data
    }

    /// Since when, by whom and why, for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let since = self.since.as_ref().map(|since| format!(" since {since}"));
        let by = self.by.as_ref().map(|by| format!(" by {by}"));
        let why = if self.reason.is_empty() {
            ", for no reason given".to_owned()
        } else {
            format!(": {}", self.reason)
        };
        format!(
            "paused{}{}{why}",
            since.unwrap_or_default(),
            by.unwrap_or_default()
        )
    }
}

/// Why repairs are paused by the switch, if they are.
#[must_use]
pub fn pause_reason(control: &ConfigMap) -> Option<String> {
    Pause::read(control).map(|pause| pause.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(data: &[(&str, &str)]) -> ConfigMap {
        let owned = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
        ConfigMap {
            data: Some(data.iter().map(owned).collect()),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let pause = Pause {
            reason: "maintenance".to_owned(),
            by: Some("ann@desk".to_owned()),
            since: Some("2026-01-01T00:00:00Z".to_owned()),
        };
        let control = ConfigMap {
            data: Some(pause.data()),
            ..ConfigMap::default()
        };
        assert_eq!(Pause::read(&control), Some(pause.clone()));
        assert_eq!(
            pause.sentence(),
            "paused since 2026-01-01T00:00:00Z by ann@desk: maintenance"
        );
    }

    #[test]
    fn only_the_value_pauses_and_words_are_cleaned() {
        assert_eq!(Pause::read(&ConfigMap::default()), None);
        assert_eq!(Pause::read(&control(&[("reason", "x")])), None);
        assert_eq!(Pause::read(&control(&[("repairs", "on"), ("reason", "x")])), None);
        let pause = Pause::read(&control(&[
            ("repairs", " paused\n"),
            ("by", ""),
            ("reason", "a\u{1b}[2Jb"),
        ]));
        let pause = pause.unwrap();
        assert_eq!((pause.reason.as_str(), &pause.by), ("a [2Jb", &None));
        assert_eq!(Pause::default().sentence(), "paused, for no reason given");
    }
}
