// SPDX-License-Identifier: Apache-2.0
//! Traces of what never happened: each breaks a rule, and the judge must say which.

use super::super::judge::judge;
use super::super::trace::{Event, Held, PodId, Recreated, Rules, Shows, Truth, What};
use super::super::{MINUTE, SECOND, START, span};

struct Forgery {
    rules: Rules,
    trace: Vec<Event>,
    truth: Truth,
}

/// An agent on a healthy node.
fn forgery() -> Forgery {
    let truth = Truth {
        node: 0,
        owner: Some(0),
        namespace: 0,
        grace: 0,
        started: true,
        stays: false,
        name: None,
        recreated: Recreated::Yes,
        expected: true,
        deleting: false,
        ready: true,
        ready_since: super::super::EPOCH,
        opted_out: false,
        garbled: false,
        toggling: false,
    };
    let mut forgery = Forgery {
        rules: Rules::usual(),
        trace: Vec::new(),
        truth,
    };
    forgery.at(0, What::Ztunnel(0, true));
    forgery.at(0, What::Cni(0, true));
    forgery.at(0, What::Began { node: 0, process: 1 });
    forgery
}

impl Forgery {
    fn at(&mut self, millis: u64, what: What) {
        let at = START + span(millis);
        self.trace.push(Event { at, what });
    }

    /// A pod that falls out and is read as often as it must be.
    fn lose(&mut self, pod: PodId, millis: u64) {
        let truth = self.truth;
        self.at(millis, What::Pod(pod, truth));
        self.at(millis, What::Listens(pod, Shows::None));
        for later in [100, 5_000, 10_200] {
            self.read(pod, millis + later);
        }
    }

    fn read(&mut self, pod: PodId, millis: u64) {
        let shows = Shows::None;
        self.at(
            millis,
            What::Read {
                process: 1,
                pod,
                shows,
            },
        );
    }

    fn check(&mut self, pod: PodId, millis: u64) {
        self.at(millis, What::Checked { process: 1, pod });
        self.read(pod, millis + 100);
    }

    fn act(&mut self, pod: PodId, millis: u64) {
        self.try_to(pod, millis, false, true);
    }

    fn try_to(&mut self, pod: PodId, millis: u64, delete: bool, accepted: bool) {
        let act = What::Act {
            process: 1,
            pod: Some(pod),
            issued: START + span(millis - 20),
            delete,
            accepted,
        };
        self.at(millis, act);
        self.at(
            millis + 1,
            What::Wrote {
                pod,
                held: Held::Node,
            },
        );
        self.at(
            millis + 1,
            What::Wrote {
                pod,
                held: Held::Slot,
            },
        );
    }

    /// All of it, as it should be.
    fn repair(&mut self, pod: PodId, owner: usize, millis: u64) {
        self.truth.owner = Some(owner);
        self.lose(pod, millis - 12_000);
        self.check(pod, millis - 1000);
        self.act(pod, millis);
    }

    /// A successor that is captured.
    fn succeed(&mut self, pod: PodId, owner: usize, millis: u64) {
        self.truth.owner = Some(owner);
        let truth = self.truth;
        self.at(millis, What::Pod(pod, truth));
        self.at(millis, What::Listens(pod, Shows::All));
        let shows = Shows::All;
        self.at(
            millis + 100,
            What::Read {
                process: 1,
                pod,
                shows,
            },
        );
    }

    fn breaks(&self) -> Vec<u8> {
        let breaches = judge(&self.rules, &self.trace);
        let mut rules: Vec<u8> = breaches.iter().map(|breach| breach.rule).collect();
        rules.dedup();
        rules
    }
}

/// What a pod with this truth makes of a repair that is right in everything else.
fn with(change: impl Fn(&mut Forgery)) -> Vec<u8> {
    let mut forgery = forgery();
    change(&mut forgery);
    forgery.repair(1, 0, 5 * MINUTE);
    forgery.breaks()
}

#[test]
fn what_is_right_is_right() {
    assert!(with(|_| {}).is_empty());
    let mut right = forgery();
    right.repair(1, 0, 5 * MINUTE);
    right.succeed(2, 0, 5 * MINUTE + 5 * SECOND);
    right.repair(3, 1, 6 * MINUTE);
    assert!(right.breaks().is_empty());
}

