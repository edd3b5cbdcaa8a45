// SPDX-License-Identifier: Apache-2.0
//! One defence taken out at a time: a short run must show which rule it kept.

use std::io::Write;

use meshmedic_common::policy::Withheld;

use super::super::judge::judge;
use super::super::trace::Rules;
use super::super::{HOUR, MINUTE, Plan, Run, Sim};
use meshmedic_common::repair::sabotage::{Defence, OUT};

/// So many runs are tried at most before a defence counts as one that nobody would miss.
const RUNS: u64 = 300;
/// So many runs must be clean with all defences in place.
const CLEAN: u64 = 60;

/// A short run in which much goes wrong.
fn plan(seed: u64) -> Plan {
    let mut plan = Plan::new(seed);
    plan.span = 30 * HOUR;
    plan.gap = 12 * MINUTE;
    plan
}

fn short(seed: u64) -> (Rules, Run) {
    let plan = plan(seed);
    (plan.rules.clone(), Sim::run(plan))
}

/// The rules that a run breaks.
fn broken(seed: u64) -> Vec<u8> {
    let (rules, run) = short(seed);
    judge(&rules, &run.trace)
        .iter()
        .map(|breach| breach.rule)
        .collect()
}

/// How many runs it takes to see that a defence is missing.
fn missed(out: Defence, rule: u8) -> Option<u64> {
    OUT.set(Some(out));
    let seen = (0..RUNS).find(|seed| broken(1000 + seed).contains(&rule));
    OUT.set(None);
    seen
}

#[test]
fn with_all_defences_in_place_short_runs_are_clean() {
    for seed in 1000..1000 + CLEAN {
        let (rules, run) = short(seed);
        let told = super::told(seed, &judge(&rules, &run.trace), &run.trace);
        assert!(told.is_empty(), "a short run, {}", told.join("\n"));
    }
}

#[test]
fn every_defence_is_missed() {
    let reason = Defence::Reason;
    let defences = [
        (reason(Withheld::GracePeriod), 1),
        (reason(Withheld::NodeFault), 2),
        (reason(Withheld::MeshFault), 2),
        (reason(Withheld::Cordoned), 2),
        (reason(Withheld::Paused), 2),
        (reason(Withheld::Guessed), 2),
        (reason(Withheld::NotProved), 2),
        (reason(Withheld::ByHand), 2),
        (reason(Withheld::Imposter), 2),
        (Defence::Confirmation, 2),
        (Defence::Settling, 2),
        (Defence::Agreement, 2),
        (Defence::Look, 2),
        (Defence::Check, 3),
        (reason(Withheld::StaticPod), 4),
        (reason(Withheld::UnknownController), 4),
        (reason(Withheld::JobPod), 4),
        (Defence::Refusal, 3),
        (reason(Withheld::Canary), 6),
        (reason(Withheld::BreakerOwner), 6),
        (reason(Withheld::BreakerNode), 6),
        (reason(Withheld::BreakerCluster), 6),
        (reason(Withheld::InFlightOwner), 7),
        (reason(Withheld::InFlightNode), 7),
        (reason(Withheld::NoSlot), 7),
        (reason(Withheld::BudgetNode), 7),
        (reason(Withheld::BudgetCluster), 7),
        (reason(Withheld::Cooldown), 7),
        (Defence::Spending, 7),
        (Defence::Lease, 7),
        (Defence::Doubt, 7),
        (reason(Withheld::OptedOutPod), 8),
        (reason(Withheld::OptedOutNamespace), 8),
        (reason(Withheld::Toggling), 9),
        (reason(Withheld::Untrusted), 10),
    ];
    // The ones that take long lie side by side: both threads get some of them.
    let half = |odd: usize| {
        let mine = defences
            .into_iter()
            .enumerate()
            .filter(move |(n, _)| n % 2 == odd);
        mine.map(|(_, (out, rule))| (out, missed(out, rule)))
            .collect::<Vec<_>>()
    };
    let seen = std::thread::scope(|scope| {
        let halves = [0, 1].map(|odd| scope.spawn(move || half(odd)));
        halves.map(|half| half.join().expect("a simulation does not panic"))
    });
    let unseen: Vec<_> = seen.iter().flatten().filter(|(_, runs)| runs.is_none()).collect();
    writeln!(std::io::stderr(), "runs until a defence was missed: {seen:?}").ok();
    assert!(unseen.is_empty(), "nobody would miss {unseen:?}");
}
