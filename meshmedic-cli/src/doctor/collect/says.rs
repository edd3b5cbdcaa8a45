// SPDX-License-Identifier: Apache-2.0
//! What the mesh's settings, its istiods, the agents and a scan say.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::Read;

use futures_util::{StreamExt as _, stream};
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use meshmedic_common::duration;
use meshmedic_common::facts::PodFacts;
use meshmedic_common::kube::facts::CNI_CONFIG;
use meshmedic_common::report::NodeReport;
use meshmedic_common::text::clean;
use meshmedic_common::verdict::Redirection;

use super::Plan;
use super::budget::{Budget, add};
use super::exposition::samples;
use crate::connection::{Connection, Failure};
use crate::doctor::snapshot::{IstiodFacts, MeshConfig, Part, PodState, Snapshot, Unknown, redact};
use crate::doctor::view::View;
use crate::forward::{self, Body, PodPort};
use crate::scan::{self, Options, ScannedPod};
use crate::ways::{Age, AgentArgs, Fleet, fleet};

const ISTIOD_METRICS: u16 = 15014;
const MAX_METRICS: usize = 64 * 1024 * 1024;
/// What is kept of a failure.
const MAX_WORDS: usize = 400;
/// The metrics of istiod that checks look at, and the label that tells their kind.
const KEPT: [(&str, &str); 10] = [
    ("citadel_server_cert_chain_expiry_timestamp", ""),
    ("citadel_server_root_cert_expiry_timestamp", ""),
    ("istio_build", "tag"),
    ("pilot_proxy_convergence_time_bucket", "le"),
    ("pilot_proxy_convergence_time_count", ""),
    ("pilot_total_rejected_configs", ""),
    ("pilot_total_xds_internal_errors", ""),
    ("pilot_total_xds_rejects", "type"),
    ("pilot_xds", ""),
    ("pilot_xds_write_timeout", ""),
];
/// How a push that could not be sent ends, in `pilot_xds_pushes`.
const SEND_ERROR: &str = "_senderr";

/// Asks a port of a pod, within the time for one answer.
pub(super) async fn get(
    connection: &Connection,
    plan: &Plan,
    pod: &PodFacts,
    port: u16,
    path: &str,
    most: usize,
) -> Part<Bytes> {
    let at = PodPort {
        namespace: &pod.namespace,
        pod: &pod.name,
        port,
    };
    within(plan, port, forward::get(connection, at, path, most)).await
}

/// Has an answer of a port of a pod read while it comes, within the time for one answer.
pub(super) async fn stream<T: Send + 'static>(
    connection: &Connection,
    plan: &Plan,
    pod: &PodFacts,
    (port, path, most): (u16, &str, usize),
    read: impl FnOnce(&mut Body) -> Result<T, String> + Send + 'static,
) -> Part<T> {
    let at = PodPort {
        namespace: &pod.namespace,
        pod: &pod.name,
        port,
    };
    match within(plan, port, forward::stream(connection, at, path, most, read)).await {
        Part::Had(Ok(had)) => Part::Had(had),
        Part::Had(Err(why)) => Part::failed(format!("port {port}: {path}: {}", clean(&why, MAX_WORDS))),
        Part::Unknown(why) => Part::Unknown(why),
    }
}

async fn within<T>(plan: &Plan, port: u16, answer: impl Future<Output = anyhow::Result<T>>) -> Part<T> {
    let timeout = plan.ways.timeout();
    match tokio::time::timeout(timeout, answer).await {
        Ok(Ok(had)) => Part::Had(had),
        Ok(Err(error)) => match error.downcast::<Failure>() {
            Ok(failure) => Part::of(Err(failure), "it is gone"),
            Err(error) => Part::failed(clean(&format!("port {port}: {error:#}"), MAX_WORDS)),
        },
        Err(_) => Part::failed(format!(
            "port {port}: no answer within {}",
            duration::show(timeout)
        )),
    }
}