#[test]
fn rule_1_nobody_asked() {
    assert_eq!(with(|forgery| forgery.rules.ready = false), [1]);
    assert_eq!(
        with(|forgery| {
            forgery.truth.ready = false;
            forgery.truth.ready_since += 4 * 60_000;
        }),
        [1]
    );
}

#[test]
fn rule_2_something_is_at_fault() {
    assert_eq!(with(|forgery| forgery.at(1, What::Paused(true))), [2]);
    assert_eq!(with(|forgery| forgery.at(1, What::Cordon(0, true))), [2]);
    assert_eq!(with(|forgery| forgery.at(1, What::Istiod(false))), [2]);
    assert_eq!(with(|forgery| forgery.at(1, What::Cni(0, false))), [2]);
    assert_eq!(with(|forgery| forgery.at(1, What::Ztunnel(0, false))), [2]);
    assert_eq!(with(|forgery| forgery.truth.expected = false), [2]);
    let unsettled = |forgery: &mut Forgery| forgery.at(5 * MINUTE - 29 * SECOND, What::Ztunnel(0, true));
    assert_eq!(with(unsettled), [2]);
}

#[test]
fn rule_2_too_little_was_seen() {
    let mut few = forgery();
    let truth = few.truth;
    few.at(0, What::Pod(1, truth));
    few.at(0, What::Listens(1, Shows::None));
    few.read(1, 60_000);
    few.check(1, 100_000);
    few.act(1, 101_000);
    assert_eq!(few.breaks(), [2]);

    let mut stale = forgery();
    stale.lose(1, MINUTE);
    stale.at(2 * MINUTE, What::Checked { process: 1, pod: 1 });
    stale.act(1, 2 * MINUTE + 100);
    assert_eq!(stale.breaks(), [2]);

    let mut recovered = forgery();
    recovered.lose(1, MINUTE);
    recovered.check(1, 2 * MINUTE);
    recovered.at(2 * MINUTE + 200, What::Listens(1, Shows::Some));
    recovered.act(1, 2 * MINUTE + 5000);
    assert_eq!(recovered.breaks(), [2]);
}

#[test]
fn rule_3_another_pod() {
    let mut unasked = forgery();
    unasked.lose(1, MINUTE);
    unasked.read(1, 2 * MINUTE);
    unasked.act(1, 2 * MINUTE + 100);
    assert!(unasked.breaks().contains(&3));
    assert_eq!(with(|forgery| forgery.truth.deleting = true), [3]);
    assert_eq!(with(|forgery| forgery.truth.node = 1), [3]);
    let mut twice = forgery();
    twice.rules.in_flight_owner = 2;
    twice.repair(1, 0, 5 * MINUTE);
    twice.succeed(2, 0, 5 * MINUTE + 1000);
    twice.repair(1, 0, 20 * MINUTE);
    assert_eq!(twice.breaks(), [3]);
}

#[test]
fn rule_4_nothing_recreates_it() {
    assert_eq!(with(|forgery| forgery.truth.recreated = Recreated::No), [4]);
    assert_eq!(with(|forgery| forgery.truth.recreated = Recreated::Job), [4]);
}

#[test]
fn rule_5_past_the_budgets_of_the_pod() {
    let mut deleted = forgery();
    deleted.lose(1, MINUTE);
    deleted.check(1, 2 * MINUTE);
    deleted.try_to(1, 2 * MINUTE + 200, true, true);
    assert_eq!(deleted.breaks(), [5]);
    let mut in_vain = forgery();
    in_vain.at(0, What::Blocked(0, true));
    in_vain.lose(1, MINUTE);
    in_vain.at(2 * MINUTE, What::Claimed(1));
    assert_eq!(in_vain.breaks(), [5]);
    // A refused eviction that is simply sent again was never judged again.
    let mut repeated = forgery();
    repeated.lose(1, MINUTE);
    repeated.check(1, 2 * MINUTE);
    repeated.try_to(1, 2 * MINUTE + 200, false, false);
    repeated.try_to(1, 2 * MINUTE + 900, false, false);
    assert!(repeated.breaks().contains(&3));
}

