// SPDX-License-Identifier: Apache-2.0
//! `meshmedic man-pages`: writes the manual from the same words as `--help`, for `cargo xtask docs` and for packagers.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::output;

/// Arguments of `meshmedic man-pages`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder to write them to; it is made if it is not there
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Writes one page for each command that is shown.
pub(crate) fn run(args: &Args, command: clap::Command) -> anyhow::Result<u8> {
    let folder = args.folder.display();
    std::fs::create_dir_all(&args.folder).with_context(|| format!("cannot make the folder {folder}"))?;
    clap_mangen::generate_to(command, &args.folder).with_context(|| format!("cannot write to {folder}"))?;
    output::line(&format!("The pages are in {folder}: man {folder}/meshmedic.1"))?;
    Ok(0)
}
