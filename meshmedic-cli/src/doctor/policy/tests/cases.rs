// SPDX-License-Identifier: Apache-2.0
//! What the API promises, case by case.

use super::*;

const WEB: usize = 0;
const CART: usize = 1;
const BANK: usize = 2;
const STRANGER: usize = 3;
const NODE: usize = 4;

fn pods() -> Vec<Endpoint> {
    let mut node = endpoint("shop", "web", "192.168.0.1");
    node.apart = true;
    vec![
        endpoint("shop", "web", "10.0.0.1"),
        endpoint("shop", "cart", "10.0.0.2"),
        endpoint("pay", "bank", "10.0.1.1"),
        endpoint("outside", "stranger", "fd00::1"),
        node,
    ]
}

fn compiled(specs: &[serde_json::Value]) -> NetworkPolicies {
    let policies: Vec<_> = specs.iter().cloned().map(policy).collect();
    NetworkPolicies::new(&policies, namespaces(), pods())
}

/// Who reaches `WEB` on a port, of `CART`, `BANK` and `STRANGER`.
fn reach(spec: &serde_json::Value, port: u16) -> Vec<usize> {
    let policies = compiled(std::slice::from_ref(spec));
    let passes = |peer: &usize| {
        policies
            .decide(Direction::Ingress, WEB, Peer::Pod(*peer), port, Protocol::Tcp)
            .denied()
            .is_none()
    };
    [CART, BANK, STRANGER].into_iter().filter(passes).collect()
}

/// Gaps, with their pods.
fn pods_of(policies: &NetworkPolicies, gaps: &[Gap]) -> Vec<(Direction, RuleId, Vec<usize>, Vec<usize>)> {
    let named = |gap: &Gap| {
        let peers = gap
            .peers
            .ones()
            .flat_map(|class| policies.members(class).to_vec());
        (
            gap.direction,
            gap.rule,
            policies.members(gap.class).to_vec(),
            peers.collect(),
        )
    };
    gaps.iter().map(named).collect()
}

const ALL: [usize; 3] = [CART, BANK, STRANGER];

