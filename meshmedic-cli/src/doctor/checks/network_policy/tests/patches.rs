// SPDX-License-Identifier: Apache-2.0
//! One patch a policy: whatever is wrong, and in whatever order one applies what is printed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::doctor::policy::{Direction, Peer, Protocol};
use crate::doctor::view::View;

const CODES: [&str; 5] = ["MM0501", "MM0502", "MM0503", "MM0504", "MM0505"];
/// The ports of apps, of HBONE and of istiod, and some that nobody means.
const PORTS: [u16; 7] = [53, 8080, 8081, 9090, 15008, 15012, 15017];

#[test]
fn two_findings_on_one_policy_have_one_remedy_that_cures_both() {
    let spec = json!({ "podSelector": app("cart"), "policyTypes": ["Ingress", "Egress"],
        "ingress": [from(json!({ "podSelector": app("catalog") }), &[8080])],
        "egress": [{ "to": [{ "podSelector": app("catalog") }], "ports": [{ "port": 8080 }] }],
    });
    let mut snapshot = with(&[("shop", "cart", spec)]);
    let on = "NetworkPolicy shop/cart";
    let (one, other) = (
        assert_finds("MM0501", &snapshot, on),
        assert_finds("MM0502", &snapshot, on),
    );
    assert_eq!(one.remedy, other.remedy);
    apply(&mut snapshot, &one);
    for code in CODES {
        assert_passes(code, &snapshot);
    }
}

#[test]
fn what_one_change_cures_is_not_opened_twice() {
    // The waypoint is admitted to the app's port, so that rule is the one to mend for waypoint and callers alike.
    let mut snapshot = waypoint();
    let spec =
        json!({ "podSelector": app("cart"), "ingress": [from(json!({ "podSelector": {} }), &[8080])] });
    add(&mut snapshot, "shop", "cart", &spec);
    let of_waypoint = assert_finds("MM0505", &snapshot, "NetworkPolicy shop/cart");
    let of_rule = assert_finds("MM0501", &snapshot, "NetworkPolicy shop/cart");
    assert_eq!(of_waypoint.remedy, of_rule.remedy);
    let [Remedy::Apply(yaml)] = of_rule.remedy.as_slice() else {
        panic!()
    };
    assert_eq!(yaml.matches("15008").count(), 1, "{yaml}");
}

#[test]
fn a_policy_that_a_tool_keeps_is_changed_where_the_tool_takes_it_from() {
    let spec =
        json!({ "podSelector": app("cart"), "ingress": [from(json!({ "podSelector": {} }), &[8080])] });
    let mut snapshot = with(&[("shop", "cart", spec)]);
    let labels = [("argocd.argoproj.io/instance".to_owned(), "shop".to_owned())];
    had(&mut snapshot.network_policies)[1].metadata.labels = Some(labels.into());
    let found = assert_finds("MM0501", &snapshot, "NetworkPolicy shop/cart");
    let [Remedy::Apply(_), Remedy::ByHand(said)] = found.remedy.as_slice() else {
        panic!("{found:#?}")
    };
    assert!(said.contains("Argo CD"), "{said}");
}

fn peer() -> impl Strategy<Value = Value> {
    let namespace = || select(vec!["shop", "till", "legacy", "plain", "istio-system"]);
    let of = |namespace: &str| json!({ "matchLabels": { "kubernetes.io/metadata.name": namespace } });
    let name = || select(vec!["cart", "catalog", "pay", "orders", "istiod"]);
    prop_oneof![
        name().prop_map(|name| json!({ "podSelector": app(name) })),
        Just(json!({ "podSelector": {} })),
        Just(json!({ "namespaceSelector": {} })),
        namespace().prop_map(move |name| json!({ "namespaceSelector": of(name) })),
        (namespace(), name())
            .prop_map(move |(of_, name)| json!({ "namespaceSelector": of(of_), "podSelector": app(name) })),
        select(vec![
            "0.0.0.0/0",
            "10.244.0.0/24",
            "10.244.1.20/32",
            "192.168.0.0/16"
        ])
        .prop_map(|cidr| json!({ "ipBlock": { "cidr": cidr } })),
    ]
}

fn rules(side: &'static str) -> impl Strategy<Value = Value> {
    let port = prop_oneof![
        4 => select(PORTS.to_vec()).prop_map(|port| json!({ "port": port })),
        1 => Just(json!({ "port": "http" })),
        1 => Just(json!({ "port": 8080, "endPort": 9090 })),
    ];
    let rule = (vec(peer(), 0..3), vec(port, 0..3))
        .prop_map(move |(peers, ports)| json!({ side: peers, "ports": ports }));
    vec(rule, 0..3).prop_map(Value::Array)
}

