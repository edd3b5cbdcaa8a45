// SPDX-License-Identifier: Apache-2.0
//! When failures in a row stop everything, and what of them counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Allowance, Entry, Record, signed};
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
    /// Which of them count.
    pub counts: Counts,
}

/// Which failures a breaker counts. No tenant alone may open one that stops others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Every one.
    All,
    /// Of one namespace or node half of what opens it.
    Spread,
    /// Nodes, each once and only for as long as the breaker stays open, of at least so many namespaces.
    Nodes {
        /// So many namespaces.
        namespaces: usize,
    },
}

/// Where a repair was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The pod's namespace.
    pub namespace: String,
    /// Its node.
    pub node: String,
    /// When it failed there, where that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

impl Place {
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        let (namespace, _) = entry.pod.split_once('/')?;
        Some(Self {
            namespace: namespace.to_owned(),
            node: entry.node.clone(),
            at: None,
        })
    }
}

impl Breaker {
    /// Until when it is open, if it was opened at all.
    pub(super) fn open_until(&self, record: &Record) -> Option<Timestamp> {
        let since = match self.counts {
            Counts::Nodes { namespaces } => {
                let nodes = record.nth_newest(|place| &place.node, self.failures as usize)?;
                nodes.min(record.nth_newest(|place| &place.namespace, namespaces)?)
            }
            Counts::All | Counts::Spread => record
                .last_failure
                .filter(|_| self.count(record) >= self.failures)?,
        };
        Some(after(since, self.open))
    }

    /// How many of the failures count.
    fn count(&self, record: &Record) -> u32 {
        let share = self.failures.div_ceil(2);
        if self.counts != Counts::Spread {
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
    /// Until when nothing is begun after the last failure, and what is said then.
    pub(super) fn rest(&self, allowance: &Allowance) -> Option<(Timestamp, Withheld)> {
        let open = allowance
            .breaker
            .and_then(|breaker| Some((breaker.open_until(self)?, breaker.why)));
        let cooldown = allowance.cooldown.filter(|_| self.failures > 0);
        let cooldown = cooldown.and_then(|(first, most)| {
            let doubled = first.saturating_mul(1 << (self.failures - 1).min(16));
            Some((after(self.last_failure?, doubled.min(most)), Withheld::Cooldown))
        });
        open.into_iter().chain(cooldown).max_by_key(|&(until, _)| until)
    }

    pub(super) fn fail(&mut self, place: Option<Place>, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        (self.last_failure, self.lapsed) = (Some(now), false);
        self.places.extend(place);
        self.bound();
    }

    /// A node failed, with pods of these namespaces. What is older than the breaker stays open is forgotten.
    pub(super) fn fail_node(
        &mut self,
        node: &str,
        namespaces: &[String],
        allowance: &Allowance,
        now: Timestamp,
    ) {
        let open = allowance.breaker.map(|breaker| breaker.open).unwrap_or_default();
        let fresh = |place: &Place| place.at.is_some_and(|at| now < after(at, open));
        self.places.retain(|place| place.node != node && fresh(place));
        self.places.extend(namespaces.iter().map(|namespace| Place {
            namespace: namespace.clone(),
            node: node.to_owned(),
            at: Some(now),
        }));
        self.bound();
        self.count_nodes();
    }

    /// A node succeeded. If it failed before, that is over; else it shows that what failed elsewhere fails there alone.
    pub(super) fn succeed_node(&mut self, node: &str) {
        let before = self.places.len();
        self.places.retain(|place| place.node != node);
        if self.places.len() == before {
            self.places.clear();
        }
        self.count_nodes();
    }

    fn count_nodes(&mut self) {
        let nodes: BTreeSet<&str> = self.places.iter().map(|place| &*place.node).collect();
        self.failures = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        self.last_failure = self.places.iter().filter_map(|place| place.at).max();
    }

    /// Of the newest failure of each, by this name, the nth newest.
    fn nth_newest(&self, name: fn(&Place) -> &str, nth: usize) -> Option<Timestamp> {
        let mut newest: BTreeMap<&str, Timestamp> = BTreeMap::new();
        for place in &self.places {
            let at = place.at?;
            let known = newest.entry(name(place)).or_insert(at);
            *known = at.max(*known);
        }
        let mut newest: Vec<Timestamp> = newest.into_values().collect();
        newest.sort_unstable_by(|a, b| b.cmp(a));
        newest.get(nth.checked_sub(1)?).copied()
    }

    fn bound(&mut self) {
        let excess = self.places.len().saturating_sub(PLACES);
        self.places.drain(..excess);
    }
}

fn after(since: Timestamp, span: Duration) -> Timestamp {
    since.checked_add(signed(span)).unwrap_or(Timestamp::MAX)
}
