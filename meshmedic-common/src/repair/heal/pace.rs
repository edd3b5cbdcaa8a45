// SPDX-License-Identifier: Apache-2.0
//! How many pods may be asked for now.
//!
//! Nothing here waits for a time where it can wait for a sign: istio-cni takes one pod after the other, so few asks are
//! outstanding, and after one that did not take the next waits until something shows that istio-cni works. No tenant
//! can stop the others: only pods of different owners and namespaces can.

use std::collections::VecDeque;
use std::time::Duration;

use super::Care;
use super::width::Width;
use crate::policy::Withheld;
use crate::repair::sabotage::{Defence, is_out};
use crate::time::Time;

/// Asks outstanding at once, after the canary. Each waits half enrolled behind the ones before it.
pub(super) const OUTSTANDING: usize = 4;
/// A proof is good for so long; then the next heal is a canary again.
const PROOF_LASTS: Duration = Duration::from_secs(60 * 60);
/// A node on which heals did not take is tried again after this.
const STOPPED: Duration = Duration::from_secs(60 * 60);
/// The span of the ceiling.
const MINUTE: Duration = Duration::from_secs(60);
/// Of the pods of one owner on this node every third is asked for at once.
const SHARE: usize = 3;
/// Without a sign that istio-cni works, so many failures of one namespace's pods are enough for that namespace.
const MISSES_A_NAMESPACE: usize = 2;

/// Whose pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whose {
    /// The controller's UID, or the pod's own.
    pub(super) owner: String,
    pub(super) namespace: String,
    /// How many pods of the owner are on this node.
    pub(super) siblings: usize,
}

#[derive(Debug)]
struct Miss {
    owner: String,
    namespace: String,
    asked: Time,
}

/// An ask, as far as the pace goes by it.
#[derive(Debug)]
struct Asked {
    at: Time,
    owner: String,
    /// Whether a heal of this owner's pods was proved since.
    took: bool,
}

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When a heal was last proved.
    proved: Option<Time>,
    /// When istio-cni was last seen doing what it was asked.
    worked: Option<Time>,
    /// What did not take since the last proof.
    misses: Vec<Miss>,
    stopped: Option<Time>,
    asks: VecDeque<Asked>,
    /// How widely pods fell out at once.
    pub(super) width: Width,
}

impl Pace {
    /// Why no further pod may be asked for now, if none may. `outstanding` are under way.
    pub(super) fn forbids(
        &self,
        now: Time,
        care: &Care,
        outstanding: usize,
        whose: &Whose,
    ) -> Option<Withheld> {
        if self.is_stopped(now) {
            return Some(Withheld::HealStopped);
        }
        let proved = self.misses.is_empty() && self.is_proved(now);
        let room = if proved || is_out(Defence::HealCanary) {
            OUTSTANDING
        } else {
            1
        };
        if outstanding >= room && !is_out(Defence::Outstanding) {
            return Some(if proved {
                Withheld::HealPace
            } else {
                Withheld::HealCanary
            });
        }
        if !self.shows_work() && !is_out(Defence::Feedback) {
            let of_owner = self.misses.iter().any(|miss| miss.owner == whose.owner);
            let of_namespace = self
                .misses
                .iter()
                .filter(|miss| miss.namespace == whose.namespace);
            if of_owner || of_namespace.count() >= MISSES_A_NAMESPACE {
                return Some(Withheld::HealUnanswered);
            }
        }
        if self.asked_within(now, MINUTE).count() >= care.per_minute || self.width.forbids(now) {
            return Some(Withheld::HealPace);
        }
        let share = (whose.siblings / SHARE).max(1);
        let of_owner = self.asked_within(now, care.owner_gap);
        let taken = of_owner.filter(|ask| ask.owner == whose.owner).count();
        (taken >= share && !is_out(Defence::OwnerShare)).then_some(Withheld::HealOwnerShare)
    }

    fn asked_within(&self, now: Time, span: Duration) -> impl Iterator<Item = &Asked> {
        let recent = self.asks.iter().rev();
        recent.take_while(move |ask| now.since(ask.at) < span)
    }

    /// What else is to be said of a refusal: whoever waits behind heals that took waits for nothing that went wrong.
    pub(super) fn detail(&self, now: Time, care: &Care, why: Withheld, whose: &Whose) -> Option<String> {
        if why == Withheld::HealPace {
            return self.width.detail(now);
        }
        let mut of_owner = self
            .asked_within(now, care.owner_gap)
            .filter(|ask| ask.owner == whose.owner)
            .peekable();
        let all_took = of_owner.peek().is_some() && of_owner.all(|ask| ask.took);
        (why == Withheld::HealOwnerShare && all_took).then(|| {
            format!(
                "the last heal of its owner's pods took; the next one waits {} after it",
                crate::duration::show(care.owner_gap)
            )
        })
    }

