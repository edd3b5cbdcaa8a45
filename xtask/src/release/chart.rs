// SPDX-License-Identifier: Apache-2.0
//! The chart, as Helm installs it from a file and as a registry keeps it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use oci_spec::image::{
    ANNOTATION_CREATED, ANNOTATION_DESCRIPTION, ANNOTATION_REF_NAME, ANNOTATION_SOURCE, ANNOTATION_TITLE,
    ANNOTATION_VERSION, ImageManifestBuilder, MediaType, SCHEMA_VERSION,
};
use serde_json::{Value, json};

use super::changelog::Changes;
use super::folder::Deployed;
use super::{REPOSITORY, VERSION};
use crate::image::Commit;
use crate::pack::oci::{Archive, Layout, canonical, index};
use crate::pack::{self, Root};

const CHART: &str = "deploy/helm/meshmedic";
/// As Helm names what it keeps in a registry.
const CONFIG: &str = "application/vnd.cncf.helm.config.v1+json";
const CONTENT: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
/// The value by which the chart pins its image, as the sources have it.
const NO_DIGEST: &str = "\n  digest: \"\"\n";
/// Artifact Hub's words for changes; a changelog's headings are these but for the case.
const KINDS: [&str; 6] = ["added", "changed", "deprecated", "fixed", "removed", "security"];

/// The chart in both forms.
pub(super) struct Chart {
    pub(super) tgz: Vec<u8>,
    pub(super) layout: Archive,
}

/// Packs the chart with the image pinned, and with what Artifact Hub shows.
pub(super) fn pack(workspace: &Path, image: &Deployed, changes: &Changes, commit: &Commit) -> Result<Chart> {
    let folder = workspace.join(CHART);
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let description = describe(&read("Chart.yaml")?, image, changes)?;
    let ignored = read(".helmignore")?;
    let mut root = Root::default();
    add(&folder, "meshmedic", &ignored, &mut root)?;
    root.file(
        "meshmedic/Chart.yaml",
        serde_saphyr::to_string(&description)
            .context("cannot write Chart.yaml")?
            .into_bytes(),
    );
    let values = read("values.yaml")?;
    ensure!(
        values.contains(NO_DIGEST),
        "{CHART}/values.yaml has no empty image.digest to fill"
    );
    let pinned = format!("\n  digest: \"{}\"\n", image.digest);
    root.file(
        "meshmedic/values.yaml",
        values.replacen(NO_DIGEST, &pinned, 1).into_bytes(),
    );
    let tgz = root.pack(commit.time)?.gzip;

    let mut layout = Layout::default();
    let config = layout.add(MediaType::Other(CONFIG.to_owned()), canonical(&description)?)?;
    let content = layout.add(MediaType::Other(CONTENT.to_owned()), tgz.clone())?;
    let text = |key: &str| description[key].as_str().unwrap_or_default().to_owned();
    let annotations = [
        (ANNOTATION_TITLE, text("name")),
        (ANNOTATION_DESCRIPTION, text("description")),
        (ANNOTATION_VERSION, text("version")),
        (ANNOTATION_SOURCE, REPOSITORY.to_owned()),
        (ANNOTATION_CREATED, pack::time(commit.time)?),
    ];
    let annotations: HashMap<String, String> = annotations
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers([content])
        .annotations(annotations)
        .build()?;
    let mut manifest = layout.add(MediaType::ImageManifest, canonical(&manifest)?)?;
    let digest = manifest.digest().to_string();
    let name = HashMap::from([(ANNOTATION_REF_NAME.to_owned(), VERSION.to_owned())]);
    manifest.set_annotations(Some(name));
    layout.index(&index(vec![manifest])?)?;
    let bytes = layout.archive(commit.time)?;
    Ok(Chart {
        tgz,
        layout: Archive { bytes, digest },
    })
}

/// Chart.yaml with what is known only when a release is made.
fn describe(chart: &str, image: &Deployed, changes: &Changes) -> Result<Value> {
    let mut description: Value = serde_saphyr::from_str(chart).context("Chart.yaml is no YAML")?;
    for key in ["version", "appVersion"] {
        ensure!(
            description[key] == VERSION,
            "{key} in {CHART}/Chart.yaml is not {VERSION}, the version in Cargo.toml"
        );
    }
    let changes: Vec<Value> = changes
        .each
        .iter()
        .filter(|(kind, _)| KINDS.contains(&kind.as_str()))
        .map(|(kind, words)| json!({ "kind": kind, "description": words }))
        .collect();
    let images = json!([{ "name": "meshmedic", "image": image.image }]);
    let links = json!([
        { "name": "source", "url": REPOSITORY },
        { "name": "how to verify a release", "url": format!("{REPOSITORY}/blob/v{VERSION}/docs/verify.md") },
    ]);
    let is_security = changes.iter().any(|change| change["kind"] == "security");
    // Lists stand there as YAML in a text, of which JSON is a kind.
    for (name, text) in [
        ("category", "networking".to_owned()),
        ("changes", json!(changes).to_string()),
        ("containsSecurityUpdates", is_security.to_string()),
        ("images", images.to_string()),
        ("links", links.to_string()),
        ("prerelease", VERSION.contains('-').to_string()),
    ] {
        description["annotations"][format!("artifacthub.io/{name}")] = Value::String(text);
    }
    Ok(description)
}

/// Adds a folder's files below a name, but for those that Helm leaves out.
fn add(folder: &Path, name: &str, ignored: &str, root: &mut Root) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let file = entry.file_name().to_string_lossy().into_owned();
        if ignored.lines().any(|pattern| matches(pattern, &file)) {
            continue;
        }
        let (path, name) = (entry.path(), format!("{name}/{file}"));
        if path.is_dir() {
            add(&path, &name, ignored, root)?;
        } else {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            root.file(&name, bytes);
        }
    }
    Ok(())
}

/// The patterns that .helmignore here has: a name, a folder with its slash, or all that ends so.
fn matches(pattern: &str, file: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(ending) => file.ends_with(ending),
        None => !pattern.is_empty() && pattern.trim_end_matches('/') == file,
    }
}
