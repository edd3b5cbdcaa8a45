// SPDX-License-Identifier: Apache-2.0
//! What stands beside the committed object: the digests that bind it to its sources, and who built it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

pub(super) const OBJECT: &str = "meshmedic-ebpf/object/meshmedic.bpf.o";
const RECORD: &str = "meshmedic-ebpf/object/meshmedic.bpf.toml";
const SOURCES: &str = "meshmedic-ebpf/src";
/// What else goes into the object.
const SINGLE_SOURCES: [&str; 3] = [
    "meshmedic-common/src/abi.rs",
    "meshmedic-ebpf/Cargo.lock",
    "meshmedic-ebpf/Cargo.toml",
];

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    sources: String,
    object: String,
    /// One line for each tool.
    pub(super) toolchain: String,
}

impl Record {
    pub(super) fn new(root: &Path, object: &[u8], toolchain: &str) -> Result<Self> {
        Ok(Self {
            sources: digest_of_sources(root)?,
            object: digest(object),
            toolchain: toolchain.to_owned(),
        })
    }

    pub(super) fn read(root: &Path) -> Result<Self> {
        let text = fs::read_to_string(root.join(RECORD)).with_context(|| format!("cannot read {RECORD}"))?;
        Self::parse(&text).with_context(|| format!("{RECORD} is not as `cargo xtask ebpf` writes it"))
    }

    pub(super) fn write(&self, root: &Path) -> Result<()> {
        fs::write(root.join(RECORD), self.text()).with_context(|| format!("cannot write {RECORD}"))
    }

    /// Fails where the sources or the object changed without the other.
    pub(super) fn agrees(&self, root: &Path, object: &[u8]) -> Result<()> {
        ensure!(
            self.sources == digest_of_sources(root)?,
            "the sources of the kernel programs changed since {OBJECT} was built: run `cargo xtask ebpf` and commit the result"
        );
        ensure!(
            self.object == digest(object),
            "{OBJECT} is not the one that {RECORD} describes: run `cargo xtask ebpf` and commit the result"
        );
        Ok(())
    }

    /// Says in what another toolchain is not the one of the committed object; nothing where it is the same.
    pub(super) fn differs_in(&self, toolchain: &str) -> Option<String> {
        let (ours, theirs): (Vec<&str>, Vec<&str>) =
            (self.toolchain.lines().collect(), toolchain.lines().collect());
        let mut lines: Vec<String> = Vec::new();
        for at in 0..ours.len().max(theirs.len()) {
            let line = |lines: &[&str]| {
                lines
                    .get(at)
                    .map_or_else(|| "nothing".to_owned(), |line| (*line).to_owned())
            };
            let (was, is) = (line(&ours), line(&theirs));
            if was != is {
                lines.push(format!("{is} here, {was} there"));
            }
        }
        (!lines.is_empty()).then(|| lines.join("; "))
    }

    fn text(&self) -> String {
        let mut text = format!(
            "# Written by `cargo xtask ebpf`.\nsources = \"{}\"\nobject = \"{}\"\ntoolchain = [\n",
            self.sources, self.object
        );
        for line in self.toolchain.lines() {
            let _ = writeln!(text, "    \"{line}\",");
        }
        text + "]\n"
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""))?;
            Some(line.strip_suffix('"')?.to_owned())
        };
        let toolchain: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("    \"")?.strip_suffix("\","))
            .collect();
        Some(Self {
            sources: value("sources")?,
            object: value("object")?,
            toolchain: toolchain.join("\n"),
        })
    }
}

/// Over names and contents, so that a moved file counts too.
fn digest_of_sources(root: &Path) -> Result<String> {
    let mut files = SINGLE_SOURCES.map(PathBuf::from).to_vec();
    let mut folders = vec![PathBuf::from(SOURCES)];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(root.join(&folder)).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut sum = Sha256::new();
    for file in files {
        let bytes = fs::read(root.join(&file)).with_context(|| format!("cannot read {}", file.display()))?;
        sum.update(format!("{}\0{}\0", file.display(), bytes.len()));
        sum.update(&bytes);
    }
    Ok(hex(&sum.finalize()))
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_is_built_from_these_sources() {
        let root = super::super::root().unwrap();
        let object = fs::read(root.join(OBJECT)).unwrap();
        Record::read(&root).unwrap().agrees(&root, &object).unwrap();
    }

    #[test]
    fn another_toolchain_is_noticed_by_one_digest() {
        let root = super::super::root().unwrap();
        let record = Record::new(&root, b"object", "rustc 1\nLLVM sha256:aa\ncore sha256:bb").unwrap();
        assert_eq!(record.differs_in(&record.toolchain), None);
        let other = record.differs_in("rustc 1\nLLVM sha256:ab\ncore sha256:bb");
        assert_eq!(
            other.as_deref(),
            Some("LLVM sha256:ab here, LLVM sha256:aa there")
        );
        let shorter = record.differs_in("rustc 1\nLLVM sha256:aa").unwrap();
        assert!(shorter.contains("nothing here"), "{shorter}");
    }

    #[test]
    fn the_committed_object_names_its_builder_by_digests() {
        let root = super::super::root().unwrap();
        let toolchain = Record::read(&root).unwrap().toolchain;
        for tool in ["compiler", "LLVM", "core", "objcopy"] {
            let named = |line: &str| {
                let digest = line.strip_prefix(&format!("{tool} sha256:"));
                digest.is_some_and(|digest| digest.len() == 64)
            };
            assert!(toolchain.lines().any(named), "no digest of {tool}: {toolchain}");
        }
    }

    #[test]
    fn a_change_of_sources_or_object_is_noticed() {
        let root = super::super::root().unwrap();
        let mut record = Record::new(&root, b"object", "rustc\nbpf-linker").unwrap();
        assert_eq!(Record::parse(&record.text()).as_ref(), Some(&record));
        record.agrees(&root, b"object").unwrap();
        let message = record.agrees(&root, b"other").unwrap_err().to_string();
        assert!(message.contains("cargo xtask ebpf"), "{message}");
        record.sources = digest(b"other sources");
        let message = record.agrees(&root, b"object").unwrap_err().to_string();
        assert!(message.contains("cargo xtask ebpf"), "{message}");
    }
}
