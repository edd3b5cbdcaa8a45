// SPDX-License-Identifier: Apache-2.0
//! Snapshots as files.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::{KIND, Snapshot, VERSION};

/// Many times the snapshot of the largest cluster.
const MAX_BYTES: u64 = 1 << 31;
/// It names everything that runs in the cluster.
const OWNER_ONLY: u32 = 0o600;

/// What tells a snapshot from other files.
#[derive(Deserialize)]
struct Head {
    kind: Option<String>,
    version: Option<serde_json::Value>,
}

/// Reads a snapshot. Fields that are not known here are passed over.
pub(crate) fn read(path: &Path) -> anyhow::Result<Snapshot> {
    let place = path.display();
    let size = fs::metadata(path)
        .with_context(|| format!("--from {place}"))?
        .len();
    if size > MAX_BYTES {
        bail!("--from {place}: {size} bytes are too many for a snapshot");
    }
    let text = fs::read(path).with_context(|| format!("--from {place}"))?;
    parse(&text).with_context(|| format!("--from {place}"))
}

pub(crate) fn parse(text: &[u8]) -> anyhow::Result<Snapshot> {
    let save = "`meshmedic doctor --save FILE` writes one";
    let head: Head =
        serde_json::from_slice(text).with_context(|| format!("this is no snapshot of a cluster: {save}"))?;
    if head.kind.as_deref() != Some(KIND) {
        bail!("this is no snapshot of a cluster (its kind is not {KIND}): {save}");
    }
    match head.version.as_ref().and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        Some(version) => bail!(
            "this snapshot has version {version}, and this meshmedic reads version {VERSION}: use the meshmedic that \
             wrote it, or take it anew"
        ),
        None => bail!("this snapshot names no version: {save}"),
    }
    serde_json::from_slice(text).context("this snapshot is damaged")
}

/// Writes a snapshot, readable by its owner alone.
pub(crate) fn write(path: &Path, snapshot: &Snapshot) -> anyhow::Result<()> {
    let place = || format!("--save {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(OWNER_ONLY)
        .open(path)
        .with_context(place)?;
    // One that was there before has whatever rights it had; a pipe has none that could be changed.
    if file.metadata().with_context(place)?.is_file() {
        file.set_permissions(Permissions::from_mode(OWNER_ONLY))
            .with_context(place)?;
    }
    let mut file = BufWriter::new(file);
    serde_json::to_writer(&mut file, snapshot).with_context(place)?;
    file.write_all(b"\n")
        .and_then(|()| file.flush())
        .with_context(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::snapshot::Scope;

    #[test]
    fn what_is_no_snapshot_of_this_version_is_refused_with_a_next_step() {
        for (text, words) in [
            ("", "no snapshot"),
            ("{\"kind\"", "no snapshot"),
            ("[]", "no snapshot"),
            ("{}", "kind is not DoctorSnapshot"),
            ("{\"kind\":\"Pod\",\"version\":1}", "kind is not DoctorSnapshot"),
            ("{\"kind\":\"DoctorSnapshot\"}", "names no version"),
            (
                "{\"kind\":\"DoctorSnapshot\",\"version\":\"1\"}",
                "names no version",
            ),
            ("{\"kind\":\"DoctorSnapshot\",\"version\":2}", "has version 2"),
            ("{\"kind\":\"DoctorSnapshot\",\"version\":1}", "damaged"),
        ] {
            let error = format!("{:#}", parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_snapshot_comes_back_as_it_was_and_newer_fields_are_passed_over() {
        let taken = "2026-01-01T00:00:00Z".parse().unwrap();
        let snapshot = Snapshot::new(taken, Scope::default());
        let mut value = serde_json::to_value(&snapshot).unwrap();
        value["tomorrow"] = serde_json::json!({ "a": 1 });
        assert_eq!(parse(value.to_string().as_bytes()).unwrap(), snapshot);
        value.as_object_mut().unwrap().remove("pods");
        assert_eq!(parse(value.to_string().as_bytes()).unwrap(), snapshot);
    }

    #[test]
    fn a_file_that_was_there_is_for_its_owner_alone_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.json");
        fs::write(&path, "longer than nothing").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let snapshot = Snapshot::new("2026-01-01T00:00:00Z".parse().unwrap(), Scope::default());
        write(&path, &snapshot).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            OWNER_ONLY
        );
        assert_eq!(read(&path).unwrap(), snapshot);
    }
}
