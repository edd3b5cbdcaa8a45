// SPDX-License-Identifier: Apache-2.0
//! The API's words on NetworkPolicies, written down once more: slowly, plainly, and with nothing shared.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;

/// Whether `policies` let `source` open a connection to `destination`, looking at one side only.
pub(super) fn passes(
    policies: &[NetworkPolicy],
    namespaces: &BTreeMap<String, Labels>,
    direction: Direction,
    (source, destination): (&Endpoint, &Endpoint),
    (protocol, port): (&str, u16),
) -> bool {
    let (subject, other) = match direction {
        Direction::Ingress => (destination, source),
        Direction::Egress => (source, destination),
    };
    let mut isolated = false;
    for policy in policies {
        let spec = policy.spec.clone().unwrap();
        let selected = !subject.apart
            && policy.metadata.namespace.as_ref() == Some(&subject.namespace)
            && spec
                .pod_selector
                .is_none_or(|selector| selects(&selector, &subject.labels));
        let types = spec.policy_types.unwrap_or_else(|| {
            let mut types = vec!["Ingress".to_owned()];
            if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
                types.push("Egress".to_owned());
            }
            types
        });
        if !selected || !types.contains(&format!("{direction:?}")) {
            continue;
        }
        isolated = true;
        let rules: Vec<_> = match direction {
            Direction::Ingress => {
                let rules = spec.ingress.unwrap_or_default().into_iter();
                rules.map(|rule| (rule.from, rule.ports)).collect()
            }
            Direction::Egress => {
                let rules = spec.egress.unwrap_or_default().into_iter();
                rules.map(|rule| (rule.to, rule.ports)).collect()
            }
        };
        for (peers, ports) in rules {
            let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
            let own = &subject.namespace;
            let by_peer = peers.is_empty() || peers.iter().any(|peer| is(peer, other, own, namespaces));
            let by_port = ports.is_empty()
                || ports
                    .iter()
                    .any(|listed| covers(listed, destination, protocol, port));
            if by_peer && by_port {
                return true;
            }
        }
    }
    !isolated
}

fn is(peer: &NetworkPolicyPeer, pod: &Endpoint, own: &str, namespaces: &BTreeMap<String, Labels>) -> bool {
    if let Some(block) = &peer.ip_block {
        let except = block.except.clone().unwrap_or_default();
        return pod.addresses.iter().any(|address| {
            within(*address, &block.cidr) && !except.iter().any(|range| within(*address, range))
        });
    }
    // A pod of a node's network is no peer that a selector selects.
    if pod.apart || peer.namespace_selector.is_none() && peer.pod_selector.is_none() {
        return false;
    }
    let namespace = match &peer.namespace_selector {
        Some(selector) => selects(selector, &namespaces[&pod.namespace]),
        None => pod.namespace == own,
    };
    let labels = match &peer.pod_selector {
        Some(selector) => selects(selector, &pod.labels),
        None => true,
    };
    namespace && labels
}

fn covers(listed: &NetworkPolicyPort, destination: &Endpoint, protocol: &str, port: u16) -> bool {
    if listed.protocol.as_deref().unwrap_or("TCP") != protocol {
        return false;
    }
    match (&listed.port, listed.end_port) {
        (None, _) => true,
        (Some(IntOrString::Int(first)), None) => *first == i32::from(port),
        (Some(IntOrString::Int(first)), Some(last)) => (*first..=last).contains(&i32::from(port)),
        (Some(IntOrString::String(name)), _) => {
            let mut named = destination.named_ports.iter();
            named.any(|((of, is), number)| {
                format!("{of:?}").to_uppercase() == protocol && is == name && *number == port
            })
        }
    }
}

fn within(address: IpAddr, range: &str) -> bool {
    let (network, length) = range.split_once('/').unwrap();
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (32, u128::from(address.to_bits())),
        IpAddr::V6(address) => (128, address.to_bits()),
    };
    let ((width, network), (of_address, address)) = (bits(network.parse().unwrap()), bits(address));
    let rest = width - length.parse::<u32>().unwrap();
    width == of_address && (rest == 128 || network >> rest == address >> rest)
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    for (key, value) in selector.match_labels.iter().flatten() {
        if labels.get(key) != Some(value) {
            return false;
        }
    }
    for requirement in selector.match_expressions.iter().flatten() {
        let value = labels.get(&requirement.key);
        let values = requirement.values.clone().unwrap_or_default();
        let holds = match requirement.operator.as_str() {
            "In" => value.is_some_and(|value| values.contains(value)),
            "NotIn" => value.is_none_or(|value| !values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            other => panic!("no operator: {other}"),
        };
        if !holds {
            return false;
        }
    }
    true
}
