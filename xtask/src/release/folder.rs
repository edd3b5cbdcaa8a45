// SPDX-License-Identifier: Apache-2.0
//! The folder of a release: what is in it, and by which digests it is known.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::VERSION;
use crate::image::IMAGE;
use crate::pack::hex;
use crate::pack::oci::Archive;

/// One line for each file, as `sha256sum --check` reads it.
pub(super) const CHECKSUMS: &str = "checksums.txt";
/// By this the folder is known as one that may be replaced.
const OWN: [&str; 2] = [CHECKSUMS, "notes.md"];

/// What was written, by name.
pub(super) struct Folder {
    path: PathBuf,
    digests: BTreeMap<String, String>,
    /// What lies in an archive under its own digest: the archive's name, and the digest.
    blobs: Vec<(String, String)>,
}

impl Folder {
    /// Makes it anew. A folder with something else in it is left alone.
    pub(super) fn make(path: &Path) -> Result<Self> {
        if let Ok(mut entries) = fs::read_dir(path) {
            let is_own = OWN.iter().any(|name| path.join(name).exists());
            if entries.next().is_some() && !is_own {
                bail!(
                    "{} holds something else than a release: name another folder",
                    path.display()
                );
            }
            fs::remove_dir_all(path).with_context(|| format!("cannot replace {}", path.display()))?;
        }
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            digests: BTreeMap::new(),
            blobs: Vec::new(),
        })
    }

    pub(super) fn add(&mut self, name: &str, contents: Vec<u8>) -> Result<()> {
        self.write(name, &contents)?;
        let before = self.digests.insert(name.to_owned(), hex(&contents));
        ensure!(before.is_none(), "a release has {name} twice");
        Ok(())
    }

    /// An archive of blobs, one of which stands for the whole.
    pub(super) fn add_blob(&mut self, name: &str, archive: &Archive) -> Result<()> {
        let digest = archive.digest.trim_start_matches("sha256:");
        self.blobs.push((name.to_owned(), digest.to_owned()));
        self.add(name, archive.bytes.clone())
    }

    /// Writes a file that is proved by itself, and so is not among the checksums.
    pub(super) fn write(&self, name: &str, contents: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))
    }

    pub(super) fn digest(&self, name: &str) -> Result<&str> {
        let digest = self.digests.get(name).map(String::as_str);
        digest.with_context(|| format!("a release has no {name}"))
    }

    pub(super) fn len(&self) -> usize {
        self.digests.len()
    }

    /// Every file and its digest.
    pub(super) fn digests(&self) -> impl Iterator<Item = (&str, &str)> {
        let each = self.digests.iter();
        each.map(|(name, digest)| (name.as_str(), digest.as_str()))
    }

    pub(super) fn blobs(&self) -> &[(String, String)] {
        &self.blobs
    }

    /// Writes the checksums and returns their text.
    pub(super) fn write_checksums(&self) -> Result<String> {
        let mut text = String::new();
        for (name, digest) in self.digests() {
            let _ = writeln!(text, "{digest}  {name}");
        }
        self.write(CHECKSUMS, text.as_bytes())?;
        Ok(text)
    }
}

/// The image as manifests name it.
pub(super) struct Deployed {
    /// With name, tag and digest.
    pub(super) image: String,
    pub(super) digest: String,
}

impl Deployed {
    /// A manifest that pins the image.
    pub(super) fn in_manifest(&self, file: &Path) -> Result<Vec<u8>> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let by_tag = format!("{IMAGE}:{VERSION}\n");
        ensure!(
            text.contains(&by_tag),
            "{} does not name the image {IMAGE}:{VERSION}",
            file.display()
        );
        Ok(text.replace(&by_tag, &format!("{}\n", self.image)).into_bytes())
    }
}
