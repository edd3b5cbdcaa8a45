// SPDX-License-Identifier: Apache-2.0
//! Namespaces that objects of Istio are exported to.

use crate::doctor::kind::{DESTINATION_RULE, SERVICE_ENTRY, VIRTUAL_SERVICE};
use std::collections::BTreeSet;

use serde_json::Value;

use crate::doctor::finding::Finding;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::View;
use crate::doctor::view::gateways::reference;

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let known: BTreeSet<&str> = view.namespaces().map(|(name, _)| name).collect();
    let objects = [VIRTUAL_SERVICE, DESTINATION_RULE, SERVICE_ENTRY]
        .into_iter()
        .flat_map(|kind| view.custom(kind));
    objects.filter_map(|object| finding(object, &known)).collect()
}

fn finding(object: &Custom, known: &BTreeSet<&str>) -> Option<Finding> {
    let all: Vec<&str> = object
        .list("/exportTo")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    // All, its own namespace, and nobody are no namespaces.
    let named = all.iter().filter(|to| !["*", ".", "~"].contains(to));
    let missing: Vec<&str> = named.copied().filter(|to| !known.contains(to)).collect();
    if missing.is_empty() {
        return None;
    }
    let effect = if missing.len() == all.len() {
        "It is visible nowhere: traffic that should follow it goes as if it did not exist."
    } else {
        "It is invisible in that namespace, and a later namespace of that name will see it."
    };
    Some(
        Finding::on(
            reference(object),
            "it is exported to a namespace that does not exist",
        )
        .because(format!("spec.exportTo names {}", missing.join(", ")))
        .so(effect)
        .by_hand("Correct the name, or take it out of spec.exportTo."),
    )
}
