// SPDX-License-Identifier: Apache-2.0
//! Where this workspace is, and cargo in it.

use std::env;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

/// The folder that holds this workspace.
pub(crate) fn workspace_root() -> anyhow::Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask has no parent folder")
}

/// Cargo as it was called, in the workspace, with colours if ours are seen.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    if io::stderr().is_terminal() && env::var_os("CARGO_TERM_COLOR").is_none() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    command
}

/// Copies a program without its symbols, which are most of what was built for tests.
pub(crate) fn strip(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("strip").arg("-o").args([to, from]).status();
    let status = status.context("cannot run strip, which whoever links has")?;
    ensure!(status.success(), "cannot strip {} ({status})", from.display());
    Ok(())
}

/// Copies the program as `cargo test` built it, without its symbols.
#[cfg(test)]
pub(crate) fn copy_program(to: &Path) {
    let own = env::current_exe().unwrap();
    let built = own.parent().and_then(Path::parent).unwrap().join("meshmedic");
    assert!(
        built.is_file(),
        "{} is missing: cargo build --package meshmedic-cli",
        built.display()
    );
    strip(&built, to).unwrap();
}
