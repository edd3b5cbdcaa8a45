// SPDX-License-Identifier: Apache-2.0
//! Policies that judge by identity the pods behind a waypoint: ztunnel sees the waypoint's identity there, and not
//! that of whoever called it.

use crate::doctor::kind::AUTHORIZATION;
use std::collections::{BTreeMap, BTreeSet};

use meshmedic_common::facts::Labels;
use serde_json::{Value, json};

use crate::doctor::checks::security::authorization::{finding as asks_too_much, has_target, is_over};
use crate::doctor::checks::security::mtls::selected;
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::gateways::{Binding, Traffic, of_metadata, of_service, pods, reference};
use crate::doctor::view::{PodView, View, endpoints};

/// How many waypoints or pods are named.
const NAMED: usize = 3;
/// istiod's switch that lets every waypoint in by itself.
const AUTO_ALLOW: &str = "PILOT_AUTO_ALLOW_WAYPOINT_POLICY";

/// Who comes to a pod in a waypoint's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    namespace: String,
    account: String,
    /// The name of the waypoint itself.
    waypoint: String,
}

impl Identity {
    fn principal(&self, domain: &str) -> String {
        format!("{domain}/ns/{}/sa/{}", self.namespace, self.account)
    }
}

fn domain<'v>(view: &'v View<'_>) -> &'v str {
    let config = view.snapshot.mesh_config.had();
    config
        .and_then(|config| config.trust_domain.as_deref())
        .unwrap_or("cluster.local")
}

/// The captured pods behind waypoints, by their places, and the identities of these.
fn behind(view: &View<'_>) -> BTreeMap<usize, BTreeSet<Identity>> {
    let mut known: BTreeMap<(&str, &str), BTreeSet<Identity>> = BTreeMap::new();
    let mut all: BTreeMap<usize, BTreeSet<Identity>> = BTreeMap::new();
    let services = view.snapshot.services.all().iter();
    let by_service = services.filter_map(|service| match of_service(view, service) {
        Binding::Bound(_, waypoint) => Some((view.pods_of(service).collect(), waypoint)),
        _ => None,
    });
    let pods = view.pods().iter();
    let by_pod = pods.filter_map(
        |pod| match of_metadata(view, &pod.pod.metadata, Traffic::Workload) {
            Binding::Bound(_, waypoint) => Some((vec![pod], waypoint)),
            _ => None,
        },
    );
    let bound: Vec<(Vec<&PodView<'_>>, &Custom)> = by_service.chain(by_pod).collect();
    for (pods, waypoint) in bound {
        // A waypoint of many Services is asked once.
        let identities = known
            .entry((waypoint.namespace(), waypoint.name()))
            .or_insert_with(|| identities(view, waypoint));
        let captured = pods.into_iter().filter(|pod| {
            pod.is_live() && endpoints::is_captured(pod) && !endpoints::is_waypoint(&pod.facts.labels)
        });
        for place in captured.filter_map(|pod| view.place(pod)) {
            all.entry(place).or_default().extend(identities.iter().cloned());
        }
    }
    all
}

/// Those of its pods; istiod gives a waypoint without any an account of its own name.
fn identities(view: &View<'_>, waypoint: &Custom) -> BTreeSet<Identity> {
    let identity = |account: &str| Identity {
        namespace: waypoint.namespace().to_owned(),
        account: account.to_owned(),
        waypoint: waypoint.name().to_owned(),
    };
    let accounts =
        pods(view, waypoint).filter_map(|pod| pod.pod.spec.as_ref()?.service_account_name.as_deref());
    let found: BTreeSet<Identity> = accounts.map(identity).collect();
    if found.is_empty() {
        BTreeSet::from([identity(waypoint.name())])
    } else {
        found
    }
}

/// The policies that ztunnel judges by, with the labels that they select.
fn judged_by_ztunnel<'s>(view: &View<'s>, action: &str) -> Vec<(&'s Custom, Option<Labels>)> {
    let trial = |policy: &Custom| {
        let annotations = policy.metadata.annotations.iter().flatten();
        annotations.into_iter().any(|(key, _)| key == "istio.io/dry-run")
    };
    let policies = view.custom(AUTHORIZATION).iter();
    policies
        .filter(|policy| policy.text("/action").unwrap_or("ALLOW") == action)
        .filter(|policy| !has_target(policy) && !trial(policy))
        .map(|policy| (policy, selected(policy)))
        .collect()
}

