// SPDX-License-Identifier: Apache-2.0
//! The pods of a cluster as a scan saw them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;

use clap::ValueEnum;
use meshmedic_common::verdict::State;
use tabwriter::TabWriter;

use super::{ScanReport, ScannedPod};
use crate::output::{Colour, paint, state_colour, wrap, write};
use crate::ways::Way;

/// How a scan is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScanFormat {
    /// For people, at 80 columns
    #[default]
    Table,
    /// For people with a wide terminal
    Wide,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
    /// The findings' names, one a line
    Name,
}

/// With more pods than this under one sentence, the rest is counted.
const NAMES_SHOWN: usize = 3;

/// Writes a scan. In a table, pods that are well are left out unless `all` shall be there.
pub(crate) fn scan(report: &ScanReport, format: ScanFormat, all: bool) -> anyhow::Result<()> {
    write(&match format {
        ScanFormat::Json => format!("{}\n", serde_json::to_string_pretty(report)?),
        ScanFormat::Yaml => serde_saphyr::to_string(report)?,
        ScanFormat::Name => names(report),
        ScanFormat::Table => text(report, false, all)?,
        ScanFormat::Wide => text(report, true, true)?,
    })
}

/// Writes a scan of which people saw the one before: only what changed. Programs get each one wholly, in one line or
/// one document.
pub(crate) fn scan_again(
    before: Option<&ScanReport>,
    report: &ScanReport,
    format: ScanFormat,
    all: bool,
) -> anyhow::Result<()> {
    match (format, before) {
        (ScanFormat::Json, _) => write(&format!("{}\n", serde_json::to_string(report)?)),
        (ScanFormat::Yaml, _) => write(&format!("---\n{}", serde_saphyr::to_string(report)?)),
        (_, None) => {
            scan(report, format, all)?;
            if format == ScanFormat::Name {
                return Ok(());
            }
            crate::output::line("\nWatching; Ctrl-C ends it.")
        }
        (ScanFormat::Name, Some(before)) => {
            let known = names(before);
            let known: BTreeSet<&str> = known.lines().collect();
            let new = names(report);
            let new: String = new
                .lines()
                .filter(|name| !known.contains(name))
                .map(|name| format!("{name}\n"))
                .collect();
            write(&new)
        }
        (_, Some(before)) => write(&changes(before, report)),
    }
}

fn names(report: &ScanReport) -> String {
    let findings = report.pods.iter().filter(|pod| pod.state.is_finding());
    findings.map(|pod| format!("{}\n", pod.display_name())).collect()
}

/// A line for each pod whose state is another, or that came or went in a state that matters.
fn changes(before: &ScanReport, report: &ScanReport) -> String {
    let by_name = |report: &ScanReport| -> BTreeMap<String, State> {
        report
            .pods
            .iter()
            .map(|pod| (pod.display_name(), pod.state))
            .collect()
    };
    let (old, new) = (by_name(before), by_name(report));
    let time = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
    let mut out = String::new();
    let mut line = |name: &str, from: &str, to: &str, colour: Colour| {
        let _ = writeln!(
            out,
            "{}  {name}  {from} -> {}",
            paint(&time, Colour::Dim),
            paint(to, colour)
        );
    };
    for (name, state) in &new {
        let colour = state_colour(*state);
        match old.get(name) {
            Some(last) if last == state => {}
            Some(last) => line(name, last.as_str(), state.as_str(), colour),
            None if *state == State::Exempt => {}
            None => line(name, "new", state.as_str(), colour),
        }
    }
    for (name, state) in &old {
        if !new.contains_key(name) && *state != State::Exempt {
            line(name, state.as_str(), "gone", Colour::Dim);
        }
    }
    out
}

fn text(report: &ScanReport, wide: bool, all: bool) -> anyhow::Result<String> {
    let shown: Vec<&ScannedPod> = report
        .pods
        .iter()
        .filter(|pod| all || pod.needs_a_look())
        .collect();
    let mut out = String::new();
    if !shown.is_empty() {
        out += &table(&shown, wide)?;
        out += &findings(&shown);
        out.push('\n');
    }
    out += &accusations(report);
    for note in &report.notes {
        write!(out, "{}:\n{}", paint("note", Colour::Yellow), wrap(note, 2))?;
    }
    writeln!(out, "{}", summary(report))?;
    Ok(out)
}

fn table(pods: &[&ScannedPod], wide: bool) -> anyhow::Result<String> {
    let mut table = TabWriter::new(Vec::new()).padding(2).ansi(true);
    write!(table, "POD\tSTATE\tPORTS\tVIA")?;
    writeln!(
        table,
        "{}",
        if wide {
            "\tREADY\tHELD BY\tREDIRECTION\tIP\tNODE\tREASON"
        } else {
            ""
        }
    )?;
    for pod in pods {
        let state = paint(pod.state.as_str(), state_colour(pod.state));
        let ports = pod
            .ports
            .map_or_else(|| "-".to_owned(), |ports| ports.to_string());
        let via = pod.via.map_or("-", Way::as_str);
        write!(table, "{}\t{state}\t{ports}\t{via}", pod.display_name())?;
        if wide {
            let ready = if pod.ready { "yes" } else { "no" };
            let owner = pod.owner.map_or("-", |owner| owner.as_str());
            let redirection = pod.redirection.map_or("-", |redirection| redirection.as_str());
            let ip = pod.pod_ip.map_or_else(|| "-".to_owned(), |ip| ip.to_string());
            let node = pod.node.as_deref().unwrap_or("-");
            let reason = pod.reason.map_or("-", |reason| reason.as_str());
            write!(table, "\t{ready}\t{owner}\t{redirection}\t{ip}\t{node}\t{reason}")?;
        }
        writeln!(table)?;
    }
    Ok(String::from_utf8(table.into_inner()?)?)
}

