// SPDX-License-Identifier: Apache-2.0
//! Adding ephemeral containers to a pod.

use serde_json::{Value, json};

use super::super::failure::{Failure, Outcome};
use super::super::object::{is_dns_label, list, map, meta, set_meta, text};
use super::super::patch::{self, Kind};
use super::super::resources::known;
use super::super::security;
use super::super::store::{Key, Object, version_of};
use super::Writer;

/// Says that a pod is only the mirror of a static one.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// What an ephemeral container cannot have.
const BARRED: [&str; 8] = [
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resources",
    "resizePolicy",
    "restartPolicy",
];

impl Writer<'_> {
    /// Replaces or patches the ephemeral containers of a pod, and nothing else of it.
    pub(crate) fn add_ephemeral(&mut self, key: &Key, kind: Option<Kind>, given: &Value) -> Outcome<Object> {
        let pods = known("pods");
        let old = self.find(pods, key)?;
        let mut new = (*old).clone();
        match kind {
            Some(kind) => {
                set_meta(&mut new, "resourceVersion", Value::Null);
                patch::patch(kind, &mut new, given)?;
            }
            None => {
                self.check_kind(pods, given)?;
                new = given.clone();
            }
        }
        let (uid, version) = (meta(&new, "uid"), meta(&new, "resourceVersion"));
        if !uid.is_empty() && uid != meta(&old, "uid") {
            return Err(Failure::conflict(pods, &key.name, "the UID does not match"));
        }
        if !version.is_empty() && version.parse() != Ok(version_of(&old)) {
            return Err(Failure::outdated(pods, &key.name));
        }
        let mut wanted = new["spec"]["ephemeralContainers"].take();
        if let Value::Array(wanted) = &mut wanted {
            wanted.iter_mut().for_each(fill);
        }
        check(&old, &key.name, &wanted)?;
        let before = &old["spec"]["ephemeralContainers"];
        if wanted == *before || (before.is_null() && wanted == json!([])) {
            return Ok(old);
        }
        let mut pod = (*old).clone();
        map(&mut pod["spec"]).insert("ephemeralContainers".to_owned(), wanted);
        security::admit(self.store, &old, &pod)?;
        if let Some(generation) = old["metadata"]["generation"].as_i64() {
            set_meta(&mut pod, "generation", (generation + 1).into());
        }
        self.sign(&mut pod, pods, "Update", Some("ephemeralcontainers"), None);
        Ok(self.store.put(key.clone(), pod))
    }
}

/// Fills in what the real one does for a container.
fn fill(container: &mut Value) {
    let image = text(container, "/image").to_owned();
    let latest =
        !image.rsplit('/').next().unwrap_or_default().contains([':', '@']) || image.ends_with(":latest");
    let pull = if latest { "Always" } else { "IfNotPresent" };
    let fields = map(container);
    for (field, value) in [
        ("resources", json!({})),
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
        ("imagePullPolicy", json!(pull)),
    ] {
        fields.entry(field).or_insert(value);
    }
}

fn check(old: &Value, name: &str, wanted: &Value) -> Outcome<()> {
    let pods = known("pods");
    let invalid = |field: &str, why: &str| Err(Failure::invalid(pods, name, field, why));
    if !old["metadata"]["annotations"][MIRROR].is_null() {
        return invalid("[]", "Forbidden: static pods do not support ephemeral containers");
    }
    let names = |field: &str| list(old, field).iter().map(|other| text(other, "/name"));
    let others: Vec<_> = names("/spec/containers")
        .chain(names("/spec/initContainers"))
        .collect();
    let wanted = wanted.as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, container) in wanted.iter().enumerate() {
        let at = |field: &str| format!("spec.ephemeralContainers[{index}].{field}");
        let name = text(container, "/name");
        if name.is_empty() {
            return invalid(&at("name"), "Required value");
        }
        if !is_dns_label(name) {
            let why = format!(
                "Invalid value: \"{name}\": a lowercase RFC 1123 label must consist of lower case alphanumeric \
                 characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
                 '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            );
            return invalid(&at("name"), &why);
        }
        let mut earlier = wanted[..index].iter().map(|other| text(other, "/name"));
        if others.contains(&name) || earlier.any(|other| other == name) {
            return invalid(&at("name"), &format!("Duplicate value: \"{name}\""));
        }
        if text(container, "/image").is_empty() {
            return invalid(&at("image"), "Required value");
        }
        let policy = text(container, "/terminationMessagePolicy");
        if !matches!(policy, "File" | "FallbackToLogsOnError") {
            let why = format!(
                "Unsupported value: \"{policy}\": supported values: \"FallbackToLogsOnError\", \"File\""
            );
            return invalid(&at("terminationMessagePolicy"), &why);
        }
        for field in BARRED {
            let given = &container[field];
            if !given.is_null() && *given != json!({}) && *given != json!([]) {
                return invalid(&at(field), "Forbidden: cannot be set for an Ephemeral Container");
            }
        }
        let target = text(container, "/targetContainerName");
        if !target.is_empty() && !others.contains(&target) {
            return invalid(&at("targetContainerName"), &format!("Not found: \"{target}\""));
        }
    }
    for before in list(old, "/spec/ephemeralContainers") {
        let name = text(before, "/name");
        let after = wanted.iter().find(|other| text(other, "/name") == name);
        let how = match after {
            None => "removed",
            Some(after) if after != before => "changed",
            Some(_) => continue,
        };
        let why = format!("Forbidden: existing ephemeral containers \"{name}\" may not be {how}\n");
        return invalid("spec.ephemeralContainers", &why);
    }
    Ok(())
}
