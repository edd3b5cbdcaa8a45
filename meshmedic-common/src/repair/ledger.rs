// SPDX-License-Identifier: Apache-2.0
//! What survives a crash: the records that are written before an act and read before the next.
//!
//! One record lies in each Lease: of an owner, of a node, of a slot, of the cluster. They are all alike
//! and differ in their allowance. Every change is a pure function of the record that was just read, so that
//! two agents that want the same at once cannot both have it.

use std::time::Duration;

mod breaker;
mod reads;

use crate::facts::Controller;
use crate::policy::{Means, Withheld};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use breaker::{Breaker, Counts, Place};

use crate::repair::sabotage::{Defence, is_out, stands};

/// How long a holder that is not heard of keeps what it holds.
pub const LEASE: Duration = Duration::from_secs(60);
/// Acts are counted over this span.
const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// So many proved successors are remembered, to notice when one of them falls out again.
const REMEMBERED: usize = 32;

/// Fields that are not known here.
pub type More = serde_json::Map<String, serde_json::Value>;

/// What a Lease remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Repairs under way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<Entry>,
    /// The acts of the last hour.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acts: Vec<Act>,
    /// Repairs in a row that did not take.
    pub failures: u32,
    /// Where the newest of them were, where that matters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<Place>,
    /// When the last of them ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Timestamp>,
    /// Whether that one took at first, and its successor fell out again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lapsed: bool,
    /// Successors by which a repair was proved, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub successors: Vec<Proof>,
    /// When the last act was sent of which nobody has proved that it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_act: Option<Timestamp>,
    /// What a newer version wrote beside it: it is kept as it is.
    #[serde(flatten)]
    pub more: More,
}

/// A repair under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Tells this repair from every other one.
    pub id: String,
    /// The pod, as `namespace/name`.
    pub pod: String,
    /// The UID of the pod that was judged.
    pub uid: String,
    /// The node that it ran on.
    pub node: String,
    /// The agent that repairs it; empty if it ended in between.
    pub holder: String,
    /// The slot that it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// When it was claimed.
    pub at: Timestamp,
    /// When its agent was last heard of.
    pub renewed: Timestamp,
    /// Without a proof by then it did not take.
    pub deadline: Timestamp,
    /// When the act was about to be sent: a successor was created after this. Without it nothing was asked of the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<Timestamp>,
    /// The youngest pods of its controller that were there just before, by UID: none of them is a successor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<String>,
    /// Who is to recreate the pod, as seen just before the act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Controller>,
    /// By what means it is done.
    pub means: Means,
    /// Whether the API accepted the act. Without it, it may have happened all the same.
    #[serde(default)]
    pub acted: bool,
    /// Whether everything else on its node waits for it: its failure opens the node's breaker.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub canary: bool,
    /// What became of the successor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// What a newer version wrote beside it: it is kept as it is.
    #[serde(flatten)]
    pub more: More,
}

/// An act that was or may have been done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// The repair.
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// Where, if that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Whether its outcome was counted: it counts once, however often it is told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counted: bool,
    /// What a newer version wrote beside it: it is kept as it is.
    #[serde(flatten)]
    pub more: More,
}

/// What the agent of its node saw of a successor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The successor, as `namespace/name`.
    pub pod: String,
    /// Its UID.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// Whether it is captured. If not, it is a confirmed loss.
    pub captured: bool,
    /// When.
    pub at: Timestamp,
    /// What a newer version wrote beside it: it is kept as it is.
    #[serde(flatten)]
    pub more: More,
}

/// How a repair ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// Its successor was proved captured.
    Succeeded(Proof),
    /// Its successor fell out as well.
    Failed,
    /// Nobody proved by the deadline that its successor, which runs, is captured.
    Unproven,
    /// By the deadline no successor ran: that is its owner's doing, and nobody else's.
    Waiting,
    /// Its owner wants no successor: that says nothing of anybody.
    Unwanted,
    /// Nothing was done, for certain: it costs nothing.
    NotDone,
    /// Nothing was done as far as one can tell.
    InDoubt,
    /// Its agent ends and leaves the rest to its successor.
    Released,
}

/// A change of a record, on behalf of one repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The repair.
    pub id: String,
    /// What happens to it.
    pub step: Step,
}

impl Change {
    /// One that concerns the record alone.
    #[must_use]
    pub const fn of_no_repair(step: Step) -> Self {
        Self {
            id: String::new(),
            step,
        }
    }
}

