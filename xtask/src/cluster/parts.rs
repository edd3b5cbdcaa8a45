// SPDX-License-Identifier: Apache-2.0
//! What a real cluster is made of, as `xtask/cluster` has it, and on request with another Istio.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::workspace::workspace_root;

/// The list of parts, and what decides about their versions.
const LIST: &str = "programs.yaml";
const VERSIONS: [&str; 2] = ["go.mod", "go.sum"];
/// Names a checkout of another Istio, whose programs and charts take the place of the pinned ones.
pub(super) const ISTIO_SOURCE: &str = "MESHMEDIC_ISTIO_SOURCE";
/// Istio's module, and the file in it that says its version.
pub(super) const ISTIO: &str = "istio.io/istio";
pub(super) const VERSION: &str = "VERSION";
/// How much of the digest names a folder.
const DIGEST_BYTES: usize = 8;

/// The list of parts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parts {
    pub(super) programs: Vec<Program>,
    pub(super) charts: Charts,
    pub(super) debian: Vec<Debian>,
    /// Another Istio than the pinned one.
    #[serde(skip)]
    pub(super) istio: Option<PathBuf>,
}

/// What a part is needed for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Use {
    /// The tests that meet a real API server and a real istio-cni.
    Tests,
    /// A whole node.
    Node,
}

/// A program that Go builds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Program {
    pub(super) name: String,
    /// The folder with its go.mod.
    pub(super) module: String,
    pub(super) package: String,
    /// The module whose version it tells as its own.
    pub(super) stamp: Option<String>,
    #[serde(rename = "for")]
    pub(super) needed_for: Use,
}

/// Helm charts in Go's module cache.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Charts {
    /// The folder with the go.mod that pins them.
    pub(super) module: String,
    /// The module that has them.
    pub(super) of: String,
    pub(super) folder: PathBuf,
}

/// Debian packages, and the files by which one sees that they are there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Debian {
    pub(super) packages: Vec<String>,
    pub(super) programs: Vec<PathBuf>,
    #[serde(rename = "for")]
    pub(super) needed_for: Use,
    /// Links that the packages' own scripts would make.
    #[serde(default)]
    pub(super) links: BTreeMap<PathBuf, PathBuf>,
}

/// The folder with the list and the modules.
pub(super) fn folder() -> Result<PathBuf> {
    Ok(workspace_root()?.join("xtask/cluster"))
}

impl Parts {
    pub(super) fn read() -> Result<Self> {
        let path = folder()?.join(LIST);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut parts: Self = serde_saphyr::from_str(&text)
            .with_context(|| format!("{} is not a list of parts", path.display()))?;
        parts.istio = env::var_os(ISTIO_SOURCE)
            .filter(|source| !source.is_empty())
            .map(|source| istio(Path::new(&source)))
            .transpose()?;
        Ok(parts)
    }

    /// Where a program is built: its package is one of the module there.
    pub(super) fn place(&self, program: &Program) -> Result<PathBuf> {
        let of_istio = program
            .package
            .strip_prefix(ISTIO)
            .is_some_and(|rest| rest.starts_with('/'));
        match &self.istio {
            Some(source) if of_istio => Ok(source.clone()),
            _ => Ok(folder()?.join(&program.module)),
        }
    }

    /// What is needed for one use.
    pub(super) fn of(&self, wanted: Use) -> Self {
        self.filter(|needed_for, _| needed_for == wanted)
    }

    /// What was asked for: all, a use's, or programs by their names.
    pub(super) fn only(&self, asked: &[String]) -> Result<Self> {
        if asked.is_empty() {
            return Ok(self.clone());
        }
        let names = |part: &Self| -> Vec<String> {
            let programs = part.programs.iter().map(|program| program.name.clone());
            programs
                .chain(part.debian.iter().flat_map(Debian::names))
                .collect()
        };
        let known = names(self);
        for asked in asked {
            if Use::named(asked).is_none() && !known.contains(asked) {
                bail!("there is no {asked}; there are tests, node, {}", known.join(", "));
            }
        }
        Ok(self.filter(|needed_for, names| {
            asked
                .iter()
                .any(|asked| Use::named(asked) == Some(needed_for) || names.contains(asked))
        }))
    }

    fn filter(&self, wanted: impl Fn(Use, &[String]) -> bool) -> Self {
        let mut parts = self.clone();
        parts
            .programs
            .retain(|program| wanted(program.needed_for, std::slice::from_ref(&program.name)));
        parts
            .debian
            .retain(|debian| wanted(debian.needed_for, &debian.names()));
        parts
    }

