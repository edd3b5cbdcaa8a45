// SPDX-License-Identifier: Apache-2.0
//! What a record says.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Allowance, Entry, Record};
use crate::policy::Withheld;

/// So many nodes are named.
const NAMED: usize = 3;

impl Record {
    /// Whether nothing in it matters any more.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.repairs.is_empty()
    }

    /// Whether nobody goes on with anything in it: what is left was given up, and its time is over.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        let mut repairs = self.repairs.iter();
        repairs.all(|entry| entry.is_abandoned(now) && now > entry.deadline)
    }

    /// The repair of this id.
    #[must_use]
    pub fn entry(&self, id: &str) -> Option<&Entry> {
        self.repairs.iter().find(|entry| entry.id == id)
    }

    /// When the last act was sent, be it over or under way.
    #[must_use]
    pub fn last_act(&self) -> Option<Timestamp> {
        let under_way = self.repairs.iter().filter_map(|entry| entry.sent);
        under_way.chain(self.last_act).max()
    }

    /// Whether this pod proved a repair already.
    #[must_use]
    pub fn proves(&self, uid: &str) -> bool {
        let under_way = self.repairs.iter().filter_map(|entry| entry.proof.as_ref());
        under_way.chain(&self.successors).any(|proof| proof.uid == uid)
    }

    /// What else is to be said of a refusal.
    #[must_use]
    pub fn detail(&self, why: Withheld, allowance: &Allowance, now: Timestamp) -> Option<String> {
        match why {
            Withheld::InFlightOwner | Withheld::InFlightNode | Withheld::NoSlot | Withheld::Canary => {
                let held_by = self.repairs.iter().find(|entry| !entry.is_abandoned(now))?;
                Some(format!("{} is being repaired by {}", held_by.pod, held_by.holder))
            }
            Withheld::Cooldown
            | Withheld::BreakerOwner
            | Withheld::BreakerNode
            | Withheld::BreakerCluster
            | Withheld::HealBreaker => {
                let until = self.resting_until(allowance)?;
                let how = if self.lapsed {
                    "the last one took, and its pod fell out again; "
                } else {
                    ""
                };
                Some(format!("{how}until {until:.0}"))
            }
            _ => None,
        }
    }

    /// Where the failures were that hold a breaker open now, and until when it stays so.
    #[must_use]
    pub fn holds_open(&self, allowance: &Allowance, now: Timestamp) -> Option<String> {
        let until = allowance.breaker?.open_until(self).filter(|until| now < *until)?;
        let nodes: BTreeSet<&str> = self.places.iter().map(|place| &*place.node).collect();
        let named: Vec<&str> = nodes.iter().take(NAMED).copied().collect();
        let more = match nodes.len().saturating_sub(named.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!("on {}{more}, until {until:.0}", named.join(", ")))
    }

    /// Until when nothing is begun, because the last repairs did not take.
    #[must_use]
    pub fn resting_until(&self, allowance: &Allowance) -> Option<Timestamp> {
        Some(self.rest(allowance)?.0)
    }
}
