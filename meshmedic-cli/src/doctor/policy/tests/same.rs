// SPDX-License-Identifier: Apache-2.0
//! Whatever the policies, the pods and the ports: the evaluator says what the slow reference says.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;

use super::reference::passes;
use super::*;

const PORTS: [u16; 5] = [53, 8080, 8081, 9090, 15008];
const NAMESPACES: [&str; 3] = ["shop", "pay", "outside"];
const BLOCKS: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.0.0/30",
    "10.0.0.1/32",
    "10.0.1.0/24",
    "::/0",
    "fd00::/16",
    "fd00::2/127",
];
const ADDRESSES: [&str; 8] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.9",
    "10.0.1.1",
    "192.168.0.1",
    "fd00::1",
    "fd00::2",
    "fe80::1",
];

fn some_labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = select(vec!["app", "tier", "role"]).prop_map(str::to_owned);
    let value = select(vec!["a", "b"]).prop_map(str::to_owned);
    btree_map(key, value, 0..4)
}

fn selector() -> impl Strategy<Value = Value> {
    let keys = [
        "app",
        "tier",
        "role",
        "app",
        "tier",
        "role",
        "kubernetes.io/metadata.name",
        "team",
    ];
    let key = select(keys.to_vec());
    let value = select(vec!["a", "b", "a", "b", "shop", "pay", "blue"]);
    let operator = select(vec!["In", "NotIn", "Exists", "DoesNotExist"]);
    let expression = (key, operator, vec(value, 1..3)).prop_map(|(key, operator, values)| {
        if operator.ends_with("In") {
            json!({"key": key, "operator": operator, "values": values})
        } else {
            json!({"key": key, "operator": operator})
        }
    });
    let matched = prop_oneof![2 => Just(BTreeMap::new()), 1 => some_labels()];
    (matched, vec(expression, 0..2))
        .prop_map(|(labels, expressions)| json!({"matchLabels": labels, "matchExpressions": expressions}))
}

