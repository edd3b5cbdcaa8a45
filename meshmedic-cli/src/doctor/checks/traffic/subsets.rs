// SPDX-License-Identifier: Apache-2.0
//! Subsets that routes lead to.

use crate::doctor::kind::{DESTINATION_RULE, SERVICE_ENTRY, VIRTUAL_SERVICE};
use meshmedic_common::facts::Labels;
use serde_json::Value;

use super::routes::{LISTS, reference, service_of, split};
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::snapshot::Custom;
use crate::doctor::view::{View, has_all, written};

/// What goes to a destination.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goes {
    /// Requests, whose callers wait for an answer.
    Requests,
    /// Copies of requests, whose answers nobody waits for.
    Copies,
}

impl Goes {
    const fn effect(self) -> &'static str {
        match self {
            Self::Requests => "Requests that take this way are answered with status 503.",
            Self::Copies => {
                "Copies of requests get lost: what they are taken for sees none. Callers notice nothing."
            }
        }
    }
}

/// Labels that istiod adds from a pod's node and cluster: the pod itself does not show them.
const OF_PLACE: [&str; 5] = [
    "topology.istio.io/cluster",
    "topology.istio.io/network",
    "topology.istio.io/subzone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// A destination with a subset, to which anything goes at all.
struct Destination<'s> {
    place: String,
    host: &'s str,
    subset: &'s str,
    goes: Goes,
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
    if !exists(view, to.host, route.namespace()) {
        return Some(
            Finding::on(reference(route), "it leads to a host that does not exist")
                .because(format!("{} leads to {}", to.place, to.host))
                .because("no Service and no ServiceEntry has that name, seen from the route's namespace")
                .so(to.goes.effect())
                .by_hand("Correct the name (a Service of another namespace needs it written as name.namespace), or take the destination out."),
        );
    }
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
                .so(to.goes.effect())
                .by_hand("Add the subset, with the labels of its pods, to the host's DestinationRule, or route past it."),
        );
    };
    let labels = subset.get("labels").and_then(Value::as_object)?;
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    let mut labels: Labels = labels.iter().map(text).collect::<Option<_>>()?;
    labels.retain(|key, _| !OF_PLACE.contains(&key.as_str()));
    let service = service_of(view, to.host, route.namespace())?;
    let mut all = view.pods_of(service).filter(|pod| pod.is_live()).peekable();
    // What is scaled to nothing as a whole is no fault of the route.
    all.peek()?;
    if all.any(|pod| has_all(&pod.facts.labels, &labels)) {
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
            .so(to.goes.effect())
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

/// Whether a Service or a `ServiceEntry` has that name. Where one of them could not be read, it may.
fn exists(view: &View<'_>, host: &str, from: &str) -> bool {
    let entries = view
        .snapshot
        .custom
        .get(SERVICE_ENTRY)
        .and_then(|part| part.had());
    let Some(entries) = entries else { return true };
    let full = split(host, from).map(|(name, of)| format!("{name}.{of}.svc.cluster.local"));
    let named = |written: &str| match written.strip_prefix('*') {
        Some(end) => host.ends_with(end),
        None => written == host || full.as_deref() == Some(written),
    };
    let mut hosts = entries.iter().flat_map(|entry| entry.list("/hosts"));
    service_of(view, host, from).is_some() || hosts.any(|one| one.as_str().is_some_and(named))
}

fn destinations(route: &Custom) -> Vec<Destination<'_>> {
    let mut found = Vec::new();
    for list in LISTS {
        for (at, rule) in route.list(&format!("/{list}")).iter().enumerate() {
            let listed = |name: &str| {
                rule.get(name)
                    .and_then(Value::as_array)
                    .map_or(&[][..], Vec::as_slice)
            };
            let shares = listed("route");
            for (number, share) in shares.iter().enumerate() {
                let weight = share.get("weight").and_then(Value::as_i64).unwrap_or(0);
                // A lone destination takes everything. Of several Istio leaves out those with weight 0.
                if shares.len() == 1 || weight > 0 {
                    let place = format!("spec.{list}[{at}].route[{number}]");
                    found.extend(destination(share.get("destination"), place, Goes::Requests));
                }
            }
            let mirror = rule.get("mirror");
            found.extend(destination(
                mirror,
                format!("spec.{list}[{at}].mirror"),
                Goes::Copies,
            ));
            for (number, mirror) in listed("mirrors").iter().enumerate() {
                let place = format!("spec.{list}[{at}].mirrors[{number}]");
                found.extend(destination(mirror.get("destination"), place, Goes::Copies));
            }
        }
    }
    found
}

fn destination(of: Option<&Value>, place: String, goes: Goes) -> Option<Destination<'_>> {
    Some(Destination {
        place,
        host: of?.get("host")?.as_str()?,
        subset: of?.get("subset")?.as_str().filter(|subset| !subset.is_empty())?,
        goes,
    })
}
