// SPDX-License-Identifier: Apache-2.0
//! A node and its pods.

use std::fmt::Write as _;
use std::io::Write as _;

use meshmedic_common::report::{Holder, NodeReport, PodReport, TriggerMode};
use meshmedic_common::verdict::{Owner, State, Traffic};
use tabwriter::TabWriter;

use crate::output::{Colour, Format, paint, state_colour, wrap, write};

/// Writes a report in the format asked for.
pub(crate) fn node_report(report: &NodeReport, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => write(&format!("{}\n", serde_json::to_string_pretty(report)?)),
        Format::Yaml => write(&serde_saphyr::to_string(report)?),
        Format::Table | Format::Wide => write(&text(report, format == Format::Wide)?),
    }
}

fn text(report: &NodeReport, wide: bool) -> anyhow::Result<String> {
    let mut out = String::new();
    if report.pods.is_empty() {
        writeln!(out, "No pod runs here: no process is in a pod's cgroup.")?;
    } else {
        out += &table(report, wide)?;
    }
    out += &findings(report)?;
    for condition in &report.conditions {
        writeln!(
            out,
            "\n{}: {}",
            paint(condition.condition.as_str(), Colour::Yellow),
            condition.detail
        )?;
    }
    out.push('\n');
    out += &wrap(&summary(report), 0);
    Ok(out)
}

fn table(report: &NodeReport, wide: bool) -> anyhow::Result<String> {
    let mut table = TabWriter::new(Vec::new()).padding(2).ansi(true);
    write!(table, "POD\tSTATE\tPORTS\tHELD BY")?;
    writeln!(
        table,
        "{}",
        if wide {
            "\tNETNS\tPID\tREDIRECTION\tFLAPS\tREASON\tUID"
        } else {
            ""
        }
    )?;
    for pod in &report.pods {
        let state = paint(pod.state.as_str(), state_colour(pod.state));
        write!(
            table,
            "{}\t{state}\t{}\t{}",
            pod.display_name(),
            pod.ports,
            held_by(pod)
        )?;
        if wide {
            let or_dash = |value: Option<u32>| value.map_or("-".to_owned(), |value| value.to_string());
            let reason = pod.reason.map_or("-", |reason| reason.as_str());
            let (netns, pid) = (or_dash(pod.netns), or_dash(pod.pid));
            write!(
                table,
                "\t{netns}\t{pid}\t{}\t{}\t{reason}\t{}",
                pod.redirection, pod.flaps, pod.uid
            )?;
        }
        writeln!(table)?;
    }
    Ok(String::from_utf8(table.into_inner()?)?)
}

fn held_by(pod: &PodReport) -> String {
    if !pod.held_by.is_empty() {
        let name = |holder: &Holder| format!("{}[{}]", holder.name, holder.pid);
        return pod.held_by.iter().map(name).collect::<Vec<_>>().join(",");
    }
    match pod.owner {
        Some(Owner::Ztunnel) => "ztunnel".to_owned(),
        Some(Owner::Unproven) => "unproven".to_owned(),
        None => "-".to_owned(),
    }
}

/// What somebody should look at, one sentence each; pods of which the same is to be said share it.
fn findings(report: &NodeReport) -> anyhow::Result<String> {
    let mut sentences: Vec<(String, Vec<&PodReport>)> = Vec::new();
    let worth_telling = |pod: &&PodReport| {
        pod.state.is_finding() || matches!(pod.state, State::Suspect | State::Unverifiable)
    };
    for pod in report.pods.iter().filter(worth_telling) {
        let sentence = sentence(pod)?;
        match sentences.iter_mut().find(|(known, _)| *known == sentence) {
            Some((_, pods)) => pods.push(pod),
            None => sentences.push((sentence, vec![pod])),
        }
    }
    let mut out = String::new();
    for (sentence, pods) in sentences {
        let shown = pods
            .iter()
            .take(NAMES_SHOWN)
            .map(|pod| pod.display_name())
            .collect::<Vec<_>>()
            .join(", ");
        let more = match pods.len().saturating_sub(NAMES_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        write!(
            out,
            "\n{}: {sentence}.\n",
            paint(&format!("{shown}{more}"), state_colour(pods[0].state))
        )?;
    }
    Ok(out)
}

/// With more pods than this under one sentence, the rest is counted.
const NAMES_SHOWN: usize = 3;

fn sentence(pod: &PodReport) -> anyhow::Result<String> {
    let mut out = pod.state.sentence().to_owned();
    if let Some(reason) = pod.reason {
        write!(out, ", {}", reason.sentence())?;
    }
    if let Some(detail) = pod.detail.as_ref().filter(|_| !pod.state.is_finding()) {
        write!(out, " ({detail})")?;
    }
    if let Some(told) = pod.connections.and_then(|found| found.told_beside(pod.state)) {
        write!(out, ", {told}")?;
    }
    if let Some(traffic) = pod.traffic.filter(|traffic| *traffic != Traffic::Unknown) {
        write!(out, ";\n  {}", traffic.sentence())?;
    }
    for holder in &pod.held_by {
        write!(
            out,
            ";\n  {} held by process {} ({})",
            holder.ports, holder.pid, holder.name
        )?;
    }
    Ok(out)
}

fn summary(report: &NodeReport) -> String {
    let count = |state: State| report.pods.iter().filter(|pod| pod.state == state).count();
    let states = State::ALL.iter().filter(|state| count(**state) > 0);
    let parts: Vec<String> = states.map(|state| format!("{} {state}", count(*state))).collect();
    let ztunnel = match report.ztunnel.as_slice() {
        [] => "no ztunnel".to_owned(),
        [pid] => format!("ztunnel runs as process {pid}"),
        pids => format!(
            "ztunnel runs as processes {}",
            pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
        ),
    };
    let source = match report.trigger {
        TriggerMode::Ebpf => "kernel events and census",
        TriggerMode::Poll => "/proc alone",
    };
    let pods = if parts.is_empty() {
        "no pods".to_owned()
    } else {
        parts.join(", ")
    };
    format!("{}: {pods}; {ztunnel}; seen by {source}.", report.node)
}
