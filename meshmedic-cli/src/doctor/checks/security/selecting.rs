// SPDX-License-Identifier: Apache-2.0
//! Policies of Istio that are for nobody.

use crate::doctor::kind::{AUTHORIZATION, PEER, REQUEST, WORKLOAD_ENTRY, WORKLOAD_GROUP};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meshmedic_common::facts::Labels;
use serde_json::Value;

use super::mtls::{reference, selected};
use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::{View, has_all, name, namespace, written};

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let policies = [AUTHORIZATION, PEER, REQUEST]
        .into_iter()
        .flat_map(|kind| view.custom(kind));
    policies
        .filter_map(|policy| no_pod(view, policy).or_else(|| no_target(view, policy)))
        .collect()
}

fn no_pod(view: &View<'_>, policy: &Custom) -> Option<Finding> {
    let labels = selected(policy)?;
    if is_somewhere(view, policy, &labels) {
        return None;
    }
    let written = written(&labels);
    Some(
        Finding::on(
            reference(policy),
            "its selector selects no pod, and nothing that would make one",
        )
        .because(format!("spec.selector.matchLabels asks for {written}"))
        .so("It protects nothing: the intended pods are as open as before.")
        .run(Command::new("kubectl get pods --show-labels").namespace(policy.namespace()))
        .by_hand("Correct the selector, or delete the policy if what it protected is gone."),
    )
}

/// Whether a pod has the labels, or something that makes pods, or a Service that looks for them: what is scaled to
/// nothing for now is not forgotten.
fn is_somewhere(view: &View<'_>, policy: &Custom, labels: &Labels) -> bool {
    let everywhere = policy.namespace() == view.root;
    let there = |of: &str| everywhere || of == policy.namespace();
    let snapshot = view.snapshot;
    let pods = view.pods().iter();
    if pods
        .filter(|pod| there(&pod.facts.namespace))
        .any(|pod| has_all(&pod.facts.labels, labels))
    {
        return true;
    }
    let makes = |metadata: &ObjectMeta, template: Option<&PodTemplateSpec>| {
        let of_pods = template.and_then(|template| template.metadata.as_ref()?.labels.as_ref());
        there(namespace(metadata)) && of_pods.is_some_and(|of_pods| has_all(of_pods, labels))
    };
    let template = |set: &k8s_openapi::api::apps::v1::Deployment| {
        makes(&set.metadata, set.spec.as_ref().map(|spec| &spec.template))
    };
    let daemons = |set: &k8s_openapi::api::apps::v1::DaemonSet| {
        makes(&set.metadata, set.spec.as_ref().map(|spec| &spec.template))
    };
    let stateful = |set: &k8s_openapi::api::apps::v1::StatefulSet| {
        makes(&set.metadata, set.spec.as_ref().map(|spec| &spec.template))
    };
    let cron = |job: &k8s_openapi::api::batch::v1::CronJob| {
        let of_jobs = job.spec.job_template.spec.as_ref();
        makes(&job.metadata, of_jobs.map(|spec| &spec.template))
    };
    let jobs = |job: &k8s_openapi::api::batch::v1::Job| {
        makes(&job.metadata, job.spec.as_ref().map(|spec| &spec.template))
    };
    // Machines outside Kubernetes have labels too.
    let machines = view.custom(WORKLOAD_ENTRY).iter().map(|entry| (entry, "/labels"));
    let machines = machines.chain(
        view.custom(WORKLOAD_GROUP)
            .iter()
            .map(|group| (group, "/metadata/labels")),
    );
    let mut machines = machines.filter(|(entry, _)| there(entry.namespace()));
    if machines.any(|(entry, at)| has_labels(entry.spec.pointer(at), labels)) {
        return true;
    }
    let services = |service: &k8s_openapi::api::core::v1::Service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        there(namespace(&service.metadata)) && selector.is_some_and(|wanted| has_all(wanted, labels))
    };
    snapshot.deployments.all().iter().any(template)
        || snapshot.daemon_sets.all().iter().any(daemons)
        || snapshot.stateful_sets.all().iter().any(stateful)
        || snapshot.jobs.all().iter().any(jobs)
        || snapshot.cron_jobs.all().iter().any(cron)
        || snapshot.services.all().iter().any(services)
}

/// Whether labels that stand in an object of Istio have all of these.
fn has_labels(of: Option<&Value>, wanted: &Labels) -> bool {
    let of = |key: &str| of.and_then(|of| of.get(key)?.as_str());
    wanted.iter().all(|(key, value)| of(key) == Some(value))
}

fn no_target(view: &View<'_>, policy: &Custom) -> Option<Finding> {
    let one = policy.spec.get("targetRef").into_iter();
    let mut targets = one.chain(policy.list("/targetRefs"));
    let (kind, missing) = targets.find_map(|target| {
        let kind = target.get("kind").and_then(Value::as_str)?;
        let called = target.get("name").and_then(Value::as_str)?;
        (!exists(view, kind, policy.namespace(), called)).then_some((kind, called))
    })?;
    Some(
        Finding::on(reference(policy), "it is attached to something that is not there")
            .because(format!(
                "spec.targetRefs names {kind} {}/{missing}",
                policy.namespace()
            ))
            .so("It applies to no traffic: what it should check gets through unchecked.")
            .run(
                Command::new("kubectl get")
                    .name(&kind.to_lowercase())
                    .namespace(policy.namespace()),
            )
            .by_hand("Correct the name, or delete the policy if what it protected is gone."),
    )
}

/// Whether it exists; of kinds that were not read nobody knows.
fn exists(view: &View<'_>, kind: &str, of: &str, called: &str) -> bool {
    let among = |key: &str| match view.snapshot.custom.get(key).and_then(|part| part.had()) {
        Some(objects) => objects
            .iter()
            .any(|object| object.namespace() == of && object.name() == called),
        None => true,
    };
    match kind {
        "Service" => {
            let mut services = view.snapshot.services.all().iter();
            services.any(|service| namespace(&service.metadata) == of && name(&service.metadata) == called)
        }
        "Gateway" => among("gateways.gateway.networking.k8s.io"),
        "ServiceEntry" => among("serviceentries.networking.istio.io"),
        _ => true,
    }
}
