// SPDX-License-Identifier: Apache-2.0
//! AuthorizationPolicies that istiod does not put in force, or not as they stand.

use crate::doctor::checks::security::{authorization, mtls};
use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::kind::AUTHORIZATION;
use crate::doctor::snapshot::{Condition, Custom};
use crate::doctor::view::gateways::reference;
use crate::doctor::view::{PodView, View, endpoints};

const BY_WAYPOINTS: &str = "WaypointAccepted";
const BY_ZTUNNELS: &str = "ZtunnelAccepted";
const PARTIAL: &str = "PartiallyInvalid";

pub(super) fn waypoints(view: &View<'_>) -> Vec<Finding> {
    let policies = view.custom(AUTHORIZATION).iter();
    policies
        .filter_map(|policy| Some(unbound(policy, denied(policy)?)))
        .collect()
}

/// Whether istiod says that it does not bind a policy to what it targets.
pub(in crate::doctor::checks) fn is_unbound(policy: &Custom) -> bool {
    denied(policy).is_some()
}

fn denied(policy: &Custom) -> Option<&Condition> {
    let generation = policy.metadata.generation;
    policy.status.conditions.iter().find(|one| {
        let in_part = one.reason == PARTIAL && one.is_current(generation);
        one.kind == BY_WAYPOINTS && (one.is_false(generation) || in_part)
    })
}

fn unbound(policy: &Custom, condition: &Condition) -> Finding {
    let (problem, help) = match condition.reason.as_str() {
        PARTIAL => (
            "istiod binds it to some of its targets, and not to others",
            "Give the Services that the message names a waypoint, by the label istio.io/use-waypoint, or take them out \
             of spec.targetRefs.",
        ),
        "AncestorNotBound" => (
            "it applies to no traffic: what it targets has no waypoint",
            "Give the Service that the message names a waypoint, by the label istio.io/use-waypoint.",
        ),
        "TargetNotFound" => (
            "it applies to no traffic: what it targets is not there",
            "Correct the name in spec.targetRefs, or delete the policy if what it protected is gone.",
        ),
        _ => (
            "istiod does not put it in force at any waypoint",
            "Correct spec.targetRefs as the message asks.",
        ),
    };
    let (of, called) = (policy.namespace(), policy.name());
    let show = Command::new("kubectl get authorizationpolicy -o yaml")
        .namespace(of)
        .name(called);
    Finding::on(reference(policy), problem)
        .because(condition.words())
        .so("What it should check gets through unchecked at each target that istiod does not bind it to.")
        .by_hand(help)
        .run(show)
}

/// istiod converts every policy for ztunnel, whether a pod of ztunnel's is under it or not: only those that are count.
pub(super) fn ztunnels(view: &View<'_>) -> Vec<Finding> {
    let policies = view.custom(AUTHORIZATION).iter();
    policies
        .filter_map(|policy| not_as_it_stands(view, policy))
        .collect()
}

fn not_as_it_stands(view: &View<'_>, policy: &Custom) -> Option<Finding> {
    let generation = policy.metadata.generation;
    let mut conditions = policy.status.conditions.iter();
    let condition = conditions
        .find(|one| one.kind == BY_ZTUNNELS && one.reason != "Accepted" && one.is_current(generation))?;
    let labels = mtls::selected(policy);
    let under = |pod: &&PodView<'_>| {
        endpoints::is_captured(pod) && authorization::is_over(view, policy, labels.as_ref(), pod)
    };
    let captured = view.pods().iter().filter(under).count();
    // What ztunnel leaves out of a policy has a check of its own.
    if captured == 0 || authorization::finding(view, policy).is_some() {
        return None;
    }
    let trial = policy
        .metadata
        .annotations
        .iter()
        .flatten()
        .any(|(key, _)| key == "istio.io/dry-run");
    let finding = Finding::on(reference(policy), "ztunnel does not get it as it stands")
        .because(condition.words())
        .because(format!("{captured} pods that ztunnel captures are under it"));
    Some(if trial {
        finding
            .so("It is on trial, and the trial never happens: nothing is logged of what it would deny.")
            .by_hand(
                "Set AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY=true at istiod once every ztunnel is of 1.29 or later, or \
                 try the policy at a waypoint, by spec.targetRefs.",
            )
    } else {
        finding
            .so("For these pods it does something else than what is written: see the message.")
            .by_hand("Write what ztunnel shall judge with principals, namespaces, IP blocks and ports alone.")
    })
}
