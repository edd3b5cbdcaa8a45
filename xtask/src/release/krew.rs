// SPDX-License-Identifier: Apache-2.0
//! The manifest by which krew installs the command as a plugin of kubectl.

use anyhow::{Context as _, Result};
use serde_json::json;

use super::targets::Target;
use super::{REPOSITORY, VERSION};

/// What krew downloads for one kind of machine.
pub(super) struct Platform {
    pub(super) target: &'static Target,
    pub(super) archive: String,
    pub(super) digest: String,
}

pub(super) fn manifest(platforms: &[Platform]) -> Result<String> {
    let platforms: Vec<_> = platforms
        .iter()
        .map(|platform| {
            json!({
                "selector": { "matchLabels": {
                    "os": platform.target.os,
                    "arch": platform.target.processor,
                }},
                "uri": format!("{REPOSITORY}/releases/download/v{VERSION}/{}", platform.archive),
                "sha256": platform.digest,
                "bin": platform.target.program(),
            })
        })
        .collect();
    let manifest = json!({
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": { "name": "meshmedic" },
        "spec": {
            "version": format!("v{VERSION}"),
            "homepage": REPOSITORY,
            "shortDescription": "Finds and heals pods that fell out of an Istio ambient mesh",
            "description": "Shows which pods silently dropped out of an Istio ambient mesh, says why, and brings \
                            them back under rules that say why they refuse.\n",
            "platforms": platforms,
        },
    });
    serde_saphyr::to_string(&manifest).context("cannot write krew's manifest")
}
