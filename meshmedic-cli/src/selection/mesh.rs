// SPDX-License-Identifier: Apache-2.0
//! What must be known beside the pods: whom istio-cni enrols, and whether the nodes' ztunnels are well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::Api;
use kube::api::ListParams;
use meshmedic_common::eligibility::{Enablement, Expectation, MODE_LABEL};
use meshmedic_common::facts::Labels;
use meshmedic_common::facts::PodFacts;
use meshmedic_common::identity::{Claimant, Component, DataPlane, FLAG, Identity, NodeFault, PodKey};
use meshmedic_common::kube::facts::CNI_CONFIG;
use meshmedic_common::kube::facts::{namespace_facts, pod_facts};

use super::{Scope, Selection, again, list, of_node};
use crate::connection::{Connection, Failure};

/// How many strangers are named.
const STRANGERS_NAMED: usize = 5;
/// Of more nodes than these, Istio's pods are listed and not looked at one by one.
const NODES_NAMED: usize = 8;

/// What is known of the mesh, and what is not.
#[derive(Clone, Debug)]
pub(crate) struct Mesh {
    identity: Identity,
    /// What istio-cni's settings are, by its namespace.
    enablements: BTreeMap<String, Enablement>,
    /// The labels of the namespaces; none if they could not be read.
    namespaces: Option<BTreeMap<String, Labels>>,
    /// The pods that claim to be ztunnel or istio-cni, by node; none if they could not be read.
    nodes: Option<Nodes>,
    /// Why it seems that there is no ztunnel at all: no mesh, or the worst that can befall one.
    pub(crate) without_ztunnel: Option<String>,
    /// What could not be known, and what is odd, for people.
    pub(crate) notes: Vec<String>,
}

type Nodes = BTreeMap<String, Vec<PodFacts>>;

impl Mesh {
    /// Reads it. What is forbidden is noted and done without.
    pub(crate) async fn read(connection: &Connection, selection: &Selection) -> anyhow::Result<Self> {
        let parts = parts(connection, None).await;
        Self::with(connection, selection, parts).await
    }

    /// Reads it anew for pods of these nodes, whose ztunnels and istio-cnis it knows by name.
    pub(crate) async fn anew(
        &self,
        connection: &Connection,
        selection: &Selection,
        nodes: &BTreeSet<&str>,
    ) -> anyhow::Result<Self> {
        let mut known = self.clone();
        let parts = match known.refresh(connection, nodes).await {
            Ok(()) => match known.nodes {
                Some(nodes) => Ok(nodes.into_values().flatten().collect()),
                None => parts(connection, None).await,
            },
            Err(failure) => Err(failure),
        };
        Self::with(connection, selection, parts).await
    }

    async fn with(
        connection: &Connection,
        selection: &Selection,
        parts: Result<Vec<PodFacts>, Failure>,
    ) -> anyhow::Result<Self> {
        let identity = connection.istio.identity.clone();
        let mut notes = connection.istio.notes.clone();
        let namespaces = namespaces(connection, selection).await;
        let namespaces = forbidden_is_none(namespaces, &mut notes, |why| {
            format!(
                "namespaces cannot be read, so a pod counts as expected if istio-cni's annotation says so ({why})"
            )
        })?;
        let parts = forbidden_is_none(parts, &mut notes, |why| {
            format!(
                "ztunnel's and istio-cni's pods cannot be read, so a finding may be a fault of its node ({why})"
            )
        })?;
        let strangers: BTreeSet<Claimant> = identity.strangers(parts.iter().flatten()).collect();
        let runs = |parts: &Vec<PodFacts>| parts.iter().any(|pod| identity.proves(pod, Component::Ztunnel));
        let without_ztunnel = parts
            .as_ref()
            .is_some_and(|parts| !runs(parts))
            .then(|| no_ztunnel(connection, &strangers));
        notes.extend(notes_of(&strangers));
        let enablements = enablements(connection, parts.as_deref().unwrap_or_default(), &mut notes).await?;
        Ok(Self {
            identity,
            enablements,
            namespaces,
            nodes: parts.map(by_node),
            without_ztunnel,
            notes,
        })
    }

    /// Looks at ztunnel's and istio-cni's pods of these nodes anew: one may have died since.
    pub(crate) async fn refresh(
        &mut self,
        connection: &Connection,
        nodes: &BTreeSet<&str>,
    ) -> Result<(), Failure> {
        let Some(known) = &mut self.nodes else {
            return Ok(());
        };
        if nodes.len() > NODES_NAMED {
            *known = by_node(parts(connection, None).await?);
            return Ok(());
        }
        for node in nodes {
            let before = known.get(*node).map(Vec::as_slice).unwrap_or_default();
            let now = here(connection, node, before).await?;
            known.insert((*node).to_owned(), now);
        }
        Ok(())
    }

    /// The names of a node's ztunnel and istio-cni; `None` where nobody may know.
    pub(crate) fn names(&self, node: &str) -> Option<Vec<PodKey>> {
        let pods = self.nodes.as_ref()?.get(node);
        Some(pods.into_iter().flatten().map(PodKey::from).collect())
    }

