// SPDX-License-Identifier: Apache-2.0
//! Probes of the kubelet that an ALLOW policy turns away at a sidecar.
//!
//! Injection sends probes to the sidecar's own port, where no policy holds; this is about those that were left alone.

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::AUTHORIZATION;
use super::authorization::{has_target, is_over};
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
        let policies = allowing(view, pod);
        if policies.is_empty() {
            continue;
        }
        let shut = unchanged(pod)
            .into_iter()
            .find(|asked| !policies.iter().any(|policy| may_allow(policy, asked)));
        if let Some(asked) = shut {
            findings.push(finding(pod, &policies, &asked));
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

/// The ALLOW policies over a pod: without any, everything is allowed.
fn allowing<'s>(view: &View<'s>, pod: &PodView<'_>) -> Vec<&'s Custom> {
    let all = view.custom(AUTHORIZATION).iter();
    all.filter(|policy| {
        let allows = policy.text("/action").is_none_or(|action| action == "ALLOW");
        allows && !has_target(policy) && is_over(view, policy, selected(policy).as_ref(), pod)
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

/// Whether some rule may let the probe in; where it depends on what is not known, it may.
fn may_allow(policy: &Custom, asked: &Asked) -> bool {
    policy.list("/rules").iter().any(|rule| {
        let list = |name: &str| {
            rule.get(name)
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice)
        };
        let from = list("from").is_empty() || list("from").iter().any(needs_no_identity);
        let to = list("to").is_empty() || list("to").iter().any(|to| covers(to, asked));
        from && to && list("when").iter().all(|condition| !asks_for_identity(condition))
    })
}

fn strings<'v>(of: Option<&'v Value>, name: &str) -> Vec<&'v str> {
    let list = of.and_then(|of| of.get(name)?.as_array());
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn needs_no_identity(from: &Value) -> bool {
    let source = from.get("source");
    ["principals", "namespaces", "serviceAccounts", "requestPrincipals"]
        .iter()
        .all(|name| strings(source, name).is_empty())
}

fn asks_for_identity(condition: &Value) -> bool {
    let key = condition.get("key").and_then(Value::as_str).unwrap_or_default();
    let of_identity =
        key == "source.principal" || key == "source.namespace" || key.starts_with("request.auth.");
    of_identity && !strings(Some(condition), "values").is_empty()
}

fn covers(to: &Value, asked: &Asked) -> bool {
    let operation = to.get("operation");
    let port = asked.port.to_string();
    let any = |name: &str, fits: &dyn Fn(&str) -> bool| {
        let listed = strings(operation, name);
        listed.is_empty() || listed.iter().any(|pattern| fits(pattern))
    };
    any("methods", &|pattern| matches(pattern, asked.method))
        && any("ports", &|pattern| pattern == port)
        && any("paths", &|pattern| {
            pattern.contains('{') || matches(pattern, &asked.path)
        })
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
