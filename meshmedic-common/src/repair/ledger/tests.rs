// SPDX-License-Identifier: Apache-2.0
use super::*;

mod several;

const COOLDOWN: Duration = Duration::from_secs(300);
const OPEN: Duration = Duration::from_secs(3600);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn allowance() -> Allowance {
    Allowance {
        in_flight: Some((1, Withheld::InFlightOwner)),
        per_hour: None,
        breaker: Some(breaker(3, Withheld::BreakerOwner)),
        cooldown: Some((COOLDOWN, OPEN)),
        keeps_outcomes: true,
        frees_at_once: false,
    }
}

fn breaker(failures: u32, why: Withheld) -> Breaker {
    Breaker {
        failures,
        open: OPEN,
        why,
        counts: Counts::All,
    }
}

fn hourly(most: usize) -> Allowance {
    Allowance {
        per_hour: Some((most, Withheld::BudgetCluster)),
        breaker: Some(breaker(2, Withheld::BreakerCluster)),
        ..Allowance::default()
    }
}

fn entry(id: &str, second: i64) -> Entry {
    Entry {
        id: id.to_owned(),
        pod: "shop/cart-1".to_owned(),
        uid: format!("uid-{id}"),
        node: "n1".to_owned(),
        holder: "n1-1".to_owned(),
        slot: None,
        at: at(second),
        renewed: at(second),
        deadline: at(second + 300),
        sent: None,
        before: Vec::new(),
        controller: None,
        means: Means::Evict,
        acted: false,
        canary: false,
        proof: None,
        more: More::default(),
    }
}

fn proof(captured: bool) -> Proof {
    Proof {
        pod: "shop/cart-2".to_owned(),
        uid: "successor".to_owned(),
        node: "n2".to_owned(),
        captured,
        at: at(20),
        more: More::default(),
    }
}

fn change(id: &str, step: Step) -> Change {
    Change {
        id: id.to_owned(),
        step,
    }
}

fn claim(record: &mut Record, id: &str, allowance: &Allowance, second: i64) -> Applied {
    let claim = change(id, Step::Claim(Box::new(entry(id, second))));
    record.apply(&claim, allowance, at(second))
}

fn conclude(record: &mut Record, id: &str, how: Conclusion, allowance: &Allowance, second: i64) {
    record.apply(&change(id, Step::Conclude(how)), allowance, at(second));
}

/// A record with a failed repair at each of these seconds.
fn failed(seconds: &[i64]) -> Record {
    let mut record = Record::default();
    for &second in seconds {
        let id = second.to_string();
        let free = Allowance {
            in_flight: allowance().in_flight,
            ..Allowance::default()
        };
        assert_eq!(claim(&mut record, &id, &free, second).withheld, None);
        conclude(&mut record, &id, Conclusion::Unproven, &allowance(), second);
    }
    record
}

#[test]
fn only_so_many_are_under_way() {
    let mut record = Record::default();
    assert_eq!(claim(&mut record, "a", &allowance(), 0), Applied::done(true));
    let refused = claim(&mut record, "b", &allowance(), 1);
    assert_eq!(refused.withheld, Some(Withheld::InFlightOwner));
    conclude(&mut record, "a", Conclusion::NotDone, &allowance(), 2);
    assert_eq!(record, Record::default());
    assert_eq!(claim(&mut record, "b", &allowance(), 3).withheld, None);
}

#[test]
fn a_claim_whose_answer_was_lost_counts_once() {
    let mut record = Record::default();
    claim(&mut record, "a", &hourly(2), 0);
    let before = record.clone();
    assert_eq!(claim(&mut record, "a", &hourly(2), 5), Applied::done(false));
    assert_eq!(record, before);
}

#[test]
fn the_cooldown_doubles_and_ends_with_a_success() {
    for (failures, rest) in [(1, 300), (2, 600)] {
        let seconds: Vec<i64> = (0..failures).collect();
        let mut record = failed(&seconds);
        let last = failures - 1;
        let refused = claim(&mut record, "x", &allowance(), last + rest - 1);
        assert_eq!(refused.withheld, Some(Withheld::Cooldown));
        assert_eq!(claim(&mut record, "x", &allowance(), last + rest).withheld, None);
        conclude(
            &mut record,
            "x",
            Conclusion::Succeeded(proof(true)),
            &allowance(),
            last + rest,
        );
        assert_eq!((record.failures, record.last_failure), (0, None));
    }
}

