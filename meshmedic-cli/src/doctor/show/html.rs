// SPDX-License-Identifier: Apache-2.0
//! The report as one page, which needs nothing from elsewhere. Every word from the cluster is escaped.

use std::fmt::{self, Display, Write as _};

use crate::doctor::{CheckReport, DoctorReport, Ending, Group, Remedy, Severity, fold};

const STYLE: &str = include_str!("report.css");

/// Text in which nothing is markup.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Writer<'f, 'g>(&'f mut fmt::Formatter<'g>);
        impl fmt::Write for Writer<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for c in text.chars() {
                    match c {
                        '&' => self.0.write_str("&amp;")?,
                        '<' => self.0.write_str("&lt;")?,
                        '>' => self.0.write_str("&gt;")?,
                        '"' => self.0.write_str("&quot;")?,
                        '\'' => self.0.write_str("&#39;")?,
                        c => self.0.write_char(c)?,
                    }
                }
                Ok(())
            }
        }
        write!(Writer(f), "{}", self.0)
    }
}

/// The whole page.
pub(super) fn page(report: &DoctorReport) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let of = &report.summary;
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>Mesh report, {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>Mesh report</h1>\n",
        Escaped(report.taken.strftime("%Y-%m-%d %H:%M UTC"))
    )?;
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
    let when = report.taken.strftime("%Y-%m-%d %H:%M UTC");
    writeln!(
        out,
        "<p>{}</p>",
        Escaped(format!("{place}, as of {when}{server}"))
    )?;
    writeln!(out, "<ul class=\"totals\">")?;
    for (class, count, word) in [
        (
            "error",
            of.errors,
            if of.errors == 1 { "error" } else { "errors" },
        ),
        (
            "warning",
            of.warnings,
            if of.warnings == 1 { "warning" } else { "warnings" },
        ),
        ("info", of.infos, if of.infos == 1 { "remark" } else { "remarks" }),
        ("passed", of.passed, "passed"),
        ("skipped", of.skipped, "skipped"),
        ("failed", of.failed, "could not be run"),
        ("skipped", of.suppressed, "suppressed"),
    ] {
        if count > 0 || matches!(class, "error" | "warning" | "passed") {
            writeln!(out, "<li class=\"{class}\"><b>{count}</b> {word}</li>")?;
        }
    }
    writeln!(out, "</ul>\n</header>\n<main>")?;
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
    write!(
        out,
        "</main>\n<footer>\n<p>Written by meshmedic {}. It holds names of the cluster, and no secrets.</p>\n\
         </footer>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    )?;
    Ok(out)
}

/// The findings of one severity, those together that break the same thing.
fn findings(out: &mut String, report: &DoctorReport, severity: Severity) -> fmt::Result {
    let mut category = None;
    for check in super::of_ending(report, Ending::Findings) {
        if check.severity != severity {
            continue;
        }
        if category != Some(check.category) {
            if category.is_some() {
                writeln!(out, "</section>")?;
            }
            writeln!(
                out,
                "<section>\n<h2>{}: {}</h2>",
                super::plural(severity),
                Escaped(check.category.breaks())
            )?;
            category = Some(check.category);
        }
        one(out, check)?;
    }
    if category.is_some() {
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
        Escaped(check.title)
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
