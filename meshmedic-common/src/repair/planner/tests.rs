// SPDX-License-Identifier: Apache-2.0
mod aftermath;
mod bench;
mod records;
mod refused;

use jiff::Timestamp;

use super::super::ledger::{Entry, LEASE, More, Record, Step};
use super::super::*;
use super::*;
use crate::verdict::State;
use bench::{Bench, EPOCH, MILLISECOND, MINUTE, SECOND, repairer};

fn is_act(request: &Request) -> bool {
    matches!(request, Request::Act { .. })
}

#[test]
fn an_orphan_is_repaired_once_and_its_successor_ends_it() {
    let mut bench = Bench::new(repairer(), 1);
    bench.run();
    assert_eq!(bench.acts.len(), 1);
    assert!(bench.planner.under_way().all(|(_, acted)| acted));
    bench.prove(0, "n2", true);
    bench.run();
    assert!(bench.planner.is_idle());
    assert!(matches!(
        bench.notices.last(),
        Some(RepairNotice::Ended {
            outcome: Outcome::Succeeded(_),
            ..
        })
    ));
    assert!(bench.leases.values().all(Record::is_idle));
}

#[test]
fn the_second_waits_for_the_first_to_be_proved() {
    let mut two = repairer();
    two.limits.in_flight_node = 2;
    let mut bench = Bench::new(two, 3);
    bench.run();
    assert_eq!(bench.acts.len(), 1);
    assert_eq!(bench.withheld(), [Withheld::Canary, Withheld::Canary]);
    bench.prove(0, "n2", true);
    bench.run();
    assert_eq!(bench.acts.len(), 3);
}

#[test]
fn after_a_mass_loss_only_a_successor_on_this_node_is_a_proof() {
    let mut two = repairer();
    two.limits.in_flight_node = 2;
    let mut bench = Bench::new(two, 3);
    bench.mass_loss = true;
    bench.run();
    bench.prove(0, "n2", true);
    bench.run();
    assert_eq!(bench.acts.len(), 2);
    bench.prove(1, "n1", true);
    bench.run();
    assert_eq!(bench.acts.len(), 3);
}

#[test]
fn a_canary_of_a_mass_loss_that_fails_opens_the_breaker_of_the_node() {
    let mut bench = Bench::new(repairer(), 2);
    bench.mass_loss = true;
    bench.run();
    bench.prove(0, "n1", false);
    bench.run();
    bench.pass(20 * MINUTE);
    bench.run();
    assert_eq!(bench.acts.len(), 1);
    assert_eq!(bench.withheld().last(), Some(&Withheld::BreakerNode));
    bench.pass(60 * MINUTE);
    bench.run();
    assert_eq!(bench.acts.len(), 2);
}

#[test]
fn a_mass_loss_that_shows_before_the_act_makes_it_the_canary() {
    let mut bench = Bench::new(repairer(), 2);
    let (id, request) = bench
        .until(|request| matches!(request, Request::Check(_)))
        .unwrap();
    bench.mass_loss = true;
    let answer = bench.serve(&request);
    bench.answer(id, answer);
    bench.run();
    assert_eq!(bench.acts.len(), 1);
    bench.prove(0, "n1", false);
    bench.run();
    bench.pass(20 * MINUTE);
    bench.run();
    assert_eq!(bench.withheld().last(), Some(&Withheld::BreakerNode));
    assert_eq!(bench.acts.len(), 1);
}

#[test]
fn a_mass_loss_that_shows_at_the_last_moment_stops_the_act() {
    let mut two = repairer();
    two.limits.in_flight_node = 2;
    let mut bench = Bench::new(two, 2);
    bench.run();
    bench.prove(0, "n2", true);
    let (id, request) = bench.until(is_act).unwrap();
    bench.planner.answer(bench.at(), id, Answer::Acted(Acted::Gone));
    let announced = |request: &Request| matches!(request, Request::Update { change, .. } if matches!(change.step, Step::Send { .. }));
    drop(request);
    bench.add(2, State::Orphan);
    let (id, request) = bench.until(announced).unwrap();
    let answer = bench.serve(&request);
    bench.mass_loss = true;
    bench.answer(id, answer);
    let before = bench.acts.len();
    bench.run();
    assert_eq!(bench.acts.len(), before);
    assert_eq!(bench.withheld().last(), Some(&Withheld::Canary));
}