/// A step of a repair that is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it only asks whether the allowance would allow one more.
    Look,
    /// It concerns no repair: what matters no more is forgotten.
    Forget,
    /// It begins, if the allowance allow it.
    Claim(Box<Entry>),
    /// This holder takes over from an agent that is gone.
    Adopt(String),
    /// Its agent lives.
    Renew,
    /// Its act is about to be sent, by this holder.
    Send {
        /// Who sends it. Nobody else may.
        holder: String,
        /// The slot that it holds.
        slot: Option<u32>,
        /// The youngest pods of its controller that are there now, by UID.
        before: Vec<String>,
        /// Whether everything else on its node waits for it.
        canary: bool,
        /// Who is to recreate the pod.
        controller: Option<Controller>,
        /// How long from now on its proof may take.
        patience: Duration,
    },
    /// The API accepted the act.
    Acted,
    /// This became of its successor.
    Prove(Proof),
    /// It ended.
    Conclude(Conclusion),
    /// It ended, and if it did not take, the breaker opens whatever the count.
    ConcludeCanary(Conclusion),
    /// It concerns no repair: heals in place did not take on this node, of pods of these namespaces.
    NodeFailed {
        /// The node.
        node: String,
        /// The namespaces.
        namespaces: Vec<String>,
    },
    /// It concerns no repair: a heal in place took on this node.
    NodeSucceeded(String),
}

/// What a record allows, and what is said where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Repairs under way.
    pub in_flight: Option<(usize, Withheld)>,
    /// Acts an hour.
    pub per_hour: Option<(usize, Withheld)>,
    /// When failures in a row stop everything, and for how long.
    pub breaker: Option<Breaker>,
    /// The wait after a failure, doubling up to the second.
    pub cooldown: Option<(Duration, Duration)>,
    /// Whether an entry outlives its silent agent until its deadline: its outcome still matters.
    pub keeps_outcomes: bool,
    /// Whether an agent that ends leaves it to others at once.
    pub frees_at_once: bool,
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Whether the record is another one now and must be written.
    pub changed: bool,
    /// Whether the change was refused.
    pub withheld: Option<Withheld>,
}

impl Applied {
    const fn done(changed: bool) -> Self {
        Self {
            changed,
            withheld: None,
        }
    }

    const fn refused(why: Withheld) -> Self {
        Self {
            changed: false,
            withheld: Some(why),
        }
    }
}

impl Entry {
    /// Whether its agent was not heard of for too long.
    #[must_use]
    pub fn is_abandoned(&self, now: Timestamp) -> bool {
        is_out(Defence::Lease) || self.holder.is_empty() || since(now, self.renewed) > signed(LEASE)
    }

    /// How long until then, if its agent is not heard of again. `None` once it is so.
    #[must_use]
    pub fn abandoned_in(&self, now: Timestamp) -> Option<Duration> {
        if self.is_abandoned(now) {
            return None;
        }
        let left = signed(LEASE) - since(now, self.renewed);
        Some(Duration::try_from(left).unwrap_or_default() + Duration::from_millis(1))
    }
}

