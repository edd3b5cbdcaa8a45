// SPDX-License-Identifier: Apache-2.0
//! Subsets that routes lead to.

use meshmedic_common::facts::Labels;
use serde_json::Value;

use super::routes::{LISTS, reference, service_of, split};
use super::{DESTINATION_RULE, VIRTUAL_SERVICE};
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::snapshot::Custom;
use crate::doctor::view::{View, has_all, written};

/// A destination with a subset.
struct Destination<'s> {
    place: String,
    host: &'s str,
    subset: &'s str,
    /// Whether any traffic goes there.
    used: bool,
}

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for route in view.custom(VIRTUAL_SERVICE) {
        // One finding for each fault, however many rules lead there.
        let mut seen = Vec::new();
        for destination in destinations(route) {
            let key = (destination.host, destination.subset);
            if seen.contains(&key) {
                continue;
            }
            if let Some(finding) = judge(view, route, &destination) {
                seen.push(key);
                findings.push(finding);
            }
        }
    }
    findings
}

fn judge(view: &View<'_>, route: &Custom, to: &Destination<'_>) -> Option<Finding> {
    let rules: Vec<&Custom> = view
        .custom(DESTINATION_RULE)
        .iter()
        .filter(|rule| covers(rule, to.host, route.namespace()))
        .collect();
    let defined = rules.iter().find_map(|rule| {
        let mut subsets = rule.list("/subsets").iter();
        Some((
            rule,
            subsets.find(|one| one.get("name").and_then(Value::as_str) == Some(to.subset))?,
        ))
    });
    let of = format!("subset {} of {}", to.subset, to.host);
    let Some((rule, subset)) = defined else {
        let known: Vec<String> = rules
            .iter()
            .take(3)
            .map(|rule| rule_ref(rule).to_string())
            .collect();
        let known = if known.is_empty() {
            "no DestinationRule is for that host".to_owned()
        } else {
            format!("{} does not define it", known.join(", "))
        };
        return Some(
            Finding::on(reference(route), "it leads to a subset that no DestinationRule defines")
                .because(format!("{} leads to {of}", to.place))
                .because(known)
                .so("Requests that take this way are answered with status 503.")
                .by_hand("Add the subset, with the labels of its pods, to the host's DestinationRule, or route past it."),
        );
    };
    let labels = subset.get("labels").and_then(Value::as_object)?;
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    let labels: Labels = labels.iter().map(text).collect::<Option<_>>()?;
    let service = service_of(view, to.host, route.namespace())?;
    let mut all = view.pods_of(service).filter(|pod| pod.is_live()).peekable();
    // What is scaled to nothing as a whole is no fault of the route.
    all.peek()?;
    if !to.used || all.any(|pod| has_all(&pod.facts.labels, &labels)) {
        return None;
    }
    let written = written(&labels);
    Some(
        Finding::on(reference(route), "it leads to a subset without pods")
            .because(format!("{} leads to {of}", to.place))
            .because(format!(
                "{} asks for {written}, and no pod of the Service has it",
                rule_ref(rule)
            ))
            .so("Requests that take this way are answered with status 503.")
            .by_hand(
                "Start the pods of that subset, correct its labels, or give it weight 0 until it has pods.",
            ),
    )
}

fn rule_ref(rule: &Custom) -> ObjectRef {
    ObjectRef::new("DestinationRule", rule.namespace(), rule.name())
}

/// Whether a `DestinationRule` is for a host, each seen from its own namespace.
fn covers(rule: &Custom, host: &str, from: &str) -> bool {
    let Some(written) = rule.text("/host") else {
        return false;
    };
    if let Some(end) = written.strip_prefix('*') {
        let full = split(host, from).map(|(name, namespace)| format!("{name}.{namespace}.svc.cluster.local"));
        return host.ends_with(end) || full.is_some_and(|full| full.ends_with(end));
    }
    match (split(written, rule.namespace()), split(host, from)) {
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => written == host,
    }
}

/// Whether a `DestinationRule` is for Services of a namespace.
pub(crate) fn reaches(rule: &Custom, namespace: &str) -> bool {
    rule.text("/host")
        .is_some_and(|host| match host.strip_prefix('*') {
            Some(end) => format!("any.{namespace}.svc.cluster.local").ends_with(end),
            None => split(host, rule.namespace()).is_some_and(|(_, of)| of == namespace),
        })
}

fn destinations(route: &Custom) -> Vec<Destination<'_>> {
    let mut found = Vec::new();
    for list in LISTS {
        for (at, rule) in route.list(&format!("/{list}")).iter().enumerate() {
            let shares = rule
                .get("route")
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice);
            for (number, share) in shares.iter().enumerate() {
                let weight = share.get("weight").and_then(Value::as_i64).unwrap_or(0);
                let place = format!("spec.{list}[{at}].route[{number}]");
                found.extend(destination(
                    share.get("destination"),
                    place,
                    shares.len() == 1 || weight > 0,
                ));
            }
            let mirror = rule.get("mirror");
            found.extend(destination(mirror, format!("spec.{list}[{at}].mirror"), false));
        }
    }
    found
}

fn destination(of: Option<&Value>, place: String, used: bool) -> Option<Destination<'_>> {
    Some(Destination {
        place,
        host: of?.get("host")?.as_str()?,
        subset: of?.get("subset")?.as_str().filter(|subset| !subset.is_empty())?,
        used,
    })
}
