// SPDX-License-Identifier: Apache-2.0
//! Probes of the kubelet that AuthorizationPolicies turn away at a sidecar.
//!
//! Injection sends probes to the sidecar's own port, where no policy holds; this is about those that were left alone.

use crate::doctor::kind::AUTHORIZATION;
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::authorization::{has_target, is_on_trial, is_over};
use super::mtls::{reference, selected};
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::{PodView, View};

/// The sidecar's own ports.
const OWN: [u16; 2] = [15020, 15021];

/// What the kubelet asks an app for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) port: u16,
    pub(crate) path: String,
    method: &'static str,
}

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pod in view
        .pods()
        .iter()
        .filter(|pod| pod.is_live() && pod.facts.sidecar)
    {
        let asked = unchanged(pod);
        if asked.is_empty() {
            continue;
        }
        let (denying, allowing) = (over(view, pod, "DENY"), over(view, pod, "ALLOW"));
        let denied = asked.iter().find_map(|asked| {
            let policy = denying.iter().find(|policy| denies(policy, asked))?;
            Some((policy, asked))
        });
        if let Some((policy, asked)) = denied {
            findings.push(denied_by(pod, policy, asked));
        }
        // Without any ALLOW policy everything is allowed.
        let shut = asked
            .iter()
            .find(|asked| !allowing.is_empty() && !allowing.iter().any(|policy| may_allow(policy, asked)));
        if let Some(asked) = shut {
            findings.push(finding(pod, &allowing, asked));
        }
    }
    findings
}

fn finding(pod: &PodView<'_>, policies: &[&Custom], asked: &Asked) -> Finding {
    let names: Vec<String> = policies
        .iter()
        .take(3)
        .map(|policy| reference(policy).to_string())
        .collect();
    let mut finding = Finding::on(
        pod.object(),
        "no ALLOW policy over it lets the kubelet's probes in",
    )
    .of(pod.workload.clone())
    .because(format!(
        "the kubelet asks for {} on port {}, past the rewriting of probes",
        asked.path, asked.port
    ))
    .because(format!(
        "no rule of {} matches a caller without an identity there",
        names.join(", ")
    ))
    .so("The sidecar answers the kubelet with 403: the pod does not become Ready, or is restarted for it.");
    if let Some(yaml) = let_in(pod, asked) {
        finding = finding.apply(&yaml);
    }
    finding.by_hand(
        "Or let injection rewrite the probes, as it does by default: take the annotation \
         sidecar.istio.io/rewriteAppHTTPProbers off the pods' template, and restart them.",
    )
}

/// A policy that lets the probe in, for the pods of this workload.
fn let_in(pod: &PodView<'_>, asked: &Asked) -> Option<String> {
    let app = ["app", "app.kubernetes.io/name", "k8s-app"];
    let (key, value) = app
        .into_iter()
        .find_map(|key| Some((key, pod.facts.labels.get(key)?)))?;
    let policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": format!("{value}-probes"), "namespace": pod.facts.namespace},
        "spec": {
            "selector": {"matchLabels": {key: value}}, "action": "ALLOW",
            "rules": [{"to": [{"operation": {
                "methods": [asked.method], "paths": [asked.path], "ports": [asked.port.to_string()],
            }}]}],
        },
    });
    serde_saphyr::to_string(&policy).ok()
}

/// A policy that denies what it does not name denies the kubelet too: it has no identity, and asks for one path.
fn denied_by(pod: &PodView<'_>, policy: &Custom, asked: &Asked) -> Finding {
    Finding::on(pod.object(), "a DENY policy over it turns the kubelet's probes away")
        .of(pod.workload.clone())
        .because(format!(
            "the kubelet asks for {} on port {}, past the rewriting of probes and without an identity",
            asked.path, asked.port
        ))
        .because(format!("a rule of {} matches that", reference(policy)))
        .so("The sidecar answers the kubelet with 403: the pod does not become Ready, or is restarted for it.")
        .by_hand(format!(
            "Leave the probe out of the rule: add to its `to` an operation with notPaths [\"{}\"] (or notPorts [\"{}\"]), \
             or let injection rewrite the probes, as it does by default: take the annotation \
             sidecar.istio.io/rewriteAppHTTPProbers off the pods' template, and restart them.",
            asked.path, asked.port
        ))
}

/// The policies with this action over a pod.
fn over<'s>(view: &View<'s>, pod: &PodView<'_>, action: &str) -> Vec<&'s Custom> {
    let all = view.custom(AUTHORIZATION).iter();
    all.filter(|policy| {
        let is = policy.text("/action").unwrap_or("ALLOW") == action;
        is && !has_target(policy)
            && !is_on_trial(policy)
            && is_over(view, policy, selected(policy).as_ref(), pod)
    })
    .collect()
}

/// The probes that go to the app's own port, over HTTP.
pub(crate) fn unchanged(pod: &PodView<'_>) -> Vec<Asked> {
    let annotations = pod.pod.metadata.annotations.as_ref();
    let excluded =
        annotations.and_then(|annotations| annotations.get("traffic.sidecar.istio.io/excludeInboundPorts"));
    let excluded: Vec<&str> = excluded
        .into_iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .collect();
    let containers = pod
        .pod
        .spec
        .as_ref()
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default();
    let apps = containers
        .iter()
        .filter(|container| container.name != "istio-proxy");
    let probes = apps.flat_map(|container| {
        let probes = [
            &container.startup_probe,
            &container.readiness_probe,
            &container.liveness_probe,
        ];
        probes
            .into_iter()
            .flatten()
            .filter_map(move |probe| asked(probe, container))
    });
    probes
        .filter(|asked| !OWN.contains(&asked.port) && !excluded.contains(&asked.port.to_string().as_str()))
        .collect()
}

