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