/// A log of which nothing could be read.
pub(super) fn unread<T>(failure: &crate::behavioral::Problem) -> Part<T> {
    match failure {
        crate::behavioral::Problem::Asked(failure) if failure.is_forbidden() => {
            Part::Unknown(Unknown::Forbidden(failure.missing_right()))
        }
        problem => Part::failed(format!("its log: {problem}")),
    }
}

/// The settings of istiod and istio-cni.
pub(super) async fn settings(connection: &Connection, snapshot: &mut Snapshot) {
    let view = View::new(snapshot);
    let istio = view.istio.clone();
    let places: BTreeSet<&str> = view.cnis().map(|pod| pod.facts.namespace.as_str()).collect();
    if places.len() > 1 {
        let places: Vec<&str> = places.into_iter().collect();
        let why = format!(
            "istio-cni is in {}: which settings hold depends on the node",
            places.join(" and ")
        );
        snapshot.cni_config = Part::failed(why);
        return;
    }
    let cni = places
        .first()
        .map_or_else(|| istio.clone(), |&place| place.to_owned());
    let revision = view
        .istiods()
        .find_map(|pod| pod.facts.labels.get("istio.io/rev").cloned());
    let mut name = "istio".to_owned();
    if let Some(revision) = revision.filter(|revision| !matches!(revision.as_str(), "default" | "")) {
        name = format!("istio-{revision}");
    }
    let (mesh, cni, cilium) = tokio::join!(
        config_map(connection, &istio, &name),
        config_map(connection, &cni, CNI_CONFIG),
        config_map(connection, CILIUM.0, CILIUM.1),
    );
    snapshot.cilium_config = cilium.map(|data| redact::cilium_config(&data));
    snapshot.mesh_config = match mesh {
        Part::Had(data) => match data.get("mesh").map(|text| redact::mesh_config(text)) {
            Some(Some(config)) => Part::Had(config),
            None => Part::Had(MeshConfig::default()),
            Some(None) => Part::failed(format!("ConfigMap {istio}/{name}: its key mesh is no YAML")),
        },
        Part::Unknown(why) => Part::Unknown(why),
    };
    snapshot.cni_config = cni.map(|data| redact::cni_config(&data));
}

/// Where Cilium keeps its settings.
const CILIUM: (&str, &str) = ("kube-system", "cilium-config");

async fn config_map(connection: &Connection, namespace: &str, name: &str) -> Part<BTreeMap<String, String>> {
    let api: Api<ConfigMap> = Api::namespaced(connection.client.clone(), namespace);
    let what = format!("reading ConfigMap {namespace}/{name}");
    let map = connection.ask(&what, || api.get(name)).await;
    let data = map.map(|map| map.data.unwrap_or_default());
    Part::of(data, &format!("there is no ConfigMap {namespace}/{name}"))
}

/// The metrics of each istiod.
pub(super) async fn istiods(connection: &Connection, plan: &Plan, snapshot: &mut Snapshot) {
    if let Some(why) = snapshot.pods.unknown() {
        snapshot.istiods = Part::Unknown(why.clone());
        return;
    }
    let view = View::new(snapshot);
    let pods: Vec<&PodFacts> = view.istiods().map(|pod| &pod.facts).collect();
    if pods.is_empty() {
        snapshot.istiods = Part::absent("no istiod runs here");
        return;
    }
    let ask = |pod: &PodFacts| {
        let pod = pod.clone();
        async move {
            let budget = plan.budget.clone();
            let read = move |body: &mut Body| kept(body, &budget);
            let asked = (ISTIOD_METRICS, "/metrics", MAX_METRICS);
            let metrics = stream(connection, plan, &pod, asked, read).await;
            IstiodFacts {
                namespace: pod.namespace,
                name: pod.name,
                metrics,
            }
        }
    };
    let asked: Vec<_> = pods.into_iter().map(ask).collect();
    let mut all: Vec<IstiodFacts> = stream::iter(asked)
        .buffer_unordered(plan.ways.concurrency())
        .collect()
        .await;
    all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    snapshot.istiods = Part::Had(all);
}

