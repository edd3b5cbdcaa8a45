// SPDX-License-Identifier: Apache-2.0
//! Asks the API who istiod is. The rules are in [`crate::identity`].

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client, Error};

use super::facts::{controller, pod_facts};
use crate::identity::{Endpoint, Identity, Istiod, PodKey, Slice, Traced};

/// Reduces a slice.
#[must_use]
pub fn slice(slice: &EndpointSlice) -> Slice {
    let labels = slice.metadata.labels.clone().unwrap_or_default();
    let endpoints = slice.endpoints.iter().flatten().map(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        let target = endpoint.target_ref.as_ref();
        let target = target.filter(|target| target.kind.as_deref() == Some("Pod"));
        Endpoint {
            // Not saying anything means ready.
            ready: conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
            pod: target.map(|target| PodKey {
                namespace: target.namespace.clone().unwrap_or_default(),
                name: target.name.clone().unwrap_or_default(),
                uid: target.uid.clone().unwrap_or_default(),
            }),
        }
    });
    Slice {
        namespace: slice.metadata.namespace.clone().unwrap_or_default(),
        service: Slice::service_of(&labels),
        endpoints: endpoints.collect(),
    }
}

/// Finds out what made the pod behind an endpoint.
pub async fn trace(client: &Client, identity: &Identity, key: &PodKey) -> Result<Traced, Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    let Some(pod) = pods.get_opt(&key.name).await? else {
        return Ok(Traced::Other);
    };
    let pod = pod_facts(&pod);
    let Some(set) = pod.controller.as_ref().filter(|_| pod.uid == key.uid) else {
        return Ok(Traced::Other);
    };
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), &key.namespace);
    let found = sets.get_opt(&set.name).await?;
    let found = found.filter(|found| found.metadata.uid.as_ref() == Some(&set.uid));
    let above = found.and_then(|found| controller(&found.metadata));
    Ok(identity.trace(&pod, above.as_ref()))
}

/// Reads istiod's endpoints where it may be, and traces them until one is proved to be its own.
pub async fn istiod(client: &Client, identity: &Identity) -> Result<Istiod, Error> {
    Ok(istiod_and_slices(client, identity).await?.0)
}

/// The same, and the namespaces and names of the slices, by which [`istiod_behind`] finds them again.
pub async fn istiod_and_slices(
    client: &Client,
    identity: &Identity,
) -> Result<(Istiod, Vec<(String, String)>), Error> {
    let parameters = ListParams::default().labels(&identity.slice_selector());
    let (mut slices, mut names) = (Vec::new(), Vec::new());
    for namespace in &identity.namespaces {
        let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
        for found in api.list(&parameters).await?.items {
            slices.push(slice(&found));
            names.extend(found.metadata.namespace.zip(found.metadata.name));
        }
    }
    Ok((judge(client, identity, &slices).await?, names))
}

/// The same of slices that are known by namespace and name; what is gone has no endpoints.
pub async fn istiod_behind(
    client: &Client,
    identity: &Identity,
    names: &[(String, String)],
) -> Result<Istiod, Error> {
    let mut slices = Vec::new();
    for (namespace, name) in names {
        let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
        slices.extend(api.get_opt(name).await?.as_ref().map(slice));
    }
    judge(client, identity, &slices).await
}

async fn judge(client: &Client, identity: &Identity, slices: &[Slice]) -> Result<Istiod, Error> {
    let mut known = Vec::new();
    for pod in identity.istiod_pods(slices.iter()) {
        let traced = trace(client, identity, pod).await?;
        known.push((pod, traced));
        if traced == Traced::Deployment {
            break;
        }
    }
    Ok(identity.istiod(slices.iter(), |pod| {
        let found = known.iter().find(|(known, _)| *known == pod);
        found.map(|(_, traced)| *traced)
    }))
}