fn asked(probe: &Probe, container: &Container) -> Option<Asked> {
    if let Some(grpc) = &probe.grpc {
        return Some(Asked {
            port: u16::try_from(grpc.port).ok()?,
            path: "/grpc.health.v1.Health/Check".to_owned(),
            method: "POST",
        });
    }
    let get = probe.http_get.as_ref()?;
    // What is encrypted by the app itself shows the sidecar no path: then only ports count, and few rules name any.
    if get.scheme.as_deref() == Some("HTTPS") {
        return None;
    }
    let port = match &get.port {
        IntOrString::Int(number) => u16::try_from(*number).ok()?,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(name))?;
            u16::try_from(named.container_port).ok()?
        }
    };
    Some(Asked {
        port,
        path: get.path.clone().unwrap_or_else(|| "/".to_owned()),
        method: "GET",
    })
}

/// What of a rule is known to hold for a caller without an identity.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
    /// It depends on what is not known here: an address, a header.
    Maybe,
}

impl Holds {
    /// Of conditions that have to hold together.
    fn all(conditions: impl Iterator<Item = Self>) -> Self {
        conditions.fold(Self::Yes, |so_far, next| match (so_far, next) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Maybe, _) | (_, Self::Maybe) => Self::Maybe,
            _ => Self::Yes,
        })
    }

    /// Of alternatives; without any, it holds.
    fn any(alternatives: impl Iterator<Item = Self>) -> Self {
        let mut none = true;
        let best = alternatives.fold(Self::No, |so_far, next| {
            none = false;
            match (so_far, next) {
                (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
                (Self::Maybe, _) | (_, Self::Maybe) => Self::Maybe,
                _ => Self::No,
            }
        });
        if none { Self::Yes } else { best }
    }

    const fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// Whether some rule may let the probe in; where it depends on what is not known, it may.
fn may_allow(policy: &Custom, asked: &Asked) -> bool {
    let mut rules = policy.list("/rules").iter();
    rules.any(|rule| matched(rule, asked) != Holds::No)
}

/// Whether some rule matches the probe for certain.
fn denies(policy: &Custom, asked: &Asked) -> bool {
    let mut rules = policy.list("/rules").iter();
    rules.any(|rule| matched(rule, asked) == Holds::Yes)
}

fn matched(rule: &Value, asked: &Asked) -> Holds {
    let list = |name: &str| rule.get(name).and_then(Value::as_array).into_iter().flatten();
    let from = Holds::any(list("from").map(of_source));
    let to = Holds::any(list("to").map(|to| of_operation(to, asked)));
    let when = Holds::all(list("when").map(of_condition));
    Holds::all([from, to, when].into_iter())
}

fn strings<'v>(of: Option<&'v Value>, name: &str) -> Vec<&'v str> {
    let list = of.and_then(|of| of.get(name)?.as_array());
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The kubelet has no identity, so that no list of identities has it, and each negated one does.
fn of_source(from: &Value) -> Holds {
    let source = from.get("source");
    let listed = |name: &str| !strings(source, name).is_empty();
    if ["principals", "namespaces", "serviceAccounts", "requestPrincipals"]
        .into_iter()
        .any(listed)
    {
        return Holds::No;
    }
    let by_address = ["ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"];
    if by_address.into_iter().any(listed) {
        Holds::Maybe
    } else {
        Holds::Yes
    }
}

fn of_condition(condition: &Value) -> Holds {
    let key = condition.get("key").and_then(Value::as_str).unwrap_or_default();
    let of_identity =
        key == "source.principal" || key == "source.namespace" || key.starts_with("request.auth.");
    if of_identity {
        return Holds::of(strings(Some(condition), "values").is_empty());
    }
    Holds::Maybe
}

fn of_operation(to: &Value, asked: &Asked) -> Holds {
    let operation = to.get("operation");
    let port = asked.port.to_string();
    let listed = |name: &str, fits: &dyn Fn(&str) -> Holds| {
        let patterns = strings(operation, name);
        Holds::any(patterns.into_iter().map(fits))
    };
    let negated = |name: &str, fits: &dyn Fn(&str) -> Holds| {
        let patterns = strings(operation, name);
        match Holds::any(patterns.iter().copied().map(fits)) {
            _ if patterns.is_empty() => Holds::Yes,
            Holds::Yes => Holds::No,
            Holds::No => Holds::Yes,
            Holds::Maybe => Holds::Maybe,
        }
    };
    let method = |pattern: &str| Holds::of(matches(pattern, asked.method));
    let is_port = |pattern: &str| Holds::of(pattern == port);
    // A template of a path is not evaluated here.
    let path = |pattern: &str| {
        if pattern.contains('{') {
            Holds::Maybe
        } else {
            Holds::of(matches(pattern, &asked.path))
        }
    };
    // The kubelet names the pod's address as host.
    let host = |_: &str| Holds::Maybe;
    Holds::all(
        [
            listed("methods", &method),
            negated("notMethods", &method),
            listed("ports", &is_port),
            negated("notPorts", &is_port),
            listed("paths", &path),
            negated("notPaths", &path),
            listed("hosts", &host),
            negated("notHosts", &host),
        ]
        .into_iter(),
    )
}

/// Istio's patterns: whole, with a `*` in front, or with one at the end.
fn matches(pattern: &str, text: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(""), _) => true,
        (Some(end), _) => text.ends_with(end),
        (None, Some(start)) => text.starts_with(start),
        (None, None) => pattern == text,
    }
}
