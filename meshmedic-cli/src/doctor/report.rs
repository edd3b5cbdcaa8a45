// SPDX-License-Identifier: Apache-2.0
//! What all checks say together.

use jiff::Timestamp;
use meshmedic_common::report::API_VERSION;
use serde::Serialize;

use super::check::{Category, Check, Outcome, Severity};
use super::finding::Finding;
use super::snapshot::{Scope, Snapshot};
use super::view::View;

/// The kind of [`DoctorReport`].
const KIND: &str = "DoctorReport";

/// What all checks say.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DoctorReport {
    api_version: &'static str,
    kind: &'static str,
    /// When the cluster was so.
    pub(crate) taken: Timestamp,
    pub(crate) scope: Scope,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_version: Option<String>,
    /// What had to be decided for it.
    pub(crate) decided: Decided,
    pub(crate) summary: Summary,
    /// In the order of the table.
    pub(crate) checks: Vec<CheckReport>,
}

/// What had to be decided.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Decided {
    /// Pairs of peers, for NetworkPolicies.
    pub(crate) pairs: u64,
}

/// How many checks ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    pub(crate) passed: usize,
    pub(crate) skipped: usize,
    pub(crate) failed: usize,
    /// Findings, by severity.
    pub(crate) errors: usize,
    pub(crate) warnings: usize,
    pub(crate) infos: usize,
    /// Findings that were suppressed.
    pub(crate) suppressed: usize,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ending {
    Passed,
    Findings,
    Skipped,
    Failed,
}

/// What one check says.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CheckReport {
    pub(crate) code: &'static str,
    pub(crate) category: Category,
    pub(crate) title: &'static str,
    pub(crate) severity: Severity,
    pub(crate) result: Ending,
    /// Why it was skipped or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Whether that leaves open what somebody with more rights could find out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) open: bool,
    pub(crate) findings: Vec<Finding>,
    /// How many findings `--suppress` left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) suppressed: usize,
    /// What it could not look at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) gaps: Vec<String>,
    /// Where it is explained.
    pub(crate) docs: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Findings that nobody wants to see: of this check, on this object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suppression {
    pub(crate) code: String,
    /// `namespace/name`, or a name without a namespace; `*` for any.
    pub(crate) object: String,
}

impl Suppression {
    fn covers(&self, check: &Check, finding: &Finding) -> bool {
        let object = finding.object.path();
        let workload = finding.workload.as_ref().map(super::finding::ObjectRef::path);
        let called = |path: &str| match self.object.strip_suffix('*') {
            Some(beginning) => path.starts_with(beginning),
            None => path == self.object,
        };
        self.code.eq_ignore_ascii_case(check.code)
            && (called(&object) || workload.is_some_and(|path| called(&path)))
    }
}

impl DoctorReport {
    /// Runs these checks on a snapshot.
    pub(crate) fn judge<'c>(
        snapshot: &Snapshot,
        checks: impl IntoIterator<Item = &'c Check>,
        suppressions: &[Suppression],
    ) -> Self {
        let view = View::new(snapshot);
        let mut summary = Summary::default();
        let checks = checks
            .into_iter()
            .map(|check| one(check, &view, suppressions, &mut summary))
            .collect();
        Self {
            api_version: API_VERSION,
            kind: KIND,
            taken: snapshot.taken,
            scope: snapshot.scope.clone(),
            server_version: snapshot.server_version.had().cloned(),
            decided: Decided {
                pairs: view.decided(),
            },
            summary,
            checks,
        }
    }

    /// What is found here and was not found before.
    pub(crate) fn without(self, before: &Self) -> Self {
        let known = |code: &str, finding: &Finding| {
            let check = before.checks.iter().find(|one| one.code == code);
            let mut findings = check.into_iter().flat_map(|one| &one.findings);
            findings.any(|one| one.object == finding.object && one.problem == finding.problem)
        };
        self.only(|check, finding| !known(check.code, finding))
    }

    /// The same with some of the findings alone. A check of which none is left has passed, as far as it was asked.
    pub(crate) fn only(mut self, keep: impl Fn(&CheckReport, &Finding) -> bool) -> Self {
        let mut summary = Summary::default();
        for check in &mut self.checks {
            let findings = std::mem::take(&mut check.findings);
            check.findings = findings
                .into_iter()
                .filter(|finding| keep(check, finding))
                .collect();
            if check.result == Ending::Findings && check.findings.is_empty() {
                check.result = Ending::Passed;
            }
            summary.count(check);
        }
        self.summary = summary;
        self
    }

    /// The same under another kind.
    pub(crate) fn called(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self
    }

    /// Why checks were skipped, and which; in the order of the table. Without `all` only those that somebody with more
    /// rights could run.
    pub(crate) fn skipped(&self, all: bool) -> Vec<(&str, Vec<&'static str>)> {
        let mut groups: Vec<(&str, Vec<&'static str>)> = Vec::new();
        for check in &self.checks {
            let Some(reason) = check.reason.as_deref() else {
                continue;
            };
            if check.result != Ending::Skipped || !(all || check.open) {
                continue;
            }
            match groups.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, codes)) => codes.push(check.code),
                None => groups.push((reason, vec![check.code])),
            }
        }
        groups
    }

    /// The exit code: 1 for a finding as bad as this, 3 where something stayed open, else 0.
    pub(crate) fn code(&self, fail_on: Severity) -> u8 {
        let bad = |check: &CheckReport| check.result == Ending::Findings && check.severity >= fail_on;
        let open = |check: &CheckReport| check.result == Ending::Failed || check.open;
        if self.checks.iter().any(bad) {
            1
        } else if self.checks.iter().any(open) {
            crate::exit::UNDETERMINED
        } else {
            0
        }
    }
}

fn one(check: &Check, view: &View<'_>, suppressions: &[Suppression], summary: &mut Summary) -> CheckReport {
    let judged = check.judge(view);
    let mut report = CheckReport {
        code: check.code,
        category: check.category,
        title: check.title,
        severity: check.severity,
        result: Ending::Passed,
        reason: None,
        open: false,
        findings: Vec::new(),
        suppressed: 0,
        gaps: judged.gaps,
        docs: check.docs(),
    };
    match judged.outcome {
        Outcome::Passed => {}
        Outcome::Findings { findings } => {
            let asked = findings
                .into_iter()
                .filter(|finding| view.is_asked_for(&finding.object));
            let (hidden, mut shown): (Vec<_>, Vec<_>) =
                asked.partition(|finding| suppressions.iter().any(|one| one.covers(check, finding)));
            shown.sort_by(|a, b| (&a.object, &a.problem).cmp(&(&b.object, &b.problem)));
            report.suppressed = hidden.len();
            if !shown.is_empty() {
                report.result = Ending::Findings;
            }
            report.findings = shown;
        }
        Outcome::Skipped { why, open } => {
            report.result = Ending::Skipped;
            report.reason = Some(why);
            report.open = open;
        }
        Outcome::Failed { why } => {
            report.result = Ending::Failed;
            report.reason = Some(why);
        }
    }
    summary.count(&report);
    report
}

impl Summary {
    fn count(&mut self, check: &CheckReport) {
        self.suppressed += check.suppressed;
        match (check.result, check.severity) {
            (Ending::Passed, _) => self.passed += 1,
            (Ending::Skipped, _) => self.skipped += 1,
            (Ending::Failed, _) => self.failed += 1,
            (Ending::Findings, Severity::Error) => self.errors += check.findings.len(),
            (Ending::Findings, Severity::Warning) => self.warnings += check.findings.len(),
            (Ending::Findings, Severity::Info) => self.infos += check.findings.len(),
        }
    }
}
