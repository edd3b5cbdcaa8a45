// SPDX-License-Identifier: Apache-2.0
//! Policies of kinds that only the network plugin understands.

use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::snapshot::{CUSTOM_KINDS, Custom};
use crate::doctor::view::View;

/// How many are named.
const NAMED: usize = 5;

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let kinds = CUSTOM_KINDS.iter().filter(|kind| !kind.is_looked_into());
    kinds
        .filter_map(|kind| {
            let key = kind.key();
            let objects = view.custom(&key);
            (!objects.is_empty()).then(|| finding(&key, objects))
        })
        .collect()
}

fn finding(key: &str, objects: &[Custom]) -> Finding {
    let path = |object: &Custom| match object.namespace() {
        "" => object.name().to_owned(),
        namespace => format!("{namespace}/{}", object.name()),
    };
    let named: Vec<String> = objects.iter().take(NAMED).map(path).collect();
    let more = match objects.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Finding::on(
        ObjectRef::cluster("CustomResourceDefinition", key),
        "policies of this kind are in force, and were not evaluated",
    )
    .because(format!("{}{more}", named.join(", ")))
    .so("What the checks of NetworkPolicies say holds as far as these do not change it.")
    .by_hand(
        "Have them admit TCP 15008 between pods of the mesh, TCP 15012 from proxies to istiod, and the kubelet's \
         probes from 169.254.7.127, wherever they restrict pods of the mesh.",
    )
}
