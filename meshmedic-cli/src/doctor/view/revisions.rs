// SPDX-License-Identifier: Apache-2.0
//! Revisions of Istio: which istiod is whose, and which of them a namespace or a pod asks for.
//!
//! As the injection webhooks decide it: a namespace's `istio-injection` before its `istio.io/rev`, both before what a
//! pod says; a tag stands for the revision to which its webhook sends.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use k8s_openapi::api::apps::v1::Deployment;
use kube::core::{Selector, SelectorExt as _};
use meshmedic_common::facts::Labels;

use super::{PodView, View, has_all, namespace};
use crate::doctor::command::Command;

/// The label of a namespace, a pod or a part of Istio that names a revision or a tag.
pub(crate) const REVISION: &str = "istio.io/rev";
/// The label by which a namespace asks for sidecars of the default revision.
pub(crate) const INJECTION: &str = "istio-injection";
/// What a revision is called that nobody named.
pub(crate) const DEFAULT: &str = "default";
const TAG: &str = "istio.io/tag";
const INJECT: &str = "sidecar.istio.io/inject";

/// A revision that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    /// The revision or tag, as it is written.
    pub(crate) name: String,
    /// Who writes it.
    pub(crate) by: String,
}

impl<'s> View<'s> {
    /// The revision of a part of Istio, by its labels.
    pub(crate) fn revision_of(labels: Option<&Labels>) -> &str {
        let named = labels.and_then(|labels| labels.get(REVISION));
        named.map_or(DEFAULT, String::as_str)
    }

