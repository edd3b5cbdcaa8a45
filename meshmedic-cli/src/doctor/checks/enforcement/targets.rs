// SPDX-License-Identifier: Apache-2.0
//! Policies that target what no waypoint serves.

use crate::doctor::kind::{AUTHORIZATION, REQUEST, SERVICE_ENTRY, WASM_PLUGIN};
use serde_json::Value;

use super::waypoint_at_hand;
use crate::doctor::checks::status;
use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::View;
use crate::doctor::view::endpoints::USE_WAYPOINT;
use crate::doctor::view::gateways::{Binding, Traffic, of_metadata, of_service, reference};

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let policies = [AUTHORIZATION, REQUEST, WASM_PLUGIN]
        .into_iter()
        .flat_map(|kind| view.custom(kind));
    policies
        // istiod's own word on it has a check of its own.
        .filter(|policy| !status::is_unbound(policy))
        .flat_map(|policy| targets(policy).filter_map(move |target| finding(view, policy, target)))
        .collect()
}

fn targets(policy: &Custom) -> impl Iterator<Item = &Value> {
    policy
        .spec
        .get("targetRef")
        .into_iter()
        .chain(policy.list("/targetRefs"))
}

fn finding(view: &View<'_>, policy: &Custom, target: &Value) -> Option<Finding> {
    let kind = target.get("kind")?.as_str()?;
    let called = target.get("name")?.as_str()?;
    let of = policy.namespace();
    let effect = "It applies to no traffic: what it should check gets through unchecked.";
    if kind == "GatewayClass" {
        return (of != view.root).then(|| {
            Finding::on(reference(policy), "it targets a class of Gateways from a namespace that may not")
                .because(format!("spec.targetRefs names GatewayClass {called}, and the root namespace is {}", view.root))
                .so(effect)
                .by_hand(format!(
                    "Move it into namespace {}, where it holds for all waypoints of the class, or target a Gateway or a \
                     Service of this namespace.",
                    view.root
                ))
        });
    }
    let binding = match kind {
        "Service" => of_service(view, view.service(of, called)?),
        "ServiceEntry" => {
            let mut entries = view.custom(SERVICE_ENTRY).iter();
            let entry = entries.find(|entry| entry.namespace() == of && entry.name() == called)?;
            of_metadata(view, &entry.metadata, Traffic::Service)
        }
        _ => return None,
    };
    // A wish that nobody can meet is found where it is made.
    (binding == Binding::None).then(|| {
        let waypoint = waypoint_at_hand(view, of);
        let label = match kind {
            "Service" => Command::new("kubectl label service --overwrite"),
            _ => Command::new("kubectl label serviceentry --overwrite"),
        };
        Finding::on(reference(policy), "it targets what has no waypoint")
            .because(format!("spec.targetRefs names {kind} {of}/{called}"))
            .because(format!(
                "neither that {kind} nor namespace {of} has the label {USE_WAYPOINT}"
            ))
            .so(effect)
            .run(
                Command::new("istioctl waypoint apply --wait --name")
                    .name(&waypoint)
                    .namespace(of),
            )
            .run(
                label
                    .namespace(of)
                    .name(called)
                    .label(USE_WAYPOINT, Some(&waypoint)),
            )
    })
}
