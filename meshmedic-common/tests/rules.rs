// SPDX-License-Identifier: Apache-2.0
//! The rules of "Do no harm" as users read them, against the reasons that the code gives.

use meshmedic_common::policy::Withheld;

/// The rows of the tables in `docs/repairs.md`: the rule under which each stands, and its reason.
fn documented() -> Vec<(u8, String)> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/repairs.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let (mut rule, mut rows) = (0, Vec::new());
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("## Rule ") {
            rule = rest
                .split(':')
                .next()
                .and_then(|number| number.parse().ok())
                .expect("a rule has a number");
        } else if line.starts_with("## ") {
            // What stands behind the rules, such as the flags that go past them, is none of their reasons.
            rule = 0;
        } else if let Some(rest) = line.strip_prefix("| `").filter(|_| rule > 0) {
            let cells: Vec<&str> = rest.split('|').map(str::trim).collect();
            assert!(
                cells.len() == 4 && cells[1..3].iter().all(|cell| !cell.is_empty()),
                "{line}"
            );
            rows.push((rule, cells[0].trim_end_matches('`').to_owned()));
        }
    }
    rows
}

#[test]
fn every_reason_is_explained_under_its_rule_and_no_other() {
    let mut documented = documented();
    let mut all: Vec<(u8, String)> = Withheld::ALL
        .iter()
        .map(|why| (why.rule(), why.as_str().to_owned()))
        .collect();
    documented.sort();
    all.sort();
    assert_eq!(documented, all);
    for rule in 1..=10 {
        assert!(
            all.iter().any(|(number, _)| *number == rule),
            "rule {rule} gives no reason"
        );
    }
}