    /// Whether a pod should be captured.
    pub(crate) fn expectation(&self, pod: &PodFacts) -> Expectation {
        let enablement = self.enablement(pod);
        match &self.namespaces {
            Some(namespaces) => enablement.expectation(pod, namespaces.get(&pod.namespace)),
            // What istio-cni wrote down is all there is, as the original has it.
            None => {
                let assumed: Labels = [(MODE_LABEL.to_owned(), "ambient".to_owned())].into();
                enablement.expectation(pod, Some(&assumed))
            }
        }
    }

    /// Whom the istio-cni of a pod's node enrols; not certain where the pod's namespace could not be read, and where
    /// several settings may hold.
    pub(crate) fn enablement(&self, pod: &PodFacts) -> Enablement {
        let node = pod.node.as_deref().unwrap_or_default();
        let here = self.nodes.as_ref().and_then(|nodes| nodes.get(node));
        let cnis = here
            .into_iter()
            .flatten()
            .filter(|pod| self.identity.proves(pod, Component::Cni));
        let mut places: BTreeSet<&str> = cnis.map(|pod| pod.namespace.as_str()).collect();
        if places.is_empty() {
            places = self.enablements.keys().map(String::as_str).collect();
        }
        let mut settings = places.iter().filter_map(|place| self.enablements.get(*place));
        let mut enablement = match settings.next() {
            Some(first) if settings.all(|other| other == first) => first.clone(),
            Some(_) | None => Enablement::guessed(),
        };
        enablement.certain &= self.namespaces.is_some();
        enablement
    }

    /// What is wrong with a node's ztunnel and istio-cni, as far as one may know. ztunnel must have been Ready for as
    /// long as `settle` before its absence in a pod means anything.
    pub(crate) fn node_fault(
        &self,
        node: &str,
        settle: Duration,
        now: Option<Timestamp>,
    ) -> Option<NodeFault> {
        self.plane(node)?.fault(now.map(|now| (settle, now)))
    }

    /// How a node's ztunnel and istio-cni are; `None` where nobody may know.
    pub(crate) fn plane(&self, node: &str) -> Option<DataPlane> {
        let pods = self.nodes.as_ref()?.get(node);
        Some(DataPlane::of(&self.identity, pods.into_iter().flatten()))
    }

    /// A node's pod of a component, where that is known.
    pub(crate) fn part(&self, node: &str, component: Component) -> Option<&PodFacts> {
        let pods = self.nodes.as_ref()?.get(node)?;
        self.identity.part(pods.iter(), component)
    }
}

/// Where ztunnel was looked for in vain, and what that may mean.
fn no_ztunnel(connection: &Connection, strangers: &BTreeSet<Claimant>) -> String {
    let identity = &connection.istio.identity;
    let strangers: Vec<Claimant> = strangers.iter().cloned().collect();
    match identity.hint(Component::Ztunnel, &strangers) {
        Some(hint) => format!("no ztunnel found in {}: {hint}", connection.server),
        None => format!(
            "no ztunnel found in {}: no DaemonSet's pod in {} has the label {}. Is Istio's ambient mode installed, and \
             is this the right context? {FLAG} names other namespaces",
            connection.server,
            identity.places(),
            Component::Ztunnel.selector()
        ),
    }
}

fn notes_of(strangers: &BTreeSet<Claimant>) -> Vec<String> {
    let mut notes: Vec<String> = strangers
        .iter()
        .take(STRANGERS_NAMED)
        .map(|stranger| format!("{}, and is ignored", stranger.sentence()))
        .collect();
    if let more @ 1.. = strangers.len().saturating_sub(STRANGERS_NAMED) {
        notes.push(format!(
            "{more} more claim to be a part of Istio, and are ignored"
        ));
    }
    notes
}

