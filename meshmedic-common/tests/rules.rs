// SPDX-License-Identifier: Apache-2.0
//! The rules of "Do no harm" as users read them, against the reasons that the code gives.

use std::path::Path;

use meshmedic_common::policy::Withheld;

fn page() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/repair-safety.md");
    std::fs::read_to_string(page).expect("the page is there")
}

/// The rows of the tables in `docs/repair-safety.md`: the rule under which each stands, and its reason.
fn documented() -> Vec<(u8, String)> {
    let (mut rule, mut rows) = (0, Vec::new());
    for line in page().lines() {
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
    for rule in 1..=11 {
        assert!(
            all.iter().any(|(number, _)| *number == rule),
            "rule {rule} gives no reason"
        );
    }
}

/// The sources of every crate that tests something.
fn sources() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<_> = ["meshmedic-common", "meshmedic-agent", "meshmedic-cli", "xtask"]
        .iter()
        .map(|folder| root.join(folder))
        .collect();
    let mut sources = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources += &std::fs::read_to_string(&path).expect("it is text");
            }
        }
    }
    sources
}

/// Whether a test has this name: by itself, of a runtime, of a property, on a whole node, or one that needs no harness.
fn is_a_test(sources: &str, name: &str) -> bool {
    let heads = [
        "#[test]\n",
        "#[test]\n    ",
        "]\nasync ",
        "cargo xtask test --real`\"]\n",
        "const NAME: &str = \"",
    ];
    let [plain, inner, asynchronous, of_a_node, bare] = heads;
    [
        format!("{plain}fn {name}("),
        format!("{inner}fn {name}("),
        format!("{asynchronous}fn {name}("),
        format!("{of_a_node}fn {name}("),
        format!("{bare}{name}\";"),
    ]
    .iter()
    .any(|test| sources.contains(test))
}

/// What is named between backticks after "Tested by".
fn named_tests(section: &str) -> Vec<&str> {
    let after = section.split("Tested by").skip(1);
    let lists = after.map(|rest| rest.split('.').next().unwrap_or(rest));
    lists
        .flat_map(|list| list.split('`').skip(1).step_by(2))
        .collect()
}

#[test]
fn every_rule_names_tests_that_there_are() {
    let (page, sources) = (page(), sources());
    let mut rules = 0;
    for section in page.split("\n## Rule ").skip(1) {
        rules += 1;
        let number = section.split(':').next().unwrap_or_default();
        let section = section.split("\n## ").next().unwrap_or_default();
        assert!(!named_tests(section).is_empty(), "rule {number} names no test");
    }
    assert_eq!(rules, 11);
    for name in named_tests(&page) {
        assert!(is_a_test(&sources, name), "there is no test {name}");
    }
}

/// Each threat of which `SECURITY.md` promises something names the tests that hold it, but those that promise nothing.
#[test]
fn every_threat_names_tests_that_there_are() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../SECURITY.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let sources = sources();
    let (_, model) = page
        .split_once("\n## The threat model")
        .expect("there is a threat model");
    let model = model.split("\n## ").next().unwrap_or_default();
    for section in model.split("\n### ").skip(1) {
        let title = section.lines().next().unwrap_or_default();
        let named = named_tests(section);
        let promises_nothing = ["Root on the node", "Where to look"].contains(&title);
        assert!(promises_nothing || !named.is_empty(), "{title}: no test is named");
        for name in named {
            assert!(is_a_test(&sources, name), "{title}: there is no test {name}");
        }
    }
}
