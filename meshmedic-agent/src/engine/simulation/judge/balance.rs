// SPDX-License-Identifier: Apache-2.0
//! Canaries, breakers, cooldowns and budgets: how an act stands among all others.

use std::collections::BTreeMap;

use super::super::trace::{Held, PodId, Truth};
use super::super::world::within;
use super::super::{HOUR, MINUTE, SECOND, span};
use super::aftermath::MOST_GRACE;
use super::{Act, CLAIM_LASTS, Judge};
use meshmedic_common::time::Time;

/// How long a holder that is not heard of keeps what it holds, less what lies between write and answer.
const LEASE: u64 = 60 * SECOND - 5 * SECOND;
/// A proof opens the way for others for so long, and a journey.
const CANARY_LASTS: u64 = HOUR + MINUTE;
/// An outcome that everybody could know is written down by then, however often the API fails.
const WRITTEN: u64 = 15 * MINUTE;
const MASS_LOSS_LEAST: usize = 5;
const MASS_LOSS_PERCENT: usize = 80;

impl Judge<'_> {
    #[expect(
        clippy::too_many_arguments,
        reason = "all that an act rests on, each for itself"
    )]
    pub(super) fn balance(
        &mut self,
        at: Time,
        id: PodId,
        (node, person): (usize, bool),
        process: u32,
        truth: &Truth,
        issued: Time,
        asked: Option<Time>,
    ) {
        let Some(owner) = truth.owner else { return };
        self.judge_in_flight(at, id, (node, person), owner);
        // What people do is counted, and never too much.
        if !person {
            self.judge_budgets(at, id, node);
        }
        self.judge_rest(at, id, node, owner);
        let earlier = self.server(at - span(CLAIM_LASTS));
        let claimed = earlier.min(self.server(at) - i64::try_from(CLAIM_LASTS).unwrap_or(0)) - 1000;
        // What was created since the claim may have told already.
        let broken = self.pods.iter().any(|(other, pod)| {
            let owned = pod.truth.is_some_and(|truth| truth.owner == Some(owner));
            owned && *other != id && pod.created >= claimed && pod.lost.is_some() && !pod.readings.is_empty()
        });
        let early = self.pods.iter().find_map(|(other, pod)| {
            let truth = pod.truth.filter(|truth| truth.owner == Some(owner))?;
            let complete = pod.complete.filter(|_| *other != id && pod.created >= claimed)?;
            Some((complete, truth.node))
        });
        self.acts.push(Act {
            at,
            pod: id,
            node,
            owner,
            namespace: truth.namespace,
            process,
            patience: self.rules.deadline + truth.grace.min(MOST_GRACE),
            known: false,
            lost: false,
            unwanted: None,
            asked: self.server(asked.unwrap_or(issued)),
            proved_by: None,
            claimed,
            proved: early,
            failed: broken.then_some(at),
        });
    }

    /// Whether the outcome of an act is still open, for certain.
    fn open(&self, act: &Act, now: Time) -> bool {
        let deadline = act.patience - CLAIM_LASTS;
        let leapt = self.leapt(act.at - span(CLAIM_LASTS));
        act.proved.is_none() && act.failed.is_none() && within(deadline, now, act.at) && leapt < 20 * SECOND
    }

    /// Whether what its agent holds is still held, for certain.
    fn holds(&self, act: &Act, held: Held, now: Time) -> bool {
        let wrote = self.pods.get(&act.pod).and_then(|pod| pod.wrote[held as usize]);
        wrote.is_some_and(|wrote| within(LEASE, now, wrote))
    }

    fn judge_in_flight(&mut self, at: Time, id: PodId, (node, person): (usize, bool), owner: usize) {
        let lately = self
            .acts
            .iter()
            .rev()
            .take_while(|act| within(self.rules.deadline + MOST_GRACE, at, act.at));
        let open: Vec<&Act> = lately.filter(|act| self.open(act, at)).collect();
        let of_owner = open.iter().filter(|act| act.owner == owner).count();
        let on_node = open
            .iter()
            .filter(|act| act.node == node && self.holds(act, Held::Node, at));
        let on_node = on_node.count();
        let in_slots = open.iter().filter(|act| self.holds(act, Held::Slot, at)).count();
        let mass_loss = on_node > 0 && self.mass_loss(node);
        let proof = |act: &Act| {
            let good = |(when, there): (Time, usize)| {
                within(CANARY_LASTS + self.fell(when), at, when) && (!mass_loss || there == node)
            };
            act.node == node && act.proved.is_some_and(good)
        };
        let proved = self.acts.iter().rev().any(proof);
        if on_node > 0 && !proved {
            self.blame(
                at,
                6,
                format!("pod {id}, before the canary of node {node} was proved"),
            );
        }
        if of_owner >= self.rules.in_flight_owner {
            self.blame(
                at,
                7,
                format!("pod {id}, with {of_owner} of owner {owner} under way"),
            );
        }
        if on_node >= self.rules.in_flight_node {
            self.blame(
                at,
                7,
                format!("pod {id}, with {on_node} on node {node} under way"),
            );
        }
        if in_slots >= self.rules.slots && !person {
            self.blame(
                at,
                7,
                format!("pod {id}, with {in_slots} in the cluster under way"),
            );
        }
    }

    /// Whether the agent of a node must know that most of its pods are out.
    fn mass_loss(&self, node: usize) -> bool {
        let confirm = span(self.rules.confirm);
        let (mut expected, mut known) = (0, 0);
        let faulty_at = self
            .nodes
            .get(&node)
            .map_or(Time::default(), |node| node.faulty_at);
        for pod in self.pods.values().filter(|pod| !pod.gone) {
            let Some(truth) = pod.truth.filter(|truth| truth.node == node && !truth.deleting) else {
                continue;
            };
            expected += 1;
            let since = faulty_at + span(self.rules.settle);
            let longest = pod.readings.values().max_by_key(|readings| readings.len());
            let mut readings = longest.into_iter().flatten().filter(|read| **read > since);
            let first = readings.next();
            let long = readings.clone().count() > 4
                && first.is_some_and(|first| {
                    readings
                        .next_back()
                        .is_some_and(|last| last.since(*first) >= confirm * 2)
                });
            known += usize::from(truth.expected && long && pod.lost.is_some());
        }
        known >= MASS_LOSS_LEAST && known * 100 >= expected * MASS_LOSS_PERCENT
    }

    fn judge_budgets(&mut self, at: Time, id: PodId, node: usize) {
        // A clock that jumps forward makes the hour shorter: that much is granted.
        let hour = (HOUR - 2 * MINUTE).saturating_sub(self.leapt(at - span(HOUR)));
        let lately = || self.acts.iter().rev().take_while(|act| within(hour, at, act.at));
        let (here, everywhere) = (lately().filter(|act| act.node == node).count(), lately().count());
        if here >= self.rules.per_hour_node {
            self.blame(at, 7, format!("pod {id}: node {node} had {here} within the hour"));
        }
        if everywhere >= self.rules.per_hour_cluster {
            self.blame(
                at,
                7,
                format!("pod {id}: the cluster had {everywhere} within the hour"),
            );
        }
    }

    /// When an act had failed at the earliest, if it has for certain.
    fn failed(&self, act: &Act, now: Time) -> Option<Time> {
        // Whoever takes it over goes by the server's clock, and waits longer if that fell back.
        let over = act.at + span(act.patience + CLAIM_LASTS + self.fell(act.at - span(CLAIM_LASTS)));
        if act.proved.is_some() || now <= over {
            return None;
        }
        let leapt = self.leapt(act.at - span(CLAIM_LASTS)) > 0;
        let silent = act.at + span(if leapt { 0 } else { act.patience - CLAIM_LASTS });
        Some(act.failed.map_or(silent, |failed| failed.min(silent)))
    }

    /// Those that failed in a row up to now, for certain, and when the last of them did. What is nobody's failure, or
    /// its owner's alone, breaks no row.
    fn row(&self, at: Time, slack: u64, mine: impl Fn(&Act) -> bool) -> (Vec<&Act>, Option<Time>) {
        // A successor may be seen long after its act, by an agent that was away.
        let proofs = self
            .acts
            .iter()
            .filter(|act| mine(act))
            .filter_map(|act| act.proved);
        let proved = proofs.map(|(when, _)| when).max().unwrap_or_default();
        let (mut row, mut last) = (Vec::new(), None);
        for act in self.acts.iter().rev().filter(|act| mine(act)) {
            let Some(failed) = self.failed(act, at) else { break };
            if failed <= proved || at.since(failed) < span(slack) || (slack > 0 && !self.lived(act)) {
                break;
            }
            let counts = match slack {
                0 => act.unwanted.is_none(),
                _ => act.lost || (act.known && self.ran(act)),
            };
            if counts {
                last = last.or(Some(failed));
                row.push(act);
            }
        }
        (row, last)
    }

    fn rests(&self, at: Time, failed: Option<Time>, rest: u64) -> bool {
        failed.is_some_and(|failed| within(rest.saturating_sub(self.leapt(failed)), at, failed))
    }

    /// A process that ended before it could write down what it knew counts for nothing.
    fn lived(&self, act: &Act) -> bool {
        let known = act.at + span(act.patience + WRITTEN);
        let process = self.processes.get(&act.process);
        process.is_some_and(|process| process.ended.is_none_or(|ended| ended > known))
    }

    /// Cooldown and breakers.
    fn judge_rest(&mut self, at: Time, id: PodId, node: usize, owner: usize) {
        let open = self.rules.breaker_open;
        let (row, last) = self.row(at, 0, |act| act.owner == owner);
        let count = row.len();
        if count > 0 && self.rests(at, last, self.rules.cooldown) {
            self.blame(at, 7, format!("pod {id}: owner {owner} is to be left in peace"));
        }
        if count >= self.rules.breaker_failures && self.rests(at, last, open) {
            self.blame(at, 6, format!("pod {id}: {count} of owner {owner} did not take"));
        }
        let (row, last) = self.row(at, WRITTEN, |act| act.node == node);
        let count = row.len();
        if count >= self.rules.breaker_failures && self.rests(at, last, open) {
            self.blame(at, 6, format!("pod {id}: {count} on node {node} did not take"));
        }
        let (row, last) = self.row(at, WRITTEN, |_| true);
        // Of one namespace, and of one node, only half counts.
        let most = self.rules.breaker_failures_cluster;
        let bounded = |place: fn(&Act) -> usize| {
            let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
            for act in &row {
                *counts.entry(place(act)).or_default() += 1;
            }
            counts
                .into_values()
                .map(|count| count.min(most.div_ceil(2)))
                .sum::<usize>()
        };
        let count = bounded(|act| act.namespace).min(bounded(|act| act.node));
        if count >= most && self.rests(at, last, open) {
            self.blame(at, 6, format!("pod {id}: {count} in the cluster did not take"));
        }
    }
}
