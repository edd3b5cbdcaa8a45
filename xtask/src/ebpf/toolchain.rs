// SPDX-License-Identifier: Apache-2.0
//! The two ways to compile for the kernel, and which of them is there.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use sha2::{Digest as _, Sha256};

use super::{TARGET, output, target_dir};

/// Where Debian has its compiler, whatever `rustup` puts in front of it.
pub(super) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
/// Beside its driver, which it looks for in its own folder.
pub(super) const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";
/// The toolchain that may use `-Z build-std`.
pub(super) const NIGHTLY: &str = "nightly";
/// The linker that both ways use, and the digest of its sources as crates.io has them.
pub(super) const LINKER_VERSION: &str = "0.13.0";
pub(super) const LINKER_SOURCES: &str = "998bea250d009a4719ed16ab6d772d519b77b031a0261e69223a35013972594b";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Debian's rustc-web with a ready `core` for the target.
    Debian,
    /// rustup's nightly, which builds `core` from rust-src.
    Nightly,
}

pub(super) struct Toolchain {
    way: Way,
    sysroot: PathBuf,
    linker: PathBuf,
    pub(super) objcopy: PathBuf,
    /// What decides the bytes: compiler, its LLVM, the target's `core` and the linker, one line each, with the digests
    /// of their files.
    pub(super) identity: String,
}

impl Toolchain {
    /// Whatever is complete; Debian's first, since it moves less.
    pub(super) fn find(root: &Path) -> Result<Option<Self>> {
        Ok([Way::Debian, Way::Nightly]
            .into_iter()
            .find_map(|way| Self::complete(root, way)))
    }

    fn complete(root: &Path, way: Way) -> Option<Self> {
        let sysroot = core_of(way)?;
        let version = rustc_version(way)?;
        let (linker, linker_version) = linker(root, llvm_major(&version)?)?;
        let objcopy = objcopy(&sysroot, llvm_major(&version)?)?;
        let line = |key: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .unwrap_or("unknown")
        };
        let files = digests(way, &sysroot, &objcopy)?;
        let identity = format!(
            "{}\ncommit {}\nLLVM {}\n{linker_version}\n{}",
            version.lines().next()?,
            line("commit-hash: "),
            line("LLVM version: "),
            files.join("\n")
        );
        Some(Self {
            way,
            sysroot,
            linker,
            objcopy,
            identity,
        })
    }

    pub(super) fn cargo(&self, root: &Path, target: &Path) -> Result<Command> {
        let program = match self.way {
            Way::Debian => DEBIAN_CARGO,
            Way::Nightly => "cargo",
        };
        self.prepare(Command::new(program), root, target)
    }

    pub(super) fn clippy(&self, root: &Path, target: &Path) -> Result<Command> {
        let mut command = match self.way {
            Way::Debian => self.prepare(Command::new(DEBIAN_CLIPPY), root, target)?,
            Way::Nightly => self.cargo(root, target)?,
        };
        command.arg("clippy");
        Ok(command)
    }

    pub(super) fn build_std(&self) -> &'static [&'static str] {
        match self.way {
            Way::Debian => &[],
            Way::Nightly => &["-Z", "build-std=core"],
        }
    }

    fn prepare(&self, mut command: Command, root: &Path, target: &Path) -> Result<Command> {
        // Names that the object would otherwise carry; the last one that fits counts.
        let names = [
            (home("CARGO_HOME", ".cargo"), "/cargo"),
            (self.sysroot.clone(), "/rust"),
            (root.to_owned(), "/meshmedic"),
        ];
        let mut flags = vec![
            format!("-Clinker={}", self.linker.display()),
            "-Clink-arg=--btf".to_owned(),
            "-Cdebuginfo=2".to_owned(),
        ];
        flags.extend(
            names
                .iter()
                .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())),
        );
        command
            .current_dir(root.join("meshmedic-ebpf"))
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env("CARGO_TARGET_DIR", target)
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        match self.way {
            Way::Debian => {
                // aya-ebpf needs a feature gate for this target.
                command
                    .env("RUSTC", DEBIAN_RUSTC)
                    .env("CARGO", DEBIAN_CARGO)
                    .env("RUSTC_BOOTSTRAP", "1");
                command.env_remove("RUSTUP_TOOLCHAIN");
            }
            Way::Nightly => {
                // cargo and rustc as rustup chooses them by this name, not those of the task's own toolchain.
                command
                    .env("RUSTUP_TOOLCHAIN", NIGHTLY)
                    .env_remove("RUSTC")
                    .env_remove("CARGO");
            }
        }
        Ok(command)
    }
}

