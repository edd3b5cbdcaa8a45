// SPDX-License-Identifier: Apache-2.0
//! Manifests of several documents.

use serde_json::Value;

use crate::error::{Error, Result};

/// Reads the objects of a manifest; empty documents are left out, a `List` becomes its items.
pub fn documents(yaml: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(yaml).map_err(|error| Error::Manifest(error.to_string()))?;
    let mut objects = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(mut list) if list.get("kind").and_then(Value::as_str) == Some("List") => {
                if let Some(Value::Array(items)) = list.remove("items") {
                    objects.extend(items);
                }
            }
            object => objects.push(object),
        }
    }
    Ok(objects)
}