#[test]
fn nothing_is_begun_or_done_while_five_pods_are_being_confirmed() {
    let mut bench = Bench::new(repairer(), 1);
    for n in 1..5 {
        bench.add(n, State::Suspect);
    }
    let (id, request) = bench
        .until(|request| matches!(request, Request::Check(_)))
        .unwrap();
    bench.add(5, State::Suspect);
    let answer = bench.serve(&request);
    bench.answer(id, answer);
    bench.run();
    assert_eq!(bench.acts.len(), 0);
    assert_eq!(bench.withheld(), [Withheld::Confirming]);
    assert!(bench.leases.values().all(Record::is_idle));
    bench.pass(MINUTE);
    bench.run();
    assert_eq!(bench.acts.len(), 0);
    bench.pod(5).state = State::Captured;
    bench.run();
    assert_eq!(bench.acts.len(), 1);
}

#[test]
fn a_reading_that_does_not_come_stops_the_act() {
    let mut bench = Bench::new(repairer(), 1);
    let Some((id, check)) = bench.until(|request| matches!(request, Request::Check(_))) else {
        panic!("no check");
    };
    let answer = bench.serve(&check);
    bench.answer(id, answer);
    bench.judge();
    bench.pod(0).read_at = Time::default();
    bench.pass(16 * SECOND);
    bench.judge();
    bench.pod(0).read_at = Time::default();
    bench.run();
    assert!(bench.acts.is_empty());
    assert_eq!(bench.withheld(), [Withheld::NotProved]);
}

#[test]
fn what_changes_between_the_claims_and_the_act_stops_it() {
    type Change = fn(&mut Bench);
    let changes: [(Change, Withheld); 7] = [
        (|bench| bench.gates.paused = Some(String::new()), Withheld::Paused),
        (|bench| bench.gates.cordoned = true, Withheld::Cordoned),
        (
            |bench| bench.gates.node_fault = Some("ztunnel".to_owned()),
            Withheld::NodeFault,
        ),
        (
            |bench| bench.gates.mesh_fault = Some("istiod".to_owned()),
            Withheld::MeshFault,
        ),
        (
            |bench| bench.pod(0).standing.facts.repair = Some("disabled".to_owned()),
            Withheld::OptedOutPod,
        ),
        (
            |bench| bench.pod(0).standing.facts.toggle_restore = Some("x".to_owned()),
            Withheld::Toggling,
        ),
        (
            |bench| bench.pod(0).standing.facts.controller = None,
            Withheld::NothingRecreates,
        ),
    ];
    for (change, why) in changes {
        let mut bench = Bench::new(repairer(), 1);
        let (id, check) = bench
            .until(|request| matches!(request, Request::Check(_)))
            .unwrap();
        change(&mut bench);
        let answer = bench.serve(&check);
        bench.answer(id, answer);
        bench.run();
        assert_eq!((bench.acts.len(), bench.withheld()), (0, vec![why]));
        assert!(
            bench.leases.values().all(|record| *record == Record::default()),
            "{why}"
        );
    }
}

#[test]
fn a_lost_answer_is_looked_into_and_never_repeated_blindly() {
    for happened in [true, false] {
        let mut bench = Bench::new(repairer(), 1);
        let (id, act) = bench.until(is_act).unwrap();
        if happened {
            bench.serve(&act);
        }
        bench.answer(id, Answer::Acted(Acted::InDoubt("reset".to_owned())));
        let (id, find) = bench.requests().remove(0);
        assert!(matches!(find, Request::Find(_)));
        let answer = bench.serve(&find);
        bench.answer(id, answer);
        bench.run();
        assert!(!bench.planner.is_idle(), "it may still be on its way");
        bench.pass(20 * SECOND);
        bench.until(is_act);
        assert_eq!(bench.acts.len(), usize::from(happened));
        assert_eq!(bench.planner.is_idle(), !happened);
        // It counts against the hour either way, since it may have happened.
        assert_eq!(bench.leases[&LeaseKey::Cluster].acts.len(), 1);
    }
}

