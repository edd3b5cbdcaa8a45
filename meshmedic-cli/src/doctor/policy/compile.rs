// SPDX-License-Identifier: Apache-2.0
//! Policies, asked once about every class.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use fixedbitset::FixedBitSet;
use kube::core::{Selector, SelectorExt as _};
use meshmedic_common::facts::Labels;

use super::classes::Classes;
use super::rules::{self, Peer, Peers};
use super::{Direction, Endpoint};

/// A policy whose rules know the classes that they admit.
#[derive(Debug)]
pub(super) struct Policy {
    namespace: String,
    pods: Option<Selector>,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) rule: rules::Rule,
    /// The classes that it admits as peers.
    pub(super) peers: Rc<FixedBitSet>,
}

impl Policy {
    /// Its rules in a direction; none if it does not isolate in that direction.
    pub(super) fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// Compiles policies; peers that many rules name are looked for once.
pub(super) struct Compiler<'a> {
    endpoints: &'a [Endpoint],
    namespaces: &'a BTreeMap<String, Labels>,
    classes: &'a Classes,
    everybody: Rc<FixedBitSet>,
    known: HashMap<String, Rc<FixedBitSet>>,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(
        endpoints: &'a [Endpoint],
        namespaces: &'a BTreeMap<String, Labels>,
        classes: &'a Classes,
    ) -> Self {
        let mut everybody = FixedBitSet::with_capacity(classes.len());
        everybody.insert_range(..);
        Self {
            endpoints,
            namespaces,
            classes,
            everybody: Rc::new(everybody),
            known: HashMap::new(),
        }
    }

    pub(super) fn policy(&mut self, policy: rules::Policy) -> Policy {
        let rules::Policy {
            namespace,
            pods,
            ingress,
            egress,
        } = policy;
        let mut rules = |rules: Option<Vec<rules::Rule>>| {
            rules.map(|rules| {
                rules
                    .into_iter()
                    .map(|rule| self.rule(rule, &namespace))
                    .collect()
            })
        };
        let (ingress, egress) = (rules(ingress), rules(egress));
        Policy {
            namespace,
            pods,
            ingress,
            egress,
        }
    }

    /// Per class, the policies that select it.
    pub(super) fn selecting(&self, policies: &[Rc<Policy>]) -> Vec<Vec<usize>> {
        let mut selecting = vec![Vec::new(); self.classes.len()];
        for (place, policy) in policies.iter().enumerate() {
            let Some(selector) = &policy.pods else { continue };
            for &class in self.classes.in_namespace(&policy.namespace) {
                if self.has(class, selector)
                    && let Some(selecting) = selecting.get_mut(class)
                {
                    selecting.push(place);
                }
            }
        }
        selecting
    }

    fn rule(&mut self, rule: rules::Rule, namespace: &str) -> Rule {
        let peers = match &rule.peers {
            Peers::Everybody => Rc::clone(&self.everybody),
            Peers::Listed(listed) => match listed.as_slice() {
                [one] => self.peer(one, namespace),
                listed => {
                    let mut union = FixedBitSet::with_capacity(self.classes.len());
                    for peer in listed {
                        union.union_with(&self.peer(peer, namespace));
                    }
                    Rc::new(union)
                }
            },
        };
        Rule { rule, peers }
    }

    fn peer(&mut self, peer: &Peer, namespace: &str) -> Rc<FixedBitSet> {
        let key = match peer {
            Peer::Nobody => "none".to_owned(),
            Peer::Block(block) => format!("{block:?}"),
            Peer::Pods {
                namespaces: Some(namespaces),
                pods,
            } => format!("in {namespaces} pods {pods}"),
            Peer::Pods {
                namespaces: None,
                pods,
            } => format!("of {namespace} pods {pods}"),
        };
        if let Some(known) = self.known.get(&key) {
            return Rc::clone(known);
        }
        let found = Rc::new(self.find(peer, namespace));
        self.known.insert(key, Rc::clone(&found));
        found
    }

    fn find(&self, peer: &Peer, namespace: &str) -> FixedBitSet {
        let mut found = FixedBitSet::with_capacity(self.classes.len());
        match peer {
            Peer::Nobody => {}
            Peer::Block(block) => {
                let within = |class: &usize| {
                    let example = self.classes.example(*class, self.endpoints);
                    example.is_some_and(|endpoint| endpoint.within(block))
                };
                found.extend((0..self.classes.len()).filter(within));
            }
            Peer::Pods { namespaces, pods } => {
                let nothing = Labels::new();
                for (name, classes) in self.classes.namespaces() {
                    let labels = self.namespaces.get(name).unwrap_or(&nothing);
                    let selected = match namespaces {
                        Some(selector) => selector.matches(labels),
                        None => name == namespace,
                    };
                    if selected {
                        found.extend(classes.iter().copied().filter(|class| self.has(*class, pods)));
                    }
                }
            }
        }
        found
    }

    fn has(&self, class: usize, selector: &Selector) -> bool {
        let example = self.classes.example(class, self.endpoints);
        example.is_some_and(|endpoint| selector.matches(&endpoint.labels))
    }
}
