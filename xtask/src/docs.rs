// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask docs`: what the code knows best, written down for people: the commands, the metrics, the manual pages.

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
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let out = args.out.clone().unwrap_or_else(|| target.join("man"));
    let said = meshmedic(root, &["man-pages".as_ref(), &out])?;
    crate::test::say(&format!("{CLI} and {METRICS} are fresh.\n{said}"))
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

/// The page with the table anew.
fn with_table(page: &str) -> anyhow::Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.with_context(|| format!("{METRICS} lacks {BEGIN:?} or {END:?}"))?;
    let metrics = Metrics::new();
    let rows: String = metrics.described().iter().map(row).collect();
    Ok(format!(
        "{before}{BEGIN}\n| metric | type | labels | meaning |\n|---|---|---|---|\n{rows}\n{END}{after}"
    ))
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
}
