// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask docs`: what the code knows best, written down for people: the commands, the metrics, the manual pages.

pub(crate) mod book;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, ensure};
use meshmedic_agent::status::metrics::{Described, Metrics};

use crate::workspace::{cargo, workspace_root};

/// Arguments of `cargo xtask docs`.
#[derive(clap::Args)]
pub(crate) struct DocsArgs {
    /// Where to write the manual pages [default: man in the target folder]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// The page of metrics; all but its table is written by hand.
const METRICS: &str = "docs/metrics.md";
const CLI: &str = "docs/cli.md";
/// The page of doctor's checks; their titles and their list come from the checks.
const CHECKS: &str = "docs/troubleshooting.md";
const CHECKS_BEGIN: &str = "<!-- checks: written by `cargo xtask docs` from the checks themselves -->\n";
const CHECKS_END: &str = "<!-- end of checks -->\n";
const BEGIN: &str = "<!-- metrics: written by `cargo xtask docs` from the agent's own words -->\n";
const END: &str = "<!-- end of metrics -->\n";

/// Builds the command, which knows its own words, and has it write them.
pub(crate) fn run(args: &DocsArgs) -> anyhow::Result<()> {
    let root = workspace_root()?;
    let page = meshmedic(root, &["cli-page".as_ref()])?;
    write(&root.join(CLI), &page)?;
    let metrics = root.join(METRICS);
    let old = fs::read_to_string(&metrics).with_context(|| format!("cannot read {METRICS}"))?;
    write(&metrics, &with_table(&old)?)?;
    let checks = meshmedic(root, &["doctor", "--list", "-o", "json"].map(Path::new))?;
    let checks: Vec<Check> = serde_json::from_str(&checks).context("doctor lists its checks otherwise")?;
    let old = fs::read_to_string(root.join(CHECKS)).with_context(|| format!("cannot read {CHECKS}"))?;
    write(&root.join(CHECKS), &with_checks(&old, &checks)?)?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let out = args.out.clone().unwrap_or_else(|| target.join("man"));
    let said = meshmedic(root, &["man-pages".as_ref(), &out])?;
    crate::test::say(&format!("{CLI}, {METRICS} and {CHECKS} are fresh.\n{said}"))
}

fn meshmedic(root: &Path, arguments: &[&Path]) -> anyhow::Result<String> {
    let mut command: Command = cargo(root);
    command.args(["run", "--quiet", "--package", "meshmedic-cli", "--"]);
    let output = command
        .args(arguments)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "meshmedic could not be asked for its words"
    );
    String::from_utf8(output.stdout).context("meshmedic wrote no text")
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A check, as `meshmedic doctor --list -o json` tells it.
#[derive(serde::Deserialize)]
struct Check {
    code: String,
    severity: String,
    title: String,
}

/// The page of checks with its list and the titles of its sections anew.
fn with_checks(page: &str, checks: &[Check]) -> anyhow::Result<String> {
    let row = |check: &Check| {
        let Check {
            code,
            severity,
            title,
        } = check;
        format!("| [{code}](#{}) | {severity} | {title} |\n", code.to_lowercase())
    };
    let rows: String = checks.iter().map(row).collect();
    let table = format!("| check | severity | what is true when it passes |\n|---|---|---|\n{rows}");
    let mut page = between(page, (CHECKS, CHECKS_BEGIN, CHECKS_END), &table)?;
    for check in checks {
        let head = format!("### {}\n\n", check.code);
        let (before, rest) = page
            .split_once(&head)
            .with_context(|| format!("{CHECKS} has no section {}", check.code))?;
        let rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
        page = format!("{before}{head}**{}**\n{rest}", check.title);
    }
    Ok(page)
}

/// The page with this between its two marks.
fn between(page: &str, (name, begin, end): (&str, &str, &str), text: &str) -> anyhow::Result<String> {
    let parts = page.split_once(begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(end)?;
        Some((before, after))
    });
    let (before, after) = parts.with_context(|| format!("{name} lacks {begin:?} or {end:?}"))?;
    Ok(format!("{before}{begin}\n{text}\n{end}{after}"))
}

/// The page of metrics with the table anew.
fn with_table(page: &str) -> anyhow::Result<String> {
    let metrics = Metrics::new();
    let rows: String = metrics.described().iter().map(row).collect();
    let table = format!("| metric | type | labels | meaning |\n|---|---|---|---|\n{rows}");
    between(page, (METRICS, BEGIN, END), &table)
}

fn row(metric: &Described) -> String {
    let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    let Described { name, kind, help, .. } = metric;
    format!(
        "| `{name}` | {} | {} | {help} |\n",
        kind.as_str(),
        labels.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_metrics_is_fresh() {
        let page = fs::read_to_string(workspace_root().unwrap().join(METRICS)).unwrap();
        assert!(
            with_table(&page).unwrap() == page,
            "{METRICS} is stale: run `cargo xtask docs`"
        );
    }

    #[test]
    fn a_page_without_a_place_for_the_table_is_refused() {
        assert!(with_table("# Metrics\n").is_err());
    }

    #[test]
    fn a_check_without_a_section_is_refused_and_titles_are_written_anew() {
        let checks =
            [("MM0101", "istiod is ready"), ("MM0102", "every replica is")].map(|(code, title)| Check {
                code: code.to_owned(),
                severity: "error".to_owned(),
                title: title.to_owned(),
            });
        let list = format!("{CHECKS_BEGIN}old\n{CHECKS_END}");
        let page =
            format!("{list}\n### MM0101\n\n**stale**\n\nWords.\n\n### MM0102\n\n**every replica is**\n");
        let fresh = with_checks(&page, &checks).unwrap();
        assert!(
            fresh.contains("| [MM0101](#mm0101) | error | istiod is ready |"),
            "{fresh}"
        );
        assert!(
            fresh.contains("### MM0101\n\n**istiod is ready**\n\nWords.\n"),
            "{fresh}"
        );
        assert!(!fresh.contains("stale") && !fresh.contains("old"), "{fresh}");
        assert_eq!(with_checks(&fresh, &checks).unwrap(), fresh);
        assert!(with_checks(&list, &checks).is_err());
    }
}