#[test]
fn peers_are_selected_as_the_api_says() {
    let web = json!({"matchLabels": {"app": "web"}});
    let from = |from: serde_json::Value| json!({"podSelector": web, "ingress": [{"from": from}]});
    let cases: [(serde_json::Value, &[usize]); 12] = [
        (json!([]), &ALL),
        (json!([{"podSelector": {}}]), &[CART]),
        (json!([{"podSelector": {"matchLabels": {"app": "bank"}}}]), &[]),
        (json!([{"namespaceSelector": {}}]), &ALL),
        (
            json!([{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]),
            &[CART, BANK],
        ),
        (
            json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "bank"}}}]),
            &[BANK],
        ),
        (
            json!([{"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}}]),
            &[STRANGER],
        ),
        (
            json!([{"namespaceSelector": {}, "podSelector": {"matchExpressions": [
                {"key": "app", "operator": "NotIn", "values": ["bank"]},
                {"key": "app", "operator": "Exists"}]}}]),
            &[CART, STRANGER],
        ),
        (
            json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.1.0/24"]}}]),
            &[CART],
        ),
        (json!([{"ipBlock": {"cidr": "fd00::/8"}}]), &[STRANGER]),
        // What no API server takes admits nobody.
        (json!([{}]), &[]),
        (json!([{"ipBlock": {"cidr": "10.0.0.0/99"}}]), &[]),
    ];
    for (peers, expected) in cases {
        assert_eq!(reach(&from(peers.clone()), 8080), expected, "{peers}");
    }
}

#[test]
fn ports_are_read_as_the_api_says() {
    let cases = [
        (json!([]), 1, true),
        (json!([{"port": 8080}]), 8080, true),
        (json!([{"port": 8080}]), 15008, false),
        (json!([{"port": 8080, "protocol": "UDP"}]), 8080, false),
        (json!([{"protocol": "TCP"}]), 15008, true),
        (json!([{"protocol": "UDP"}]), 15008, false),
        (json!([{"port": "web"}]), 8080, true),
        (json!([{"port": "web"}]), 8081, false),
        (json!([{"port": "web", "protocol": "UDP"}]), 8080, false),
        (json!([{"port": "other"}]), 8080, false),
        (json!([{"port": 15000, "endPort": 15010}]), 15008, true),
        (json!([{"port": 15000, "endPort": 15007}]), 15008, false),
        (json!([{"port": 1}, {"port": 15008}]), 15008, true),
        (json!([{"port": 70000}]), 4464, false),
    ];
    for (ports, port, passes) in cases {
        let spec = json!({"ingress": [{"ports": ports}]});
        let expected: &[usize] = if passes { &ALL } else { &[] };
        assert_eq!(reach(&spec, port), expected, "{ports} {port}");
    }
}

#[test]
fn a_name_of_a_port_is_the_destinations_own() {
    let mut pods = pods();
    pods[BANK].named_ports = [((Protocol::Tcp, "web".to_owned()), 9090)].into();
    let spec = json!({"egress": [{"ports": [{"port": "web"}]}], "policyTypes": ["Egress"]});
    let policies = NetworkPolicies::new(&[policy(spec)], namespaces(), pods);
    let passes = |peer, port| {
        policies
            .decide(Direction::Egress, WEB, peer, port, Protocol::Tcp)
            .denied()
            .is_none()
    };
    assert!(passes(Peer::Pod(CART), 8080) && !passes(Peer::Pod(CART), 9090));
    assert!(passes(Peer::Pod(BANK), 9090) && !passes(Peer::Pod(BANK), 8080));
    let outside = Peer::Address("203.0.113.1".parse().unwrap());
    assert!(!passes(outside, 8080), "an address has no names");
}

#[test]
fn the_types_of_a_policy_have_their_defaults() {
    let cases = [
        (json!({}), true, false),
        (json!({"egress": []}), true, false),
        (json!({"egress": [{}]}), true, true),
        (json!({"policyTypes": ["Egress"]}), false, true),
        (json!({"policyTypes": ["Ingress"], "egress": [{}]}), true, false),
        (json!({"policyTypes": ["Ingress", "Egress"]}), true, true),
        (
            json!({"podSelector": {"matchLabels": {"app": "cart"}}}),
            false,
            false,
        ),
    ];
    for (spec, ingress, egress) in cases {
        let policies = compiled(std::slice::from_ref(&spec));
        let isolated = |direction| !policies.isolating(WEB, direction).is_empty();
        assert_eq!(isolated(Direction::Ingress), ingress, "{spec}");
        assert_eq!(isolated(Direction::Egress), egress, "{spec}");
    }
}

#[test]
fn policies_add_up_and_say_who_admits_and_who_denies() {
    let policies = compiled(&[
        json!({"podSelector": {}}),
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "nobody"}}}]},
            {"from": [{"podSelector": {"matchLabels": {"app": "cart"}}}], "ports": [{"port": 8080}]}]}),
    ]);
    let decide =
        |pod, peer, port| policies.decide(Direction::Ingress, pod, Peer::Pod(peer), port, Protocol::Tcp);
    assert_eq!(
        decide(WEB, CART, 8080),
        Decision::Admitted(RuleId { policy: 1, rule: 1 })
    );
    assert_eq!(decide(WEB, CART, 15008), Decision::Denied(vec![0, 1]));
    assert_eq!(decide(CART, WEB, 8080), Decision::Denied(vec![0]));
    assert_eq!(
        decide(BANK, WEB, 8080),
        Decision::NotIsolated,
        "another namespace"
    );
}

#[test]
fn a_pod_reaches_itself_and_a_node_is_no_pod() {
    let policies = compiled(&[json!({"ingress": [{"from": [{"namespaceSelector": {}}]}]})]);
    let decide = |pod, peer| policies.decide(Direction::Ingress, pod, Peer::Pod(peer), 8080, Protocol::Tcp);
    assert_eq!(decide(WEB, WEB), Decision::NotIsolated);
    assert_eq!(
        decide(NODE, CART),
        Decision::NotIsolated,
        "policies leave it alone"
    );
    assert_eq!(
        decide(WEB, NODE),
        Decision::Denied(vec![0]),
        "no selector selects it"
    );
}

#[test]
fn an_address_is_admitted_by_blocks_and_by_rules_for_everybody() {
    let probe = Peer::Address("169.254.7.127".parse().unwrap());
    let mapped = Peer::Address("::ffff:169.254.7.127".parse().unwrap());
    let cases = [
        (json!([{"namespaceSelector": {}}]), false),
        (json!([]), true),
        (json!([{"ipBlock": {"cidr": "169.254.7.127/32"}}]), true),
        (
            json!([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}]),
            false,
        ),
    ];
    for (from, passes) in cases {
        let policies = compiled(&[json!({"ingress": [{"from": from}]})]);
        for peer in [probe, mapped] {
            let decision = policies.decide(Direction::Ingress, WEB, peer, 8080, Protocol::Tcp);
            assert_eq!(decision.denied().is_none(), passes, "{from}");
        }
    }
}

