// SPDX-License-Identifier: Apache-2.0
//! One scan: who should be captured, a look at each, and another two at whoever seems lost.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use meshmedic_common::eligibility::Expectation;
use meshmedic_common::facts::PodFacts;
use meshmedic_common::ports::PortSet;
use meshmedic_common::repair::heal::Place;
use meshmedic_common::report::{PodReport, RepairStanding};
use meshmedic_common::verdict::{Owner, Reason, State, Traffic};

use super::{Grounds, Options, ScanReport, ScannedPod};
use crate::connection::Connection;
use crate::output::Progress;
use crate::selection::{Mesh, Selected, Selection, Target, again, select};
use crate::ways::{Look, Reader, Readout, Seen, Way, WayArgs};

/// How often a loss is read again: with the first, three readings must agree.
const MORE_READINGS: u32 = 2;

/// A pod that seems lost.
struct Loss {
    target: Target,
    pod: ScannedPod,
}

/// What a look at a pod says.
enum Verdict {
    Known(Box<ScannedPod>),
    /// Listeners are missing in this reading.
    Lost(Box<ScannedPod>),
}

/// Scans the pods that were asked for.
pub(crate) async fn sweep(
    connection: &Connection,
    selection: &Selection,
    ways: &WayArgs,
    options: Options,
) -> anyhow::Result<ScanReport> {
    let selected = select(connection, selection).await?;
    let mesh = Mesh::read(connection, selection).await?;
    examine_selected(connection, selection, mesh, selected, ways, options).await
}

/// Scans a few pods again, in a mesh whose parts are known by name.
pub(crate) async fn sweep_again(
    connection: &Connection,
    selection: &Selection,
    mesh: &Mesh,
    ways: &WayArgs,
    options: Options,
) -> anyhow::Result<ScanReport> {
    let selected = select(connection, selection).await?;
    let nodes = selected.pods.values();
    let nodes = nodes.filter_map(|target| target.facts.node.as_deref()).collect();
    let mesh = mesh.anew(connection, selection, &nodes).await?;
    examine_selected(connection, selection, mesh, selected, ways, options).await
}

async fn examine_selected(
    connection: &Connection,
    selection: &Selection,
    mesh: Mesh,
    selected: Selected,
    ways: &WayArgs,
    options: Options,
) -> anyhow::Result<ScanReport> {
    let missing = selected
        .missing
        .iter()
        .map(|(namespace, name)| ScannedPod::missing(namespace, name))
        .collect();
    let targets = selected.pods.into_values().collect();
    examine(connection, selection, mesh, targets, missing, ways, options).await
}

/// Looks at these pods, beside those of which all is known already.
pub(super) async fn examine(
    connection: &Connection,
    selection: &Selection,
    mut mesh: Mesh,
    targets: Vec<Target>,
    mut pods: Vec<ScannedPod>,
    ways: &WayArgs,
    options: Options,
) -> anyhow::Result<ScanReport> {
    let mut unread = Vec::new();
    for target in targets {
        if options.ready_only && (!target.facts.ready || target.facts.finished) {
            continue;
        }
        match unneeded(&mesh, &target) {
            Some(pod) => pods.push(pod),
            None => unread.push(target),
        }
    }
    let in_the_mesh = !unread.is_empty() || pods.iter().any(|pod| pod.state == State::Pending);
    if let Some(why) = &mesh.without_ztunnel
        && !in_the_mesh
    {
        // Nothing says that there is a mesh.
        anyhow::bail!("{why}");
    }
    let nodes: BTreeSet<&str> = unread
        .iter()
        .filter_map(|target| target.facts.node.as_deref())
        .collect();
    let reader = Reader::new(connection, ways, selection, nodes)
        .await?
        .demanding(options.age);
    let scan = Scan {
        connection,
        reader,
        at_once: ways.concurrency(),
        settle: options.settle,
    };
    let mut losses = scan.read(unread, &mut pods).await;
    scan.confirm(&mut losses, &mut pods, options.confirm).await;
    pods.extend(losses.into_iter().map(|loss| loss.pod));
    scan.revise(&mut mesh, &mut pods).await?;
    let mut notes = std::mem::take(&mut mesh.notes);
    notes.extend_from_slice(scan.reader.notes());
    let mut report = ScanReport::new(pods, scan.reader.probed(), notes);
    report.words.clone_from(scan.reader.words());
    report.undetermined = mesh.without_ztunnel.map(|why| {
        format!("pods belong to the mesh, and no ztunnel runs for them: every node is at fault ({why})")
    });
    report.notes.extend(report.undetermined.clone());
    Ok(report)
}

