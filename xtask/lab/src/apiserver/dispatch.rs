// SPDX-License-Identifier: Apache-2.0
//! From what a request asks for to what does it.

use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::call::{Call, Target};
use super::discovery;
use super::eviction;
use super::failure::{Failure, Outcome};
use super::object::{is_deleted, map, meta, set_meta, text};
use super::patch::Kind;
use super::rbac::{self, Attributes, User};
use super::read::{self, shown};
use super::resources::known;
use super::server::{Server, rfc3339};
use super::store::{Key, of};
use super::streams::upgrade::Upgrade;
use super::watch;
use super::write::{Deletion, Writer, manager};
use super::{done::Done, streams};
use crate::api::request::Request;

/// Does what a request asks for, if its user may.
pub(crate) fn dispatch(
    server: &Arc<Server>,
    target: Target,
    user: &User,
    body: &[u8],
    request: Request,
    stale: Option<u64>,
    upgrade: Option<Upgrade>,
) -> Outcome<Done> {
    let call = match target {
        Target::Path(path) => {
            return discovery::answer(&path).map(|answer| match answer {
                Value::String(plain) => Done::Text(plain),
                object => Done::Object(200, object),
            });
        }
        Target::Review => {
            let review = serde_json::from_slice(body)
                .map_err(|error| Failure::unsupported(&format!("the review is not JSON: {error}")))?;
            let state = server.state();
            return Ok(Done::Object(201, rbac::review(&state.store, user, &review)));
        }
        Target::Resource(call) => call,
    };
    let asked = call.attributes();
    if !rbac::allows(&server.state().store, user, &asked) {
        return Err(rbac::denial(&user.name, &asked));
    }
    if call.is_connection() {
        authorize_create(server, user, &call, asked)?;
        return streams::connect(server, &call, upgrade);
    }
    if call.resource.is_pod() && call.below == "log" && call.verb == "get" {
        return streams::log(server, &call);
    }
    match call.verb {
        "watch" => watch::start(server, call, request).map(Done::Watch),
        "get" => {
            let state = server.state();
            read::get(&state.store, &call, stale).map(|object| Done::Object(200, object))
        }
        "list" => {
            let state = server.state();
            read::list(&state.store, &call, stale).map(|object| Done::Object(200, object))
        }
        _ => write(server, &call, body),
    }
}

/// A WebSocket begins with a GET, and must not get further than a POST: the real one asks for `create`, too.
fn authorize_create(server: &Server, user: &User, call: &Call, asked: Attributes) -> Outcome<()> {
    let state = server.state();
    let verb = "create".to_owned();
    let asked = Attributes { verb, ..asked };
    if state.pods.lenient || rbac::allows(&state.store, user, &asked) {
        return Ok(());
    }
    // It says nothing of what is missing, unlike everywhere else.
    Err(Failure::forbidden(call.resource, &call.name, ""))
}

fn write(server: &Arc<Server>, call: &Call, body: &[u8]) -> Outcome<Done> {
    let body = call.json(body)?;
    let mut state = server.state();
    let now = state.now();
    let later = |seconds| {
        let later = now.checked_add(SignedDuration::from_secs(seconds));
        rfc3339(later.unwrap_or(now))
    };
    let dry = call.query.get("dryRun") == "All" || body["dryRun"][0] == "All";
    // A change that is only tried out is made to a copy.
    let mut copy = dry.then(|| state.store.clone());
    let mut writer = Writer {
        store: copy.as_mut().unwrap_or(&mut state.store),
        now: rfc3339(now),
        later: &later,
        manager: manager(call.query.get("fieldManager"), &call.user_agent),
    };
    let (code, object) = carry_out(&mut writer, call, body)?;
    drop(state);
    if call.below == "ephemeralcontainers" && !dry {
        streams::run(server, &object);
    }
    Ok(Done::Object(code, object))
}

