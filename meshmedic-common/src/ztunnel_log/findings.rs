// SPDX-License-Identifier: Apache-2.0
//! What the logs of the ztunnels say together.
//!
//! Everything kept is bounded, and merges to the same whatever came first: counts add, times take the
//! earliest or latest, and of too many names the first in order stay. A name that stays was never dropped on
//! the way, so what is counted for it is complete.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::classify::{Apart, Signature, Verdict, classify};
use super::directory::{Directory, PodId};
use super::event::{Event, EventKind};
use super::line::{Line, NoLine, What};
use super::lines::Lines;
use super::link::Link;
use super::parse;
use crate::text::clean;

/// What is kept of a sample line: a whole access line, unless somebody made it long.
const SAMPLE_LIMIT: usize = 1024;
/// How many ztunnels are named for one piece of evidence.
const ZTUNNELS: usize = 8;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many candidates.
    pub candidates: usize,
    /// How many pods whose proxies could not start.
    pub start_failures: usize,
    /// How many pairs of peers.
    pub links: usize,
}

impl Default for Limits {
    /// Some 15 MB at the very most.
    fn default() -> Self {
        Self {
            candidates: 2000,
            start_failures: 500,
            links: 1000,
        }
    }
}

/// How often something was seen, when, and how it looked the last time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// How often.
    pub count: u64,
    /// When first.
    pub first: Timestamp,
    /// When last.
    pub last: Timestamp,
    /// The last line, cleaned and cut.
    pub sample: String,
}

impl Tally {
    fn merge(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.first = self.first.min(other.first);
        if (other.last, &other.sample) > (self.last, &self.sample) {
            (self.last, self.sample) = (other.last, other.sample);
        }
    }

    fn once(time: Timestamp, raw: &[u8]) -> Self {
        Self {
            count: 1,
            first: time,
            last: time,
            sample: clean(&String::from_utf8_lossy(raw), SAMPLE_LIMIT),
        }
    }
}

/// What one signature amounts to for one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// How often and when.
    #[serde(flatten)]
    pub tally: Tally,
    /// The ztunnels that said it, or some of them.
    pub ztunnels: BTreeSet<String>,
    /// Whether more ztunnels said it than are named.
    pub more_ztunnels: bool,
}

impl Evidence {
    fn merge(&mut self, other: Self) {
        self.tally.merge(other.tally);
        self.more_ztunnels |= other.more_ztunnels;
        self.ztunnels.extend(other.ztunnels);
        while self.ztunnels.len() > ZTUNNELS {
            self.ztunnels.pop_last();
            self.more_ztunnels = true;
        }
    }
}

/// What accuses one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Per signature, the evidence.
    pub signatures: BTreeMap<Signature, Evidence>,
}

impl Candidate {
    fn count(&self) -> u64 {
        self.signatures
            .values()
            .map(|evidence| evidence.tally.count)
            .sum()
    }

    /// When it was accused last.
    #[must_use]
    pub fn last(&self) -> Option<Timestamp> {
        self.signatures.values().map(|evidence| evidence.tally.last).max()
    }
}

/// What logs say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    limits: Limits,
    candidates: BTreeMap<PodId, Candidate>,
    accusations: u64,
    apart: BTreeMap<Apart, Tally>,
    events: BTreeMap<EventKind, Tally>,
    start_failures: BTreeMap<String, Tally>,
    all_start_failures: u64,
    links: BTreeMap<Link, Tally>,
    /// Lines in all, with those that were not read.
    pub lines: u64,
    /// Access lines that were read.
    pub access_lines: u64,
    /// Access lines that could not be read.
    pub malformed: u64,
    /// Lines that were too long to be read.
    pub overlong: u64,
    /// The time of the oldest and of the newest line: how far back the logs go.
    pub span: Option<(Timestamp, Timestamp)>,
}

impl Findings {
    /// Nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// The pods that are accused, in the order of their names.
    #[must_use]
    pub fn candidates(&self) -> &BTreeMap<PodId, Candidate> {
        &self.candidates
    }

