// SPDX-License-Identifier: Apache-2.0
//! `meshmedic scan --behavioral`: a look only at the pods that the ztunnels' logs accuse.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::bail;
use jiff::Timestamp;
use meshmedic_common::duration;
use meshmedic_common::text::clean;
use meshmedic_common::verdict::{Reason, State};
use meshmedic_common::ztunnel_log::{Apart, Evidence, Signature, Suspicion, Tally};
use serde::Serialize;

use super::sweep::examine;
use super::{Options, ScanReport, ScannedPod};
use crate::behavioral::{Heard, directory, listen, show};
use crate::connection::Connection;
use crate::output;
use crate::selection::{Mesh, Scope, Selected, Selection, select};
use crate::ways::{Age, WayArgs};

/// What is kept of a reason that stems from the cluster.
const REASON_LIMIT: usize = 400;

/// A pod that logs accuse, and what the look at it gave.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Accused {
    pub(crate) namespace: String,
    pub(crate) name: String,
    uid: String,
    pub(crate) state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    evidence: Vec<Accusation>,
    /// The evidence for people.
    #[serde(skip)]
    pub(crate) lines: Vec<String>,
}

/// One way in which it is accused.
#[derive(Clone, Debug, Serialize)]
struct Accusation {
    signature: Signature,
    suspicion: Suspicion,
    #[serde(flatten)]
    evidence: Evidence,
}

/// How far the logs can be trusted to tell all.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Logs {
    /// How far back they were to be read.
    pub(crate) since: String,
    /// How many were read to their end.
    pub(crate) read: usize,
    /// Those that were not.
    pub(crate) failed: Vec<FailedLog>,
    /// Pods with ztunnel's label that are none; their logs were not read.
    strangers: Vec<String>,
    /// Whether all was heard; if not, a pod may be accused that is no candidate.
    pub(crate) complete: bool,
    /// How many accused pods are not among those that were asked for.
    pub(crate) elsewhere: usize,
    lines: u64,
    access_lines: u64,
    malformed: u64,
    overlong: u64,
    dropped: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Timestamp>,
    /// What looks alike and accuses nobody.
    apart: BTreeMap<Apart, Tally>,
}

/// A ztunnel whose log could not be read to its end.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FailedLog {
    ztunnel: String,
    reason: String,
}

/// Scans those of the pods that were asked for whom logs of the last `since` accuse.
pub(crate) async fn sweep(
    connection: &Connection,
    selection: &Selection,
    ways: &WayArgs,
    options: Options,
    since: Duration,
) -> anyhow::Result<ScanReport> {
    // A selection that makes no sense is better known before the logs are read.
    let wanted = select(connection, selection).await?;
    // Who is who in a log the whole cluster decides, whatever was asked for.
    let cluster = Selection::cluster();
    let mesh = Mesh::read(connection, &cluster).await?;
    let index = |all: &Selected| {
        let facts = all.pods.values().map(|target| &target.facts);
        directory(facts, |pod| mesh.expectation(pod))
    };
    let index = if *selection == cluster {
        index(&wanted)
    } else {
        index(&select(connection, &cluster).await?)
    };
    let heard = listen(connection, since, ways.concurrency(), &index).await?;
    if heard.is_nobody() {
        bail!(
            mesh.without_ztunnel
                .unwrap_or_else(|| format!("no ztunnel is left in {}", connection.server))
        );
    }
    let uids: BTreeMap<(String, String), String> = heard
        .candidates()
        .filter(|id| wanted.pods.contains_key(&(id.namespace.clone(), id.name.clone())))
        .map(|id| ((id.namespace.clone(), id.name.clone()), id.uid.clone()))
        .collect();
    output::say(&format!(
        "{}; looking at {}",
        show::count(&heard, since),
        uids.len()
    ));
    let mut known: Vec<ScannedPod> = wanted
        .missing
        .iter()
        .map(|(namespace, name)| ScannedPod::missing(namespace, name))
        .collect();
    // Named one by one from here on: reading logs takes its time.
    let scope = Scope::Pods(uids.keys().cloned().collect::<BTreeSet<_>>());
    let accused = Selection { scope, ..cluster };
    let mut now = select(connection, &accused).await?.pods;
    now.retain(|key, target| uids.get(key) == Some(&target.facts.uid));
    let gone = wanted
        .pods
        .iter()
        .filter(|(key, _)| uids.contains_key(key) && !now.contains_key(key));
    known.extend(
        gone.map(|(_, target)| ScannedPod::unread(target, State::Exempt, Some(Reason::Deleting), None)),
    );
    let targets = now.into_values().collect();
    // What a log says against a pod is decided by a reading that comes after it.
    let options = Options {
        age: Age::preferred(connection),
        ..options
    };
    let mut report = examine(connection, &accused, mesh, targets, known, ways, options).await?;
    add(&mut report, &heard, since, connection);
    Ok(report)
}

/// Adds what was heard to what was seen.
fn add(report: &mut ScanReport, heard: &Heard, since: Duration, connection: &Connection) {
    let now = connection.clock.now().unwrap_or_else(Timestamp::now);
    let mut candidates = Vec::new();
    for (id, candidate) in heard.findings.candidates() {
        let seen = report
            .pods
            .iter()
            .find(|pod| pod.namespace == id.namespace && pod.name == id.name);
        let Some(pod) = seen else { continue };
        let accusation = |(signature, evidence): (&Signature, &Evidence)| Accusation {
            signature: *signature,
            suspicion: signature.suspicion(),
            evidence: evidence.clone(),
        };
        candidates.push(Accused {
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            uid: id.uid.clone(),
            state: pod.state,
            reason: pod.reason,
            evidence: candidate.signatures.iter().map(accusation).collect(),
            lines: show::evidence(candidate, now),
        });
    }
    let findings = &heard.findings;
    let failed = |(ztunnel, reason): &(String, String)| FailedLog {
        ztunnel: ztunnel.clone(),
        reason: clean(reason, REASON_LIMIT),
    };
    report.logs = Some(Logs {
        since: duration::show(since),
        read: heard.logs,
        failed: heard.unheard.iter().map(failed).collect(),
        strangers: heard.strangers.clone(),
        complete: heard.is_complete(),
        elsewhere: findings.candidates().len().saturating_sub(candidates.len()),
        lines: findings.lines,
        access_lines: findings.access_lines,
        malformed: findings.malformed,
        overlong: findings.overlong,
        dropped: findings.dropped(),
        from: findings.span.map(|(from, _)| from),
        to: findings.span.map(|(_, to)| to),
        apart: findings.apart().clone(),
    });
    report.candidates = Some(candidates);
    report.notes.extend(show::notes(heard));
}