fn peer() -> impl Strategy<Value = Value> {
    let block = (select(BLOCKS.to_vec()), vec(select(BLOCKS.to_vec()), 0..2))
        .prop_map(|(cidr, except)| json!({"ipBlock": {"cidr": cidr, "except": except}}));
    prop_oneof![
        block,
        selector().prop_map(|pods| json!({"podSelector": pods})),
        selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (selector(), selector())
            .prop_map(|(namespaces, pods)| json!({"namespaceSelector": namespaces, "podSelector": pods})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let protocol = || option::of(select(vec!["TCP", "UDP", "SCTP"]));
    prop_oneof![
        protocol().prop_map(|protocol| json!({"protocol": protocol})),
        (select(PORTS.to_vec()), protocol())
            .prop_map(|(port, protocol)| json!({"port": port, "protocol": protocol})),
        (select(PORTS.to_vec()), 0..9000_u16, protocol()).prop_map(|(port, more, protocol)| {
            json!({"port": port, "endPort": port.saturating_add(more), "protocol": protocol})
        }),
        (select(vec!["web", "dns"]), protocol())
            .prop_map(|(name, protocol)| json!({"port": name, "protocol": protocol})),
    ]
}

fn rules(peers: &'static str) -> impl Strategy<Value = Option<Value>> {
    let rule = (vec(peer(), 0..3), vec(port(), 0..3))
        .prop_map(move |(listed, ports)| json!({peers: listed, "ports": ports}));
    option::of(vec(rule, 0..3).prop_map(Value::Array))
}

fn some_policy() -> impl Strategy<Value = NetworkPolicy> {
    let types = select(vec![
        None,
        Some(vec!["Ingress"]),
        Some(vec!["Egress"]),
        Some(vec!["Ingress", "Egress"]),
    ]);
    let namespace = mostly("shop", select(NAMESPACES.to_vec()));
    (
        namespace,
        option::of(selector()),
        types,
        rules("from"),
        rules("to"),
    )
        .prop_map(|(namespace, pods, types, ingress, egress)| {
            let mut policy = policy(json!({
                "podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress,
            }));
            policy.metadata.namespace = Some(namespace.to_owned());
            policy
        })
}

/// Mostly the usual, or hardly two pods would be of one class.
fn mostly<T: Clone + std::fmt::Debug + 'static>(
    usual: T,
    other: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = T> {
    prop_oneof![5 => Just(usual), 1 => other]
}

fn some_endpoint() -> impl Strategy<Value = Endpoint> {
    let protocol = select(vec![Protocol::Tcp, Protocol::Udp]);
    let name = select(vec!["web", "dns"]).prop_map(str::to_owned);
    let web = || [((Protocol::Tcp, "web".to_owned()), 8080)].into();
    (
        mostly("shop", select(NAMESPACES.to_vec())),
        some_labels(),
        mostly(vec!["10.0.0.1"], vec(select(ADDRESSES.to_vec()), 0..3)),
        mostly(web(), btree_map((protocol, name), select(PORTS.to_vec()), 0..3)),
        mostly([8080].into(), btree_set(select(PORTS.to_vec()), 0..3)),
        prop::bool::weighted(0.1),
        mostly(
            (Sends::Ztunnel, Takes::Hbone),
            (
                select(vec![Sends::Plain, Sends::Ztunnel, Sends::Envoy, Sends::Gateway]),
                select(vec![
                    Takes::Plain,
                    Takes::BehindWaypoint { for_gateways: false },
                    Takes::BehindWaypoint { for_gateways: true },
                ]),
            ),
        ),
    )
        .prop_map(
            |(namespace, labels, addresses, named_ports, serves, apart, (sends, takes))| Endpoint {
                namespace: namespace.to_owned(),
                labels,
                addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
                named_ports,
                serves,
                apart,
                sends,
                takes,
            },
        )
}

/// Whether what the source sends to the destination arrives there from the source itself, on port 15008.
fn speak_hbone(source: &Endpoint, destination: &Endpoint) -> bool {
    match (source.sends, destination.takes) {
        (Sends::Plain, _) | (_, Takes::Plain) => false,
        (_, Takes::Hbone) => true,
        // Only ztunnel asks waypoints, and gateways where they are told to.
        (Sends::Ztunnel, Takes::BehindWaypoint { .. }) => false,
        (Sends::Envoy, Takes::BehindWaypoint { .. }) => true,
        (Sends::Gateway, Takes::BehindWaypoint { for_gateways }) => !for_gateways,
    }
}

/// Whether a pair is cut off, by the words of [`Gap`] and with the reference's eyes.
fn is_gap(policies: &[NetworkPolicy], direction: Direction, pair: (&Endpoint, &Endpoint)) -> bool {
    let by = |direction, port| passes(policies, &namespaces(), direction, pair, ("TCP", port));
    let served = |direction| {
        let mut serves = pair.1.serves.iter().filter(|port| **port != 15008);
        serves.any(|port| by(direction, *port))
    };
    let other = match direction {
        Direction::Ingress => Direction::Egress,
        Direction::Egress => Direction::Ingress,
    };
    served(direction) && !by(direction, 15008) && (served(other) || by(other, 15008))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_evaluator_agrees_with_the_reference(
        policies in vec(some_policy(), 0..6),
        pods in vec(some_endpoint(), 1..10),
    ) {
        let compiled = NetworkPolicies::new(&policies, namespaces(), pods.clone());
        for (from, source) in pods.iter().enumerate() {
            for (to, destination) in pods.iter().enumerate().filter(|(to, _)| *to != from) {
                for port in PORTS {
                    for (protocol, name) in [(Protocol::Tcp, "TCP"), (Protocol::Udp, "UDP")] {
                        let ingress = compiled.decide(Direction::Ingress, to, Peer::Pod(from), port, protocol);
                        let egress = compiled.decide(Direction::Egress, from, Peer::Pod(to), port, protocol);
                        let by = |direction| {
                            passes(&policies, &namespaces(), direction, (source, destination), (name, port))
                        };
                        prop_assert_eq!(ingress.denied().is_none(), by(Direction::Ingress));
                        prop_assert_eq!(egress.denied().is_none(), by(Direction::Egress));
                    }
                }
            }
        }
    }

    #[test]
    fn the_gaps_are_those_of_the_reference(
        policies in vec(some_policy(), 0..6),
        pods in vec(some_endpoint(), 1..10),
    ) {
        let compiled = NetworkPolicies::new(&policies, namespaces(), pods.clone());
        let mut found = BTreeSet::new();
        for gap in compiled.hbone_gaps().gaps {
            for &pod in compiled.members(gap.class) {
                let peers = gap.peers.ones().flat_map(|class| compiled.members(class));
                found.extend(peers.filter(|peer| **peer != pod).map(|&peer| match gap.direction {
                    Direction::Ingress => (gap.direction, peer, pod),
                    Direction::Egress => (gap.direction, pod, peer),
                }));
            }
        }
        let mut expected = BTreeSet::new();
        for (from, source) in pods.iter().enumerate() {
            for (to, destination) in pods.iter().enumerate().filter(|(to, _)| *to != from) {
                if source.apart || destination.apart || !speak_hbone(source, destination) {
                    continue;
                }
                for direction in [Direction::Ingress, Direction::Egress] {
                    if is_gap(&policies, direction, (source, destination)) {
                        expected.insert((direction, from, to));
                    }
                }
            }
        }
        prop_assert_eq!(found, expected);
    }
}
