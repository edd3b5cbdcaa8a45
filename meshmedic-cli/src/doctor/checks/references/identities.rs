// SPDX-License-Identifier: Apache-2.0
//! Identities that AuthorizationPolicies name.

use crate::doctor::kind::AUTHORIZATION;
use std::collections::BTreeSet;

use serde_json::Value;

use crate::doctor::checks::enforcement::under;
use crate::doctor::checks::security::authorization::has_target;
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::View;
use crate::doctor::view::gateways::{is_of_several_clusters, reference};

/// In policies that Envoy judges this stands for whatever the mesh's trust domain is.
const DEFAULT_DOMAIN: &str = "cluster.local";
/// How many faults are shown of one policy.
const SHOWN: usize = 4;

/// What exists.
struct Known<'s> {
    domain: &'s str,
    /// What Envoy takes for the domain as well.
    aliases: BTreeSet<&'s str>,
    namespaces: BTreeSet<&'s str>,
    accounts: BTreeSet<(&'s str, &'s str)>,
    /// Whether other clusters may have what this one has not.
    elsewhere: bool,
}

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let config = view.snapshot.mesh_config.had();
    let domain = config.and_then(|config| config.trust_domain.as_deref());
    let aliases = config.into_iter().flat_map(|config| &config.trust_domain_aliases);
    let accounts = view.snapshot.service_accounts.all().iter();
    let known = Known {
        domain: domain.unwrap_or(DEFAULT_DOMAIN),
        aliases: aliases.map(String::as_str).chain([DEFAULT_DOMAIN]).collect(),
        namespaces: view.namespaces().map(|(name, _)| name).collect(),
        accounts: accounts
            .filter_map(|one| Some((one.metadata.namespace.as_deref()?, one.metadata.name.as_deref()?)))
            .collect(),
        elsewhere: is_of_several_clusters(view),
    };
    let policies = view.custom(AUTHORIZATION).iter();
    policies
        .filter_map(|policy| finding(view, policy, &known))
        .collect()
}

fn finding(view: &View<'_>, policy: &Custom, known: &Known<'_>) -> Option<Finding> {
    // ztunnel compares the text as it stands, and knows no alias.
    let literally = known.domain != DEFAULT_DOMAIN && !has_target(policy) && under(view, policy).0 > 0;
    let mut faults = BTreeSet::new();
    let mut right = 0;
    for (place, field, value) in named(policy) {
        match fault(field, value, policy.namespace(), known, literally) {
            Some(fault) => drop(faults.insert(format!("{place} names {value}: {fault}"))),
            None => right += 1,
        }
    }
    if faults.is_empty() {
        return None;
    }
    let denies = policy.text("/action") == Some("DENY");
    let effect = match (denies, right) {
        (true, _) => "No workload has that identity, so the policy denies none: the intended one gets in.",
        (false, 0) => "No workload has these identities, so the policy lets none in by them.",
        (false, _) => "No workload has that identity: the intended one is rejected.",
    };
    let mut finding = Finding::on(reference(policy), "it names identities that do not exist");
    for fault in faults.into_iter().take(SHOWN) {
        finding = finding.because(fault);
    }
    Some(finding.so(effect).by_hand(format!(
        "Write a principal as {}/ns/NAMESPACE/sa/SERVICE-ACCOUNT, and take out what is gone.",
        known.domain
    )))
}

/// What its rules name as callers, and where.
fn named(policy: &Custom) -> Vec<(String, &'static str, &str)> {
    let mut all = Vec::new();
    for (at, rule) in policy.list("/rules").iter().enumerate() {
        let from = rule.get("from").and_then(Value::as_array).into_iter().flatten();
        for source in from.filter_map(|from| from.get("source")) {
            for field in ["principals", "namespaces", "serviceAccounts"] {
                let values = source.get(field).and_then(Value::as_array).into_iter().flatten();
                let place = format!("spec.rules[{at}].from.{field}");
                all.extend(
                    values
                        .filter_map(Value::as_str)
                        .map(|value| (place.clone(), field, value)),
                );
            }
        }
    }
    all
}

/// What is wrong with a name; of patterns nothing is said.
fn fault(field: &str, value: &str, of: &str, known: &Known<'_>, literally: bool) -> Option<String> {
    if value.contains('*') || value.is_empty() {
        return None;
    }
    let account = |namespace: &str, account: &str| {
        if known.elsewhere {
            None
        } else if !known.namespaces.contains(namespace) {
            Some(format!("there is no namespace {namespace}"))
        } else if !known.accounts.contains(&(namespace, account)) {
            Some(format!("namespace {namespace} has no ServiceAccount {account}"))
        } else {
            None
        }
    };
    match field {
        "namespaces" => (!known.elsewhere && !known.namespaces.contains(value))
            .then(|| format!("there is no namespace {value}")),
        "serviceAccounts" => match value.split_once('/') {
            Some((namespace, name)) => account(namespace, name),
            None => account(of, value),
        },
        _ => {
            let mut parts = value.split('/');
            match (
                parts.next(),
                parts.next(),
                parts.next(),
                parts.next(),
                parts.next(),
                parts.next(),
            ) {
                (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(name), None) => {
                    let alias = known.aliases.contains(domain);
                    if domain == known.domain || (alias && !literally) {
                        account(namespace, name)
                    } else if alias {
                        Some(format!(
                            "ztunnel knows no aliases, and the mesh's trust domain is {}",
                            known.domain
                        ))
                    } else {
                        Some(format!(
                            "{domain} is not the mesh's trust domain, nor one of its aliases"
                        ))
                    }
                }
                _ if value.starts_with("spiffe://") => {
                    Some("a principal is written without spiffe://".to_owned())
                }
                _ => Some("no identity of Istio has this form".to_owned()),
            }
        }
    }
}
