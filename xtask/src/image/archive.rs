// SPDX-License-Identifier: Apache-2.0
//! The image as one file: an OCI image layout, with Docker's own list of contents beside it.

use std::collections::HashMap;

use anyhow::Result;
use oci_spec::image::{
    ANNOTATION_CREATED, ANNOTATION_DESCRIPTION, ANNOTATION_DOCUMENTATION, ANNOTATION_LICENSES,
    ANNOTATION_REF_NAME, ANNOTATION_REVISION, ANNOTATION_SOURCE, ANNOTATION_TITLE, ANNOTATION_URL,
    ANNOTATION_VENDOR, ANNOTATION_VERSION, Arch, ConfigBuilder, Descriptor, HistoryBuilder,
    ImageConfigurationBuilder, ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder,
    SCHEMA_VERSION,
};
use serde_json::json;

use crate::pack::oci::{Archive, Layout, canonical, index, path};
use crate::pack::{self, Packed};

/// By this name containerd files an image that it imports.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What the image is called, and what is started in it.
pub(crate) struct About {
    /// Without the tag, such as `ghcr.io/meshmedic/meshmedic`.
    pub(crate) name: String,
    pub(crate) tag: String,
    /// The processor, as images call it.
    pub(crate) architecture: String,
    pub(crate) entrypoint: Vec<String>,
    /// Who runs it, where nobody asks for another.
    pub(crate) user: String,
    /// Where it looks for programs.
    pub(crate) path: String,
    /// Seconds since 1970: of the image, and of every file in it.
    pub(crate) created: u64,
    /// Labels of the configuration and annotations of the manifest: some tools read the one, some the other.
    pub(crate) labels: HashMap<String, String>,
}

impl About {
    fn reference(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }
}

/// What is told of an image of MeshMedic's.
pub(super) struct Told {
    pub(super) version: String,
    pub(super) created: u64,
    /// The commit, where it is known.
    pub(super) revision: Option<String>,
    pub(super) repository: String,
    pub(super) licence: String,
}

impl Told {
    pub(super) fn labels(&self) -> Result<HashMap<String, String>> {
        let mut labels: HashMap<&str, String> = [
            (ANNOTATION_TITLE, "MeshMedic".to_owned()),
            (
                ANNOTATION_DESCRIPTION,
                "Finds and heals pods that silently fell out of an Istio ambient mesh".to_owned(),
            ),
            (ANNOTATION_VENDOR, "The MeshMedic authors".to_owned()),
            (ANNOTATION_VERSION, self.version.clone()),
            (ANNOTATION_CREATED, pack::time(self.created)?),
            (ANNOTATION_URL, self.repository.clone()),
            (ANNOTATION_SOURCE, self.repository.clone()),
            (
                ANNOTATION_DOCUMENTATION,
                format!("{}/blob/main/README.md", self.repository),
            ),
            (ANNOTATION_LICENSES, self.licence.clone()),
        ]
        .into();
        if let Some(revision) = &self.revision {
            labels.insert(ANNOTATION_REVISION, revision.clone());
        }
        Ok(labels
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect())
    }
}

/// An image, as an archive and as a part of a greater one.
pub(crate) struct Image {
    pub(crate) archive: Archive,
    /// Describes its manifest.
    manifest: Descriptor,
    layout: Layout,
}

/// Puts the layer and all that describes it into one file that containerd, kind and Docker load.
pub(crate) fn image(layer: Packed, about: &About) -> Result<Image> {
    let architecture = Arch::from(about.architecture.as_str());
    let mut layout = Layout::default();

    let config = ImageConfigurationBuilder::default()
        .created(pack::time(about.created)?)
        .architecture(architecture.clone())
        .os(Os::Linux)
        .config(
            ConfigBuilder::default()
                .user(about.user.clone())
                .env([format!("PATH={}", about.path)])
                .entrypoint(about.entrypoint.clone())
                .working_dir("/")
                .labels(about.labels.clone())
                .build()?,
        )
        .rootfs(
            RootFsBuilder::default()
                .typ("layers")
                .diff_ids([layer.diff_id])
                .build()?,
        )
        .history([HistoryBuilder::default()
            .created(pack::time(about.created)?)
            .created_by("cargo xtask image")
            .build()?])
        .build()?;
    let config = layout.add(MediaType::ImageConfig, canonical(&config)?)?;
    let layer = layout.add(MediaType::ImageLayerGzip, layer.gzip)?;
    // Docker's list names the files by their place in the archive.
    let for_docker = json!([{
        "Config": path(&config),
        "RepoTags": [about.reference()],
        "Layers": [path(&layer)],
    }]);
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers([layer])
        .annotations(about.labels.clone())
        .build()?;
    let mut manifest = layout.add(MediaType::ImageManifest, canonical(&manifest)?)?;
    manifest.set_platform(Some(
        PlatformBuilder::default()
            .architecture(architecture)
            .os(Os::Linux)
            .build()?,
    ));
    let image = manifest.clone();
    let parts = layout.clone();
    layout.file("manifest.json", canonical(&for_docker)?);
    Ok(Image {
        archive: named(layout, manifest, &about.name, &about.tag, about.created)?,
        manifest: image,
        layout: parts,
    })
}

/// Puts images for several processors together, so that one name stands for all of them.
pub(super) fn together(images: &[Image], name: &str, tag: &str, time: u64) -> Result<Archive> {
    let mut layout = Layout::default();
    for image in images {
        layout.take(&image.layout);
    }
    let manifests: Vec<Descriptor> = images.iter().map(|image| image.manifest.clone()).collect();
    let index = index(manifests)?;
    let index = layout.add(MediaType::ImageIndex, canonical(&index)?)?;
    named(layout, index, name, tag, time)
}

/// A layout in which one thing has a name.
fn named(mut layout: Layout, mut what: Descriptor, name: &str, tag: &str, time: u64) -> Result<Archive> {
    let digest = what.digest().to_string();
    what.set_annotations(Some(HashMap::from([
        (CONTAINERD_NAME.to_owned(), format!("{name}:{tag}")),
        (ANNOTATION_REF_NAME.to_owned(), tag.to_owned()),
    ])));
    layout.index(&index(vec![what])?)?;
    Ok(Archive {
        bytes: layout.archive(time)?,
        digest,
    })
}
