// SPDX-License-Identifier: Apache-2.0
//! Paths of resources and objects, for the lab's client.

use serde_json::Value;

use super::object::{meta, text};
use super::resources::{RESOURCES, Resource, group_version};
use crate::error::{Error, Result};

/// The paths of an object.
pub(crate) struct Route {
    /// Where it is created.
    pub(crate) collection: String,
    /// Where it is.
    pub(crate) object: String,
}

/// The path of a resource (`pods/status`, `events.events.k8s.io`) or of one of its objects.
pub(crate) fn route_to(resource: &str, namespace: &str, name: &str) -> Result<String> {
    let (plural, below) = resource.split_once('/').unwrap_or((resource, ""));
    let found = RESOURCES
        .iter()
        .find(|known| known.plural == plural || known.qualified() == plural)
        .ok_or_else(|| Error::Manifest(format!("no resource {resource} is known")))?;
    let mut path = collection(found, namespace);
    if !name.is_empty() {
        path += &format!("/{name}");
    }
    if !below.is_empty() {
        path += &format!("/{below}");
    }
    Ok(path)
}

/// The paths of an object, by its kind.
pub(crate) fn route_of(object: &Value) -> Result<Route> {
    let (version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
    let resource = RESOURCES
        .iter()
        .find(|known| known.kind == kind && known.api_version() == version)
        .ok_or_else(|| Error::Manifest(format!("the kind {version} {kind} is not served")))?;
    let namespace = match meta(object, "namespace") {
        "" => "default",
        namespace => namespace,
    };
    let collection = collection(resource, namespace);
    let object = format!("{collection}/{}", meta(object, "name"));
    Ok(Route { collection, object })
}

fn collection(resource: &Resource, namespace: &str) -> String {
    let prefix = if resource.group.is_empty() { "api" } else { "apis" };
    let version = group_version(resource.group, resource.version);
    let plural = resource.plural;
    if resource.namespaced && !namespace.is_empty() {
        format!("/{prefix}/{version}/namespaces/{namespace}/{plural}")
    } else {
        format!("/{prefix}/{version}/{plural}")
    }
}
