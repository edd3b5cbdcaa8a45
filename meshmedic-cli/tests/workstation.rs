// SPDX-License-Identifier: Apache-2.0
//! The command for workstations: on other systems nothing of it is Linux's.

use std::process::Command;

/// What runs on Linux alone.
const LINUX_ONLY: [&str; 7] = [
    "meshmedic-agent",
    "aya",
    "aya-log",
    "aya-obj",
    "btf-rs",
    "netlink-sys",
    "procfs",
];

/// The crates that the command links on a target, by name.
fn linked(target: &str, more: &[&str]) -> Vec<String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "tree",
            "--offline",
            "--package",
            "meshmedic-cli",
            "--edges",
            "normal",
        ])
        .args(["--prefix", "none", "--format", "{p}", "--target", target])
        .args(more)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs these tests");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("names of crates are text");
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn the_command_for_workstations_links_nothing_of_linux() {
    let linux = "x86_64-unknown-linux-gnu";
    let with_node = linked(linux, &[]);
    for name in ["meshmedic-agent", "aya"] {
        assert!(
            with_node.iter().any(|linked| linked == name),
            "{name} is in the agent"
        );
    }
    let lean: [&str; 1] = ["--no-default-features"];
    let none: [&str; 0] = [];
    for (target, more) in [
        ("x86_64-apple-darwin", none.as_slice()),
        ("aarch64-apple-darwin", none.as_slice()),
        ("x86_64-pc-windows-msvc", none.as_slice()),
        (linux, lean.as_slice()),
    ] {
        let linked = linked(target, more);
        assert!(linked.len() > 50, "{target}: {linked:?}");
        for name in LINUX_ONLY {
            assert!(
                !linked.iter().any(|linked| linked == name),
                "{target} links {name}"
            );
        }
    }
}
