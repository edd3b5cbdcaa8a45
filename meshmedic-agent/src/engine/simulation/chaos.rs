// SPDX-License-Identifier: Apache-2.0
//! What goes wrong in clusters.

use std::sync::Arc;

use meshmedic_common::eligibility::Expectation;
use meshmedic_common::verdict::Reason;

use super::trace::{PodId, Shows, What};
use super::{HOUR, Happening, MINUTE, SECOND, Sim, span};
use meshmedic_common::repair::LeaseKey;

/// The end of something that went wrong.
#[derive(Clone, Debug)]
pub(super) enum Cure {
    Cni(usize),
    CniBroken(usize),
    Istiod,
    Cordon(usize),
    Pause,
    OptOut(PodId),
    Namespace(usize),
    Toggle(PodId),
    Enrolment(PodId),
    Guessing,
    Unreadable(usize),
    Blocked(usize),
    Broken(usize),
    Lease(LeaseKey),
}

impl Sim {
    /// One thing goes wrong, and the next is on its way.
    pub(super) fn mishap(&mut self) {
        if self.calm {
            return;
        }
        let gap = self.rng.between(1, 2 * self.plan.gap);
        self.after(gap, Happening::Mishap);
        let node = self.rng.index(self.world.nodes.len());
        let owner = self.rng.index(self.world.owners.len());
        let Some(pod) = self.any_pod(node) else { return };
        match self.rng.index(30) {
            0..=2 => self.lose(node, 1),
            3 => self.lose(node, 3),
            4 => self.lose(node, usize::MAX),
            5 => self.reboot(node),
            6 => self.restart_ztunnel(node, 1, SECOND, 20 * SECOND),
            7 => self.restart_ztunnel(node, 5, SECOND, 40 * SECOND),
            8 => self.restart_ztunnel(node, 1, 5 * MINUTE, HOUR),
            9..=16 => {
                self.forbid(node, pod);
                // An orphan that must be left alone tells more than a rule with nothing to forbid.
                if self.rng.chance(700) {
                    self.listen(pod, Shows::None);
                }
                if self.rng.chance(500) {
                    self.lose(node, 2);
                }
            }
            17 => self.listen(pod, Shows::Some),
            18 => self.listen(pod, Shows::Imposter),
            19 => self.flap(pod),
            20 => self.evict(pod),
            21 => self.listen(pod, Shows::All),
            22 => self.become_unready(pod),
            23 => self.break_owner(owner),
            24 => {
                self.exhaust(owner);
                self.lose_pods_of(owner);
            }
            25 => {
                let away = self.rng.between(10 * SECOND, 8 * MINUTE);
                self.api.down_until = self.now + span(away);
                self.lose(node, 1);
            }
            26 => {
                let deaf = self.rng.between(5 * SECOND, 5 * MINUTE);
                self.agents[node].deaf_until = self.now + span(deaf);
                self.lose(node, 1);
            }
            27 => {
                let jump = i64::try_from(self.rng.between(SECOND, 9 * MINUTE)).unwrap_or_default();
                let back = self.api.offset > 0 || (self.api.offset == 0 && self.rng.chance(300));
                self.jump(if back { -jump } else { jump });
            }
            28 => self.roll(),
            _ => {
                self.agents[node].doomed = 4;
                let life = self.agents[node].life;
                self.kill(node, life);
            }
        }
    }