/// The digests of the files that turn sources into bytes: two packages may tell the same version.
fn digests(way: Way, sysroot: &Path, objcopy: &Path) -> Option<Vec<String>> {
    let compiler = match way {
        Way::Debian => PathBuf::from(DEBIAN_RUSTC),
        Way::Nightly => sysroot.join("bin/rustc"),
    };
    let libraries = output(Command::new("ldd").arg(&compiler))?;
    // librustc_driver-….so => /lib/…/librustc_driver-….so (0x…)
    let library = |start: &str| {
        let mut lines = libraries.lines().map(str::trim);
        let line = lines.find(|line| line.starts_with(start))?;
        let path = line.split_whitespace().nth(2)?;
        digest(&[PathBuf::from(path)])
    };
    let core = match way {
        Way::Debian => files(&sysroot.join("lib/rustlib").join(TARGET).join("lib")),
        // The version that rustup has of its source goes with the compiler's.
        Way::Nightly => files(&sysroot.join("lib/rustlib/src/rust/library/core/src")),
    };
    Some(vec![
        format!("compiler sha256:{}", library("librustc_driver")?),
        format!("LLVM sha256:{}", library("libLLVM")?),
        format!("core sha256:{}", digest(&core)?),
        format!("objcopy sha256:{}", digest(&[objcopy.to_owned()])?),
    ])
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

/// One digest of all of them, in this order.
pub(super) fn digest(files: &[PathBuf]) -> Option<String> {
    let mut sum = Sha256::new();
    for file in files {
        sum.update(fs::read(file).ok()?);
    }
    Some(super::record::hex(&sum.finalize()))
}

pub(super) fn rustc(way: Way) -> Command {
    match way {
        Way::Debian => Command::new(DEBIAN_RUSTC),
        Way::Nightly => {
            let mut command = Command::new("rustup");
            command.args(["run", NIGHTLY, "rustc"]);
            command
        }
    }
}

/// The sysroot, where it has what the target's `core` needs.
pub(super) fn core_of(way: Way) -> Option<PathBuf> {
    let sysroot = PathBuf::from(output(rustc(way).args(["--print", "sysroot"]))?);
    let core = match way {
        Way::Debian => sysroot.join("lib/rustlib").join(TARGET).join("lib"),
        Way::Nightly => sysroot.join("lib/rustlib/src/rust/library/core"),
    };
    core.is_dir().then_some(sysroot)
}

pub(super) fn rustc_version(way: Way) -> Option<String> {
    output(rustc(way).arg("-vV"))
}

pub(super) fn llvm_major(version: &str) -> Option<u32> {
    version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// Where [`super::setup`] installs the linker.
pub(super) fn tools(root: &Path, llvm: u32) -> PathBuf {
    target_dir(root).join("tools").join(format!("llvm-{llvm}"))
}

/// The linker of the right version, which reads the bitcode of this LLVM.
pub(super) fn linker(root: &Path, llvm: u32) -> Option<(PathBuf, String)> {
    let folders = [
        tools(root, llvm).join("bin"),
        home("CARGO_HOME", ".cargo").join("bin"),
    ];
    folders.into_iter().chain(path()).find_map(|folder| {
        let linker = folder.join("bpf-linker");
        let version = output(Command::new(&linker).arg("--version"))?;
        let fits = version.split_whitespace().any(|word| word == LINKER_VERSION);
        fits.then(|| (linker, format!("bpf-linker {LINKER_VERSION}")))
    })
}

fn objcopy(sysroot: &Path, llvm: u32) -> Option<PathBuf> {
    let host = output(Command::new("rustc").args(["--print", "host-tuple"])).unwrap_or_default();
    let folders = [
        PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin")),
        sysroot.join("lib/rustlib").join(host).join("bin"),
    ];
    folders
        .into_iter()
        .chain(path())
        .map(|folder| folder.join("llvm-objcopy"))
        .find(|objcopy| objcopy.is_file())
}

pub(super) fn home(variable: &str, folder: &str) -> PathBuf {
    let home = || env::home_dir().unwrap_or_else(|| PathBuf::from("/")).join(folder);
    env::var_os(variable).map_or_else(home, PathBuf::from)
}

fn path() -> Vec<PathBuf> {
    env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default()
}
