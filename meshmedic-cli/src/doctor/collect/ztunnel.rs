// SPDX-License-Identifier: Apache-2.0
//! What each ztunnel says: its dump, its metrics, its log.

mod dump;

use std::io::Read;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use meshmedic_common::facts::PodFacts;
use meshmedic_common::kube::facts::pod_facts;
use meshmedic_common::text::clean;
use meshmedic_common::ztunnel_log::{self, PodIndex};
use serde_json::Value;

use super::budget::{Budget, add};
use super::exposition::samples;
use super::{Plan, says};
use crate::behavioral::{self, Ztunnel};
use crate::connection::Connection;
use crate::doctor::snapshot::{
    Link, LinkKind, LogFacts, Part, Sighting, Snapshot, ZtunnelDump, ZtunnelFacts, ZtunnelMetrics,
};
use crate::doctor::view::View;
use crate::forward::Body;
use crate::output::Progress;

#[cfg(fuzzing)]
pub(in crate::doctor) use dump::read as read_dump;

const ADMIN: u16 = 15000;
const STATS: u16 = 15020;
/// The dump of a ztunnel in a mesh of tens of thousands of pods.
const MAX_DUMP: usize = 1024 * 1024 * 1024;
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

/// Asks one ztunnel for its dump.
pub(super) async fn dump_of(connection: &Connection, plan: &Plan, facts: &PodFacts) -> Part<ZtunnelDump> {
    let (node, budget) = (facts.node.clone().unwrap_or_default(), plan.budget.clone());
    let read = move |body: &mut Body| dump::read(body, &node, &budget);
    says::stream(connection, plan, facts, (ADMIN, "/config_dump", MAX_DUMP), read).await
}

async fn one(connection: &Connection, plan: &Plan, pod: &Pod, directory: &PodIndex) -> ZtunnelFacts {
    let facts = pod_facts(pod);
    let node = facts.node.clone().unwrap_or_default();
    let dump = dump_of(connection, plan, &facts);
    let metrics = {
        let budget = plan.budget.clone();
        let read = move |body: &mut Body| parse_metrics(body, &budget);
        says::stream(connection, plan, &facts, (STATS, "/metrics", MAX_METRICS), read)
    };
    let (dump, metrics, log) = tokio::join!(dump, metrics, log(connection, plan, pod, directory));
    ZtunnelFacts {
        dump,
        metrics,
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

fn parse_metrics(page: impl Read, budget: &Budget) -> Result<ZtunnelMetrics, String> {
    let mut metrics = ZtunnelMetrics::default();
    samples(page, |sample| {
        let label = |key| clean(sample.label(key), MAX_WORDS);
        match sample.name {
            "workload_manager_active_proxy_count" => metrics.active_proxies = Some(sample.value),
            "workload_manager_pending_proxy_count" => metrics.pending_proxies = Some(sample.value),
            "istio_build" if sample.label("component") == "ztunnel" => metrics.version = Some(label("tag")),
            "istio_tcp_connections_failed_total" => {
                let flags = label("response_flags");
                return add(&mut metrics.failed_connections, flags, sample.value, budget);
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
                return add(&mut metrics.plaintext, to, sample.value, budget);
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(metrics)
}

#[cfg(test)]
mod tests;
