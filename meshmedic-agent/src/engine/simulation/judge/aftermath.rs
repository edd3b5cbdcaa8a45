// SPDX-License-Identifier: Apache-2.0
//! Whose failure a repair is that nobody proved: what is counted against whom, and when.

use super::super::trace::{Held, PodId};
use super::super::world::within;
use super::super::{MINUTE, SECOND, span};
use super::{Act, CLAIM_LASTS, Judge, Pod};
use meshmedic_common::time::Time;

/// No pod's own time to end counts for more.
pub(super) const MOST_GRACE: u64 = 15 * MINUTE;
/// So long after the deadline whoever cannot ask the API waits at least.
const ASKED: u64 = 50 * SECOND;

impl Judge<'_> {
    pub(super) fn stir(&mut self, at: Time, id: PodId) {
        if let Some(owner) = self.truth(id).and_then(|truth| truth.owner) {
            self.stirred.insert(owner, at);
        }
    }

    pub(super) fn wants(&mut self, at: Time, owner: usize, wanted: usize) {
        let before = self.wanted.insert(owner, wanted);
        if before.is_some_and(|before| wanted < before) {
            let open = |act: &&mut Act| act.owner == owner && act.proved.is_none();
            for act in self.acts.iter_mut().filter(open) {
                act.unwanted.get_or_insert(at);
            }
        }
    }

    /// Whoever asked was told what an owner wants and has. It may want nothing though it was not told so since the act:
    /// the pod may have been one too many.
    pub(super) fn surveyed(&mut self, at: Time, id: PodId) {
        let Some(found) = self.acts.iter().rposition(|act| act.pod == id) else {
            return;
        };
        let act = &self.acts[found];
        let unwanted = self.has_all(act.owner) && self.came(act, act.claimed).next().is_none();
        let act = &mut self.acts[found];
        act.known = true;
        if unwanted {
            act.unwanted.get_or_insert(at);
        }
    }

    /// A repair was counted as one that did not take.
    pub(super) fn judge_failure(&mut self, at: Time, id: PodId, held: Held) {
        let Some(act) = self.acts.iter().rev().find(|act| act.pod == id) else {
            return;
        };
        if act.failed.is_some() || self.jumped_near(act) {
            return;
        }
        let early = within(act.patience - CLAIM_LASTS, at, act.at);
        let came = self.came(act, act.claimed).any(|(_, pod)| pod.started.is_some());
        let any = self.came(act, act.claimed).next().is_some();
        let others = held == Held::Node || held == Held::Cluster;
        let still = self
            .stirred
            .get(&act.owner)
            .is_none_or(|last| *last + span(3 * MINUTE) < at);
        // Later than this the API may have been asked in vain what its owner wants.
        let asked = within(act.patience + ASKED, at, act.at);
        let unwanted = act.unwanted.is_some() && still && asked && self.has_all(act.owner);
        let wrong = match () {
            () if early => "before its time was over",
            () if others && !came => "against others than its owner, though nothing ran in its place",
            () if unwanted && !any => "though its owner wanted nothing in its place",
            () => return,
        };
        self.blame(
            at,
            6,
            format!("the repair of pod {id} was counted in {held:?} {wrong}"),
        );
    }

    /// Something was claimed for the repair of a pod: nothing is, while a budget would refuse it.
    pub(super) fn judge_claim(&mut self, at: Time, id: PodId) {
        let owner = self.truth(id).and_then(|truth| truth.owner);
        let since = owner.and_then(|owner| self.blocked.get(&owner));
        let known = since.is_some_and(|since| !within(CLAIM_LASTS, at, *since));
        if known && !self.rules.delete {
            self.blame(
                at,
                5,
                format!("pod {id} was claimed for, though a budget refuses its eviction"),
            );
        }
    }

    fn jumped_near(&self, act: &Act) -> bool {
        let since = act.at - span(10 * MINUTE);
        self.jumps.iter().any(|(when, _)| *when >= since)
    }

    /// The pods of the same owner that were created since then, by the server's clock.
    fn came(&self, act: &Act, since: i64) -> impl Iterator<Item = (PodId, &Pod)> {
        let (owner, judged) = (act.owner, act.pod);
        let came = move |(id, pod): &(&PodId, &Pod)| {
            let owned = pod.truth.is_some_and(|truth| truth.owner == Some(owner));
            owned && **id != judged && pod.created >= since
        };
        self.pods.iter().filter(came).map(|(id, pod)| (*id, pod))
    }

    fn has_all(&self, owner: usize) -> bool {
        let there = |pod: &&Pod| {
            let truth = pod.truth.filter(|truth| truth.owner == Some(owner));
            !pod.gone && truth.is_some_and(|truth| !truth.deleting)
        };
        let wanted = self.wanted.get(&owner).copied().unwrap_or_default();
        self.pods.values().filter(there).count() >= wanted
    }

    /// Whether a successor runs, for certain, of which nobody proved anything: then the failure is everybody's.
    pub(super) fn ran(&self, act: &Act) -> bool {
        let Some(judged) = self.truth(act.pod).filter(|_| !self.jumped_near(act)) else {
            return false;
        };
        let until = act.at + span(act.patience - CLAIM_LASTS);
        let after = self.server(act.at) + i64::try_from(SECOND).unwrap_or_default();
        let mut came = self.came(act, after);
        came.any(|(id, pod)| {
            let in_time = pod.started.is_some_and(|started| started <= until);
            let place = pod.truth.is_some_and(|truth| {
                let there = !judged.stays || truth.node == judged.node;
                there && truth.name == judged.name && !truth.deleting
            });
            let free = self.acts.iter().all(|other| other.proved_by != Some(id));
            in_time && place && free && !pod.gone
        })
    }
}
