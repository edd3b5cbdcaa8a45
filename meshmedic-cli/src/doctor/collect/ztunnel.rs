// SPDX-License-Identifier: Apache-2.0
//! What each ztunnel says: its dump, its metrics, its log.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use meshmedic_common::kube::facts::pod_facts;
use meshmedic_common::text::clean;
use meshmedic_common::ztunnel_log::{self, PodIndex};
use serde::Deserialize;
use serde_json::Value;

use super::exposition::samples;
use super::{Plan, says};
use crate::behavioral::{self, Ztunnel};
use crate::connection::Connection;
use crate::doctor::snapshot::{
    Certificate, Link, LinkKind, LogFacts, Part, Root, Sighting, Snapshot, Workload, ZtunnelDump,
    ZtunnelFacts, ZtunnelMetrics,
};
use crate::doctor::view::View;
use crate::output::Progress;

const ADMIN: u16 = 15000;
const STATS: u16 = 15020;
/// The dump of a ztunnel in a mesh of tens of thousands of pods.
const MAX_DUMP: usize = 256 * 1024 * 1024;
const MAX_METRICS: usize = 64 * 1024 * 1024;
/// What is kept of a name or a state.
const MAX_WORDS: usize = 300;

/// Asks all of them.
pub(super) async fn ask(connection: &Connection, plan: &Plan, snapshot: &mut Snapshot) {
    if let Some(why) = snapshot.pods.unknown() {
        snapshot.ztunnels = Part::Unknown(why.clone());
        return;
    }
    let view = View::new(snapshot);
    let facts = view.pods().iter().map(|pod| &pod.facts);
    let directory = behavioral::directory(facts, |facts| {
        view.pod(&facts.namespace, &facts.name)
            .map_or(meshmedic_common::eligibility::Expectation::Undeclared, |pod| {
                pod.expectation
            })
    });
    let pods: Vec<&Pod> = view.ztunnels().map(|pod| pod.pod).collect();
    if pods.is_empty() {
        snapshot.ztunnels = Part::absent("no ztunnel is installed here");
        return;
    }
    let progress = Progress::start("asking ztunnels", pods.len());
    let ask = |pod| one(connection, plan, pod, &directory);
    let mut asked = stream::iter(pods.into_iter().map(ask)).buffer_unordered(plan.ways.concurrency());
    let mut all = Vec::new();
    while let Some(facts) = asked.next().await {
        progress.step();
        all.push(facts);
    }
    all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    drop(asked);
    snapshot.ztunnels = Part::Had(all);
}

async fn one(connection: &Connection, plan: &Plan, pod: &Pod, directory: &PodIndex) -> ZtunnelFacts {
    let facts = pod_facts(pod);
    let node = facts.node.clone().unwrap_or_default();
    let get = |port, path, most| says::get(connection, plan, &facts, port, path, most);
    let (dump, metrics, log) = tokio::join!(
        get(ADMIN, "/config_dump", MAX_DUMP),
        get(STATS, "/metrics", MAX_METRICS),
        log(connection, plan, pod, directory),
    );
    let dump = dump.map(|body| parse_dump(&body, &node));
    ZtunnelFacts {
        dump: match dump {
            Part::Had(Ok(dump)) => Part::Had(dump),
            Part::Had(Err(error)) => Part::failed(format!("its config_dump cannot be read: {error}")),
            Part::Unknown(why) => Part::Unknown(why),
        },
        metrics: metrics.map(|body| parse_metrics(&String::from_utf8_lossy(&body))),
        log,
        namespace: facts.namespace,
        name: facts.name,
        node,
    }
}

async fn log(connection: &Connection, plan: &Plan, pod: &Pod, directory: &PodIndex) -> Part<LogFacts> {
    let ztunnel = Ztunnel::of(pod);
    let (findings, problem) = behavioral::read_log(connection, &ztunnel, plan.since, directory).await;
    if let Some(problem) = &problem
        && findings.lines == 0
    {
        return says::unread(problem);
    }
    Part::Had(reduce(&findings, problem.map(|problem| problem.to_string())))
}

fn sighting(tally: &ztunnel_log::Tally) -> Sighting {
    Sighting {
        count: tally.count,
        last: tally.last,
        sample: tally.sample.clone(),
    }
}

/// The name that something has in JSON.
fn json_name(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        _ => String::new(),
    }
}

fn reduce(findings: &ztunnel_log::Findings, broke_off: Option<String>) -> LogFacts {
    let accused = findings.candidates().iter().map(|(pod, candidate)| {
        let signatures = candidate
            .signatures
            .iter()
            .map(|(signature, evidence)| (signature.as_str().to_owned(), sighting(&evidence.tally)));
        (format!("{}/{}", pod.namespace, pod.name), signatures.collect())
    });
    LogFacts {
        broke_off,
        lines: findings.lines,
        span: findings.span,
        accused: accused.collect(),
        apart: findings
            .apart()
            .iter()
            .map(|(apart, tally)| (json_name(apart), sighting(tally)))
            .collect(),
        events: findings
            .events()
            .iter()
            .map(|(kind, tally)| (json_name(kind), sighting(tally)))
            .collect(),
        start_failures: findings
            .start_failures()
            .iter()
            .map(|(uid, tally)| (uid.clone(), sighting(tally)))
            .collect(),
        links: findings
            .links()
            .iter()
            .map(|(link, tally)| Link {
                kind: match link.kind {
                    ztunnel_log::LinkKind::HboneTimeout => LinkKind::HboneTimeout,
                    ztunnel_log::LinkKind::Plaintext => LinkKind::Plaintext,
                },
                source: link.source.clone(),
                destination: link.destination.clone(),
                seen: sighting(tally),
            })
            .collect(),
    }
}

