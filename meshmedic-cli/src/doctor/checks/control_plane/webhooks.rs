// SPDX-License-Identifier: Apache-2.0
//! The webhooks of Istio.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::WebhookClientConfig;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::{View, name};

/// The paths on which istiod serves its webhooks.
const PATHS: [&str; 2] = ["/inject", "/validate"];
/// The label by which a namespace asks for sidecars of the default revision, and of another.
const INJECTION: &str = "istio-injection";
const REVISION: &str = "istio.io/rev";

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
        if !PATHS.iter().any(|path| {
            service
                .path
                .as_deref()
                .is_some_and(|served| served.starts_with(path))
        }) {
            continue;
        }
        let on = |problem: &str| Finding::on(ObjectRef::cluster(kind, name(metadata)), problem).so(effect);
        if client.ca_bundle.as_ref().is_none_or(|bundle| bundle.0.is_empty()) {
            return Some(
                on("it has no CA bundle, so that the API server does not trust istiod")
                    .because(format!("webhook {hook}: clientConfig.caBundle is empty"))
                    .run(Command::new("kubectl rollout restart deployment/istiod").namespace(&service.namespace))
                    .by_hand(
                        "istiod writes the bundle when it starts. If a GitOps tool takes it out again, tell that tool to \
                         ignore .webhooks[].clientConfig.caBundle",
                    ),
            );
        }
        let Some(found) = view.service(&service.namespace, &service.name) else {
            return Some(
                on("the Service to which it sends is gone")
                    .because(format!(
                        "webhook {hook}: there is no Service {}/{}",
                        service.namespace, service.name
                    ))
                    .run(
                        Command::new("kubectl delete")
                            .name(&kind.to_lowercase())
                            .name(name(metadata)),
                    )
                    .by_hand("delete it only if that istiod was removed for good; else install it again"),
            );
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

pub(super) fn inject_where_asked(view: &View<'_>) -> Vec<Finding> {
    let injects = view.snapshot.mutating_webhooks.all().iter().any(|config| {
        config.webhooks.iter().flatten().any(|hook| {
            let service = hook.client_config.service.as_ref();
            let path = service.and_then(|service| service.path.as_deref());
            path.is_some_and(|path| path.starts_with("/inject")) || hook.client_config.url.is_some()
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
