// SPDX-License-Identifier: Apache-2.0
//! What the API refuses costs little, and nobody else anything.

use super::super::super::ledger::{Record, Step};
use super::super::super::*;
use super::super::*;
use super::bench::{Bench, MINUTE, SECOND, repairer};
use crate::verdict::State;

#[test]
fn a_blocked_eviction_of_a_pod_that_recovers_is_asked_for_once() {
    let mut bench = Bench::new(repairer(), 1);
    bench.acted = Acted::Refused(Withheld::DisruptionBudget, "429".to_owned());
    bench.run();
    assert_eq!((bench.rehearsals, bench.acts.len()), (1, 0));
    assert!(bench.leases.values().all(|record| *record == Record::default()));
    bench.pass(14 * SECOND);
    bench.run();
    bench.pod(0).state = State::Captured;
    bench.pass(60 * MINUTE);
    bench.run();
    assert_eq!((bench.rehearsals, bench.acts.len()), (1, 0));
    assert_eq!(bench.withheld(), [Withheld::DisruptionBudget]);
}

#[test]
fn a_blocked_eviction_is_tried_again_ever_more_rarely_and_costs_no_budget() {
    let mut small = repairer();
    small.limits.per_hour_node = 1;
    let mut bench = Bench::new(small, 1);
    bench.acted = Acted::Refused(Withheld::DisruptionBudget, "429".to_owned());
    for (seconds, rehearsals) in [(0, 1), (14, 1), (1, 2), (29, 2), (1, 3), (60, 4)] {
        bench.pass(SECOND * seconds);
        bench.run();
        assert_eq!((bench.rehearsals, bench.acts.len()), (rehearsals, 0));
    }
    assert_eq!(bench.withheld(), [Withheld::DisruptionBudget]);
}

/// What was written into Leases while this node's pods were tried for an hour.
fn refused_for_an_hour(pods: u32) -> (Bench, Vec<Request>) {
    let mut bench = Bench::new(repairer(), pods);
    bench.acted = Acted::Refused(Withheld::DisruptionBudget, "429".to_owned());
    let mut asked = Vec::new();
    for _ in 0..3600 {
        bench.pass(SECOND);
        loop {
            let requests = bench.requests();
            if requests.is_empty() {
                break;
            }
            for (id, request) in requests {
                let answer = bench.serve(&request);
                asked.push(request);
                bench.answer(id, answer);
            }
        }
    }
    (bench, asked)
}

#[test]
fn what_the_api_would_refuse_is_claimed_for_by_nobody() {
    let (bench, asked) = refused_for_an_hour(3);
    let writes = |request: &Request| match request {
        Request::Update { change, .. } => !matches!(change.step, Step::Look | Step::Forget),
        _ => false,
    };
    assert_eq!(asked.iter().filter(|request| writes(request)).count(), 0);
    assert!(bench.leases.values().all(|record| *record == Record::default()));
    // Each is told once, and what waits for its turn says nothing new.
    let told = bench.withheld();
    assert_eq!(
        told.iter()
            .filter(|why| **why == Withheld::DisruptionBudget)
            .count(),
        3
    );
    assert!(told.len() <= 5, "{told:?}");
}

#[test]
fn the_refused_pods_of_a_node_are_tried_one_after_the_other_and_none_is_forgotten() {
    // Six pods by themselves would ask as often as six nodes.
    let (one, six) = (refused_for_an_hour(1), refused_for_an_hour(6));
    let first = 5;
    assert!(
        six.0.rehearsals <= one.0.rehearsals + first,
        "{} and {}",
        six.0.rehearsals,
        one.0.rehearsals
    );
    let asked_for = |pod: u32| {
        let is_it = |request: &Request| matches!(request, Request::Rehearse { pod: of, .. } if of.name == format!("pod-{pod}"));
        six.1.iter().filter(|request| is_it(request)).count()
    };
    for pod in 0..6 {
        assert!(
            asked_for(pod) >= 2,
            "pod-{pod} was asked for {} times",
            asked_for(pod)
        );
    }
    // And by one request each, once the API refused: what refused last is asked first.
    let looks = six.1.len() - six.0.rehearsals;
    assert!(looks <= 6 * 4 + 3, "{looks} looks");
}
