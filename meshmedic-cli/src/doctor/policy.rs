// SPDX-License-Identifier: Apache-2.0
//! Kubernetes' NetworkPolicies, evaluated: who reaches whom on which port, and by whose word.
//!
//! Pods that no policy tells apart are one class, and everything is decided by class, so that ten thousand pods and
//! thousands of policies take no more than a moment.
//!
//! What is decided is what the API promises. Whether a policy is enforced at all, and how it treats a node's own
//! traffic, is up to the network plugin.

mod classes;
mod compile;
mod gaps;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use meshmedic_common::facts::Labels;

use classes::Classes;
use compile::{Compiler, Policy};

pub(crate) use gaps::{Behind, Detour, Gap, Gaps};

/// A protocol that a NetworkPolicy can name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// From whose side a policy looks at a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Direction {
    /// What the pod is sent.
    Ingress,
    /// What the pod sends.
    Egress,
}

/// Who puts a pod's connections to others of the mesh into HBONE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Sends {
    /// Nobody: they go out in plaintext, or in the mTLS of sidecars.
    #[default]
    Plain,
    /// ztunnel, which asks waypoints first.
    Ztunnel,
    /// An Envoy of Istio that is a sidecar or a waypoint: it sends to pods, past their waypoints.
    Envoy,
    /// An Envoy of Istio that is a gateway: it asks waypoints where a Service wants that of gateways.
    Gateway,
}

/// How connections of the mesh arrive at a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Takes {
    /// As they were meant: on the port of the app.
    #[default]
    Plain,
    /// In HBONE, and from a waypoint where the sender asks waypoints.
    BehindWaypoint {
        /// Whether gateways ask them too (`istio.io/ingress-use-waypoint`).
        for_gateways: bool,
    },
    /// In HBONE, on port 15008, whatever port is meant.
    Hbone,
}

impl Takes {
    /// Whether what this sender means for the pod goes straight to the pod's port 15008.
    pub(crate) const fn directly(self, sender: Sends) -> bool {
        match (sender, self) {
            (Sends::Plain, _) | (_, Self::Plain) | (Sends::Ztunnel, Self::BehindWaypoint { .. }) => false,
            (_, Self::Hbone) | (Sends::Envoy, Self::BehindWaypoint { .. }) => true,
            (Sends::Gateway, Self::BehindWaypoint { for_gateways }) => !for_gateways,
        }
    }
}

/// A pod as a NetworkPolicy sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoint {
    pub(crate) namespace: String,
    pub(crate) labels: Labels,
    pub(crate) addresses: Vec<IpAddr>,
    /// The ports of its containers that have a name.
    pub(crate) named_ports: BTreeMap<(Protocol, String), u16>,
    /// The TCP ports that it serves, as its containers and the Services before it say.
    pub(crate) serves: BTreeSet<u16>,
    /// Whether policies neither isolate it nor select it as a peer: it is in its node's network, or has ended.
    pub(crate) apart: bool,
    pub(crate) sends: Sends,
    pub(crate) takes: Takes,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    /// A pod, by its place among the endpoints.
    Pod(usize),
    /// An address that no pod has.
    Address(IpAddr),
}

/// A rule of a policy: `spec.ingress[rule]` or `spec.egress[rule]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RuleId {
    /// The policy, by its place in what was given.
    pub(crate) policy: usize,
    pub(crate) rule: usize,
}

/// Whether a connection passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// This rule admits it, and maybe others too.
    Admitted(RuleId),
    /// These policies isolate the pod, and no rule of theirs admits it.
    Denied(Vec<usize>),
}

impl Decision {
    /// The policies that forbid it; none if it passes.
    pub(crate) fn denied(self) -> Option<Vec<usize>> {
        match self {
            Self::Denied(isolating) => Some(isolating),
            Self::NotIsolated | Self::Admitted(_) => None,
        }
    }
}

/// The policies of a cluster, compiled for its pods.
#[derive(Clone, Debug)]
pub(crate) struct NetworkPolicies {
    endpoints: Rc<Vec<Endpoint>>,
    namespaces: Rc<BTreeMap<String, Labels>>,
    classes: Rc<Classes>,
    policies: Vec<Rc<Policy>>,
    /// Per class, the policies that select it.
    selecting: Rc<Vec<Vec<usize>>>,
    /// Per policy, how many pods it selects.
    selected: Rc<Vec<usize>>,
}