fn carry_out(writer: &mut Writer<'_>, call: &Call, body: Value) -> Outcome<(u16, Value)> {
    let resource = call.resource;
    let key = Key::new(resource, call.space(), &call.name);
    if resource.namespaced && call.namespace.is_none() {
        return Err(Failure::method());
    }
    let status = call.below == "status";
    let known_below = match call.below.as_str() {
        "" => true,
        "status" => resource.status && call.verb != "create",
        "ephemeralcontainers" => resource.is_pod() && matches!(call.verb, "update" | "patch"),
        "eviction" | "binding" => resource.is_pod() && call.verb == "create",
        "token" => resource.plural == "serviceaccounts" && call.verb == "create",
        _ => false,
    };
    if !known_below {
        return Err(Failure::no_such_path());
    }
    match (call.verb, call.below.as_str()) {
        ("create", "eviction") => {
            eviction::evict(writer, call.space(), &call.name, &body).map(|done| (201, done))
        }
        ("create", "binding") => bind(writer, &key, &body).map(|done| (201, done)),
        ("create", "token") => {
            writer.find(resource, &key)?;
            Ok((201, token(&key, &body)))
        }
        ("create", _) if !call.name.is_empty() => Err(Failure::method()),
        ("create", _) => {
            if !body.is_object() {
                return Err(Failure::bad_request("the body of the request is no object"));
            }
            let made = writer.create(resource, call.space(), body)?;
            Ok((201, shown(call, &made)))
        }
        ("update", "ephemeralcontainers") => {
            let changed = writer.add_ephemeral(&key, None, &body)?;
            Ok((200, shown(call, &changed)))
        }
        ("patch", "ephemeralcontainers") => {
            let kind = Kind::of(&call.content_type)?;
            let changed = writer.add_ephemeral(&key, Some(kind), &body)?;
            Ok((200, shown(call, &changed)))
        }
        ("update", _) => {
            let changed = writer.update(resource, &key, status, body)?;
            Ok((200, shown(call, &changed)))
        }
        ("patch", _) => {
            let kind = Kind::of(&call.content_type)?;
            if kind == Kind::Apply && call.query.get("fieldManager").is_empty() {
                let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
                return Err(Failure::new(422, "Invalid", message));
            }
            let (changed, made) = writer.patch(resource, &key, status, kind, &body)?;
            Ok((if made { 201 } else { 200 }, shown(call, &changed)))
        }
        ("delete", "") => {
            let (object, gone) = writer.delete(resource, &key, &options(call, body))?;
            let answer = if gone && !resource.is_pod() {
                json!({
                    "kind": "Status",
                    "apiVersion": "v1",
                    "metadata": {},
                    "status": "Success",
                    "details": {
                        "name": call.name,
                        "group": resource.group,
                        "kind": resource.plural,
                        "uid": meta(&object, "uid"),
                    },
                })
            } else {
                shown(call, &object)
            };
            Ok((200, answer))
        }
        ("deletecollection", "") => {
            let options = options(call, body);
            let found: Vec<_> = of(writer.store.objects(), resource, call.namespace.as_deref())
                .filter(|(_, object)| call.selector.matches(object))
                .map(|(key, _)| key.clone())
                .collect();
            for key in &found {
                // What one took along, the next need not find.
                if writer.store.get(key).is_some() {
                    writer.delete(resource, key, &options)?;
                }
            }
            Ok((200, read::list(writer.store, call, None)?))
        }
        _ => Err(Failure::method()),
    }
}

/// The options of a deletion, from the body or the query.
fn options(call: &Call, mut body: Value) -> Deletion {
    let options = map(&mut body);
    for field in ["gracePeriodSeconds", "propagationPolicy"] {
        let given = call.query.get(field);
        if !given.is_empty() && !options.contains_key(field) {
            let value = given.parse::<i64>().map_or_else(|_| given.into(), Value::from);
            options.insert(field.to_owned(), value);
        }
    }
    Deletion::read(&body)
}

/// Puts a pod on a node.
fn bind(writer: &mut Writer<'_>, key: &Key, body: &Value) -> Outcome<Value> {
    let pods = known("pods");
    let mut pod = (*writer.find(pods, key)?).clone();
    let node = text(body, "/target/name").to_owned();
    let uid = meta(body, "uid");
    if !uid.is_empty() && uid != meta(&pod, "uid") {
        return Err(Failure::conflict(pods, &key.name, "the UID does not match"));
    }
    let bound = text(&pod, "/spec/nodeName");
    if !bound.is_empty() {
        let why = format!("pod {} is already assigned to node \"{bound}\"", key.name);
        return Err(Failure::conflict(pods, &key.name, &why));
    }
    if is_deleted(&pod) {
        let why = format!("pod {} is being deleted, cannot be assigned to a host", key.name);
        return Err(Failure::conflict(pods, &key.name, &why));
    }
    map(&mut pod["spec"]).insert("nodeName".to_owned(), node.into());
    map(&mut pod["status"]).insert(
        "conditions".to_owned(),
        json!([{ "type": "PodScheduled", "status": "True", "lastTransitionTime": writer.now }]),
    );
    set_meta(&mut pod, "resourceVersion", Value::Null);
    writer.store.put(key.clone(), pod);
    Ok(json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 }))
}

/// Answers a TokenRequest.
fn token(key: &Key, body: &Value) -> Value {
    let mut answer = body.clone();
    map(&mut answer).insert("kind".to_owned(), "TokenRequest".into());
    map(&mut answer).insert("apiVersion".to_owned(), "authentication.k8s.io/v1".into());
    let token = format!("sa:{}:{}", key.namespace, key.name);
    answer["status"] = json!({ "token": token, "expirationTimestamp": "2099-01-01T00:00:00Z" });
    answer
}
