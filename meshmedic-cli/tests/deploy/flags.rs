// SPDX-License-Identifier: Apache-2.0
//! The flags of `meshmedic agent`, as it tells them.

use std::collections::BTreeMap;
use std::process::Command;

pub(crate) fn help() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_meshmedic"))
        .args(["agent", "--help"])
        .output()
        .expect("the binary was built beside this test");
    String::from_utf8(output.stdout).expect("what we write is text")
}

/// Every flag that a variable can set, with the default, as the chart names them: `autoRepair` is `--auto-repair`.
pub(crate) fn flags() -> BTreeMap<String, Option<String>> {
    let mut flags = BTreeMap::new();
    let mut flag = None;
    for line in help().lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("--") {
            let name = rest.split([' ', '[', '=']).next().unwrap();
            flag = Some(camel(name));
        }
        let Some(name) = &flag else { continue };
        if line.starts_with("[env: ") {
            flags.insert(name.clone(), None);
        } else if let Some(default) = line.strip_prefix("[default: ") {
            let default = default.strip_suffix(']').unwrap_or(default);
            if let Some(found) = flags.get_mut(name) {
                *found = Some(default.to_owned());
            }
        }
    }
    assert!(flags.len() > 20, "{flags:?}");
    flags
}

fn camel(name: &str) -> String {
    let mut words = name.split('-');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at(1);
        camel += &first.to_uppercase();
        camel += rest;
    }
    camel
}

/// `docs/agent.md` has a row for each flag, with its default.
#[test]
fn every_flag_is_described_with_its_default() {
    let page = std::fs::read_to_string(crate::files::root().join("docs/agent.md")).unwrap();
    let described: BTreeMap<String, String> = page
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            assert!(cells.len() == 5 && !cells[3].is_empty(), "{line}");
            (
                camel(cells[1].trim_matches('`').trim_start_matches('-')),
                cells[2].trim_matches('`').to_owned(),
            )
        })
        .collect();
    let mut flags: BTreeMap<String, String> = flags()
        .into_iter()
        .map(|(flag, default)| (flag, default.unwrap_or_default()))
        .collect();
    // What it does without one is told in words.
    flags.insert("kubeconfig".to_owned(), String::new());
    assert_eq!(described, flags);
}
