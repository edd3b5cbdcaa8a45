// SPDX-License-Identifier: Apache-2.0
//! Lists of the API, page by page, each object reduced as it arrives.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Namespace, Node, Pod};
use kube::api::ListParams;
use kube::{Api, Resource};
use meshmedic_common::facts::PodFacts;
use meshmedic_common::kube::facts::{annotated_at, pod_facts};
use serde::de::DeserializeOwned;

use super::{Scope, Selection};
use crate::connection::{Connection, Failure};

/// How many objects come at once: what kubectl asks for.
const PAGE: u32 = 500;
/// A list whose snapshot grew too old is begun anew so often.
const RESTARTS: u32 = 3;
/// How many pods that were named are fetched at once.
const AT_ONCE: usize = 16;

/// A pod, reduced to what a look at it needs.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// What a verdict depends on.
    pub(crate) facts: PodFacts,
    /// Its containers that run, sidecars and probes included.
    pub(crate) running: Vec<String>,
    /// When whoever wrote istio-cni's annotation last wrote to it.
    pub(crate) annotated: Option<Timestamp>,
}

/// The pods that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Selected {
    /// By namespace and name.
    pub(crate) pods: BTreeMap<(String, String), Target>,
    /// Those that were named and are not there.
    pub(crate) missing: Vec<(String, String)>,
}

impl Selected {
    /// Fails where a pod that was named is not there.
    pub(crate) fn all_there(&self) -> anyhow::Result<()> {
        match self.missing.first() {
            Some((namespace, name)) => anyhow::bail!(no_pod(namespace, name)),
            None => Ok(()),
        }
    }
}

/// Says that a pod is not there.
pub(crate) fn no_pod(namespace: &str, name: &str) -> String {
    format!("there is no pod {name:?} in namespace {namespace}; `kubectl get pods -n {namespace}` lists them")
}

impl Target {
    pub(crate) fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let all = status.into_iter().flat_map(|status| {
            let statuses = [
                &status.container_statuses,
                &status.init_container_statuses,
                &status.ephemeral_container_statuses,
            ];
            statuses.into_iter().flatten().flatten()
        });
        let runs = |container: &&ContainerStatus| {
            let state = container.state.as_ref();
            state.is_some_and(|state| state.running.is_some())
        };
        Self {
            facts: pod_facts(pod),
            running: all.filter(runs).map(|container| container.name.clone()).collect(),
            annotated: annotated_at(pod),
        }
    }

    /// Namespace and name.
    pub(crate) fn key(&self) -> (String, String) {
        (self.facts.namespace.clone(), self.facts.name.clone())
    }

    /// Its first address.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.facts.addresses.first().copied()
    }
}

/// Lists objects page by page, and hands each one to `take` reduced by `reduce`.
pub(crate) async fn list<K, T>(
    connection: &Connection,
    what: &str,
    api: &Api<K>,
    parameters: &ListParams,
    reduce: impl Fn(&K) -> T,
) -> Result<Vec<T>, Failure>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut restarts = 0;
    'anew: loop {
        let mut all = Vec::new();
        let mut parameters = parameters.clone().limit(PAGE);
        loop {
            let page = match connection.ask(what, || api.list(&parameters)).await {
                // The snapshot that the pages are of is forgotten by now.
                Err(failure) if failure.is_expired() && restarts < RESTARTS => {
                    restarts += 1;
                    continue 'anew;
                }
                page => page?,
            };
            all.extend(page.items.iter().map(&reduce));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters.continue_token = Some(token),
                None => return Ok(all),
            }
        }
    }
}

/// Selects the pods of a node.
pub(crate) fn of_node(node: &str) -> String {
    format!("spec.nodeName={node}")
}

/// Fetches the pods that were asked for.
pub(crate) async fn select(connection: &Connection, selection: &Selection) -> anyhow::Result<Selected> {
    if let Scope::Pods(names) = &selection.scope {
        return named(connection, names.iter()).await;
    }
    let mut parameters = ListParams::default();
    parameters.label_selector.clone_from(&selection.labels);
    parameters.field_selector = selection.node.as_deref().map(of_node);
    let client = connection.client.clone();
    let (api, what) = match &selection.scope {
        Scope::Namespace(namespace) => (
            Api::<Pod>::namespaced(client, namespace),
            format!("listing pods in namespace {namespace}"),
        ),
        _ => (Api::all(client), "listing pods".to_owned()),
    };
    let pods = list(connection, &what, &api, &parameters, Target::of).await?;
    if pods.is_empty() {
        is_there(connection, selection).await?;
        if let Some(labels) = &selection.labels {
            anyhow::bail!("no pod has the labels {labels}: nothing was looked at");
        }
    }
    Ok(Selected {
        pods: pods.into_iter().map(|pod| (pod.key(), pod)).collect(),
        missing: Vec::new(),
    })
}

/// Fails where something that was named is known not to be there: a list of it is empty and no error, and would look
/// like a clean result.
pub(crate) async fn is_there(connection: &Connection, selection: &Selection) -> anyhow::Result<()> {
    match &selection.scope {
        Scope::Cluster => {}
        Scope::Namespace(namespace) => has::<Namespace>(connection, "namespace", namespace).await?,
        Scope::Pods(names) => {
            if let Ok(found) = named(connection, names.iter()).await {
                found.all_there()?;
            }
        }
    }
    match &selection.node {
        Some(node) => has::<Node>(connection, "node", node).await,
        None => Ok(()),
    }
}

async fn has<K>(connection: &Connection, kind: &str, name: &str) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::all(connection.client.clone());
    let found = connection
        .ask(&format!("looking for the {kind}"), || api.get_metadata(name))
        .await;
    match found {
        Err(failure) if failure.is_not_found() => anyhow::bail!(
            "there is no {kind} {name:?} in {}; `kubectl get {kind}s` lists them",
            connection.server
        ),
        // Whoever may not read it may still have the right name.
        _ => Ok(()),
    }
}

async fn named(
    connection: &Connection,
    names: impl Iterator<Item = &(String, String)>,
) -> anyhow::Result<Selected> {
    let fetch = |(namespace, name): &(String, String)| {
        let key = (namespace.clone(), name.clone());
        async move { (again(connection, &key.0, &key.1).await, key) }
    };
    let mut found = stream::iter(names.map(fetch).collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
    let mut selected = Selected::default();
    while let Some((pod, key)) = found.next().await {
        match pod? {
            Some(pod) => drop(selected.pods.insert(key, pod)),
            None => selected.missing.push(key),
        }
    }
    selected.missing.sort();
    Ok(selected)
}

/// Fetches one pod anew; `None` if it is not there.
pub(crate) async fn again(
    connection: &Connection,
    namespace: &str,
    name: &str,
) -> Result<Option<Target>, Failure> {
    let api: Api<Pod> = Api::namespaced(connection.client.clone(), namespace);
    let what = format!("reading pod {namespace}/{name}");
    match connection.ask(&what, || api.get(name)).await {
        Ok(pod) => Ok(Some(Target::of(&pod))),
        Err(failure) if failure.is_not_found() => Ok(None),
        Err(failure) => Err(failure),
    }
}
