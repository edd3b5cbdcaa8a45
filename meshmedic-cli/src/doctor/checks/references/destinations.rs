// SPDX-License-Identifier: Apache-2.0
//! Hosts and ports that VirtualServices lead to.

use crate::doctor::kind::{SERVICE_ENTRY, VIRTUAL_SERVICE};
use std::collections::BTreeSet;

use serde_json::Value;

use crate::doctor::checks::traffic::{service_of, split};
use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::View;
use crate::doctor::view::gateways::{is_of_several_clusters, reference};

/// A place that a VirtualService leads to.
struct Destination<'s> {
    place: String,
    host: &'s str,
    has_subset: bool,
    port: Option<i64>,
}

fn destinations(route: &Custom) -> Vec<Destination<'_>> {
    let mut found = Vec::new();
    for list in ["http", "tls", "tcp"] {
        for (at, rule) in route.list(&format!("/{list}")).iter().enumerate() {
            let shares = array(rule, "route").enumerate();
            let shares = shares.map(|(number, share)| (format!("route[{number}]"), share.get("destination")));
            let mirrors = array(rule, "mirrors").enumerate();
            let mirrors =
                mirrors.map(|(number, mirror)| (format!("mirrors[{number}]"), mirror.get("destination")));
            let mirror = std::iter::once(("mirror".to_owned(), rule.get("mirror")));
            found.extend(
                shares
                    .chain(mirrors)
                    .chain(mirror)
                    .filter_map(|(place, destination)| {
                        let subset = destination?.get("subset").and_then(Value::as_str);
                        Some(Destination {
                            place: format!("spec.{list}[{at}].{place}"),
                            host: destination?.get("host")?.as_str()?,
                            has_subset: subset.is_some_and(|subset| !subset.is_empty()),
                            port: destination?.pointer("/port/number").and_then(Value::as_i64),
                        })
                    }),
            );
        }
    }
    found
}

fn array<'v>(rule: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    rule.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// The ServiceEntry that a host is of; one with a wildcard is of all below it.
fn entry_of<'s>(view: &View<'s>, host: &str) -> Option<&'s Custom> {
    view.custom(SERVICE_ENTRY).iter().find(|entry| {
        let mut hosts = entry.list("/hosts").iter().filter_map(Value::as_str);
        hosts.any(|written| match written.strip_prefix('*') {
            Some(end) => host.ends_with(end),
            None => written == host,
        })
    })
}

fn exists(view: &View<'_>, host: &str, from: &str) -> bool {
    service_of(view, host, from).is_some() || entry_of(view, host).is_some()
}

/// One finding for each host that is missing, however many rules lead there.
pub(super) fn hosts(view: &View<'_>) -> Vec<Finding> {
    if is_of_several_clusters(view) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for route in view.custom(VIRTUAL_SERVICE) {
        let mut seen = BTreeSet::new();
        for to in destinations(route) {
            // With a subset it is the business of the check of subsets, which says so too.
            if to.has_subset
                || to.host.contains('*')
                || exists(view, to.host, route.namespace())
                || !seen.insert(to.host)
            {
                continue;
            }
            let (name, of) = split(to.host, route.namespace()).unwrap_or((to.host, route.namespace()));
            findings.push(
                Finding::on(reference(route), "it leads to a host that does not exist")
                    .because(format!("{} leads to {}", to.place, to.host))
                    .because(format!("there is no Service {of}/{name}, and no ServiceEntry with that host"))
                    .so("Requests that take this way are answered with status 503.")
                    .run(Command::new("kubectl get services").namespace(of))
                    .by_hand(
                        "Correct the host (a short name is one of the VirtualService's own namespace), make the Service, or \
                         take the destination away.",
                    ),
            );
        }
    }
    findings
}

pub(super) fn ports(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for route in view.custom(VIRTUAL_SERVICE) {
        let mut seen = BTreeSet::new();
        for to in destinations(route) {
            let Some(port) = to.port else {
                continue;
            };
            let Some((owner, known)) = ports_of(view, to.host, route.namespace()) else {
                continue;
            };
            if known.contains(&port) || !seen.insert((to.host, port)) {
                continue;
            }
            let known: Vec<String> = known.iter().map(i64::to_string).collect();
            findings.push(
                Finding::on(reference(route), "it leads to a port that its host does not have")
                    .because(format!("{} leads to port {port} of {}", to.place, to.host))
                    .because(format!("{owner} has {}", known.join(", ")))
                    .so("Requests that take this way are answered with status 503.")
                    .by_hand("Write a port of the Service there, and not the targetPort of its pods, or add it to the Service."),
            );
        }
    }
    findings
}

/// The ports of a host, and what they are of.
fn ports_of(view: &View<'_>, host: &str, from: &str) -> Option<(String, BTreeSet<i64>)> {
    if let Some(service) = service_of(view, host, from) {
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let ports = ports.map(|port| i64::from(port.port)).collect();
        return Some((
            crate::doctor::view::gateways::service_ref(service).to_string(),
            ports,
        ));
    }
    let entry = entry_of(view, host)?;
    let ports = entry
        .list("/ports")
        .iter()
        .filter_map(|port| port.get("number")?.as_i64());
    Some((reference(entry).to_string(), ports.collect()))
}
