// SPDX-License-Identifier: Apache-2.0
//! Pods that no policy tells apart.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fixedbitset::FixedBitSet;
use kube::core::{Expression, Selector};

use super::rules::{Block, Peer, Policy};
use super::{Endpoint, Protocol, Sends, Takes};

/// The label by which istiod names the Gateway that a pod was made for.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// Which class each pod is in. Pods that policies leave alone are in none.
#[derive(Debug)]
pub(super) struct Classes {
    of_pod: Vec<Option<usize>>,
    /// Per class, its pods; there is one at least.
    members: Vec<Vec<usize>>,
    by_namespace: BTreeMap<String, Vec<usize>>,
}

/// All that a policy, or the search for gaps, can see of a pod.
#[derive(PartialEq, Eq, Hash)]
struct Key<'a> {
    namespace: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    blocks: FixedBitSet,
    named_ports: &'a BTreeMap<(Protocol, String), u16>,
    serves: &'a BTreeSet<u16>,
    sends: Sends,
    takes: Takes,
}

impl Classes {
    pub(super) fn new(endpoints: &[Endpoint], policies: &[Policy]) -> Self {
        let (labels, blocks) = told_apart_by(policies);
        let mut classes = Self {
            of_pod: Vec::with_capacity(endpoints.len()),
            members: Vec::new(),
            by_namespace: BTreeMap::new(),
        };
        let mut known: HashMap<Key<'_>, usize> = HashMap::new();
        for (pod, endpoint) in endpoints.iter().enumerate() {
            if endpoint.apart {
                classes.of_pod.push(None);
                continue;
            }
            let seen = endpoint.labels.iter().filter(|(key, _)| labels.contains(*key));
            let within = |(_, block): &(usize, &&Block)| endpoint.within(block);
            let key = Key {
                namespace: &endpoint.namespace,
                labels: seen.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
                blocks: blocks
                    .iter()
                    .enumerate()
                    .filter(within)
                    .map(|(at, _)| at)
                    .collect(),
                named_ports: &endpoint.named_ports,
                serves: &endpoint.serves,
                sends: endpoint.sends,
                takes: endpoint.takes,
            };
            let next = classes.members.len();
            let class = *known.entry(key).or_insert(next);
            if class == next {
                classes.members.push(Vec::new());
                let name = endpoint.namespace.clone();
                classes.by_namespace.entry(name).or_default().push(class);
            }
            if let Some(members) = classes.members.get_mut(class) {
                members.push(pod);
            }
            classes.of_pod.push(Some(class));
        }
        classes
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn of(&self, pod: usize) -> Option<usize> {
        self.of_pod.get(pod).copied().flatten()
    }

    /// The pods of a class.
    pub(super) fn members(&self, class: usize) -> &[usize] {
        self.members.get(class).map_or(&[], Vec::as_slice)
    }

    /// One pod that stands for its class.
    pub(super) fn example<'e>(&self, class: usize, endpoints: &'e [Endpoint]) -> Option<&'e Endpoint> {
        endpoints.get(*self.members(class).first()?)
    }

    pub(super) fn in_namespace(&self, namespace: &str) -> &[usize] {
        self.by_namespace.get(namespace).map_or(&[], Vec::as_slice)
    }

    pub(super) fn namespaces(&self) -> impl Iterator<Item = (&str, &[usize])> {
        let all = self.by_namespace.iter();
        all.map(|(name, classes)| (name.as_str(), classes.as_slice()))
    }
}

impl Endpoint {
    /// Whether it has an address in the block.
    pub(super) fn within(&self, block: &Block) -> bool {
        self.addresses.iter().any(|address| block.contains(*address))
    }
}

/// The labels and the blocks that some policy asks for.
fn told_apart_by(policies: &[Policy]) -> (BTreeSet<String>, Vec<&Block>) {
    let (mut labels, mut blocks) = (BTreeSet::new(), BTreeSet::new());
    // Patches that we offer may name it.
    labels.insert(GATEWAY_NAME.to_owned());
    for policy in policies {
        labels.extend(policy.pods.iter().flat_map(keys));
        for peer in policy.rules().flat_map(|rule| rule.listed()) {
            match peer {
                Peer::Block(block) => {
                    blocks.insert(block);
                }
                Peer::Pods { pods, .. } => labels.extend(keys(pods)),
                Peer::Nobody => {}
            }
        }
    }
    (labels, blocks.into_iter().collect())
}

fn keys(selector: &Selector) -> Vec<String> {
    let expressions = selector.clone().into_iter();
    let key = |expression| match expression {
        Expression::In(key, _)
        | Expression::NotIn(key, _)
        | Expression::Equal(key, _)
        | Expression::NotEqual(key, _)
        | Expression::Exists(key)
        | Expression::DoesNotExist(key) => key,
    };
    expressions.map(key).collect()
}
