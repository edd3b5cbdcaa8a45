// SPDX-License-Identifier: Apache-2.0
mod returns;
mod stalled;

use std::cell::Cell;

use meshmedic_common::abi::TrafficCounts;
use meshmedic_common::policy::PENDING_DEADLINE;
use meshmedic_common::repair::heal::Place;
use meshmedic_common::rules::{FamilyRules, PodRules, Rules, Unfollowed};
use meshmedic_common::traffic::{Counted, LEAST_CONNECTIONS, LEAST_TIME};
use meshmedic_common::verdict::Redirection;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use meshmedic_common::ports::PortSet;
use meshmedic_common::report::Holder;

const CONFIRM: Duration = Duration::from_secs(10);
const SETTLE: Duration = Duration::from_secs(30);
const START: Time = Time::from_nanos(1_000_000_000_000);

/// An engine under simulated time, with a healthy ztunnel and so many pods.
struct Sim {
    engine: Engine,
    now: Time,
    pods: Vec<PodUid>,
    notices: Vec<Notice>,
}

fn ztunnel(pid: u32) -> Ztunnel {
    Ztunnel {
        processes: vec![(pid, 1)],
        youngest: Some(START - SETTLE),
    }
}

impl Sim {
    fn new(pods: usize) -> Self {
        Self::settling(pods, SETTLE)
    }

    fn settling(pods: usize, settle: Duration) -> Self {
        let reread = Duration::from_secs(60);
        let mut engine = Engine::new(Settings {
            confirm: CONFIRM,
            settle,
            reread,
            pending_deadline: PENDING_DEADLINE,
        });
        engine.ztunnel(START, ztunnel(7));
        let uid = |n| PodUid::parse(&format!("{n:08x}-0000-0000-0000-000000000000")).unwrap();
        let pods: Vec<PodUid> = (0..pods).map(uid).collect();
        for pod in &pods {
            engine.pod(START, pod, Expectation::Expected);
        }
        let mut sim = Self {
            engine,
            now: START,
            pods,
            notices: Vec::new(),
        };
        sim.read(&complete());
        sim
    }

    /// Answers every look that is due with the same result.
    fn read(&mut self, seen: &Seen) {
        for uid in self.engine.due(self.now, usize::MAX, Urgency::Routine) {
            self.engine.look(self.now, &uid, look(self.now, seen.clone()));
        }
        self.notices.extend(self.engine.drain());
    }

    /// Lets time pass up to `span`, answering looks as they fall due.
    fn run(&mut self, span: Duration, seen: &Seen) {
        let end = self.now + span;
        while let Some(wake) = self.engine.next_wake().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake);
            self.engine.tick(self.now);
            self.read(seen);
        }
        self.now = end;
        self.engine.tick(end);
        self.read(seen);
    }

    fn lose(&mut self, pods: usize, seen: &Seen) {
        for uid in &self.pods[..pods] {
            self.engine.hint(self.now, uid);
        }
        self.read(seen);
    }

    fn state(&self, pod: usize) -> State {
        self.engine.view(&self.pods[pod]).unwrap().state
    }

    fn count(&self, state: State) -> usize {
        (0..self.pods.len())
            .filter(|pod| self.state(*pod) == state)
            .count()
    }

    fn ever(&self, state: State) -> bool {
        self.notices
            .iter()
            .any(|notice| matches!(notice, Notice::Pod(transition) if transition.to == state))
    }

    fn node_notices(&self, wanted: Condition) -> Vec<bool> {
        let of = |notice: &Notice| match notice {
            Notice::Node {
                condition, detail, ..
            } if *condition == wanted => Some(detail.is_some()),
            _ => None,
        };
        self.notices.iter().filter_map(of).collect()
    }
}

fn look(now: Time, seen: Seen) -> Look {
    Look {
        started: now,
        finished: now,
        seen,
        ports: PortSet::EMPTY,
        redirection: Redirection::Routed,
        rules: None,
        place: None,
    }
}

