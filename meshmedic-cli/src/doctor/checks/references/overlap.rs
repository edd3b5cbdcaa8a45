// SPDX-License-Identifier: Apache-2.0
//! Hosts with several VirtualServices.
//!
//! Gateways merge what several VirtualServices say of one host; for callers within the mesh the oldest alone counts.

use crate::doctor::kind::VIRTUAL_SERVICE;
use std::collections::BTreeMap;

use serde_json::Value;

use crate::doctor::checks::traffic::split;
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::View;
use crate::doctor::view::gateways::reference;

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut by_host: BTreeMap<String, Vec<&Custom>> = BTreeMap::new();
    for route in view
        .custom(VIRTUAL_SERVICE)
        .iter()
        .filter(|route| is_for_mesh(route))
    {
        for host in route.list("/hosts").iter().filter_map(Value::as_str) {
            let full = match split(host, route.namespace()) {
                Some((name, of)) => format!("{name}.{of}"),
                None => host.to_owned(),
            };
            let routes = by_host.entry(full).or_default();
            // One may write a host twice, short and in full.
            if !routes.iter().any(|known| std::ptr::eq(*known, route)) {
                routes.push(route);
            }
        }
    }
    let mut findings = Vec::new();
    for (host, mut routes) in by_host {
        routes.sort_by_key(|route| {
            (
                route.metadata.creation_timestamp.as_ref().map(|time| time.0),
                route.namespace(),
                route.name(),
            )
        });
        for (at, later) in routes.iter().enumerate() {
            let Some(first) = routes.iter().take(at).find(|first| meet(first, later)) else {
                continue;
            };
            findings.push(
                Finding::on(
                    reference(later),
                    "another VirtualService is for the same host within the mesh",
                )
                .because(format!("{} is older and is for {host} too", reference(first)))
                .so("For callers within the mesh the oldest alone counts: this one has no effect there.")
                .by_hand("Put the rules of both into one, the more specific first, and delete the other."),
            );
        }
    }
    findings
}

fn is_for_mesh(route: &Custom) -> bool {
    let gateways = route.list("/gateways");
    gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh")
}

/// Whether any namespace sees both.
fn meet(one: &Custom, other: &Custom) -> bool {
    let seen = |route: &Custom| {
        let all: Vec<String> = route
            .list("/exportTo")
            .iter()
            .filter_map(Value::as_str)
            .map(|to| match to {
                "." => route.namespace().to_owned(),
                to => to.to_owned(),
            })
            .collect();
        if all.is_empty() { vec!["*".to_owned()] } else { all }
    };
    let (one, other) = (seen(one), seen(other));
    let all = |seen: &[String]| seen.iter().any(|to| to == "*");
    let nobody = |seen: &[String]| seen.iter().all(|to| to == "~");
    !nobody(&one) && !nobody(&other) && (all(&one) || all(&other) || one.iter().any(|to| other.contains(to)))
}
