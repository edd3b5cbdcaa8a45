// SPDX-License-Identifier: Apache-2.0
//! The list of what is in the image, in the form of CycloneDX: the crates that the program is made of, and the files
//! beside it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::{Metadata, MetadataCommand, Package, PackageId};
use cyclonedx_bom::models::component::Classification;
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::prelude::{
    Bom, Component, Components, DateTime, Metadata as About, Purl, SpecVersion, Validate as _,
};

use super::layer::{Root, hex};
use crate::workspace::cargo;

/// The package of the program.
const PACKAGE: &str = "meshmedic-cli";

/// What of the list the image itself knows.
pub(super) struct Contents<'a> {
    /// The target of the program: other targets have other dependencies.
    pub(super) target: &'a str,
    /// When the image was made, as text.
    pub(super) created: String,
    /// The path of the program in the image.
    pub(super) program: &'a str,
    /// Every file of the image, the program among them.
    pub(super) root: &'a Root,
}

/// The list as JSON.
pub(super) fn write(workspace: &Path, contents: &Contents<'_>) -> Result<Vec<u8>> {
    let metadata = MetadataCommand::new()
        .current_dir(workspace)
        .other_options([
            "--locked".to_owned(),
            "--filter-platform".to_owned(),
            contents.target.to_owned(),
        ])
        .exec()
        .context("cannot ask cargo for the dependencies")?;
    let crates = crates(workspace, &metadata, contents.target)?;
    let (program, libraries): (Vec<&Package>, Vec<&Package>) = crates
        .values()
        .partition(|package| package.name.as_str() == PACKAGE);
    let [program] = program[..] else {
        bail!("cargo names {} packages {PACKAGE}", program.len());
    };

    let mut subject = component(program, Classification::Application)?;
    let mut components = Vec::new();
    for package in libraries {
        components.push(component(package, Classification::Library)?);
    }
    for (path, bytes) in contents.root.files() {
        let hashes = Hashes(vec![Hash {
            alg: HashAlgorithm::SHA_256,
            content: HashValue(hex(bytes)),
        }]);
        if path == contents.program.trim_start_matches('/') {
            subject.hashes = Some(hashes);
        } else if !bytes.is_empty() {
            let mut file = Component::new(Classification::File, path, "", Some(format!("file:{path}")));
            file.version = None;
            file.hashes = Some(hashes);
            components.push(file);
        }
    }
    let created = DateTime::try_from(contents.created.clone()).context("the time of the image")?;
    let bom = Bom {
        version: 1,
        serial_number: None,
        metadata: Some(About {
            timestamp: Some(created),
            component: Some(subject),
            ..About::default()
        }),
        components: Some(Components(components)),
        dependencies: Some(dependencies(&metadata, &crates)?),
        spec_version: SpecVersion::V1_5,
        ..Bom::default()
    };
    let validation = bom.validate();
    ensure!(
        validation.passed(),
        "the list of contents is not valid: {validation:?}"
    );
    let mut json = Vec::new();
    bom.output_as_json(&mut json, SpecVersion::V1_5)
        .context("cannot write the list of contents")?;
    json.push(b'\n');
    Ok(json)
}

/// The packages that the program is linked from. Cargo's metadata alone would count in what the other crates of the
/// workspace want of a dependency, and what only builds or tests need; its tree for this one package does not.
fn crates<'a>(
    workspace: &Path,
    metadata: &'a Metadata,
    target: &str,
) -> Result<BTreeMap<&'a PackageId, &'a Package>> {
    let linked = linked(workspace, target)?;
    let crates: BTreeMap<_, _> = metadata
        .packages
        .iter()
        .filter(|package| linked.contains(&(package.name.to_string(), package.version.to_string())))
        .map(|package| (&package.id, package))
        .collect();
    ensure!(
        crates.len() == linked.len(),
        "cargo names {} packages in its tree, and {} of these in its metadata",
        linked.len(),
        crates.len()
    );
    Ok(crates)
}

/// Name and version of every package that is linked into the program.
pub(super) fn linked(workspace: &Path, target: &str) -> Result<BTreeSet<(String, String)>> {
    let mut command: Command = cargo(workspace);
    let output = command
        .args(["tree", "--locked", "--package", PACKAGE, "--target", target])
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

fn component(package: &Package, kind: Classification) -> Result<Component> {
    let version = package.version.to_string();
    let name = package.name.as_str();
    let purl = Purl::new("cargo", name, &version).with_context(|| format!("the purl of {name}"))?;
    let mut component = Component::new(kind, name, &version, Some(purl.to_string()));
    component.purl = Some(purl);
    // Some crates still write `MIT/Apache-2.0`, from the time before SPDX.
    component.licenses = package
        .license
        .as_ref()
        .map(|licence| Licenses(vec![LicenseChoice::expression(&licence.replace('/', " OR "))]));
    Ok(component)
}

fn dependencies(metadata: &Metadata, crates: &BTreeMap<&PackageId, &Package>) -> Result<Dependencies> {
    let resolve = metadata
        .resolve
        .as_ref()
        .context("cargo did not resolve the dependencies")?;
    let nodes: HashMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let name = |package: &Package| -> Result<String> {
        let purl = Purl::new("cargo", package.name.as_str(), &package.version.to_string());
        Ok(purl.context("the purl of a dependency")?.to_string())
    };
    let mut all = Vec::new();
    for (id, package) in crates {
        let node = nodes
            .get(id)
            .context("cargo resolved without one of the packages")?;
        let wanted: BTreeSet<String> = node
            .dependencies
            .iter()
            .filter_map(|dependency| crates.get(dependency))
            .map(|package| name(package))
            .collect::<Result<_>>()?;
        all.push(Dependency {
            dependency_ref: name(package)?,
            dependencies: wanted.into_iter().collect(),
        });
    }
    all.sort_by(|a, b| a.dependency_ref.cmp(&b.dependency_ref));
    Ok(Dependencies(all))
}