fn complete() -> Seen {
    Seen::Complete { proved: true }
}

fn none() -> Seen {
    Seen::Incomplete(PortSet::EMPTY)
}

fn some() -> Seen {
    Seen::Incomplete(PortSet::EMPTY.with(15001))
}

fn imposter() -> Seen {
    Seen::Imposter(vec![Holder {
        pid: 1,
        name: "app".into(),
        ports: PortSet::REQUIRED,
    }])
}

#[test]
fn each_loss_gets_its_own_verdict_and_no_sooner_than_the_confirmation() {
    for (seen, verdict) in [
        (none(), State::Orphan),
        (some(), State::Partial),
        (imposter(), State::Imposter),
    ] {
        let mut sim = Sim::new(2);
        sim.lose(1, &seen);
        assert_eq!(sim.state(0), State::Suspect);
        sim.run(CONFIRM - Duration::from_nanos(1), &seen);
        assert_eq!(sim.state(0), State::Suspect);
        sim.run(Duration::from_nanos(1), &seen);
        assert_eq!((sim.state(0), sim.state(1)), (verdict, State::Captured));
    }
}

#[test]
fn one_reading_that_says_otherwise_starts_the_confirmation_anew() {
    let mut sim = Sim::new(1);
    sim.lose(1, &none());
    sim.run(CONFIRM / 2, &none());
    sim.lose(1, &some());
    sim.run(CONFIRM - Duration::from_nanos(1), &none());
    assert!(!sim.ever(State::Orphan) && !sim.ever(State::Partial));
    sim.run(CONFIRM, &none());
    assert_eq!(sim.state(0), State::Orphan);
}

#[test]
fn two_readings_are_too_few_however_far_apart() {
    let mut sim = Sim::new(1);
    sim.lose(1, &none());
    // The machine stood still: nothing was read in between.
    sim.now = sim.now + CONFIRM;
    sim.read(&none());
    assert_eq!(sim.state(0), State::Suspect);
    sim.now = sim.now + CONFIRM * 3;
    sim.read(&none());
    assert_eq!(
        sim.state(0),
        State::Suspect,
        "readings so far apart prove nothing of the time between them"
    );
}

#[test]
fn an_unreadable_pod_is_never_lost() {
    let mut sim = Sim::new(1);
    let unreadable = Seen::Unreadable(Reason::Gone, "gone".into());
    sim.lose(1, &none());
    sim.run(CONFIRM / 2, &none());
    sim.lose(1, &unreadable);
    assert_eq!(sim.state(0), State::Unverifiable);
    sim.run(CONFIRM * 10, &unreadable);
    assert!(!sim.ever(State::Orphan));
    // What was read before it was unreadable counts no more.
    sim.lose(1, &none());
    sim.run(CONFIRM / 3, &none());
    sim.lose(1, &unreadable);
    sim.lose(1, &none());
    sim.run(CONFIRM - Duration::from_nanos(1), &none());
    assert_eq!(sim.state(0), State::Suspect);
}

#[test]
fn a_flap_is_counted_and_no_orphan() {
    let mut sim = Sim::new(1);
    for flap in 1..=5 {
        sim.lose(1, &none());
        sim.run(CONFIRM * 2 / 3, &none());
        sim.lose(1, &complete());
        assert_eq!(sim.state(0), State::Captured);
        assert_eq!(sim.engine.view(&sim.pods[0]).unwrap().flaps, flap);
    }
    assert!(!sim.ever(State::Orphan));
}

#[test]
fn the_census_says_captured_and_suspect_and_nothing_else() {
    let mut sim = Sim::new(1);
    sim.engine.census(sim.now, |_| Some(false));
    assert_eq!(sim.state(0), State::Suspect);
    for _ in 0..100 {
        sim.now = sim.now + CONFIRM;
        sim.engine.census(sim.now, |_| Some(false));
    }
    assert_eq!(sim.state(0), State::Suspect);
    sim.engine.census(sim.now, |_| Some(true));
    assert_eq!(sim.state(0), State::Captured);
}

