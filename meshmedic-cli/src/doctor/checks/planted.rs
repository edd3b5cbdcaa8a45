// SPDX-License-Identifier: Apache-2.0
//! Faults as people make them, after Istio's own documentation: each is found alone and among all others, and once what is
//! printed was done, nothing is left to find.

mod anew;
mod apply;
mod cases;

use std::collections::BTreeSet;

use super::all;
use crate::doctor::check::{Outcome, Severity};
use crate::doctor::finding::Finding;
use crate::doctor::fixtures::{Layout, healthy, production};
use crate::doctor::snapshot::Snapshot;
use crate::doctor::view::View;
use apply::apply;
use cases::Case;

/// All that is found, with the check's code and severity.
fn found(snapshot: &Snapshot) -> Vec<(&'static str, Severity, Finding)> {
    let view = View::new(snapshot);
    let mut found = Vec::new();
    for check in all() {
        if let Outcome::Findings { findings } = check.judge(&view).outcome {
            found.extend(
                findings
                    .into_iter()
                    .map(|finding| (check.code, check.severity, finding)),
            );
        }
    }
    found
}

/// The healthy mesh with a waypoint, and a gateway by which traffic comes in.
fn base() -> Snapshot {
    let mut snapshot = healthy();
    snapshot
        .add_classes()
        .add_waypoint("shop", "wp")
        .add_ingress("istio-system", "public");
    snapshot.label_service("shop", "catalog", "istio.io/use-waypoint", "wp");
    snapshot
}

fn of_case<'f>(found: &'f [(&'static str, Severity, Finding)], case: &Case) -> Vec<&'f Finding> {
    let ours = found
        .iter()
        .filter(|(code, _, finding)| *code == case.code && finding.object.to_string() == case.on);
    ours.map(|(_, _, finding)| finding).collect()
}

#[test]
fn the_mesh_that_faults_are_planted_in_is_well() {
    let found = found(&base());
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_code_has_a_planted_fault() {
    let planted: BTreeSet<&str> = cases::all().map(|case| case.code).collect();
    let known: BTreeSet<&str> = all().map(|check| check.code).collect();
    assert_eq!(planted, known);
}

/// As people read it, short enough for a failure of many.
fn lines(found: &[(&'static str, Severity, Finding)]) -> Vec<String> {
    let line = |(code, _, finding): &(&str, Severity, Finding)| {
        format!("{code} {}: {}", finding.object, finding.problem)
    };
    found.iter().map(line).collect()
}

#[test]
fn a_planted_fault_is_found_alone() {
    let mut wrong = Vec::new();
    for case in cases::all() {
        let mut snapshot = base();
        (case.plant)(&mut snapshot);
        let found = found(&snapshot);
        let ours = of_case(&found, case);
        let strange = found
            .iter()
            .any(|(code, _, _)| *code != case.code && !case.along.contains(code));
        if ours.len() != 1 || strange {
            wrong.push((case.code, case.on, lines(&found)));
        }
        for finding in ours {
            assert!(
                !finding.evidence.is_empty() && !finding.effect.is_empty() && !finding.remedy.is_empty(),
                "{finding:#?}"
            );
            assert!(
                !finding.problem.contains(&finding.object.path()),
                "such findings never fold: {finding:#?}"
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_planted_fault_is_found_among_all_others() {
    let mut snapshot = base();
    for case in cases::all().filter(|case| case.mixes) {
        (case.plant)(&mut snapshot);
    }
    let found = found(&snapshot);
    let mixed = cases::all().filter(|case| case.mixes);
    let missed: Vec<_> = mixed
        .filter(|case| of_case(&found, case).len() != 1)
        .map(|case| (case.code, case.on))
        .collect();
    assert!(missed.is_empty(), "{missed:#?} among {:#?}", lines(&found));
    assert!(
        cases::all().filter(|case| !case.mixes).count() <= 6,
        "nearly all have to stand beside each other"
    );
}

#[test]
fn what_is_printed_helps() {
    let mut left = Vec::new();
    for case in cases::all() {
        let mut snapshot = base();
        (case.plant)(&mut snapshot);
        for (_, _, finding) in found(&snapshot) {
            for remedy in &finding.remedy {
                apply(&mut snapshot, remedy);
            }
        }
        (case.by_hand)(&mut snapshot);
        let found = found(&snapshot);
        if !found.is_empty() {
            left.push((case.code, lines(&found)));
        }
    }
    assert!(left.is_empty(), "left after the remedies: {left:#?}");
}

#[test]
fn clusters_as_people_run_them_are_well() {
    for layout in Layout::ALL {
        let found = found(&production(layout));
        let bad: Vec<_> = found
            .iter()
            .filter(|(_, severity, _)| *severity > Severity::Info)
            .collect();
        assert!(bad.is_empty(), "{layout:?}: {bad:#?}");
    }
}
