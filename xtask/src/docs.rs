// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask docs`: the manual pages, from the words of `--help`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Arguments of `cargo xtask docs`.
#[derive(clap::Args)]
pub(crate) struct DocsArgs {
    /// Where to write the pages [default: man in the target folder]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Builds the command, which knows its own words, and has it write them.
pub(crate) fn run(args: &DocsArgs) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let root = root.context("xtask lies in the workspace")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let out = args.out.clone().unwrap_or_else(|| target.join("man"));
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--package", "meshmedic-cli", "--", "man-pages"])
        .arg(&out)
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the manual pages could not be written");
    Ok(())
}
