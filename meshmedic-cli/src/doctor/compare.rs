// SPDX-License-Identifier: Apache-2.0
//! Two snapshots beside each other: what is new, and what is gone.

use std::collections::BTreeSet;

use jiff::Timestamp;
use meshmedic_common::report::API_VERSION;
use serde::Serialize;

use super::finding::{Finding, ObjectRef};
use super::report::{CheckReport, DoctorReport, Ending};

/// The kind of [`Comparison`].
const KIND: &str = "DoctorComparison";

/// What became of the findings of an earlier snapshot.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Comparison {
    api_version: &'static str,
    kind: &'static str,
    /// When the cluster was as the earlier one says.
    pub(crate) against: Timestamp,
    /// The later report, with those findings alone that the earlier one has not.
    pub(crate) new: DoctorReport,
    /// What the earlier one found, and the later one looked for in vain.
    pub(crate) gone: Vec<Gone>,
    /// What the earlier one found, and the later one did not look for, by their codes.
    pub(crate) not_looked_for: Vec<&'static str>,
    /// How many findings both have.
    pub(crate) same: usize,
}

/// A finding that is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Gone {
    pub(crate) code: &'static str,
    pub(crate) object: ObjectRef,
    pub(crate) problem: String,
}

/// What makes two findings the same: the evidence may have moved on.
type Key<'f> = (&'static str, &'f ObjectRef, &'f str);

fn keys(report: &DoctorReport) -> BTreeSet<Key<'_>> {
    let checks = report.checks.iter();
    checks
        .flat_map(|check| check.findings.iter().map(|finding| key(check, finding)))
        .collect()
}

fn key<'f>(check: &CheckReport, finding: &'f Finding) -> Key<'f> {
    (check.code, &finding.object, &finding.problem)
}

impl Comparison {
    /// Compares a report with an earlier one.
    pub(crate) fn of(later: DoctorReport, earlier: &DoctorReport) -> Self {
        let known = keys(earlier);
        let now = keys(&later);
        let looked_for = |code: &str| {
            let check = later.checks.iter().find(|check| check.code == code);
            check.is_some_and(|check| matches!(check.result, Ending::Passed | Ending::Findings))
        };
        let (lost, open): (Vec<Key<'_>>, Vec<Key<'_>>) =
            known.difference(&now).partition(|(code, ..)| looked_for(code));
        let open: BTreeSet<&'static str> = open.into_iter().map(|(code, ..)| code).collect();
        let gone = lost.into_iter().map(|(code, object, problem)| Gone {
            code,
            object: object.clone(),
            problem: problem.to_owned(),
        });
        let (gone, same) = (gone.collect(), now.intersection(&known).count());
        drop(now);
        Self {
            api_version: API_VERSION,
            kind: KIND,
            against: earlier.taken,
            gone,
            not_looked_for: open.into_iter().collect(),
            same,
            new: later.only(|check, finding| !known.contains(&key(check, finding))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::checks;
    use crate::doctor::fixtures::{had, healthy};
    use crate::doctor::snapshot::{Part, Snapshot};

    fn judge(snapshot: &Snapshot) -> DoctorReport {
        let codes = ["MM0201", "MM0301", "MM0409"];
        DoctorReport::judge(snapshot, codes.into_iter().filter_map(checks::by_code), &[])
    }

    fn unready(snapshot: &mut Snapshot, letter: &str) {
        snapshot.with_pod("istio-system", &format!("ztunnel-{letter}"), |pod| {
            pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "False".to_owned();
        });
    }

    fn injected(snapshot: &mut Snapshot) {
        snapshot.with_namespace("shop", |namespace| {
            let labels = namespace.metadata.labels.as_mut().unwrap();
            labels.insert("istio-injection".to_owned(), "enabled".to_owned());
        });
    }

    #[test]
    fn what_is_new_what_is_gone_and_what_stayed_are_told_apart() {
        let (mut earlier, mut later) = (healthy(), healthy());
        unready(&mut earlier, "a");
        unready(&mut earlier, "b");
        injected(&mut earlier);
        unready(&mut later, "b");
        unready(&mut later, "c");
        let compared = Comparison::of(judge(&later), &judge(&earlier));
        let new: Vec<String> = compared
            .new
            .checks
            .iter()
            .flat_map(|check| check.findings.iter().map(|finding| finding.object.to_string()))
            .collect();
        assert_eq!(new, ["Node node-c"]);
        assert_eq!(compared.new.summary.errors, 1);
        let gone: Vec<String> = compared.gone.iter().map(|gone| gone.object.to_string()).collect();
        assert_eq!(gone, ["Node node-a", "Namespace shop"]);
        assert_eq!(compared.same, 1);
        let none = Comparison::of(judge(&later), &judge(&later));
        assert_eq!((none.new.summary.errors, none.gone.len(), none.same), (0, 0, 2));
        assert_eq!(none.new.checks[0].result, Ending::Passed);
    }

    #[test]
    fn what_was_not_looked_for_is_not_gone() {
        let (mut earlier, mut later) = (healthy(), healthy());
        injected(&mut earlier);
        later.namespaces = Part::failed("no answer");
        had(&mut later.events).clear();
        let compared = Comparison::of(judge(&later), &judge(&earlier));
        assert_eq!(compared.gone, []);
        assert_eq!(compared.not_looked_for, ["MM0409"]);
    }
}
