// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask ebpf`: builds the kernel programs, and checks that the committed object is theirs.

#![expect(clippy::print_stdout, reason = "a task tells on stdout what it does")]

mod forward;
mod record;
mod setup;
mod symbols;
mod toolchain;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use record::Record;
use toolchain::Toolchain;

const TARGET: &str = "bpfel-unknown-none";

/// What to do with the kernel programs; without a flag they are built and their object is replaced.
#[derive(Args)]
pub(crate) struct EbpfArgs {
    /// Install what is missing for the build: with apt as root, else with rustup
    #[arg(long)]
    setup: bool,
    /// Rebuild, and compare the bytes; another toolchain than the recorded one is an error
    #[arg(long)]
    check: bool,
    /// With --check: where the toolchain is another, run the kernel tests on the rebuilt object instead
    #[arg(long, requires = "check")]
    any_toolchain: bool,
    /// Run clippy on the kernel programs, any warning being an error
    #[arg(long, conflicts_with = "check")]
    clippy: bool,
}

pub(crate) fn run(args: &EbpfArgs) -> Result<()> {
    let root = root()?;
    if args.setup {
        setup::install_missing(&root)?;
    }
    let toolchain = Toolchain::find(&root)?.context(
        "nothing here can build the kernel programs: `cargo xtask ebpf --setup` installs what is missing",
    )?;
    println!("toolchain: {}", toolchain.identity.replace('\n', ", "));
    if args.clippy {
        return clippy(&root, &toolchain);
    }
    if args.check {
        return check(&root, &toolchain, args.any_toolchain);
    }
    let bytes = build(&root, &toolchain, &target_dir(&root).join("ebpf"))?;
    let record = Record::new(&root, &bytes, &toolchain.identity)?;
    let object = root.join(record::OBJECT);
    fs::create_dir_all(object.parent().unwrap_or(&root))?;
    fs::write(&object, &bytes).with_context(|| format!("cannot write {}", object.display()))?;
    record.write(&root)?;
    println!("wrote {} ({} bytes)", record::OBJECT, bytes.len());
    Ok(())
}

/// The workspace that stands beside this crate.
fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask stands in the workspace")?;
    Ok(root.to_owned())
}

/// Where cargo builds.
pub(crate) fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}

/// The stripped object.
fn build(root: &Path, toolchain: &Toolchain, target: &Path) -> Result<Vec<u8>> {
    let mut command = toolchain.cargo(root, target)?;
    command.args([
        "build",
        "--release",
        "--locked",
        "--quiet",
        "--bin",
        "meshmedic",
        "--target",
        TARGET,
    ]);
    command.args(toolchain.build_std());
    succeed(&mut command)?;
    let built = target.join(TARGET).join("release").join("meshmedic");
    let stripped = target.join("meshmedic.bpf.o");
    // DWARF goes; .BTF and .BTF.ext stay, which the loader and the verifier's messages use.
    let mut command = Command::new(&toolchain.objcopy);
    command.arg("--strip-debug");
    let object = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    forward::in_one_order(&object).with_context(|| format!("{} is not good", built.display()))?;
    let names = symbols::tied_to_the_machine(&object)?;
    command.args(
        names
            .iter()
            .map(|(old, new)| format!("--redefine-sym={old}={new}")),
    );
    succeed(command.arg(&built).arg(&stripped))?;
    fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))
}

/// The committed object, which is certain to be that of the committed sources.
pub(crate) fn committed() -> Result<Vec<u8>> {
    let root = root()?;
    Ok(recorded(&root)?.1)
}

fn recorded(root: &Path) -> Result<(Record, Vec<u8>)> {
    let record = Record::read(root)?;
    let object =
        fs::read(root.join(record::OBJECT)).with_context(|| format!("cannot read {}", record::OBJECT))?;
    record.agrees(root, &object)?;
    Ok((record, object))
}

fn check(root: &Path, toolchain: &Toolchain, any_toolchain: bool) -> Result<()> {
    let (committed, object) = recorded(root)?;
    let other = committed.differs_in(&toolchain.identity);
    if let (Some(difference), false) = (&other, any_toolchain) {
        bail!(
            "this toolchain is not the one that built {}: {difference}. Install that one; or build and commit the object \
             with this one, `cargo xtask ebpf`; or see whether a rebuilt object works, `cargo xtask ebpf --check \
             --any-toolchain`",
            record::OBJECT
        );
    }
    let target = tempfile::tempdir()?;
    let rebuilt = build(root, toolchain, target.path())?;
    if other.is_none() {
        ensure!(
            rebuilt == object,
            "{} is not what its sources give: run `cargo xtask ebpf` and commit the result",
            record::OBJECT
        );
        println!("rebuilt byte for byte");
        return Ok(());
    }
    println!("bytes of another toolchain mean nothing: running the kernel tests on the rebuilt object");
    let path = target.path().join("rebuilt.bpf.o");
    fs::write(&path, &rebuilt)?;
    succeed(
        Command::new("cargo")
            .current_dir(root)
            .args([
                "test",
                "--locked",
                "--package",
                "meshmedic-agent",
                "--test",
                "kernel",
            ])
            .env("MESHMEDIC_BPF_OBJECT", &path),
    )
}

fn clippy(root: &Path, toolchain: &Toolchain) -> Result<()> {
    let mut command = toolchain.clippy(root, &target_dir(root).join("ebpf"))?;
    command.args([
        "--release",
        "--locked",
        "--quiet",
        "--bin",
        "meshmedic",
        "--target",
        TARGET,
    ]);
    command.args(toolchain.build_std());
    command.args(["--", "-D", "warnings"]);
    succeed(&mut command)
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", name(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", name(command));
    }
    Ok(())
}

/// What a command prints; nothing where it cannot be run or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn name(command: &Command) -> String {
    let arguments = command
        .get_args()
        .take(3)
        .map(|argument| argument.to_string_lossy());
    let program = command.get_program().to_string_lossy();
    std::iter::once(program)
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}
