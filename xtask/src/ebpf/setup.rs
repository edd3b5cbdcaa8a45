// SPDX-License-Identifier: Apache-2.0
//! Installs what the build of the kernel programs misses, and nothing else.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{
    succeed,
    toolchain::{self, LINKER_SOURCES, LINKER_VERSION, NIGHTLY, Toolchain, Way},
};

pub(super) fn install_missing(root: &Path) -> Result<()> {
    if Toolchain::find(root)?.is_none() {
        // rustup first where apt cannot help: not on Debian, or not as root.
        if apt_can_help() {
            debian(root)?
        } else {
            nightly(root)?
        }
    }
    if toolchain::core_of(Way::Debian).is_some() && !Path::new(toolchain::DEBIAN_CLIPPY).exists() {
        apt(&["rust-web-clippy"])?;
    }
    Ok(())
}

fn apt_can_help() -> bool {
    let root = super::output(Command::new("id").arg("-u")).is_some_and(|id| id == "0");
    root && Path::new("/usr/bin/apt-get").exists()
}

fn debian(root: &Path) -> Result<()> {
    if toolchain::core_of(Way::Debian).is_none() {
        println!("installing Debian's rustc-web");
        apt(&[
            "rustc-web",
            "cargo-web",
            "libstd-rust-web-dev-bpf",
            "rust-web-clippy",
        ])?;
    }
    let version = toolchain::rustc_version(Way::Debian).context("rustc-web does not tell its version")?;
    let llvm = toolchain::llvm_major(&version).context("rustc-web does not tell its LLVM version")?;
    if !Path::new(&format!("/usr/lib/llvm-{llvm}/bin/llvm-objcopy")).exists()
        || !Path::new(&format!("/usr/lib/llvm-{llvm}/bin/llvm-config")).exists()
    {
        println!("installing LLVM {llvm}");
        // bpf-linker links LLVM's libraries, and these link zlib and zstd.
        apt(&[
            &format!("llvm-{llvm}"),
            &format!("llvm-{llvm}-dev"),
            "zlib1g-dev",
            "libzstd-dev",
        ])?;
    }
    if toolchain::linker(root, llvm).is_none() {
        println!("installing bpf-linker {LINKER_VERSION}");
        succeed(
            cargo_install(root, llvm)
                .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
                .env(
                    format!("LLVM_SYS_{llvm}1_PREFIX"),
                    format!("/usr/lib/llvm-{llvm}"),
                )
                .env("RUSTFLAGS", format!("-L native=/usr/lib/llvm-{llvm}/lib")),
        )?;
        check_linker()?;
    }
    Ok(())
}

fn nightly(root: &Path) -> Result<()> {
    println!("installing rustup's {NIGHTLY} with rust-src, and bpf-linker {LINKER_VERSION}");
    let components = [
        "--component",
        "rust-src",
        "--component",
        "clippy",
        "--component",
        "llvm-tools",
    ];
    succeed(
        Command::new("rustup")
            .args(["toolchain", "install", NIGHTLY, "--profile", "minimal"])
            .args(components),
    )
    .context("neither Debian's packages (as root, with apt) nor rustup's nightly can be had")?;
    let version = toolchain::rustc_version(Way::Nightly).context("the nightly does not tell its version")?;
    let llvm = toolchain::llvm_major(&version).context("the nightly does not tell its LLVM version")?;
    if toolchain::linker(root, llvm).is_none() {
        succeed(
            cargo_install(root, llvm)
                .env("RUSTUP_TOOLCHAIN", NIGHTLY)
                .env_remove("RUSTC")
                .env_remove("CARGO"),
        )?;
        check_linker()?;
    }
    Ok(())
}

/// Holds the linker's sources against the digest that is written down: a version can be published anew elsewhere.
fn check_linker() -> Result<()> {
    let caches = toolchain::home("CARGO_HOME", ".cargo").join("registry/cache");
    let name = format!("bpf-linker-{LINKER_VERSION}.crate");
    let registries = fs::read_dir(&caches).with_context(|| format!("cannot list {}", caches.display()))?;
    let mut found = registries.flatten().map(|registry| registry.path().join(&name));
    let sources = found.find(|path| path.is_file()).with_context(|| {
        format!(
            "cargo has installed bpf-linker and keeps no {name} in {}",
            caches.display()
        )
    })?;
    let digest = toolchain::digest(std::slice::from_ref(&sources))
        .with_context(|| format!("cannot read {}", sources.display()))?;
    ensure!(
        digest == LINKER_SOURCES,
        "{} has the digest {digest} and should have {LINKER_SOURCES}: it is not the linker that the kernel programs are \
         built with",
        sources.display()
    );
    Ok(())
}

fn cargo_install(root: &Path, llvm: u32) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root).args([
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
        "--root",
    ]);
    command.arg(toolchain::tools(root, llvm));
    // Its build belongs to no workspace, and flags for this one are not meant for it.
    command
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

fn apt(packages: &[&str]) -> Result<()> {
    let run = |arguments: &[&str]| {
        succeed(
            Command::new("apt-get")
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    run(&["-qq", "update"])?;
    let mut install = vec!["-qq", "install", "--yes", "--no-install-recommends"];
    install.extend(packages);
    run(&install)
}
