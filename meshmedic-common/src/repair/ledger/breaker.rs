// SPDX-License-Identifier: Apache-2.0
//! When failures in a row stop everything, and what of them counts.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Allowance, Entry, Record};
use crate::policy::Withheld;

/// So many places are remembered: more than any breaker counts.
const PLACES: usize = 32;

/// When failures in a row stop everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// So many in a row open it.
    pub failures: u32,
    /// For so long.
    pub open: Duration,
    /// What is said then.
    pub why: Withheld,
    /// Whether it wants failures of several namespaces and nodes: of one alone half of them count.
    pub several: bool,
}

/// Where a repair was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The pod's namespace.
    pub namespace: String,
    /// Its node.
    pub node: String,
}

impl Place {
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        let (namespace, _) = entry.pod.split_once('/')?;
        Some(Self {
            namespace: namespace.to_owned(),
            node: entry.node.clone(),
        })
    }
}

impl Breaker {
    /// How many of the failures count.
    fn count(&self, record: &Record) -> u32 {
        let share = self.failures.div_ceil(2);
        if !self.several {
            return record.failures;
        }
        let bounded = |name: fn(&Place) -> &str| {
            let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
            for place in &record.places {
                *counts.entry(name(place)).or_default() += 1;
            }
            counts.into_values().map(|count| count.min(share)).sum::<u32>()
        };
        let known = u32::try_from(record.places.len()).unwrap_or(u32::MAX);
        // Of those whose place nobody wrote down, each may have been elsewhere; what is older than the oldest place is
        // more than enough of.
        let unknown = match record.places.len() {
            PLACES => 0,
            _ => record.failures.saturating_sub(known),
        };
        bounded(|place| &place.namespace).min(bounded(|place| &place.node)) + unknown
    }
}

impl Record {
    /// For how long after the last failure nothing is begun, and what is said then.
    pub(super) fn rest(&self, allowance: &Allowance) -> Option<(Duration, Withheld)> {
        let open = allowance
            .breaker
            .filter(|breaker| breaker.count(self) >= breaker.failures)
            .map(|breaker| (breaker.open, breaker.why));
        let cooldown = allowance
            .cooldown
            .filter(|_| self.failures > 0)
            .map(|(first, most)| {
                let doubled = first.saturating_mul(1 << (self.failures - 1).min(16));
                (doubled.min(most), Withheld::Cooldown)
            });
        open.into_iter().chain(cooldown).max_by_key(|&(rest, _)| rest)
    }

    pub(super) fn fail(&mut self, place: Option<Place>, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        (self.last_failure, self.lapsed) = (Some(now), false);
        self.places.extend(place);
        let excess = self.places.len().saturating_sub(PLACES);
        self.places.drain(..excess);
    }
}
