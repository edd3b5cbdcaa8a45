// SPDX-License-Identifier: Apache-2.0
//! The report as SARIF 2.1.0, for tools that collect findings of all kinds.

use serde_json::{Value, json};

use crate::doctor::{CheckReport, DoctorReport, Ending, Severity};

/// The whole document.
pub(super) fn document(report: &DoctorReport) -> Value {
    let rules: Vec<Value> = report.checks.iter().map(rule).collect();
    let results: Vec<Value> = report.checks.iter().enumerate().flat_map(results).collect();
    let open = |check: &&CheckReport| check.result == Ending::Failed || check.open;
    let notes: Vec<Value> = report.checks.iter().filter(open).map(note).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "meshmedic doctor", "version": env!("CARGO_PKG_VERSION"),
                "informationUri": env!("CARGO_PKG_REPOSITORY"), "rules": rules,
            } },
            "invocations": [{
                "executionSuccessful": true, "startTimeUtc": report.taken.to_string(),
                "toolExecutionNotifications": notes,
            }],
            "results": results,
        }],
    })
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    }
}

fn rule(check: &CheckReport) -> Value {
    json!({
        "id": check.code, "shortDescription": { "text": check.title }, "helpUri": check.docs,
        "defaultConfiguration": { "level": level(check.severity) },
    })
}

fn results((at, check): (usize, &CheckReport)) -> impl Iterator<Item = Value> + use<'_> {
    check.findings.iter().map(move |finding| {
        let object = &finding.object;
        let text = [format!("{object}: {}", finding.problem), finding.effect.clone()];
        let text = text
            .into_iter()
            .chain(finding.evidence.iter().map(|seen| format!("seen: {seen}")));
        let text: Vec<String> = text.filter(|line| !line.is_empty()).collect();
        let uri = format!(
            "{}/{}/{}",
            object.namespace.as_deref().unwrap_or("cluster"),
            object.kind,
            object.name
        );
        json!({
            "ruleId": check.code, "ruleIndex": at, "level": level(check.severity),
            "message": { "text": text.join("\n") },
            // An object is in no file: its address is what collectors tell findings apart by.
            "locations": [{
                "physicalLocation": { "artifactLocation": { "uri": uri } },
                "logicalLocations": [{ "fullyQualifiedName": object.to_string(), "kind": "resource" }],
            }],
        })
    })
}

/// What could not be looked at.
fn note(check: &CheckReport) -> Value {
    json!({
        "level": "warning", "associatedRule": { "id": check.code },
        "message": { "text": check.reason.as_deref().unwrap_or_default() },
    })
}
