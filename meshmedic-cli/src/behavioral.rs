// SPDX-License-Identifier: Apache-2.0
//! Whom the logs of the ztunnels accuse.
//!
//! This chooses pods to look at, and proves nothing: a pod that nobody talks to leaves no trace in any log.

pub(crate) mod show;

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::{AsyncBufReadExt as _, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use meshmedic_common::duration;
use meshmedic_common::eligibility::Expectation;
use meshmedic_common::facts::PodFacts;
use meshmedic_common::identity::Component;
use meshmedic_common::kube::facts::pod_facts;
use meshmedic_common::ztunnel_log::{self, Directory, Findings, Limits, LogReader, PodId, PodIndex, Role};

use crate::connection::{Connection, Failure};
use crate::output::Progress;
use crate::selection::claimants;

/// What ztunnel's chart calls its container.
const CONTAINER: &str = "istio-proxy";
/// A log that is being read and gives nothing for so long has got stuck.
const SILENCE: Duration = Duration::from_secs(30);
/// A log that is not over after so long grows faster than it can be read.
const LONGEST: Duration = Duration::from_secs(600);
/// What Istio's controller writes on the pods of waypoints and gateways.
const GATEWAY_LABELS: [&str; 2] = [
    "gateway.istio.io/managed",
    "gateway.networking.k8s.io/gateway-name",
];

/// What the logs say, and which of them could not be heard.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) findings: Findings,
    /// How many logs were read to their end.
    pub(crate) logs: usize,
    /// The ztunnels whose logs were not, and why.
    pub(crate) unheard: Vec<(String, String)>,
    /// Pods that carry ztunnel's label, and are none.
    pub(crate) strangers: Vec<String>,
}

impl Heard {
    /// Whether everything was heard. Where it was not, the absence of candidates means nothing. Lines that are too long
    /// are no access lines: somebody had a configuration dumped.
    pub(crate) fn is_complete(&self) -> bool {
        self.logs > 0
            && self.unheard.is_empty()
            && self.findings.malformed == 0
            && self.findings.dropped() == 0
    }

    /// The pods to look at.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = &PodId> {
        self.findings.candidates().keys()
    }

    /// Whether there is no ztunnel at all.
    pub(crate) fn is_nobody(&self) -> bool {
        self.logs == 0 && self.unheard.is_empty()
    }
}

/// One of ztunnel's pods.
pub(crate) struct Ztunnel {
    pub(crate) namespace: String,
    pub(crate) name: String,
    container: Option<String>,
}

impl Ztunnel {
    pub(crate) fn of(pod: &Pod) -> Self {
        let facts = pod_facts(pod);
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let mut names = containers.map(|container| container.name.clone());
        let first = names.next();
        // The first, unless another bears the chart's name: somebody may have put one before it.
        let container = names.find(|name| name == CONTAINER).or(first);
        Self {
            namespace: facts.namespace,
            name: facts.name,
            container,
        }
    }