#[test]
fn an_agent_that_is_killed_is_succeeded_by_one_that_goes_on() {
    let mut bench = Bench::new(repairer(), 2);
    bench.run();
    assert_eq!(bench.acts.len(), 1);
    bench.planner = Planner::new(
        Repairer {
            holder: "n1-2".to_owned(),
            ..repairer()
        },
        true,
    );
    bench.watch();
    // What the first one holds is not free yet, so the other orphan is tried ever more rarely.
    for wait in [0, 16, 32] {
        bench.pass(SECOND * wait);
        bench.run();
        assert_eq!(bench.acts.len(), 1);
        assert!(bench.planner.is_idle());
    }
    let at = bench.at();
    assert_eq!(
        bench.planner.next_wake(at),
        Some(at.now + SECOND * 12 + MILLISECOND)
    );
    bench.pass(SECOND * 13);
    bench.run();
    assert_eq!(bench.acts.len(), 1, "the repair goes on");
    assert!(!bench.planner.is_idle());
    bench.prove(0, "n2", true);
    bench.run();
    assert!(bench.free(&LeaseKey::Owner("owner-0".to_owned())));
    assert_eq!(bench.acts.len(), 2, "whoever waited for it waits no longer");
}

#[test]
fn whoever_finds_a_claim_without_an_act_sets_everything_free() {
    let mut bench = Bench::new(repairer(), 1);
    bench.until(is_act).unwrap();
    bench.planner = Planner::new(
        Repairer {
            holder: "n1-2".to_owned(),
            ..repairer()
        },
        true,
    );
    bench.pass(LEASE + SECOND);
    bench.watch();
    bench.run();
    bench.pass(20 * SECOND);
    bench.run();
    assert_eq!(bench.acts.len(), 0);
    for (lease, record) in &bench.leases {
        assert!(record.is_idle() && record.failures == 0, "{lease:?}");
    }
    bench.pass(MINUTE);
    bench.run();
    assert_eq!(bench.acts.len(), 1);
}

#[test]
fn a_slot_whose_claimant_was_killed_before_all_else_is_set_free_after_its_next_start() {
    let mut bench = Bench::new(repairer(), 1);
    let claims_its_owner = |request: &Request| match request {
        Request::Update { lease, change, .. } => {
            matches!(lease, LeaseKey::Owner(_)) && matches!(change.step, Step::Claim(_))
        }
        _ => false,
    };
    bench.until(claims_its_owner).unwrap();
    let held = |bench: &Bench| bench.leases.values().filter(|record| !record.is_idle()).count();
    assert_eq!(held(&bench), 1, "a slot comes before what every agent follows");
    bench.planner = Planner::new(
        Repairer {
            holder: "n1-2".to_owned(),
            ..repairer()
        },
        true,
    );
    // Its controller was scaled down meanwhile: nobody claims a slot again.
    bench.pods.clear();
    bench.run();
    let at = bench.at();
    assert_eq!(bench.planner.next_wake(at), Some(at.now + 2 * LEASE));
    bench.pass(2 * LEASE - SECOND);
    bench.run();
    assert_eq!(held(&bench), 1);
    bench.pass(SECOND);
    let (asked, _) = bench.requests().pop().unwrap();
    bench.answer(asked, Answer::Updated(Err(Refusal::Failed("busy".to_owned()))));
    bench.pass(MINUTE);
    bench.run();
    assert_eq!(held(&bench), 0);
    assert_eq!(bench.planner.next_wake(bench.at()), None, "once is enough");
}

