// SPDX-License-Identifier: Apache-2.0
//! Objects of Istio and of the Gateway API without headers and other payloads.

use jiff::Timestamp;
use kube::core::DynamicObject;
use meshmedic_common::text::clean;
use serde_json::{Map, Value};

use super::metadata;
use crate::doctor::snapshot::{Condition, Custom, CustomKind, Keep, Status, StatusPart};

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
/// What is kept of one word or message of a status.
const MAX_WORDS: usize = 600;
/// How many conditions, listeners or parents are kept of one object.
const MOST: usize = 64;
/// A list of nested fields deeper than this is nobody's configuration.
const DEEPEST: usize = 32;

/// Reduces an object of this kind.
pub(crate) fn custom(kind: &CustomKind, api_version: &str, object: &DynamicObject) -> Custom {
    let whole = object.data.get("spec");
    let mut spec = match kind.keep {
        Keep::Spec => whole.cloned().unwrap_or(Value::Null),
        Keep::Fields(fields) => {
            let field = |name: &&str| Some(((*name).to_owned(), whole?.get(*name)?.clone()));
            Value::Object(fields.iter().filter_map(field).collect::<Map<_, _>>())
        }
        Keep::Name => Value::Null,
    };
    strip(&mut spec, 0);
    let status = object.data.get("status").filter(|_| kind.is_looked_into());
    Custom {
        api_version: api_version.to_owned(),
        kind: kind.kind.to_owned(),
        metadata: metadata(&object.metadata),
        spec,
        status: status.map(reduce).unwrap_or_default(),
    }
}

/// What controllers wrote: conditions, addresses, and the conditions of listeners, parents and ancestors.
fn reduce(status: &Value) -> Status {
    let listeners = list(status, "listeners").map(|listener| StatusPart {
        of: text(listener, "name"),
        controller: String::new(),
        conditions: conditions(listener),
    });
    let parents = [("parents", "parentRef"), ("ancestors", "ancestorRef")];
    let parents = parents.into_iter().flat_map(|(all, reference)| {
        list(status, all).map(move |parent| StatusPart {
            of: parent.get(reference).map(path).unwrap_or_default(),
            controller: text(parent, "controllerName"),
            conditions: conditions(parent),
        })
    });
    Status {
        conditions: conditions(status),
        addresses: list(status, "addresses")
            .map(|address| text(address, "value"))
            .collect(),
        parts: listeners.chain(parents).take(MOST).collect(),
    }
}

fn list<'v>(of: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    let all = of.get(field).and_then(Value::as_array);
    all.into_iter().flatten().take(MOST)
}

fn text(of: &Value, field: &str) -> String {
    let text = of.get(field).and_then(Value::as_str);
    clean(text.unwrap_or_default(), MAX_WORDS)
}

/// A reference to a parent, as `Kind namespace/name`, with the listener that it names.
fn path(reference: &Value) -> String {
    let or = |field: &str, else_: &str| match text(reference, field) {
        text if text.is_empty() => else_.to_owned(),
        text => text,
    };
    let of = match text(reference, "namespace") {
        namespace if namespace.is_empty() => String::new(),
        namespace => format!("{namespace}/"),
    };
    let section = match text(reference, "sectionName") {
        section if section.is_empty() => String::new(),
        section => format!(", listener {section}"),
    };
    format!(
        "{} {of}{}{section}",
        or("kind", "Gateway"),
        text(reference, "name")
    )
}

fn conditions(of: &Value) -> Vec<Condition> {
    let condition = |one: &Value| Condition {
        kind: text(one, "type"),
        status: text(one, "status"),
        reason: text(one, "reason"),
        message: text(one, "message"),
        // Istio's own objects have it as a text.
        observed_generation: one.get("observedGeneration").and_then(|generation| {
            let text = || generation.as_str()?.parse().ok();
            generation.as_i64().or_else(text)
        }),
        since: text(one, "lastTransitionTime").parse::<Timestamp>().ok(),
    };
    list(of, "conditions").map(condition).collect()
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
                    *field = Value::Object(Map::new());
                } else {
                    strip(field, depth + 1);
                }
            }
        }
        _ => {}
    }
}