/// One census in which ztunnel's listeners are all there, with these rules.
fn census(sim: &mut Sim, netns: u64, verdict: Rules) {
    let family = FamilyRules {
        verdict,
        ..FamilyRules::unknown(Unfollowed::Foreign)
    };
    sim.engine.rules(sim.now, |_| {
        Some(RulesRead {
            place: Place { netns, start: 1 },
            complete: true,
            rules: PodRules::of(family, family, &[]),
        })
    });
    sim.engine.census(sim.now, |_| Some(true));
    sim.notices.extend(sim.engine.drain());
}

/// So many connections more that the pod opened, and so many more halves of ztunnel's.
fn connections(sim: &mut Sim, counts: &mut TrafficCounts, opened: u64, taken: u64) {
    counts.opened_ipv4 += opened;
    counts.taken_outbound += taken;
    let counted = Counted::of(*counts, &[]);
    sim.engine.traffic(sim.now, |_| Some(counted));
}

#[test]
fn rules_in_part_are_bypassing_where_connections_prove_it_and_captured_where_they_do_not() {
    for hint in [Rules::Differs, Rules::Fell, Rules::Present, Rules::Unknown] {
        let mut sim = Sim::new(1);
        let counts = &mut TrafficCounts::default();
        // What went past before proves nothing of these rules.
        connections(&mut sim, counts, 0, 0);
        sim.now = sim.now + LEAST_TIME;
        connections(&mut sim, counts, 1000, 0);
        census(&mut sim, 7, Rules::Present);
        let look = |sim: &mut Sim, counts: &mut TrafficCounts, opened, taken| {
            sim.now = sim.now + LEAST_TIME.max(CONFIRM);
            connections(sim, counts, opened, taken);
            census(sim, 7, hint);
        };
        look(&mut sim, counts, 0, 0);
        // No traffic, traffic through ztunnel, and too little past it.
        for (opened, taken) in [
            (0, 0),
            (1000, 1000),
            (1000, 1),
            (LEAST_CONNECTIONS - 1, 0),
            (0, 0),
        ] {
            look(&mut sim, counts, opened, taken);
            assert_eq!(sim.state(0), State::Captured, "{hint}: {opened} {taken}");
        }
        look(&mut sim, counts, LEAST_CONNECTIONS, 0);
        assert_eq!(
            sim.state(0),
            State::Captured,
            "{hint}: one census confirms nothing"
        );
        look(&mut sim, counts, 0, 0);
        let proves = matches!(hint, Rules::Differs | Rules::Fell);
        let verdict = if proves { State::Bypassing } else { State::Captured };
        assert_eq!(sim.state(0), verdict, "{hint}");
        if proves {
            look(&mut sim, counts, 0, 0);
            assert_eq!(sim.state(0), State::Bypassing, "{hint}: silence is no recovery");
            look(&mut sim, counts, 1, 1);
            assert_eq!(sim.state(0), State::Captured, "{hint}: ztunnel took one");
        }
    }
}

