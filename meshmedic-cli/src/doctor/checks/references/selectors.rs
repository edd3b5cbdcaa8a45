// SPDX-License-Identifier: Apache-2.0
//! Services whose selectors select nothing.

use k8s_openapi::api::core::v1::{PodTemplateSpec, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meshmedic_common::facts::Labels;

use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::view::gateways::service_ref;
use crate::doctor::view::{View, has_all, namespace, written};

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let services = view.snapshot.services.all().iter();
    services
        .filter(|service| is_in_mesh(view, service))
        .filter_map(|service| finding(view, service))
        .collect()
}

fn is_in_mesh(view: &View<'_>, service: &Service) -> bool {
    let labels = view.namespace_labels(namespace(&service.metadata));
    let has = |key: &str, value: &str| labels.get(key).is_some_and(|one| one == value);
    has("istio.io/dataplane-mode", "ambient")
        || has("istio-injection", "enabled")
        || labels.contains_key("istio.io/rev")
}

fn finding(view: &View<'_>, service: &Service) -> Option<Finding> {
    let selector = service
        .spec
        .as_ref()?
        .selector
        .as_ref()
        .filter(|selector| !selector.is_empty())?;
    let of = namespace(&service.metadata);
    if view.pods_of(service).next().is_some() || is_made(view, of, selector) {
        return None;
    }
    // A selector is often right but for one label: what shares the others is what was meant.
    let close = view.pods_in(of).find(|pod| {
        let shared = selector
            .iter()
            .filter(|(key, value)| pod.facts.labels.get(*key) == Some(*value))
            .count();
        shared > 0 && shared + 1 == selector.len()
    });
    let mut finding = Finding::on(
        service_ref(service),
        "its selector selects no pod, and nothing that would make one",
    )
    .because(format!("spec.selector asks for {}", written(selector)));
    if let Some(pod) = close {
        finding = finding.because(format!("pod {} has all of them but one", pod.facts.name));
    }
    Some(
        finding
            .so("Requests to it are answered with status 503, or refused.")
            .run(Command::new("kubectl get pods --show-labels").namespace(of))
            .by_hand("Correct the selector, or delete the Service if what it was for is gone."),
    )
}

/// Whether a workload, of whatever size, makes pods with these labels.
fn is_made(view: &View<'_>, of: &str, selector: &Labels) -> bool {
    let makes = |metadata: &ObjectMeta, template: Option<&PodTemplateSpec>| {
        let labels = template.and_then(|template| template.metadata.as_ref()?.labels.as_ref());
        namespace(metadata) == of && labels.is_some_and(|labels| has_all(labels, selector))
    };
    let snapshot = view.snapshot;
    let mut deployments = snapshot.deployments.all().iter();
    let mut daemons = snapshot.daemon_sets.all().iter();
    let mut stateful = snapshot.stateful_sets.all().iter();
    let mut jobs = snapshot.jobs.all().iter();
    let mut cron_jobs = snapshot.cron_jobs.all().iter();
    let mut entries = view.custom("workloadentries.networking.istio.io").iter();
    deployments.any(|set| makes(&set.metadata, set.spec.as_ref().map(|spec| &spec.template)))
        || daemons.any(|set| makes(&set.metadata, set.spec.as_ref().map(|spec| &spec.template)))
        || stateful.any(|set| makes(&set.metadata, set.spec.as_ref().map(|spec| &spec.template)))
        || jobs.any(|job| makes(&job.metadata, job.spec.as_ref().map(|spec| &spec.template)))
        || cron_jobs.any(|job| {
            let made = job.spec.job_template.spec.as_ref();
            makes(&job.metadata, made.map(|spec| &spec.template))
        })
        || entries.any(|entry| {
            let label = |key: &str| {
                entry
                    .spec
                    .get("labels")
                    .and_then(|labels| labels.get(key)?.as_str())
            };
            entry.namespace() == of && selector.iter().all(|(key, value)| label(key) == Some(value))
        })
}