/// Pods whose ALLOW policies, all together, let the waypoint before them in by none of their rules.
pub(super) fn shut_out(view: &View<'_>) -> Vec<Finding> {
    if lets_waypoints_in(view) {
        return Vec::new();
    }
    let policies = judged_by_ztunnel(view, "ALLOW");
    if policies.is_empty() {
        return Vec::new();
    }
    let mut by_namespace: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, (policy, _)) in policies.iter().enumerate() {
        by_namespace.entry(policy.namespace()).or_default().push(at);
    }
    let mut by_policy: BTreeMap<usize, (usize, BTreeSet<Identity>)> = BTreeMap::new();
    for (place, identities) in behind(view) {
        let Some(pod) = view.pods().get(place) else {
            continue;
        };
        let near = [view.root.as_str(), pod.facts.namespace.as_str()];
        let near = near
            .iter()
            .filter_map(|of| by_namespace.get(of))
            .flatten()
            .copied();
        let over: BTreeSet<usize> = near
            .filter(|at| {
                policies
                    .get(*at)
                    .is_some_and(|(policy, labels)| is_over(view, policy, labels.as_ref(), pod))
            })
            .collect();
        let refused = identities.into_iter().filter(|identity| {
            let admits = |at: &usize| {
                policies
                    .get(*at)
                    .is_some_and(|(policy, _)| admits(policy, identity, domain(view)))
            };
            !over.iter().any(admits)
        });
        let refused: BTreeSet<Identity> = refused.collect();
        // Whoever says most about callers is the one to look at.
        let blamed = over
            .iter()
            .find(|at| policies.get(**at).is_some_and(|(policy, _)| by_identity(policy)));
        if let Some(at) = blamed.or(over.first())
            && !refused.is_empty()
        {
            let entry = by_policy.entry(*at).or_default();
            entry.0 += 1;
            entry.1.extend(refused);
        }
    }
    let found = by_policy.into_iter().filter_map(|(at, (count, identities))| {
        let (policy, labels) = policies.get(at)?;
        // Rules of HTTP that ztunnel leaves out have a check of their own.
        (asks_too_much(view, policy).is_none())
            .then(|| refusing(view, policy, labels.as_ref(), count, &identities))
    });
    found.collect()
}

/// Whether every istiod lets waypoints in by itself.
fn lets_waypoints_in(view: &View<'_>) -> bool {
    let mut istiods = view.istiods().peekable();
    istiods.peek().is_some()
        && istiods.all(|pod| {
            let variables =
                endpoints::containers(pod.pod).flat_map(|container| container.env.iter().flatten());
            let mut variables = variables.filter(|variable| variable.name == AUTO_ALLOW);
            variables.any(|variable| variable.value.as_deref() == Some("true"))
        })
}

fn refusing(
    view: &View<'_>,
    policy: &Custom,
    labels: Option<&Labels>,
    count: usize,
    identities: &BTreeSet<Identity>,
) -> Finding {
    let principals: BTreeSet<String> = identities.iter().map(|one| one.principal(domain(view))).collect();
    let mut finding = Finding::on(
        reference(policy),
        "it does not let the waypoint before its pods in",
    )
    .because(format!(
        "{count} captured pods under it are behind a waypoint, so ztunnel sees the waypoint call them"
    ));
    for principal in principals.iter().take(NAMED) {
        finding = finding.because(format!(
            "no ALLOW policy over these pods has a rule for {principal}"
        ));
    }
    let principals: Vec<&String> = principals.iter().collect();
    let waypoint = identities
        .first()
        .map_or("waypoint", |identity| identity.waypoint.as_str());
    let mut allow = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": format!("allow-{waypoint}"), "namespace": policy.namespace() },
        "spec": { "action": "ALLOW", "rules": [{ "from": [{ "source": { "principals": principals } }] }] },
    });
    if let (Some(labels), Some(spec)) = (labels, allow.pointer_mut("/spec").and_then(Value::as_object_mut)) {
        spec.insert("selector".to_owned(), json!({ "matchLabels": labels }));
    }
    let finding = finding.so(
        "Whatever comes through the waypoint is rejected: everybody who calls these pods by their Service.",
    );
    match serde_saphyr::to_string(&allow) {
        Ok(yaml) => finding.apply(&yaml),
        Err(_) => finding,
    }
    .by_hand(
        "Which callers may come, the waypoint has to judge from now on: attach the rules to it, by spec.targetRefs with the \
         Services (kind: Service).",
    )
}

