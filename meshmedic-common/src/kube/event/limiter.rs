// SPDX-License-Identifier: Apache-2.0
//! How many Events are enough.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{EventReason, Subject};

/// For how long an Event stands for those like it.
const QUIET: Duration = Duration::from_secs(300);
/// How many may be published at once, and how long each takes to be made up for. A node that lost all its pods is told
/// of in some of them; the rest is in the metrics.
const BURST: u32 = 60;
const REFILL: Duration = Duration::from_secs(1);
/// So many of the burst are kept for acts: what was done must not drown in what was seen.
const RESERVED_FOR_ACTS: u32 = 20;

/// Whether an Event is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is.
    Publish,
    /// Another one said the same a while ago.
    Duplicate,
    /// There were too many of late.
    OverBudget,
}

/// How many were not published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suppressed {
    /// Because another one said the same.
    pub duplicates: u64,
    /// Because there were too many.
    pub over_budget: u64,
}

/// Decides which Events are published. Time is handed in.
#[derive(Debug)]
pub struct Limiter {
    /// No larger than what the budget lets through while an entry is kept.
    published: HashMap<(Subject, EventReason), Last>,
    tokens: u32,
    refilled: Instant,
    suppressed: Suppressed,
}

#[derive(Debug)]
struct Last {
    at: Instant,
    note: String,
}

