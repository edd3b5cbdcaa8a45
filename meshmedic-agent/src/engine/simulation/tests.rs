// SPDX-License-Identifier: Apache-2.0
//! `MESHMEDIC_SEED` repeats one run, `MESHMEDIC_NODE_DAYS` says how much is simulated.

mod forged;
mod mutants;
mod scenes;

use std::io::Write;

use super::judge::{Breach, judge};
use super::tally::Tally;
use super::trace::{Event, What};
use super::{Plan, START, Sim};
use meshmedic_common::time::Time;

/// How much is simulated on an ordinary run.
const NODE_DAYS: u64 = 10_000;
/// The first seed of an ordinary run.
const SEED: u64 = 1;

/// So much is shown of what led up to a breach.
const HISTORY: usize = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What led up to an instant, but for the readings.
fn history(trace: &[Event], until: Time) -> String {
    let told = |event: &&Event| event.at <= until && !matches!(event.what, What::Read { .. });
    let mut lines: Vec<String> = trace
        .iter()
        .rev()
        .filter(told)
        .take(HISTORY)
        .map(|event| format!("  {} {:?}", event.at.since(START).as_millis(), event.what))
        .collect();
    lines.reverse();
    lines.join("\n")
}

/// Each breach with what led up to it.
fn told(seed: u64, breaches: &[Breach], trace: &[Event]) -> Vec<String> {
    let told = breaches.iter().map(|breach| {
        let before = history(trace, breach.at);
        format!("MESHMEDIC_SEED={seed}: {breach}, after\n{before}")
    });
    told.collect()
}

/// One run; what it did, and what was wrong with it.
fn once(seed: u64) -> (Tally, Vec<String>) {
    let plan = Plan::new(seed);
    let rules = plan.rules.clone();
    let run = Sim::run(plan);
    let breaches = judge(&rules, &run.trace);
    (run.tally, told(seed, &breaches, &run.trace))
}

/// Every second seed from this one on, until that many node-days have passed.
fn many(first: u64, step: u64, node_days: u64) -> (Tally, Vec<String>) {
    let (mut tally, mut breaches, mut seed) = (Tally::default(), Vec::new(), first);
    while tally.node_days < node_days && breaches.len() < 20 {
        let (more, wrong) = once(seed);
        tally.add(&more);
        breaches.extend(wrong);
        seed += step;
    }
    (tally, breaches)
}

#[test]
fn no_rule_is_broken_in_ten_thousand_node_days() {
    if let Some(seed) = number("MESHMEDIC_SEED") {
        let (tally, breaches) = once(seed);
        assert!(breaches.is_empty(), "{tally}\n{}", breaches.join("\n"));
        return;
    }
    let node_days = number("MESHMEDIC_NODE_DAYS").unwrap_or(NODE_DAYS);
    let halves = std::thread::scope(|scope| {
        let threads = [0, 1].map(|n| scope.spawn(move || many(SEED + n, 2, node_days.div_ceil(2))));
        threads.map(std::thread::ScopedJoinHandle::join)
    });
    let (mut tally, mut breaches) = (Tally::default(), Vec::new());
    for half in halves {
        let (more, wrong) = half.expect("a simulation does not panic");
        tally.add(&more);
        breaches.extend(wrong);
    }
    // Shown by `--nocapture`, and with every failure.
    let mut shown = std::io::stderr();
    write!(shown, "{tally}").ok();
    assert!(breaches.is_empty(), "{tally}\n{}", breaches.join("\n"));
    if node_days >= NODE_DAYS {
        let quiet = tally.too_quiet(100, 10);
        assert!(quiet.is_empty(), "{tally}\n{}", quiet.join("\n"));
    }
}
