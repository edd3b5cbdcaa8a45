// SPDX-License-Identifier: Apache-2.0
//! Pods of the mesh that may talk to each other, by the word of the policies, and cannot: what they say travels to
//! port 15008, and that port was forgotten.

mod waypoints;

use std::collections::HashMap;
use std::rc::Rc;

use fixedbitset::FixedBitSet;
use meshmedic_common::ztunnel_log::HBONE_PORT;

use super::rules::Ports;
use super::{Direction, Endpoint, NetworkPolicies, Protocol, RuleId, Sends, Takes};

/// Pods, all alike, that their own policies cut off from others of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) direction: Direction,
    /// The rule that admits a port which the destination serves. Neither it nor another admits 15008.
    pub(crate) rule: RuleId,
    /// The class of the pods.
    pub(crate) class: usize,
    /// The classes at the other ends.
    pub(crate) peers: FixedBitSet,
}

pub(crate) use waypoints::{Behind, Detour};

/// How much had to be decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decided {
    /// Pairs of pods of the mesh, each in both directions.
    pub(crate) pairs: u64,
    /// Pairs of classes, which stand for them.
    pub(crate) class_pairs: u64,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gaps {
    pub(crate) gaps: Vec<Gap>,
    pub(crate) decided: Decided,
}

/// A class and whom its policies let through; `None` if nothing isolates it.
type Side = (usize, Option<Reach>);

/// Whom the policies of one class let through, one bit a class.
struct Reach {
    /// On a port that the destination serves.
    app: FixedBitSet,
    /// On port 15008.
    hbone: FixedBitSet,
}

impl NetworkPolicies {
    /// Looks at every pair of pods in the mesh.
    ///
    /// A pair counts as meant to talk if both sides admit it on a port that the destination serves or on 15008. It is
    /// cut off by a side that admits the first and not the second.
    pub(crate) fn hbone_gaps(&self) -> Gaps {
        let senders = self.classes_with(|endpoint| endpoint.sends != Sends::Plain);
        let takers = self.classes_with(|endpoint| endpoint.takes != Takes::Plain);
        let ends = Ends::new(self);
        let mut admits = Admits::new(self);
        let mut sides = |classes: &FixedBitSet, direction| -> Vec<Side> {
            let sides = classes
                .ones()
                .map(|class| (class, self.reach(class, direction, &mut admits)));
            sides.collect()
        };
        let ingress = sides(&takers, Direction::Ingress);
        let egress = sides(&senders, Direction::Egress);
        let mut gaps = self.cut_off(Direction::Ingress, &ingress, &egress, &ends, &mut admits);
        gaps.extend(self.cut_off(Direction::Egress, &egress, &ingress, &ends, &mut admits));
        Gaps {
            gaps,
            decided: self.decided(&senders, &takers),
        }
    }

    /// The gaps of the classes of `ours`. `theirs` are the other sides.
    fn cut_off(
        &self,
        direction: Direction,
        ours: &[Side],
        theirs: &[Side],
        ends: &Ends,
        admits: &mut Admits<'_>,
    ) -> Vec<Gap> {
        let isolated = theirs.iter().filter_map(|(class, reach)| {
            let reach = reach.as_ref()?;
            Some((*class, &reach.app | &reach.hbone))
        });
        let isolated: HashMap<usize, FixedBitSet> = isolated.collect();
        let mut gaps = Vec::new();
        for (class, reach) in ours {
            let Some(reach) = reach else { continue };
            let mut cut = reach.app.clone();
            cut.difference_with(&reach.hbone);
            cut.intersect_with(ends.of(self, direction, *class));
            if self.classes.members(*class).len() == 1 {
                // A pod always reaches itself.
                cut.set(*class, false);
            }
            for peer in cut.clone().ones() {
                let meant = isolated.get(&peer).is_none_or(|reached| reached.contains(*class));
                cut.set(peer, meant);
            }
            if !cut.is_clear() {
                self.by_rule(direction, *class, &cut, admits, &mut gaps);
            }
        }
        gaps
    }

    /// Which rule admits which of the peers on a port that the destination serves.
    fn by_rule(
        &self,
        direction: Direction,
        class: usize,
        cut: &FixedBitSet,
        admits: &mut Admits<'_>,
        gaps: &mut Vec<Gap>,
    ) {
        for (policy, rules) in self.isolating_class(class, direction) {
            for (rule, compiled) in rules.iter().enumerate() {
                let opened = &admits.get(&compiled.rule.ports).app;
                let mut peers = &*compiled.peers & cut;
                match direction {
                    Direction::Ingress if !opened.contains(class) => continue,
                    Direction::Ingress => {}
                    Direction::Egress => peers.intersect_with(opened),
                }
                if !peers.is_clear() {
                    gaps.push(Gap {
                        direction,
                        rule: RuleId { policy, rule },
                        class,
                        peers,
                    });
                }
            }
        }
    }

    /// The ports that the pods of a class serve and a rule admits, other than 15008.
    pub(crate) fn served_through(&self, rule: RuleId, direction: Direction, class: usize) -> Vec<u16> {
        let rules = self
            .policies
            .get(rule.policy)
            .and_then(|policy| policy.rules(direction));
        let compiled = rules.and_then(|rules| rules.get(rule.rule));
        let Some((compiled, destination)) = compiled.zip(self.classes.example(class, &self.endpoints)) else {
            return Vec::new();
        };
        let ports = destination.serves.iter().copied();
        ports
            .filter(|&port| {
                let admit = |port| compiled.rule.ports.admit(Some(destination), port, Protocol::Tcp);
                port != HBONE_PORT && admit(port)
            })
            .collect()
    }

