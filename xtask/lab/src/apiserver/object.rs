// SPDX-License-Identifier: Apache-2.0
//! Looking into objects, and the rules of their metadata.

use serde_json::{Map, Value, json};

use super::failure::{Failure, Outcome};
use super::resources::Resource;

/// The longest name.
const NAME: usize = 253;
/// The longest value of a label.
const LABEL: usize = 63;

/// A text at a JSON pointer; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A text of the metadata; empty where there is none.
pub(crate) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The list at a JSON pointer; empty where there is none.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Sets a field of the metadata, or removes it with `Null`.
pub(crate) fn set_meta(object: &mut Value, field: &str, value: Value) {
    set(metadata(object), field, value);
}

/// The metadata, which is made where it is missing.
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    map(&mut object["metadata"])
}

/// The map that a value shall be.
pub(crate) fn map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was just made a map"),
    }
}

/// Sets a field, or removes it with `Null`.
pub(crate) fn set(map: &mut Map<String, Value>, field: &str, value: Value) {
    if value.is_null() {
        map.remove(field);
    } else {
        map.insert(field.to_owned(), value);
    }
}

/// Whether a pod's condition Ready is true.
pub(crate) fn is_ready(pod: &Value) -> bool {
    list(pod, "/status/conditions")
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Whether an object is being deleted.
pub(crate) fn is_deleted(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

/// Whether finalizers hold an object.
pub(crate) fn is_held(object: &Value) -> bool {
    !list(object, "/metadata/finalizers").is_empty()
}

/// Checks what every object must keep to.
pub(crate) fn check(resource: &Resource, object: &Value) -> Outcome<()> {
    let name = meta(object, "name");
    if !is_name(resource, name) {
        let why = format!(
            "Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
             characters, '-' or '.', and must start and end with an alphanumeric character"
        );
        return Err(Failure::invalid(resource, name, "metadata.name", &why));
    }
    for field in ["labels", "annotations"] {
        let map = match &object["metadata"][field] {
            Value::Null => continue,
            Value::Object(map) => map,
            _ => return Err(wrong_type(resource, field)),
        };
        for (key, value) in map {
            let Some(value) = value.as_str() else {
                return Err(wrong_type(resource, field));
            };
            if field == "labels" && !is_label(value) {
                let why = format!(
                    "Invalid value: \"{value}\": a valid label must be an empty string or consist of alphanumeric \
                     characters, '-', '_' or '.', and must start and end with an alphanumeric character"
                );
                return Err(Failure::invalid(resource, name, "metadata.labels", &why));
            }
            if key.is_empty() {
                let field = format!("metadata.{field}");
                return Err(Failure::invalid(
                    resource,
                    name,
                    &field,
                    "name part must be non-empty",
                ));
            }
        }
    }
    if resource.is_pod() {
        if list(object, "/spec/containers").is_empty() {
            return Err(Failure::invalid(
                resource,
                name,
                "spec.containers",
                "Required value",
            ));
        }
        for container in list(object, "/spec/containers") {
            for field in ["name", "image"] {
                if text(container, &format!("/{field}")).is_empty() {
                    let field = format!("spec.containers[0].{field}");
                    return Err(Failure::invalid(resource, name, &field, "Required value"));
                }
            }
        }
    }
    Ok(())
}

fn wrong_type(resource: &Resource, field: &str) -> Failure {
    Failure::bad_request(format!(
        "{} in version \"{}\" cannot be handled as a {}: json: cannot unmarshal into Go struct field \
         ObjectMeta.metadata.{field} of type map[string]string",
        resource.kind, resource.version, resource.kind
    ))
}

fn is_name(resource: &Resource, name: &str) -> bool {
    if resource.group == "rbac.authorization.k8s.io" {
        // `system:node` and the like.
        return !name.is_empty() && !name.contains(['/', '%']);
    }
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    !name.is_empty()
        && name.len() <= NAME
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name.chars().all(|c| edge(c) || c == '-' || c == '.')
}

/// Whether a text can be the name of a container.
pub(crate) fn is_dns_label(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= LABEL
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name.chars().all(|c| edge(c) || c == '-')
}

fn is_label(value: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    value.is_empty()
        || (value.len() <= LABEL
            && value.starts_with(edge)
            && value.ends_with(edge)
            && value.chars().all(|c| edge(c) || matches!(c, '-' | '_' | '.')))
}

/// Fills in what the real one does for a new object.
pub(crate) fn fill(resource: &Resource, object: &mut Value) {
    match resource.kind {
        "Pod" => {
            object["status"] = json!({ "phase": "Pending", "qosClass": "BestEffort" });
            let spec = map(&mut object["spec"]);
            for (field, value) in [
                ("restartPolicy", json!("Always")),
                ("terminationGracePeriodSeconds", json!(30)),
                ("dnsPolicy", json!("ClusterFirst")),
                ("serviceAccountName", json!("default")),
                ("schedulerName", json!("default-scheduler")),
            ] {
                spec.entry(field).or_insert(value);
            }
        }
        "Namespace" => {
            let name = meta(object, "name").to_owned();
            object["status"] = json!({ "phase": "Active" });
            map(&mut object["metadata"]["labels"])
                .insert("kubernetes.io/metadata.name".to_owned(), name.into());
        }
        "Deployment" | "ReplicaSet" | "StatefulSet" => {
            object["status"] = json!({ "replicas": 0 });
            map(&mut object["spec"]).entry("replicas").or_insert(json!(1));
        }
        "DaemonSet" | "Job" | "PodDisruptionBudget" | "Service" => object["status"] = json!({}),
        _ => {}
    }
}

/// Whether two objects differ in nothing that a client wrote.
pub(crate) fn is_same(one: &Value, other: &Value) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        let metadata = metadata(&mut object);
        metadata.remove("managedFields");
        metadata.remove("resourceVersion");
        metadata.remove("generation");
        object
    };
    strip(one) == strip(other)
}