/// What can be said of a pod without a look; `None` if it must be read.
fn unneeded(mesh: &Mesh, target: &Target) -> Option<ScannedPod> {
    let (state, reason) = match mesh.expectation(&target.facts) {
        Expectation::Expected | Expectation::Undeclared => return None,
        Expectation::Pending => (State::Pending, None),
        Expectation::Exempt(reason) => (State::Exempt, Some(reason)),
        Expectation::Unverifiable(reason) => (State::Unverifiable, Some(reason)),
    };
    Some(ScannedPod::unread(target, state, reason, None))
}

struct Scan<'a> {
    connection: &'a Connection,
    reader: Reader,
    at_once: usize,
    settle: Duration,
}

impl Scan<'_> {
    /// Looks at each pod once; gives those that seem lost.
    async fn read(&self, targets: Vec<Target>, pods: &mut Vec<ScannedPod>) -> Vec<Loss> {
        let progress = Progress::start("reading pods", targets.len());
        let look = |target: Target| async move {
            let look = self.reader.look(&target).await;
            (target, look)
        };
        let mut looks = stream::iter(targets).map(look).buffer_unordered(self.at_once);
        let mut losses = Vec::new();
        while let Some((target, look)) = looks.next().await {
            progress.step();
            match verdict(&target, look) {
                Verdict::Known(pod) => pods.push(*pod),
                Verdict::Lost(pod) => losses.push(Loss { target, pod: *pod }),
            }
        }
        losses
    }

    /// Reads the losses again, until three readings agree or one does not.
    async fn confirm(&self, losses: &mut Vec<Loss>, pods: &mut Vec<ScannedPod>, confirm: Duration) {
        for _ in 0..MORE_READINGS {
            if losses.is_empty() {
                return;
            }
            let progress = Progress::start("confirming losses", losses.len());
            tokio::time::sleep(confirm / MORE_READINGS).await;
            let look = |loss: Loss| async move {
                let look = self.reader.look(&loss.target).await;
                (loss, look)
            };
            let mut looks = stream::iter(std::mem::take(losses))
                .map(look)
                .buffer_unordered(self.at_once);
            while let Some((loss, look)) = looks.next().await {
                progress.step();
                match verdict(&loss.target, look) {
                    Verdict::Lost(pod) if pod.state == loss.pod.state => {
                        losses.push(Loss { pod: *pod, ..loss });
                    }
                    Verdict::Lost(mut pod) => {
                        pod.state = State::Suspect;
                        pod.reason = Some(Reason::Confirming);
                        pods.push(*pod);
                    }
                    Verdict::Known(pod) => pods.push(*pod),
                }
            }
        }
    }

    /// Looks once more at whatever is to be reported as bad: the pod may be gone, or its node's ztunnel.
    async fn revise(&self, mesh: &mut Mesh, pods: &mut [ScannedPod]) -> anyhow::Result<()> {
        let findings = pods.iter().filter(|pod| pod.state.is_finding());
        let nodes = findings.filter_map(|pod| pod.node.as_deref()).collect();
        mesh.refresh(self.connection, &nodes).await?;
        let mesh = &*mesh;
        let doubtful = |pod: &&mut ScannedPod| {
            let failed = matches!(
                pod.reason,
                Some(
                    Reason::ReadFailed
                        | Reason::TimedOut
                        | Reason::NoProcess
                        | Reason::Malformed
                        | Reason::Gone
                )
            );
            pod.state.is_finding() || (pod.state == State::Unverifiable && failed)
        };
        let revise = |pod: &mut ScannedPod| {
            let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
            let known = pod.clone();
            async move {
                let now = again(self.connection, &namespace, &name).await;
                let revised = match now {
                    Ok(now) => revised(mesh, known, now.as_ref(), self.connection, self.settle),
                    Err(failure) => {
                        let detail = Some(failure.short());
                        let reason = Some(Reason::ReadFailed);
                        ScannedPod {
                            state: State::Unverifiable,
                            reason,
                            detail,
                            ..known
                        }
                    }
                };
                ((namespace, name), revised)
            }
        };
        let asked: Vec<_> = pods.iter_mut().filter(doubtful).map(revise).collect();
        let mut revisions = stream::iter(asked).buffer_unordered(self.at_once);
        let mut by_name = std::collections::BTreeMap::new();
        while let Some((key, pod)) = revisions.next().await {
            by_name.insert(key, pod);
        }
        for pod in pods {
            if let Some(revised) = by_name.remove(&(pod.namespace.clone(), pod.name.clone())) {
                *pod = revised;
            }
        }
        Ok(())
    }
}

