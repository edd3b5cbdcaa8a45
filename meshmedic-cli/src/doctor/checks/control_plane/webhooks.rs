// SPDX-License-Identifier: Apache-2.0
//! The webhooks of Istio.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::api::admissionregistration::v1::WebhookClientConfig;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::snapshot::EventFact;
use crate::doctor::view::revisions::{INJECTION, REVISION};
use crate::doctor::view::{View, name, namespace};

/// Istio's webhooks: the path on which istiod serves one, and how its name ends. Others serve such paths too, and only
/// Istio has both, with its own label on the configuration.
const OURS: [(&str, &str); 2] = [
    ("/inject", "sidecar-injector.istio.io"),
    ("/validate", "validation.istio.io"),
];
const LABELS: [&str; 2] = ["sidecar-injector", "istiod"];
/// What an Event told longer ago may be over.
const RECENT: SignedDuration = SignedDuration::from_mins(15);

fn is_ours(metadata: &ObjectMeta, hook: &str, path: Option<&str>) -> bool {
    let labels = metadata.labels.as_ref();
    let labelled = labels.is_some_and(|labels| {
        labels.contains_key(REVISION)
            || labels
                .get("app")
                .is_some_and(|app| LABELS.contains(&app.as_str()))
    });
    let mut known = OURS.iter();
    labelled && known.any(|(of, end)| hook.ends_with(end) && path.is_some_and(|path| path.starts_with(of)))
}

pub(super) fn reach_their_service(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for config in view.snapshot.mutating_webhooks.all() {
        let hooks = config
            .webhooks
            .iter()
            .flatten()
            .map(|hook| (hook.name.as_str(), &hook.client_config));
        findings.extend(one(view, "MutatingWebhookConfiguration", &config.metadata, hooks));
    }
    for config in view.snapshot.validating_webhooks.all() {
        let hooks = config
            .webhooks
            .iter()
            .flatten()
            .map(|hook| (hook.name.as_str(), &hook.client_config));
        findings.extend(one(
            view,
            "ValidatingWebhookConfiguration",
            &config.metadata,
            hooks,
        ));
    }
    findings.extend(unanswered(view));
    findings
}

/// The first thing that is wrong with a configuration; its hooks go to one Service as a rule.
fn one<'h>(
    view: &View<'_>,
    kind: &str,
    metadata: &ObjectMeta,
    hooks: impl Iterator<Item = (&'h str, &'h WebhookClientConfig)>,
) -> Option<Finding> {
    let inject = kind.starts_with("Mutating");
    let effect = if inject {
        "pods of injected namespaces cannot be created, or come without a sidecar"
    } else {
        "objects of Istio cannot be changed, or are accepted though they are wrong"
    };
    for (hook, client) in hooks {
        let Some(service) = &client.service else { continue };
        if !is_ours(metadata, hook, service.path.as_deref()) {
            continue;
        }
        let on = |problem: &str| Finding::on(ObjectRef::cluster(kind, name(metadata)), problem).so(effect);
        if client.ca_bundle.as_ref().is_none_or(|bundle| bundle.0.is_empty()) {
            let finding = on("it has no CA bundle, so that the API server does not trust istiod")
                .because(format!("webhook {hook}: clientConfig.caBundle is empty"));
            return Some(
                restart_istiod(view, finding, metadata)
                    .by_hand(
                        "istiod writes the bundle when it starts. If a GitOps tool takes it out again, tell that tool to \
                         ignore .webhooks[].clientConfig.caBundle",
                    ),
            );
        }
        let Some(found) = view.service(&service.namespace, &service.name) else {
            let finding = on("the Service to which it sends is gone").because(format!(
                "webhook {hook}: there is no Service {}/{}",
                service.namespace, service.name
            ));
            let revision = View::revision_of(metadata.labels.as_ref());
            return Some(if view.istiods_of(revision).next().is_some() {
                finding.by_hand(format!(
                    "istiod of revision {revision} is here, and its Service is not: install its chart again, which makes both"
                ))
            } else {
                finding
                    .by_hand("No istiod of its revision is here. If it was removed for good, its webhook is a leftover:")
                    .run(
                        Command::new("kubectl delete")
                            .name(&kind.to_lowercase())
                            .name(name(metadata)),
                    )
            });
        };
        let wanted = service.port.unwrap_or(443);
        let ports = found.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        if !ports.clone().any(|port| port.port == wanted) {
            let known: Vec<String> = ports.map(|port| port.port.to_string()).collect();
            return Some(
                on("the Service to which it sends has no such port")
                    .because(format!(
                        "webhook {hook}: port {wanted} of Service {}/{}, which has {}",
                        service.namespace,
                        service.name,
                        known.join(", ")
                    ))
                    .by_hand("install istiod's chart again: it makes webhook and Service fit"),
            );
        }
    }
    None
}

