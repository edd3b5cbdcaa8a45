// SPDX-License-Identifier: Apache-2.0
//! What must be known beside the pods: whom istio-cni enrols, and whether the nodes' ztunnels are well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::Api;
use kube::api::ListParams;
use meshmedic_agent::cluster::CNI_CONFIG;
use meshmedic_common::duration;
use meshmedic_common::eligibility::{Enablement, Expectation, MODE_LABEL};
use meshmedic_common::facts::Labels;
use meshmedic_common::facts::PodFacts;
use meshmedic_common::kube::facts::{namespace_facts, pod_facts};

use super::{Scope, Selection, list};
use crate::connection::{Connection, Failure};

/// The labels of ztunnel's and istio-cni's pods.
pub(crate) const ZTUNNEL: &str = "app=ztunnel";
const ISTIO_CNI: &str = "k8s-app=istio-cni-node";
/// Where Istio is if it is not said otherwise.
const ISTIO: &str = "istio-system";

/// Whether a pod's missing listeners can be its own fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeHealth {
    /// ztunnel and istio-cni are Ready and have settled, as far as one may know.
    Well,
    /// They are not, and how.
    Fault(String),
}

/// What is known of the mesh, and what is not.
#[derive(Debug)]
pub(crate) struct Mesh {
    enablement: Enablement,
    /// The labels of the namespaces; none if they could not be read.
    namespaces: Option<BTreeMap<String, Labels>>,
    /// ztunnel's and istio-cni's pods by node; none if they could not be read.
    ztunnels: Option<Nodes>,
    cnis: Option<Nodes>,
    /// What could not be known, for people.
    pub(crate) notes: Vec<String>,
}

type Nodes = BTreeMap<String, Vec<Component>>;

/// A pod of ztunnel or istio-cni.
#[derive(Clone, Debug)]
struct Component {
    ready: bool,
    since: Option<Timestamp>,
}

impl Mesh {
    /// Reads it. What is forbidden is noted and done without.
    pub(crate) async fn read(connection: &Connection, selection: &Selection) -> anyhow::Result<Self> {
        let mut notes = Vec::new();
        let (namespaces, ztunnels, cnis) = (
            namespaces(connection, selection).await,
            components(connection, ZTUNNEL).await,
            components(connection, ISTIO_CNI).await,
        );
        let namespaces = forbidden_is_none(namespaces, &mut notes, |why| {
            format!(
                "namespaces cannot be read, so a pod counts as expected if istio-cni's annotation says so ({why})"
            )
        })?;
        let ztunnels = forbidden_is_none(ztunnels, &mut notes, |why| {
            format!("ztunnel's pods cannot be read, so a finding may be a fault of its node ({why})")
        })?;
        if ztunnels.as_ref().is_some_and(Vec::is_empty) {
            anyhow::bail!(
                "no ztunnel found in {}: no pod of any namespace has the label {ZTUNNEL}. Is Istio's ambient mode \
                 installed, and is this the right context?",
                connection.server
            );
        }
        let cnis = forbidden_is_none(cnis, &mut notes, |_| String::new())?;
        let enablement = enablement(connection, cnis.as_deref().unwrap_or_default(), &mut notes).await?;
        notes.retain(|note| !note.is_empty());
        Ok(Self {
            enablement,
            namespaces,
            ztunnels: ztunnels.map(by_node),
            cnis: cnis.map(by_node),
            notes,
        })
    }

    /// Looks at ztunnel's and istio-cni's pods anew: one may have died since.
    pub(crate) async fn refresh(&mut self, connection: &Connection) -> Result<(), Failure> {
        if self.ztunnels.is_some() {
            self.ztunnels = Some(by_node(components(connection, ZTUNNEL).await?));
        }
        if self.cnis.is_some() {
            self.cnis = Some(by_node(components(connection, ISTIO_CNI).await?));
        }
        Ok(())
    }

    /// Whether a pod should be captured.
    pub(crate) fn expectation(&self, pod: &PodFacts) -> Expectation {
        match &self.namespaces {
            Some(namespaces) => self.enablement.expectation(pod, namespaces.get(&pod.namespace)),
            // What istio-cni wrote down is all there is, as the original has it.
            None => {
                let assumed: Labels = [(MODE_LABEL.to_owned(), "ambient".to_owned())].into();
                self.enablement.expectation(pod, Some(&assumed))
            }
        }
    }

    /// Whom istio-cni enrols; not certain where a pod's namespace could not be read.
    pub(crate) fn enablement(&self) -> Enablement {
        let mut enablement = self.enablement.clone();
        enablement.certain &= self.namespaces.is_some();
        enablement
    }

