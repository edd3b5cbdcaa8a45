// SPDX-License-Identifier: Apache-2.0
//! Routes that share their traffic among nobody.
//!
//! Istio takes weights as proportions: they need not add up to 100, but to more than nothing.

use crate::doctor::kind::{GRPC_ROUTE, HTTP_ROUTE, VIRTUAL_SERVICE};
use serde_json::Value;

use super::routes::{LISTS, reference};
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::View;

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for route in view.custom(VIRTUAL_SERVICE) {
        let lists = LISTS.iter().flat_map(|list| {
            let rules = route.list(&format!("/{list}")).iter().enumerate();
            rules.map(move |(at, rule)| (format!("spec.{list}[{at}].route"), rule.get("route")))
        });
        for (place, destinations) in lists {
            let weights = weights(destinations, 0);
            // A lone destination takes everything, whatever its weight.
            if weights.len() > 1 && weights.iter().all(|weight| *weight == 0) {
                findings.push(finding(route, &place, weights.len()));
                break;
            }
        }
    }
    for route in view.custom(HTTP_ROUTE).iter().chain(view.custom(GRPC_ROUTE)) {
        for (at, rule) in route.list("/rules").iter().enumerate() {
            let weights = weights(rule.get("backendRefs"), 1);
            if !weights.is_empty() && weights.iter().all(|weight| *weight == 0) {
                findings.push(finding(
                    route,
                    &format!("spec.rules[{at}].backendRefs"),
                    weights.len(),
                ));
                break;
            }
        }
    }
    findings
}

/// The weights of destinations; `unsaid` where one has none.
fn weights(destinations: Option<&Value>, unsaid: i64) -> Vec<i64> {
    let destinations = destinations.and_then(Value::as_array).into_iter().flatten();
    destinations
        .map(|one| one.get("weight").and_then(Value::as_i64).unwrap_or(unsaid))
        .collect()
}

fn finding(route: &Custom, place: &str, count: usize) -> Finding {
    let (effect, example) = if route.kind == "VirtualService" {
        (
            "Istio refuses such a route: what stood before is still in force, or nothing is.",
            "Give each destination its weight, as 95 and 5: without one it counts as 0.",
        )
    } else {
        (
            "Every request that this rule matches is answered with status 500.",
            "Give one of the backends a weight above 0.",
        )
    };
    let what = if count == 1 {
        "its only destination".to_owned()
    } else {
        format!("all {count} destinations")
    };
    Finding::on(reference(route), "its weights add up to nothing")
        .because(format!("{place}: {what} have weight 0"))
        .so(effect)
        .by_hand(example)
}
