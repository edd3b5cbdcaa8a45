// SPDX-License-Identifier: Apache-2.0
//! The report as one page. Every word from the cluster is escaped.

use std::fmt::{self, Write as _};

use crate::doctor::{
    CheckReport, Comparison, DoctorReport, Ending, Group, Remedy, Severity, fold, sentences,
};
use crate::output::Escaped;
use crate::output::page::{self, Total, plural};

/// The whole page.
pub(super) fn page(report: &DoctorReport) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let of = &report.summary;
    begin(
        &mut out,
        report,
        "Mesh report",
        "",
        &[
            ("error", of.errors, plural(of.errors, "error", "errors")),
            ("warning", of.warnings, plural(of.warnings, "warning", "warnings")),
            ("info", of.infos, plural(of.infos, "remark", "remarks")),
            ("passed", of.passed, "passed"),
            ("skipped", of.skipped, "skipped"),
            ("failed", of.failed, "could not be run"),
            ("skipped", of.suppressed, "suppressed"),
        ],
    )?;
    for severity in super::WORST_FIRST {
        findings(&mut out, report, severity)?;
    }
    let failed = super::of_ending(report, Ending::Failed);
    if !failed.is_empty() {
        writeln!(out, "<section>\n<h2>Not known</h2>")?;
        for check in failed {
            one(&mut out, check)?;
        }
        writeln!(out, "</section>")?;
    }
    let skipped = report.skipped(true);
    if !skipped.is_empty() {
        writeln!(
            out,
            "<section>\n<h2>Skipped, and why</h2>\n<dl class=\"skipped\">"
        )?;
        for (reason, codes) in skipped {
            writeln!(
                out,
                "<dt>{}</dt>\n<dd><pre class=\"reason\">{}</pre></dd>",
                Escaped(codes.join(", ")),
                Escaped(reason)
            )?;
        }
        writeln!(out, "</dl>\n</section>")?;
    }
    passed(&mut out, report)?;
    page::end(&mut out)?;
    Ok(out)
}

/// What is new and what is gone, as a page.
pub(super) fn comparison(compared: &Comparison) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let since = format!(", against {}", page::minute(compared.against));
    let new = compared.new.summary;
    begin(
        &mut out,
        &compared.new,
        "Mesh report: what changed",
        &since,
        &[
            ("error", new.errors, plural(new.errors, "new error", "new errors")),
            (
                "warning",
                new.warnings,
                plural(new.warnings, "new warning", "new warnings"),
            ),
            ("info", new.infos, plural(new.infos, "new remark", "new remarks")),
            ("passed", compared.gone.len(), "gone"),
            ("skipped", compared.same, "as before"),
        ],
    )?;
    for severity in super::WORST_FIRST {
        findings(&mut out, &compared.new, severity)?;
    }
    if !compared.gone.is_empty() {
        writeln!(out, "<section>\n<h2>Gone</h2>\n<ul>")?;
        for gone in &compared.gone {
            let line = format!("{} {}: {}", gone.code, gone.object, gone.problem);
            writeln!(out, "<li>{}</li>", Escaped(line))?;
        }
        writeln!(out, "</ul>\n</section>")?;
    }
    if !compared.not_looked_for.is_empty() {
        writeln!(
            out,
            "<section>\n<h2>Found then, and not looked for now</h2>\n<p>{}</p>\n</section>",
            Escaped(compared.not_looked_for.join(", "))
        )?;
    }
    page::end(&mut out)?;
    Ok(out)
}

