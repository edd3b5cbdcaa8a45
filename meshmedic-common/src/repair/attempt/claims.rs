// SPDX-License-Identifier: Apache-2.0
//! How a repair comes to hold what it must hold: by claims of its own, or from a process that is gone.

use std::time::Duration;

use super::super::ledger::{Allowance, Change, Entry, LEASE, More, Record, Step};
use super::super::sabotage::{Defence, is_out};
use super::super::{Acted, LeaseKey, Moment, PodRef, Refusal, Repairer, Request};
use super::aftermath::MOST_GRACE;
use super::{ASK_AGAIN, Act, Attempt, Canary, DOUBT, Left, Origin, Stage};
use crate::policy::{Mandate, Withheld};
use crate::repair::ledger::Conclusion;
use crate::uid::PodUid;

/// What is claimed for a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// One of the cluster's slots, whichever is free.
    Slot,
    /// The owner of the pod.
    Owner,
    /// Its node.
    Node,
    /// The cluster's budget of this hour.
    Cluster,
}

/// First it is only looked whether each Lease would allow one more, and the API is asked whether it would refuse. Then
/// they are claimed: a slot before what everybody watches, and an hour's budget last, by whoever has everything else.
///
/// In a big cluster there mostly is no room. Whoever wrote claims into Leases that every agent follows, to take them
/// back, would make each agent's load grow with the number of agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// What is only looked at, in this order.
    pub looks: &'static [Claim],
    /// What is claimed then.
    pub takes: &'static [Claim],
}

impl Claims {
    /// An agent's.
    pub const AGENT: Self = Self {
        looks: &[Claim::Cluster, Claim::Slot, Claim::Owner, Claim::Node],
        takes: &[Claim::Slot, Claim::Owner, Claim::Node, Claim::Cluster],
    };
    /// A person's, who takes no agent's slot.
    pub const PERSON: Self = Self {
        looks: &[Claim::Cluster, Claim::Owner, Claim::Node],
        takes: &[Claim::Owner, Claim::Node, Claim::Cluster],
    };
}

/// Where in the list of claims an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Place {
    /// How many looks and claims were granted.
    granted: usize,
    /// How many slots were tried in vain.
    tried: u32,
    /// Whether the API said that it would not refuse.
    rehearsed: bool,
}

impl Place {
    pub(super) const FIRST: Self = Self {
        granted: 0,
        tried: 0,
        rehearsed: false,
    };

    /// What is asked for here, and whether only by a look. `None` once everything was granted.
    fn of(self, claims: &Claims) -> Option<(Claim, bool)> {
        let looks = claims.looks.iter().map(|claim| (*claim, true));
        let takes = claims.takes.iter().map(|claim| (*claim, false));
        looks.chain(takes).nth(self.granted)
    }

    const fn next(self) -> Self {
        Self {
            granted: self.granted + 1,
            tried: 0,
            ..self
        }
    }

    const fn next_slot(self) -> Self {
        Self {
            tried: self.tried + 1,
            ..self
        }
    }
}

impl Repairer {
    /// What a Lease allows to begin; a person may go past failures.
    fn allowance(&self, lease: &LeaseKey) -> Allowance {
        let mut allowance = self.limits.allowance(lease);
        if let Mandate::Person(overrides) = self.mandate
            && overrides.failures
        {
            (allowance.breaker, allowance.cooldown) = (None, None);
        }
        allowance
    }
}

impl Attempt {
    /// Everything that is claimed but the slot, with what is allowed.
    pub(in super::super) fn claims(&self, repairer: &Repairer) -> Vec<(LeaseKey, Box<Change>, Allowance)> {
        let shared = repairer
            .claims
            .takes
            .iter()
            .filter(|claim| **claim != Claim::Slot);
        shared.map(|claim| self.ask(repairer, *claim, false, 0)).collect()
    }

