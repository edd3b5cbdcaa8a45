// SPDX-License-Identifier: Apache-2.0
//! What doctor found.

mod html;
mod junit;
mod sarif;
mod strict;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use clap::ValueEnum;
use serde::Serialize;

pub(crate) use strict::strict_readiness;

use crate::doctor::{
    Category, Check, CheckReport, Comparison, DoctorReport, Ending, Group, HERE_DOCUMENT_ENDS, Remedy,
    Severity, fold, sentences,
};
use crate::output::{Colour, paint, wrap, write};

/// How it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DoctorFormat {
    /// For people: what is wrong, the worst first; then what was skipped and what passed
    #[default]
    Table,
    /// For people: only what is wrong or left open
    Short,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
    /// One file for a browser, a ticket or a printer
    Html,
    /// For pipelines: XML as JUnit writes it, a test a check
    Junit,
    /// For collectors of findings: SARIF 2.1.0
    Sarif,
}

impl DoctorFormat {
    /// Whether it holds checks and their findings and nothing else.
    pub(crate) const fn is_of_checks(self) -> bool {
        matches!(self, Self::Html | Self::Junit | Self::Sarif)
    }
}

/// How a report is to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) format: DoctorFormat,
    /// Without folding.
    pub(crate) verbose: bool,
    /// What a pipeline is to take for a failure.
    pub(crate) fail_on: Severity,
}

/// Writes it.
pub(crate) fn doctor(report: &DoctorReport, how: Manner) -> anyhow::Result<()> {
    write(&match how.format {
        DoctorFormat::Json => json(report)?,
        DoctorFormat::Yaml => serde_saphyr::to_string(report)?,
        DoctorFormat::Html => html::page(report)?,
        DoctorFormat::Junit => junit::document(report, how.fail_on)?,
        DoctorFormat::Sarif => json(&sarif::document(report))?,
        DoctorFormat::Table => text(report, how.verbose, true)?,
        DoctorFormat::Short => text(report, how.verbose, false)?,
    })
}

fn json(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Writes what would stop working if a namespace moved to ambient mode.
pub(crate) fn migration(report: &DoctorReport, namespace: &str, how: Manner) -> anyhow::Result<()> {
    if matches!(how.format, DoctorFormat::Table | DoctorFormat::Short) {
        write(&wrap(
            &format!(
                "What would stop working if namespace {namespace} moved from sidecars to ambient mode:\n"
            ),
            0,
        ))?;
    }
    doctor(report, how)
}

/// Writes what is new and what is gone.
pub(crate) fn comparison(compared: &Comparison, how: Manner) -> anyhow::Result<()> {
    write(&match how.format {
        DoctorFormat::Json => json(compared)?,
        DoctorFormat::Yaml => serde_saphyr::to_string(compared)?,
        DoctorFormat::Html => html::comparison(compared)?,
        // A pipeline is told of what is new alone.
        DoctorFormat::Junit | DoctorFormat::Sarif => return doctor(&compared.new, how),
        DoctorFormat::Table | DoctorFormat::Short => differences(compared, how.verbose)?,
    })
}

fn differences(compared: &Comparison, verbose: bool) -> anyhow::Result<String> {
    let since = compared.against.strftime("%Y-%m-%d %H:%M UTC");
    let new = compared.new.summary;
    let count = new.errors + new.warnings + new.infos;
    let mut out = wrap(
        &format!(
            "Since {since}: {count} new, {} gone, {} as before.",
            compared.gone.len(),
            compared.same
        ),
        0,
    );
    for severity in WORST_FIRST {
        findings(&mut out, &compared.new, severity, verbose)?;
    }
    if !compared.gone.is_empty() {
        heading(&mut out, "Gone")?;
        for gone in &compared.gone {
            let line = format!("{} {}: {}", gone.code, gone.object, gone.problem);
            writeln!(out, "{} {}", paint("√", Colour::Green), wrap(&line, 2).trim())?;
        }
    }
    if !compared.not_looked_for.is_empty() {
        heading(&mut out, "Found then, and not looked for now")?;
        out += &wrap(&compared.not_looked_for.join(", "), 2);
    }
    Ok(out)
}

/// What is told of a check without running it.
#[derive(Serialize)]
struct Listed {
    code: &'static str,
    category: Category,
    severity: Severity,
    title: &'static str,
    docs: String,
}

/// Writes which checks there are.
pub(crate) fn checks<'c>(
    checks: impl Iterator<Item = &'c Check>,
    format: DoctorFormat,
) -> anyhow::Result<()> {
    let listed = checks.map(|check| Listed {
        code: check.code,
        category: check.category,
        severity: check.severity,
        title: check.title,
        docs: check.docs(),
    });
    let listed: Vec<Listed> = listed.collect();
    write(&match format {
        DoctorFormat::Json => json(&listed)?,
        DoctorFormat::Yaml => serde_saphyr::to_string(&listed)?,
        _ => listed
            .iter()
            .map(|one| format!("{}  {:<7}  {}\n", one.code, one.severity.as_str(), one.title))
            .collect(),
    })
}

