// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask lines`: how many lines of Rust each room has that ship or help to build, without tests.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::workspace::workspace_root;

/// Folders of sources, and the room under which each is counted.
const ROOMS: [&str; 6] = [
    "meshmedic-common/src",
    "meshmedic-ebpf/src",
    "meshmedic-agent/src",
    "meshmedic-cli/src",
    "xtask/src",
    "xtask/lab/src",
];
/// Whatever is named like this is a test, or serves tests alone.
const TESTS: [&str; 6] = [
    "tests",
    "tests.rs",
    "testing.rs",
    "simulation",
    "simulation.rs",
    "fixtures",
];

/// Counts and prints.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = workspace_root()?;
    let mut counts = BTreeMap::new();
    for room in ROOMS {
        let count = folder(&root.join(room)).with_context(|| format!("counting {room}"))?;
        counts.insert(room, count);
    }
    let total: usize = counts.values().sum();
    let rows = counts.iter().map(|(room, count)| format!("{count:>7}  {room}\n"));
    let text = rows.collect::<String>() + &format!("{total:>7}  together\n");
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn folder(path: &Path) -> std::io::Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        if TESTS.iter().any(|test| name == *test) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            count += folder(&entry.path())?;
        } else if entry.path().extension().is_some_and(|end| end == "rs") {
            count += lines(&std::fs::read_to_string(entry.path())?);
        }
    }
    Ok(count)
}

/// The lines of a file up to its tests, comments and blank lines included.
fn lines(text: &str) -> usize {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().count()
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn tests_at_the_end_of_a_file_do_not_count() {
        assert_eq!(lines("a\nb\n\n#[cfg(test)]\nmod tests {\n    c\n}\n"), 3);
        assert_eq!(lines("a\nb\n"), 2);
    }
}
