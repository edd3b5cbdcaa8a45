// SPDX-License-Identifier: Apache-2.0
//! What a real API server makes of the roles: it allows what they say, and denies everything else that there is.

use std::collections::BTreeSet;

use meshmedic_lab::api::documents;
use meshmedic_lab::{ApiServer, need};
use serde_json::{Value, json};

use super::{NAMED, Right, granted};
use crate::world::{DETECT, REPAIR_RIGHTS, USER};

/// All that can be done to an object, and what lets a user become more than it is.
const VERBS: [&str; 11] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "impersonate",
    "bind",
    "escalate",
];
/// Where its own Role holds, and where it does not. Without a namespace it is all of them at once.
const OWN: &str = "meshmedic";
const PLACES: [&str; 3] = ["", OWN, "shop"];
/// The kinds of which single objects are granted.
const WITH_NAMES: [&str; 2] = ["configmaps", "leases"];
/// Every user may ask what it may do.
const OF_ALL: [&str; 2] = ["authorization.k8s.io", "authentication.k8s.io"];

/// A right in a namespace.
type Placed = (String, Right);

struct Kind {
    group: String,
    resource: String,
    namespaced: bool,
}

/// Every kind of object that the server has, with what is below it.
fn kinds(api: &ApiServer) -> Vec<Kind> {
    let get = |path: &str| -> Value {
        let answer = api.send("GET", path, "application/json", &Value::Null).unwrap();
        assert_eq!(answer.code, 200, "{path}");
        answer.body
    };
    let mut paths = vec![(String::new(), "/api/v1".to_owned())];
    for group in get("/apis")["groups"].as_array().unwrap() {
        let version = group["preferredVersion"]["groupVersion"].as_str().unwrap();
        let name = group["name"].as_str().unwrap().to_owned();
        paths.push((name, format!("/apis/{version}")));
    }
    let mut kinds = Vec::new();
    for (group, path) in paths
        .iter()
        .filter(|(group, _)| !OF_ALL.contains(&group.as_str()))
    {
        for resource in get(path)["resources"].as_array().unwrap() {
            kinds.push(Kind {
                group: group.clone(),
                resource: resource["name"].as_str().unwrap().to_owned(),
                namespaced: resource["namespaced"] == true,
            });
        }
    }
    kinds
}

/// Whether the agents' user may do this.
fn is_allowed(api: &ApiServer, kind: &Kind, verb: &str, namespace: &str, name: &str) -> bool {
    let (resource, subresource) = kind.resource.split_once('/').unwrap_or((&kind.resource, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": USER,
            "groups": ["system:serviceaccounts", "system:serviceaccounts:meshmedic", "system:authenticated"],
            "resourceAttributes": {
                "group": kind.group, "resource": resource, "subresource": subresource,
                "verb": verb, "namespace": namespace, "name": name,
            },
        },
    });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer = api.send("POST", path, "application/json", &review).unwrap();
    answer.body["status"]["allowed"].as_bool().unwrap()
}

/// What the server allows, of all that could be asked.
fn allowed(api: &ApiServer) -> BTreeSet<Placed> {
    let mut allowed = BTreeSet::new();
    for kind in kinds(api) {
        let places = if kind.namespaced {
            &PLACES[..]
        } else {
            &PLACES[..1]
        };
        for verb in VERBS {
            for place in places {
                let right = format!("{verb} {}/{}", kind.group, kind.resource);
                let place = (*place).to_owned();
                if is_allowed(api, &kind, verb, &place, "") {
                    allowed.insert((place, right));
                    continue;
                }
                // Of which kinds a role names objects is in the roles; here it is about the others of these kinds.
                let names = if WITH_NAMES.contains(&kind.resource.as_str()) {
                    &NAMED[..]
                } else {
                    &[]
                };
                for name in names {
                    if is_allowed(api, &kind, verb, &place, name) {
                        allowed.insert((place.clone(), format!("{right} {name}")));
                    }
                }
            }
        }
    }
    allowed
}

/// What these manifests grant, placed as their bindings place it.
fn placed(manifests: &[&str]) -> BTreeSet<Placed> {
    let objects: Vec<Value> = manifests
        .iter()
        .flat_map(|manifest| documents(manifest).unwrap())
        .collect();
    let of = |kind: &str| granted(objects.iter().filter(|object| object["kind"] == kind));
    // No kind that has no namespace is granted in one.
    let cluster_wide = ["/namespaces", "/nodes"];
    let mut placed = BTreeSet::new();
    for right in of("ClusterRole") {
        let everywhere = cluster_wide.iter().any(|kind| right.ends_with(kind));
        let places = if everywhere { &PLACES[..1] } else { &PLACES[..] };
        placed.extend(places.iter().map(|place| ((*place).to_owned(), right.clone())));
    }
    placed.extend(of("Role").into_iter().map(|right| (OWN.to_owned(), right)));
    // Who may do something to all of a kind may do it to each.
    let whole = placed.clone();
    placed.retain(|(place, right)| match right.rsplit_once(' ') {
        Some((wider, name)) if NAMED.contains(&name) => !whole.contains(&(place.clone(), wider.to_owned())),
        _ => true,
    });
    placed
}

#[test]
fn a_real_api_server_allows_what_is_granted_and_denies_all_else() {
    if !need::real_apiserver("a_real_api_server_allows_what_is_granted_and_denies_all_else") {
        return;
    }
    let api = ApiServer::real().unwrap();
    for manifest in [DETECT, REPAIR_RIGHTS[0], REPAIR_RIGHTS[1]] {
        api.apply_yaml(manifest).unwrap();
    }
    let manifests = [DETECT, REPAIR_RIGHTS[0], REPAIR_RIGHTS[1]];
    let (allowed, granted) = (allowed(&api), placed(&manifests));
    let more: Vec<&Placed> = allowed.difference(&granted).collect();
    let less: Vec<&Placed> = granted.difference(&allowed).collect();
    assert!(
        more.is_empty() && less.is_empty(),
        "allowed and not granted: {more:#?}\ngranted and not allowed: {less:#?}"
    );
    assert!(granted.len() > 30, "{granted:#?}");
}
