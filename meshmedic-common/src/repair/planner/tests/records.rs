// SPDX-License-Identifier: Apache-2.0
//! What others wrote into an owner's record, and what is left of it.

use jiff::Timestamp;

use super::super::super::ledger::{More, Proof};
use super::super::super::*;
use super::bench::{Bench, EPOCH, MINUTE, SECOND, repairer};

#[test]
fn a_proof_is_heeded_though_the_watch_is_silent() {
    let mut bench = Bench::new(repairer(), 1);
    bench.run();
    bench.planner.owner_seen(
        bench.at(),
        "owner-0",
        Some(bench.leases[&LeaseKey::Owner("owner-0".to_owned())].clone()),
    );
    let record = bench
        .leases
        .get_mut(&LeaseKey::Owner("owner-0".to_owned()))
        .unwrap();
    record.repairs[0].proof = Some(Proof {
        pod: "shop/new".to_owned(),
        uid: "new".to_owned(),
        node: "n2".to_owned(),
        captured: true,
        at: Timestamp::from_second(EPOCH).unwrap(),
        more: More::default(),
    });
    bench.pass(16 * SECOND);
    // The answers come, the watch does not.
    loop {
        let requests = bench.requests();
        if requests.is_empty() {
            break;
        }
        for (id, request) in requests {
            let answer = bench.serve(&request);
            bench.planner.answer(bench.at(), id, answer);
        }
    }
    assert!(bench.planner.is_idle());
    let ended = |notice: &RepairNotice| {
        matches!(
            notice,
            RepairNotice::Ended {
                outcome: Outcome::Succeeded(_),
                ..
            }
        )
    };
    bench.notices.extend(bench.planner.drain());
    assert!(bench.notices.iter().any(ended));
}

#[test]
fn what_a_node_that_is_gone_left_behind_is_awaited_no_longer_than_its_time() {
    let mut bench = Bench::new(repairer(), 1);
    bench.run();
    let mut record = bench.leases[&LeaseKey::Owner("owner-0".to_owned())].clone();
    record.repairs[0].node = "gone".to_owned();
    let mut other = Bench::new(repairer(), 0);
    other
        .planner
        .owner_seen(other.at(), "owner-0", Some(record.clone()));
    assert_eq!(other.planner.awaited_owners().count(), 1);
    other.pass(6 * MINUTE);
    other.judge();
    assert_eq!(other.planner.awaited_owners().count(), 0);
    other.planner.owner_seen(other.at(), "owner-0", Some(record));
    assert_eq!(other.planner.awaited_owners().count(), 0);
}
