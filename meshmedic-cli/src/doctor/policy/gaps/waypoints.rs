// SPDX-License-Identifier: Apache-2.0
//! What goes to a waypoint instead of the pods that it was meant for.

use fixedbitset::FixedBitSet;

use super::{Admits, Gap};
use crate::doctor::policy::{Direction, NetworkPolicies, RuleId, Sends};

/// A waypoint and the pods behind it.
#[derive(Clone, Debug)]
pub(crate) struct Behind {
    /// One of the waypoint's pods: they are all alike.
    pub(crate) waypoint: usize,
    /// The pods behind it.
    pub(crate) pods: Vec<usize>,
}

/// Callers that policies let through to pods behind a waypoint, and not to the waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Detour {
    /// The side that does not let them: the waypoint's policies, or the callers'.
    pub(crate) direction: Direction,
    /// One of the waypoint's pods.
    pub(crate) waypoint: usize,
    /// The classes of the callers.
    pub(crate) callers: FixedBitSet,
    /// The rule that lets them through to a pod behind it; none where no policy is about those pods.
    pub(crate) meant_by: Option<RuleId>,
}

impl NetworkPolicies {
    /// The callers that ask a waypoint, by the word of the policies of the pods behind it, and do not reach it.
    pub(crate) fn detours(&self, behind: &Behind) -> Vec<Detour> {
        let Some(at) = self.classes.of(behind.waypoint) else {
            return Vec::new();
        };
        let mut admits = Admits::new(self);
        let callers = self.classes_with(|endpoint| endpoint.sends == Sends::Ztunnel);
        let mut theirs = FixedBitSet::with_capacity(self.classes.len());
        theirs.extend(behind.pods.iter().filter_map(|&pod| self.classes.of(pod)));
        let mut detours = self.kept_out(behind.waypoint, at, &theirs, &callers, &mut admits);
        detours.extend(self.kept_in(behind.waypoint, at, &theirs, &callers, &mut admits));
        detours
    }

    /// Those that the waypoint's policies keep out.
    fn kept_out(
        &self,
        waypoint: usize,
        at: usize,
        theirs: &FixedBitSet,
        callers: &FixedBitSet,
        admits: &mut Admits<'_>,
    ) -> Vec<Detour> {
        let Some(reach) = self.reach(at, Direction::Ingress, admits) else {
            return Vec::new();
        };
        let direction = Direction::Ingress;
        let mut detours = Vec::new();
        let mut open = false;
        for class in theirs.ones() {
            let Some(meant) = self.reach(class, direction, admits) else {
                open = true;
                continue;
            };
            let mut cut = &meant.app & callers;
            cut.difference_with(&reach.hbone);
            for gap in self.through(direction, class, &cut, admits) {
                detours.push(Detour {
                    direction,
                    waypoint,
                    callers: gap.peers,
                    meant_by: Some(gap.rule),
                });
            }
        }
        // A waypoint that lets nobody in, before pods that let everybody in, is no choice of whom to let in.
        if detours.is_empty() && open && !callers.is_clear() && reach.hbone.is_disjoint(callers) {
            detours.push(Detour {
                direction,
                waypoint,
                callers: callers.clone(),
                meant_by: None,
            });
        }
        detours
    }

    /// Those whose own policies do not let them out to the waypoint.
    fn kept_in(
        &self,
        waypoint: usize,
        at: usize,
        theirs: &FixedBitSet,
        callers: &FixedBitSet,
        admits: &mut Admits<'_>,
    ) -> Vec<Detour> {
        let direction = Direction::Egress;
        let mut detours = Vec::new();
        for class in callers.ones().filter(|class| *class != at) {
            let Some(reach) = self.reach(class, direction, admits) else {
                continue;
            };
            let meant = &reach.app & theirs;
            if meant.is_clear() || reach.hbone.contains(at) {
                continue;
            }
            for gap in self.through(direction, class, &meant, admits) {
                let mut callers = FixedBitSet::with_capacity(self.classes.len());
                callers.insert(class);
                detours.push(Detour {
                    direction,
                    waypoint,
                    callers,
                    meant_by: Some(gap.rule),
                });
            }
        }
        detours
    }

    fn through(
        &self,
        direction: Direction,
        class: usize,
        peers: &FixedBitSet,
        admits: &mut Admits<'_>,
    ) -> Vec<Gap> {
        let mut gaps = Vec::new();
        if !peers.is_clear() {
            self.by_rule(direction, class, peers, admits, &mut gaps);
        }
        gaps
    }

    /// Whether its callers reach the waypoint now.
    pub(crate) fn reaches(&self, detour: &Detour) -> bool {
        let mut admits = Admits::new(self);
        let Some(at) = self.classes.of(detour.waypoint) else {
            return true;
        };
        match detour.direction {
            Direction::Ingress => {
                let reach = self.reach(at, Direction::Ingress, &mut admits);
                reach.is_none_or(|reach| detour.callers.is_subset(&reach.hbone))
            }
            Direction::Egress => detour.callers.ones().all(|class| {
                let reach = self.reach(class, Direction::Egress, &mut admits);
                reach.is_none_or(|reach| reach.hbone.contains(at))
            }),
        }
    }
}