    /// Something that forbids repairs, each for its own reason.
    fn forbid(&mut self, node: usize, pod: PodId) {
        match self.rng.index(13) {
            0 => {
                self.world.nodes[node].cni_ready = false;
                self.tell(What::Cni(node, false));
                self.cure_after(MINUTE, 30 * MINUTE, Cure::Cni(node));
            }
            1 => {
                self.world.nodes[node].cni_broken = true;
                self.cure_after(10 * MINUTE, 2 * HOUR, Cure::CniBroken(node));
            }
            2 => {
                self.world.no_istiod = true;
                self.tell(What::Istiod(false));
                self.cure_after(MINUTE, 30 * MINUTE, Cure::Istiod);
            }
            3 => {
                self.world.nodes[node].cordoned = true;
                self.tell(What::Cordon(node, true));
                self.cure_after(5 * MINUTE, 2 * HOUR, Cure::Cordon(node));
            }
            4 => {
                self.world.paused = true;
                self.tell(What::Paused(true));
                self.cure_after(MINUTE, HOUR, Cure::Pause);
            }
            5..=6 => {
                let value = (*self
                    .rng
                    .pick(&["disabled", "Disabled", "false", "\u{1b}[31m", ""]))
                .to_owned();
                self.edit(pod, |standing| standing.facts.repair = Some(value));
                self.cure_after(5 * MINUTE, 3 * HOUR, Cure::OptOut(pod));
            }
            7 => {
                let value = *self.rng.pick(&["disabled", "off"]);
                let namespace = self.rng.index(self.world.namespaces.len());
                self.annotate(namespace, Some(value));
                self.cure_after(5 * MINUTE, HOUR, Cure::Namespace(namespace));
            }
            8..=9 => {
                self.edit(pod, |standing| {
                    standing.facts.toggle_restore = Some("ambient".to_owned())
                });
                self.cure_after(MINUTE, HOUR, Cure::Toggle(pod));
            }
            10 => {
                self.edit(pod, |standing| {
                    standing.expectation = Expectation::Exempt(Reason::NotSelected)
                });
                self.cure_after(MINUTE, 2 * HOUR, Cure::Enrolment(pod));
            }
            11 => {
                self.guess(true);
                self.cure_after(MINUTE, HOUR, Cure::Guessing);
            }
            _ => {
                self.world.nodes[node].unreadable = true;
                self.cure_after(MINUTE, HOUR, Cure::Unreadable(node));
            }
        }
        self.outdate_all();
    }

    fn cure_after(&mut self, least: u64, most: u64, cure: Cure) {
        let span = self.rng.between(least, most);
        self.after(span, Happening::Cure(cure));
    }

    pub(super) fn cure(&mut self, cure: Cure) {
        match cure {
            Cure::Cni(node) => {
                self.world.nodes[node].cni_ready = true;
                self.tell(What::Cni(node, true));
            }
            Cure::CniBroken(node) => self.world.nodes[node].cni_broken = false,
            Cure::Istiod => {
                self.world.no_istiod = false;
                self.tell(What::Istiod(true));
            }
            Cure::Cordon(node) => {
                self.world.nodes[node].cordoned = false;
                self.tell(What::Cordon(node, false));
            }
            Cure::Pause => {
                self.world.paused = false;
                self.tell(What::Paused(false));
            }
            Cure::OptOut(pod) => self.edit(pod, |standing| standing.facts.repair = None),
            Cure::Namespace(namespace) => self.annotate(namespace, None),
            Cure::Toggle(pod) => self.edit(pod, |standing| standing.facts.toggle_restore = None),
            Cure::Enrolment(pod) => {
                let pod_now = &self.world.pods[pod as usize];
                if pod_now.standing.expectation == Expectation::Exempt(Reason::NotSelected) {
                    self.edit(pod, |standing| standing.expectation = Expectation::Expected);
                }
            }
            Cure::Guessing => self.guess(false),
            Cure::Unreadable(node) => self.world.nodes[node].unreadable = false,
            Cure::Blocked(owner) => self.block(owner, false),
            Cure::Broken(owner) => {
                let owner = &mut self.world.owners[owner];
                (owner.broken, owner.waiting, owner.absent) = (false, false, false);
            }
            Cure::Lease(key) => {
                if let Some(lease) = self.api.leases.get_mut(&key) {
                    lease.garbled = false;
                    lease.version += 1;
                }
            }
        }
        self.outdate_all();
    }

    /// An owner's budget is used up for a while.
    pub(super) fn exhaust(&mut self, owner: usize) {
        if !self.calm {
            self.block(owner, true);
            self.cure_after(5 * MINUTE, 90 * MINUTE, Cure::Blocked(owner));
        }
    }

    /// A PodDisruptionBudget refuses every eviction of an owner's pods, or does not any more.
    pub(super) fn block(&mut self, owner: usize, blocked: bool) {
        self.world.owners[owner].blocked = blocked;
        self.tell(What::Blocked(owner, blocked));
    }

    fn annotate(&mut self, namespace: usize, value: Option<&str>) {
        self.world.namespaces[namespace] = value.map(str::to_owned);
        for pod in self.there() {
            if self.world.owners[self.world.pods[pod as usize].owner].namespace == namespace {
                self.edit(pod, |standing| {
                    standing.namespace_repair = value.map(str::to_owned)
                });
            }
        }
    }

    fn guess(&mut self, guessing: bool) {
        self.world.guessing = guessing;
        for pod in self.there() {
            self.edit(pod, |standing| standing.certain = !guessing);
        }
    }

