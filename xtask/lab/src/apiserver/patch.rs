// SPDX-License-Identifier: Apache-2.0
//! The four kinds of patches.

use serde_json::{Map, Value};

use super::failure::{Failure, Outcome};
use super::object::map;

/// How a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// RFC 7386
    Merge,
    /// Kubernetes' own, which knows the keys of lists.
    Strategic,
    /// RFC 6902
    Json,
    /// Server-side apply.
    Apply,
}

impl Kind {
    pub(crate) fn of(content_type: &str) -> Outcome<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/json-patch+json" => Ok(Self::Json),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            other => Err(Failure::unsupported(other)),
        }
    }
}

/// Applies a patch that is not an apply.
pub(crate) fn patch(kind: Kind, object: &mut Value, patch: &Value) -> Outcome<()> {
    match kind {
        Kind::Json => json(object, patch),
        Kind::Merge if patch.is_object() => {
            merge(object, patch);
            Ok(())
        }
        Kind::Strategic | Kind::Apply if patch.is_object() => {
            strategic(map(object), patch);
            Ok(())
        }
        _ => Err(Failure::bad_request("the patch is not an object")),
    }
}

/// RFC 7386.
pub(crate) fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    let object = map(object);
    for (key, value) in patch {
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// By what the entries of a list are told apart, if they are merged at all.
pub(crate) fn merge_key(field: &str, entries: &[Value]) -> Option<&'static str> {
    let key = match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "webhooks" => "name",
        "ownerReferences" => "uid",
        "conditions" | "addresses" => "type",
        "volumeMounts" => "mountPath",
        "podIPs" | "hostIPs" | "hostAliases" => "ip",
        "taints" => "key",
        "ports" if entries.iter().any(|entry| entry.get("containerPort").is_some()) => "containerPort",
        "ports" if entries.iter().any(|entry| entry.get("port").is_some()) => "port",
        _ => return None,
    };
    Some(key)
}

fn strategic(object: &mut Map<String, Value>, patch: &Value) {
    let Value::Object(patch) = patch else { return };
    if patch.get("$patch").and_then(Value::as_str) == Some("replace") {
        object.clear();
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(Value::Array(entries)) = object.get_mut(list) {
                entries.retain(|entry| !gone.contains(entry));
            }
            continue;
        }
        // The order of a list, and which keys to keep: neither matters to whoever asks this server.
        if key.starts_with('$') {
            continue;
        }
        match value {
            Value::Null => {
                object.remove(key);
            }
            Value::Object(inner) => {
                if inner.get("$patch").and_then(Value::as_str) == Some("delete") {
                    object.remove(key);
                } else {
                    strategic(map(object.entry(key).or_insert(Value::Null)), value);
                }
            }
            Value::Array(entries) => strategic_list(object, key, entries),
            other => {
                object.insert(key.clone(), other.clone());
            }
        }
    }
}

fn strategic_list(object: &mut Map<String, Value>, field: &str, entries: &[Value]) {
    let old = object
        .get(field)
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let replaces = |entry: &Value| entry["$patch"] == "replace";
    let mut new = if entries.iter().any(replaces) {
        Vec::new()
    } else if field == "finalizers" {
        let added = entries.iter().filter(|entry| !old.contains(entry));
        let added: Vec<_> = added.cloned().collect();
        [old, added].concat()
    } else if let Some(key) = merge_key(field, entries) {
        let mut new = old;
        for entry in entries {
            let place = new.iter().position(|other| other[key] == entry[key]);
            match (place, entry["$patch"] == "delete") {
                (Some(place), true) => {
                    new.remove(place);
                }
                (None, true) => {}
                (Some(place), false) => strategic(map(&mut new[place]), entry),
                (None, false) => {
                    let mut made = Map::new();
                    strategic(&mut made, entry);
                    new.push(Value::Object(made));
                }
            }
        }
        object.insert(field.to_owned(), Value::Array(new));
        return;
    } else {
        entries.to_vec()
    };
    if new.is_empty() {
        new = entries.iter().filter(|entry| !replaces(entry)).cloned().collect();
    }
    object.insert(field.to_owned(), Value::Array(new));
}

/// RFC 6902.
fn json(object: &mut Value, patch: &Value) -> Outcome<()> {
    let Some(operations) = patch.as_array() else {
        return Err(Failure::bad_request("a JSON patch is a list of operations"));
    };
    operations
        .iter()
        .try_for_each(|operation| step(object, operation))
}

fn refused(what: String) -> Failure {
    Failure::new(
        422,
        "Invalid",
        format!("the server rejected our request due to an error in our request: {what}"),
    )
}

