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

/// Who repairs in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Agents,
    /// The agents only look and prove.
    People,
}

/// A short run in which much goes wrong.
fn plan(seed: u64, who: Who) -> Plan {
    let mut plan = Plan::new(seed);
    plan.span = 30 * HOUR;
    plan.gap = 12 * MINUTE;
    match who {
        Who::Agents => plan.people = 0,
        Who::People => {
            (plan.people, plan.asks) = (4, 2 * MINUTE);
            (plan.rules.ready, plan.rules.stuck) = (false, false);
        }
    }
    plan
}

fn short(seed: u64, who: Who) -> (Rules, Run) {
    let plan = plan(seed, who);
    (plan.rules.clone(), Sim::run(plan))
}

/// The rules that a run breaks.
fn broken(seed: u64, who: Who) -> Vec<u8> {
    let (rules, run) = short(seed, who);
    judge(&rules, &run.trace)
        .iter()
        .map(|breach| breach.rule)
        .collect()
}

/// How many runs it takes to see that a defence is missing.
fn missed(who: Who, out: Defence, rule: u8) -> Option<u64> {
    OUT.set(Some(out));
    let seen = (0..RUNS).find(|seed| broken(1000 + seed, who).contains(&rule));
    OUT.set(None);
    seen
}

#[test]
fn with_all_defences_in_place_short_runs_are_clean() {
    for seed in 1000..1000 + CLEAN {
        for who in [Who::Agents, Who::People] {
            let (rules, run) = short(seed, who);
            let told = super::told(seed, &judge(&rules, &run.trace), &run.trace);
            assert!(told.is_empty(), "a short run of {who:?}, {}", told.join("\n"));
        }
    }
}

/// What keeps agents from doing harm, and the rule that is broken without it.
fn of_agents() -> Vec<(Defence, u8)> {
    let reason = Defence::Reason;
    vec![
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
        (Defence::Before, 6),
        (Defence::Place, 6),
        (Defence::Once, 6),
        (Defence::Doubt, 7),
        (Defence::Rehearsal, 5),
        (Defence::Aftermath, 6),
        (Defence::Grace, 6),
        (reason(Withheld::OptedOutPod), 8),
        (reason(Withheld::OptedOutNamespace), 8),
        (reason(Withheld::Toggling), 9),
        (reason(Withheld::Untrusted), 10),
        (reason(Withheld::OwnerDegraded), 11),
    ]
}

/// What of it keeps people from it, too.
fn of_people() -> Vec<(Defence, u8)> {
    let reason = Defence::Reason;
    vec![
        (reason(Withheld::NodeFault), 2),
        (reason(Withheld::MeshFault), 2),
        (reason(Withheld::Cordoned), 2),
        (reason(Withheld::Paused), 2),
        (reason(Withheld::Guessed), 2),
        (reason(Withheld::NotProved), 2),
        (reason(Withheld::Imposter), 2),
        (Defence::Look, 2),
        (Defence::Check, 3),
        (reason(Withheld::StaticPod), 4),
        (reason(Withheld::UnknownController), 4),
        (reason(Withheld::JobPod), 4),
        (Defence::Refusal, 3),
        (reason(Withheld::BreakerOwner), 6),
        (reason(Withheld::BreakerNode), 6),
        (reason(Withheld::BreakerCluster), 6),
        (reason(Withheld::InFlightOwner), 7),
        (reason(Withheld::InFlightNode), 7),
        (reason(Withheld::Cooldown), 7),
        (Defence::Lease, 7),
        (Defence::Before, 6),
        (Defence::Place, 6),
        (Defence::Doubt, 7),
        (Defence::Rehearsal, 5),
        (Defence::Aftermath, 6),
        (Defence::Grace, 6),
        (reason(Withheld::OptedOutPod), 8),
        (reason(Withheld::OptedOutNamespace), 8),
        (reason(Withheld::Toggling), 9),
        (reason(Withheld::Untrusted), 10),
        (reason(Withheld::OwnerDegraded), 11),
    ]
}

#[test]
fn every_defence_is_missed() {
    let of =
        |who, defences: Vec<(Defence, u8)>| defences.into_iter().map(move |(out, rule)| (who, out, rule));
    let defences: Vec<_> = of(Who::Agents, of_agents())
        .chain(of(Who::People, of_people()))
        .collect();
    // The ones that take long lie side by side: both threads get some of them.
    let half = |odd: usize| -> Vec<_> {
        let mine = defences
            .iter()
            .copied()
            .enumerate()
            .filter(move |(n, _)| n % 2 == odd);
        mine.map(|(_, (who, out, rule))| (who, out, missed(who, out, rule)))
            .collect()
    };
    let seen = std::thread::scope(|scope| {
        let halves = [0, 1].map(|odd| scope.spawn(move || half(odd)));
        halves.map(|half| half.join().expect("a simulation does not panic"))
    });
    let unseen: Vec<_> = seen
        .iter()
        .flatten()
        .filter(|(.., runs)| runs.is_none())
        .collect();
    writeln!(std::io::stderr(), "runs until a defence was missed: {seen:?}").ok();
    assert!(unseen.is_empty(), "nobody would miss {unseen:?}");
}