    fn there(&self) -> Vec<PodId> {
        self.world
            .nodes
            .iter()
            .flat_map(|node| node.pods.clone())
            .collect()
    }

    /// So many pods of a node lose their listeners.
    fn lose(&mut self, node: usize, most: usize) {
        for pod in self.world.nodes[node].pods.clone().into_iter().take(most) {
            if self.world.pods[pod as usize].standing.expectation == Expectation::Expected {
                self.listen(pod, Shows::None);
            }
        }
        let pods = &mut self.world.nodes[node].pods;
        let first = pods.len().min(1);
        pods.rotate_left(first);
    }

    fn lose_pods_of(&mut self, owner: usize) {
        for pod in self.there() {
            if self.world.pods[pod as usize].owner == owner {
                self.listen(pod, Shows::None);
            }
        }
    }

    fn reboot(&mut self, node: usize) {
        let life = self.agents[node].life;
        self.kill(node, life);
        self.ztunnel_down(node);
        self.lose(node, usize::MAX);
        let back = self.rng.between(10 * SECOND, 2 * MINUTE);
        self.after(back, Happening::Ztunnel(node));
    }

    fn restart_ztunnel(&mut self, node: usize, times: u32, least: u64, most: u64) {
        self.ztunnel_down(node);
        let back = self.rng.between(least, most);
        self.after(back, Happening::Ztunnel(node));
        for _ in 1..times {
            // It flaps: the ones in between are gone within seconds.
            self.ztunnel_up(node);
            self.ztunnel_down(node);
        }
    }

    /// Its listeners are away for a moment.
    fn flap(&mut self, pod: PodId) {
        if self.world.pods[pod as usize].listens == Shows::All {
            self.listen(pod, Shows::None);
            let back = self.rng.between(200, 12 * SECOND);
            let to = *self.rng.pick(&[Shows::All, Shows::All, Shows::Some]);
            self.after(back, Happening::Listen(pod, Shows::None, to));
        }
    }

    fn become_unready(&mut self, pod: PodId) {
        self.become_ready(pod, false);
        self.listen(pod, Shows::None);
        let back = self.rng.between(MINUTE, 30 * MINUTE);
        self.after(back, Happening::Ready(pod));
    }

    fn break_owner(&mut self, owner: usize) {
        let how = self.rng.index(3);
        let broken = &mut self.world.owners[owner];
        match how {
            0 => broken.broken = true,
            1 => broken.waiting = true,
            _ => broken.absent = true,
        }
        self.cure_after(30 * MINUTE, 5 * HOUR, Cure::Broken(owner));
        self.lose_pods_of(owner);
    }

    /// A rolling restart of all agents.
    fn roll(&mut self) {
        for agent in 0..self.world.nodes.len() {
            let wait = self.rng.between(10, MINUTE);
            let life = self.agents[agent].life;
            self.after(wait, Happening::Stop(agent, life));
        }
        let node = self.rng.index(self.world.nodes.len());
        self.lose(node, 2);
    }

    /// Ends everything that went wrong and that time would not end by itself.
    pub(super) fn soothe(&mut self) {
        for node in 0..self.world.nodes.len() {
            self.agents[node].doomed = 0;
            self.agents[node].deaf_until = self.now;
            for cure in [
                Cure::Cni(node),
                Cure::CniBroken(node),
                Cure::Cordon(node),
                Cure::Unreadable(node),
            ] {
                self.cure(cure);
            }
            self.ztunnel_up(node);
            self.after(SECOND, Happening::Start(node));
        }
        for cure in [Cure::Istiod, Cure::Pause, Cure::Guessing] {
            self.cure(cure);
        }
        for owner in 0..self.world.owners.len() {
            self.cure(Cure::Blocked(owner));
            self.cure(Cure::Broken(owner));
        }
        for namespace in 0..self.world.namespaces.len() {
            self.annotate(namespace, None);
        }
        for key in self.api.leases.keys().cloned().collect::<Vec<_>>() {
            self.cure(Cure::Lease(key));
        }
        self.api.down_until = self.now;
        for pod in self.there() {
            let standing = Arc::clone(&self.world.pods[pod as usize].standing);
            if standing.facts.repair.is_some() || standing.facts.toggle_restore.is_some() {
                self.edit(pod, |standing| {
                    standing.facts.repair = None;
                    standing.facts.toggle_restore = None;
                });
            }
            self.cure(Cure::Enrolment(pod));
            self.become_ready(pod, true);
        }
    }
}