    /// How a node's ztunnel and istio-cni are. ztunnel must have been Ready for as long as `settle` before its absence
    /// in a pod means anything.
    pub(crate) fn health(&self, node: &str, settle: Duration, now: Option<Timestamp>) -> NodeHealth {
        let ztunnels = self.ztunnels.as_ref();
        if let Some(fault) = ztunnels.and_then(|nodes| fault(nodes.get(node), "ztunnel", Some(settle), now)) {
            return NodeHealth::Fault(fault);
        }
        // Where no node has one, it goes by another name.
        let cnis = self.cnis.as_ref().filter(|nodes| !nodes.is_empty());
        match cnis.and_then(|nodes| fault(nodes.get(node), "istio-cni", None, now)) {
            Some(fault) => NodeHealth::Fault(fault),
            None => NodeHealth::Well,
        }
    }
}

fn fault(
    pods: Option<&Vec<Component>>,
    name: &str,
    settle: Option<Duration>,
    now: Option<Timestamp>,
) -> Option<String> {
    let mut ready = pods.into_iter().flatten().filter(|pod| pod.ready).peekable();
    if ready.peek().is_none() {
        return Some(match pods {
            Some(_) => format!("{name} on its node is not Ready"),
            None => format!("no {name} runs on its node"),
        });
    }
    let (settle, now) = (settle?, now?);
    let settled = |since: Timestamp| {
        let age = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        (age < settle).then_some(age)
    };
    // With two of them, while one replaces the other, the younger one decides.
    let youngest = ready.filter_map(|pod| settled(pod.since?)).min()?;
    Some(format!(
        "{name} on its node has been Ready for {} only",
        duration::show(youngest)
    ))
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

/// The pods of a component, in whichever namespace it is; where that may not be asked, in Istio's own.
async fn components(connection: &Connection, label: &str) -> Result<Vec<PodFacts>, Failure> {
    let parameters = ListParams::default().labels(label);
    let client = || connection.client.clone();
    let what = format!("listing pods with the label {label}");
    let found = list(
        connection,
        &what,
        &Api::<Pod>::all(client()),
        &parameters,
        pod_facts,
    )
    .await;
    match found {
        Err(failure) if failure.is_forbidden() => {
            let api = Api::<Pod>::namespaced(client(), ISTIO);
            let nearer = list(connection, &what, &api, &parameters, pod_facts).await;
            // An empty answer of one namespace proves nothing about the others.
            nearer.and_then(|pods| if pods.is_empty() { Err(failure) } else { Ok(pods) })
        }
        found => found,
    }
}

fn by_node(pods: Vec<PodFacts>) -> Nodes {
    let mut nodes = Nodes::new();
    for pod in pods.into_iter().filter(|pod| !pod.finished) {
        if let Some(node) = pod.node {
            nodes.entry(node).or_default().push(Component {
                ready: pod.ready && !pod.deleting,
                since: pod.ready_since,
            });
        }
    }
    nodes
}

/// Whom istio-cni enrols, from the ConfigMap beside it.
async fn enablement(
    connection: &Connection,
    cnis: &[PodFacts],
    notes: &mut Vec<String>,
) -> Result<Enablement, Failure> {
    // Anybody can label a pod; istio-cni's are those of a DaemonSet, and rarely anywhere but in Istio's namespace.
    let of_set = |pod: &&PodFacts| {
        pod.controller
            .as_ref()
            .is_some_and(|owner| owner.kind == "DaemonSet")
    };
    let places: BTreeSet<&str> = cnis
        .iter()
        .filter(of_set)
        .map(|pod| pod.namespace.as_str())
        .collect();
    let place = if places.contains(ISTIO) {
        Some(ISTIO)
    } else {
        places.first().copied()
    };
    let place = place.unwrap_or(ISTIO);
    let api: Api<ConfigMap> = Api::namespaced(connection.client.clone(), place);
    let what = format!("reading ConfigMap {place}/{CNI_CONFIG}");
    let guess = |why: String| {
        (
            Enablement::guessed(),
            format!("istio-cni's settings cannot be read, so Istio's defaults stand in ({why})"),
        )
    };
    let (enablement, note) = match connection.ask(&what, || api.get_opt(CNI_CONFIG)).await {
        Ok(Some(config)) => match Enablement::from_config(&config.data.unwrap_or_default()) {
            Ok(enablement) => (enablement, String::new()),
            Err(error) => guess(error.to_string()),
        },
        // An older istio-cni, which has no such settings.
        Ok(None) => (Enablement::default(), String::new()),
        Err(failure) if failure.is_forbidden() => guess(failure.short()),
        Err(failure) => return Err(failure),
    };
    notes.push(note);
    Ok(enablement)
}
