// SPDX-License-Identifier: Apache-2.0
//! Policies that admit an app's port between pods of the mesh, and not 15008, by which they really talk.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::networking::v1::NetworkPolicySpec;
use meshmedic_common::ztunnel_log::HBONE_PORT;

use super::remedy::{because, names, object, offer, pods, policy, tcp};
use crate::doctor::finding::Finding;
use crate::doctor::policy::{Direction, Gap};
use crate::doctor::view::View;

/// How many ports are named.
const PORTS: usize = 5;

pub(super) fn ingress(view: &View<'_>) -> Vec<Finding> {
    run(view, Direction::Ingress)
}

pub(super) fn egress(view: &View<'_>) -> Vec<Finding> {
    run(view, Direction::Egress)
}

/// One finding a policy.
fn run(view: &View<'_>, direction: Direction) -> Vec<Finding> {
    let mut by_policy: BTreeMap<usize, Vec<&Gap>> = BTreeMap::new();
    for gap in view
        .hbone_gaps()
        .gaps
        .iter()
        .filter(|gap| gap.direction == direction)
    {
        by_policy.entry(gap.rule.policy).or_default().push(gap);
    }
    let findings = by_policy.into_iter();
    findings
        .filter_map(|(place, gaps)| finding(view, direction, place, &gaps))
        .collect()
}

fn finding(view: &View<'_>, direction: Direction, place: usize, gaps: &[&Gap]) -> Option<Finding> {
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
    let mut by_rule: BTreeMap<usize, Vec<&Gap>> = BTreeMap::new();
    for gap in gaps {
        by_rule.entry(gap.rule.rule).or_default().push(gap);
    }
    let sentences = by_rule.values().map(|gaps| sentence(view, side, gaps));
    let finding = because(Finding::on(object(policy(view, place)?), problem), sentences);
    let isolating: BTreeSet<usize> = gaps
        .iter()
        .filter_map(|gap| view.network_policies().members(gap.class).first())
        .flat_map(|&pod| view.network_policies().isolating(pod, direction))
        .collect();
    let isolating: Vec<usize> = isolating.into_iter().collect();
    let finding = finding
        .because(format!(
            "no rule of {} admits TCP {HBONE_PORT} there",
            names(view, &isolating)
        ))
        .so(
            "Between pods of the mesh ztunnel tunnels every connection to port 15008, and a network plugin that \
             enforces policies enforces them on that: these connections hang for ten seconds and fail, while the same \
             connections from outside the mesh pass.",
        );
    Some(offer(
        finding,
        view,
        place,
        |spec| open(spec, gaps),
        |changed| changed.close(gaps),
    ))
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

/// Adds 15008 to each rule that forgot it.
fn open(spec: &mut NetworkPolicySpec, gaps: &[&Gap]) {
    let rules: BTreeSet<_> = gaps.iter().map(|gap| (gap.direction, gap.rule.rule)).collect();
    for (direction, rule) in rules {
        let ports = match direction {
            Direction::Ingress => {
                let rules = spec.ingress.as_mut();
                rules
                    .and_then(|rules| rules.get_mut(rule))
                    .map(|rule| &mut rule.ports)
            }
            Direction::Egress => {
                let rules = spec.egress.as_mut();
                rules
                    .and_then(|rules| rules.get_mut(rule))
                    .map(|rule| &mut rule.ports)
            }
        };
        if let Some(Some(ports)) = ports {
            ports.push(tcp(HBONE_PORT));
        }
    }
}
