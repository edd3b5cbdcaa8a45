// SPDX-License-Identifier: Apache-2.0
//! Kubeconfig files.

use std::io::{self, Write as _};
use std::path::Path;

use serde_json::json;

use crate::error::{Context as _, Result};

/// The token of a user who may do everything.
pub(super) const ADMIN: &str = "admin";

/// Writes a kubeconfig, in JSON, which is YAML. Whoever reads the one that is there meanwhile finds it whole.
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
    let written = || -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(config.to_string().as_bytes())?;
        file.persist(path)?;
        Ok(())
    };
    written().context(|| format!("writing {}", path.display()))
}
