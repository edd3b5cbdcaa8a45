// SPDX-License-Identifier: Apache-2.0
//! Kubeconfig files.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::error::{Context as _, Result};

/// The token of a user who may do everything.
pub(super) const ADMIN: &str = "admin";

/// Writes a kubeconfig, in JSON, which is YAML.
pub(super) fn write(path: &Path, url: &str, token: &str) -> Result<()> {
    let mut cluster = json!({ "server": url });
    if url.starts_with("https://") {
        // The real one makes a certificate of its own at its start.
        cluster["insecure-skip-tls-verify"] = true.into();
    }
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "lab", "cluster": cluster }],
        "users": [{ "name": "lab", "user": { "token": token } }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab" } }],
        "current-context": "lab",
    });
    fs::write(path, config.to_string()).context(|| format!("writing {}", path.display()))
}
