// SPDX-License-Identifier: Apache-2.0
//! The report for a pipeline that reads JUnit's XML: a suite is a category, a test a check.

use std::fmt::{self, Write as _};

use crate::doctor::{CheckReport, DoctorReport, Ending, Severity};
use crate::output::Escaped;

/// The whole document. A test fails where the command would end with 1.
pub(super) fn document(report: &DoctorReport, fail_on: Severity) -> Result<String, fmt::Error> {
    let mut out =
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"meshmedic doctor\">\n".to_owned();
    for suite in report.checks.chunk_by(|one, next| one.category == next.category) {
        let Some(first) = suite.first() else { continue };
        let count = |which: &dyn Fn(&CheckReport) -> bool| suite.iter().filter(|check| which(check)).count();
        writeln!(
            out,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" timestamp=\"{}\">",
            Escaped(first.category.title()),
            suite.len(),
            count(&|check| fails(check, fail_on)),
            count(&|check| check.result == Ending::Failed),
            count(&|check| check.result == Ending::Skipped),
            report.taken.strftime("%Y-%m-%dT%H:%M:%S"),
        )?;
        for check in suite {
            test(&mut out, check, fail_on)?;
        }
        writeln!(out, "  </testsuite>")?;
    }
    writeln!(out, "</testsuites>")?;
    Ok(out)
}

fn fails(check: &CheckReport, fail_on: Severity) -> bool {
    check.result == Ending::Findings && check.severity >= fail_on
}

fn test(out: &mut String, check: &CheckReport, fail_on: Severity) -> fmt::Result {
    let name = format!("{} {}", check.code, check.title);
    write!(
        out,
        "    <testcase classname=\"{}\" name=\"{}\"",
        Escaped(check.category.title()),
        Escaped(name)
    )?;
    let reason = check.reason.as_deref().unwrap_or_default();
    match check.result {
        Ending::Passed => return writeln!(out, "/>"),
        Ending::Skipped => writeln!(out, ">\n      <skipped message=\"{}\"/>", Escaped(reason))?,
        Ending::Failed => writeln!(out, ">\n      <error message=\"{}\"/>", Escaped(reason))?,
        Ending::Findings if fails(check, fail_on) => {
            let severity = check.severity.as_str();
            let message = format!("{} found; see {}", check.findings.len(), check.docs);
            writeln!(
                out,
                ">\n      <failure type=\"{severity}\" message=\"{}\">",
                Escaped(message)
            )?;
            findings(out, check)?;
            writeln!(out, "</failure>")?;
        }
        Ending::Findings => {
            writeln!(out, ">\n      <system-out>")?;
            findings(out, check)?;
            writeln!(out, "</system-out>")?;
        }
    }
    writeln!(out, "    </testcase>")
}

fn findings(out: &mut String, check: &CheckReport) -> fmt::Result {
    for finding in &check.findings {
        writeln!(
            out,
            "{}",
            Escaped(format!("{}: {}", finding.object, finding.problem))
        )?;
        for evidence in &finding.evidence {
            writeln!(out, "  seen: {}", Escaped(evidence))?;
        }
    }
    Ok(())
}
