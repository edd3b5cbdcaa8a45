// SPDX-License-Identifier: Apache-2.0
//! Creating and changing objects.

use std::sync::Arc;

use serde_json::{Value, json};

use super::budgets;
use super::failure::{Failure, Outcome};
use super::object::{self, is_deleted, is_held, map, meta, metadata, set_meta};
use super::patch::{self, Kind};
use super::resources::{Resource, known};
use super::store::{Key, Object, Store, version_of};

mod delete;
mod ephemeral;

pub(crate) use delete::Deletion;

/// What generated names end with.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many characters of it.
const SUFFIX: usize = 5;
/// What a field manager is called if nobody says.
const UNKNOWN: &str = "unknown";

/// Changes objects on somebody's behalf.
pub(crate) struct Writer<'a> {
    pub(crate) store: &'a mut Store,
    /// RFC 3339.
    pub(crate) now: String,
    pub(crate) later: &'a dyn Fn(i64) -> String,
    pub(crate) manager: String,
}

/// The field manager that a request names, or its user agent does.
pub(crate) fn manager(named: &str, user_agent: &str) -> String {
    let found = [named, user_agent.split('/').next().unwrap_or_default()];
    let found = found.into_iter().find(|name| !name.is_empty());
    found.unwrap_or(UNKNOWN).to_owned()
}

