// SPDX-License-Identifier: Apache-2.0
//! HBONE connections that ztunnels saw time out, and the policies that explain them.

use std::collections::BTreeMap;

use meshmedic_common::ztunnel_log::HBONE_PORT;

use super::remedy::{names, object, policy};
use crate::doctor::finding::Finding;
use crate::doctor::policy::{Direction, Peer, Protocol};
use crate::doctor::snapshot::{Link, LinkKind, Sighting};
use crate::doctor::view::{PodView, View};

/// A connection or two may time out because a node died.
const ENOUGH: u64 = 3;

/// Two pods, and what the logs say of them.
struct Pair<'v, 's> {
    source: (usize, &'v PodView<'s>),
    destination: (usize, &'v PodView<'s>),
    seen: &'v Sighting,
}

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let links = view.snapshot.links(LinkKind::HboneTimeout);
    let mut explained: BTreeMap<(usize, Direction), Vec<Pair<'_, '_>>> = BTreeMap::new();
    let mut findings = Vec::new();
    for pair in links.filter_map(|link| pair(view, link)) {
        match denied(view, &pair) {
            Some((policy, direction)) => explained.entry((policy, direction)).or_default().push(pair),
            None if pair.seen.count >= ENOUGH => findings.push(unexplained(&pair)),
            None => {}
        }
    }
    let of_policies = explained.into_iter();
    findings.extend(of_policies.filter_map(|((place, direction), pairs)| {
        let (problem, code) = match direction {
            Direction::Ingress => (
                "pods of the mesh try in vain to reach its pods on port 15008",
                "MM0501",
            ),
            Direction::Egress => (
                "its pods try in vain to reach others of the mesh on port 15008",
                "MM0502",
            ),
        };
        Some(of_policy(
            view,
            Finding::on(object(policy(view, place)?), problem),
            &pairs,
            direction,
            code,
        ))
    }));
    findings
}

fn of_policy(
    view: &View<'_>,
    mut finding: Finding,
    pairs: &[Pair<'_, '_>],
    direction: Direction,
    code: &str,
) -> Finding {
    for pair in pairs.iter().take(3) {
        finding = finding.because(seen(pair));
    }
    if let Some(pair) = pairs.first() {
        let (pod, other) = match direction {
            Direction::Ingress => (pair.destination.0, "from there"),
            Direction::Egress => (pair.source.0, "to there"),
        };
        let isolating = view.network_policies().isolating(pod, direction);
        finding = finding.because(format!(
            "no rule of {} admits TCP {HBONE_PORT} {other}",
            names(view, &isolating)
        ));
    }
    finding
        .so("These connections hang for ten seconds and fail.")
        .by_hand(format!(
            "If the policies admit the port that these pods mean, {code} has found it too and has the patch. If they \
             admit nothing between these pods, that is the policies at work: either let the pods through, on the \
             port that they mean and on {HBONE_PORT}, or have the source stop trying."
        ))
}

fn unexplained(pair: &Pair<'_, '_>) -> Finding {
    let destination = pair.destination.1;
    Finding::on(destination.object(), "no answer comes from its port 15008, and no NetworkPolicy explains it")
        .of(destination.workload.clone())
        .because(seen(pair))
        .so("Connections from pods of the mesh to it hang for ten seconds and fail.")
        .by_hand(
            "What is left: a policy that only the network plugin understands (MM0507), the network between the two \
             nodes (MM09), or a node that hangs. From a pod of the source's node, `nc -vz ADDRESS 15008` tells \
             whether it is the node or the pod.",
        )
}

fn seen(pair: &Pair<'_, '_>) -> String {
    format!(
        "ztunnel's log has {} connections from {} to {} that timed out, the last at {}: {}",
        pair.seen.count,
        path(pair.source.1),
        path(pair.destination.1),
        pair.seen.last,
        pair.seen.sample
    )
}

fn path(pod: &PodView<'_>) -> String {
    format!("{}/{}", pod.facts.namespace, pod.facts.name)
}

fn pair<'v, 's>(view: &'v View<'s>, link: &'v Link) -> Option<Pair<'v, 's>> {
    let pod = |path: &str| {
        let (namespace, name) = path.split_once('/')?;
        let pod = view.pod(namespace, name).filter(|pod| pod.is_live())?;
        Some((view.place(pod)?, pod))
    };
    Some(Pair {
        source: pod(&link.source)?,
        destination: pod(&link.destination)?,
        seen: &link.seen,
    })
}

/// The first policy that stands between the two, and on which side.
fn denied(view: &View<'_>, pair: &Pair<'_, '_>) -> Option<(usize, Direction)> {
    let sides = [
        (Direction::Ingress, pair.destination.0, pair.source.0),
        (Direction::Egress, pair.source.0, pair.destination.0),
    ];
    sides.into_iter().find_map(|(direction, pod, peer)| {
        let policies = view.network_policies();
        let denied = policies
            .decide(direction, pod, Peer::Pod(peer), HBONE_PORT, Protocol::Tcp)
            .denied()?;
        Some((*denied.first()?, direction))
    })
}