    /// Names one set of versions: everything that decides what the programs are.
    pub(super) fn digest(&self) -> Result<String> {
        let folder = folder()?;
        let mut modules: Vec<&str> = self
            .programs
            .iter()
            .map(|program| program.module.as_str())
            .collect();
        modules.sort_unstable();
        modules.dedup();
        let versions = modules
            .iter()
            .flat_map(|module| VERSIONS.map(|file| folder.join(module).join(file)));
        let other = self.istio.iter().flat_map(|source| {
            let files = VERSIONS.iter().chain([&VERSION]);
            files.map(|file| source.join(file))
        });
        let mut digest = Sha256::new();
        if let Some(source) = &self.istio {
            digest.update(source.as_os_str().as_encoded_bytes());
        }
        for path in std::iter::once(folder.join(LIST)).chain(versions).chain(other) {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            digest.update(bytes.len().to_le_bytes());
            digest.update(bytes);
        }
        let digest = digest.finalize();
        Ok(digest
            .iter()
            .take(DIGEST_BYTES)
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }
}

/// Looks whether a folder is a checkout of Istio.
fn istio(source: &Path) -> Result<PathBuf> {
    let source = source
        .canonicalize()
        .with_context(|| format!("{ISTIO_SOURCE} names {}, which cannot be read", source.display()))?;
    let module = fs::read_to_string(source.join("go.mod")).unwrap_or_default();
    ensure!(
        module
            .lines()
            .any(|line| line.trim() == format!("module {ISTIO}")),
        "{ISTIO_SOURCE} names {}, and that is no checkout of Istio: its go.mod does not say `module {ISTIO}`",
        source.display()
    );
    Ok(source)
}

impl Use {
    fn named(name: &str) -> Option<Self> {
        match name {
            "tests" => Some(Self::Tests),
            "node" => Some(Self::Node),
            _ => None,
        }
    }
}

impl Debian {
    /// Its packages and its programs.
    fn names(&self) -> Vec<String> {
        let programs = self.programs.iter().filter_map(|path| path.file_name());
        let programs = programs.map(|name| name.to_string_lossy().into_owned());
        self.packages.iter().cloned().chain(programs).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_and_every_program_is_a_tool_of_its_module() {
        let parts = Parts::read().unwrap();
        for program in &parts.programs {
            let module = folder().unwrap().join(&program.module).join("go.mod");
            let module = fs::read_to_string(module).unwrap();
            // `go mod tidy` keeps what a program needs only if the module says that it is a tool.
            let is_tool = module.lines().any(|line| line.trim() == program.package);
            assert!(is_tool, "{} is no tool of {}", program.package, program.module);
        }
        assert_eq!(parts.digest().unwrap().len(), 2 * DIGEST_BYTES);
    }

    #[test]
    fn another_istio_is_built_where_it_is_and_helm_is_not() {
        let source = tempfile::tempdir().unwrap();
        let no = istio(source.path()).unwrap_err().to_string();
        assert!(no.contains("no checkout of Istio"), "{no}");
        fs::write(
            source.path().join("go.mod"),
            format!("module {ISTIO}\n\ngo 1.25\n"),
        )
        .unwrap();
        let pinned = Parts {
            istio: None,
            ..Parts::read().unwrap()
        };
        let found = istio(source.path()).unwrap();
        let other = Parts {
            istio: Some(found.clone()),
            ..pinned.clone()
        };
        for program in &pinned.programs {
            let moved = program.package.starts_with("istio.io/istio/");
            let expected = if moved {
                found.clone()
            } else {
                folder().unwrap().join(&program.module)
            };
            assert_eq!(other.place(program).unwrap(), expected, "{}", program.name);
            assert_ne!(pinned.place(program).unwrap(), found);
        }
        let incomplete = other.digest().unwrap_err().to_string();
        assert!(incomplete.contains("go.sum"), "{incomplete}");
        for file in ["go.sum", VERSION] {
            fs::write(source.path().join(file), "1.30").unwrap();
        }
        assert_ne!(other.digest().unwrap(), pinned.digest().unwrap());
    }

    #[test]
    fn one_can_ask_for_a_use_or_a_program() {
        let parts = Parts::read().unwrap();
        let names = |asked: &[&str]| -> Vec<String> {
            let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
            let parts = parts.only(&asked).unwrap();
            let debian = parts.debian.iter().flat_map(|debian| debian.packages.clone());
            let programs = parts.programs.iter().map(|program| program.name.clone());
            programs.chain(debian).collect()
        };
        assert_eq!(names(&["helm", "promtool"]), ["helm", "prometheus"]);
        assert!(names(&["tests"]).contains(&"install-cni".to_owned()));
        assert!(!names(&["tests"]).contains(&"kubelet".to_owned()));
        assert_eq!(names(&[]).len(), names(&["tests"]).len() + names(&["node"]).len());
        let error = parts.only(&["kubelt".to_owned()]).unwrap_err().to_string();
        assert!(
            error.starts_with("there is no kubelt; there are tests, node, "),
            "{error}"
        );
    }
}