impl Writer<'_> {
    /// Creates an object.
    pub(crate) fn create(&mut self, resource: &Resource, namespace: &str, mut new: Value) -> Outcome<Object> {
        self.check_kind(resource, &new)?;
        clear_namespace(resource, &mut new);
        let given = meta(&new, "namespace");
        if !given.is_empty() && given != namespace {
            return Err(Failure::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request: {given}"
            )));
        }
        if meta(&new, "name").is_empty() {
            let prefix = meta(&new, "generateName").to_owned();
            if prefix.is_empty() {
                let why = "Required value: name or generateName is required";
                return Err(Failure::invalid(resource, "", "metadata.name", why));
            }
            let name = self.generate(&prefix);
            set_meta(&mut new, "name", name.into());
        }
        let name = meta(&new, "name").to_owned();
        object::check(resource, &new)?;
        self.check_namespace(resource, namespace, &name)?;
        let key = Key::new(resource, namespace, &name);
        if self.store.get(&key).is_some() {
            return Err(Failure::exists(resource, &name));
        }
        for field in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "managedFields",
        ] {
            set_meta(&mut new, field, Value::Null);
        }
        let uid = crate::pod::uid(&self.store.seed());
        set_meta(&mut new, "uid", uid.into());
        set_meta(&mut new, "creationTimestamp", self.now.as_str().into());
        if resource.namespaced {
            set_meta(&mut new, "namespace", namespace.into());
        }
        if resource.status && new.get("spec").is_some() {
            set_meta(&mut new, "generation", 1.into());
        }
        map(&mut new).insert("apiVersion".to_owned(), resource.api_version().into());
        map(&mut new).insert("kind".to_owned(), resource.kind.into());
        object::fill(resource, &mut new);
        self.sign(&mut new, resource, "Update", None, None);
        let made = self.store.put(key.clone(), new);
        self.afterwards(resource, &key);
        Ok(self.store.get(&key).cloned().unwrap_or(made))
    }

    fn generate(&mut self, prefix: &str) -> String {
        let digits = crate::pod::hex(&self.store.seed(), SUFFIX * 2);
        let suffix = digits.as_bytes().chunks(2).map(|pair| {
            let number = str::from_utf8(pair)
                .ok()
                .and_then(|pair| usize::from_str_radix(pair, 16).ok());
            char::from(ALPHABET[number.unwrap_or_default() % ALPHABET.len()])
        });
        prefix.chars().chain(suffix).collect()
    }

    fn check_kind(&self, resource: &Resource, new: &Value) -> Outcome<()> {
        let wrong = |field: &str, right: &str| {
            let given = new[field].as_str().unwrap_or_default();
            !given.is_empty() && given != right
        };
        if wrong("kind", resource.kind) || wrong("apiVersion", &resource.api_version()) {
            return Err(Failure::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): {} in {}",
                resource.kind, new["kind"], new["apiVersion"]
            )));
        }
        Ok(())
    }

    fn check_namespace(&self, resource: &Resource, namespace: &str, name: &str) -> Outcome<()> {
        if !resource.namespaced {
            return Ok(());
        }
        let namespaces = known("namespaces");
        let found = self.store.get(&Key::new(namespaces, "", namespace));
        let found = found.ok_or_else(|| Failure::not_found(namespaces, namespace))?;
        if is_deleted(found) {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            return Err(Failure::forbidden(resource, name, &why));
        }
        Ok(())
    }

    /// Replaces an object, or its status.
    pub(crate) fn update(
        &mut self,
        resource: &Resource,
        key: &Key,
        status: bool,
        new: Value,
    ) -> Outcome<Object> {
        self.check_kind(resource, &new)?;
        let old = self.find(resource, key)?;
        let uid = meta(&new, "uid");
        if !uid.is_empty() && uid != meta(&old, "uid") {
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: /registry/{}/{}/{}, ResourceVersion: 0, \
                 AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                resource.plural,
                key.namespace,
                key.name,
                meta(&old, "uid")
            );
            return Err(Failure::conflict(resource, &key.name, &why));
        }
        if meta(&new, "resourceVersion").is_empty() && !resource.unconditional {
            let why = "Invalid value: 0x0: must be specified for an update";
            return Err(Failure::invalid(
                resource,
                &key.name,
                "metadata.resourceVersion",
                why,
            ));
        }
        self.change(resource, key, &old, new, status, "Update", None)
    }

    /// Patches an object, or its status; an apply creates what is not there.
    pub(crate) fn patch(
        &mut self,
        resource: &Resource,
        key: &Key,
        status: bool,
        kind: Kind,
        given: &Value,
    ) -> Outcome<(Object, bool)> {
        let apply = kind == Kind::Apply;
        if apply && self.store.get(key).is_none() && !status {
            if !meta(given, "uid").is_empty() {
                let why = "uid mismatch: the provided object specified uid, and no existing object was found";
                return Err(Failure::conflict(resource, &key.name, why));
            }
            let mut new = given.clone();
            set_meta(&mut new, "name", key.name.as_str().into());
            let made = self.create(resource, &key.namespace, new)?;
            let mut made = (*made).clone();
            set_meta(&mut made, "managedFields", Value::Null);
            self.sign(&mut made, resource, "Apply", None, Some(patch::fields(given)));
            let made = self.store.put(key.clone(), made);
            return Ok((made, true));
        }
        let old = self.find(resource, key)?;
        let mut new = (*old).clone();
        let fields = apply.then(|| patch::fields(given));
        if let Some(fields) = &fields {
            let before = object::list(&old, "/metadata/managedFields").iter();
            let mut before =
                before.filter(|e| e["manager"] == self.manager.as_str() && e["operation"] == "Apply");
            if let Some(before) = before.next() {
                patch::forget(&mut new, &before["fieldsV1"], fields);
            }
        }
        // A version that the patch does not give is no precondition.
        set_meta(&mut new, "resourceVersion", Value::Null);
        patch::patch(kind, &mut new, given)?;
        let uid = meta(&new, "uid");
        if uid != meta(&old, "uid") {
            // The real one answers so and not with a conflict, since only an update carries preconditions.
            let why = format!("Invalid value: \"{uid}\": field is immutable");
            return Err(Failure::invalid(resource, &key.name, "metadata.uid", &why));
        }
        let operation = if apply { "Apply" } else { "Update" };
        let changed = self.change(resource, key, &old, new, status, operation, fields)?;
        Ok((changed, false))
    }

    /// Finds an object that must be there.
    pub(crate) fn find(&self, resource: &Resource, key: &Key) -> Outcome<Object> {
        let found = self.store.get(key).cloned();
        found.ok_or_else(|| Failure::not_found(resource, &key.name))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "each says another thing about one change"
    )]
    fn change(
        &mut self,
        resource: &Resource,
        key: &Key,
        old: &Object,
        mut new: Value,
        status: bool,
        operation: &str,
        fields: Option<Value>,
    ) -> Outcome<Object> {
        clear_namespace(resource, &mut new);
        let version = meta(&new, "resourceVersion");
        if !version.is_empty() && version.parse() != Ok(version_of(old)) {
            return Err(Failure::outdated(resource, &key.name));
        }
        if meta(&new, "name") != key.name || meta(&new, "namespace") != key.namespace {
            return Err(Failure::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                meta(&new, "name"),
                key.name
            )));
        }
        if status {
            let reported = new["status"].take();
            let mut metadata = new["metadata"].take();
            map(&mut metadata).insert(
                "ownerReferences".to_owned(),
                old["metadata"]["ownerReferences"].clone(),
            );
            if metadata["ownerReferences"].is_null() {
                map(&mut metadata).remove("ownerReferences");
            }
            new = (**old).clone();
            new["metadata"] = metadata;
            object::set(map(&mut new), "status", reported);
        } else if resource.status {
            object::set(map(&mut new), "status", old["status"].clone());
        }
        for field in [
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generateName",
            "generation",
            "managedFields",
            "namespace",
            "selfLink",
            "uid",
        ] {
            set_meta(&mut new, field, old["metadata"][field].clone());
        }
        set_meta(
            &mut new,
            "resourceVersion",
            old["metadata"]["resourceVersion"].clone(),
        );
        for field in ["apiVersion", "kind"] {
            map(&mut new).insert(field.to_owned(), old[field].clone());
        }
        object::check(resource, &new)?;
        check_immutable(resource, &key.name, old, &new)?;
        if operation == "Update" && object::is_same(old, &new) {
            return Ok(Arc::clone(old));
        }
        if new["spec"] != old["spec"]
            && let Some(generation) = old["metadata"]["generation"].as_i64()
        {
            set_meta(&mut new, "generation", (generation + 1).into());
        }
        self.sign(&mut new, resource, operation, status.then_some("status"), fields);
        if operation == "Apply" && object::is_same(old, &new) && same_fields(old, &new) {
            return Ok(Arc::clone(old));
        }
        let changed = self.store.put(key.clone(), new);
        self.afterwards(resource, key);
        Ok(changed)
    }

    /// Notes who wrote.
    fn sign(
        &self,
        object: &mut Value,
        resource: &Resource,
        operation: &str,
        below: Option<&str>,
        fields: Option<Value>,
    ) {
        let mut entry = json!({
            "manager": self.manager,
            "operation": operation,
            "apiVersion": resource.api_version(),
            "time": self.now,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields.unwrap_or_else(|| json!({})),
        });
        if let Some(below) = below {
            entry["subresource"] = below.into();
        }
        let entries = metadata(object).entry("managedFields").or_insert(json!([]));
        if let Value::Array(entries) = entries {
            let same = |other: &Value| {
                ["manager", "operation", "apiVersion", "subresource"]
                    .iter()
                    .all(|field| other.get(*field) == entry.get(*field))
            };
            entries.retain(|other| !same(other));
            entries.push(entry);
        }
    }

    /// What follows from a change.
    fn afterwards(&mut self, resource: &Resource, key: &Key) {
        if let Some(object) = self.store.get(key).cloned()
            && is_deleted(&object)
            && !is_held(&object)
            && object["metadata"]["deletionGracePeriodSeconds"]
                .as_i64()
                .unwrap_or_default()
                == 0
        {
            self.remove(key);
        }
        if resource.is_pod() || matches!(resource.group, "policy" | "apps") {
            budgets::refresh(self.store, &key.namespace);
        }
    }
}

