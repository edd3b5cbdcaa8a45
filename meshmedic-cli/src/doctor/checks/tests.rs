// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeSet;

use super::*;
use crate::doctor::check::Outcome;
use crate::doctor::fixtures::healthy;
use crate::doctor::view::View;

const GUIDE: &str = include_str!("../../../../docs/troubleshooting.md");

#[test]
fn codes_are_unique_and_in_order_and_of_their_category() {
    let codes: Vec<&str> = all().map(|check| check.code).collect();
    let mut sorted = codes.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(codes, sorted);
    for check in all() {
        let number = check.code.strip_prefix(check.category.prefix());
        let number = number.unwrap_or_else(|| panic!("{} is not of {:?}", check.code, check.category));
        assert!(
            number.len() == 2 && number.bytes().all(|b| b.is_ascii_digit()),
            "{}",
            check.code
        );
    }
}

#[test]
fn each_code_has_its_section_and_each_section_its_code() {
    let known: BTreeSet<&str> = all().map(|check| check.code).collect();
    let sections = GUIDE.lines().filter_map(|line| line.strip_prefix("### MM"));
    let sections: Vec<String> = sections.map(|number| format!("MM{number}")).collect();
    let explained: BTreeSet<&str> = sections.iter().map(String::as_str).collect();
    assert_eq!(explained, known);
    assert_eq!(sections.len(), explained.len(), "a section stands twice");
    for check in all() {
        let head = format!("### {}\n\n**{}**", check.code, check.title);
        assert!(
            GUIDE.contains(&head),
            "the section does not begin with the title: {head}"
        );
    }
}

#[test]
fn the_guide_lists_the_checks_as_they_are() {
    let row = |check: &Check| {
        let (code, link) = (check.code, check.code.to_lowercase());
        format!(
            "| [{code}](#{link}) | {} | {} |",
            check.severity.as_str(),
            check.title
        )
    };
    let rows: Vec<String> = all().map(row).collect();
    let listed: Vec<&str> = GUIDE.lines().filter(|line| line.starts_with("| [MM")).collect();
    assert_eq!(listed, rows, "the list is stale: run `cargo xtask docs`");
}

#[test]
fn every_code_that_the_guide_names_exists() {
    let known: BTreeSet<&str> = all().map(|check| check.code).collect();
    let words = GUIDE.split(|c: char| !c.is_ascii_alphanumeric());
    let is_code = |word: &&str| {
        let number = word.strip_prefix("MM").unwrap_or_default();
        number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit())
    };
    for code in words.filter(is_code) {
        assert!(known.contains(code), "{code} is in the guide and no check");
    }
}

#[test]
fn a_healthy_mesh_passes_every_check() {
    let snapshot = healthy();
    let view = View::new(&snapshot);
    for check in all() {
        let judged = check.judge(&view);
        let missing =
            matches!(&judged.outcome, Outcome::Skipped { why, open: false } if why.contains("not installed"));
        assert!(
            missing || judged.outcome == Outcome::Passed,
            "{}: {judged:#?}",
            check.code
        );
    }
}

#[test]
fn where_nothing_is_known_every_check_says_why() {
    let snapshot = crate::doctor::snapshot::Snapshot::new(healthy().taken, Default::default());
    let view = View::new(&snapshot);
    for check in all() {
        assert!(!check.needs.is_empty(), "{} needs nothing", check.code);
        let judged = check.judge(&view);
        assert!(
            matches!(judged.outcome, Outcome::Skipped { .. }),
            "{}: {judged:?}",
            check.code
        );
    }
}

#[test]
fn what_a_scan_and_an_agent_name_is_the_check_of_that_finding() {
    use meshmedic_common::verdict::State;
    for state in State::ALL {
        assert_eq!(state.code().is_some(), state.is_finding());
        assert!(state.code().is_none_or(|code| by_code(code).is_some()), "{state}");
    }
}

#[test]
fn every_known_fault_has_a_check_or_a_reason_why_not() {
    let (_, known) = GUIDE.split_once("## Known faults of meshes").unwrap();
    let rows: Vec<&str> = known
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| what"))
        .collect();
    assert!(rows.len() > 60, "rows are missing: {}", rows.len());
    for row in rows {
        let answer = row.rsplit("| ").next().unwrap().trim_end_matches(" |");
        let named = answer.contains("MM") || answer.contains("`meshmedic ");
        let reason = ["no check: ", "no check yet: ", "not repeated here: "]
            .iter()
            .any(|why| answer.starts_with(why));
        assert!(named || reason, "{row}");
    }
}

#[test]
fn the_role_of_those_who_run_it_covers_every_kind_that_is_read() {
    let roles = include_str!("../../../../deploy/kustomize/cli/roles.yaml").split("\n---\n");
    let roles = roles.map(|role| serde_saphyr::from_str::<serde_json::Value>(role).unwrap());
    let role = roles
        .filter(|role| role["metadata"]["name"] == "meshmedic-cli-doctor")
        .last()
        .unwrap();
    let granted = |group: &str, resource: &str| {
        role["rules"].as_array().unwrap().iter().any(|rule| {
            let has =
                |field: &str, value: &str| rule[field].as_array().unwrap().iter().any(|one| one == value);
            has("apiGroups", group) && has("resources", resource) && has("verbs", "list")
        })
    };
    for kind in crate::doctor::snapshot::CUSTOM_KINDS {
        assert!(
            granted(kind.group, kind.plural),
            "{} may not be listed",
            kind.key()
        );
    }
}