#[test]
fn a_port_without_15008_is_a_gap_for_the_peers_that_it_admits() {
    let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
        {"from": [{"podSelector": {"matchLabels": {"app": "cart"}}}], "ports": [{"port": 8080}]},
        {"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}], "ports": [{"port": 9999}]}]});
    let policies = compiled(&[spec]);
    let found = policies.hbone_gaps();
    let rule = RuleId { policy: 0, rule: 0 };
    assert_eq!(
        pods_of(&policies, &found.gaps),
        [(Direction::Ingress, rule, vec![WEB], vec![CART])]
    );
    assert_eq!(found.decided.pairs, 2 * 4 * 4);
}

#[test]
fn nobody_is_missed_who_was_not_meant_or_gets_through() {
    let web = json!({"matchLabels": {"app": "web"}});
    let to = |app: &str| json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}}]);
    let cases = [
        // 15008 is admitted: by the rule, by another one, by another policy.
        vec![json!({"podSelector": web, "ingress": [{"ports": [{"port": 8080}, {"port": 15008}]}]})],
        vec![
            json!({"podSelector": web, "ingress": [{"ports": [{"port": 8080}]}, {"ports": [{"port": 15008}]}]}),
        ],
        vec![
            json!({"podSelector": web, "ingress": [{"ports": [{"port": 8080}]}]}),
            json!({"ingress": [{"from": to("cart")}, {"from": to("bank")}, {"from": to("stranger")}]}),
        ],
        // Nothing is admitted, and so nothing meant.
        vec![json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})],
        // The other side does not let it out, on 15008 or otherwise. The namespaces of bank and stranger do.
        vec![
            json!({"podSelector": web, "ingress": [{"from": to("cart"), "ports": [{"port": 8080}]}]}),
            json!({"podSelector": {"matchLabels": {"app": "cart"}}, "policyTypes": ["Egress"]}),
        ],
    ];
    for specs in cases {
        assert_eq!(compiled(&specs).hbone_gaps().gaps, [], "{specs:?}");
    }
}

#[test]
fn a_side_that_was_made_for_the_mesh_means_the_pair() {
    let policies = compiled(&[
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": [{"port": 8080}]}]}),
        json!({"podSelector": {"matchLabels": {"app": "cart"}}, "policyTypes": ["Egress"],
               "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": 15008}]}]}),
    ]);
    let rule = RuleId { policy: 0, rule: 0 };
    let expected = (Direction::Ingress, rule, vec![WEB], vec![CART, BANK, STRANGER]);
    assert_eq!(pods_of(&policies, &policies.hbone_gaps().gaps), [expected]);
}

#[test]
fn egress_without_15008_is_a_gap_unless_the_peer_is_elsewhere() {
    let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"], "egress": [
        {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]},
        {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "pay"}}}],
         "ports": [{"port": "web"}]}]});
    let policies = compiled(std::slice::from_ref(&spec));
    let found = policies.hbone_gaps();
    let rule = RuleId { policy: 0, rule: 1 };
    assert_eq!(
        pods_of(&policies, &found.gaps),
        [(Direction::Egress, rule, vec![WEB], vec![BANK])]
    );
    let served = policies.served_through(rule, Direction::Egress, policies.classes.of(BANK).unwrap());
    assert_eq!(served, [8080]);
    let behind = Takes::BehindWaypoint { for_gateways: true };
    for (sends, takes, cut) in [
        (Sends::Ztunnel, Takes::Plain, false),
        (Sends::Ztunnel, behind, false),
        (Sends::Gateway, behind, false),
        (
            Sends::Gateway,
            Takes::BehindWaypoint { for_gateways: false },
            true,
        ),
        (Sends::Envoy, behind, true),
        (Sends::Plain, Takes::Hbone, false),
    ] {
        let mut pods = pods();
        pods[WEB].sends = sends;
        pods[BANK].takes = takes;
        let policies = NetworkPolicies::new(&[policy(spec.clone())], namespaces(), pods);
        assert_eq!(!policies.hbone_gaps().gaps.is_empty(), cut, "{sends:?} {takes:?}");
    }
}

#[test]
fn pods_that_no_policy_tells_apart_are_one_class() {
    let mut pods = Vec::new();
    for number in 0..1000_u32 {
        let mut pod = endpoint("shop", "web", &std::net::Ipv4Addr::from_bits(number).to_string());
        pod.labels
            .insert("pod-template-hash".to_owned(), number.to_string());
        pods.push(pod);
    }
    let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
        {"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 8080}]}]});
    let policies = NetworkPolicies::new(&[policy(spec.clone())], namespaces(), pods);
    let found = policies.hbone_gaps();
    assert_eq!((found.decided.pairs, found.decided.class_pairs), (2_000_000, 2));
    assert_eq!(policies.members(found.gaps[0].class).len(), 1000);
    // Another policy in its place is asked anew.
    let mut cured = spec;
    cured["ingress"][0]["ports"] = json!([{"port": 8080}, {"port": 15008}]);
    assert_eq!(policies.with(0, &policy(cured)).hbone_gaps().gaps, []);
}
