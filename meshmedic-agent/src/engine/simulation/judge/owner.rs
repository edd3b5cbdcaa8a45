// SPDX-License-Identifier: Apache-2.0
//! Whether an owner can afford to lose one more pod.

use super::super::trace::PodId;
use super::super::{MINUTE, span};
use super::{Judge, Pod};
use meshmedic_common::time::Time;

impl Judge<'_> {
    /// Why the owner of a pod cannot afford to lose it now. Without the pod itself, all that it wants must be there and
    /// Ready, but for orphans that were there before the last of its pods was taken away.
    pub(super) fn degraded(&self, at: Time, id: PodId) -> Option<String> {
        let owner = self.pods.get(&id)?.truth?.owner?;
        let last = self.acts.iter().rev().find(|act| act.owner == owner);
        let jumped = |since: Time| self.jumps.iter().any(|(when, _)| *when + span(MINUTE) >= since);
        let last = last.filter(|act| !jumped(act.at)).map(|act| self.server(act.at));
        let others = self.pods.iter().filter(|(other, pod)| {
            let there = |pod: &Pod| {
                pod.truth
                    .is_some_and(|truth| truth.owner == Some(owner) && !truth.deleting)
            };
            **other != id && !pod.gone && there(pod)
        });
        let mut there = 0;
        for (other, pod) in others {
            let ready = pod.truth.is_some_and(|truth| truth.ready);
            let came_after = last.is_some_and(|last| pod.created >= last);
            if !ready && (pod.lost.is_none() || came_after) {
                return Some(format!("pod {other} of owner {owner} was not Ready"));
            }
            there += 1;
        }
        let wanted = *self.wanted.get(&owner)?;
        let lacks = there + 1 < wanted;
        lacks.then(|| format!("owner {owner} had {there} others of the {wanted} that it wants (at {at:?})"))
    }
}