/// What is wrong first, the worst before the rest and by what it breaks; then what is not known, what was skipped and
/// what would run it, and last what passed.
fn text(report: &DoctorReport, verbose: bool, all: bool) -> anyhow::Result<String> {
    let mut out = summary(report);
    let mut reasons: BTreeMap<&str, &str> = BTreeMap::new();
    for severity in WORST_FIRST {
        findings(&mut out, report, severity, verbose)?;
    }
    let failed = of_ending(report, Ending::Failed);
    if !failed.is_empty() {
        heading(&mut out, "Not known")?;
        for check in failed {
            let same = check.reason.as_deref().and_then(|reason| {
                let first = *reasons.entry(reason).or_insert(check.code);
                (first != check.code).then_some(first)
            });
            one(&mut out, check, verbose, same)?;
        }
    }
    skipped(&mut out, report, all)?;
    if all {
        passed(&mut out, report, verbose)?;
    }
    Ok(out)
}

const WORST_FIRST: [Severity; 3] = [Severity::Error, Severity::Warning, Severity::Info];

fn of_ending(report: &DoctorReport, ending: Ending) -> Vec<&CheckReport> {
    let checks = report.checks.iter();
    checks.filter(|check| check.result == ending).collect()
}

fn heading(out: &mut String, title: &str) -> fmt::Result {
    writeln!(out, "\n{title}\n{}", "-".repeat(title.chars().count()))
}

/// The findings of one severity, those together that break the same thing.
fn findings(
    out: &mut String,
    report: &DoctorReport,
    severity: Severity,
    verbose: bool,
) -> anyhow::Result<()> {
    for group in broken(report, severity) {
        let Some(first) = group.first() else { continue };
        heading(out, &format!("{}: {}", plural(severity), first.category.breaks()))?;
        for sentence in sentences(group.iter().flat_map(|check| &check.findings)) {
            *out += &wrap(&sentence, 0);
        }
        for check in group {
            one(out, check, verbose, None)?;
        }
    }
    Ok(())
}

/// The checks of one severity that found something, those together that break the same thing.
fn broken(report: &DoctorReport, severity: Severity) -> Vec<Vec<&CheckReport>> {
    let found = of_ending(report, Ending::Findings);
    let found: Vec<&CheckReport> = found
        .into_iter()
        .filter(|check| check.severity == severity)
        .collect();
    let groups = found.chunk_by(|one, next| one.category == next.category);
    groups.map(<[&CheckReport]>::to_vec).collect()
}

const fn plural(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "Errors",
        Severity::Warning => "Warnings",
        Severity::Info => "Remarks",
    }
}

/// Checks that were skipped, by the reason that they have in common; without `all` only those that could be run.
fn skipped(out: &mut String, report: &DoctorReport, all: bool) -> anyhow::Result<()> {
    let groups = report.skipped(all);
    if groups.is_empty() {
        return Ok(());
    }
    heading(out, "Skipped, and why")?;
    for (reason, codes) in groups {
        let mark = paint("-", Colour::Dim);
        writeln!(out, "{mark} {}", wrap(&codes.join(", "), 2).trim())?;
        // A rule that is missing has lines of its own, which are to be copied.
        let mut lines = reason.lines();
        *out += &wrap(lines.next().unwrap_or_default(), 4);
        for line in lines {
            writeln!(out, "    {line}")?;
        }
    }
    Ok(())
}

/// Checks that passed, folded to their number in each category.
fn passed(out: &mut String, report: &DoctorReport, verbose: bool) -> anyhow::Result<()> {
    let passed = of_ending(report, Ending::Passed);
    if passed.is_empty() {
        return Ok(());
    }
    heading(out, "Passed")?;
    if verbose {
        for check in passed {
            one(out, check, verbose, None)?;
        }
        return Ok(());
    }
    let mut counts: BTreeMap<Category, (usize, usize)> = BTreeMap::new();
    for check in &report.checks {
        let (ours, all) = counts.entry(check.category).or_default();
        *ours += usize::from(check.result == Ending::Passed);
        *all += 1;
    }
    let words = counts.iter().filter(|(_, (ours, _))| *ours > 0);
    let words: Vec<String> = words
        .map(|(category, (ours, all))| format!("{} {ours} of {all}", category.title()))
        .collect();
    writeln!(
        out,
        "{} {}",
        paint("√", Colour::Green),
        wrap(&words.join(", "), 2).trim()
    )?;
    writeln!(out, "  -v names them")?;
    Ok(())
}

