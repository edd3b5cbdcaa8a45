// SPDX-License-Identifier: Apache-2.0
//! What became of a repair that nobody proved.

use jiff::Timestamp;

use super::super::super::*;
use super::bench::{Bench, EPOCH, MINUTE, SECOND, repairer};

/// One repair whose deadline passes while its owner wants and has this.
fn unproved(aftermath: Option<Owner>) -> (Bench, Option<Outcome>) {
    let mut bench = Bench::new(repairer(), 1);
    bench.aftermath = aftermath;
    bench.run();
    bench.pass(6 * MINUTE);
    bench.run();
    let outcome = bench.notices.iter().find_map(|notice| match notice {
        RepairNotice::Ended { outcome, .. } => Some(outcome.clone()),
        _ => None,
    });
    (bench, outcome)
}

#[test]
fn what_its_owner_wants_and_has_says_whose_failure_it_is() {
    let failures = |bench: &Bench, lease: LeaseKey| bench.leases[&lease].failures;
    let of = |bench: &Bench| {
        let node = LeaseKey::Node("n1".to_owned());
        let owner = LeaseKey::Owner("owner-0".to_owned());
        [owner, node, LeaseKey::Cluster].map(|lease| failures(bench, lease))
    };
    let pending = Sibling {
        name: "new".to_owned(),
        uid: "new".to_owned(),
        node: None,
        started: false,
        ready: false,
        created: Timestamp::from_second(EPOCH + 10).ok(),
    };
    let here = |wanted, others: &[&Sibling]| {
        Some(Owner {
            wanted,
            others: others.iter().map(|other| (*other).clone()).collect(),
        })
    };
    let (bench, outcome) = unproved(None);
    assert_eq!(
        (outcome, of(&bench)),
        (Some(Outcome::Unwanted), [0, 0, 0]),
        "its owner is gone"
    );
    let (bench, outcome) = unproved(here(0, &[]));
    assert_eq!(
        (outcome, of(&bench)),
        (Some(Outcome::Unwanted), [0, 0, 0]),
        "scaled to nothing"
    );
    let (bench, outcome) = unproved(here(1, &[]));
    assert!(matches!(outcome, Some(Outcome::Waiting(seen)) if seen.contains("0 of the 1")));
    assert_eq!(of(&bench), [1, 0, 0], "nothing was created");
    let (bench, outcome) = unproved(here(1, &[&pending]));
    assert!(matches!(outcome, Some(Outcome::Waiting(seen)) if seen.contains("Pending")));
    assert_eq!(of(&bench), [1, 0, 0], "it has no image, or no place");
    let running = Sibling {
        started: true,
        ..pending
    };
    let (bench, outcome) = unproved(here(1, &[&running]));
    assert_eq!(
        (outcome, of(&bench)),
        (Some(Outcome::Unproven), [1, 1, 1]),
        "it runs"
    );
}

#[test]
fn while_nobody_can_say_what_became_of_it_it_is_asked_again_and_held_against_the_owner_alone() {
    let mut bench = Bench::new(repairer(), 1);
    bench.run();
    bench.pass(5 * MINUTE + SECOND);
    let is_survey = |request: &Request| matches!(request, Request::Survey { .. });
    for _ in 0..5 {
        let (id, _) = bench.until(is_survey).unwrap();
        bench.answer(id, Answer::Surveyed(Err("no route".to_owned())));
        bench.pass(4 * SECOND);
    }
    bench.pass(MINUTE);
    let (id, _) = bench.until(is_survey).unwrap();
    bench.answer(id, Answer::Surveyed(Err("no route".to_owned())));
    bench.run();
    assert!(bench.planner.is_idle());
    assert_eq!(bench.leases[&LeaseKey::Owner("owner-0".to_owned())].failures, 1);
    assert_eq!(bench.leases[&LeaseKey::Cluster].failures, 0);
}