/// All before the findings.
fn begin(
    out: &mut String,
    report: &DoctorReport,
    title: &str,
    against: &str,
    totals: &[Total<'_>],
) -> fmt::Result {
    let server = report
        .server_version
        .as_ref()
        .map(|version| format!(", Kubernetes {version}"))
        .unwrap_or_default();
    let place = match (&report.scope.namespace, report.scope.pods.as_slice()) {
        (_, [_, ..]) => format!("The mesh, and {}", report.scope.pods.join(", ")),
        (Some(namespace), _) => format!("The mesh, and namespace {namespace}"),
        (None, _) => "The whole cluster".to_owned(),
    };
    let of = format!("{place}, as of {}{against}{server}", page::minute(report.taken));
    page::begin(out, title, report.taken, &of, totals)
}

/// The findings of one severity, those together that break the same thing.
fn findings(out: &mut String, report: &DoctorReport, severity: Severity) -> fmt::Result {
    for group in super::broken(report, severity) {
        let Some(first) = group.first() else { continue };
        writeln!(
            out,
            "<section>\n<h2>{}: {}</h2>",
            super::plural(severity),
            Escaped(first.category.breaks())
        )?;
        let cut = sentences(group.iter().flat_map(|check| &check.findings));
        if !cut.is_empty() {
            writeln!(out, "<ul class=\"cut\">")?;
            for sentence in cut {
                writeln!(out, "<li>{}</li>", Escaped(sentence))?;
            }
            writeln!(out, "</ul>")?;
        }
        for check in group {
            one(out, check)?;
        }
        writeln!(out, "</section>")?;
    }
    Ok(())
}

/// Checks that passed, folded: a browser opens them without a script, and a printer leaves them folded.
fn passed(out: &mut String, report: &DoctorReport) -> fmt::Result {
    let passed = super::of_ending(report, Ending::Passed);
    if passed.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<section>\n<details>\n<summary><h2>Passed: {}</h2></summary>",
        passed.len()
    )?;
    for check in passed {
        one(out, check)?;
    }
    writeln!(out, "</details>\n</section>")
}

fn class(check: &CheckReport) -> (&'static str, &'static str) {
    match (check.result, check.severity) {
        (Ending::Passed, _) => ("passed", "passed"),
        (Ending::Skipped, _) => ("skipped", "skipped"),
        (Ending::Failed, _) => ("failed", "not known"),
        (Ending::Findings, Severity::Error) => ("error", "error"),
        (Ending::Findings, Severity::Warning) => ("warning", "warning"),
        (Ending::Findings, Severity::Info) => ("info", "remark"),
    }
}

fn one(out: &mut String, check: &CheckReport) -> fmt::Result {
    let (class, word) = class(check);
    writeln!(
        out,
        "<article class=\"{class}\" id=\"{}\">\n<h3><span class=\"mark\">{word}</span> \
         <a href=\"{}\">{}</a> {}</h3>",
        Escaped(check.code.to_lowercase()),
        Escaped(&check.docs),
        Escaped(check.code),
        Escaped(super::expectation(check))
    )?;
    if let Some(reason) = &check.reason {
        writeln!(out, "<pre class=\"reason\">{}</pre>", Escaped(reason))?;
    }
    for group in fold(&check.findings, false) {
        finding(out, &group)?;
    }
    // Where nothing was found the reason names them.
    for gap in check.gaps.iter().filter(|_| check.reason.is_none()) {
        writeln!(out, "<p class=\"gap\">Not looked at: {}</p>", Escaped(gap))?;
    }
    if check.suppressed > 0 {
        writeln!(out, "<p class=\"gap\">{} suppressed</p>", check.suppressed)?;
    }
    writeln!(out, "</article>")
}

fn finding(out: &mut String, group: &Group<'_>) -> fmt::Result {
    writeln!(
        out,
        "<div class=\"finding\">\n<h4>{}</h4>\n<p>{}</p>",
        Escaped(&group.subject),
        Escaped(group.problem)
    )?;
    if !group.names.is_empty() {
        let rest = if group.left_out > 0 { ", …" } else { "" };
        writeln!(
            out,
            "<p class=\"names\">{}{rest}</p>",
            Escaped(group.names.join(", "))
        )?;
    }
    if !group.evidence.is_empty() {
        writeln!(out, "<h5>Seen</h5>\n<ul>")?;
        for evidence in &group.evidence {
            writeln!(out, "<li>{}</li>", Escaped(evidence))?;
        }
        writeln!(out, "</ul>")?;
    }
    if !group.effect.is_empty() {
        writeln!(out, "<h5>Effect</h5>\n<p>{}</p>", Escaped(group.effect))?;
    }
    if !group.remedy.is_empty() {
        writeln!(out, "<h5>Fix</h5>")?;
    }
    for remedy in &group.remedy {
        match remedy {
            Remedy::Commands(commands) => {
                let lines: Vec<String> = commands.iter().map(ToString::to_string).collect();
                writeln!(out, "<pre>{}</pre>", Escaped(lines.join("\n")))?;
            }
            Remedy::Apply(yaml) => {
                writeln!(
                    out,
                    "<p>With <code>kubectl apply -f -</code>:</p>\n<pre>{}</pre>",
                    Escaped(yaml)
                )?;
            }
            Remedy::ByHand(what) => writeln!(out, "<p>{}</p>", Escaped(what))?,
        }
    }
    writeln!(out, "</div>")
}
