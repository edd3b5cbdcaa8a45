// SPDX-License-Identifier: Apache-2.0
//! A blocking client for tests.

use serde_json::{Value, json};

use super::http::{Open, Response, Sent, open};
use super::manifest::documents;
use crate::apiserver::{Route, route_of, route_to};
use crate::error::{Context as _, Error, Result};

/// Who it says it is, unless told otherwise.
const AGENT: &str = "meshmedic-lab/1";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
/// In whose name [`Client::apply`] applies.
const MANAGER: &str = "meshmedic-lab";

/// A blocking client. Resources are named by their plural, maybe with a subresource (`pods/status`) or with
/// their group (`events.events.k8s.io`); an empty namespace is none, or all.
#[derive(Clone, Debug)]
pub struct Client {
    address: String,
    token: String,
    agent: String,
}

impl Client {
    pub(super) fn new(address: &str, token: &str) -> Self {
        Self {
            address: address.to_owned(),
            token: token.to_owned(),
            agent: AGENT.to_owned(),
        }
    }

    /// The same under another user agent, which is also its field manager.
    #[must_use]
    pub fn with_agent(&self, agent: &str) -> Self {
        Self {
            agent: agent.to_owned(),
            ..self.clone()
        }
    }

    /// The same with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    fn open(&self, method: &str, path: &str, kind: &str, body: &Value, accept: &str) -> Result<Open> {
        let authorization = format!("Bearer {}", self.token);
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let sent = Sent {
            address: &self.address,
            method,
            path,
            headers: &[
                ("Authorization", &authorization),
                ("User-Agent", &self.agent),
                ("Content-Type", kind),
                ("Accept", accept),
            ],
            body: &body,
        };
        open(&sent).context(|| format!("{method} {path}"))
    }

    /// Sends any request, and returns whatever the answer is.
    pub fn send(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Response> {
        self.open(method, path, kind, body, JSON)?
            .finish()
            .context(|| format!("{method} {path}"))
    }

    /// A GET that accepts another content type.
    pub fn send_accepting(&self, path: &str, accept: &str) -> Result<Response> {
        self.open("GET", path, JSON, &Value::Null, accept)?
            .finish()
            .context(|| format!("GET {path}"))
    }

    fn ask(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Value> {
        let response = self.send(method, path, kind, body)?;
        succeed(&format!("{method} {path}"), response)
    }

    /// Gets an object.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Result<Value> {
        self.ask("GET", &route_to(resource, namespace, name)?, JSON, &Value::Null)
    }

    /// Gets an object that need not be there.
    pub fn find(&self, resource: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        match self.get(resource, namespace, name) {
            Err(Error::Api { code: 404, .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// The objects of a resource.
    pub fn list(&self, resource: &str, namespace: &str) -> Result<Vec<Value>> {
        self.list_where(resource, namespace, "")
    }

    /// The objects of a resource that parameters such as `labelSelector=app%3Dcart` choose.
    pub fn list_where(&self, resource: &str, namespace: &str, query: &str) -> Result<Vec<Value>> {
        let mut answer = self.list_answer(resource, namespace, query)?;
        Ok(match answer["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        })
    }

    /// The same with the metadata of the list.
    pub fn list_answer(&self, resource: &str, namespace: &str, query: &str) -> Result<Value> {
        let path = route_to(resource, namespace, "")?;
        self.ask("GET", &format!("{path}?{query}"), JSON, &Value::Null)
    }

    /// Creates an object.
    pub fn create(&self, object: &Value) -> Result<Value> {
        let Route { collection, .. } = route_of(object)?;
        self.ask("POST", &collection, JSON, object)
    }

    /// Posts to a subresource, such as `pods/eviction`.
    pub fn post(&self, resource: &str, namespace: &str, name: &str, body: &Value) -> Result<Value> {
        self.ask("POST", &route_to(resource, namespace, name)?, JSON, body)
    }

    /// Replaces an object.
    pub fn update(&self, object: &Value) -> Result<Value> {
        let Route { object: path, .. } = route_of(object)?;
        self.ask("PUT", &path, JSON, object)
    }

    /// Replaces an object's status.
    pub fn update_status(&self, object: &Value) -> Result<Value> {
        let Route { object: path, .. } = route_of(object)?;
        self.ask("PUT", &format!("{path}/status"), JSON, object)
    }

    /// Applies an object, on the server, and overrules others. A real one refuses fields that it does not know.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        let Route { object: path, .. } = route_of(object)?;
        let path = format!("{path}?fieldManager={MANAGER}&force=true&fieldValidation=Strict");
        self.ask("PATCH", &path, APPLY, object)
    }

    /// Applies every object of a manifest.
    pub fn apply_yaml(&self, yaml: &str) -> Result<Vec<Value>> {
        documents(yaml)?.iter().map(|object| self.apply(object)).collect()
    }

    /// Patches an object by a merge patch.
    pub fn patch(&self, resource: &str, namespace: &str, name: &str, patch: &Value) -> Result<Value> {
        self.patch_as(MERGE, resource, namespace, name, patch)
    }

    /// Patches an object by a patch of any content type.
    pub fn patch_as(
        &self,
        kind: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Value> {
        self.ask("PATCH", &route_to(resource, namespace, name)?, kind, patch)
    }

    /// Deletes an object.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> Result<Value> {
        self.delete_with(resource, namespace, name, &Value::Null)
    }

    /// Deletes an object with `DeleteOptions`.
    pub fn delete_with(&self, resource: &str, namespace: &str, name: &str, options: &Value) -> Result<Value> {
        self.ask("DELETE", &route_to(resource, namespace, name)?, JSON, options)
    }

    /// Evicts a pod, with `DeleteOptions` or `Null`.
    pub fn evict(&self, namespace: &str, name: &str, options: &Value) -> Result<Value> {
        let mut eviction = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": { "namespace": namespace, "name": name },
        });
        if !options.is_null() {
            eviction["deleteOptions"] = options.clone();
        }
        self.post("pods/eviction", namespace, name, &eviction)
    }

    /// Watches a resource with parameters such as `resourceVersion=7`.
    pub fn watch(&self, resource: &str, namespace: &str, query: &str) -> Result<Watch> {
        self.watch_accepting(resource, namespace, query, JSON)
    }

    /// The same, accepting another content type.
    pub fn watch_accepting(
        &self,
        resource: &str,
        namespace: &str,
        query: &str,
        accept: &str,
    ) -> Result<Watch> {
        let path = format!("{}?watch=true&{query}", route_to(resource, namespace, "")?);
        let open = self.open("GET", &path, JSON, &Value::Null, accept)?;
        if open.code() != 200 {
            let what = format!("GET {path}");
            let response = open.finish().context(|| what.clone())?;
            succeed(&what, response)?;
            return Err(Error::NotRunning { what });
        }
        Ok(Watch {
            open,
            text: Vec::new(),
        })
    }
}

fn succeed(what: &str, response: Response) -> Result<Value> {
    if (200..300).contains(&response.code) {
        return Ok(response.body);
    }
    let field = |name: &str| response.body[name].as_str().unwrap_or_default().to_owned();
    Err(Error::Api {
        what: what.to_owned(),
        code: response.code,
        reason: field("reason"),
        message: field("message"),
        status: Box::new(response.body),
    })
}

/// A watch.
pub struct Watch {
    open: Open,
    text: Vec<u8>,
}

impl Watch {
    /// Waits for the next event; `None` when the server ended the watch.
    pub fn next_event(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.text.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map(Some)
                    .context(|| "reading a watch".to_owned());
            }
            let more = self.open.more().context(|| "reading a watch".to_owned())?;
            if more.is_empty() {
                return Ok(None);
            }
            self.text.extend(more);
        }
    }
}
