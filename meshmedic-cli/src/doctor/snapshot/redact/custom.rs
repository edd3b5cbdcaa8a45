// SPDX-License-Identifier: Apache-2.0
//! Objects of Istio and of the Gateway API without headers and other payloads.

use kube::core::DynamicObject;
use serde_json::Value;

use super::metadata;
use crate::doctor::snapshot::{Custom, CustomKind};

/// Fields, wherever they stand, that carry what users send or answer, and that no check looks at.
const LEFT_OUT: [&str; 10] = [
    "cookie",
    "corsPolicy",
    "directResponse",
    "fault",
    "filters",
    "fromHeaders",
    "headers",
    "jwks",
    "queryParams",
    "withoutHeaders",
];
/// A list of nested fields deeper than this is nobody's configuration.
const DEEPEST: usize = 32;

/// Reduces an object of this kind.
pub(crate) fn custom(kind: &CustomKind, api_version: &str, object: &DynamicObject) -> Custom {
    let spec = object.data.get("spec").filter(|_| kind.with_spec);
    let mut spec = spec.cloned().unwrap_or(Value::Null);
    strip(&mut spec, 0);
    Custom {
        api_version: api_version.to_owned(),
        kind: kind.kind.to_owned(),
        metadata: metadata(&object.metadata),
        spec,
    }
}

/// That a field was there is kept, what was in it is not.
fn strip(value: &mut Value, depth: usize) {
    if depth > DEEPEST {
        *value = Value::Null;
        return;
    }
    match value {
        Value::Array(all) => all.iter_mut().for_each(|one| strip(one, depth + 1)),
        Value::Object(fields) => {
            // What a condition on a header compares with may be a token.
            let of_header = fields
                .get("key")
                .and_then(Value::as_str)
                .is_some_and(|key| key.contains("headers"));
            for (name, field) in fields {
                let compared = of_header && (name == "values" || name == "notValues");
                if compared || LEFT_OUT.contains(&name.as_str()) {
                    *field = Value::Object(serde_json::Map::new());
                } else {
                    strip(field, depth + 1);
                }
            }
        }
        _ => {}
    }
}
