// SPDX-License-Identifier: Apache-2.0
//! Builds the program for the image: for which target, and so that no path of this machine gets into it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::ebpf::target_dir;
use crate::workspace::cargo;

/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\x1f";

/// The target to build for, and why it is not the static one if it is not.
pub(super) struct Choice {
    pub(super) target: String,
    pub(super) why_not_static: Option<String>,
}

/// The static target of this machine's processor, if there is everything to build for it; else the machine's own.
pub(super) fn choose() -> Choice {
    let machine = env::consts::ARCH;
    let musl = format!("{machine}-unknown-linux-musl");
    let why_not_static = if !has_std(&musl) {
        Some(format!(
            "the target {musl} is not installed: rustup target add {musl}"
        ))
    } else if !has_musl_compiler(machine, &musl) {
        Some(
            "no C compiler for musl was found, which one dependency needs: apt install musl-tools".to_owned(),
        )
    } else {
        None
    };
    Choice {
        target: match why_not_static {
            None => musl,
            Some(_) => format!("{machine}-unknown-linux-gnu"),
        },
        why_not_static,
    }
}

/// Whether the compiler has the standard library of a target.
fn has_std(target: &str) -> bool {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .output();
    output.is_ok_and(|output| {
        let folder = String::from_utf8_lossy(&output.stdout);
        output.status.success() && fs::read_dir(folder.trim()).is_ok_and(|mut files| files.next().is_some())
    })
}

fn has_musl_compiler(machine: &str, target: &str) -> bool {
    // Alpine's own compiler is one already.
    cfg!(target_env = "musl")
        || env::var_os(format!("CC_{}", target.replace('-', "_"))).is_some()
        || on_path("musl-gcc")
        || on_path(&format!("{machine}-linux-musl-gcc"))
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Builds and strips the program and says where it lies.
pub(super) fn build(root: &Path, target: &str, profile: &str) -> Result<PathBuf> {
    // Apart from other builds, which do not know the flags below and would be made anew each time.
    let folder = target_dir(root).join("image/build");
    let status = cargo(root)
        .args([
            "build",
            "--locked",
            "--package",
            "meshmedic-cli",
            "--bin",
            "meshmedic",
        ])
        .args(["--profile", profile, "--target", target])
        .arg("--config")
        .arg(format!("profile.{profile}.strip=\"symbols\""))
        .env("CARGO_TARGET_DIR", &folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root)?)
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the program does not build for {target}");
    let profile = if profile == "dev" { "debug" } else { profile };
    Ok(folder.join(target).join(profile).join("meshmedic"))
}

/// The flags that are set already, and those that write paths as everybody has them: panics tell where they
/// happened, so the same sources would give another program in another folder.
fn flags(root: &Path) -> Result<OsString> {
    let mut flags = match env::var_os("CARGO_ENCODED_RUSTFLAGS") {
        Some(flags) => flags,
        None => env::var("RUSTFLAGS")
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(SEPARATOR)
            .into(),
    };
    let mut remap = |from: &Path, to: &str| {
        if !flags.is_empty() {
            flags.push(SEPARATOR);
        }
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    };
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")));
    let sources = cargo_home
        .context("neither CARGO_HOME nor the home folder is known")?
        .join("registry/src");
    // One folder for each registry or mirror, named after its address.
    if let Ok(registries) = fs::read_dir(&sources) {
        for registry in registries {
            let registry = registry.with_context(|| format!("cannot read {}", sources.display()))?;
            remap(&registry.path(), "crates");
        }
    }
    remap(root, "meshmedic");
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_static_target_is_chosen_only_where_it_can_be_built() {
        let own = format!("{}-unknown-linux-gnu", env::consts::ARCH);
        assert!(has_std(&own) || cfg!(target_env = "musl"));
        assert!(!has_std("x86_64-unknown-nowhere"));
        let choice = choose();
        match choice.why_not_static {
            None => assert!(has_std(&choice.target) && choice.target.ends_with("-musl")),
            Some(why) => {
                assert_eq!(choice.target, own);
                assert!(
                    why.contains("rustup target add") || why.contains("musl-tools"),
                    "{why}"
                );
            }
        }
    }

    #[test]
    fn no_folder_of_this_machine_keeps_its_name() {
        let flags = flags(Path::new("/some/clone")).unwrap();
        let flags = flags.to_string_lossy();
        let remaps: Vec<&str> = flags
            .split(SEPARATOR)
            .filter_map(|flag| flag.strip_prefix("--remap-path-prefix="))
            .collect();
        assert!(remaps.contains(&"/some/clone=meshmedic"), "{remaps:?}");
        // Where these tests run, crates were fetched.
        assert!(
            remaps
                .iter()
                .any(|remap| remap.contains("registry/src/") && remap.ends_with("=crates")),
            "{remaps:?}"
        );
    }
}
