// SPDX-License-Identifier: Apache-2.0
//! A list of contents in the words of SPDX, from the same list in those of CycloneDX.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{REPOSITORY, VERSION};
use crate::pack::hex;
use crate::pack::oci::canonical;

const NOTHING_SAID: &str = "NOASSERTION";

/// Writes the list that `cyclone` is; `name` is what it is of.
pub(super) fn from(cyclone: &[u8], name: &str) -> Result<Vec<u8>> {
    let list: Value = serde_json::from_slice(cyclone).context("a list of contents is no JSON")?;
    let subject = &list["metadata"]["component"];
    let parts = list["components"]
        .as_array()
        .context("a list without components")?;
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", &id(subject)?)];
    let mut packages = Vec::new();
    let mut files = Vec::new();
    for part in std::iter::once(subject).chain(parts) {
        if part["type"] == "file" {
            files.push(file(part)?);
            relations.push(relation(&id(subject)?, "DEPENDS_ON", &id(part)?));
        } else {
            packages.push(package(part)?);
        }
    }
    for dependency in list["dependencies"].as_array().into_iter().flatten() {
        let from = named(&dependency["ref"])?;
        for needed in dependency["dependsOn"].as_array().into_iter().flatten() {
            relations.push(relation(&from, "DEPENDS_ON", &named(needed)?));
        }
    }
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        // Other contents, another name, as the specification asks.
        "documentNamespace": format!("{REPOSITORY}/releases/download/v{VERSION}/{name}.spdx.json#{}", hex(cyclone)),
        "creationInfo": {
            "created": list["metadata"]["timestamp"],
            "creators": [format!("Tool: cargo-xtask-release-{VERSION}")],
        },
        "packages": packages,
        "files": files,
        "relationships": relations,
    });
    canonical(&document)
}

fn package(component: &Value) -> Result<Value> {
    let licence = component["licenses"][0]["expression"].as_str();
    let mut package = json!({
        "SPDXID": id(component)?,
        "name": component["name"],
        "versionInfo": component["version"],
        "downloadLocation": NOTHING_SAID,
        "filesAnalyzed": false,
        "licenseConcluded": NOTHING_SAID,
        "licenseDeclared": licence.unwrap_or(NOTHING_SAID),
        "copyrightText": NOTHING_SAID,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": component["purl"],
        }],
    });
    if let Some(digest) = digest(component) {
        package["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": digest }]);
    }
    Ok(package)
}

/// A file has to have a digest of the old kind as well, says the specification; the list has only the one that counts.
fn file(component: &Value) -> Result<Value> {
    Ok(json!({
        "SPDXID": id(component)?,
        "fileName": component["name"],
        "licenseConcluded": NOTHING_SAID,
        "copyrightText": NOTHING_SAID,
        "checksums": [{
            "algorithm": "SHA256",
            "checksumValue": digest(component).context("a file without its digest")?,
        }],
    }))
}

fn digest(component: &Value) -> Option<&str> {
    component["hashes"][0]["content"].as_str()
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

fn id(component: &Value) -> Result<String> {
    named(&component["bom-ref"])
}

/// Letters, digits, dots and dashes are all that a name may have; the digest keeps apart what is then alike.
fn named(reference: &Value) -> Result<String> {
    let reference = reference.as_str().context("a component without a reference")?;
    let plain: String = reference
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    Ok(format!("SPDXRef-{plain}-{}", &hex(reference.as_bytes())[..8]))
}