#[test]
fn only_rules_that_are_absent_twice_a_confirmation_apart_are_gone() {
    let mut sim = Sim::new(1);
    census(&mut sim, 7, Rules::Present);
    for hint in [Rules::Differs, Rules::Fell, Rules::Unknown] {
        for _ in 0..5 {
            sim.now = sim.now + CONFIRM;
            census(&mut sim, 7, hint);
        }
        assert_eq!(sim.state(0), State::Captured, "{hint}");
    }
    census(&mut sim, 7, Rules::Absent);
    let again = sim.engine.wants_rules_at();
    assert_eq!(again, Some(sim.now + CONFIRM));
    sim.now = sim.now + CONFIRM / 2;
    census(&mut sim, 7, Rules::Absent);
    assert_eq!(sim.state(0), State::Captured, "many censuses are no confirmation");
    // Another namespace begins anew, and what was not seen confirms nothing.
    census(&mut sim, 8, Rules::Absent);
    sim.now = sim.now + CONFIRM / 2;
    census(&mut sim, 8, Rules::Absent);
    sim.engine.rules(sim.now, |_| None);
    sim.now = sim.now + CONFIRM / 2;
    census(&mut sim, 8, Rules::Absent);
    assert_eq!(sim.state(0), State::Captured);
    sim.now = sim.now + CONFIRM;
    census(&mut sim, 8, Rules::Absent);
    assert_eq!(sim.state(0), State::Bypassing);
    assert_eq!(sim.engine.wants_rules_at(), None);
    // Neither listeners nor what cannot be told end it.
    let uid = sim.pods[0].clone();
    sim.engine.look(sim.now, &uid, look(sim.now, complete()));
    census(&mut sim, 8, Rules::Unknown);
    assert_eq!(sim.state(0), State::Bypassing);
    let view = sim.engine.view(&uid).unwrap();
    assert_eq!(
        (view.owner, view.streak.unwrap().readings),
        (Some(Owner::Ztunnel), 2)
    );
    assert!(
        view.captured_at < view.streak.unwrap().first,
        "nobody saw it captured since"
    );
    census(&mut sim, 8, Rules::Present);
    assert_eq!(sim.state(0), State::Captured);
}

#[test]
fn no_rules_are_judged_while_the_node_is_at_fault() {
    let mut sim = Sim::new(1);
    census(&mut sim, 7, Rules::Absent);
    sim.engine.ztunnel(sim.now, Ztunnel::default());
    assert!(sim.engine.node_fault().is_some());
    for _ in 0..5 {
        sim.now = sim.now + CONFIRM;
        census(&mut sim, 7, Rules::Absent);
    }
    assert_ne!(sim.state(0), State::Bypassing);
}

#[test]
fn a_look_that_began_before_the_pod_was_seen_captured_is_not_believed() {
    let mut sim = Sim::new(1);
    sim.engine.census(sim.now, |_| Some(false));
    let due = sim.engine.due(sim.now, usize::MAX, Urgency::Routine);
    let began = sim.now;
    sim.now = sim.now + Duration::from_millis(1);
    sim.engine.census(sim.now, |_| Some(true));
    sim.now = sim.now + Duration::from_millis(1);
    sim.engine.look(sim.now, &due[0], look(began, none()));
    assert_eq!(sim.state(0), State::Captured);
    assert_eq!(
        sim.engine.due(sim.now, usize::MAX, Urgency::Routine),
        due,
        "and the pod is looked at again"
    );
}

#[test]
fn a_complete_look_that_began_before_the_loss_is_no_recovery() {
    let mut sim = Sim::new(1);
    sim.engine.hint(sim.now, &sim.pods[0]);
    let due = sim.engine.due(sim.now, usize::MAX, Urgency::Routine);
    let began = sim.now;
    sim.now = sim.now + Duration::from_millis(1);
    sim.engine.reported(&due[0], sim.now);
    sim.engine.census(sim.now, |_| Some(false));
    sim.now = sim.now + Duration::from_millis(1);
    sim.engine.look(sim.now, &due[0], look(began, complete()));
    assert_eq!(sim.state(0), State::Suspect);
    assert_eq!(sim.engine.view(&due[0]).unwrap().flaps, 0);
    sim.read(&complete());
    assert_eq!(sim.state(0), State::Captured);
}

#[test]
fn a_dead_ztunnel_is_the_node_s_fault_and_no_pod_s() {
    let mut sim = Sim::new(200);
    sim.engine.ztunnel(sim.now, Ztunnel::default());
    sim.lose(200, &none());
    sim.run(CONFIRM * 6, &none());
    assert_eq!(sim.count(State::Suspect), 200);
    sim.engine.ztunnel(sim.now, ztunnel(8));
    sim.run(SETTLE - Duration::from_nanos(1), &none());
    assert_eq!(sim.count(State::Suspect), 200);
    sim.run(Duration::from_secs(1), &complete());
    assert_eq!(sim.count(State::Captured), 200);
    assert!(!sim.ever(State::Orphan));
    assert!(sim.node_notices(Condition::MassLoss).is_empty());
    // Begun at the start until ztunnel was seen; then absent, then settling, then over.
    assert_eq!(sim.node_notices(Condition::NodeFault), [false, true, true, false]);
}

