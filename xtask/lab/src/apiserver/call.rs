// SPDX-License-Identifier: Apache-2.0
//! What a request asks for.

use http::Method;
use http::request::Parts;
use serde_json::Value;

use super::failure::{Failure, Outcome};
use super::rbac::Attributes;
use super::resources::{self, Resource};
use super::selector::Selector;

/// The parameters of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(key, value)| (decode(key), decode(value)))
                .collect(),
        )
    }

    /// A parameter; empty where it is not given.
    pub(crate) fn get(&self, key: &str) -> &str {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map_or("", |(_, value)| value)
    }

    /// All values of a parameter that may be given more than once.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let found = self.0.iter().filter(move |(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_true(&self, key: &str) -> bool {
        matches!(self.get(key), "true" | "1")
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let escaped = || {
            let digits = [rest.clone().next()?, rest.clone().nth(1)?];
            u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()
        };
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                if let Some(byte) = escaped() {
                    bytes.push(byte);
                    rest.nth(1);
                } else {
                    bytes.push(byte);
                }
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A request for a resource.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) resource: &'static Resource,
    pub(crate) verb: &'static str,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) below: String,
    pub(crate) query: Query,
    pub(crate) selector: Selector,
    pub(crate) content_type: String,
    pub(crate) accept: String,
    pub(crate) user_agent: String,
}

/// Where a path leads.
pub(crate) enum Target {
    Resource(Box<Call>),
    /// A review of access, or another question that is not stored.
    Review,
    /// Something that describes the server.
    Path(String),
}

impl Target {
    /// Finds out what a request asks for.
    pub(crate) fn of(parts: &Parts, path: &str) -> Outcome<Self> {
        let words: Vec<_> = path
            .split('/')
            .filter(|word| !word.is_empty())
            .map(decode)
            .collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let (group, version, rest) = match words.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return Ok(Self::Path(path.to_owned())),
        };
        if group == "authorization.k8s.io" && rest == ["selfsubjectaccessreviews"] {
            return Ok(Self::Review);
        }
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..]
                if rest
                    .first()
                    .is_some_and(|plural| resources::find(group, version, plural).is_some()) =>
            {
                (Some((*namespace).to_owned()), rest)
            }
            other => (None, other),
        };
        let (plural, name, below) = match rest {
            [plural] => (*plural, "", ""),
            [plural, name] => (*plural, *name, ""),
            [plural, name, below] => (*plural, *name, *below),
            _ => return Err(Failure::no_such_path()),
        };
        let resource = resources::find(group, version, plural).ok_or_else(Failure::no_such_path)?;
        if resource.namespaced && namespace.is_none() && !name.is_empty() {
            return Err(Failure::no_such_path());
        }
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let verb = match (&parts.method, name) {
            (&Method::GET, _) if query.is_true("watch") => "watch",
            (&Method::GET, "") => "list",
            (&Method::GET, _) => "get",
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::PATCH, _) => "patch",
            (&Method::DELETE, "") => "deletecollection",
            (&Method::DELETE, _) => "delete",
            _ => return Err(Failure::method()),
        };
        let selector = Selector::parse(resource, query.get("labelSelector"), query.get("fieldSelector"))?;
        let header = |name: &str| {
            let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        // A selection by name is asked for as that name.
        let name = match selector.name() {
            Some(selected) if name.is_empty() => selected,
            _ => name,
        };
        Ok(Self::Resource(Box::new(Call {
            resource,
            verb,
            namespace,
            name: name.to_owned(),
            below: below.to_owned(),
            selector,
            content_type: header("content-type"),
            accept: header("accept"),
            user_agent: header("user-agent"),
            query,
        })))
    }
}

impl Call {
    /// What must be allowed.
    pub(crate) fn attributes(&self) -> Attributes {
        let plural = self.resource.plural;
        Attributes {
            verb: self.verb.to_owned(),
            group: self.resource.group.to_owned(),
            resource: if self.below.is_empty() {
                plural.to_owned()
            } else {
                format!("{plural}/{}", self.below)
            },
            // The real one counts a namespace itself as something in it.
            namespace: match &self.namespace {
                Some(namespace) => namespace.clone(),
                None if self.resource.is_namespace() => self.name.clone(),
                None => String::new(),
            },
            name: self.name.clone(),
        }
    }

    /// The namespace of a namespaced object; empty otherwise.
    pub(crate) fn space(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// Whether only the metadata is wanted.
    pub(crate) fn is_partial(&self) -> bool {
        self.accept.contains("as=PartialObjectMetadata")
    }

    /// Whether it leads into a pod.
    pub(crate) fn is_connection(&self) -> bool {
        self.resource.is_pod()
            && matches!(self.below.as_str(), "exec" | "portforward")
            && matches!(self.verb, "get" | "create")
    }

    /// Reads a body of JSON.
    pub(crate) fn json(&self, body: &[u8]) -> Outcome<Value> {
        if self.content_type.contains("protobuf") {
            return Err(Failure::unsupported(&self.content_type));
        }
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(body)
            .map_err(|error| Failure::bad_request(format!("the body of the request is not JSON: {error}")))
    }
}
