// SPDX-License-Identifier: Apache-2.0
//! The crates that a program is linked from, as cargo tells.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::{Metadata, MetadataCommand, Package, PackageId};

use crate::workspace::cargo;

/// The package of the program.
pub(crate) const PROGRAM: &str = "meshmedic-cli";

/// What cargo knows of the crates that one package is linked from, for one target.
pub(crate) struct Crates {
    pub(crate) metadata: Metadata,
    linked: BTreeSet<(String, String)>,
}

impl Crates {
    /// Asks cargo, in a folder with a Cargo.toml and a Cargo.lock. Other targets have other dependencies.
    pub(crate) fn of(folder: &Path, package: &str, target: &str) -> Result<Self> {
        let metadata = MetadataCommand::new()
            .current_dir(folder)
            .other_options([
                "--locked".to_owned(),
                "--filter-platform".to_owned(),
                target.to_owned(),
            ])
            .exec()
            .context("cannot ask cargo for the dependencies")?;
        let crates = Self {
            metadata,
            linked: linked(folder, package, target)?,
        };
        let known = crates.packages().len();
        ensure!(
            known == crates.linked.len(),
            "cargo names {} packages in its tree, and {known} of these in its metadata",
            crates.linked.len()
        );
        Ok(crates)
    }

    /// The packages. Cargo's metadata alone would count in what the other crates of the workspace want of a
    /// dependency, and what only builds or tests need; its tree for one package does not.
    pub(crate) fn packages(&self) -> BTreeMap<&PackageId, &Package> {
        let is_linked = |package: &&Package| {
            self.linked
                .contains(&(package.name.to_string(), package.version.to_string()))
        };
        let packages = self.metadata.packages.iter().filter(is_linked);
        packages.map(|package| (&package.id, package)).collect()
    }
}

/// Name and version of every package that is linked into the program.
pub(crate) fn linked(folder: &Path, package: &str, target: &str) -> Result<BTreeSet<(String, String)>> {
    let output = cargo(folder)
        .args(["tree", "--locked", "--package", package, "--target", target])
        .args([
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(["--color", "never"])
        .output()
        .context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "cargo tree failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8(output.stdout).context("what cargo tree prints is no text")?;
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default();
            let version = words.next().and_then(|word| word.strip_prefix('v'));
            let version = version.with_context(|| format!("cargo tree names no version: {line}"))?;
            Ok((name.to_owned(), version.to_owned()))
        })
        .collect()
}