    /// The revision of istiod's Deployment.
    pub(crate) fn revision_of_istiod(deployment: &Deployment) -> &str {
        let template = deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.template.metadata.as_ref());
        let of_pods = template.and_then(|metadata| metadata.labels.as_ref());
        let has = |labels: &&Labels| labels.contains_key(REVISION);
        Self::revision_of(of_pods.filter(has).or(deployment.metadata.labels.as_ref()))
    }

    /// The pods of istiod's Deployment that live.
    pub(crate) fn pods_of_istiod<'v>(
        &'v self,
        deployment: &'v Deployment,
    ) -> impl Iterator<Item = &'v PodView<'s>> {
        let selector = deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.match_labels.as_ref());
        self.istiods().filter(move |pod| {
            let there = pod.facts.namespace == namespace(&deployment.metadata);
            let made = pod
                .workload
                .as_ref()
                .filter(|workload| workload.kind == "Deployment");
            // Where what made its ReplicaSet is not known, the selector tells.
            there
                && match made {
                    Some(workload) => Some(&workload.name) == deployment.metadata.name.as_ref(),
                    None => selector.is_some_and(|selector| has_all(&pod.facts.labels, selector)),
                }
        })
    }

    /// istiod's Deployments of a revision.
    pub(crate) fn istiods_of<'v>(&'v self, revision: &'v str) -> impl Iterator<Item = &'s Deployment> + 'v {
        self.istiod_deployments()
            .filter(move |deployment| Self::revision_of_istiod(deployment) == revision)
    }

    /// Whether an istiod of the revision is Ready. Where istiod is elsewhere nobody can tell, so it counts as Ready.
    pub(crate) fn is_revision_ready(&self, revision: &str) -> bool {
        let mut own = self.istiods_of(revision).peekable();
        own.peek().is_none()
            || own.any(|deployment| self.pods_of_istiod(deployment).any(|pod| pod.facts.ready))
    }

    /// The injection webhooks that serve a revision or tag, and the revision that they serve.
    fn injectors(&self, asked: &str) -> impl Iterator<Item = (&'s MutatingWebhookConfiguration, &'s str)> {
        let hooks = self.snapshot.mutating_webhooks.all().iter();
        let asked = asked.to_owned();
        hooks.filter_map(move |config| {
            let labels = config.metadata.labels.as_ref();
            if !is_injector(labels) {
                return None;
            }
            let revision = Self::revision_of(labels);
            let tag = labels.and_then(|labels| labels.get(TAG));
            let name = tag.map_or(revision, String::as_str);
            (name == asked).then_some((config, revision))
        })
    }

    /// The revision that a name stands for: a tag's, or itself; none where no webhook serves it.
    pub(crate) fn resolve(&self, asked: &str) -> Option<&'s str> {
        self.injectors(asked).map(|(_, revision)| revision).next()
    }

    /// Whether a webhook injects sidecars into a namespace with these labels for what it says itself.
    pub(crate) fn injects_into(&self, asked: &str, labels: &Labels) -> bool {
        let selects = |hook: &MutatingWebhook| {
            let selector = hook.namespace_selector.clone().unwrap_or_default();
            Selector::try_from(selector).is_ok_and(|selector| selector.matches(labels))
        };
        self.injectors(asked)
            .any(|(config, _)| config.webhooks.iter().flatten().any(selects))
    }

    /// Which revision is to inject into a pod; none if none is.
    pub(crate) fn injection(&self, pod: &PodView<'_>) -> Option<Asked> {
        let labels = self.namespace_labels(&pod.facts.namespace);
        let own = &pod.facts.labels;
        let annotated = pod.pod.metadata.annotations.as_ref();
        let annotated = annotated.and_then(|annotations| annotations.get(INJECT));
        let wants = own.get(INJECT).or(annotated).map(String::as_str);
        if matches!(wants, Some("false" | "no" | "off" | "n")) {
            return None;
        }
        if let Some(asked) = Self::asked_by(&pod.facts.namespace, labels) {
            return asked;
        }
        match (own.get(REVISION), own.get(INJECT).map(String::as_str)) {
            (Some(name), _) => Some(Asked {
                name: name.clone(),
                by: format!("it has the label {REVISION}={name}"),
            }),
            // Here the webhook heeds the label alone.
            (None, Some("true")) => Some(Asked {
                name: DEFAULT.to_owned(),
                by: format!("it has the label {INJECT}=true"),
            }),
            _ => None,
        }
    }

    /// What a namespace says; none where it leaves it to its pods, none inside where it wants none.
    pub(crate) fn asked_by(name: &str, labels: &Labels) -> Option<Option<Asked>> {
        let asked = |revision: &str, key: &str, value: &str| {
            Some(Asked {
                name: revision.to_owned(),
                by: format!("namespace {name} has the label {key}={value}"),
            })
        };
        match (labels.get(INJECTION).map(String::as_str), labels.get(REVISION)) {
            (Some("enabled"), _) => Some(asked(DEFAULT, INJECTION, "enabled")),
            (Some(_), _) => Some(None),
            (None, Some(revision)) => Some(asked(revision, REVISION, revision)),
            (None, None) => None,
        }
    }

    /// A command that makes a waypoint in a namespace, with the revision whose istiod is to run it: the namespace's,
    /// or the only one; the default one needs no word.
    pub(crate) fn with_revision(&self, command: Command, of: &str) -> Command {
        let named = self.namespace_labels(of).get(REVISION).cloned();
        let all: BTreeSet<&str> = self.istiod_deployments().map(Self::revision_of_istiod).collect();
        let only = all
            .first()
            .filter(|_| all.len() == 1)
            .map(|&only| only.to_owned());
        // A tag `default` leads to the default one, however that is called.
        let only = only.filter(|_| self.resolve(DEFAULT).is_none());
        match named.or(only).filter(|revision| revision != DEFAULT) {
            Some(revision) => command.words("--revision").name(&revision),
            None => command,
        }
    }

    /// The revisions that anybody asks for, tags resolved.
    pub(crate) fn revisions_in_use(&self) -> BTreeSet<String> {
        let of_namespaces = self.namespaces().filter_map(|(name, namespace)| {
            Self::asked_by(name, namespace.metadata.labels.as_ref()?).flatten()
        });
        let asked = of_namespaces.map(|asked| asked.name);
        let of_pods = self.pods().iter().filter(|pod| pod.is_live()).filter_map(|pod| {
            let annotations = pod.pod.metadata.annotations.as_ref();
            let annotated = annotations.and_then(|annotations| annotations.get(REVISION));
            // istiod's own pods name theirs, and ask for none.
            let own = pod
                .facts
                .labels
                .get(REVISION)
                .filter(|_| pod.facts.labels.get("app").is_none_or(|app| app != "istiod"));
            annotated.or(own).filter(|revision| !revision.is_empty()).cloned()
        });
        asked
            .chain(of_pods)
            .map(|name| self.resolve(&name).map_or(name, str::to_owned))
            .collect()
    }
}

fn is_injector(labels: Option<&Labels>) -> bool {
    labels
        .and_then(|labels| labels.get("app"))
        .is_some_and(|app| app == "sidecar-injector")
}
