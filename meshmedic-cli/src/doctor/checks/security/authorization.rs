// SPDX-License-Identifier: Apache-2.0
//! AuthorizationPolicies that ask of ztunnel what only an HTTP proxy can see.

use crate::doctor::kind::AUTHORIZATION;
use std::collections::BTreeSet;

use meshmedic_common::facts::Labels;
use serde_json::Value;

use super::mtls::{reference, selected};
use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::{PodView, View, endpoints, has_all};

const OF_OPERATION: [&str; 6] = ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"];
const OF_SOURCE: [&str; 4] = [
    "remoteIpBlocks",
    "notRemoteIpBlocks",
    "requestPrincipals",
    "notRequestPrincipals",
];
/// The conditions that ztunnel can judge.
const OF_CONNECTIONS: [&str; 5] = [
    "source.ip",
    "source.namespace",
    "source.principal",
    "destination.ip",
    "destination.port",
];

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let policies = view.custom(AUTHORIZATION).iter();
    policies.filter_map(|policy| finding(view, policy)).collect()
}

/// What the check finds on one policy.
pub(in crate::doctor::checks) fn finding(view: &View<'_>, policy: &Custom) -> Option<Finding> {
    // With a target it is a waypoint's, and on trial it does nothing.
    if has_target(policy) || is_on_trial(policy) {
        return None;
    }
    let labels = selected(policy);
    let judged_by_ztunnel = |pod: &&PodView<'_>| {
        endpoints::is_captured(pod)
            && !endpoints::is_waypoint(&pod.facts.labels)
            && is_over(view, policy, labels.as_ref(), pod)
    };
    let captured: Vec<&PodView<'_>> = view.pods().iter().filter(judged_by_ztunnel).collect();
    if captured.is_empty() {
        return None;
    }
    let action = policy.text("/action").unwrap_or("ALLOW");
    let rules = policy.list("/rules");
    let asked: Vec<BTreeSet<String>> = rules.iter().map(of_http).collect();
    let of_http = asked.iter().filter(|of_rule| !of_rule.is_empty()).count();
    let (problem, effect) = match action {
        "CUSTOM" | "AUDIT" => (
            format!("ztunnel knows no action {action}"),
            "ztunnel leaves the whole policy out: what it should check gets through unchecked.".to_owned(),
        ),
        _ if of_http == 0 => return None,
        "DENY" => (
            "it denies by attributes of HTTP, which ztunnel does not see".to_owned(),
            "ztunnel leaves the attributes out and denies all that the rest of these rules matches: more than is \
             written, up to every connection."
                .to_owned(),
        ),
        _ if of_http == rules.len() => (
            "it allows by attributes of HTTP, which ztunnel does not see".to_owned(),
            "ztunnel leaves these rules out, and none is left: every connection to these pods is rejected that no \
             other policy allows."
                .to_owned(),
        ),
        _ => (
            "some of its rules allow by attributes of HTTP, which ztunnel does not see".to_owned(),
            "ztunnel leaves these rules out: what only they allow is rejected.".to_owned(),
        ),
    };
    let mut finding = Finding::on(reference(policy), problem).so(effect);
    for (rule, names) in asked
        .iter()
        .enumerate()
        .filter(|(_, names)| !names.is_empty())
        .take(3)
    {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        finding = finding.because(format!("spec.rules[{rule}] asks for {}", names.join(", ")));
    }
    let namespaces: BTreeSet<&str> = captured.iter().map(|pod| pod.facts.namespace.as_str()).collect();
    let namespaces: Vec<&str> = namespaces.into_iter().take(3).collect();
    finding = finding.because(format!(
        "action {action}, {}, {} captured {} of {} under it",
        if labels.is_some() {
            "with a selector"
        } else {
            "for all pods"
        },
        captured.len(),
        if captured.len() == 1 { "pod" } else { "pods" },
        namespaces.join(", ")
    ));
    for namespace in namespaces {
        let waypoint = endpoints::has_waypoint(Some(view.namespace_labels(namespace)));
        if waypoint != Some(true) {
            let apply =
                Command::new("istioctl waypoint apply --enroll-namespace --wait").namespace(namespace);
            finding = finding.run(view.with_revision(apply, namespace));
        }
    }
    Some(finding.by_hand(
        "Only a waypoint judges HTTP, and only policies that are attached to it: name in spec.targetRefs the Services \
         (kind: Service) that these rules protect, instead of spec.selector. What ztunnel should judge, write \
         with principals, namespaces, IP blocks and ports alone.",
    ))
}

/// Whether it is only tried out.
pub(super) fn is_on_trial(policy: &Custom) -> bool {
    let mut annotations = policy.metadata.annotations.iter().flatten();
    annotations.any(|(key, _)| key == "istio.io/dry-run")
}

pub(in crate::doctor::checks) fn has_target(policy: &Custom) -> bool {
    policy.spec.get("targetRef").is_some() || !policy.list("/targetRefs").is_empty()
}

/// Whether a policy without a target, with this selector, is for a pod.
pub(in crate::doctor::checks) fn is_over(
    view: &View<'_>,
    policy: &Custom,
    labels: Option<&Labels>,
    pod: &PodView<'_>,
) -> bool {
    let there = policy.namespace() == view.root || pod.facts.namespace == policy.namespace();
    there && pod.is_live() && labels.is_none_or(|labels| has_all(&pod.facts.labels, labels))
}

/// What of a rule is HTTP's.
fn of_http(rule: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (list, inner, names) in [
        ("to", "operation", &OF_OPERATION[..]),
        ("from", "source", &OF_SOURCE),
    ] {
        for one in rule.get(list).and_then(Value::as_array).into_iter().flatten() {
            let filled = |name: &&&str| {
                let field = one.get(inner).and_then(|inner| inner.get(**name)?.as_array());
                field.is_some_and(|values| !values.is_empty())
            };
            found.extend(names.iter().filter(filled).map(|name| (*name).to_owned()));
        }
    }
    for condition in rule.get("when").and_then(Value::as_array).into_iter().flatten() {
        let key = condition.get("key").and_then(Value::as_str);
        found.extend(key.filter(|key| !OF_CONNECTIONS.contains(key)).map(str::to_owned));
    }
    found
}