impl Limiter {
    /// With a full budget.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            published: HashMap::new(),
            tokens: BURST,
            refilled: now,
            suppressed: Suppressed::default(),
        }
    }

    /// Whether an Event is to be published now. What it decides is taken for done.
    pub fn admit(&mut self, subject: &Subject, reason: EventReason, note: &str, now: Instant) -> Decision {
        self.refill(now);
        self.published
            .retain(|_, last| now.saturating_duration_since(last.at) < QUIET);
        let key = (subject.clone(), reason);
        if let Some(last) = self.published.get(&key)
            && !(reason.is_act() && last.note != note)
        {
            self.suppressed.duplicates += 1;
            return Decision::Duplicate;
        }
        let reserved = if reason.is_act() { 0 } else { RESERVED_FOR_ACTS };
        if self.tokens <= reserved {
            self.suppressed.over_budget += 1;
            return Decision::OverBudget;
        }
        self.tokens -= 1;
        let note = note.to_owned();
        self.published.insert(key, Last { at: now, note });
        Decision::Publish
    }

    /// Forgets an Event that could not be published after all.
    pub fn forget(&mut self, subject: &Subject, reason: EventReason) {
        self.published.remove(&(subject.clone(), reason));
    }

    /// How many were not published so far.
    #[must_use]
    pub fn suppressed(&self) -> Suppressed {
        self.suppressed
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled);
        let earned = u32::try_from(elapsed.as_nanos() / REFILL.as_nanos()).unwrap_or(u32::MAX);
        if earned >= BURST {
            self.tokens = BURST;
            self.refilled = now;
        } else {
            self.tokens = (self.tokens + earned).min(BURST);
            self.refilled += REFILL * earned;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Target;
    use super::*;
    use EventReason::{CaptureLost, CaptureRecovered, RepairBlocked, RepairFailed, RepairStarted};

    fn pod(number: u32) -> Subject {
        Subject::Pod(Target {
            namespace: "shop".to_owned(),
            name: format!("web-{number}"),
            uid: format!("uid-{number}"),
        })
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn the_same_is_said_once_in_a_while() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let mut admit = |second, reason, note| limiter.admit(&pod(1), reason, note, start + seconds(second));
        assert_eq!(admit(0, CaptureLost, "a"), Decision::Publish);
        assert_eq!(admit(1, CaptureLost, "a"), Decision::Duplicate);
        // Another note is no news where nothing was done.
        assert_eq!(admit(1, CaptureLost, "b"), Decision::Duplicate);
        assert_eq!(admit(1, CaptureRecovered, "a"), Decision::Publish);
        assert_eq!(admit(299, CaptureLost, "a"), Decision::Duplicate);
        assert_eq!(admit(300, CaptureLost, "a"), Decision::Publish);
        assert_eq!(admit(301, CaptureLost, "a"), Decision::Duplicate);
        assert_eq!(
            limiter.suppressed(),
            Suppressed {
                duplicates: 4,
                over_budget: 0
            }
        );
    }

    #[test]
    fn objects_do_not_silence_each_other() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        for number in 0..10 {
            assert_eq!(
                limiter.admit(&pod(number), CaptureLost, "a", start),
                Decision::Publish
            );
        }
        let node = Subject::Node("worker-1".to_owned());
        assert_eq!(limiter.admit(&node, CaptureLost, "a", start), Decision::Publish);
    }

    #[test]
    fn each_act_is_told() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let mut admit = |reason, note| limiter.admit(&pod(1), reason, note, start);
        assert_eq!(admit(RepairStarted, "first"), Decision::Publish);
        assert_eq!(admit(RepairStarted, "first"), Decision::Duplicate);
        assert_eq!(admit(RepairStarted, "second"), Decision::Publish);
        assert_eq!(admit(RepairFailed, "first"), Decision::Publish);
        assert_eq!(admit(RepairFailed, "second"), Decision::Publish);
        assert_eq!(admit(RepairBlocked, "first"), Decision::Publish);
        assert_eq!(admit(RepairBlocked, "second"), Decision::Duplicate);
    }

    #[test]
    fn a_mass_loss_is_no_storm_and_drowns_no_act() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let published = (0..1000)
            .filter(|&number| limiter.admit(&pod(number), CaptureLost, "", start) == Decision::Publish)
            .count();
        assert_eq!(published, 40);
        assert_eq!(limiter.suppressed().over_budget, 960);
        let acts = (0..1000)
            .filter(|&number| limiter.admit(&pod(number), RepairStarted, "", start) == Decision::Publish)
            .count();
        assert_eq!(acts, 20);
        // One a second from then on; those that were seen wait until the reserve is full again.
        let later = |millis| start + Duration::from_millis(millis);
        assert_eq!(
            limiter.admit(&pod(5000), RepairStarted, "", later(999)),
            Decision::OverBudget
        );
        assert_eq!(
            limiter.admit(&pod(5000), RepairStarted, "", later(1000)),
            Decision::Publish
        );
        assert_eq!(
            limiter.admit(&pod(5001), RepairStarted, "", later(1999)),
            Decision::OverBudget
        );
        assert_eq!(
            limiter.admit(&pod(5001), RepairStarted, "", later(2000)),
            Decision::Publish
        );
        assert_eq!(
            limiter.admit(&pod(5002), CaptureLost, "", later(22_000)),
            Decision::OverBudget
        );
        assert_eq!(
            limiter.admit(&pod(5002), CaptureLost, "", later(23_000)),
            Decision::Publish
        );
    }

    #[test]
    fn what_was_not_published_is_not_remembered() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        for number in 0..40 {
            limiter.admit(&pod(number), CaptureLost, "", start);
        }
        assert_eq!(
            limiter.admit(&pod(99), CaptureLost, "", start),
            Decision::OverBudget
        );
        let later = start + seconds(5);
        assert_eq!(limiter.admit(&pod(99), CaptureLost, "", later), Decision::Publish);
        limiter.forget(&pod(99), CaptureLost);
        assert_eq!(limiter.admit(&pod(99), CaptureLost, "", later), Decision::Publish);
    }

    #[test]
    fn a_storm_of_days_leaves_little_behind() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let mut number = 0;
        for second in 0..2000 {
            for _ in 0..20 {
                number += 1;
                limiter.admit(&pod(number), CaptureLost, "", start + seconds(second));
            }
        }
        assert!(limiter.published.len() <= 300 + 60, "{}", limiter.published.len());
        // Time that seems to go back harms nothing.
        limiter.admit(&pod(0), CaptureLost, "", start);
    }
}