#[test]
fn of_the_lost_one_after_the_other_is_a_sample_while_ztunnel_settles_and_only_then() {
    let mut sim = Sim::new(3);
    assert!(!sim.engine.wants_samples(), "nothing is wrong");
    sim.engine.ztunnel(sim.now, ztunnel(8));
    sim.lose(3, &none());
    assert_eq!(sim.count(State::Suspect), 3);
    assert!(sim.engine.wants_samples());
    let mut read = Vec::new();
    for _ in 0..3 {
        sim.now = sim.now + Duration::from_secs(1);
        sim.engine.sample(sim.now);
        let due = sim.engine.due(sim.now, usize::MAX, Urgency::Routine);
        assert_eq!(due.len(), 1);
        sim.engine.look(sim.now, &due[0], look(sim.now, none()));
        read.extend(due);
    }
    read.sort();
    assert_eq!(read, sim.pods, "each has its turn");
    // One that is back wakes the others.
    sim.now = sim.now + Duration::from_secs(1);
    sim.engine.sample(sim.now);
    sim.read(&complete());
    assert_eq!(sim.count(State::Captured), 1);
    sim.read(&complete());
    assert_eq!(sim.count(State::Captured), 3);
    assert!(!sim.ever(State::Orphan) && !sim.engine.wants_samples());
}

#[test]
fn the_oldest_reading_is_the_next_and_what_was_begun_is_ended_first() {
    let mut sim = Sim::new(4);
    let pods = sim.pods.clone();
    let second = Duration::from_secs(1);
    // Read at different times, in this order.
    for pod in [2, 0, 3, 1] {
        sim.now = sim.now + second;
        sim.engine.hint(sim.now, &pods[pod]);
        sim.read(&complete());
    }
    sim.now = sim.now + second;
    sim.engine.sweep(sim.now, |_, _| true);
    assert_eq!(
        sim.engine.due(sim.now, 2, Urgency::Routine),
        [pods[2].clone(), pods[0].clone()]
    );
    // A confirmation that is due goes before those that are only known.
    sim.engine.look(sim.now, &pods[0], look(sim.now, none()));
    sim.now = sim.now + CONFIRM;
    assert_eq!(sim.engine.due(sim.now, 1, Urgency::Routine), [pods[0].clone()]);
    assert_eq!(sim.engine.due(sim.now, 9, Urgency::Evidence), []);
    // Also before one that was never read.
    let new = PodUid::parse("ffffffff-0000-0000-0000-000000000000").unwrap();
    sim.engine.look(sim.now, &pods[0], look(sim.now, none()));
    sim.engine.pod(sim.now, &new, Expectation::Expected);
    sim.now = sim.now + CONFIRM;
    assert_eq!(
        sim.engine.due(sim.now, 2, Urgency::Evidence),
        [pods[0].clone(), new]
    );
    assert_eq!(sim.engine.due(sim.now, 1, Urgency::Routine), [pods[3].clone()]);
}

