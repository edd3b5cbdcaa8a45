// SPDX-License-Identifier: Apache-2.0
//! What a NetworkPolicy says, in a form that is quick to ask.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::Selector;

use super::{Endpoint, Protocol};

/// A policy. `None` for the rules of a direction means that it does not isolate in that direction.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) namespace: String,
    /// None if no API server would have taken it: then it selects nothing.
    pub(super) pods: Option<Selector>,
    pub(super) ingress: Option<Vec<Rule>>,
    pub(super) egress: Option<Vec<Rule>>,
}

/// Whom a rule admits, and on which ports.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) peers: Peers,
    pub(super) ports: Ports,
}

#[derive(Clone, Debug)]
pub(super) enum Peers {
    Everybody,
    Listed(Vec<Peer>),
}

#[derive(Clone, Debug)]
pub(super) enum Peer {
    Block(Block),
    Pods {
        /// None for the policy's own.
        namespaces: Option<Selector>,
        pods: Selector,
    },
    /// What no API server would have taken.
    Nobody,
}

/// Addresses, with exceptions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Block {
    pub(super) network: IpNet,
    except: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ports {
    All,
    Listed(Vec<Port>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Port {
    Numbers(Protocol, RangeInclusive<u16>),
    Named(Protocol, String),
    /// What no API server would have taken.
    Invalid,
}

impl Policy {
    pub(super) fn new(policy: &NetworkPolicy) -> Self {
        let empty = NetworkPolicySpec::default();
        let spec = policy.spec.as_ref().unwrap_or(&empty);
        let types = spec.policy_types.as_deref().unwrap_or_default();
        let named = |direction: &str| types.iter().any(|kind| kind == direction);
        let ingress = types.is_empty() || named("Ingress");
        let egress = if types.is_empty() {
            spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())
        } else {
            named("Egress")
        };
        Self {
            namespace: policy.metadata.namespace.clone().unwrap_or_default(),
            pods: selector(spec.pod_selector.as_ref()),
            ingress: ingress.then(|| {
                let rules = spec.ingress.iter().flatten();
                rules
                    .map(|rule| Rule::new(rule.from.as_deref(), rule.ports.as_deref()))
                    .collect()
            }),
            egress: egress.then(|| {
                let rules = spec.egress.iter().flatten();
                rules
                    .map(|rule| Rule::new(rule.to.as_deref(), rule.ports.as_deref()))
                    .collect()
            }),
        }
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = &Rule> {
        let both = self.ingress.iter().chain(&self.egress);
        both.flatten()
    }
}

impl Rule {
    fn new(peers: Option<&[NetworkPolicyPeer]>, ports: Option<&[NetworkPolicyPort]>) -> Self {
        Self {
            peers: match peers.unwrap_or_default() {
                [] => Peers::Everybody,
                listed => Peers::Listed(listed.iter().map(Peer::new).collect()),
            },
            ports: match ports.unwrap_or_default() {
                [] => Ports::All,
                listed => Ports::Listed(listed.iter().map(Port::new).collect()),
            },
        }
    }

    pub(super) fn listed(&self) -> &[Peer] {
        match &self.peers {
            Peers::Everybody => &[],
            Peers::Listed(peers) => peers,
        }
    }

    pub(super) fn admits_everybody(&self) -> bool {
        matches!(self.peers, Peers::Everybody)
    }

    /// Whether it admits an address that is no pod's.
    pub(super) fn admits_address(&self, address: IpAddr) -> bool {
        match &self.peers {
            Peers::Everybody => true,
            Peers::Listed(peers) => peers
                .iter()
                .any(|peer| matches!(peer, Peer::Block(block) if block.contains(address))),
        }
    }
}

impl Peer {
    fn new(peer: &NetworkPolicyPeer) -> Self {
        let (namespaces, pods) = (&peer.namespace_selector, &peer.pod_selector);
        if let Some(block) = &peer.ip_block {
            let alone = namespaces.is_none() && pods.is_none();
            return Block::new(block)
                .filter(|_| alone)
                .map_or(Self::Nobody, Self::Block);
        }
        if namespaces.is_none() && pods.is_none() {
            return Self::Nobody;
        }
        let scope = namespaces.as_ref().map(|selector_of| selector(Some(selector_of)));
        match (scope, selector(pods.as_ref())) {
            (Some(None), _) | (_, None) => Self::Nobody,
            (scope, Some(pods)) => Self::Pods {
                namespaces: scope.flatten(),
                pods,
            },
        }
    }
}

impl Block {
    fn new(block: &IPBlock) -> Option<Self> {
        let except = block.except.iter().flatten().map(|net| net.parse().ok());
        Some(Self {
            network: block.cidr.parse().ok()?,
            except: except.collect::<Option<_>>()?,
        })
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.network.contains(&address) && !self.except.iter().any(|net| net.contains(&address))
    }
}

impl Ports {
    /// Whether they admit a port of that destination, which is needed for ports that have a name only.
    pub(super) fn admit(&self, destination: Option<&Endpoint>, port: u16, protocol: Protocol) -> bool {
        let Self::Listed(ports) = self else {
            return true;
        };
        ports.iter().any(|listed| match listed {
            Port::Numbers(of, numbers) => *of == protocol && numbers.contains(&port),
            Port::Named(of, name) => {
                *of == protocol
                    && destination
                        .and_then(|endpoint| endpoint.named_ports.get(&(*of, name.clone())))
                        .is_some_and(|number| *number == port)
            }
            Port::Invalid => false,
        })
    }
}

impl Port {
    fn new(port: &NetworkPolicyPort) -> Self {
        let protocol = match port.protocol.as_deref() {
            None | Some("" | "TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) => return Self::Invalid,
        };
        match &port.port {
            None => Self::Numbers(protocol, 0..=u16::MAX),
            Some(IntOrString::String(name)) => Self::Named(protocol, name.clone()),
            Some(IntOrString::Int(first)) => {
                let last = port.end_port.unwrap_or(*first);
                match (u16::try_from(*first), u16::try_from(last)) {
                    (Ok(first), Ok(last)) => Self::Numbers(protocol, first..=last),
                    _ => Self::Invalid,
                }
            }
        }
    }
}

/// A selector that is missing or empty selects everything; `None` if it is none that an API server takes.
fn selector(selector: Option<&LabelSelector>) -> Option<Selector> {
    selector
        .cloned()
        .map_or_else(|| Some(Selector::default()), |selector| selector.try_into().ok())
}