    /// What is only looked at, before anything is claimed.
    pub(in super::super) fn looks(&self, repairer: &Repairer) -> Vec<Request> {
        let looks = repairer.claims.looks.iter();
        let asked = looks.map(|claim| self.ask(repairer, *claim, true, 0));
        let request = |(lease, change, allowance)| Request::Update {
            lease,
            change,
            allowance,
        };
        asked.map(request).collect()
    }

    /// What is asked for at this place of the list.
    pub(super) fn claim(
        &self,
        repairer: &Repairer,
        place: Place,
    ) -> Option<(LeaseKey, Box<Change>, Allowance)> {
        let (claim, look) = place.of(&repairer.claims)?;
        Some(self.ask(repairer, claim, look, place.tried))
    }

    fn ask(
        &self,
        repairer: &Repairer,
        claim: Claim,
        look: bool,
        tried: u32,
    ) -> (LeaseKey, Box<Change>, Allowance) {
        let lease = match claim {
            Claim::Owner => self.owner_key(),
            Claim::Node => LeaseKey::Node(self.node.clone()),
            Claim::Slot => LeaseKey::Slot(self.nth_slot(repairer, tried)),
            Claim::Cluster => LeaseKey::Cluster,
        };
        let mut allowance = repairer.allowance(&lease);
        if self.canary != Canary::No && claim == Claim::Node {
            allowance.in_flight = Some((1, Withheld::Canary));
        }
        let step = if look {
            Step::Look
        } else {
            Step::Claim(Box::new(self.entry(repairer)))
        };
        (lease, self.change(step), allowance)
    }

    fn entry(&self, repairer: &Repairer) -> Entry {
        Entry {
            id: self.id.clone(),
            pod: self.pod.display_name(),
            uid: self.pod.uid.clone(),
            node: self.node.clone(),
            holder: self.holder.clone(),
            slot: None,
            at: self.claimed_at,
            renewed: self.claimed_at,
            deadline: self.deadline,
            sent: None,
            before: Vec::new(),
            controller: None,
            means: repairer.means,
            acted: false,
            canary: self.canary == Canary::MustSucceed,
            proof: None,
            more: More::default(),
        }
    }

    /// Agents begin at different slots, so that they rarely meet.
    fn nth_slot(&self, repairer: &Repairer, tried: u32) -> u32 {
        let first = self
            .id
            .bytes()
            .fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        first.wrapping_add(tried) % repairer.limits.slots.max(1)
    }

    pub(super) fn claimed(
        &mut self,
        repairer: &Repairer,
        at: Moment,
        place: Place,
        result: Result<Record, Refusal>,
    ) {
        let Some((claim, look)) = place.of(&repairer.claims) else {
            return;
        };
        let lease = self.ask(repairer, claim, look, place.tried).0;
        if let (Claim::Owner, Ok(record)) = (claim, &result) {
            self.owner_record.clone_from(record);
        }
        if let (Claim::Node, Ok(record), false) = (claim, &result, look) {
            self.alone = record.repairs.iter().all(|entry| entry.id == self.id);
        }
        let next = match result {
            Ok(_) if look => place.next(),
            Ok(record) => {
                if let Some(entry) = record.entry(&self.id).filter(|_| claim == Claim::Owner) {
                    self.claimed_at = entry.at;
                }
                if claim == Claim::Slot {
                    self.slot = Some(self.nth_slot(repairer, place.tried));
                }
                self.held.push(lease);
                place.next()
            }
            Err(Refusal::Withheld(..)) if claim == Claim::Slot && place.tried + 1 < repairer.limits.slots => {
                place.next_slot()
            }
            Err(Refusal::Withheld(why, detail)) => return self.undone(at, why, detail),
            Err(Refusal::Failed(detail)) => {
                // Perhaps it was written all the same.
                self.held.extend((!look).then_some(lease));
                return self.undone(at, Withheld::NoLedger, Some(detail));
            }
        };
        self.claim_next(repairer, next);
    }