/// Turns a refusal into a note.
fn forbidden_is_none<T>(
    result: Result<T, Failure>,
    notes: &mut Vec<String>,
    note: impl Fn(&str) -> String,
) -> Result<Option<T>, Failure> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(failure) if failure.is_forbidden() => {
            notes.push(note(&failure.short()));
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

async fn namespaces(
    connection: &Connection,
    selection: &Selection,
) -> Result<BTreeMap<String, Labels>, Failure> {
    let api: Api<Namespace> = Api::all(connection.client.clone());
    let wanted: BTreeSet<&str> = match &selection.scope {
        Scope::Cluster => {
            let of = |namespace: &Namespace| {
                let name = namespace.metadata.name.clone().unwrap_or_default();
                (name, namespace_facts(namespace).labels)
            };
            let all = list(connection, "listing namespaces", &api, &ListParams::default(), of).await?;
            return Ok(all.into_iter().collect());
        }
        Scope::Namespace(namespace) => [namespace.as_str()].into(),
        Scope::Pods(pods) => pods.iter().map(|(namespace, _)| namespace.as_str()).collect(),
    };
    let mut found = BTreeMap::new();
    for name in wanted {
        let what = format!("reading namespace {name}");
        match connection.ask(&what, || api.get(name)).await {
            Ok(namespace) => drop(found.insert(name.to_owned(), namespace_facts(&namespace).labels)),
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(found)
}

/// The pods that claim to be ztunnel or istio-cni; of one node, where that is given.
async fn parts(connection: &Connection, node: Option<&str>) -> Result<Vec<PodFacts>, Failure> {
    let (ztunnels, cnis) = (
        claimants_on(connection, Component::Ztunnel, node, pod_facts).await?,
        claimants_on(connection, Component::Cni, node, pod_facts).await?,
    );
    Ok(ztunnels.into_iter().chain(cnis).collect())
}

/// The same by the names that are known; where one of these is gone, or none was there, whatever is there by now.
async fn here(connection: &Connection, node: &str, known: &[PodFacts]) -> Result<Vec<PodFacts>, Failure> {
    let mut found = Vec::new();
    for pod in known {
        let now = again(connection, &pod.namespace, &pod.name).await;
        let same = |facts: &PodFacts| facts.uid == pod.uid && !facts.deleting;
        found.extend(now.ok().flatten().map(|now| now.facts).filter(same));
    }
    if found.is_empty() || found.len() < known.len() {
        return parts(connection, Some(node)).await;
    }
    Ok(found)
}

/// The pods that claim to be a component's, in whichever namespace; where that may not be asked, in Istio's own.
pub(crate) async fn claimants<T>(
    connection: &Connection,
    component: Component,
    reduce: impl Fn(&Pod) -> T + Copy,
) -> Result<Vec<T>, Failure> {
    claimants_on(connection, component, None, reduce).await
}

async fn claimants_on<T>(
    connection: &Connection,
    component: Component,
    node: Option<&str>,
    reduce: impl Fn(&Pod) -> T + Copy,
) -> Result<Vec<T>, Failure> {
    let mut parameters = ListParams::default().labels(&component.selector());
    parameters.field_selector = node.map(of_node);
    let client = || connection.client.clone();
    let what = format!("listing pods with the label {}", component.selector());
    let failure = match list(connection, &what, &Api::all(client()), &parameters, reduce).await {
        Err(failure) if failure.is_forbidden() => failure,
        found => return found,
    };
    let mut nearer = Vec::new();
    for namespace in &connection.istio.identity.namespaces {
        let api = Api::namespaced(client(), namespace);
        match list(connection, &what, &api, &parameters, reduce).await {
            Err(failure) if failure.is_forbidden() => {}
            found => nearer.extend(found?),
        }
    }
    // An empty answer of some namespaces proves nothing about the others.
    if nearer.is_empty() {
        Err(failure)
    } else {
        Ok(nearer)
    }
}

fn by_node(pods: Vec<PodFacts>) -> Nodes {
    let mut nodes = Nodes::new();
    for pod in pods {
        if let Some(node) = pod.node.clone() {
            nodes.entry(node).or_default().push(pod);
        }
    }
    nodes
}

/// Whom each istio-cni enrols, from the ConfigMap beside it; where none is known, from all places where it may be.
async fn enablements(
    connection: &Connection,
    parts: &[PodFacts],
    notes: &mut Vec<String>,
) -> Result<BTreeMap<String, Enablement>, Failure> {
    let identity = &connection.istio.identity;
    let cnis = parts.iter().filter(|pod| identity.proves(pod, Component::Cni));
    let known: BTreeSet<&str> = cnis.map(|pod| pod.namespace.as_str()).collect();
    let places = if known.is_empty() {
        identity.namespaces.iter().map(String::as_str).collect()
    } else {
        known.clone()
    };
    let mut enablements = BTreeMap::new();
    for place in places {
        let api: Api<ConfigMap> = Api::namespaced(connection.client.clone(), place);
        let what = format!("reading ConfigMap {place}/{CNI_CONFIG}");
        let read = match connection.ask(&what, || api.get_opt(CNI_CONFIG)).await {
            Ok(Some(config)) => {
                let data = config.data.unwrap_or_default();
                Enablement::from_config(&data).map_err(|error| error.to_string())
            }
            // An older istio-cni, which has no such settings.
            Ok(None) if known.is_empty() => continue,
            Ok(None) => Ok(Enablement::default()),
            Err(failure) if failure.is_forbidden() => Err(failure.short()),
            Err(failure) => return Err(failure),
        };
        let enablement = read.unwrap_or_else(|why| {
            notes.push(format!(
                "istio-cni's settings cannot be read, so Istio's defaults stand in ({why})"
            ));
            Enablement::guessed()
        });
        enablements.insert(place.to_owned(), enablement);
    }
    // Of places where nobody is known to be, what may not be read says nothing beside what can.
    if known.is_empty() && enablements.values().any(|enablement| enablement.certain) {
        enablements.retain(|_, enablement| enablement.certain);
    }
    if enablements.is_empty() {
        enablements.insert(String::new(), Enablement::default());
    }
    Ok(enablements)
}
