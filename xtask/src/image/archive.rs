// SPDX-License-Identifier: Apache-2.0
//! The image as one file: an OCI image layout, with Docker's own list of contents beside it.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use oci_spec::image::{
    ANNOTATION_CREATED, ANNOTATION_DESCRIPTION, ANNOTATION_DOCUMENTATION, ANNOTATION_LICENSES,
    ANNOTATION_REF_NAME, ANNOTATION_REVISION, ANNOTATION_SOURCE, ANNOTATION_TITLE, ANNOTATION_URL,
    ANNOTATION_VENDOR, ANNOTATION_VERSION, Arch, ConfigBuilder, Descriptor, DescriptorBuilder,
    HistoryBuilder, ImageConfigurationBuilder, ImageIndexBuilder, ImageManifestBuilder, MediaType, Os,
    PlatformBuilder, RootFsBuilder, SCHEMA_VERSION,
};
use serde::Serialize;
use serde_json::{Value, json};
use tar::EntryType;

use super::elf::Machine;
use super::layer::{Layer, append, sha256};

/// Nobody in particular, as in other images without a user of their own. The DaemonSet asks for root by itself.
const USER: &str = "65532:65532";
/// By this name containerd files an image that it imports.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What is told about the image.
pub(super) struct About {
    /// Without the tag, such as `ghcr.io/meshmedic/meshmedic`.
    pub(super) name: String,
    pub(super) tag: String,
    pub(super) machine: Machine,
    /// The path of the program in the image.
    pub(super) program: String,
    pub(super) version: String,
    /// Seconds since 1970: of the image, and of every file in it.
    pub(super) created: u64,
    /// The commit, where it is known.
    pub(super) revision: Option<String>,
    pub(super) repository: String,
    pub(super) licence: String,
}

impl About {
    pub(super) fn reference(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }

    pub(super) fn created(&self) -> Result<String> {
        let seconds = i64::try_from(self.created).context("the time of the image is far away")?;
        let created = Timestamp::from_second(seconds).context("the time of the image is far away")?;
        Ok(created.to_string())
    }

    /// The same words as labels of the configuration and annotations of the manifest: some tools read the one,
    /// some the other.
    fn labels(&self) -> Result<HashMap<String, String>> {
        let mut labels: HashMap<&str, String> = [
            (ANNOTATION_TITLE, "MeshMedic".to_owned()),
            (
                ANNOTATION_DESCRIPTION,
                "Finds and heals pods that silently fell out of an Istio ambient mesh".to_owned(),
            ),
            (ANNOTATION_VENDOR, "The MeshMedic authors".to_owned()),
            (ANNOTATION_VERSION, self.version.clone()),
            (ANNOTATION_CREATED, self.created()?),
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

/// The image, ready to be written.
pub(super) struct Archive {
    pub(super) bytes: Vec<u8>,
    /// What registries know the image by.
    pub(super) digest: String,
}

/// Puts the layer and all that describes it into one file that containerd, kind and Docker load.
pub(super) fn pack(layer: Layer, about: &About) -> Result<Archive> {
    let architecture = Arch::from(about.machine.image());
    let labels = about.labels()?;
    let mut blobs = Blobs::default();

    let config = ImageConfigurationBuilder::default()
        .created(about.created()?)
        .architecture(architecture.clone())
        .os(Os::Linux)
        .config(
            ConfigBuilder::default()
                .user(USER)
                .env(["PATH=/usr/bin".to_owned()])
                .entrypoint([about.program.clone()])
                .working_dir("/")
                .labels(labels.clone())
                .build()?,
        )
        .rootfs(
            RootFsBuilder::default()
                .typ("layers")
                .diff_ids([layer.diff_id])
                .build()?,
        )
        .history([HistoryBuilder::default()
            .created(about.created()?)
            .created_by("cargo xtask image")
            .build()?])
        .build()?;
    let config = blobs.add(MediaType::ImageConfig, canonical(&config)?)?;
    let layer = blobs.add(MediaType::ImageLayerGzip, layer.gzip)?;
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
        .annotations(labels)
        .build()?;
    let mut manifest = blobs.add(MediaType::ImageManifest, canonical(&manifest)?)?;
    let digest = manifest.digest().to_string();
    manifest.set_platform(Some(
        PlatformBuilder::default()
            .architecture(architecture)
            .os(Os::Linux)
            .build()?,
    ));
    manifest.set_annotations(Some(HashMap::from([
        (CONTAINERD_NAME.to_owned(), about.reference()),
        (ANNOTATION_REF_NAME.to_owned(), about.tag.clone()),
    ])));
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests([manifest])
        .build()?;

    let mut files = blobs.0;
    files.insert("index.json".to_owned(), canonical(&index)?);
    files.insert("manifest.json".to_owned(), canonical(&for_docker)?);
    files.insert(
        "oci-layout".to_owned(),
        canonical(&json!({ "imageLayoutVersion": "1.0.0" }))?,
    );
    let mut archive = tar::Builder::new(Vec::new());
    for folder in ["blobs/", "blobs/sha256/"] {
        append(
            &mut archive,
            folder,
            EntryType::Directory,
            0o755,
            about.created,
            &[],
        )?;
    }
    for (path, contents) in &files {
        append(
            &mut archive,
            path,
            EntryType::Regular,
            0o644,
            about.created,
            contents,
        )?;
    }
    Ok(Archive {
        bytes: archive.into_inner().context("cannot end the archive")?,
        digest,
    })
}

/// Files of the archive that are named by their digest.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    fn add(&mut self, media_type: MediaType, contents: Vec<u8>) -> Result<Descriptor> {
        let descriptor = DescriptorBuilder::default()
            .media_type(media_type)
            .digest(sha256(&contents).parse::<oci_spec::image::Digest>()?)
            .size(contents.len() as u64)
            .build()?;
        self.0.insert(path(&descriptor), contents);
        Ok(descriptor)
    }
}

fn path(blob: &Descriptor) -> String {
    format!("blobs/sha256/{}", blob.digest().digest())
}

/// JSON whose keys stand in the order of the alphabet: labels come out of a map that has none.
fn canonical(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut value: Value = serde_json::to_value(value)?;
    value.sort_all_objects();
    Ok(serde_json::to_vec(&value)?)
}