/// Policies that deny by whom they take for the caller, where all that comes has the waypoint's identity.
pub(super) fn disguised(view: &View<'_>) -> Vec<Finding> {
    let policies = judged_by_ztunnel(view, "DENY");
    let policies: Vec<_> = policies
        .into_iter()
        .filter(|(policy, _)| by_identity(policy))
        .collect();
    if policies.is_empty() {
        return Vec::new();
    }
    let behind = behind(view);
    let found = policies.into_iter().filter_map(|(policy, labels)| {
        let covered = behind.iter().filter_map(|(place, identities)| Some((view.pods().get(*place)?, identities)));
        let covered: Vec<_> = covered.filter(|(pod, _)| is_over(view, policy, labels.as_ref(), pod)).collect();
        // One that denies the waypoint itself denies all that comes through it.
        let hit = covered.iter().any(|(_, identities)| identities.iter().any(|one| admits(policy, one, domain(view))));
        let (pod, identities) = covered.first()?;
        let waypoint = identities.first()?;
        (!hit).then(|| {
            Finding::on(reference(policy), "it denies by identity, behind a waypoint that hides who calls")
                .because(format!(
                    "{} captured pods under it are behind a waypoint, {} among them behind {}/{}",
                    covered.len(),
                    pod.facts.name,
                    waypoint.namespace,
                    waypoint.waypoint
                ))
                .because("its rules name principals, namespaces or service accounts, and none of them is the waypoint's")
                .so("Those whom it denies get in by the waypoint: ztunnel sees the waypoint's identity, and not theirs.")
                .by_hand(
                    "Attach it to the waypoint as well: the same rules, with spec.targetRefs that name the Services (kind: \
                     Service). Keep this one for those who call the pods by their addresses.",
                )
        })
    });
    let twins = |finding: &Finding| !is_at_waypoint_too(view, finding);
    found.filter(twins).collect()
}

/// Whether another policy of the same namespace denies at a waypoint: then both ways are guarded.
fn is_at_waypoint_too(view: &View<'_>, finding: &Finding) -> bool {
    let of = finding.object.namespace.as_deref().unwrap_or_default();
    let mut policies = view
        .custom(AUTHORIZATION)
        .iter()
        .filter(|policy| policy.namespace() == of);
    policies.any(|policy| has_target(policy) && policy.text("/action") == Some("DENY") && by_identity(policy))
}

/// Whether any of its rules asks who calls.
fn by_identity(policy: &Custom) -> bool {
    let asks = |rule: &Value| {
        let named = sources(rule).any(|source| {
            let fields = ["principals", "namespaces", "serviceAccounts"];
            fields.iter().any(|field| {
                source
                    .get(*field)
                    .and_then(Value::as_array)
                    .is_some_and(|all| !all.is_empty())
            })
        });
        named
            || conditions(rule).any(|(key, values)| {
                matches!(key, "source.principal" | "source.namespace") && !values.is_empty()
            })
    };
    policy.list("/rules").iter().any(asks)
}

fn sources(rule: &Value) -> impl Iterator<Item = &Value> {
    let from = rule.get("from").and_then(Value::as_array).into_iter().flatten();
    from.filter_map(|from| from.get("source"))
}

fn conditions(rule: &Value) -> impl Iterator<Item = (&str, &[Value])> {
    let when = rule.get("when").and_then(Value::as_array).into_iter().flatten();
    when.filter_map(|one| {
        let values = one
            .get("values")
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        Some((one.get("key")?.as_str()?, values))
    })
}

/// Whether a rule matches this caller. What else it asks (ports, addresses) counts as met: nobody is accused on a guess.
fn admits(policy: &Custom, identity: &Identity, domain: &str) -> bool {
    policy.list("/rules").iter().any(|rule| {
        let mut from = sources(rule).peekable();
        let anybody = from.peek().is_none();
        (anybody || from.any(|source| is_source(source, policy, identity, domain)))
            && conditions(rule).all(|(key, values)| {
                let wanted = match key {
                    "source.principal" => identity.principal(domain),
                    "source.namespace" => identity.namespace.clone(),
                    _ => return true,
                };
                values.is_empty()
                    || values
                        .iter()
                        .filter_map(Value::as_str)
                        .any(|one| matches(one, &wanted))
            })
    })
}

fn is_source(source: &Value, policy: &Custom, identity: &Identity, domain: &str) -> bool {
    let principal = identity.principal(domain);
    let list = |field: &str| {
        source
            .get(field)
            .and_then(Value::as_array)
            .filter(|all| !all.is_empty())
    };
    let any = |all: &[Value], wanted: &str| {
        all.iter()
            .filter_map(Value::as_str)
            .any(|one| matches(one, wanted))
    };
    let accounts = |all: &[Value]| {
        all.iter()
            .filter_map(Value::as_str)
            .any(|one| match one.split_once('/') {
                Some((namespace, account)) => namespace == identity.namespace && account == identity.account,
                None => policy.namespace() == identity.namespace && one == identity.account,
            })
    };
    list("principals").is_none_or(|all| any(all, &principal))
        && list("namespaces").is_none_or(|all| any(all, &identity.namespace))
        && list("serviceAccounts").is_none_or(|all| accounts(all))
        && !list("notPrincipals").is_some_and(|all| any(all, &principal))
        && !list("notNamespaces").is_some_and(|all| any(all, &identity.namespace))
        && !list("notServiceAccounts").is_some_and(|all| accounts(all))
}

/// As Istio compares: exactly, by a beginning, by an end, or by being there at all.
fn matches(pattern: &str, value: &str) -> bool {
    match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(""), _) => !value.is_empty(),
        (Some(beginning), _) => value.starts_with(beginning),
        (None, Some(end)) => value.ends_with(end),
        (None, None) => pattern == value,
    }
}
