// SPDX-License-Identifier: Apache-2.0
//! How a repair comes to hold what it must hold: by claims of its own, or from a process that is gone.

use std::time::Duration;

use crate::facts::Controller;
use crate::policy::Withheld;
use crate::uid::PodUid;

use super::super::ledger::{Allowance, Change, Entry, LEASE, Record, Step};
use super::super::{LeaseKey, Moment, PodRef, Refusal, Settings};
use crate::repair::sabotage::{Defence, is_out};

use super::{ASK_AGAIN, Attempt, Claim, Claimed, DOUBT, Stage};

impl Claim {
    pub(super) const FIRST: Self = Self::look(Claimed::Cluster);

    const fn look(of: Claimed) -> Self {
        Self { of, look: true }
    }

    const fn take(of: Claimed) -> Self {
        Self { of, look: false }
    }

    /// What comes after this was granted.
    const fn next(self) -> Option<Self> {
        Some(match (self.look, self.of) {
            (true, Claimed::Cluster) => Self::look(Claimed::Slot { tried: 0 }),
            (true, Claimed::Slot { .. }) => Self::look(Claimed::Owner),
            (true, Claimed::Owner) => Self::look(Claimed::Node),
            (true, Claimed::Node) => Self::take(Claimed::Slot { tried: 0 }),
            (false, Claimed::Slot { .. }) => Self::take(Claimed::Owner),
            (false, Claimed::Owner) => Self::take(Claimed::Node),
            (false, Claimed::Node) => Self::take(Claimed::Cluster),
            (false, Claimed::Cluster) => return None,
        })
    }
}

impl Attempt {
    /// Everything that is claimed but the slot, with the limits.
    pub(in super::super) fn claims(&self, settings: &Settings) -> Vec<(LeaseKey, Box<Change>, Allowance)> {
        [Claimed::Owner, Claimed::Node, Claimed::Cluster]
            .into_iter()
            .map(|of| self.claim(settings, Claim::take(of)))
            .collect()
    }

    pub(super) fn claim(&self, settings: &Settings, claim: Claim) -> (LeaseKey, Box<Change>, Allowance) {
        let lease = match claim.of {
            Claimed::Owner => LeaseKey::Owner(self.owner.clone()),
            Claimed::Node => LeaseKey::Node(self.node.clone()),
            Claimed::Slot { tried } => LeaseKey::Slot(self.nth_slot(settings, tried)),
            Claimed::Cluster => LeaseKey::Cluster,
        };
        let mut allowance = settings.limits.allowance(&lease);
        if self.alone && claim.of == Claimed::Node {
            allowance.in_flight = Some((1, Withheld::Canary));
        }
        if claim.look {
            return (lease, self.change(Step::Look), allowance);
        }
        let entry = Entry {
            id: self.id.clone(),
            pod: self.pod.display_name(),
            uid: self.pod.uid.clone(),
            node: self.node.clone(),
            holder: self.holder.clone(),
            slot: None,
            at: self.claimed_at,
            renewed: self.claimed_at,
            deadline: self.deadline,
            acted: false,
            canary: self.trip,
            proof: None,
        };
        (lease, self.change(Step::Claim(Box::new(entry))), allowance)
    }

    /// Agents begin at different slots, so that they rarely meet.
    fn nth_slot(&self, settings: &Settings, tried: u32) -> u32 {
        let first = self
            .id
            .bytes()
            .fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        first.wrapping_add(tried) % settings.limits.slots.max(1)
    }

    pub(super) fn claimed(
        &mut self,
        settings: &Settings,
        at: Moment,
        claim: Claim,
        result: Result<Record, Refusal>,
    ) {
        let (lease, ..) = self.claim(settings, claim);
        let next = match (claim.of, result) {
            (_, Ok(_)) if claim.look => claim.next(),
            (of, Ok(record)) => {
                if let Some(entry) = record.entry(&self.id).filter(|_| of == Claimed::Owner) {
                    self.claimed_at = entry.at;
                }
                if let Claimed::Slot { tried } = of {
                    self.slot = Some(self.nth_slot(settings, tried));
                }
                self.held.push(lease);
                claim.next()
            }
            (Claimed::Slot { tried }, Err(Refusal::Withheld(_))) if tried + 1 < settings.limits.slots => {
                Some(Claim {
                    of: Claimed::Slot { tried: tried + 1 },
                    ..claim
                })
            }
            (_, Err(Refusal::Withheld(why))) => return self.undone(at, why, None),
            (_, Err(Refusal::Failed(detail))) => {
                // Perhaps it was written all the same.
                self.held.extend((!claim.look).then_some(lease));
                return self.undone(at, Withheld::NoLedger, Some(detail));
            }
        };
        self.stage = next.map_or(Stage::Checking, Stage::Claiming);
        if next.is_none() && is_out(Defence::Check) {
            self.stage = Stage::Looking {
                since: at.now,
                asked_for: false,
            };
        }
    }

    /// Goes on with what another process began. `None` if the record makes no sense.
    pub(in super::super) fn adopt(
        settings: &Settings,
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
        let controller = Controller {
            kind: String::new(),
            name: String::new(),
            uid: owner.to_owned(),
        };
        Some(Self {
            slot: entry.slot,
            claimed_at: entry.at,
            deadline: entry.deadline,
            late_at: at.now + left.min(settings.limits.successor_deadline),
            acted: entry.acted,
            adopted: true,
            doubt_until: at.now + DOUBT,
            trip: entry.canary,
            stage: Stage::Adopting,
            ..Self::new(settings, at, entry.id.clone(), pod, controller, false)
        })
    }

    pub(super) fn adopted(&mut self, settings: &Settings, at: Moment, result: &Result<Record, Refusal>) {
        match result {
            Ok(_) => {
                self.held = vec![self.owner_key(), LeaseKey::Node(self.node.clone())];
                // The slot is written down with the act. Before it, whichever was claimed is not known.
                let slots = self.slot.map_or(0..settings.limits.slots, |slot| slot..slot + 1);
                self.held.extend(slots.map(LeaseKey::Slot));
                self.stage = Stage::Resolving;
            }
            Err(Refusal::Failed(_)) if at.now.since(self.began) < LEASE => {
                self.not_before = at.now + ASK_AGAIN;
            }
            // Otherwise it ended, or somebody else was faster.
            Err(refusal) => {
                self.unfinished = matches!(refusal, Refusal::Failed(_));
                self.stage = Stage::Over;
            }
        }
    }
}
