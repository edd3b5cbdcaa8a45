// SPDX-License-Identifier: Apache-2.0
//! Losses and returns over time, as far back as the agents remember, for at most a day.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use meshmedic_common::verdict::State;

use super::Change;

/// How many slots there are at most.
const SLOTS: i64 = 48;
/// How long a slot may be, in minutes: what people count in.
const MINUTES: [i64; 5] = [1, 5, 10, 15, 30];

/// What happened in each stretch of time, the oldest first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct History {
    pub(super) from: Timestamp,
    /// How long each slot is.
    pub(super) slot: SignedDuration,
    pub(super) slots: Vec<Slot>,
}

/// What happened in one stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// Losses that were confirmed.
    pub(super) lost: usize,
    /// Pods that were lost and are captured again.
    pub(super) back: usize,
}

impl History {
    /// What the changes show until now, each pod's in their order; none where no pod was lost or came back.
    pub(super) fn of(changes: &[Change], now: Timestamp) -> Option<Self> {
        let mut out = HashSet::new();
        let mut moments = Vec::new();
        for change in changes {
            if change.to.is_finding() {
                if out.insert(&change.uid) {
                    moments.push((change.at, true));
                }
            } else if change.to == State::Captured && out.remove(&change.uid) {
                moments.push((change.at, false));
            }
        }
        // A clock that runs ahead puts nothing into the future.
        let age = |at: Timestamp| (now.duration_since(at).as_secs() / 60).max(0);
        let oldest = moments.iter().map(|&(at, _)| age(at)).max()?;
        let longest = MINUTES[MINUTES.len() - 1];
        let minutes = MINUTES.into_iter().find(|minutes| oldest < minutes * SLOTS);
        let minutes = minutes.unwrap_or(longest);
        let count = (oldest / minutes + 1).min(SLOTS);
        let slot = SignedDuration::from_mins(minutes);
        let mut slots = vec![Slot::default(); usize::try_from(count).ok()?];
        for (at, lost) in moments {
            // What is older than a day has no slot.
            let slot = usize::try_from(count - 1 - age(at) / minutes);
            if let Some(slot) = slot.ok().and_then(|at| slots.get_mut(at)) {
                slot.lost += usize::from(lost);
                slot.back += usize::from(!lost);
            }
        }
        let whole = SignedDuration::from_mins(minutes * count);
        let from = now.checked_sub(whole).ok()?;
        let any = slots.iter().any(|slot| *slot != Slot::default());
        any.then_some(Self { from, slot, slots })
    }

    /// All losses and all returns.
    pub(super) fn totals(&self) -> Slot {
        self.slots.iter().fold(Slot::default(), |sum, slot| Slot {
            lost: sum.lost + slot.lost,
            back: sum.back + slot.back,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::changes::tests::{BACK, FIRST, LOST, PROVED, report};
    use crate::status::changes_of;

    fn changes(transitions: &[(&str, &str, &str)]) -> Vec<Change> {
        let report = report("2026-01-01T00:01:00Z", transitions);
        changes_of("node-a", &report.pods[0])
    }

    fn slots(transitions: &[(&str, &str, &str)], now: &str) -> Option<Vec<(usize, usize)>> {
        let history = History::of(&changes(transitions), now.parse().unwrap())?;
        Some(history.slots.iter().map(|slot| (slot.lost, slot.back)).collect())
    }

    #[test]
    fn a_loss_counts_once_and_a_return_only_after_it() {
        let partial = ("2026-01-01T00:00:21Z", "orphan", "partial");
        let all = [FIRST, LOST, PROVED, partial, BACK];
        assert_eq!(slots(&all, "2026-01-01T00:00:50Z"), Some(vec![(1, 1)]));
        // A suspicion that passed was no loss.
        let passed = ("2026-01-01T00:00:12Z", "suspect", "captured");
        assert_eq!(slots(&[FIRST, LOST, passed], "2026-01-01T00:00:50Z"), None);
        assert_eq!(slots(&[], "2026-01-01T00:00:50Z"), None);
    }

    #[test]
    fn slots_grow_with_what_is_remembered_and_end_at_a_day() {
        let at = |now| slots(&[FIRST, LOST, PROVED, BACK], now).map(|slots| (slots.len(), slots[0]));
        assert_eq!(at("2026-01-01T00:10:30Z"), Some((11, (1, 1))));
        // Of five minutes each, and of thirty.
        assert_eq!(at("2026-01-01T01:00:30Z"), Some((13, (1, 1))));
        assert_eq!(at("2026-01-01T23:59:30Z"), Some((48, (1, 1))));
        assert_eq!(at("2026-01-02T02:00:30Z"), None);
        // An agent's clock that is ahead.
        assert_eq!(at("2025-12-31T23:00:00Z"), Some((1, (1, 1))));
    }
}
