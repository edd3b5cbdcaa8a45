// SPDX-License-Identifier: Apache-2.0
//! A reader of image archives that knows the specification and nothing of what wrote them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use flate2::read::GzDecoder;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tar::EntryType;

/// The files of an archive.
pub(super) struct Opened {
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

/// A checked image.
pub(super) struct Image {
    pub(super) digest: String,
    pub(super) name: String,
    pub(super) config: Value,
    pub(super) entries: Vec<Entry>,
}

/// A file or folder of the image, folders with a slash at the end.
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) time: u64,
    pub(super) contents: Vec<u8>,
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest
        .iter()
        .fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("it is JSON")
}

impl Opened {
    pub(super) fn new(archive: &[u8]) -> Self {
        let mut files = BTreeMap::new();
        for entry in entries(archive) {
            if !entry.path.ends_with('/') {
                assert!(files.insert(entry.path, entry.contents).is_none(), "a file twice");
            }
        }
        Self { files }
    }

    /// Holds the archive against the image layout and the image specification, and Docker's list against both.
    pub(super) fn check(&self) -> Image {
        let layout = json(&self.files["oci-layout"]);
        assert_eq!(layout["imageLayoutVersion"], "1.0.0");
        let index = json(&self.files["index.json"]);
        assert_eq!(index["schemaVersion"], 2);
        assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
        assert_eq!(index["manifests"].as_array().map(Vec::len), Some(1));
        let described = &index["manifests"][0];
        let mut used = BTreeSet::new();
        let manifest = json(self.blob(described, "application/vnd.oci.image.manifest.v1+json", &mut used));
        assert_eq!(manifest["schemaVersion"], 2);
        assert_eq!(manifest["mediaType"], described["mediaType"]);
        let config = json(self.blob(
            &manifest["config"],
            "application/vnd.oci.image.config.v1+json",
            &mut used,
        ));
        for part in ["architecture", "os"] {
            assert_eq!(config[part], described["platform"][part], "{part}");
        }
        assert_eq!(config["os"], "linux");
        assert_eq!(config["config"]["Labels"], manifest["annotations"], "said twice");
        let created = config["created"].as_str().expect("it says when it was made");
        created
            .parse::<jiff::Timestamp>()
            .expect("in the form of RFC 3339");

        assert_eq!(config["rootfs"]["type"], "layers");
        let layers = manifest["layers"].as_array().expect("a list of layers");
        let diff_ids = config["rootfs"]["diff_ids"]
            .as_array()
            .expect("a list of digests");
        assert_eq!(layers.len(), diff_ids.len());
        let mut all = Vec::new();
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let gzip = self.blob(layer, "application/vnd.oci.image.layer.v1.tar+gzip", &mut used);
            assert_eq!(gzip[4..8], [0; 4], "gzip's header tells a time");
            let mut tar = Vec::new();
            GzDecoder::new(gzip)
                .read_to_end(&mut tar)
                .expect("it is compressed");
            assert_eq!(sha256(&tar), diff_id.as_str().unwrap());
            all.extend(layer_entries(&tar));
        }
        let blobs: BTreeSet<String> = self
            .files
            .keys()
            .filter(|name| name.starts_with("blobs/"))
            .cloned()
            .collect();
        assert_eq!(blobs, used, "a blob that nothing names, or the reverse");

        let name = described["annotations"]["io.containerd.image.name"]
            .as_str()
            .expect("a name");
        let tag = described["annotations"]["org.opencontainers.image.ref.name"].as_str();
        assert_eq!(name.rsplit(':').next(), tag);
        self.check_docker(name, &manifest);
        Image {
            digest: described["digest"].as_str().unwrap().to_owned(),
            name: name.to_owned(),
            config,
            entries: all,
        }
    }

    /// Docker goes by a list of its own, which must name the same blobs.
    fn check_docker(&self, name: &str, manifest: &Value) {
        let list = json(&self.files["manifest.json"]);
        assert_eq!(list.as_array().map(Vec::len), Some(1));
        assert_eq!(list[0]["RepoTags"], serde_json::json!([name]));
        let path = |descriptor: &Value| {
            format!(
                "blobs/{}",
                descriptor["digest"].as_str().unwrap().replace(':', "/")
            )
        };
        assert_eq!(list[0]["Config"], path(&manifest["config"]));
        let layers: Vec<String> = manifest["layers"].as_array().unwrap().iter().map(path).collect();
        assert_eq!(list[0]["Layers"], serde_json::json!(layers));
    }

    /// What a descriptor describes, if it does so truly.
    fn blob(&self, descriptor: &Value, media_type: &str, used: &mut BTreeSet<String>) -> &[u8] {
        assert_eq!(descriptor["mediaType"], media_type);
        let digest = descriptor["digest"].as_str().expect("a digest");
        let path = format!("blobs/{}", digest.replace(':', "/"));
        let blob = self.files.get(&path).unwrap_or_else(|| panic!("no {path}"));
        assert_eq!(descriptor["size"], blob.len());
        assert_eq!(sha256(blob), digest);
        used.insert(path);
        blob
    }
}

fn entries(tar: &[u8]) -> Vec<Entry> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("it is an archive");
    entries
        .map(|entry| {
            let mut entry = entry.expect("it is whole");
            let path = entry
                .path()
                .unwrap()
                .to_str()
                .expect("its name is text")
                .to_owned();
            let kind = entry.header().entry_type();
            assert!(
                [EntryType::Regular, EntryType::Directory].contains(&kind),
                "{path}: {kind:?}"
            );
            assert_eq!(path.ends_with('/'), kind == EntryType::Directory, "{path}");
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0), "{path}");
            let (mode, time) = (header.mode().unwrap(), header.mtime().unwrap());
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            Entry {
                path,
                mode,
                time,
                contents,
            }
        })
        .collect()
}

/// The entries of a layer, by its own rules: no way out of the root, nothing before its folder, nothing that hides
/// what a layer below has.
fn layer_entries(tar: &[u8]) -> Vec<Entry> {
    let entries = entries(tar);
    let mut seen = BTreeSet::from([String::new()]);
    for entry in &entries {
        let path = &entry.path;
        assert!(
            !path.starts_with('/') && !path.split('/').any(|part| part == ".."),
            "{path}"
        );
        let name = path.trim_end_matches('/');
        let (folder, name) = name
            .rsplit_once('/')
            .map_or(("", name), |(folder, name)| (folder, name));
        assert!(!name.starts_with(".wh."), "{path} is a whiteout");
        assert!(seen.contains(folder), "{path} comes before its folder");
        assert!(
            seen.insert(path.trim_end_matches('/').to_owned()),
            "{path} is there twice"
        );
    }
    entries
}