    /// Goes on in the list of claims. Nothing is written for what the API would refuse.
    fn claim_next(&mut self, repairer: &Repairer, next: Place) {
        let rehearsed = next.rehearsed || !repairer.means.replaces() || is_out(Defence::Rehearsal);
        self.stage = match next.of(&repairer.claims) {
            Some((_, false)) if !rehearsed => Stage::Rehearsing(next),
            Some(_) => Stage::Claiming(next),
            None if is_out(Defence::Check) => Stage::Announcing,
            None => Stage::Checking,
        };
    }

    /// What refused last is asked first.
    pub(in super::super) fn rehearses_first(&mut self, refused: bool) {
        if refused && !is_out(Defence::Rehearsal) {
            self.stage = Stage::Rehearsing(Place::FIRST);
        }
    }

    pub(super) fn rehearsed(&mut self, repairer: &Repairer, at: Moment, place: Place, acted: Acted) {
        match acted {
            Acted::Accepted => {
                let rehearsed = true;
                self.claim_next(repairer, Place { rehearsed, ..place });
            }
            Acted::Gone => self.undone(at, Withheld::OtherPod, None),
            Acted::Refused(why, detail) => self.undone(at, why, Some(detail)),
            Acted::InDoubt(detail) => self.undone(at, Withheld::NotFetched, Some(detail)),
        }
    }

    /// Goes on with what another process began. `None` if the record makes no sense.
    pub(in super::super) fn adopt(
        repairer: &Repairer,
        at: Moment,
        owner: &str,
        entry: &Entry,
    ) -> Option<Self> {
        let (namespace, name) = entry.pod.split_once('/')?;
        let pod = PodRef {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: entry.uid.clone(),
            cgroup_uid: PodUid::parse(&entry.uid)?,
        };
        let left = Duration::try_from(entry.deadline.duration_since(at.server)).unwrap_or_default();
        Some(Self {
            origin: Origin::Adopted,
            slot: entry.slot,
            claimed_at: entry.at,
            deadline: entry.deadline,
            late_at: at.now + left.min(repairer.limits.successor_deadline + MOST_GRACE),
            doubt_until: at.now + DOUBT,
            canary: if entry.canary {
                Canary::MustSucceed
            } else {
                Canary::No
            },
            stage: Stage::Adopting,
            ..Self::new(repairer, at, entry.id.clone(), pod, owner.to_owned(), false)
        })
    }

    pub(super) fn adopted(&mut self, repairer: &Repairer, at: Moment, result: &Result<Record, Refusal>) {
        match result {
            Ok(record) => {
                let entry = record.entry(&self.id);
                self.slot = entry.and_then(|entry| entry.slot);
                self.note_sent(record);
                self.held = vec![self.owner_key(), LeaseKey::Node(self.node.clone())];
                // The slot is written down with the act. Before it, whichever was claimed is not known.
                let slots = self.slot.map_or(0..repairer.limits.slots, |slot| slot..slot + 1);
                self.held.extend(slots.map(LeaseKey::Slot));
                self.act = match entry {
                    Some(entry) if entry.acted => Act::Happened,
                    Some(entry) if entry.sent.is_some() => Act::Sent,
                    _ => Act::Unsent,
                };
                if self.act == Act::Unsent {
                    // Only its holder may send it, and that is this process from now on.
                    return self.end(at, Conclusion::NotDone, None);
                }
                self.stage = Stage::Resolving;
            }
            Err(Refusal::Failed(_)) if at.now.since(self.began) < LEASE => {
                self.not_before = at.now + ASK_AGAIN;
            }
            // Otherwise it ended, or somebody else was faster.
            Err(refusal) => {
                self.stage = Stage::Over(match refusal {
                    Refusal::Failed(_) => Left::Unfinished,
                    Refusal::Withheld(..) => Left::Nothing,
                });
            }
        }
    }
}
