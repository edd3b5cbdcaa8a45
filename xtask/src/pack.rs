// SPDX-License-Identifier: Apache-2.0
//! Archives of files, written so that the same files always give the same bytes.

pub(crate) mod oci;

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, GzBuilder};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

/// A file of an archive.
struct File {
    contents: Vec<u8>,
    executable: bool,
}

/// Files by their path, without the leading slash.
#[derive(Default)]
pub(crate) struct Root {
    files: BTreeMap<String, File>,
}

/// An archive as it is stored, and the digest of what it is when unpacked.
pub(crate) struct Packed {
    pub(crate) gzip: Vec<u8>,
    pub(crate) diff_id: String,
}

impl Root {
    pub(crate) fn file(&mut self, path: &str, contents: Vec<u8>) {
        self.add(path, contents, false);
    }

    pub(crate) fn program(&mut self, path: &str, contents: Vec<u8>) {
        self.add(path, contents, true);
    }

    fn add(&mut self, path: &str, contents: Vec<u8>, executable: bool) {
        let file = File { contents, executable };
        self.files.insert(path.trim_start_matches('/').to_owned(), file);
    }

    /// Every file by its path and contents.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files
            .iter()
            .map(|(path, file)| (path.as_str(), file.contents.as_slice()))
    }

    /// All files and the folders above them as a compressed archive. What is not the files themselves is the same
    /// for everybody: their order, owner, time, and gzip's header.
    pub(crate) fn pack(&self, time: u64) -> Result<Packed> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut folders: Vec<&str> = Vec::new();
        for (path, file) in &self.files {
            for (end, _) in path.match_indices('/') {
                let folder = &path[..end];
                if !folders.contains(&folder) {
                    append(
                        &mut archive,
                        &format!("{folder}/"),
                        EntryType::Directory,
                        0o755,
                        time,
                        &[],
                    )?;
                    folders.push(folder);
                }
            }
            let mode = if file.executable { 0o755 } else { 0o644 };
            append(&mut archive, path, EntryType::Regular, mode, time, &file.contents)?;
        }
        let tar = archive.into_inner().context("cannot end the archive")?;
        let mut gzip = GzBuilder::new()
            .mtime(0)
            .operating_system(255) // unknown, wherever it is made
            .write(Vec::new(), Compression::default());
        gzip.write_all(&tar).context("cannot compress the archive")?;
        let gzip = gzip.finish().context("cannot compress the archive")?;
        Ok(Packed {
            gzip,
            diff_id: sha256(&tar),
        })
    }
}

/// Adds one entry of root's, with nothing in it that another machine or day would change.
fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    mode: u32,
    time: u64,
    contents: &[u8],
) -> Result<()> {
    // The oldest format that everybody reads; it holds names of a hundred bytes.
    let mut header = Header::new_ustar();
    header
        .set_path(path)
        .with_context(|| format!("{path} cannot stand in an archive"))?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(time);
    header.set_size(contents.len() as u64);
    header.set_cksum();
    ensure!(!path.starts_with('/'), "{path} begins at the root");
    archive
        .append(&header, contents)
        .with_context(|| format!("cannot add {path} to an archive"))
}

/// A time, in seconds since 1970, as lists and images have it.
pub(crate) fn time(seconds: u64) -> Result<String> {
    let seconds = i64::try_from(seconds).context("a time is too far away")?;
    let time = Timestamp::from_second(seconds).context("a time is too far away")?;
    Ok(time.to_string())
}

/// The digest as images write it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

/// The digest alone.
pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