/// What belongs to no namespace keeps none that it is given.
fn clear_namespace(resource: &Resource, object: &mut Value) {
    if !resource.namespaced {
        set_meta(object, "namespace", Value::Null);
    }
}

fn same_fields(old: &Value, new: &Value) -> bool {
    let all = |object: &Value| -> Vec<_> {
        let entries = object::list(object, "/metadata/managedFields").iter();
        entries
            .map(|entry| (entry["manager"].clone(), entry["fieldsV1"].clone()))
            .collect()
    };
    all(old) == all(new)
}

/// What an update must leave alone.
fn check_immutable(resource: &Resource, name: &str, old: &Value, new: &Value) -> Outcome<()> {
    if resource.is_pod() {
        let strip = |pod: &Value| {
            let mut spec = pod["spec"].clone();
            let fields = map(&mut spec);
            for field in [
                "activeDeadlineSeconds",
                "tolerations",
                "terminationGracePeriodSeconds",
            ] {
                fields.remove(field);
            }
            for containers in ["containers", "initContainers"] {
                if let Some(Value::Array(containers)) = fields.get_mut(containers) {
                    containers
                        .iter_mut()
                        .for_each(|container| drop(map(container).remove("image")));
                }
            }
            spec
        };
        if strip(old) != strip(new) {
            let why = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`, \
                       `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only \
                       additions to existing tolerations)";
            return Err(Failure::invalid(resource, name, "spec", why));
        }
    }
    if resource.plural.ends_with("rolebindings") && old["roleRef"] != new["roleRef"] {
        return Err(Failure::invalid(
            resource,
            name,
            "roleRef",
            "Invalid value: cannot change roleRef",
        ));
    }
    Ok(())
}