/// Whatever is at the API when the order to stop comes: nothing is begun after, and what was not done
/// leaves nothing behind.
#[test]
fn a_stop_at_each_stage_leaves_the_leases_in_order() {
    for stage in 0..12 {
        let mut bench = Bench::new(repairer(), 1);
        let mut asked = None;
        for _ in 0..=stage {
            if let Some((id, request)) = asked.take() {
                let answer = bench.serve(&request);
                bench.answer(id, answer);
            }
            asked = bench.requests().pop();
        }
        let at = bench.at();
        bench.planner.stop(at);
        let acting = asked.as_ref().is_some_and(|(_, request)| is_act(request));
        let before = bench.acts.len();
        if let Some((id, request)) = asked {
            let answer = bench.serve(&request);
            bench.answer(id, answer);
        }
        bench.run();
        assert_eq!(bench.acts.len(), before + usize::from(acting), "stage {stage}");
        assert!(bench.planner.is_idle(), "stage {stage}");
        if bench.acts.is_empty() {
            assert!(
                bench.leases.values().all(|record| *record == Record::default()),
                "stage {stage}"
            );
        } else {
            let owner = &bench.leases[&LeaseKey::Owner("owner-0".to_owned())];
            assert!(
                owner.repairs[0].acted && owner.repairs[0].holder.is_empty(),
                "stage {stage}"
            );
        }
    }
}

#[test]
fn nothing_is_done_while_the_leases_cannot_be_read() {
    let mut bench = Bench::new(repairer(), 1);
    let (id, _) = bench.requests().remove(0);
    bench.answer(id, Answer::Updated(Err(Refusal::Failed("not JSON".to_owned()))));
    bench.run();
    assert_eq!(bench.withheld(), [Withheld::NoLedger]);
    assert!(bench.acts.is_empty() && bench.planner.is_idle());
}

#[test]
fn an_outage_does_not_make_a_failure_forgotten() {
    let mut bench = Bench::new(repairer(), 1);
    bench.run();
    bench.pass(6 * MINUTE);
    for _ in 0..100 {
        let failed = |(id, _)| (id, Answer::Updated(Err(Refusal::Failed("timeout".to_owned()))));
        for (id, answer) in bench.requests().into_iter().map(failed).collect::<Vec<_>>() {
            bench.answer(id, answer);
        }
        bench.pass(4 * SECOND);
    }
    bench.run();
    assert!(bench.planner.is_idle());
    for lease in [LeaseKey::Cluster, LeaseKey::Node("n1".to_owned())] {
        assert_eq!(bench.leases[&lease].failures, 1, "{lease:?}");
    }
}

#[test]
fn a_repair_whose_lease_was_taken_away_ends() {
    let mut bench = Bench::new(repairer(), 1);
    bench.run();
    bench.leases.clear();
    bench.pass(MINUTE);
    bench.run();
    assert!(bench.planner.is_idle());
    assert!(matches!(
        bench.notices.last(),
        Some(RepairNotice::Ended {
            outcome: Outcome::Unproven,
            ..
        })
    ));
}

#[test]
fn claims_that_are_old_by_either_clock_are_not_acted_on() {
    for (pass, jump) in [(31, 0), (0, 31)] {
        let mut bench = Bench::new(repairer(), 1);
        let (id, check) = bench
            .until(|request| matches!(request, Request::Check(_)))
            .unwrap();
        bench.pass(SECOND * pass);
        bench.clock += jump;
        let answer = bench.serve(&check);
        bench.answer(id, answer);
        bench.run();
        assert_eq!(
            (bench.acts.len(), bench.withheld()),
            (0, vec![Withheld::NoLedger])
        );
    }
}

#[test]
fn a_withheld_repair_is_told_once_until_the_reason_changes() {
    let mut bench = Bench::new(repairer(), 1);
    bench.gates.cordoned = true;
    for _ in 0..5 {
        bench.pass(MINUTE);
        bench.run();
    }
    bench.gates.paused = Some("maintenance".to_owned());
    bench.run();
    assert_eq!(bench.withheld(), [Withheld::Cordoned, Withheld::Paused]);
}

