// SPDX-License-Identifier: Apache-2.0
//! What must still be so when everything that an act depends on was fetched again.

use std::collections::BTreeMap;

use super::super::sabotage::stands;
use super::super::{Check, Moment, Patient, Repairer, gate_detail};
use super::aftermath::patience;
use super::{Attempt, Stage, owner_of};
use crate::policy::{Withheld, forbids};
use crate::uid::PodUid;
use crate::verdict::State;

impl Attempt {
    /// Pods that were proved orphans before, wherever they are: they need not be Ready for another to be repaired.
    pub(in super::super) fn knows(&mut self, orphans: impl IntoIterator<Item = String>) {
        self.scanned.extend(orphans);
    }

    pub(super) fn note_proved(&mut self, patients: &BTreeMap<PodUid, Patient<'_>>) {
        let orphans = patients.values().filter(|patient| patient.state == State::Orphan);
        self.proved.clone_from(&self.scanned);
        self.proved
            .extend(orphans.map(|patient| patient.standing.facts.uid.clone()));
    }

    pub(super) fn checked(
        &mut self,
        repairer: &Repairer,
        at: Moment,
        result: Result<Option<Box<Check>>, String>,
    ) {
        let check = match result {
            Ok(Some(check)) => check,
            Ok(None) => return self.undone(at, Withheld::OtherPod, None),
            Err(detail) => return self.undone(at, Withheld::NotFetched, Some(detail)),
        };
        let Check {
            standing,
            gates,
            owner,
        } = *check;
        let facts = &standing.facts;
        let owned = self.owner == owner_of(facts);
        let (mandate, uid) = (&repairer.mandate, self.pod.uid.as_str());
        let forbidden = forbids(mandate, repairer.means, None, &standing, uid, &gates, at.server)
            .or((!owned).then_some(Withheld::OtherPod));
        if let Some(why) = forbidden.filter(stands) {
            return self.undone(at, why, gate_detail(&gates, why));
        }
        if repairer.means.replaces() {
            let degraded = owner.degraded(&self.owner_record, &self.proved);
            if let Some(why) = degraded.filter(|_| stands(&Withheld::OwnerDegraded)) {
                return self.undone(at, Withheld::OwnerDegraded, Some(why));
            }
            match owner.young(facts, at.server) {
                Ok(young) => self.before = young,
                Err(detail) => return self.undone(at, Withheld::NotFetched, Some(detail)),
            }
        }
        self.controller.clone_from(&facts.controller);
        self.patience = patience(repairer, facts);
        self.checked_at = at.now;
        self.stage = Stage::Announcing;
    }
}
