// SPDX-License-Identifier: Apache-2.0
//! What is kept of objects: what a check looks at. The rest never leaves the reader, so no secret can.
//!
//! Of containers neither the values of variables nor commands are kept, of annotations only values that cannot hold a
//! secret, of objects of Istio no headers. Whoever adds a check that needs more adds it here.

mod annotations;
mod custom;
mod mesh;
mod pod;

pub(crate) use annotations::metadata;
pub(crate) use custom::custom;
pub(crate) use mesh::{cilium_config, cni_config, event, mesh_config};
pub(crate) use pod::{pod, template};

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec, StatefulSet,
    StatefulSetSpec,
};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job, JobSpec, JobTemplateSpec};
use k8s_openapi::api::core::v1::{
    Namespace, Node, NodeSpec, NodeStatus, ResourceQuota, Service, ServiceAccount, ServiceStatus,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use meshmedic_common::text::clean;

/// What is kept of a condition's message.
const MAX_WORDS: usize = 600;

pub(crate) fn namespace(namespace: &Namespace) -> Namespace {
    Namespace {
        metadata: metadata(&namespace.metadata),
        spec: None,
        status: namespace.status.clone(),
    }
}

pub(crate) fn node(node: &Node) -> Node {
    Node {
        metadata: metadata(&node.metadata),
        spec: node.spec.as_ref().map(|spec| NodeSpec {
            unschedulable: spec.unschedulable,
            taints: spec.taints.clone(),
            pod_cidr: spec.pod_cidr.clone(),
            pod_cidrs: spec.pod_cidrs.clone(),
            ..NodeSpec::default()
        }),
        status: node.status.as_ref().map(|status| NodeStatus {
            addresses: status.addresses.clone(),
            conditions: status.conditions.clone(),
            node_info: status.node_info.clone(),
            ..NodeStatus::default()
        }),
    }
}

pub(crate) fn service(service: &Service) -> Service {
    Service {
        metadata: metadata(&service.metadata),
        spec: service.spec.clone(),
        status: service.status.as_ref().map(|status| ServiceStatus {
            conditions: status.conditions.as_ref().map(|all| {
                let mut all = all.clone();
                for condition in &mut all {
                    condition.message = clean(&condition.message, MAX_WORDS);
                }
                all
            }),
            ..ServiceStatus::default()
        }),
    }
}

/// Its name alone: what it may mount or pull is nobody's business here.
pub(crate) fn service_account(account: &ServiceAccount) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(&account.metadata),
        ..ServiceAccount::default()
    }
}

pub(crate) fn resource_quota(quota: &ResourceQuota) -> ResourceQuota {
    ResourceQuota {
        metadata: metadata(&quota.metadata),
        spec: quota.spec.clone(),
        status: quota.status.clone(),
    }
}

pub(crate) fn endpoint_slice(slice: &EndpointSlice) -> EndpointSlice {
    EndpointSlice {
        metadata: metadata(&slice.metadata),
        ..slice.clone()
    }
}

pub(crate) fn network_policy(policy: &NetworkPolicy) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata(&policy.metadata),
        spec: policy.spec.clone(),
    }
}

pub(crate) fn daemon_set(set: &DaemonSet) -> DaemonSet {
    DaemonSet {
        metadata: metadata(&set.metadata),
        spec: set.spec.as_ref().map(|spec| DaemonSetSpec {
            selector: spec.selector.clone(),
            template: template(&spec.template),
            update_strategy: spec.update_strategy.clone(),
            ..DaemonSetSpec::default()
        }),
        status: set.status.clone(),
    }
}

pub(crate) fn deployment(deployment: &Deployment) -> Deployment {
    Deployment {
        metadata: metadata(&deployment.metadata),
        spec: deployment.spec.as_ref().map(|spec| DeploymentSpec {
            replicas: spec.replicas,
            selector: spec.selector.clone(),
            template: template(&spec.template),
            ..DeploymentSpec::default()
        }),
        status: deployment.status.clone(),
    }
}

/// Only what made it: its pods tell the rest.
pub(crate) fn replica_set(set: &ReplicaSet) -> ReplicaSet {
    ReplicaSet {
        metadata: metadata(&set.metadata),
        spec: set.spec.as_ref().map(|spec| ReplicaSetSpec {
            replicas: spec.replicas,
            selector: spec.selector.clone(),
            ..ReplicaSetSpec::default()
        }),
        status: None,
    }
}

/// Of what makes pods only which: its pods tell the rest.
pub(crate) fn stateful_set(set: &StatefulSet) -> StatefulSet {
    StatefulSet {
        metadata: metadata(&set.metadata),
        spec: set.spec.as_ref().map(|spec| StatefulSetSpec {
            replicas: spec.replicas,
            selector: spec.selector.clone(),
            template: template(&spec.template),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

/// The same of what makes Jobs.
pub(crate) fn cron_job(job: &CronJob) -> CronJob {
    CronJob {
        metadata: metadata(&job.metadata),
        spec: CronJobSpec {
            suspend: job.spec.suspend,
            schedule: job.spec.schedule.clone(),
            job_template: JobTemplateSpec {
                metadata: None,
                spec: job.spec.job_template.spec.as_ref().map(job_spec),
            },
            ..CronJobSpec::default()
        },
        status: None,
    }
}

fn job_spec(spec: &JobSpec) -> JobSpec {
    JobSpec {
        completions: spec.completions,
        parallelism: spec.parallelism,
        template: template(&spec.template),
        ..JobSpec::default()
    }
}

pub(crate) fn job(job: &Job) -> Job {
    Job {
        metadata: metadata(&job.metadata),
        spec: job.spec.as_ref().map(job_spec),
        status: job.status.clone(),
    }
}

pub(crate) fn mutating_webhook(webhook: &MutatingWebhookConfiguration) -> MutatingWebhookConfiguration {
    let mut webhooks = webhook.webhooks.clone();
    webhooks
        .iter_mut()
        .flatten()
        .for_each(|hook| without_url(&mut hook.client_config));
    MutatingWebhookConfiguration {
        metadata: metadata(&webhook.metadata),
        webhooks,
    }
}

pub(crate) fn validating_webhook(webhook: &ValidatingWebhookConfiguration) -> ValidatingWebhookConfiguration {
    let mut webhooks = webhook.webhooks.clone();
    webhooks
        .iter_mut()
        .flatten()
        .for_each(|hook| without_url(&mut hook.client_config));
    ValidatingWebhookConfiguration {
        metadata: metadata(&webhook.metadata),
        webhooks,
    }
}

/// A URL may carry a credential, so only that there is one is kept.
fn without_url(client: &mut WebhookClientConfig) {
    client.url = client.url.take().map(|_| "https://left-out.invalid".to_owned());
}

#[cfg(test)]
mod tests;
