// SPDX-License-Identifier: Apache-2.0
//! Policies that admit an app's port between pods of the mesh, and not 15008, by which they really talk.

use std::collections::{BTreeMap, BTreeSet};

use meshmedic_common::ztunnel_log::HBONE_PORT;

use super::remedy::{Change, Fault, because, names, pods, unreached};
use crate::doctor::finding::{Cut, Finding};
use crate::doctor::policy::{Direction, Gap};
use crate::doctor::view::View;

/// How many ports are named.
const PORTS: usize = 5;

pub(super) fn ingress<'v>(view: &'v View<'_>) -> Vec<Fault<'v>> {
    faults(view, Direction::Ingress)
}

pub(super) fn egress<'v>(view: &'v View<'_>) -> Vec<Fault<'v>> {
    faults(view, Direction::Egress)
}

/// One fault a policy.
fn faults<'v>(view: &'v View<'_>, direction: Direction) -> Vec<Fault<'v>> {
    let mut by_policy: BTreeMap<usize, Vec<&'v Gap>> = BTreeMap::new();
    for gap in view
        .hbone_gaps()
        .gaps
        .iter()
        .filter(|gap| gap.direction == direction)
    {
        by_policy.entry(gap.rule.policy).or_default().push(gap);
    }
    let faults = by_policy.into_iter();
    faults
        .map(|(policy, gaps)| fault(view, direction, policy, gaps))
        .collect()
}

fn fault<'v>(view: &'v View<'_>, direction: Direction, policy: usize, gaps: Vec<&'v Gap>) -> Fault<'v> {
    let (problem, side) = match direction {
        Direction::Ingress => (
            "it admits pods of the mesh to a port of an app, and not to 15008, by which they come",
            "ingress",
        ),
        Direction::Egress => (
            "it lets pods out to a port of the mesh's apps, and not to 15008, by which they go",
            "egress",
        ),
    };
    let rules = gaps.iter().map(|gap| (gap.direction, gap.rule.rule)).collect();
    let same = gaps.clone();
    Fault {
        policy,
        problem,
        change: Change::OpenHbone(rules),
        cured: Box::new(move |changed| changed.close(&gaps)),
        finding: Box::new(move |finding| words(finding, view, side, direction, &same)),
    }
}

fn words(finding: Finding, view: &View<'_>, side: &str, direction: Direction, gaps: &[&Gap]) -> Finding {
    let mut by_rule: BTreeMap<usize, Vec<&Gap>> = BTreeMap::new();
    for gap in gaps {
        by_rule.entry(gap.rule.rule).or_default().push(gap);
    }
    let sentences = by_rule.values().map(|gaps| sentence(view, side, gaps));
    let finding = because(finding, sentences);
    let isolating: BTreeSet<usize> = gaps
        .iter()
        .filter_map(|gap| view.network_policies().members(gap.class).first())
        .flat_map(|&pod| view.network_policies().isolating(pod, direction))
        .collect();
    let isolating: Vec<usize> = isolating.into_iter().collect();
    finding
        .because(format!(
            "no rule of {} admits TCP {HBONE_PORT} there",
            names(view, &isolating)
        ))
        .cutting(cuts(view, gaps))
        .so(
            "Pods of the mesh, its gateways and its sidecars tunnel what they send to these pods to port 15008, and a \
             network plugin that enforces policies enforces them on that: these connections hang for ten seconds and \
             fail, while the same connections from outside the mesh pass.",
        )
}

/// Who does not reach whom by these gaps.
fn cuts(view: &View<'_>, gaps: &[&Gap]) -> Vec<Cut> {
    let policies = view.network_policies();
    let ends = gaps.iter().map(|gap| {
        let theirs = gap.peers.ones().flat_map(|class| policies.members(class));
        let theirs: BTreeSet<usize> = theirs.copied().collect();
        let ours = policies.members(gap.class).iter().copied().collect();
        match gap.direction {
            Direction::Ingress => (theirs, ours),
            Direction::Egress => (ours, theirs),
        }
    });
    unreached(view, ends)
}

/// What one rule admits, by all its gaps.
fn sentence(view: &View<'_>, side: &str, gaps: &[&Gap]) -> String {
    let policies = view.network_policies();
    let ours: BTreeSet<usize> = gaps.iter().map(|gap| gap.class).collect();
    let theirs: BTreeSet<usize> = gaps.iter().flat_map(|gap| gap.peers.ones()).collect();
    let words = |classes: &BTreeSet<usize>| {
        let members = classes.iter().flat_map(|&class| policies.members(class));
        pods(view, members.copied())
    };
    let direction = gaps.first().map(|gap| gap.direction);
    let (from, to) = match direction {
        Some(Direction::Egress) => (&ours, &theirs),
        _ => (&theirs, &ours),
    };
    let ports: BTreeSet<u16> = gaps
        .first()
        .into_iter()
        .flat_map(|gap| {
            to.iter()
                .flat_map(|&class| policies.served_through(gap.rule, gap.direction, class))
        })
        .collect();
    let ports: Vec<String> = ports.iter().take(PORTS).map(ToString::to_string).collect();
    format!(
        "spec.{side}[{}] admits TCP {} from {} to {}",
        gaps.first().map_or(0, |gap| gap.rule.rule),
        ports.join(", "),
        words(from),
        words(to)
    )
}