impl NetworkPolicies {
    /// Compiles the policies. `namespaces` are the labels of the namespaces.
    pub(crate) fn new(
        policies: &[NetworkPolicy],
        namespaces: BTreeMap<String, Labels>,
        endpoints: Vec<Endpoint>,
    ) -> Self {
        let parsed: Vec<_> = policies.iter().map(rules::Policy::new).collect();
        let classes = Classes::new(&endpoints, &parsed);
        let mut compiler = Compiler::new(&endpoints, &namespaces, &classes);
        let policies: Vec<_> = parsed
            .into_iter()
            .map(|policy| Rc::new(compiler.policy(policy)))
            .collect();
        let selecting = compiler.selecting(&policies);
        let mut selected = vec![0; policies.len()];
        for (class, places) in selecting.iter().enumerate() {
            for &place in places {
                if let Some(count) = selected.get_mut(place) {
                    *count += classes.members(class).len();
                }
            }
        }
        Self {
            endpoints: Rc::new(endpoints),
            namespaces: Rc::new(namespaces),
            classes: Rc::new(classes),
            policies,
            selecting: Rc::new(selecting),
            selected: Rc::new(selected),
        }
    }

    /// The same with another policy in the place of one.
    ///
    /// It must select the same pods and name no label and no block that no policy named before: the classes stay.
    pub(crate) fn with(&self, place: usize, policy: &NetworkPolicy) -> Self {
        let mut compiler = Compiler::new(&self.endpoints, &self.namespaces, &self.classes);
        let mut changed = self.clone();
        if let Some(old) = changed.policies.get_mut(place) {
            *old = Rc::new(compiler.policy(rules::Policy::new(policy)));
        }
        changed
    }

    /// The policies that isolate a pod in a direction.
    pub(crate) fn isolating(&self, pod: usize, direction: Direction) -> Vec<usize> {
        let Some(class) = self.classes.of(pod) else {
            return Vec::new();
        };
        self.isolating_class(class, direction)
            .map(|(place, _)| place)
            .collect()
    }

    /// Whether the policies of a pod let a connection pass. `port` is the destination's: the pod's own for
    /// [`Direction::Ingress`], the peer's for [`Direction::Egress`].
    pub(crate) fn decide(
        &self,
        direction: Direction,
        pod: usize,
        peer: Peer,
        port: u16,
        protocol: Protocol,
    ) -> Decision {
        let itself = matches!(peer, Peer::Pod(peer) if peer == pod);
        let Some(class) = self.classes.of(pod).filter(|_| !itself) else {
            return Decision::NotIsolated;
        };
        let destination = match (direction, peer) {
            (Direction::Ingress, _) => self.endpoints.get(pod),
            (Direction::Egress, Peer::Pod(peer)) => self.endpoints.get(peer),
            (Direction::Egress, Peer::Address(_)) => None,
        };
        let mut isolating = Vec::new();
        for (policy, rules) in self.isolating_class(class, direction) {
            isolating.push(policy);
            for (rule, compiled) in rules.iter().enumerate() {
                let from = match peer {
                    Peer::Pod(peer) => self.admits_pod(compiled, peer),
                    Peer::Address(address) => compiled.rule.admits_address(address),
                };
                if from && compiled.rule.ports.admit(destination, port, protocol) {
                    return Decision::Admitted(RuleId { policy, rule });
                }
            }
        }
        if isolating.is_empty() {
            Decision::NotIsolated
        } else {
            Decision::Denied(isolating)
        }
    }

    /// A pod in its node's network has that node's address, and no selector selects it.
    fn admits_pod(&self, compiled: &compile::Rule, peer: usize) -> bool {
        if let Some(class) = self.classes.of(peer) {
            return compiled.peers.contains(class);
        }
        let addresses = self.endpoints.get(peer).map_or(&[][..], |peer| &peer.addresses);
        let mut addresses = addresses.iter();
        compiled.rule.admits_everybody() || addresses.any(|address| compiled.rule.admits_address(*address))
    }

    /// Of policies the one that selects the fewest pods: a change of it changes least.
    pub(crate) fn narrowest(&self, places: &[usize]) -> Option<usize> {
        let selected = |place: usize| self.selected.get(place).copied().unwrap_or_default();
        places
            .iter()
            .copied()
            .min_by_key(|&place| (selected(place), place))
    }

    /// Whether anybody at all may open a connection to a port of a pod.
    pub(crate) fn admits_anybody(&self, pod: usize, port: u16) -> bool {
        let Some(class) = self.classes.of(pod) else {
            return true;
        };
        let mut isolated = false;
        for (_, rules) in self.isolating_class(class, Direction::Ingress) {
            isolated = true;
            let admits = |compiled: &compile::Rule| {
                compiled
                    .rule
                    .ports
                    .admit(self.endpoints.get(pod), port, Protocol::Tcp)
            };
            if rules.iter().any(admits) {
                return true;
            }
        }
        !isolated
    }

    /// The policies that isolate a class in a direction, and their rules.
    fn isolating_class(
        &self,
        class: usize,
        direction: Direction,
    ) -> impl Iterator<Item = (usize, &[compile::Rule])> {
        let selecting = self.selecting.get(class).map_or(&[][..], Vec::as_slice);
        selecting.iter().filter_map(move |&place| {
            let policy = self.policies.get(place)?;
            Some((place, policy.rules(direction)?))
        })
    }
}

#[cfg(test)]
mod tests;