fn kept(page: impl Read, budget: &Budget) -> Result<BTreeMap<String, f64>, String> {
    let mut metrics = BTreeMap::new();
    samples(page, |sample| {
        let label = match KEPT.iter().find(|(name, _)| *name == sample.name) {
            Some((_, label)) => *label,
            None if sample.name == "pilot_xds_pushes" && sample.label("type").ends_with(SEND_ERROR) => "type",
            None => return Ok(()),
        };
        let name = match sample.label(label) {
            "" => sample.name.to_owned(),
            value => format!("{}{{{label}={}}}", sample.name, clean(value, MAX_WORDS)),
        };
        add(&mut metrics, name, sample.value, budget)
    })?;
    Ok(metrics)
}

/// What agents report, and what a look at the pods shows where some were named.
pub(super) async fn scan(connection: &Connection, plan: &Plan, snapshot: &mut Snapshot) {
    let agents: &AgentArgs = plan.ways.agents();
    let (timeout, at_once) = (plan.ways.timeout(), plan.ways.concurrency());
    let Fleet { absence, reports, .. } = fleet(connection, agents, timeout, at_once, None).await;
    snapshot.agents = match absence {
        Some(why) => Part::not_asked(format!("it needs MeshMedic's agents: {why}")),
        None => Part::Had(
            reports
                .into_iter()
                .map(|(node, report)| (node, of_agent(report)))
                .collect(),
        ),
    };
    if plan.selection.is_named() {
        let options = Options {
            confirm: CONFIRM,
            settle: SETTLE,
            ready_only: false,
            age: Age::Any,
        };
        let looked = scan::sweep(connection, &plan.selection, &plan.ways, options).await;
        snapshot.scan = match looked {
            Ok(report) => Part::Had(report.pods.into_iter().map(of_scan).collect()),
            Err(error) => match error.downcast::<Failure>() {
                Ok(failure) => Part::of(Err(failure), "the pods are gone"),
                Err(error) => Part::failed(clean(&format!("the scan: {error:#}"), MAX_WORDS)),
            },
        };
        return;
    }
    snapshot.scan = match &snapshot.agents {
        Part::Had(agents) => Part::Had(
            agents
                .values()
                .filter_map(Part::had)
                .flat_map(of_report)
                .collect(),
        ),
        Part::Unknown(why) => Part::Unknown(Unknown::NotAsked(format!(
            "{}; with -n or with pods named they are looked at without",
            why.why()
        ))),
    };
}

/// As `meshmedic scan` has them.
const CONFIRM: std::time::Duration = std::time::Duration::from_secs(2);
const SETTLE: std::time::Duration = std::time::Duration::from_secs(30);

fn of_agent(report: Result<NodeReport, String>) -> Part<NodeReport> {
    match report {
        Ok(report) => Part::Had(report),
        Err(why) => Part::failed(why),
    }
}

fn of_report(report: &NodeReport) -> Vec<PodState> {
    let pods = report.pods.iter().filter_map(|pod| {
        Some(PodState {
            namespace: pod.namespace.clone()?,
            name: pod.name.clone()?,
            uid: pod.uid.to_string(),
            state: pod.state,
            reason: pod.reason,
            detail: pod.detail.clone(),
            redirection: Some(pod.redirection.as_str().to_owned()),
            rules: pod.rules,
            via: Some("agent".to_owned()),
        })
    });
    pods.collect()
}

fn of_scan(pod: ScannedPod) -> PodState {
    PodState {
        namespace: pod.namespace,
        name: pod.name,
        uid: pod.uid,
        state: pod.state,
        reason: pod.reason,
        detail: pod.detail,
        redirection: pod
            .redirection
            .map(|redirection: Redirection| redirection.as_str().to_owned()),
        rules: pod.rules,
        via: pod.via.map(|way| way.as_str().to_owned()),
    }
}
