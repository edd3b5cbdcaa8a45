// SPDX-License-Identifier: Apache-2.0
//! How many pods may be asked for now.
//!
//! Nothing here waits for a time where it can wait for a sign: istio-cni takes one pod after the other, so few asks are
//! outstanding, and after one that did not take the next waits until something shows that istio-cni works. No tenant
//! can stop the others: only pods of different owners and namespaces can.

use std::collections::VecDeque;
use std::time::Duration;

use super::Care;
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

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When a heal was last proved.
    proved: Option<Time>,
    /// When istio-cni was last seen doing what it was asked.
    worked: Option<Time>,
    /// What did not take since the last proof.
    misses: Vec<Miss>,
    stopped: Option<Time>,
    asks: VecDeque<(Time, String)>,
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
        if self.asked_within(now, MINUTE).count() >= care.per_minute {
            return Some(Withheld::HealPace);
        }
        let share = (whose.siblings / SHARE).max(1);
        let of_owner = self.asked_within(now, care.owner_gap);
        let taken = of_owner.filter(|owner| *owner == whose.owner).count();
        (taken >= share && !is_out(Defence::OwnerShare)).then_some(Withheld::HealOwnerShare)
    }

    fn asked_within(&self, now: Time, span: Duration) -> impl Iterator<Item = &str> {
        let recent = self.asks.iter().rev();
        let recent = recent.take_while(move |(at, _)| now.since(*at) < span);
        recent.map(|(_, owner)| owner.as_str())
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
            .is_some_and(|(at, _)| now.since(*at) >= keep.max(MINUTE))
        {
            self.asks.pop_front();
        }
        self.asks.push_back((now, owner.to_owned()));
    }

    /// A heal was proved.
    pub(super) fn succeeded(&mut self, now: Time) {
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
            .flat_map(|(at, _)| [*at + care.owner_gap, *at + MINUTE]);
        let stopped = self.stopped.map(|since| since + STOPPED);
        ends.chain(stopped).filter(|end| *end > now).min()
    }
}
