// SPDX-License-Identifier: Apache-2.0
//! What was heard, for people.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use meshmedic_common::duration;
use meshmedic_common::text::clean;
use meshmedic_common::ztunnel_log::{Candidate, Signature};

use super::Heard;

/// How many ztunnels, or pods, are named in one sentence.
const NAMED: usize = 3;
/// What is shown of a reason that stems from the cluster.
const REASON_LIMIT: usize = 200;

/// The evidence against one candidate, line by line.
pub(crate) fn evidence(candidate: &Candidate, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    for (signature, evidence) in &candidate.signatures {
        let tally = &evidence.tally;
        let age = Duration::try_from(now.duration_since(tally.last)).unwrap_or_default();
        let mut said_by: Vec<&str> = evidence.ztunnels.iter().map(String::as_str).take(NAMED).collect();
        if evidence.more_ztunnels || evidence.ztunnels.len() > NAMED {
            said_by.push("others");
        }
        lines.push(format!(
            "{} {} ({}), last {} ago, said by {}",
            signature.as_str(),
            times(tally.count),
            signature.describe(),
            duration::show(Duration::from_secs(age.as_secs())),
            said_by.join(", ")
        ));
        if *signature == Signature::HboneRefused {
            lines.push("  (a NetworkPolicy that rejects port 15008 looks the same in a log)".to_owned());
        }
        // JSON has no blanks at which a terminal could break it.
        let json = tally.sample.starts_with('{');
        let sample = if json {
            &tally.sample.replace(",\"", ", \"")
        } else {
            &tally.sample
        };
        lines.push(format!("  {sample}"));
    }
    lines
}

/// What has to be said beside the candidates.
pub(crate) fn notes(heard: &Heard) -> Vec<String> {
    let findings = &heard.findings;
    let mut notes = Vec::new();
    let mut unheard: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (ztunnel, why) in &heard.unheard {
        let ztunnels = unheard.entry(clean(why, REASON_LIMIT)).or_default();
        ztunnels.push(ztunnel);
    }
    for (why, ztunnels) in unheard {
        let logs = if ztunnels.len() == 1 { "log" } else { "logs" };
        let named = ztunnels
            .iter()
            .take(NAMED)
            .copied()
            .collect::<Vec<_>>()
            .join(", ");
        let more = match ztunnels.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        notes.push(format!(
            "the {logs} of {named}{more} could not be read to the end: {why}; what would be said there stays unknown"
        ));
    }
    for stranger in &heard.strangers {
        notes.push(format!(
            "{stranger} claims to be ztunnel by its label, and is ignored: its log was not read"
        ));
    }
    for (count, what) in [
        (findings.malformed, "access lines that could not be understood"),
        (
            findings.overlong,
            "lines that were too long to be read, as those of a configuration dump are",
        ),
        (
            findings.dropped(),
            "lines that accuse more pods than are kept in mind",
        ),
    ] {
        if count > 0 {
            notes.push(format!("{what}: {count}"));
        }
    }
    notes.push(
        "an orphan without traffic leaves no trace in any log: only a scan without --behavioral finds it"
            .to_owned(),
    );
    notes
}

/// How many pods are accused, by whom.
pub(crate) fn count(heard: &Heard, since: Duration) -> String {
    let count = |count: usize, one: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {one}s"),
    };
    format!(
        "{} in the last {} of {}",
        count(heard.findings.candidates().len(), "candidate"),
        duration::show(since),
        count(heard.logs, "ztunnel log")
    )
}

fn times(count: u64) -> String {
    if count == 1 {
        "once".to_owned()
    } else {
        format!("{count} times")
    }
}
