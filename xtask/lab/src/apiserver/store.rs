// SPDX-License-Identifier: Apache-2.0
//! The objects and their history.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::object::{meta, set_meta};
use super::resources::Resource;

/// An object as it was at one resource version.
pub(crate) type Object = Arc<Value>;

/// How many changes are remembered, unless told otherwise.
const HISTORY: usize = 20_000;

/// Where an object is kept; the order is that of lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) resource: usize,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(resource: &Resource, namespace: &str, name: &str) -> Self {
        Self {
            resource: resource.id(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// A change.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) key: Key,
    pub(crate) before: Option<Object>,
    pub(crate) after: Option<Object>,
    /// What a watch shows of it: a removed object carries the version of its removal.
    pub(crate) shown: Object,
}

/// All objects, by key.
pub(crate) type Objects = BTreeMap<Key, Object>;

/// The objects and their history. A clone is for trying things out: `dryRun`.
#[derive(Clone)]
pub(crate) struct Store {
    objects: Objects,
    history: VecDeque<Arc<Change>>,
    version: u64,
    /// Nobody may begin before this version any more.
    floor: u64,
    /// Changes up to this one are forgotten.
    dropped: u64,
    limit: usize,
    seed: String,
    made: u64,
}

impl Store {
    pub(crate) fn new(seed: String) -> Self {
        Self {
            objects: Objects::new(),
            history: VecDeque::new(),
            // No client may take 1 for the beginning of everything.
            version: 100,
            floor: 100,
            dropped: 100,
            limit: HISTORY,
            seed,
            made: 0,
        }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// The version up to which not even a watch that runs can go on.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// A seed from which nothing else was made.
    pub(crate) fn seed(&mut self) -> String {
        self.made += 1;
        format!("{}/{}", self.seed, self.made)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Object> {
        self.objects.get(key)
    }

    /// The objects of a resource, in one namespace or all.
    pub(crate) fn all(&self, resource: &Resource, namespace: Option<&str>) -> Vec<(Key, Object)> {
        of(&self.objects, resource, namespace)
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect()
    }

    /// Writes an object under the next version.
    pub(crate) fn put(&mut self, key: Key, mut object: Value) -> Object {
        self.version += 1;
        set_meta(&mut object, "resourceVersion", self.version.to_string().into());
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&object));
        self.remember(key, before, Some(Arc::clone(&object)), Arc::clone(&object));
        object
    }

    /// Removes an object under the next version, and returns it with that version.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Object> {
        let before = self.objects.remove(key)?;
        self.version += 1;
        let mut shown = (*before).clone();
        set_meta(&mut shown, "resourceVersion", self.version.to_string().into());
        let shown = Arc::new(shown);
        self.remember(key.clone(), Some(before), None, Arc::clone(&shown));
        Some(shown)
    }

    fn remember(&mut self, key: Key, before: Option<Object>, after: Option<Object>, shown: Object) {
        self.history.push_back(Arc::new(Change {
            version: self.version,
            key,
            before,
            after,
            shown,
        }));
        self.trim();
    }

    fn trim(&mut self) {
        while self.history.len() > self.limit {
            if let Some(gone) = self.history.pop_front() {
                self.dropped = gone.version;
                self.floor = self.floor.max(gone.version);
            }
        }
    }

    /// Remembers no more than that many changes.
    pub(crate) fn limit(&mut self, limit: usize) {
        self.limit = limit;
        self.trim();
    }

    /// Forgets all changes so far, but for watches that run and have yet to tell of them.
    pub(crate) fn compact(&mut self) {
        self.floor = self.version;
    }

    /// The changes after a version.
    pub(crate) fn since(&self, version: u64) -> impl Iterator<Item = &Arc<Change>> {
        let start = self.history.partition_point(|change| change.version <= version);
        self.history.range(start..)
    }

    /// The objects as they were at a version, unless that is forgotten.
    pub(crate) fn at(&self, version: u64) -> Option<Objects> {
        if version < self.floor {
            return None;
        }
        let mut objects = self.objects.clone();
        for change in self.history.iter().rev() {
            if change.version <= version {
                break;
            }
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), Arc::clone(before)),
                None => objects.remove(&change.key),
            };
        }
        Some(objects)
    }
}

/// The objects of a resource, in one namespace or all.
pub(crate) fn of<'a>(
    objects: &'a Objects,
    resource: &Resource,
    namespace: Option<&'a str>,
) -> impl Iterator<Item = (&'a Key, &'a Object)> {
    let id = resource.id();
    let start = Key::new(resource, namespace.unwrap_or_default(), "");
    objects.range(start..).take_while(move |(key, _)| {
        key.resource == id && namespace.is_none_or(|namespace| key.namespace == namespace)
    })
}

/// The version that an object carries.
pub(crate) fn version_of(object: &Value) -> u64 {
    meta(object, "resourceVersion").parse().unwrap_or_default()
}
