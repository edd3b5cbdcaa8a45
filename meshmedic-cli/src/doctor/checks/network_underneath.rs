// SPDX-License-Identifier: Apache-2.0
//! The overlay network under the mesh, by what agents see of their nodes.

use std::collections::BTreeMap;

use meshmedic_common::report::{NodeReport, Overlay};

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::need::Need;
use crate::doctor::snapshot::Reached;
use crate::doctor::view::View;

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM0901",
        category: Category::NetworkUnderneath,
        title: "every node has the interface of the overlay network",
        severity: Severity::Error,
        needs: &[Need::Pods, Need::Overlays],
        run: interfaces,
    },
    Check {
        code: "MM0902",
        category: Category::NetworkUnderneath,
        title: "every node listens on the UDP port of the overlay network",
        severity: Severity::Error,
        needs: &[Need::Pods, Need::Overlays],
        run: ports,
    },
    Check {
        code: "MM0903",
        category: Category::NetworkUnderneath,
        title: "pods of each node reach pods of others",
        severity: Severity::Error,
        needs: &[Need::Reach],
        run: reach,
    },
];

const EFFECT: &str = "pods on this node and on others do not reach each other: its ztunnel has no istiod, and new pods do \
                      not start";
/// The components that make overlays, by the beginnings of their pods' names.
const MAKERS: [&str; 5] = ["kube-flannel", "flannel", "calico-node", "cilium", "weave-net"];

fn reports<'v>(view: &View<'v>) -> Vec<(&'v NodeReport, &'v Overlay)> {
    let reports = view.snapshot.reports();
    reports
        .filter_map(|(_, report)| Some((report, report.overlay.as_ref()?)))
        .collect()
}

/// What most nodes have is what each should have. Where no two agree, nobody knows.
fn usual<T: Ord>(all: impl Iterator<Item = T>, nodes: usize) -> Vec<T> {
    let mut counts = BTreeMap::new();
    for one in all {
        *counts.entry(one).or_insert(0_usize) += 1;
    }
    counts
        .into_iter()
        .filter(|(_, count)| *count > 1 && *count * 2 > nodes)
        .map(|(one, _)| one)
        .collect()
}

/// Interfaces of one kind may be numbered otherwise.
fn kind(interface: &str) -> &str {
    interface
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .trim_end_matches(['.', '-', '_'])
}

fn interfaces(view: &View<'_>) -> Vec<Finding> {
    let reports = reports(view);
    let all = reports.iter().flat_map(|(_, overlay)| {
        let kinds: std::collections::BTreeSet<&str> =
            overlay.interfaces.iter().map(|name| kind(name)).collect();
        kinds
    });
    let usual = usual(all, reports.len());
    let mut findings = Vec::new();
    for (report, overlay) in &reports {
        for wanted in usual
            .iter()
            .filter(|wanted| !overlay.interfaces.iter().any(|name| kind(name) == **wanted))
        {
            let has = if overlay.interfaces.is_empty() {
                "none".to_owned()
            } else {
                overlay.interfaces.join(", ")
            };
            let finding = Finding::on(
                ObjectRef::cluster("Node", &report.node),
                format!("it lacks the overlay's interface ({wanted}), which most nodes have"),
            )
            .because(format!("overlay interfaces in the node's network: {has}"))
            .so(EFFECT);
            findings.push(restart_maker(view, finding, &report.node));
        }
    }
    findings
}

fn ports(view: &View<'_>) -> Vec<Finding> {
    let reports = reports(view);
    let usual = usual(
        reports
            .iter()
            .flat_map(|(_, overlay)| overlay.udp_ports.iter().copied()),
        reports.len(),
    );
    let mut findings = Vec::new();
    for (report, overlay) in &reports {
        // Without the interface there is no port either: that has a finding of its own.
        if overlay.interfaces.is_empty() {
            continue;
        }
        for wanted in usual.iter().filter(|wanted| !overlay.udp_ports.contains(wanted)) {
            let finding = Finding::on(
                ObjectRef::cluster("Node", &report.node),
                format!("nothing listens on UDP {wanted}, the overlay's port on most nodes"),
            )
            .because(format!(
                "interfaces {}; open overlay ports {:?}",
                overlay.interfaces.join(", "),
                overlay.udp_ports
            ))
            .so(EFFECT);
            findings.push(restart_maker(view, finding, &report.node));
        }
    }
    findings
}

/// A node is cut off if no try from it or to it gets through; else it is a pair that does not.
fn reach(view: &View<'_>) -> Vec<Finding> {
    let tried: Vec<&Reached> = view
        .snapshot
        .reach
        .all()
        .iter()
        .filter(|one| one.reached.is_some())
        .collect();
    let mut nodes: BTreeMap<&str, Vec<&Reached>> = BTreeMap::new();
    for one in &tried {
        nodes.entry(&one.from).or_default().push(one);
        nodes.entry(&one.to).or_default().push(one);
    }
    let failed = |one: &&Reached| one.reached == Some(false);
    let told = |one: &Reached| {
        format!(
            "agent of {} to that of {}: {}",
            one.from,
            one.to,
            one.detail.as_deref().unwrap_or("not reached")
        )
    };
    let cut_off: Vec<(&str, &Vec<&Reached>)> = nodes
        .iter()
        .filter(|(_, tries)| tries.len() > 1 && tries.iter().all(failed))
        .map(|(node, tries)| (*node, tries))
        .collect();
    let mut findings = Vec::new();
    for (node, tries) in &cut_off {
        let mut finding = Finding::on(
            ObjectRef::cluster("Node", node),
            "pods of this node and of others do not reach each other",
        );
        for one in *tries {
            finding = finding.because(told(one));
        }
        findings.push(restart_maker(view, finding.so(EFFECT), node));
    }
    let of_cut_off = |one: &Reached| {
        cut_off
            .iter()
            .any(|(node, _)| one.from == *node || one.to == *node)
    };
    for one in tried.iter().filter(|one| failed(one) && !of_cut_off(one)) {
        findings.push(
            Finding::on(ObjectRef::cluster("Node", &one.from), "its pods do not reach those of some other node")
                .because(told(one))
                .so("connections between pods of these two nodes fail, and others work")
                .by_hand(
                    "look for what stands between the two: a firewall that drops the overlay's UDP port, a route, or a \
                     NetworkPolicy on MeshMedic's agents",
                ),
        );
    }
    findings
}

fn restart_maker(view: &View<'_>, finding: Finding, node: &str) -> Finding {
    let maker = view.pods().iter().find(|pod| {
        let of_set = pod
            .facts
            .controller
            .as_ref()
            .is_some_and(|owner| owner.kind == "DaemonSet");
        let named = MAKERS.iter().any(|name| pod.facts.name.starts_with(name));
        of_set && named && pod.facts.node.as_deref() == Some(node)
    });
    match maker {
        Some(pod) => finding.run(pod.delete()),
        None => {
            finding.by_hand("restart the network plugin's pod on this node: it makes interface and port anew")
        }
    }
}

#[cfg(test)]
mod tests;