#[test]
fn the_hour_of_a_node_is_kept_by_the_process_too() {
    let mut few = repairer();
    few.limits.per_hour_node = 2;
    let mut bench = Bench::new(few, 3);
    for n in 0..2 {
        bench.run();
        bench.prove(n, "n2", true);
        bench.run();
    }
    // A clock that runs away, or Leases that somebody deleted, do not make it forget.
    bench.leases.clear();
    bench.run();
    assert_eq!(bench.acts.len(), 2);
    assert_eq!(bench.withheld().last(), Some(&Withheld::BudgetNode));
    bench.pass(60 * MINUTE);
    bench.run();
    assert_eq!(bench.acts.len(), 3);
}

#[test]
fn in_shadow_mode_nothing_is_asked_and_everything_told() {
    let mut off = repairer();
    off.mandate = Mandate::Agent(Permissions {
        ready: false,
        stuck: false,
        ..off.permissions()
    });
    let mut bench = Bench::new(off, 2);
    bench.add(2, State::Partial);
    bench.add(3, State::Orphan);
    bench.pod(3).standing.facts.ready = false;
    bench.pod(3).standing.facts.ready_since = Timestamp::from_second(EPOCH - 60).ok();
    for _ in 0..3 {
        assert!(bench.requests().is_empty());
        bench.pass(MINUTE);
    }
    assert!(!bench.planner.may_act());
    let would = |notice: &&RepairNotice| matches!(notice, RepairNotice::Would { .. });
    assert_eq!(bench.notices.iter().filter(would).count(), 2);
    let shadows = bench.notices.iter().filter_map(|notice| match notice {
        RepairNotice::Withheld {
            why, shadow: true, ..
        } => Some(*why),
        _ => None,
    });
    assert_eq!(
        shadows.collect::<Vec<_>>(),
        [Withheld::ByHand, Withheld::GracePeriod]
    );
}

#[test]
fn a_successor_on_this_node_is_proved_for_another_ones_repair() {
    let mut bench = Bench::new(repairer(), 0);
    let owner = LeaseKey::Owner("owner-7".to_owned());
    let mut theirs = Bench::new(
        Repairer {
            node: "n2".to_owned(),
            holder: "n2-1".to_owned(),
            ..repairer()
        },
        0,
    );
    theirs.add(7, State::Orphan);
    theirs.run();
    bench.leases = theirs.leases;
    bench.add(8, State::Captured);
    let facts = &mut bench.pod(8).standing.facts;
    facts.created = Timestamp::from_second(EPOCH + 1).ok();
    if let Some(controller) = &mut facts.controller {
        controller.uid = "owner-7".to_owned();
    }
    bench.watch();
    let (id, request) = bench.requests().remove(0);
    assert!(matches!(&request, Request::Update { change, .. } if matches!(change.step, Step::Prove(_))));
    // It could not be written: it is tried again, later.
    bench.answer(id, Answer::Updated(Err(Refusal::Failed("timeout".to_owned()))));
    assert!(bench.requests().is_empty());
    bench.pass(5 * SECOND);
    bench.run();
    let proof = bench.leases[&owner].repairs[0].proof.clone().unwrap();
    assert!(proof.captured && proof.node == "n1");
}

#[test]
fn while_the_cluster_has_no_room_nothing_is_written() {
    let mut bench = Bench::new(repairer(), 1);
    let now = bench.at().server;
    for slot in 0..3 {
        let entry = Entry {
            id: format!("other-{slot}"),
            pod: "shop/other".to_owned(),
            uid: String::new(),
            node: "n2".to_owned(),
            holder: "n2-1".to_owned(),
            slot: None,
            at: now,
            renewed: now,
            deadline: now,
            sent: None,
            before: Vec::new(),
            controller: None,
            means: Means::Evict,
            acted: false,
            canary: false,
            proof: None,
            more: More::default(),
        };
        let record = Record {
            repairs: vec![entry],
            ..Record::default()
        };
        bench.leases.insert(LeaseKey::Slot(slot), record);
    }
    let before = bench.leases.clone();
    bench.run();
    assert_eq!(bench.withheld(), [Withheld::NoSlot]);
    bench.leases.retain(|_, record| *record != Record::default());
    assert_eq!(bench.leases, before);
}
