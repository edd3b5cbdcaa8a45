// SPDX-License-Identifier: Apache-2.0
//! The breakers that want failures of several nodes and namespaces.

use super::*;

/// The cluster's record after repairs at these places did not take.
fn of_cluster(failed: &[(&str, &str)], allowance: &Allowance) -> Record {
    let mut record = Record::default();
    for (n, (namespace, node)) in failed.iter().enumerate() {
        let id = n.to_string();
        let begun = Entry {
            pod: format!("{namespace}/cart-{n}"),
            node: (*node).to_owned(),
            ..entry(&id, 0)
        };
        let unlimited = Allowance {
            breaker: allowance.breaker.map(|breaker| Breaker {
                failures: u32::MAX,
                ..breaker
            }),
            ..*allowance
        };
        let claim = change(&id, Step::Claim(Box::new(begun)));
        assert_eq!(record.apply(&claim, &unlimited, at(0)).withheld, None);
        conclude(&mut record, &id, Conclusion::Unproven, allowance, 1);
    }
    record
}

#[test]
fn the_breaker_of_the_cluster_wants_failures_of_several_namespaces_and_nodes() {
    let five = Allowance {
        breaker: Some(Breaker {
            counts: Counts::Spread,
            ..breaker(5, Withheld::BreakerCluster)
        }),
        ..hourly(100)
    };
    let is_open = |failed: &[(&str, &str)]| {
        let mut record = of_cluster(failed, &five);
        claim(&mut record, "next", &five, 2).withheld == Some(Withheld::BreakerCluster)
    };
    let nodes = ["n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8"];
    let tenant: Vec<_> = nodes.iter().map(|node| ("tenant", *node)).collect();
    assert!(!is_open(&tenant), "one namespace on eight nodes");
    let node: Vec<_> = ["a", "b", "c", "d", "e", "f"]
        .iter()
        .map(|of| (*of, "n1"))
        .collect();
    assert!(!is_open(&node), "six namespaces on one node");
    let mut with_one = tenant.clone();
    with_one.push(("shop", "n9"));
    assert!(!is_open(&with_one), "one failure elsewhere");
    with_one.push(("shop", "n7"));
    assert!(is_open(&with_one), "two failures elsewhere");
    // What an older agent wrote says nothing of places.
    let mut old = of_cluster(&tenant, &five);
    old.places.clear();
    assert_eq!(
        claim(&mut old, "next", &five, 2).withheld,
        Some(Withheld::BreakerCluster)
    );
}

#[test]
fn the_breaker_of_heals_wants_three_nodes_and_two_namespaces_within_the_hour() {
    let allowance = crate::repair::Limits::DEFAULT.allowance(&crate::repair::LeaseKey::Heals);
    let fail = |record: &mut Record, node: &str, namespaces: [&str; 2], second| {
        let step = Step::NodeFailed {
            node: node.to_owned(),
            namespaces: namespaces.map(str::to_owned).to_vec(),
        };
        record.apply(&change("", step), &allowance, at(second));
    };
    let is_open = |record: &Record, second| record.holds_open(&allowance, at(second)).is_some();
    let of = |namespaces: [&str; 2]| {
        let mut record = Record::default();
        for (node, second) in [("n1", 0), ("n2", 600), ("n3", 1200)] {
            assert!(!is_open(&record, second));
            fail(&mut record, node, namespaces, second);
        }
        record
    };
    let mut record = of(["shop", "bank"]);
    assert!(is_open(&record, 1200) && is_open(&record, 3599));
    assert!(!is_open(&record, 3600), "the first is older than the hour");
    assert!(!is_open(&of(["shop", "shop"]), 1200), "one tenant on three nodes");
    // The same node again is one node.
    let mut same = Record::default();
    for second in 0..5 {
        fail(&mut same, "n1", ["shop", "bank"], second);
    }
    assert!(!is_open(&same, 5));
    assert_eq!((same.failures, same.places.len()), (1, 2));
    // A node that heals again says nothing of the others; one elsewhere says that they are alone.
    let succeed = |record: &mut Record, node: &str| {
        let step = Step::NodeSucceeded(node.to_owned());
        record.apply(&change("", step), &allowance, at(1300)).changed
    };
    let mut again = record.clone();
    assert!(succeed(&mut again, "n1"));
    assert_eq!(again.failures, 2);
    assert!(succeed(&mut record, "n9"));
    assert_eq!((record.failures, record.last_failure), (0, None));
    assert!(!succeed(&mut record, "n9"), "nothing is written twice");
}