    /// How many lines accuse pods beyond the limit, which are not among the candidates.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let kept = self.candidates.values().map(Candidate::count).sum();
        self.accusations.saturating_sub(kept)
    }

    /// What only looked alike, or tells of other faults.
    #[must_use]
    pub fn apart(&self) -> &BTreeMap<Apart, Tally> {
        &self.apart
    }

    /// What ztunnel told of itself.
    #[must_use]
    pub fn events(&self) -> &BTreeMap<EventKind, Tally> {
        &self.events
    }

    /// The UIDs of pods whose proxies could not start.
    #[must_use]
    pub fn start_failures(&self) -> &BTreeMap<String, Tally> {
        &self.start_failures
    }

    /// Who spoke to whom, where that matters; the first of them in order where there are too many.
    #[must_use]
    pub fn links(&self) -> &BTreeMap<Link, Tally> {
        &self.links
    }

    /// How many failures to start concern pods beyond the limit.
    #[must_use]
    pub fn dropped_start_failures(&self) -> u64 {
        let kept = self.start_failures.values().map(|tally| tally.count).sum();
        self.all_start_failures.saturating_sub(kept)
    }

    /// Adds what one line says, which the ztunnel of that name wrote.
    pub fn take(&mut self, raw: &[u8], ztunnel: &str, directory: &dyn Directory) {
        self.lines = self.lines.saturating_add(1);
        let line = match parse::parse(raw) {
            Ok(line) => line,
            Err(NoLine::Foreign) => return,
            Err(NoLine::Malformed) => {
                self.malformed = self.malformed.saturating_add(1);
                return;
            }
        };
        self.reach(line.time, line.time);
        self.take_parsed(&line, raw, ztunnel, directory);
    }

    fn take_parsed(&mut self, line: &Line, raw: &[u8], ztunnel: &str, directory: &dyn Directory) {
        let once = || Tally::once(line.time, raw);
        match &line.what {
            What::Other => {}
            What::Event(event) => {
                merge_into(&mut self.events, event.kind(), once(), Tally::merge);
                if let Event::StartFailed { uid, .. } = event {
                    self.all_start_failures = self.all_start_failures.saturating_add(1);
                    merge_into(&mut self.start_failures, uid.clone(), once(), Tally::merge);
                    shorten(&mut self.start_failures, self.limits.start_failures);
                }
            }
            What::Access(access) => {
                self.access_lines = self.access_lines.saturating_add(1);
                let verdict = classify(access, directory);
                if let Some(link) = Link::of(access, &verdict) {
                    merge_into(&mut self.links, link, once(), Tally::merge);
                    shorten(&mut self.links, self.limits.links);
                }
                match verdict {
                    Verdict::Fine => {}
                    Verdict::Apart(apart) => merge_into(&mut self.apart, apart, once(), Tally::merge),
                    Verdict::Accuses(pod, signature) => {
                        let evidence = Evidence {
                            tally: once(),
                            ztunnels: [ztunnel.to_owned()].into(),
                            more_ztunnels: false,
                        };
                        self.accusations = self.accusations.saturating_add(1);
                        let candidate = self.candidates.entry(pod.id.clone()).or_default();
                        merge_into(&mut candidate.signatures, signature, evidence, Evidence::merge);
                        shorten(&mut self.candidates, self.limits.candidates);
                    }
                }
            }
        }
    }

    /// Adds what other logs say. Both must have been made with the same limits.
    pub fn merge(&mut self, other: Self) {
        for (id, candidate) in other.candidates {
            let known = self.candidates.entry(id).or_default();
            for (signature, evidence) in candidate.signatures {
                merge_into(&mut known.signatures, signature, evidence, Evidence::merge);
            }
        }
        shorten(&mut self.candidates, self.limits.candidates);
        for (apart, tally) in other.apart {
            merge_into(&mut self.apart, apart, tally, Tally::merge);
        }
        for (kind, tally) in other.events {
            merge_into(&mut self.events, kind, tally, Tally::merge);
        }
        for (uid, tally) in other.start_failures {
            merge_into(&mut self.start_failures, uid, tally, Tally::merge);
        }
        shorten(&mut self.start_failures, self.limits.start_failures);
        for (link, tally) in other.links {
            merge_into(&mut self.links, link, tally, Tally::merge);
        }
        shorten(&mut self.links, self.limits.links);
        for (sum, more) in [
            (&mut self.accusations, other.accusations),
            (&mut self.all_start_failures, other.all_start_failures),
            (&mut self.lines, other.lines),
            (&mut self.access_lines, other.access_lines),
            (&mut self.malformed, other.malformed),
            (&mut self.overlong, other.overlong),
        ] {
            *sum = sum.saturating_add(more);
        }
        if let Some((first, last)) = other.span {
            self.reach(first, last);
        }
    }

    fn reach(&mut self, first: Timestamp, last: Timestamp) {
        let (from, to) = self.span.get_or_insert((first, last));
        (*from, *to) = ((*from).min(first), (*to).max(last));
    }
}

fn merge_into<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V, merge: impl Fn(&mut V, V)) {
    match map.get_mut(&key) {
        Some(known) => merge(known, value),
        None => {
            map.insert(key, value);
        }
    }
}

/// Keeps the first in order: those would have stayed in whichever order they had come.
fn shorten<K: Ord, V>(map: &mut BTreeMap<K, V>, limit: usize) {
    while map.len() > limit {
        map.pop_last();
    }
}

/// Reads one ztunnel's log, piece by piece.
pub struct LogReader<'d> {
    ztunnel: String,
    directory: &'d dyn Directory,
    lines: Lines,
    findings: Findings,
}

impl<'d> LogReader<'d> {
    /// A reader of the log of the ztunnel with this name.
    #[must_use]
    pub fn new(ztunnel: impl Into<String>, directory: &'d dyn Directory, limits: Limits) -> Self {
        Self {
            ztunnel: ztunnel.into(),
            directory,
            lines: Lines::default(),
            findings: Findings::new(limits),
        }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Self {
            ztunnel,
            directory,
            lines,
            findings,
        } = self;
        lines.feed(bytes, |line| findings.take(line, ztunnel, *directory));
    }

    /// Says that the log ended here.
    #[must_use]
    pub fn finish(mut self) -> Findings {
        let Self {
            ztunnel,
            directory,
            lines,
            findings,
        } = &mut self;
        lines.finish(|line| findings.take(line, ztunnel, *directory));
        findings.overlong = lines.overlong();
        findings.lines = findings.lines.saturating_add(findings.overlong);
        self.findings
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.findings.candidates.len() + self.findings.start_failures.len()
    }
}