impl Record {
    /// Changes the record, or says why not. A refusal may leave something to be written, too.
    pub fn apply(&mut self, change: &Change, allowance: &Allowance, now: Timestamp) -> Applied {
        let id = &change.id;
        match &change.step {
            Step::Look => {
                let mut cleared = self.clone();
                cleared.clear(allowance, now);
                cleared
                    .refuses(allowance, now)
                    .filter(stands)
                    .map_or(Applied::done(false), Applied::refused)
            }
            Step::Forget => Applied::done(self.clear(allowance, now)),
            Step::Claim(entry) => self.claim(entry, allowance, now),
            Step::Adopt(holder) => {
                let free = |entry: &Entry| entry.holder == *holder || entry.is_abandoned(now);
                if !self.entry(id).is_some_and(free) {
                    return Applied::refused(Withheld::NoLedger);
                }
                self.touch(id, |entry| {
                    entry.holder.clone_from(holder);
                    entry.renewed = now;
                })
            }
            Step::Renew => self.touch(id, |entry| entry.renewed = now),
            Step::Send {
                holder,
                slot,
                before,
                canary,
                controller,
                patience,
            } => {
                let mine = |entry: &Entry| entry.holder == *holder || is_out(Defence::Lease);
                if !self.entry(id).is_some_and(mine) {
                    return Applied::refused(Withheld::NoLedger);
                }
                self.touch(id, |entry| {
                    entry.sent = Some(now);
                    entry.slot = *slot;
                    entry.before.clone_from(before);
                    entry.canary = *canary;
                    entry.controller.clone_from(controller);
                    entry.renewed = now;
                    // What lay before the act took nothing of it.
                    entry.deadline = now.checked_add(*patience).unwrap_or(Timestamp::MAX);
                })
            }
            Step::Acted => self.touch(id, |entry| {
                entry.acted = true;
                entry.renewed = now;
            }),
            Step::Prove(proof) => {
                let used = self.proves(&proof.uid) && !is_out(Defence::Once);
                match self.repairs.iter_mut().find(|entry| entry.id == *id) {
                    // The first word counts, and each successor for one repair.
                    Some(entry) if entry.proof.is_none() && !used => {
                        entry.proof = Some(proof.clone());
                        Applied::done(true)
                    }
                    _ => Applied::done(false),
                }
            }
            Step::Conclude(conclusion) => Applied::done(self.conclude(id, conclusion, false, allowance, now)),
            Step::ConcludeCanary(conclusion) => {
                Applied::done(self.conclude(id, conclusion, true, allowance, now))
            }
            Step::NodeFailed { node, namespaces } => {
                self.fail_node(node, namespaces, allowance, now);
                Applied::done(true)
            }
            Step::NodeSucceeded(node) => {
                let before = self.places.len();
                self.succeed_node(node);
                Applied::done(self.places.len() != before)
            }
        }
    }

    fn touch(&mut self, id: &str, change: impl FnOnce(&mut Entry)) -> Applied {
        match self.repairs.iter_mut().find(|entry| entry.id == id) {
            Some(entry) => {
                change(entry);
                Applied::done(true)
            }
            // Somebody took it away: it was silent for too long.
            None => Applied::refused(Withheld::NoLedger),
        }
    }

    fn claim(&mut self, entry: &Entry, allowance: &Allowance, now: Timestamp) -> Applied {
        if self.entry(&entry.id).is_some() || self.acts.iter().any(|act| act.id == entry.id) {
            // The answer to an earlier try was lost.
            return Applied::done(false);
        }
        let mut changed = self.clear(allowance, now);
        changed |= self.notice_return(&entry.uid, now);
        if let Some(withheld) = self.refuses(allowance, now).filter(stands) {
            return Applied {
                changed,
                withheld: Some(withheld),
            };
        }
        if allowance.per_hour.is_some() && !is_out(Defence::Spending) {
            let spread = |breaker: Breaker| breaker.counts == Counts::Spread;
            self.acts.push(Act {
                id: entry.id.clone(),
                at: now,
                place: Place::of(entry).filter(|_| allowance.breaker.is_some_and(spread)),
                counted: false,
                more: More::default(),
            });
        }
        if allowance.in_flight.is_some() {
            // Whoever claims may have an old idea of the server's clock; how long it has is what it means.
            let patience = entry.deadline.duration_since(entry.at);
            self.repairs.push(Entry {
                at: now,
                renewed: now,
                deadline: now.checked_add(patience).unwrap_or(entry.deadline),
                ..entry.clone()
            });
        }
        Applied::done(true)
    }

    /// Forgets what matters no more. True if a repair was among it.
    fn clear(&mut self, allowance: &Allowance, now: Timestamp) -> bool {
        let buried = self.bury(allowance, now);
        self.acts.retain(|act| since(now, act.at) < HOUR);
        buried
    }

    fn refuses(&self, allowance: &Allowance, now: Timestamp) -> Option<Withheld> {
        if let Some((most, withheld)) = allowance.in_flight
            && self.repairs.len() >= most
        {
            return Some(withheld);
        }
        // A failure that its agent knows of, or must know of, and has not written down yet.
        let failing = |entry: &Entry| match &entry.proof {
            Some(proof) => !proof.captured,
            None => now > entry.deadline,
        };
        if allowance.keeps_outcomes && self.repairs.iter().any(failing) {
            return Some(Withheld::Cooldown);
        }
        if let Some((until, withheld)) = self.rest(allowance)
            && now < until
        {
            return Some(withheld);
        }
        let (most, withheld) = allowance.per_hour?;
        (self.acts.len() >= most).then_some(withheld)
    }

