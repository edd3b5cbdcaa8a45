// SPDX-License-Identifier: Apache-2.0
//! An OCI image layout: the form in which registries' contents lie in a folder or an archive.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use oci_spec::image::{
    Descriptor, DescriptorBuilder, Digest, ImageIndex, ImageIndexBuilder, MediaType, SCHEMA_VERSION,
};
use serde::Serialize;
use serde_json::{Value, json};
use tar::EntryType;

use super::{append, sha256};

/// A layout as one file.
pub(crate) struct Archive {
    pub(crate) bytes: Vec<u8>,
    /// What registries know its contents by.
    pub(crate) digest: String,
}

/// The files of a layout by their path.
#[derive(Clone, Default)]
pub(crate) struct Layout(BTreeMap<String, Vec<u8>>);

impl Layout {
    /// Adds contents under their digest.
    pub(crate) fn add(&mut self, media_type: MediaType, contents: Vec<u8>) -> Result<Descriptor> {
        let descriptor = DescriptorBuilder::default()
            .media_type(media_type)
            .digest(sha256(&contents).parse::<Digest>()?)
            .size(contents.len() as u64)
            .build()?;
        self.0.insert(path(&descriptor), contents);
        Ok(descriptor)
    }

    /// Says where reading begins.
    pub(crate) fn index(&mut self, index: &ImageIndex) -> Result<()> {
        self.file("index.json", canonical(index)?);
        Ok(())
    }

    /// A file that the specification does not know, and some tool does.
    pub(crate) fn file(&mut self, name: &str, contents: Vec<u8>) {
        self.0.insert(name.to_owned(), contents);
    }

    /// Adds what another layout has.
    pub(crate) fn take(&mut self, other: &Self) {
        self.0.extend(other.0.clone());
    }

    /// Everything as an archive.
    pub(crate) fn archive(mut self, time: u64) -> Result<Vec<u8>> {
        let version = canonical(&json!({ "imageLayoutVersion": "1.0.0" }))?;
        self.file("oci-layout", version);
        let mut archive = tar::Builder::new(Vec::new());
        for folder in ["blobs/", "blobs/sha256/"] {
            append(&mut archive, folder, EntryType::Directory, 0o755, time, &[])?;
        }
        for (path, contents) in &self.0 {
            append(&mut archive, path, EntryType::Regular, 0o644, time, contents)?;
        }
        archive.into_inner().context("cannot end the archive")
    }
}

pub(crate) fn index(manifests: Vec<Descriptor>) -> Result<ImageIndex> {
    Ok(ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests)
        .build()?)
}

/// Where a layout has what this describes.
pub(crate) fn path(blob: &Descriptor) -> String {
    format!("blobs/sha256/{}", blob.digest().digest())
}

/// JSON whose keys stand in the order of the alphabet: labels come out of a map that has none.
pub(crate) fn canonical(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut value: Value = serde_json::to_value(value)?;
    value.sort_all_objects();
    Ok(serde_json::to_vec(&value)?)
}
