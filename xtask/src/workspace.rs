// SPDX-License-Identifier: Apache-2.0
//! Where this workspace is, and cargo in it.

use std::env;
use std::ffi::OsStr;
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
    // What cargo told this program of itself: build scripts that read it are run anew where it is another than before,
    // and with them half of the workspace is compiled anew after each change between `cargo` and `cargo xtask`.
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_a_package(name)) {
        command.env_remove(name);
    }
    if io::stderr().is_terminal() && env::var_os("CARGO_TERM_COLOR").is_none() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    command
}

fn is_of_a_package(name: &OsStr) -> bool {
    let starts = |beginning: &str| name.to_str().is_some_and(|name| name.starts_with(beginning));
    starts("CARGO_PKG_") || starts("CARGO_MANIFEST_")
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::cargo;

    #[test]
    fn a_cargo_of_ours_hears_nothing_of_our_own_package() {
        let command = cargo(Path::new("."));
        let changed: BTreeMap<_, _> = command.get_envs().collect();
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"] {
            assert!(std::env::var_os(name).is_some(), "cargo sets it for tests");
            assert_eq!(changed.get(std::ffi::OsStr::new(name)), Some(&None), "{name}");
        }
    }
}