/// What is said of a pod in the end, when it was fetched once more.
fn revised(
    mesh: &Mesh,
    pod: ScannedPod,
    now: Option<&Target>,
    connection: &Connection,
    settle: Duration,
) -> ScannedPod {
    let exempt = |pod: ScannedPod, reason| {
        let (detail, traffic) = (None, None);
        ScannedPod {
            state: State::Exempt,
            reason: Some(reason),
            detail,
            traffic,
            ..pod
        }
    };
    let Some(now) = now.filter(|now| now.facts.uid == pod.uid) else {
        return exempt(pod, Reason::Deleting);
    };
    if let Some(other) = unneeded(mesh, now) {
        return other;
    }
    let node = pod.node.as_deref();
    let fault = node.and_then(|node| mesh.node_fault(node, settle, connection.clock.now()));
    match fault {
        // An agent watches its ztunnel closer than we do.
        Some(fault) if pod.state.is_finding() && pod.via != Some(Way::Agent) => ScannedPod {
            state: State::Suspect,
            reason: Some(Reason::NodeFault),
            detail: Some(fault.to_string()),
            ..pod
        },
        _ => pod,
    }
}

/// What one look says of a pod, unconfirmed.
pub(crate) fn seen(target: &Target, look: Look) -> ScannedPod {
    match verdict(target, look) {
        Verdict::Known(pod) | Verdict::Lost(pod) => *pod,
    }
}

fn verdict(target: &Target, look: Look) -> Verdict {
    let known = look.sandbox.as_ref().and_then(|sandbox| sandbox.parse().ok());
    let instead = look.instead.clone();
    let seen_by = |pod: ScannedPod| ScannedPod {
        via: look.way,
        grounds: Grounds {
            instead,
            place: pod.grounds.place.map(|place| known.unwrap_or(place)),
            ..pod.grounds
        },
        container: look.container.clone(),
        own_word: look.way == Some(Way::Exec),
        ..pod
    };
    match look.seen {
        Seen::Judged(report) => Verdict::Known(Box::new(seen_by(judged(target, *report)))),
        Seen::Read(readout) => {
            let pod = Box::new(seen_by(read(target, &readout)));
            if readout.reading.is_complete() {
                Verdict::Known(pod)
            } else {
                Verdict::Lost(pod)
            }
        }
        Seen::Unread(reason, detail) => {
            let pod = ScannedPod::unread(target, State::Unverifiable, Some(reason), Some(detail));
            Verdict::Known(Box::new(seen_by(pod)))
        }
    }
}

/// From an agent's verdict.
fn judged(target: &Target, report: PodReport) -> ScannedPod {
    let detail = report.detail.filter(|_| !report.state.is_finding());
    let grounds = Grounds {
        place: report.sandbox.and_then(|sandbox| sandbox.parse().ok()),
        connections: None,
        instead: None,
        taken: matches!(report.repair, Some(RepairStanding::UnderWay { .. })),
    };
    ScannedPod {
        grounds,
        ports: Some(report.ports),
        owner: report.owner,
        redirection: Some(report.redirection),
        rules: report.rules,
        connections: report.connections,
        traffic: report.traffic,
        ..ScannedPod::unread(target, report.state, report.reason, detail)
    }
}

/// From one reading. Whose the sockets are nobody can tell from afar.
fn read(target: &Target, readout: &Readout) -> ScannedPod {
    let Readout {
        reading,
        redirection,
        addresses,
    } = readout;
    let required = reading.wildcard_ports().intersection(PortSet::REQUIRED);
    let (state, owner) = if reading.is_complete() {
        (State::Captured, Some(Owner::Unproven))
    } else if required.is_empty() {
        (State::Orphan, None)
    } else {
        (State::Partial, None)
    };
    // Where all listeners are met, the rest is often not printed.
    let here = match addresses {
        Some(addresses) => addresses.holds_any(&target.facts.addresses),
        None => reading.is_complete(),
    };
    ScannedPod {
        grounds: Grounds {
            place: here.then(|| sandbox_of(&target.facts)),
            connections: Some(reading.connections),
            ..Grounds::default()
        },
        ports: Some(reading.ports()),
        owner,
        redirection: Some(*redirection),
        traffic: state.is_finding().then(|| Traffic::from(*redirection)),
        ..ScannedPod::unread(target, state, None, None)
    }
}

/// From within a pod the number of its namespace is not to be had, so its sandbox is told by when it became ready.
fn sandbox_of(facts: &PodFacts) -> Place {
    let since = facts.sandbox_since.or(facts.created);
    let since = since.map_or(0, |since| since.as_second());
    Place {
        netns: 0,
        start: u64::try_from(since).unwrap_or(0),
    }
}