    /// Whether these gaps, found with one of the policies written otherwise, are none any more.
    pub(crate) fn close(&self, gaps: &[&Gap]) -> bool {
        let mut admits = Admits::new(self);
        gaps.iter().all(|gap| {
            let reach = self.reach(gap.class, gap.direction, &mut admits);
            reach.is_none_or(|reach| gap.peers.is_subset(&reach.hbone))
        })
    }

    /// The pods of a class.
    pub(crate) fn members(&self, class: usize) -> &[usize] {
        self.classes.members(class)
    }

    fn classes_with(&self, wanted: impl Fn(&Endpoint) -> bool) -> FixedBitSet {
        let mut found = FixedBitSet::with_capacity(self.classes.len());
        let is = |class: &usize| self.classes.example(*class, &self.endpoints).is_some_and(&wanted);
        found.extend((0..self.classes.len()).filter(is));
        found
    }

    /// `None` where nothing isolates the class.
    fn reach(&self, class: usize, direction: Direction, admits: &mut Admits<'_>) -> Option<Reach> {
        let mut reach: Option<Reach> = None;
        for (_, rules) in self.isolating_class(class, direction) {
            let reach = reach.get_or_insert_with(|| Reach {
                app: FixedBitSet::with_capacity(self.classes.len()),
                hbone: FixedBitSet::with_capacity(self.classes.len()),
            });
            for compiled in rules {
                let ports = admits.get(&compiled.rule.ports);
                match direction {
                    Direction::Ingress => {
                        if ports.app.contains(class) {
                            reach.app.union_with(&compiled.peers);
                        }
                        if ports.hbone.contains(class) {
                            reach.hbone.union_with(&compiled.peers);
                        }
                    }
                    Direction::Egress => {
                        reach.app.union_with(&(&*compiled.peers & &ports.app));
                        reach.hbone.union_with(&(&*compiled.peers & &ports.hbone));
                    }
                }
            }
        }
        reach
    }

    fn decided(&self, sources: &FixedBitSet, destinations: &FixedBitSet) -> Decided {
        let pods = |classes: &FixedBitSet| -> u64 {
            let members = classes
                .ones()
                .map(|class| self.classes.members(class).len() as u64);
            members.sum()
        };
        let classes = |classes: &FixedBitSet| classes.count_ones(..) as u64;
        Decided {
            pairs: 2 * pods(sources) * pods(destinations),
            class_pairs: 2 * classes(sources) * classes(destinations),
        }
    }
}

/// Which classes talk straight to which on port 15008.
struct Ends {
    /// Per way of taking connections, the classes whose connections go straight there.
    senders: HashMap<Takes, FixedBitSet>,
    /// Per way of sending, the classes to which they go straight.
    takers: HashMap<Sends, FixedBitSet>,
    nobody: FixedBitSet,
}

impl Ends {
    fn new(policies: &NetworkPolicies) -> Self {
        let mut ends = Self {
            senders: HashMap::new(),
            takers: HashMap::new(),
            nobody: FixedBitSet::with_capacity(policies.classes.len()),
        };
        for class in 0..policies.classes.len() {
            let Some(endpoint) = policies.classes.example(class, &policies.endpoints) else {
                continue;
            };
            let (sends, takes) = (endpoint.sends, endpoint.takes);
            ends.senders
                .entry(takes)
                .or_insert_with(|| policies.classes_with(|other| takes.directly(other.sends)));
            ends.takers
                .entry(sends)
                .or_insert_with(|| policies.classes_with(|other| other.takes.directly(sends)));
        }
        ends
    }

    /// The classes at the other ends of a class.
    fn of(&self, policies: &NetworkPolicies, direction: Direction, class: usize) -> &FixedBitSet {
        let endpoint = policies.classes.example(class, &policies.endpoints);
        let found = endpoint.and_then(|endpoint| match direction {
            Direction::Ingress => self.senders.get(&endpoint.takes),
            Direction::Egress => self.takers.get(&endpoint.sends),
        });
        found.unwrap_or(&self.nobody)
    }
}

fn serves_through(destination: &Endpoint, ports: &Ports) -> bool {
    let serves = destination.serves.iter().filter(|port| **port != HBONE_PORT);
    serves
        .copied()
        .any(|port| ports.admit(Some(destination), port, Protocol::Tcp))
}

/// Which classes a list of ports opens, for each list once.
struct Admits<'a> {
    policies: &'a NetworkPolicies,
    known: HashMap<Ports, Rc<Reach>>,
}

impl<'a> Admits<'a> {
    fn new(policies: &'a NetworkPolicies) -> Self {
        Self {
            policies,
            known: HashMap::new(),
        }
    }

    fn get(&mut self, ports: &Ports) -> Rc<Reach> {
        if let Some(known) = self.known.get(ports) {
            return Rc::clone(known);
        }
        let found = Rc::new(Reach {
            app: self
                .policies
                .classes_with(|endpoint| serves_through(endpoint, ports)),
            hbone: self
                .policies
                .classes_with(|endpoint| ports.admit(Some(endpoint), HBONE_PORT, Protocol::Tcp)),
        });
        self.known.insert(ports.clone(), Rc::clone(&found));
        found
    }
}