    /// Forgets the repairs of agents that are not heard of any more. True if there were any.
    fn bury(&mut self, allowance: &Allowance, now: Timestamp) -> bool {
        let over =
            |entry: &Entry| entry.is_abandoned(now) && (!allowance.keeps_outcomes || now > entry.deadline);
        let buried: Vec<Entry> = self.repairs.extract_if(.., |entry| over(entry)).collect();
        let any = !buried.is_empty();
        for entry in buried {
            let captured = entry.proof.as_ref().is_some_and(|proof| proof.captured);
            if allowance.keeps_outcomes && !captured {
                self.fail(None, now);
            }
            self.note_act(entry.sent, allowance);
            self.remember(entry.proof, allowance);
        }
        any
    }

    /// A successor that has to be repaired itself shows that its repair did not last.
    fn notice_return(&mut self, uid: &str, now: Timestamp) -> bool {
        let Some(at) = self.successors.iter().position(|proof| proof.uid == uid) else {
            return false;
        };
        // One that was never captured failed then already.
        if self.successors.remove(at).captured {
            self.fail(None, now);
            self.lapsed = true;
        }
        true
    }

    /// A successor proves one repair, and if it falls out later that repair did not last.
    fn remember(&mut self, proof: Option<Proof>, allowance: &Allowance) {
        if allowance.keeps_outcomes {
            self.successors.extend(proof);
            let excess = self.successors.len().saturating_sub(REMEMBERED);
            self.successors.drain(..excess);
        }
    }

    /// What comes after this act must be Ready before the owner loses another pod.
    fn note_act(&mut self, sent: Option<Timestamp>, allowance: &Allowance) {
        if allowance.keeps_outcomes {
            self.last_act = self.last_act.max(sent);
        }
    }

    fn conclude(
        &mut self,
        id: &str,
        conclusion: &Conclusion,
        trip: bool,
        allowance: &Allowance,
        now: Timestamp,
    ) -> bool {
        let over = if allowance.in_flight.is_some() {
            self.entry(id).is_none()
        } else {
            self.acts.iter().any(|act| act.id == *id && act.counted)
        };
        if over {
            // Concluded before; the answer was lost.
            return false;
        }
        if *conclusion == Conclusion::Released && !allowance.frees_at_once {
            // The node's is kept warm for whoever goes on, and runs out if nobody does.
            let free = allowance.keeps_outcomes;
            let touched = self.touch(id, |entry| {
                entry.renewed = now;
                if free {
                    entry.holder.clear();
                }
            });
            return touched.changed;
        }
        let before = self.clone();
        let entry = before.entry(id);
        let (proof, sent) = (
            entry.and_then(|entry| entry.proof.clone()),
            entry.and_then(|entry| entry.sent),
        );
        if !matches!(conclusion, Conclusion::NotDone | Conclusion::InDoubt) {
            self.note_act(sent, allowance);
        }
        let mut place = None;
        for act in self.acts.iter_mut().filter(|act| act.id == *id) {
            act.counted = true;
            place.clone_from(&act.place);
        }
        self.repairs.retain(|entry| entry.id != id);
        match conclusion {
            Conclusion::Succeeded(proof) => {
                // What was proved before the last failure, and told after it, says nothing of it.
                if self.last_failure.is_none_or(|last| proof.at >= last) {
                    self.failures = 0;
                    self.places.clear();
                    (self.last_failure, self.lapsed) = (None, false);
                }
                self.last_act = self.last_act.filter(|last| proof.at < *last);
                self.remember(Some(proof.clone()), allowance);
            }
            Conclusion::Failed | Conclusion::Unproven if allowance.breaker.is_some() => {
                self.fail(place, now);
                self.remember(proof, allowance);
                if let Some(breaker) = allowance.breaker.filter(|_| trip) {
                    self.failures = self.failures.max(breaker.failures);
                }
            }
            Conclusion::Waiting if allowance.keeps_outcomes => self.fail(place, now),
            Conclusion::NotDone => self.acts.retain(|act| act.id != id),
            _ => {}
        }
        *self != before
    }
}

/// How long ago something was; nothing if a clock went back in between, so that it still counts.
fn since(now: Timestamp, then: Timestamp) -> SignedDuration {
    now.duration_since(then).max(SignedDuration::ZERO)
}

pub(super) fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests;