/// One sentence for each thing that is to be said; pods of which the same is to be said share it.
fn findings(pods: &[&ScannedPod]) -> String {
    let mut sentences: Vec<(String, Vec<&ScannedPod>)> = Vec::new();
    let mut places = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.needs_a_look()) {
        let sentence = pod.sentence();
        let place = *places.entry(sentence.clone()).or_insert(sentences.len());
        match sentences.get_mut(place) {
            Some((_, pods)) => pods.push(pod),
            None => sentences.push((sentence, vec![pod])),
        }
    }
    let mut out = String::new();
    for (sentence, pods) in sentences {
        let shown: Vec<String> = pods
            .iter()
            .take(NAMES_SHOWN)
            .map(|pod| pod.display_name())
            .collect();
        let more = match pods.len().saturating_sub(NAMES_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let whose = paint(
            &format!("{}{more}", shown.join(", ")),
            state_colour(pods[0].state),
        );
        out.push('\n');
        out += &wrap(&format!("{whose}:"), 0);
        out += &wrap(&format!("{sentence}."), 2);
    }
    out
}

/// What logs say against the pods, beside what was found there.
fn accusations(report: &ScanReport) -> String {
    let (Some(logs), Some(accused)) = (&report.logs, &report.candidates) else {
        return String::new();
    };
    let mut out = format!("What ztunnel's logs of the last {} say:\n", logs.since);
    for pod in accused {
        let name = format!("{}/{}", pod.namespace, pod.name);
        let _ = writeln!(
            out,
            "\n{name} ({}):",
            paint(pod.state.as_str(), state_colour(pod.state))
        );
        for line in &pod.lines {
            let indent = if line.starts_with(' ') { 4 } else { 2 };
            out += &wrap(line.trim(), indent);
        }
    }
    if accused.is_empty() {
        let whom = if logs.elsewhere > 0 {
            "none of the pods that were asked for"
        } else {
            "no pod"
        };
        let unless = if logs.complete {
            ""
        } else {
            ", as far as they could be read"
        };
        let _ = writeln!(out, "  they accuse {whom}{unless}.");
    }
    if logs.elsewhere > 0 {
        let pods = if logs.elsewhere == 1 {
            "1 pod"
        } else {
            &format!("{} pods", logs.elsewhere)
        };
        let _ = writeln!(
            out,
            "\n  {pods} beyond what was asked for: accused too, and not looked at."
        );
    }
    out.push('\n');
    out
}

fn summary(report: &ScanReport) -> String {
    if let Some(logs) = &report.logs
        && report.pods.is_empty()
    {
        let read = if logs.read == 1 {
            "1 log was"
        } else {
            &format!("{} logs were", logs.read)
        };
        return format!("No pod was looked at; {read} read, {} failed.", logs.failed.len());
    }
    let checked = match report.checked {
        0 => {
            return match report.pods.len() {
                0 => "No pods.".to_owned(),
                1 => "1 pod, and it need not be captured.".to_owned(),
                pods => format!("{pods} pods, and none of them should be captured."),
            };
        }
        1 => "1 pod checked".to_owned(),
        count => format!("{count} pods checked"),
    };
    let counted = |open: bool| {
        let states = State::ALL.iter().filter(|state| state.is_open() == open);
        let counts = states.filter_map(|state| Some(format!("{} {state}", report.states.get(state)?)));
        counts.collect::<Vec<_>>().join(", ")
    };
    let unchecked = match counted(true) {
        states if states.is_empty() => states,
        states => format!("; not checked: {states}"),
    };
    let mut ways: BTreeMap<Way, usize> = BTreeMap::new();
    for way in report.pods.iter().filter_map(|pod| pod.via) {
        *ways.entry(way).or_default() += 1;
    }
    let ways: Vec<String> = ways
        .iter()
        .map(|(way, count)| match way {
            Way::Exec => format!("{count} by exec (the pods' own word)"),
            way => format!("{count} by {}", way.as_str()),
        })
        .collect();
    let ways = if ways.is_empty() {
        String::new()
    } else {
        format!("\nRead: {}.", ways.join(", "))
    };
    let probed = match report.probed {
        0 => String::new(),
        1 => "\n1 pod has an ended probe in its spec from now on.".to_owned(),
        count => format!("\n{count} pods have an ended probe in their spec from now on."),
    };
    let states = wrap(&format!("{checked}: {}{unchecked}.", counted(false)), 0);
    format!("{}{ways}{probed}{}", states.trim_end(), cause(report))
}

/// Where to ask what led to the findings, and what can be done about them.
fn cause(report: &ScanReport) -> String {
    let found = report.pods.iter().filter(|pod| pod.state.is_finding());
    let namespaces: BTreeSet<&str> = found.map(|pod| pod.namespace.as_str()).collect();
    match (namespaces.first(), namespaces.len()) {
        (None, _) => String::new(),
        (Some(namespace), 1) => format!(
            "\nWhat led to it: meshmedic doctor -n {namespace}\nA plan of its repair: meshmedic repair -n {namespace}"
        ),
        (Some(_), _) => {
            "\nWhat led to it: meshmedic doctor\nA plan of its repair: meshmedic repair".to_owned()
        }
    }
}
