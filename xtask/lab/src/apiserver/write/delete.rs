// SPDX-License-Identifier: Apache-2.0
//! Deleting objects, what they own, and what holds them.

use serde_json::{Value, json};

use super::super::budgets;
use super::super::failure::{Failure, Outcome};
use super::super::object::{is_deleted, is_held, list, meta, set_meta, text};
use super::super::resources::{RESOURCES, Resource};
use super::super::store::{Key, Object, version_of};
use super::Writer;

/// Holds an owner until its dependents are gone.
const FOREGROUND: &str = "foregroundDeletion";
/// How long a pod may take to end, unless it says.
const GRACE: i64 = 30;

/// `DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deletion {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) propagation: String,
}

impl Deletion {
    /// Reads the options; a field that nobody knows is ignored, as the real one does.
    pub(crate) fn read(options: &Value) -> Self {
        let owned = |pointer: &str| options.pointer(pointer)?.as_str().map(str::to_owned);
        let orphan = options["orphanDependents"].as_bool() == Some(true);
        Self {
            grace: options["gracePeriodSeconds"].as_i64(),
            uid: owned("/preconditions/uid"),
            version: owned("/preconditions/resourceVersion"),
            propagation: owned("/propagationPolicy")
                .unwrap_or_else(|| (if orphan { "Orphan" } else { "Background" }).to_owned()),
        }
    }

    fn check(&self, resource: &Resource, object: &Value) -> Outcome<()> {
        let refuse = |why: String| {
            let mut failure = Failure::conflict(resource, meta(object, "name"), "");
            failure.message = format!(
                "Operation cannot be fulfilled on {} \"{}\": {why}",
                resource.kind,
                meta(object, "name")
            );
            Err(failure)
        };
        if let Some(uid) = &self.uid
            && uid != meta(object, "uid")
        {
            return refuse(format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have \
                 been deleted and then recreated",
                meta(object, "uid")
            ));
        }
        if let Some(version) = &self.version
            && version != meta(object, "resourceVersion")
        {
            return refuse(format!(
                "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record \
                 ({}). The object might have been modified",
                version_of(object)
            ));
        }
        Ok(())
    }
}

impl Writer<'_> {
    /// Deletes an object; the flag says whether it is gone.
    pub(crate) fn delete(
        &mut self,
        resource: &Resource,
        key: &Key,
        options: &Deletion,
    ) -> Outcome<(Object, bool)> {
        let object = self.find(resource, key)?;
        options.check(resource, &object)?;
        let grace = if resource.is_pod() {
            let ended = matches!(text(&object, "/status/phase"), "Succeeded" | "Failed");
            if ended || text(&object, "/spec/nodeName").is_empty() {
                0
            } else {
                let own = object["spec"]["terminationGracePeriodSeconds"].as_i64();
                options.grace.or(own).unwrap_or(GRACE).max(0)
            }
        } else {
            0
        };
        let mut marked = (*object).clone();
        if options.propagation == "Foreground" && !self.dependents(meta(&object, "uid")).is_empty() {
            let mut held = list(&object, "/metadata/finalizers").to_vec();
            if !held.iter().any(|finalizer| finalizer == FOREGROUND) {
                held.push(FOREGROUND.into());
            }
            set_meta(&mut marked, "finalizers", Value::Array(held));
        }
        if grace == 0 && !is_held(&marked) {
            if options.propagation == "Orphan" {
                self.orphan(meta(&object, "uid"));
            }
            let gone = self.remove(key).unwrap_or(object);
            if resource.is_pod() || resource.group == "policy" {
                budgets::refresh(self.store, &key.namespace);
            }
            return Ok((gone, true));
        }
        let left = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
        // A second deletion may only shorten the first.
        if !is_deleted(&object) || left.is_some_and(|left| grace < left) {
            set_meta(&mut marked, "deletionTimestamp", (self.later)(grace).into());
            set_meta(&mut marked, "deletionGracePeriodSeconds", grace.into());
            if let Some(generation) = object["metadata"]["generation"].as_i64() {
                set_meta(&mut marked, "generation", (generation + 1).into());
            }
            self.store.put(key.clone(), marked);
            if options.propagation == "Foreground" {
                self.collect(meta(&object, "uid"));
            }
        }
        budgets::refresh(self.store, &key.namespace);
        let now = self.store.get(key).cloned();
        Ok((now.clone().unwrap_or(object), now.is_none()))
    }

    /// Removes an object for good, and deletes what it leaves behind.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Object> {
        let gone = self.store.remove(key)?;
        let resource = &RESOURCES[key.resource];
        if resource.is_namespace() {
            let inside: Vec<_> = self
                .store
                .objects()
                .keys()
                .filter(|k| k.namespace == key.name)
                .cloned()
                .collect();
            inside.iter().for_each(|key| drop(self.store.remove(key)));
        }
        self.collect(meta(&gone, "uid"));
        // An owner that waited for this one may go now.
        for owner in list(&gone, "/metadata/ownerReferences") {
            self.release(text(owner, "/uid"));
        }
        Some(gone)
    }

    fn dependents(&self, uid: &str) -> Vec<Key> {
        let owned = |object: &Value| {
            list(object, "/metadata/ownerReferences")
                .iter()
                .any(|owner| owner["uid"] == uid)
        };
        let all = self.store.objects().iter();
        all.filter(|(_, object)| owned(object))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Deletes what an owner owned; what has other owners loses this one only.
    fn collect(&mut self, uid: &str) {
        for key in self.dependents(uid) {
            let Some(object) = self.store.get(&key).cloned() else {
                continue;
            };
            if list(&object, "/metadata/ownerReferences").len() > 1 {
                self.disown(&key, uid);
            } else if !is_deleted(&object) {
                // Fails only for what is gone already.
                let _ = self.delete(&RESOURCES[key.resource], &key, &Deletion::read(&json!({})));
            }
        }
    }

    fn orphan(&mut self, uid: &str) {
        self.dependents(uid).iter().for_each(|key| self.disown(key, uid));
    }

    fn disown(&mut self, key: &Key, uid: &str) {
        let Some(object) = self.store.get(key) else { return };
        let mut object = (**object).clone();
        let left = list(&object, "/metadata/ownerReferences").iter();
        let left: Vec<_> = left.filter(|owner| owner["uid"] != uid).cloned().collect();
        let left = if left.is_empty() {
            Value::Null
        } else {
            Value::Array(left)
        };
        set_meta(&mut object, "ownerReferences", left);
        self.store.put(key.clone(), object);
    }

    fn release(&mut self, uid: &str) {
        let waits = |object: &Value| {
            meta(object, "uid") == uid
                && is_deleted(object)
                && list(object, "/metadata/finalizers")
                    .iter()
                    .any(|finalizer| finalizer == FOREGROUND)
        };
        let found = self.store.objects().iter().find(|(_, object)| waits(object));
        let Some((key, object)) = found.map(|(key, object)| (key.clone(), object.clone())) else {
            return;
        };
        if !self.dependents(uid).is_empty() {
            return;
        }
        let left = list(&object, "/metadata/finalizers").iter();
        let left: Vec<_> = left
            .filter(|finalizer| **finalizer != FOREGROUND)
            .cloned()
            .collect();
        if left.is_empty() {
            self.remove(&key);
        } else {
            let mut object = (*object).clone();
            set_meta(&mut object, "finalizers", Value::Array(left));
            self.store.put(key, object);
        }
    }
}