    pub(super) fn is_proved(&self, now: Time) -> bool {
        self.proved.is_some_and(|proved| now.since(proved) < PROOF_LASTS)
    }

    /// Whether istio-cni was seen at work since the last ask that did not take.
    fn shows_work(&self) -> bool {
        let last = self.misses.iter().map(|miss| miss.asked).max();
        last.is_none_or(|asked| self.worked.is_some_and(|worked| worked > asked))
    }

    /// Whether heals on this node did not take.
    pub(super) fn is_stopped(&self, now: Time) -> bool {
        self.stopped.is_some_and(|since| now.since(since) < STOPPED)
    }

    /// A pod has its turn, or is asked for once more.
    pub(super) fn asked(&mut self, now: Time, owner: &str, keep: Duration) {
        while self
            .asks
            .front()
            .is_some_and(|ask| now.since(ask.at) >= keep.max(MINUTE))
        {
            self.asks.pop_front();
        }
        self.width.asked();
        self.asks.push_back(Asked {
            at: now,
            owner: owner.to_owned(),
            took: false,
        });
    }

    /// A heal of this owner's pods was proved.
    pub(super) fn succeeded(&mut self, now: Time, owner: &str) {
        for ask in self.asks.iter_mut().filter(|ask| ask.owner == owner) {
            ask.took = true;
        }
        self.proved = Some(now);
        self.worked = Some(now);
        self.misses.clear();
        self.stopped = None;
    }

    /// istio-cni did what it was asked, whether or not that was enough.
    pub(super) fn worked(&mut self, now: Time) {
        self.worked = Some(now);
    }

    /// Whether istio-cni was seen at work since then.
    pub(super) fn has_worked_since(&self, asked: Time) -> bool {
        self.worked.is_some_and(|worked| worked > asked)
    }

    /// An ask did not take, and not by the pod's own doing. If that stops the node, the namespaces of the two pods that
    /// do.
    pub(super) fn failed(&mut self, now: Time, whose: &Whose, asked: Time) -> Option<[String; 2]> {
        self.misses.push(Miss {
            owner: whose.owner.clone(),
            namespace: whose.namespace.clone(),
            asked,
        });
        let strangers = |a: &Miss, b: &Miss| a.owner != b.owner && a.namespace != b.namespace;
        let found = self.misses.iter().enumerate().find_map(|(at, one)| {
            let others = self.misses.get(at + 1..).unwrap_or_default();
            let other = others.iter().find(|other| strangers(one, other))?;
            Some([one.namespace.clone(), other.namespace.clone()])
        });
        let found = found.filter(|_| !self.is_stopped(now))?;
        self.stopped = Some(now);
        Some(found)
    }

    /// istio-cni or ztunnel is another one: what did not take says nothing any more, nor does what took.
    pub(super) fn begin_anew(&mut self) {
        self.proved = None;
        self.worked = None;
        self.misses.clear();
        self.stopped = None;
    }

    /// What was proved is in doubt.
    pub(super) fn doubt(&mut self) {
        self.proved = None;
    }

    /// When something that holds now ends by time alone.
    pub(super) fn next_wake(&self, now: Time, care: &Care) -> Option<Time> {
        let ends = self
            .asks
            .iter()
            .flat_map(|ask| [ask.at + care.owner_gap, ask.at + MINUTE]);
        let stopped = self.stopped.map(|since| since + STOPPED);
        let all = ends.chain(stopped).chain(self.width.next_wake());
        all.filter(|end| *end > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_behind_a_heal_that_took_is_told_so() {
        let (mut pace, care) = (Pace::default(), Care::DEFAULT);
        let now = Time::from_nanos(1_000_000_000_000);
        let whose = Whose {
            owner: "cart".to_owned(),
            namespace: "shop".to_owned(),
            siblings: 1,
        };
        let second = Duration::from_secs(1);
        pace.asked(now, &whose.owner, care.owner_gap);
        let why = pace.forbids(now + second, &care, 0, &whose).unwrap();
        assert_eq!(why, Withheld::HealOwnerShare);
        assert_eq!(
            pace.detail(now + second, &care, why, &whose),
            None,
            "nothing took yet"
        );
        pace.succeeded(now + second, "another");
        assert_eq!(pace.detail(now + second, &care, why, &whose), None);
        pace.succeeded(now + second, &whose.owner);
        let told = pace.detail(now + second * 2, &care, why, &whose).unwrap();
        assert!(told.contains("took"), "{told}");
        let later = now + care.owner_gap;
        assert_eq!(pace.forbids(later, &care, 0, &whose), None);
        assert_eq!(pace.detail(later, &care, why, &whose), None);
    }
}