fn policy() -> impl Strategy<Value = (&'static str, Value)> {
    let namespace = select(vec!["shop", "shop", "till", "legacy", "istio-system"]);
    let selector = prop_oneof![
        Just(json!({})),
        select(vec!["cart", "catalog", "pay", "orders", "istiod", "ztunnel"]).prop_map(app),
    ];
    let types = select(vec![vec!["Ingress"], vec!["Egress"], vec!["Ingress", "Egress"]]);
    (namespace, selector, types, rules("from"), rules("to")).prop_map(
        |(namespace, selector, types, ingress, egress)| {
            let mut spec = json!({ "podSelector": selector, "policyTypes": types });
            if types.contains(&"Ingress") {
                spec["ingress"] = ingress;
            }
            if types.contains(&"Egress") {
                spec["egress"] = egress;
            }
            (namespace, spec)
        },
    )
}

/// Every connection that is decided, on both sides: direction, pod, peer, port.
fn admitted(snapshot: &Snapshot) -> BTreeSet<(Direction, usize, usize, u16)> {
    let view = View::new(snapshot);
    let policies = view.network_policies();
    let mut all = BTreeSet::new();
    for pod in 0..view.pods().len() {
        for peer in (0..view.pods().len()).filter(|peer| *peer != pod) {
            for direction in [Direction::Ingress, Direction::Egress] {
                for port in PORTS {
                    let decision = policies.decide(direction, pod, Peer::Pod(peer), port, Protocol::Tcp);
                    if decision.denied().is_none() {
                        all.insert((direction, pod, peer, port));
                    }
                }
            }
        }
    }
    all
}

/// The ports that the findings on a policy are about.
fn needed(code: &str, finding: &Finding) -> Vec<u16> {
    match code {
        "MM0503" => vec![8080],
        "MM0504" if finding.problem.contains("15017") => vec![15017],
        "MM0504" => vec![15012],
        _ => vec![15008],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn all_that_is_printed_leaves_a_clean_cluster_in_whatever_order_and_opens_nothing_else(
        policies in vec(policy(), 1..6),
        behind_waypoint in any::<bool>(),
        order in any::<u64>(),
    ) {
        let mut snapshot = if behind_waypoint { waypoint() } else { healthy() };
        for (at, (namespace, spec)) in policies.iter().enumerate() {
            add(&mut snapshot, namespace, &format!("policy-{at}"), spec);
        }
        let before = admitted(&snapshot);
        let mut patches: BTreeMap<String, Finding> = BTreeMap::new();
        let mut opened: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
        for code in CODES {
            for finding in findings(code, &snapshot) {
                let path = finding.object.path();
                opened.entry(path.clone()).or_default().extend(needed(code, &finding));
                let first = patches.entry(path).or_insert_with(|| finding.clone());
                prop_assert_eq!(&first.remedy, &finding.remedy, "two remedies for one policy");
            }
        }
        let mut patches: Vec<Finding> = patches.into_values().collect();
        let places = patches.len().max(1);
        patches.rotate_left(usize::try_from(order).unwrap_or(usize::MAX) % places);
        if order % 2 == 0 {
            patches.reverse();
        }
        for finding in &patches {
            apply(&mut snapshot, finding);
        }
        for code in CODES {
            let left = findings(code, &snapshot);
            prop_assert!(left.is_empty(), "{} is left: {:#?}", code, left);
        }
        let after = admitted(&snapshot);
        prop_assert!(before.is_subset(&after), "a patch took something away");
        let view = View::new(&snapshot);
        let known = had_policies(&snapshot);
        for (direction, pod, peer, port) in after.difference(&before) {
            let isolating = view.network_policies().isolating(*pod, *direction);
            let by = isolating.iter().any(|place| {
                opened.get(&known[*place]).is_some_and(|ports| ports.contains(port))
            });
            prop_assert!(by, "nobody needs {direction:?} {port} from or to {}", view.pods()[*peer].facts.name);
        }
    }
}

fn had_policies(snapshot: &Snapshot) -> Vec<String> {
    let policies = snapshot.network_policies.all().iter();
    let path = |policy: &NetworkPolicy| {
        let of = policy.metadata.namespace.as_deref().unwrap();
        format!("{of}/{}", policy.metadata.name.as_deref().unwrap())
    };
    policies.map(path).collect()
}