/// istiod of the revision that a webhook belongs to, started anew.
fn restart_istiod(view: &View<'_>, finding: Finding, metadata: &ObjectMeta) -> Finding {
    let revision = View::revision_of(metadata.labels.as_ref());
    let all: Vec<_> = view.istiods_of(revision).collect();
    if all.is_empty() {
        return finding.by_hand(format!(
            "no Deployment of istiod of revision {revision} is here: look where it runs"
        ));
    }
    all.into_iter().fold(finding, |finding, deployment| {
        finding.run(
            Command::new("kubectl rollout restart")
                .namespace(namespace(&deployment.metadata))
                .path("deployment", name(&deployment.metadata)),
        )
    })
}

/// What the API server could not ask is told in Events of what makes pods.
fn unanswered(view: &View<'_>) -> Vec<Finding> {
    let mut by_hook: BTreeMap<&str, (&str, Vec<&EventFact>)> = BTreeMap::new();
    let recent = |event: &&EventFact| {
        event.reason == "FailedCreate"
            && event
                .last
                .is_none_or(|last| view.now.duration_since(last) <= RECENT)
    };
    for event in view.snapshot.events.all().iter().filter(recent) {
        for config in view.snapshot.mutating_webhooks.all() {
            let mut hooks = config.webhooks.iter().flatten();
            let named = hooks.find(|hook| {
                let path = hook
                    .client_config
                    .service
                    .as_ref()
                    .and_then(|service| service.path.as_deref());
                is_ours(&config.metadata, &hook.name, path)
                    && event.message.contains("failed calling webhook")
                    && event.message.contains(&format!("\"{}\"", hook.name))
            });
            if let Some(hook) = named {
                let of = by_hook
                    .entry(name(&config.metadata))
                    .or_insert((&hook.name, Vec::new()));
                of.1.push(event);
            }
        }
    }
    let told = by_hook.into_iter().map(|(config, (hook, events))| {
        let on = ObjectRef::cluster("MutatingWebhookConfiguration", config);
        let mut finding = Finding::on(on, "the API server gets no answer from it, and pods are not made")
            .so("what makes these pods tries again and again, and none comes until the webhook answers");
        for event in events.iter().take(3) {
            finding = finding.because(format!(
                "{} {}/{}, {} times: {}",
                event.kind, event.namespace, event.name, event.count, event.message
            ));
        }
        finding
            .run(Command::new("kubectl get pods,services,endpointslices -l app=istiod").namespace(&view.istio))
            .by_hand(format!(
                "istiod answers {hook} on port 15017: see that it is Ready (MM0101), that its Service leads there \
                 (MM0103), and that no policy or firewall keeps the API server out (MM0504)"
            ))
    });
    told.collect()
}

pub(super) fn inject_where_asked(view: &View<'_>) -> Vec<Finding> {
    let injects = view.snapshot.mutating_webhooks.all().iter().any(|config| {
        config.webhooks.iter().flatten().any(|hook| {
            let service = hook.client_config.service.as_ref();
            let path = service.and_then(|service| service.path.as_deref());
            let elsewhere = hook.client_config.url.as_ref().map(|_| "/inject");
            is_ours(&config.metadata, &hook.name, path.or(elsewhere))
        })
    });
    if injects {
        return Vec::new();
    }
    let asks = |labels: &BTreeMap<String, String>| {
        labels.get(INJECTION).is_some_and(|value| value == "enabled")
            || labels.contains_key(REVISION) && labels.get(INJECTION).is_none_or(|value| value != "disabled")
    };
    view.namespaces()
        .filter(|(_, namespace)| {
            let labels = namespace.metadata.labels.as_ref();
            let ambient = labels.is_some_and(|labels| labels.contains_key("istio.io/dataplane-mode"));
            !ambient && labels.is_some_and(asks)
        })
        .map(|(name, _)| {
            Finding::on(
                ObjectRef::cluster("Namespace", name),
                "it asks for sidecars, and no webhook injects any",
            )
            .because("no MutatingWebhookConfiguration calls /inject")
            .so("new pods come without a sidecar: they speak plaintext, and STRICT peers turn them away")
            .by_hand("install istiod's chart again: it makes the webhook istio-sidecar-injector")
        })
        .collect()
}
