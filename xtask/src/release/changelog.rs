// SPDX-License-Identifier: Apache-2.0
//! What changed, out of the changelog.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::VERSION;

/// One version's part of the changelog.
pub(super) struct Changes {
    /// With a heading.
    pub(super) text: String,
    /// Each as its kind, such as `added`, and its words.
    pub(super) each: Vec<(String, String)>,
}

/// This version's changes; in a dry run those that no version has yet will do.
pub(super) fn read(workspace: &Path, dry_run: bool) -> Result<Changes> {
    let text = fs::read_to_string(workspace.join("CHANGELOG.md")).context("cannot read CHANGELOG.md")?;
    if let Some(changes) = of(&text, VERSION) {
        return Ok(changes);
    }
    match of(&text, "Unreleased").filter(|_| dry_run) {
        Some(changes) => Ok(changes),
        None => {
            bail!("CHANGELOG.md has no section `## [{VERSION}]`: name what is unreleased after this version")
        }
    }
}

fn of(changelog: &str, version: &str) -> Option<Changes> {
    let heading = format!("## [{version}]");
    let mut lines = changelog.lines().skip_while(|line| !line.starts_with(&heading));
    let mut text = format!("{}\n", lines.next()?);
    let mut each: Vec<(String, String)> = Vec::new();
    let mut kind = String::new();
    for line in lines.take_while(|line| !line.starts_with("## ")) {
        text.push_str(line);
        text.push('\n');
        if let Some(heading) = line.strip_prefix("### ") {
            kind = heading.to_lowercase();
        } else if let Some(words) = line.strip_prefix("- ") {
            each.push((kind.clone(), words.to_owned()));
        } else if let (Some((_, words)), true) = (each.last_mut(), line.starts_with("  ")) {
            words.push(' ');
            words.push_str(line.trim());
        }
    }
    Some(Changes {
        text: text.trim_end().to_owned() + "\n",
        each,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_s_changes_end_where_the_next_begins() {
        let text = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- one\n  and more\n- two\n\n### Fixed\n- three\n\n\
                    ## [0.0.9] - 2026\n\n- old\n";
        let changes = of(text, "Unreleased").unwrap();
        assert!(changes.text.starts_with("## [Unreleased]\n") && changes.text.ends_with("- three\n"));
        let each: Vec<(&str, &str)> = changes
            .each
            .iter()
            .map(|(kind, words)| (kind.as_str(), words.as_str()))
            .collect();
        assert_eq!(
            each,
            [("added", "one and more"), ("added", "two"), ("fixed", "three")]
        );
        assert_eq!(of(text, "0.0.9").unwrap().each.len(), 1);
        assert!(of(text, "0.1.0").is_none());
    }
}
