// SPDX-License-Identifier: Apache-2.0
//! Getting and listing.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::call::Call;
use super::failure::{Failure, Outcome};
use super::object::map;
use super::resources::group_version;
use super::store::{Key, Objects, Store, of};

/// What the real one says of a continue token whose version is gone.
const TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can start \
                       a new list without the continue parameter.";

/// Reduces an object to its metadata, where that is what is wanted.
pub(crate) fn shown(call: &Call, object: &Value) -> Value {
    if call.is_partial() {
        json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object["metadata"],
        })
    } else {
        object.clone()
    }
}

/// Shows an object, maybe as it was earlier.
pub(crate) fn get(store: &Store, call: &Call, stale: Option<u64>) -> Outcome<Value> {
    let known = match call.below.as_str() {
        "" => true,
        "status" => call.resource.status,
        "ephemeralcontainers" => call.resource.is_pod(),
        _ => false,
    };
    if !known {
        return Err(Failure::no_such_path());
    }
    let key = Key::new(call.resource, call.space(), &call.name);
    let past = stale.and_then(|version| store.at(version));
    let objects = past.as_ref().unwrap_or(store.objects());
    let object = objects
        .get(&key)
        .ok_or_else(|| Failure::not_found(call.resource, &call.name))?;
    Ok(shown(call, object))
}

/// Shows the objects of a resource, maybe as they were earlier.
pub(crate) fn list(store: &Store, call: &Call, stale: Option<u64>) -> Outcome<Value> {
    let query = &call.query;
    let (version, start) = match query.get("continue") {
        "" => (asked_version(store, call)?, None),
        token => {
            let (version, key) = parse(call, token)?;
            (version, Some(key))
        }
    };
    let version = stale.unwrap_or(version);
    let objects: Cow<'_, Objects> = if version == store.version() {
        Cow::Borrowed(store.objects())
    } else {
        Cow::Owned(store.at(version).ok_or_else(|| match start {
            Some(_) => Failure::expired(TOO_OLD),
            None => too_old(version, store),
        })?)
    };
    let mut found = of(&objects, call.resource, call.namespace.as_deref())
        .filter(|(key, _)| start.as_ref().is_none_or(|start| *key > start))
        .filter(|(_, object)| call.selector.matches(object));
    let limit = query.get("limit").parse().ok().filter(|limit| *limit > 0);
    let mut items = Vec::new();
    let mut last = None;
    for (key, object) in found.by_ref().take(limit.unwrap_or(usize::MAX)) {
        let mut item = shown(call, object);
        if !call.is_partial() {
            // The real one leaves them out of lists.
            map(&mut item).remove("apiVersion");
            map(&mut item).remove("kind");
        }
        items.push(item);
        last = Some(key);
    }
    let left = found.count();
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if let (Some(last), true) = (last, left > 0) {
        metadata["continue"] = format!("{version}:{}:{}", last.namespace, last.name).into();
        if call.selector.is_empty() {
            metadata["remainingItemCount"] = left.into();
        }
    }
    let (kind, api_version) = if call.is_partial() {
        (
            "PartialObjectMetadataList".to_owned(),
            "meta.k8s.io/v1".to_owned(),
        )
    } else {
        let resource = call.resource;
        (
            format!("{}List", resource.kind),
            group_version(resource.group, resource.version),
        )
    };
    Ok(json!({ "kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items }))
}

/// The version that a list shall have.
fn asked_version(store: &Store, call: &Call) -> Outcome<u64> {
    let asked = call.query.get("resourceVersion");
    let exact = call.query.get("resourceVersionMatch") == "Exact";
    if asked.is_empty() || asked == "0" {
        return Ok(store.version());
    }
    let asked: u64 = asked
        .parse()
        .map_err(|_| Failure::bad_request(format!("invalid resource version \"{asked}\"")))?;
    check_future(asked, store)?;
    Ok(if exact { asked } else { store.version() })
}

/// Refuses a version that is not there yet.
pub(crate) fn check_future(asked: u64, store: &Store) -> Outcome<()> {
    if asked <= store.version() {
        return Ok(());
    }
    let message = format!(
        "Too large resource version: {asked}, current: {}",
        store.version()
    );
    let mut failure = Failure::of_code(504, message, Some(1));
    failure.details["causes"] =
        json!([{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }]);
    Err(failure)
}

/// Says that a version is forgotten.
pub(crate) fn too_old(version: u64, store: &Store) -> Failure {
    Failure::expired(format!("too old resource version: {version} ({})", store.floor()))
}

fn parse(call: &Call, token: &str) -> Outcome<(u64, Key)> {
    let bad = || Failure::bad_request("continue key is not valid");
    let mut words = token.splitn(3, ':');
    let version = words.next().and_then(|word| word.parse().ok()).ok_or_else(bad)?;
    let (namespace, name) = words.next().zip(words.next()).ok_or_else(bad)?;
    Ok((version, Key::new(call.resource, namespace, name)))
}