#[test]
fn rule_6_before_the_canary_or_after_the_breaker() {
    let mut early = forgery();
    early.rules.in_flight_node = 3;
    early.repair(1, 0, 5 * MINUTE);
    early.repair(2, 1, 5 * MINUTE + 20 * SECOND);
    assert_eq!(early.breaks(), [6]);
    let mut stubborn = forgery();
    for n in 0..3 {
        stubborn.repair(n, 0, (15 + 25 * u64::from(n)) * MINUTE);
    }
    assert_eq!(stubborn.breaks(), [6]);
    let mut everywhere = forgery();
    everywhere.rules.breaker_failures = 100;
    everywhere.rules.breaker_failures_cluster = 1;
    everywhere.repair(1, 1, 15 * MINUTE);
    // Its successor runs, and nobody proves anything of it.
    let truth = everywhere.truth;
    everywhere.at(15 * MINUTE + 10 * SECOND, What::Pod(2, truth));
    everywhere.at(20 * MINUTE + SECOND, What::Surveyed(1));
    everywhere.repair(9, 9, 50 * MINUTE);
    assert_eq!(everywhere.breaks(), [6]);
}

#[test]
fn rule_6_counted_too_early_or_against_the_wrong_ones() {
    let counted = |held, after: u64, change: fn(&mut Forgery)| {
        let mut forgery = forgery();
        forgery.truth.grace = 2 * MINUTE;
        forgery.at(0, What::Wants(0, 1));
        forgery.repair(1, 0, 5 * MINUTE);
        forgery.at(5 * MINUTE + 5 * SECOND, What::Gone(1));
        change(&mut forgery);
        forgery.at(5 * MINUTE + after, What::Failed { pod: 1, held });
        forgery.breaks()
    };
    let late = 7 * MINUTE + 10 * SECOND;
    assert!(counted(Held::Owner, late, |_| {}).is_empty());
    assert_eq!(counted(Held::Owner, 5 * MINUTE, |_| {}), [6]);
    assert_eq!(counted(Held::Node, late, |_| {}), [6]);
    assert_eq!(counted(Held::Cluster, late, |_| {}), [6]);
    let fewer = |forgery: &mut Forgery| forgery.at(5 * MINUTE + 6 * SECOND, What::Wants(0, 0));
    assert_eq!(counted(Held::Owner, late, fewer), [6]);
    let runs = |forgery: &mut Forgery| {
        let truth = forgery.truth;
        forgery.at(5 * MINUTE + 9 * SECOND, What::Pod(2, truth));
    };
    assert!(counted(Held::Node, late, runs).is_empty());
}

#[test]
fn rule_7_too_many() {
    let mut of_owner = forgery();
    of_owner.lose(2, MINUTE);
    of_owner.repair(1, 0, 5 * MINUTE);
    // What the node holds for the first has run out; the owner still waits for its successor.
    of_owner.check(2, 7 * MINUTE);
    of_owner.act(2, 7 * MINUTE + 200);
    assert_eq!(of_owner.breaks(), [7]);
    let mut hour = forgery();
    hour.rules.per_hour_node = 1;
    hour.repair(1, 0, 5 * MINUTE);
    hour.succeed(2, 0, 5 * MINUTE + 1000);
    hour.repair(3, 1, 50 * MINUTE);
    assert_eq!(hour.breaks(), [7]);
    let mut hasty = forgery();
    hasty.repair(1, 0, 5 * MINUTE);
    hasty.rules.cooldown = 10 * MINUTE;
    hasty.repair(2, 0, 12 * MINUTE);
    hasty.rules.breaker_failures = 9;
    assert_eq!(hasty.breaks(), [7]);
}

#[test]
fn rules_8_to_10_what_the_pod_says() {
    assert_eq!(with(|forgery| forgery.truth.opted_out = true), [8]);
    assert_eq!(with(|forgery| forgery.truth.toggling = true), [9]);
    assert_eq!(with(|forgery| forgery.truth.garbled = true), [10]);
}

#[test]
fn what_never_ends_is_no_good_end() {
    let mut endless = forgery();
    let rest = What::Rest {
        orphans: vec![1],
        held: vec!["slot 0".to_owned()],
    };
    endless.at(MINUTE, rest);
    assert_eq!(judge(&endless.rules, &endless.trace).len(), 2);
}