    fn display_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Reads what every ztunnel wrote in the last `since`, so many at once.
pub(crate) async fn listen(
    connection: &Connection,
    since: Duration,
    at_once: usize,
    directory: &dyn Directory,
) -> Result<Heard, Failure> {
    let identity = &connection.istio.identity;
    let is_one = |pod: &Pod| identity.proves(&pod_facts(pod), Component::Ztunnel);
    let pods = claimants(connection, Component::Ztunnel, |pod| {
        (is_one(pod), Ztunnel::of(pod))
    })
    .await?;
    let (ztunnels, strangers): (Vec<_>, Vec<_>) = pods.into_iter().partition(|(is_one, _)| *is_one);
    let ztunnels: Vec<Ztunnel> = ztunnels.into_iter().map(|(_, ztunnel)| ztunnel).collect();
    let mut heard = Heard {
        findings: Findings::new(Limits::default()),
        logs: 0,
        unheard: Vec::new(),
        strangers: strangers.iter().map(|(_, pod)| pod.display_name()).collect(),
    };
    let read = |ztunnel: Ztunnel| async move {
        let (findings, problem) = read_log(connection, &ztunnel, since, directory).await;
        (ztunnel.display_name(), findings, problem)
    };
    let progress = Progress::start("reading ztunnels' logs", ztunnels.len());
    let mut reading = stream::iter(ztunnels.into_iter().map(read)).buffer_unordered(at_once.max(1));
    while let Some((name, findings, problem)) = reading.next().await {
        progress.step();
        // What was read before it broke off counts all the same.
        heard.findings.merge(findings);
        match problem {
            None => heard.logs += 1,
            Some(why) => heard.unheard.push((name, why.to_string())),
        }
    }
    heard.unheard.sort();
    heard.strangers.sort();
    Ok(heard)
}

/// Reads one log as it arrives; also gives why it was not read to its end.
pub(crate) async fn read_log(
    connection: &Connection,
    ztunnel: &Ztunnel,
    since: Duration,
    directory: &dyn Directory,
) -> (Findings, Option<Problem>) {
    let name = ztunnel.display_name();
    let mut reader = LogReader::new(name.clone(), directory, Limits::default());
    let api: Api<Pod> = Api::namespaced(connection.client.clone(), &ztunnel.namespace);
    let parameters = LogParams {
        container: ztunnel.container.clone(),
        // The API takes whole seconds, and one at least.
        since_seconds: Some(i64::try_from(since.as_secs().max(1)).unwrap_or(i64::MAX)),
        ..LogParams::default()
    };
    let what = format!("reading the log of {name}");
    let log = match connection
        .ask(&what, || api.log_stream(&ztunnel.name, &parameters))
        .await
    {
        Ok(log) => log,
        Err(failure) => return (reader.finish(), Some(Problem::Asked(failure))),
    };
    let mut log = pin!(log);
    let begun = Instant::now();
    let problem = loop {
        if begun.elapsed() > LONGEST {
            break Some(format!("it did not end within {}", duration::show(LONGEST)));
        }
        let piece = match tokio::time::timeout(SILENCE, log.fill_buf()).await {
            Err(_) => break Some(format!("it gave nothing for {} s", SILENCE.as_secs())),
            Ok(Err(error)) => break Some(format!("it broke off: {error}")),
            Ok(Ok([])) => break None,
            Ok(Ok(piece)) => piece,
        };
        reader.feed(piece);
        let taken = piece.len();
        log.consume_unpin(taken);
    };
    let findings = reader.finish();
    // The kubelet tells in place of the log that there is none, and calls that a success.
    let foreign = findings.lines > 0 && findings.span.is_none();
    let problem = problem.or_else(|| foreign.then(|| "what it gives is no log of a ztunnel".to_owned()));
    (findings, problem.map(Problem::Broke))
}

/// Why a log was not read to its end.
#[derive(Debug)]
pub(crate) enum Problem {
    /// It was not handed out.
    Asked(Failure),
    /// It was, and then something happened.
    Broke(String),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Asked(failure) => f.write_str(&failure.short()),
            Self::Broke(why) => f.write_str(why),
        }
    }
}

/// The pods as a reader of logs has to know them. All pods of the cluster belong in it, whatever was asked for:
/// what is not in it counts as outside the mesh.
pub(crate) fn directory<'p>(
    pods: impl IntoIterator<Item = &'p PodFacts>,
    expectation: impl Fn(&PodFacts) -> Expectation,
) -> PodIndex {
    let mut index = PodIndex::default();
    for facts in pods.into_iter().filter(|facts| !facts.finished) {
        let pod = ztunnel_log::Pod {
            id: PodId {
                namespace: facts.namespace.clone(),
                name: facts.name.clone(),
                uid: facts.uid.clone(),
            },
            role: role(facts, &expectation),
            created: facts.created,
        };
        index.insert(pod, facts.addresses.iter().copied());
    }
    index
}

fn role(facts: &PodFacts, expectation: impl Fn(&PodFacts) -> Expectation) -> Role {
    if facts.host_network {
        return Role::HostNetwork;
    }
    match expectation(facts) {
        // What cannot be verified by a look can be accused all the more.
        Expectation::Expected | Expectation::Pending | Expectation::Unverifiable(_) => Role::Expected,
        Expectation::Exempt(_) | Expectation::Undeclared
            if GATEWAY_LABELS
                .iter()
                .any(|label| facts.labels.contains_key(*label)) =>
        {
            Role::Waypoint
        }
        Expectation::Exempt(_) | Expectation::Undeclared => Role::Exempt,
    }
}

#[cfg(test)]
mod tests;
