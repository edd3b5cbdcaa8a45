// SPDX-License-Identifier: Apache-2.0
//! Waypoints without a Ready pod.

use super::asked::{askers, is_asked_for};
use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::kind::GATEWAY;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::View;
use crate::doctor::view::gateways::{is_waypoint, pods, reference};

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let askers = askers(view);
    let waypoints = view
        .custom(GATEWAY)
        .iter()
        .filter(|gateway| is_waypoint(view, gateway));
    waypoints
        // With an address of its own it is run by somebody else, and its pods may be anywhere.
        .filter(|gateway| gateway.list("/addresses").is_empty())
        .filter(|gateway| is_asked_for(view, &askers, gateway))
        .filter_map(|gateway| finding(view, gateway))
        .collect()
}

fn finding(view: &View<'_>, gateway: &Custom) -> Option<Finding> {
    let all: Vec<_> = pods(view, gateway).collect();
    if all.iter().any(|pod| pod.facts.ready) {
        return None;
    }
    let (problem, evidence) = if all.is_empty() {
        (
            "this waypoint has no pod",
            "no pod has the label gateway.networking.k8s.io/gateway-name with its name".to_owned(),
        )
    } else {
        let named: Vec<&str> = all.iter().take(3).map(|pod| pod.facts.name.as_str()).collect();
        (
            "none of this waypoint's pods is Ready",
            format!("not Ready: {}", named.join(", ")),
        )
    };
    let finding = Finding::on(reference(gateway), problem).because(evidence);
    let finding = match gateway.status.addresses.first() {
        Some(address) => finding
            .because(format!("its status still has the address {address}, so istiod sends callers there"))
            .so("Everything that is sent to what asks for it fails: ztunnel does not go past a waypoint that is down."),
        None => finding
            .because("its status has no address yet, so istiod does not send callers there")
            .so("What is sent to what asks for it goes past it: no route, no policy and no check of HTTP is in force."),
    };
    let of = gateway.namespace();
    let finding = if all.is_empty() {
        finding
            .run(Command::new("kubectl get deployments").namespace(of).name(gateway.name()))
            .by_hand(
                "istiod makes its Deployment and restores it when it was deleted; scaled to nothing it has to be scaled \
                 up again. Where there is no Deployment, see istiod's log, and whether the revision in the Gateway's label \
                 istio.io/rev is that of an istiod that runs.",
            )
            .run(Command::new("kubectl scale deployment --replicas=1").namespace(of).name(gateway.name()))
    } else {
        finding
            .run(Command::new("kubectl describe pods").namespace(of).option(
                "-l",
                &format!("gateway.networking.k8s.io/gateway-name={}", gateway.name()),
            ))
            .by_hand("Its events and its log say what it lacks: istiod, an image, memory, a node.")
    };
    Some(finding)
}