#[test]
fn the_cooldown_has_an_end() {
    let mut record = failed(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let without_breaker = Allowance {
        breaker: None,
        ..allowance()
    };
    assert_eq!(
        claim(&mut record, "x", &without_breaker, 3599).withheld,
        Some(Withheld::Cooldown)
    );
    assert_eq!(claim(&mut record, "x", &without_breaker, 3600).withheld, None);
}

#[test]
fn the_breaker_opens_and_lets_one_try_after_its_time() {
    let mut record = failed(&[0, 1, 2]);
    let refused = claim(&mut record, "x", &allowance(), 2 + 3599);
    assert_eq!(refused.withheld, Some(Withheld::BreakerOwner));
    assert_eq!(claim(&mut record, "x", &allowance(), 2 + 3600).withheld, None);
    // Still half open: a single failure opens it again.
    conclude(&mut record, "x", Conclusion::Failed, &allowance(), 4000);
    let refused = claim(&mut record, "y", &allowance(), 4001);
    assert_eq!(refused.withheld, Some(Withheld::BreakerOwner));
}

#[test]
fn a_failed_canary_opens_the_breaker_at_once() {
    let mut record = Record::default();
    claim(&mut record, "a", &allowance(), 0);
    let end = Step::ConcludeCanary(Conclusion::Unproven);
    record.apply(&change("a", end), &allowance(), at(1));
    assert_eq!(
        claim(&mut record, "b", &allowance(), 3000).withheld,
        Some(Withheld::BreakerOwner)
    );
}

#[test]
fn an_hours_budget_is_spent_before_the_act_and_given_back_if_nothing_was_done() {
    let mut record = Record::default();
    for id in ["a", "b"] {
        assert_eq!(claim(&mut record, id, &hourly(2), 0).withheld, None);
    }
    assert_eq!(
        claim(&mut record, "c", &hourly(2), 3599).withheld,
        Some(Withheld::BudgetCluster)
    );
    conclude(&mut record, "b", Conclusion::NotDone, &hourly(2), 3599);
    assert_eq!(claim(&mut record, "c", &hourly(2), 3599).withheld, None);
    assert_eq!(
        claim(&mut record, "d", &hourly(2), 3599).withheld,
        Some(Withheld::BudgetCluster)
    );
    // The first is an hour old now.
    assert_eq!(claim(&mut record, "d", &hourly(2), 3600).withheld, None);
}

#[test]
fn an_outcome_is_counted_once_however_often_it_is_told() {
    let mut record = Record::default();
    claim(&mut record, "a", &hourly(5), 0);
    for _ in 0..3 {
        conclude(&mut record, "a", Conclusion::Unproven, &hourly(5), 1);
    }
    assert_eq!(record.failures, 1);
    let mut owner = Record::default();
    claim(&mut owner, "a", &allowance(), 0);
    for _ in 0..3 {
        conclude(&mut owner, "a", Conclusion::Unproven, &allowance(), 1);
    }
    assert_eq!(owner.failures, 1);
}

#[test]
fn what_a_silent_agent_holds_is_free_after_a_while() {
    let held = Allowance {
        in_flight: Some((1, Withheld::NoSlot)),
        ..Allowance::default()
    };
    let mut slot = Record::default();
    claim(&mut slot, "a", &held, 0);
    assert_eq!(claim(&mut slot, "b", &held, 60).withheld, Some(Withheld::NoSlot));
    assert_eq!(claim(&mut slot, "b", &held, 61).withheld, None);
    // The one that lost it is told so.
    let renewed = slot.apply(&change("a", Step::Renew), &held, at(62));
    assert_eq!(renewed.withheld, Some(Withheld::NoLedger));
    assert_eq!(slot.failures, 0);
}

#[test]
fn an_owner_waits_for_the_outcome_of_a_silent_agent_and_takes_silence_for_a_failure() {
    let mut record = Record::default();
    claim(&mut record, "a", &allowance(), 0);
    assert_eq!(
        claim(&mut record, "b", &allowance(), 200).withheld,
        Some(Withheld::InFlightOwner)
    );
    let late = claim(&mut record, "b", &allowance(), 301);
    assert_eq!(late.withheld, Some(Withheld::Cooldown));
    assert!(late.changed, "that it failed must be written even so");
    assert_eq!((record.failures, record.repairs.len()), (1, 0));
}

#[test]
fn a_silent_agents_proved_repair_is_no_failure() {
    let mut record = Record::default();
    claim(&mut record, "a", &allowance(), 0);
    record.apply(&change("a", Step::Prove(proof(true))), &allowance(), at(20));
    assert_eq!(claim(&mut record, "b", &allowance(), 301).withheld, None);
    assert_eq!(record.failures, 0);
}

#[test]
fn a_failure_that_is_not_counted_yet_stops_what_would_run_beside_it() {
    let two = Allowance {
        in_flight: Some((2, Withheld::InFlightOwner)),
        ..allowance()
    };
    let mut record = Record::default();
    claim(&mut record, "a", &two, 0);
    record.apply(&change("a", Step::Prove(proof(false))), &two, at(20));
    assert_eq!(
        claim(&mut record, "b", &two, 21).withheld,
        Some(Withheld::Cooldown)
    );
}

#[test]
fn the_first_proof_counts() {
    let mut record = Record::default();
    claim(&mut record, "a", &allowance(), 0);
    for captured in [true, false] {
        record.apply(&change("a", Step::Prove(proof(captured))), &allowance(), at(20));
    }
    assert_eq!(record.entry("a").unwrap().proof, Some(proof(true)));
}

#[test]
fn a_successor_that_falls_out_again_is_a_failure() {
    let mut record = Record::default();
    claim(&mut record, "a", &allowance(), 0);
    conclude(
        &mut record,
        "a",
        Conclusion::Succeeded(proof(true)),
        &allowance(),
        20,
    );
    let mut back = entry("b", 100);
    back.uid = "successor".to_owned();
    let claim = change("b", Step::Claim(Box::new(back)));
    let applied = record.apply(&claim, &allowance(), at(100));
    assert_eq!(applied.withheld, Some(Withheld::Cooldown));
    assert!(applied.changed);
    assert_eq!(record.apply(&claim, &allowance(), at(100 + 300)).withheld, None);
}

#[test]
fn a_cooldown_says_whether_the_repair_before_it_took() {
    let until = |record: &Record| record.detail(Withheld::Cooldown, &allowance(), at(200)).unwrap();
    let mut record = failed(&[0]);
    assert!(until(&record).starts_with("until "), "{}", until(&record));
    // A repair that took, whose successor has to be repaired itself.
    claim(
        &mut record,
        "a",
        &Allowance {
            cooldown: None,
            breaker: None,
            ..allowance()
        },
        100,
    );
    let captured = Proof {
        at: at(120),
        ..proof(true)
    };
    conclude(
        &mut record,
        "a",
        Conclusion::Succeeded(captured),
        &allowance(),
        130,
    );
    let again = Entry {
        uid: "successor".to_owned(),
        ..entry("b", 150)
    };
    let refused = record.apply(&change("b", Step::Claim(Box::new(again))), &allowance(), at(150));
    assert_eq!(refused.withheld, Some(Withheld::Cooldown));
    assert!(
        until(&record).starts_with("the last one took, and its pod fell out again; until "),
        "{}",
        until(&record)
    );
    let written = serde_json::to_string(&record).unwrap();
    assert!(
        written.contains("\"lapsed\":true"),
        "the next agent says so, too: {written}"
    );
}

#[test]
fn a_success_that_was_proved_before_the_last_failure_does_not_make_up_for_it() {
    let mut record = Record::default();
    for id in ["a", "b", "c"] {
        claim(&mut record, id, &hourly(5), 0);
    }
    conclude(&mut record, "a", Conclusion::Unproven, &hourly(5), 30);
    // It was seen at second 20, and told late.
    conclude(
        &mut record,
        "b",
        Conclusion::Succeeded(proof(true)),
        &hourly(5),
        40,
    );
    assert_eq!(record.failures, 1);
    let later = Proof {
        at: at(31),
        ..proof(true)
    };
    conclude(&mut record, "c", Conclusion::Succeeded(later), &hourly(5), 50);
    assert_eq!(record.failures, 0);
}

#[test]
fn a_clock_that_goes_back_sets_nothing_free() {
    let mut record = failed(&[0]);
    assert_eq!(
        claim(&mut record, "x", &allowance(), -100).withheld,
        Some(Withheld::Cooldown)
    );
    let mut cluster = Record::default();
    claim(&mut cluster, "a", &hourly(1), 0);
    assert_eq!(
        claim(&mut cluster, "b", &hourly(1), -7000).withheld,
        Some(Withheld::BudgetCluster)
    );
    let mut owner = Record::default();
    claim(&mut owner, "a", &allowance(), 0);
    assert!(!owner.entry("a").unwrap().is_abandoned(at(-7000)));
}

#[test]
fn only_what_was_left_is_taken_over() {
    let mut record = Record::default();
    claim(&mut record, "a", &allowance(), 0);
    let adopt = |holder: &str| change("a", Step::Adopt(holder.to_owned()));
    assert_eq!(
        record.apply(&adopt("n1-2"), &allowance(), at(60)).withheld,
        Some(Withheld::NoLedger)
    );
    assert_eq!(record.apply(&adopt("n1-2"), &allowance(), at(61)).withheld, None);
    // Its answer was lost.
    assert_eq!(record.apply(&adopt("n1-2"), &allowance(), at(62)).withheld, None);
    assert_eq!(
        record.apply(&adopt("n1-3"), &allowance(), at(62)).withheld,
        Some(Withheld::NoLedger)
    );
    conclude(&mut record, "a", Conclusion::Released, &allowance(), 63);
    assert_eq!(record.apply(&adopt("n1-3"), &allowance(), at(64)).withheld, None);
    assert_eq!(record.entry("a").unwrap().holder, "n1-3");
}

#[test]
fn what_an_agent_leaves_behind_blocks_the_node_until_it_is_taken_over_or_runs_out() {
    let node = Allowance {
        in_flight: Some((1, Withheld::InFlightNode)),
        ..Allowance::default()
    };
    let mut record = Record::default();
    claim(&mut record, "a", &node, 0);
    conclude(&mut record, "a", Conclusion::Released, &node, 50);
    assert_eq!(
        claim(&mut record, "b", &node, 110).withheld,
        Some(Withheld::InFlightNode)
    );
    assert_eq!(claim(&mut record, "b", &node, 111).withheld, None);
}

#[test]
fn a_record_survives_its_journey_through_a_lease() {
    let mut record = failed(&[0]);
    claim(&mut record, "a", &hourly(3), 4000);
    claim(&mut record, "b", &allowance(), 8000);
    record.apply(&change("b", Step::Prove(proof(true))), &allowance(), at(8001));
    conclude(
        &mut record,
        "b",
        Conclusion::Succeeded(proof(true)),
        &allowance(),
        8002,
    );
    claim(&mut record, "c", &allowance(), 8003);
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    assert_eq!(serde_json::from_str::<Record>("{}").unwrap(), Record::default());
}

#[test]
fn a_look_tells_what_a_claim_would_meet_and_changes_nothing() {
    let slot = Allowance {
        in_flight: Some((1, Withheld::NoSlot)),
        frees_at_once: true,
        ..Allowance::default()
    };
    let look = |record: &mut Record, allowance: &Allowance, second| {
        record.apply(&change("b", Step::Look), allowance, at(second))
    };
    let mut record = Record::default();
    assert_eq!(look(&mut record, &slot, 0), Applied::done(false));
    claim(&mut record, "a", &slot, 0);
    let taken = record.clone();
    assert_eq!(look(&mut record, &slot, 10), Applied::refused(Withheld::NoSlot));
    let silent = 1 + i64::try_from(LEASE.as_secs()).unwrap();
    assert_eq!(
        look(&mut record, &slot, silent),
        Applied::done(false),
        "its agent is gone"
    );
    assert_eq!(record, taken);
    assert_eq!(
        record.apply(&change("", Step::Forget), &slot, at(10)),
        Applied::done(false)
    );
    assert_eq!(record, taken, "its agent lives");
    assert_eq!(
        record.apply(&change("", Step::Forget), &slot, at(silent)),
        Applied::done(true)
    );
    assert!(record.is_idle());

    let mut hour = Record::default();
    claim(&mut hour, "a", &hourly(1), 0);
    let spent = hour.clone();
    assert_eq!(
        look(&mut hour, &hourly(1), 10),
        Applied::refused(Withheld::BudgetCluster)
    );
    assert_eq!(
        look(&mut hour, &hourly(1), 3601),
        Applied::done(false),
        "the hour is over"
    );
    assert_eq!(hour, spent);
}

#[test]
fn without_a_successor_that_runs_only_the_owner_is_counted() {
    let mut owner = Record::default();
    claim(&mut owner, "a", &allowance(), 0);
    conclude(&mut owner, "a", Conclusion::Waiting, &allowance(), 300);
    assert_eq!(owner.failures, 1);
    let mut node = Record::default();
    let of_node = Allowance {
        keeps_outcomes: false,
        ..allowance()
    };
    claim(&mut node, "a", &of_node, 0);
    conclude(&mut node, "a", Conclusion::Waiting, &of_node, 300);
    assert_eq!((node.failures, node.repairs.len()), (0, 0));
    for mut record in [Record::default(), owner] {
        let before = record.failures;
        claim(&mut record, "b", &allowance(), 10_000);
        conclude(&mut record, "b", Conclusion::Unwanted, &allowance(), 10_300);
        assert_eq!((record.failures, record.repairs.len()), (before, 0));
    }
}

#[test]
fn the_deadline_counts_from_the_act() {
    let mut record = Record::default();
    claim(&mut record, "a", &allowance(), 0);
    let send = Step::Send {
        holder: "n1-1".to_owned(),
        slot: None,
        before: Vec::new(),
        canary: false,
        controller: None,
        patience: Duration::from_secs(900),
    };
    record.apply(&change("a", send), &allowance(), at(30));
    assert_eq!(record.entry("a").unwrap().deadline, at(930));
}