/// What a check looks for. Beside what was found instead, its title alone would read as the opposite.
fn expectation(check: &CheckReport) -> String {
    match check.result {
        Ending::Findings => format!("should hold: {}", check.title),
        _ => check.title.to_owned(),
    }
}

fn mark(check: &CheckReport) -> String {
    match (check.result, check.severity) {
        (Ending::Passed, _) => paint("√", Colour::Green),
        (Ending::Skipped, _) => paint("-", Colour::Dim),
        (Ending::Failed, _) => paint("?", Colour::Yellow),
        (Ending::Findings, Severity::Error) => paint("×", Colour::Red),
        (Ending::Findings, Severity::Warning) => paint("‼", Colour::Yellow),
        (Ending::Findings, Severity::Info) => paint("i", Colour::Dim),
    }
}

/// One check; `same` is the code of another that ended for the very same reason.
fn one(out: &mut String, check: &CheckReport, verbose: bool, same: Option<&str>) -> anyhow::Result<()> {
    let title = format!("{} {}", check.code, expectation(check));
    let wrapped = wrap(&title, 2);
    writeln!(out, "{} {}", mark(check), wrapped.trim())?;
    if let Some(reason) = &check.reason {
        let word = if check.result == Ending::Failed {
            "not known"
        } else {
            "skipped"
        };
        let told = same.map(|code| format!("for the same reason as {code}"));
        // A rule that is missing has lines of its own, which are to be copied.
        let mut lines = told.as_deref().unwrap_or(reason).lines();
        *out += &wrap(&format!("{word}: {}", lines.next().unwrap_or_default()), 4);
        for line in lines {
            writeln!(out, "    {line}")?;
        }
    }
    let mut left_out = false;
    for group in fold(&check.findings, verbose) {
        finding(out, &group)?;
        left_out |= group.left_out > 0;
    }
    if let (false, Some(gap)) = (check.findings.is_empty(), check.gaps.first()) {
        let gaps = check.gaps.len();
        *out += &wrap(&format!("not looked at: {gap}{}", more(gaps - 1)), 4);
    }
    if check.suppressed > 0 {
        *out += &wrap(&format!("{} suppressed", check.suppressed), 4);
    }
    if left_out {
        writeln!(out, "    -v shows all")?;
    }
    if check.result == Ending::Findings {
        writeln!(out, "    see {}", check.docs)?;
    }
    Ok(())
}

fn more(count: usize) -> String {
    if count == 0 {
        String::new()
    } else {
        format!(" (and {count} more)")
    }
}

fn finding(out: &mut String, group: &Group<'_>) -> anyhow::Result<()> {
    *out += &wrap(&format!("{}: {}", group.subject, group.problem), 4);
    if !group.names.is_empty() {
        let rest = if group.left_out > 0 { ", …" } else { "" };
        *out += &wrap(&format!("{}{rest}", group.names.join(", ")), 6);
    }
    for evidence in &group.evidence {
        *out += &wrap(&format!("seen: {evidence}"), 6);
    }
    if !group.effect.is_empty() {
        *out += &wrap(&format!("effect: {}", group.effect), 6);
    }
    for remedy in &group.remedy {
        match remedy {
            Remedy::Commands(commands) => {
                writeln!(out, "      fix:")?;
                for command in commands {
                    writeln!(out, "        {command}")?;
                }
            }
            Remedy::Apply(yaml) => {
                writeln!(out, "      fix: kubectl apply -f - <<'{HERE_DOCUMENT_ENDS}'")?;
                for line in yaml.lines() {
                    writeln!(out, "{line}")?;
                }
                writeln!(out, "{HERE_DOCUMENT_ENDS}")?;
            }
            Remedy::ByHand(what) => *out += &wrap(&format!("fix: {what}"), 6),
        }
    }
    Ok(())
}

/// `3 errors, 1 warning; 20 checks passed, 4 were skipped.`
pub(crate) fn summary(report: &DoctorReport) -> String {
    let of = &report.summary;
    let count = |count: usize, word: &str| {
        let s = if count == 1 { "" } else { "s" };
        (count > 0).then(|| format!("{count} {word}{s}"))
    };
    let found: Vec<String> = [
        count(of.errors, "error"),
        count(of.warnings, "warning"),
        count(of.infos, "remark"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let found = if found.is_empty() {
        "Nothing found".to_owned()
    } else {
        found.join(", ")
    };
    let checks = if of.passed == 1 { "check" } else { "checks" };
    let mut rest = vec![format!("{} {checks} passed", of.passed)];
    if of.skipped > 0 {
        rest.push(format!("{} skipped", of.skipped));
    }
    if of.failed > 0 {
        rest.push(format!("{} could not be run", of.failed));
    }
    if of.suppressed > 0 {
        rest.push(format!("{} suppressed", of.suppressed));
    }
    wrap(&format!("{found}; {}.", rest.join(", ")), 0)
}

#[cfg(test)]
mod tests;
