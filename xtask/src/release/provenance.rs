// SPDX-License-Identifier: Apache-2.0
//! What was built from what, as a SLSA provenance in an in-toto statement.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::folder::Folder;
use super::{REPOSITORY, VERSION};
use crate::image::Commit;
use crate::pack::hex;
use crate::pack::oci::canonical;

/// What decides about a build beside the sources themselves.
const LOCKED: [&str; 3] = ["Cargo.lock", "meshmedic-ebpf/Cargo.lock", "rust-toolchain.toml"];

/// The statement on every file that is in the folder now.
pub(super) fn statement(workspace: &Path, folder: &Folder, commit: &Commit) -> Result<Vec<u8>> {
    let subjects: Vec<Value> = folder
        .digests()
        .map(|(name, digest)| json!({ "name": name, "digest": { "sha256": digest } }))
        .collect();
    let mut from = vec![json!({
        "uri": format!("git+{REPOSITORY}"),
        // What is not committed cannot be had again: `-dirty` says so.
        "digest": { "gitCommit": commit.revision.as_deref().unwrap_or("unknown") },
    })];
    for name in LOCKED {
        let bytes = fs::read(workspace.join(name)).with_context(|| format!("cannot read {name}"))?;
        from.push(json!({ "name": name, "digest": { "sha256": hex(&bytes) } }));
    }
    canonical(&json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": format!("{REPOSITORY}/blob/main/docs/verify.md#what-a-dry-run-proves"),
                "externalParameters": { "version": VERSION },
                "resolvedDependencies": from,
            },
            "runDetails": {
                // Nobody vouches for the machine of a dry run.
                "builder": { "id": format!("{REPOSITORY}/blob/main/docs/verify.md#what-a-dry-run-proves") },
            },
        },
    }))
}