fn step(object: &mut Value, operation: &Value) -> Outcome<()> {
    let path = operation["path"].as_str().unwrap_or_default();
    let from = operation["from"].as_str().unwrap_or_default();
    let missing = |path: &str| refused(format!("{path} is not there"));
    match operation["op"].as_str().unwrap_or_default() {
        "add" => add(object, path, operation["value"].clone()),
        "remove" => remove(object, path).map(drop),
        "replace" => {
            let place = object.pointer_mut(path).ok_or_else(|| missing(path))?;
            *place = operation["value"].clone();
            Ok(())
        }
        "test" => match object.pointer(path) {
            Some(value) if *value == operation["value"] => Ok(()),
            _ => Err(refused(format!("testing path {path} failed"))),
        },
        "copy" => {
            let value = object.pointer(from).ok_or_else(|| missing(from))?.clone();
            add(object, path, value)
        }
        "move" => {
            let value = remove(object, from)?;
            add(object, path, value)
        }
        other => Err(refused(format!("unknown operation {other:?}"))),
    }
}

fn parent<'a>(object: &'a mut Value, path: &str) -> Outcome<(&'a mut Value, String)> {
    let (above, last) = path
        .rsplit_once('/')
        .ok_or_else(|| refused(format!("{path:?} is no path")))?;
    let place = object
        .pointer_mut(above)
        .ok_or_else(|| refused(format!("{above:?} is not there")))?;
    Ok((place, last.replace("~1", "/").replace("~0", "~")))
}

fn add(object: &mut Value, path: &str, value: Value) -> Outcome<()> {
    if path.is_empty() {
        *object = value;
        return Ok(());
    }
    match parent(object, path)? {
        (Value::Object(map), key) => {
            map.insert(key, value);
        }
        (Value::Array(list), key) if key == "-" => list.push(value),
        (Value::Array(list), key) => match key.parse() {
            Ok(place) if place <= list.len() => list.insert(place, value),
            _ => return Err(refused(format!("{path} is out of the list"))),
        },
        _ => return Err(refused(format!("{path} is in neither a map nor a list"))),
    }
    Ok(())
}

fn remove(object: &mut Value, path: &str) -> Outcome<Value> {
    let gone = || refused(format!("{path} is not there"));
    match parent(object, path)? {
        (Value::Object(map), key) => map.remove(&key).ok_or_else(gone),
        (Value::Array(list), key) => match key.parse::<usize>() {
            Ok(place) if place < list.len() => Ok(list.remove(place)),
            _ => Err(gone()),
        },
        _ => Err(gone()),
    }
}

/// The names of all fields that an apply gives, as managed fields keep them.
pub(crate) fn fields(value: &Value) -> Value {
    let mut found = Map::new();
    if let Value::Object(map) = value {
        for (key, value) in map {
            let inner = match value {
                Value::Array(entries) => entry_fields(key, entries),
                other => fields(other),
            };
            found.insert(format!("f:{key}"), inner);
        }
    }
    Value::Object(found)
}

fn entry_fields(field: &str, entries: &[Value]) -> Value {
    let Some(key) = merge_key(field, entries) else {
        return Value::Object(Map::new());
    };
    let named = entries.iter().map(|entry| {
        let name = format!("k:{{\"{key}\":{}}}", entry[key]);
        (name, fields(entry))
    });
    Value::Object(named.collect())
}

/// Removes what an earlier apply of the same manager gave and this one no longer does.
pub(crate) fn forget(object: &mut Value, earlier: &Value, now: &Value) {
    let (Value::Object(earlier), Value::Object(map)) = (earlier, object) else {
        return;
    };
    for (name, inner) in earlier {
        let Some(field) = name.strip_prefix("f:") else {
            continue;
        };
        let still = now.get(name);
        if still.is_none() {
            if inner.as_object().is_some_and(Map::is_empty) {
                map.remove(field);
            } else if let Some(place) = map.get_mut(field) {
                forget(place, inner, &Value::Null);
            }
        } else if let (Some(still), Some(place)) = (still, map.get_mut(field)) {
            match place {
                Value::Array(entries) => entries.retain(|entry| {
                    let named = |set: &Value| {
                        set.as_object()
                            .is_some_and(|set| set.keys().any(|key| is_named(key, entry)))
                    };
                    !named(inner) || named(still)
                }),
                other => forget(other, inner, still),
            }
        }
    }
}

/// Whether `k:{"name":"x"}` names an entry of a list.
fn is_named(key: &str, entry: &Value) -> bool {
    let key = key
        .strip_prefix("k:")
        .and_then(|key| serde_json::from_str::<Value>(key).ok());
    let Some(Value::Object(key)) = key else {
        return false;
    };
    key.iter().all(|(field, value)| entry[field] == *value)
}