/// What is read of a dump. Older ztunnels write some of it otherwise.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dump {
    #[serde(default)]
    workloads: Value,
    #[serde(default)]
    services: Value,
    #[serde(default, alias = "workload_state")]
    workload_state: BTreeMap<String, Proxy>,
    #[serde(default)]
    certificates: Vec<Certs>,
}

#[derive(Deserialize)]
struct Proxy {
    #[serde(default)]
    state: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certs {
    #[serde(default)]
    identity: String,
    #[serde(default)]
    state: String,
    #[serde(default, alias = "ca_cert")]
    ca_cert: Vec<Cert>,
    #[serde(default, alias = "cert_chain")]
    cert_chain: Vec<Cert>,
    #[serde(default, alias = "root_certs")]
    root_certs: Vec<Cert>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cert {
    #[serde(default, alias = "serial_number")]
    serial_number: String,
    #[serde(default, alias = "valid_from")]
    valid_from: String,
    #[serde(default, alias = "expiration_time")]
    expiration_time: String,
}

/// A list, or an object whose keys do not matter.
fn entries(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(all) => all.iter().collect(),
        Value::Object(all) => all.values().collect(),
        _ => Vec::new(),
    }
}

fn parse_dump(body: &[u8], node: &str) -> Result<ZtunnelDump, serde_json::Error> {
    let dump: Dump = serde_json::from_slice(body)?;
    let workloads = entries(&dump.workloads);
    let text = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .map(|text| clean(text, MAX_WORDS))
            .unwrap_or_default()
    };
    Ok(ZtunnelDump {
        workloads_known: workloads.len(),
        services_known: entries(&dump.services).len(),
        workloads: workloads
            .iter()
            .filter(|workload| workload.get("node").and_then(Value::as_str) == Some(node))
            .map(|workload| Workload {
                namespace: text(workload, "namespace"),
                name: text(workload, "name"),
                protocol: text(workload, "protocol"),
                waypoint: workload
                    .get("waypoint")
                    .filter(|waypoint| !waypoint.is_null())
                    .map(|waypoint| {
                        let place = waypoint.get("destination").unwrap_or(waypoint);
                        clean(&place.to_string(), MAX_WORDS)
                    }),
            })
            .collect(),
        proxies: dump
            .workload_state
            .into_iter()
            .map(|(uid, proxy)| (uid, clean(proxy.state.as_str().unwrap_or("unknown"), MAX_WORDS)))
            .collect(),
        certificates: dump.certificates.iter().map(certificate).collect(),
    })
}

/// Of a chain the certificate that ends first, which is ztunnel's own in every sane one.
fn certificate(certs: &Certs) -> Certificate {
    let time = |text: &str| text.parse::<Timestamp>().ok();
    let chain = certs.ca_cert.iter().chain(&certs.cert_chain);
    let times = chain.filter_map(|cert| Some((time(&cert.expiration_time)?, time(&cert.valid_from))));
    let first = times.min();
    Certificate {
        identity: clean(&certs.identity, MAX_WORDS),
        state: clean(&certs.state, MAX_WORDS),
        expires: first.map(|(expires, _)| expires),
        begins: first.and_then(|(_, begins)| begins),
        roots: certs.root_certs.iter().map(root).collect(),
    }
}

fn root(cert: &Cert) -> Root {
    Root {
        serial: clean(&cert.serial_number, MAX_WORDS),
        expires: cert.expiration_time.parse().ok(),
    }
}

fn parse_metrics(page: &str) -> ZtunnelMetrics {
    let mut metrics = ZtunnelMetrics::default();
    for sample in samples(page) {
        let label = |key| clean(sample.label(key), MAX_WORDS);
        match sample.name {
            "workload_manager_active_proxy_count" => metrics.active_proxies = Some(sample.value),
            "workload_manager_pending_proxy_count" => metrics.pending_proxies = Some(sample.value),
            "istio_build" if sample.label("component") == "ztunnel" => metrics.version = Some(label("tag")),
            "istio_tcp_connections_failed_total" => {
                *metrics
                    .failed_connections
                    .entry(label("response_flags"))
                    .or_default() += sample.value;
            }
            "istio_tcp_connections_opened_total"
                if sample.label("reporter") == "destination"
                    && sample.label("connection_security_policy") != "mutual_tls" =>
            {
                let to = format!(
                    "{}/{}",
                    label("destination_workload_namespace"),
                    label("destination_workload")
                );
                *metrics.plaintext.entry(to).or_default() += sample.value;
            }
            _ => {}
        }
    }
    metrics
}

#[cfg(test)]
mod tests;
