// SPDX-License-Identifier: Apache-2.0
//! What a program needs beside itself: its interpreter and its libraries, found where the loader looks for them.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use object::elf::{self, FileHeader64};
use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{Endianness, Object as _};

/// The processors for which there are images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    /// This machine's, if there are images for it.
    pub(super) fn own() -> Option<Self> {
        [Self::X86_64, Self::Aarch64]
            .into_iter()
            .find(|machine| machine.rust() == std::env::consts::ARCH)
    }

    /// As Rust's targets call it.
    pub(super) fn rust(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As images and Kubernetes call it.
    pub(super) fn image(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Where glibc's and musl's loaders look without any configuration, so without any in the image.
    fn library_folders(self) -> [String; 6] {
        let multiarch = format!("{}-linux-gnu", self.rust());
        [
            format!("/lib/{multiarch}"),
            format!("/usr/lib/{multiarch}"),
            "/lib64".to_owned(),
            "/usr/lib64".to_owned(),
            "/lib".to_owned(),
            "/usr/lib".to_owned(),
        ]
    }
}

/// What the header of a program or library tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) machine: Machine,
    /// The loader that the kernel starts for it; none for a static program.
    pub(super) interpreter: Option<String>,
    /// The names of its libraries.
    pub(super) libraries: Vec<String>,
}

impl Needs {
    /// Reads what stands in the file itself; `path` is for the messages.
    pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        let not_elf = || format!("{} is no 64-bit ELF file", path.display());
        let file = ElfFile64::<Endianness>::parse(bytes).with_context(not_elf)?;
        let header: &FileHeader64<Endianness> = file.elf_header();
        let endian = header.endian().with_context(not_elf)?;
        let machine = match header.e_machine(endian) {
            elf::EM_X86_64 => Machine::X86_64,
            elf::EM_AARCH64 => Machine::Aarch64,
            other => bail!(
                "{} is for another processor (ELF machine {other:?}): images are made for x86_64 and aarch64",
                path.display()
            ),
        };
        let mut interpreter = None;
        for segment in header.program_headers(endian, bytes).with_context(not_elf)? {
            if let Some(name) = segment.interpreter(endian, bytes).with_context(not_elf)? {
                interpreter = Some(text(path, name)?);
            }
        }
        let mut libraries = Vec::new();
        for library in file.import_libraries().with_context(not_elf)? {
            libraries.push(text(path, library.with_context(not_elf)?.name())?);
        }
        Ok(Self {
            machine,
            interpreter,
            libraries,
        })
    }

    /// Whether it runs with nothing beside it.
    pub(super) fn is_static(&self) -> bool {
        self.interpreter.is_none() && self.libraries.is_empty()
    }

    /// The target of Rust's that it was built for.
    pub(super) fn target(&self) -> String {
        let glibc = self
            .interpreter
            .as_ref()
            .is_some_and(|loader| !loader.contains("ld-musl"));
        let libc = if glibc { "gnu" } else { "musl" };
        format!("{}-unknown-linux-{libc}", self.machine.rust())
    }

    /// The interpreter, the libraries, and what these need in turn: path in the image, and contents. `sysroots`
    /// are where the libraries of that system lie, `/` for this machine's own; the first that has one counts.
    pub(super) fn closure(&self, sysroots: &[&Path]) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut found = BTreeMap::new();
        let loader = self
            .interpreter
            .as_deref()
            .and_then(|loader| loader.rsplit('/').next());
        if let Some(path) = &self.interpreter {
            let found_in = |sysroot: &&Path| fs::read(below(sysroot, path)).ok();
            let bytes = sysroots
                .iter()
                .find_map(found_in)
                .with_context(|| format!("cannot read {path}, which starts the program"))?;
            found.insert(path.clone(), bytes);
        }
        let mut names: VecDeque<String> = self.libraries.clone().into();
        let mut seen = Vec::new();
        while let Some(name) = names.pop_front() {
            // The loader is there by its own name already, and libraries may need each other.
            if Some(name.as_str()) == loader || seen.contains(&name) {
                continue;
            }
            let (path, bytes) = self.find(sysroots, &name)?;
            names.extend(Self::read(Path::new(&path), &bytes)?.libraries);
            found.insert(path, bytes);
            seen.push(name);
        }
        Ok(found)
    }

    fn find(&self, sysroots: &[&Path], name: &str) -> Result<(String, Vec<u8>)> {
        ensure!(
            !name.contains('/'),
            "the program needs {name} by its path, which an image cannot keep"
        );
        for sysroot in sysroots {
            for folder in self.machine.library_folders() {
                let path = format!("{folder}/{name}");
                let Ok(bytes) = fs::read(below(sysroot, &path)) else {
                    continue;
                };
                // Another processor's library may lie there too.
                if Self::read(Path::new(&path), &bytes).is_ok_and(|other| other.machine == self.machine) {
                    return Ok((path, bytes));
                }
            }
        }
        bail!(
            "the program needs {name}, which lies in none of the folders that its loader looks into: {}. A static \
             one needs nothing: rustup target add {}-unknown-linux-musl",
            self.machine.library_folders().join(", "),
            self.machine.rust()
        )
    }
}

fn below(sysroot: &Path, path: &str) -> PathBuf {
    sysroot.join(path.trim_start_matches('/'))
}

fn text(path: &Path, name: &[u8]) -> Result<String> {
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    let name = std::str::from_utf8(name)
        .with_context(|| format!("{} names something that is not text", path.display()))?;
    Ok(name.to_owned())
}