#[test]
fn nothing_that_was_seen_holds_for_another_namespace() {
    let mut sim = Sim::new(1);
    let uid = sim.pods[0].clone();
    let began = sim.now;
    sim.now = sim.now + Duration::from_secs(1);
    sim.engine.hint(sim.now, &uid);
    let due = sim.engine.due(sim.now, 1, Urgency::Routine);
    sim.now = sim.now + Duration::from_millis(1);
    sim.engine.replaced(sim.now, &uid, sim.now);
    sim.engine.look(sim.now, &due[0], look(began, complete()));
    let view = sim.engine.view(&uid).unwrap();
    assert_eq!(
        (view.state, view.reason),
        (State::Unverifiable, Some(Reason::Replaced))
    );
    // A reading that finds no process yet says nothing new.
    sim.read(&Seen::Unreadable(Reason::NoProcess, String::new()));
    assert_eq!(sim.engine.view(&uid).unwrap().reason, Some(Reason::Replaced));
    sim.engine.hint(sim.now, &uid);
    sim.read(&none());
    assert_eq!(sim.state(0), State::Suspect);
}

#[test]
fn an_undeclared_pod_is_expected_only_by_evidence() {
    let mut sim = Sim::new(0);
    let uid = PodUid::parse("00000000-0000-0000-0000-000000000001").unwrap();
    sim.pods.push(uid.clone());
    sim.engine.pod(sim.now, &uid, Expectation::Undeclared);
    let unrouted = |now| Look {
        redirection: Redirection::Absent,
        ..look(now, none())
    };
    let due = sim.engine.due(sim.now, usize::MAX, Urgency::Routine);
    sim.engine.look(sim.now, &due[0], unrouted(sim.now));
    assert_eq!(sim.state(0), State::Exempt);
    sim.lose(1, &complete());
    assert_eq!(sim.state(0), State::Captured);
    sim.engine.hint(sim.now, &uid);
    let due = sim.engine.due(sim.now, usize::MAX, Urgency::Routine);
    sim.engine.look(sim.now, &due[0], unrouted(sim.now));
    assert_eq!(sim.state(0), State::Suspect, "it was captured before");
}

/// Whatever a pod shows, and however time passes: an orphan had nothing but empty readings for the
/// whole confirmation, three at least, under a ztunnel that was healthy all the while.
#[test]
fn an_orphan_was_proved() {
    let orphans = Cell::new(0);
    let steps = proptest::collection::vec((0_u8..24, 1_u64..6_000), 1..400);
    let mut runner = TestRunner::new(ProptestConfig::default());
    runner.run(&steps, |steps| check_proof(steps, &orphans)).unwrap();
    assert!(
        orphans.get() > 100,
        "only {} orphans: the runs were too quiet to prove anything",
        orphans.get()
    );
}

fn check_proof(steps: Vec<(u8, u64)>, orphans: &Cell<u32>) -> Result<(), TestCaseError> {
    let mut sim = Sim::new(1);
    // Readings in a row that were empty while the node was healthy, and when the first of them ended.
    let (mut empty, mut since) = (0, sim.now);
    for (what, millis) in steps {
        sim.now = sim.now + Duration::from_millis(millis);
        sim.engine.tick(sim.now);
        let healthy = sim.engine.node_fault().is_none();
        let seen = match what {
            0 => Seen::Unreadable(Reason::ReadFailed, String::new()),
            1 => complete(),
            2 => some(),
            3 => {
                let changed = if healthy {
                    Ztunnel::default()
                } else {
                    ztunnel(u32::try_from(millis).unwrap())
                };
                sim.engine.ztunnel(sim.now, changed);
                empty = 0;
                continue;
            }
            _ => none(),
        };
        if !healthy {
            empty = 0;
        }
        sim.engine.hint(sim.now, &sim.pods[0]);
        for uid in sim.engine.due(sim.now, usize::MAX, Urgency::Routine) {
            let before = sim.state(0);
            sim.engine.look(sim.now, &uid, look(sim.now, seen.clone()));
            if seen == none() && healthy {
                since = if empty == 0 { sim.now } else { since };
                empty += 1;
            } else {
                empty = 0;
            }
            if sim.state(0) == State::Orphan && before != State::Orphan {
                orphans.set(orphans.get() + 1);
                prop_assert!(empty >= 3, "{empty} readings");
                prop_assert!(sim.now.since(since) >= CONFIRM);
            }
        }
    }
    Ok(())
}
