// SPDX-License-Identifier: Apache-2.0
//! The list of what is in the image, in the form of CycloneDX: the crates that the program is made of, and the files
//! beside it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::{Metadata, Package, PackageId};
use cyclonedx_bom::models::component::Classification;
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::prelude::{
    Bom, Component, Components, DateTime, Metadata as About, Purl, SpecVersion, Validate as _,
};

use crate::crates::{Crates, PROGRAM};
use crate::pack::{Root, hex};

/// What of the list the image itself knows.
pub(crate) struct Contents<'a> {
    /// What the program is linked from.
    pub(crate) crates: &'a Crates,
    /// When the image was made, as text.
    pub(crate) created: String,
    /// The path of the program in the image.
    pub(crate) program: &'a str,
    /// Every file of the image, the program among them.
    pub(crate) root: &'a Root,
}

/// The list as JSON.
pub(crate) fn write(contents: &Contents<'_>) -> Result<Vec<u8>> {
    let crates = contents.crates.packages();
    let (program, libraries): (Vec<&Package>, Vec<&Package>) = crates
        .values()
        .partition(|package| package.name.as_str() == PROGRAM);
    let [program] = program[..] else {
        bail!("cargo names {} packages {PROGRAM}", program.len());
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
        dependencies: Some(dependencies(&contents.crates.metadata, &crates)?),
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
