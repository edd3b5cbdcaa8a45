// SPDX-License-Identifier: Apache-2.0
//! Which owners' records are others by some news, so that the planner is told of these alone: once for each batch.

use std::collections::BTreeSet;

use meshmedic_common::kube::leases;
use meshmedic_common::repair::{LeaseKey, Moment, Planner};

use crate::cluster::{Delta, Mirror, Seen};

/// The owners of which there is news.
#[derive(Debug, Default)]
pub(super) struct Owners {
    some: BTreeSet<String>,
    /// Everything was told anew.
    all: bool,
}

impl Owners {
    /// Notes whom some news concern. The mirror has not taken them yet.
    pub(super) fn note(&mut self, seen: &Seen, mirror: &Mirror) {
        let Seen::Lease(delta) = seen else { return };
        match delta {
            Delta::Is(_, lease) => self.some.extend(lease.owner.clone()),
            Delta::Gone(name) => {
                let lease = mirror.lease(name);
                self.some.extend(lease.and_then(|lease| lease.owner.clone()));
            }
            Delta::Begin => {}
            Delta::End => self.all = true,
        }
    }

    /// Tells the planner what the mirror shows of them now.
    pub(super) fn tell(mut self, at: Moment, mirror: &Mirror, planner: &mut Planner) {
        if self.all {
            self.some.extend(planner.awaited_owners().map(str::to_owned));
            self.some
                .extend(mirror.leases().filter_map(|lease| lease.owner.clone()));
        }
        for owner in self.some {
            let name = leases::name(&LeaseKey::Owner(owner.clone()));
            let lease = mirror
                .lease(&name)
                .filter(|lease| lease.owner.as_ref() == Some(&owner));
            planner.owner_seen(at, &owner, lease.and_then(|lease| lease.record.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use meshmedic_common::identity::Identity;
    use meshmedic_common::kube::leases::SeenLease;
    use meshmedic_common::policy::{GRACE_PERIOD, Mandate, Means, Permissions};
    use meshmedic_common::repair::ledger::{Entry, More, Record};
    use meshmedic_common::repair::{Claims, Limits, Repairer};
    use meshmedic_common::time::Time;

    use super::*;

    fn planner() -> Planner {
        let repairer = Repairer {
            node: "here".to_owned(),
            holder: "here-1".to_owned(),
            mandate: Mandate::Agent(Permissions {
                ready: false,
                stuck: false,
                grace_period: GRACE_PERIOD,
                jobs: false,
            }),
            means: Means::Evict,
            claims: Claims::AGENT,
            limits: Limits::DEFAULT,
        };
        Planner::new(repairer, true)
    }

    fn at() -> Moment {
        Moment {
            now: Time::default(),
            server: Timestamp::UNIX_EPOCH,
        }
    }

    /// An owner's Lease with a repair on another node.
    fn lease(owner: &str) -> (String, SeenLease) {
        let name = leases::name(&LeaseKey::Owner(owner.to_owned()));
        let entry = Entry {
            id: "1".to_owned(),
            pod: "shop/cart".to_owned(),
            uid: "uid".to_owned(),
            node: "there".to_owned(),
            holder: "there-1".to_owned(),
            slot: None,
            at: at().server,
            renewed: at().server,
            deadline: Timestamp::MAX,
            sent: None,
            before: Vec::new(),
            controller: None,
            means: Means::Evict,
            acted: false,
            canary: false,
            proof: None,
            more: More::default(),
        };
        let seen = SeenLease {
            name: name.clone(),
            resource_version: None,
            owner: Some(owner.to_owned()),
            record: Some(Record {
                repairs: vec![entry],
                ..Record::default()
            }),
            written: None,
        };
        (name, seen)
    }

    #[test]
    fn the_planner_hears_of_those_that_changed_and_of_all_that_were_told_anew() {
        let (mut mirror, mut planner) = (Mirror::new(Identity::default(), true), planner());
        let mut take = |news: Vec<Delta<SeenLease>>, planner: &mut Planner| {
            let mut owners = Owners::default();
            for delta in news {
                let seen = Seen::Lease(delta);
                owners.note(&seen, &mirror);
                mirror.take(seen);
            }
            let noted = owners.some.clone();
            owners.tell(at(), &mirror, planner);
            noted
        };
        let is = |owner| {
            let (name, lease) = lease(owner);
            Delta::Is(name, lease)
        };
        take(vec![Delta::Begin, is("a"), is("b"), Delta::End], &mut planner);
        assert_eq!(planner.awaited_owners().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(
            take(vec![is("c"), is("c")], &mut planner).len(),
            1,
            "only what changed, and once"
        );
        take(vec![Delta::Gone(lease("b").0)], &mut planner);
        assert_eq!(planner.awaited_owners().collect::<Vec<_>>(), ["a", "c"]);
        take(vec![Delta::Begin, is("c"), Delta::End], &mut planner);
        assert_eq!(planner.awaited_owners().collect::<Vec<_>>(), ["c"]);
    }
}
