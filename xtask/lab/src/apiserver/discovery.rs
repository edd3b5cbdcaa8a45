// SPDX-License-Identifier: Apache-2.0
//! What a server says of itself.

use serde_json::{Value, json};

use super::failure::{Failure, Outcome};
use super::resources::{Resource, group_version, served};

/// Answers for a path that is no resource; a string is plain text.
pub(crate) fn answer(path: &str) -> Outcome<Value> {
    let words: Vec<_> = path.split('/').filter(|word| !word.is_empty()).collect();
    match words.as_slice() {
        ["healthz" | "readyz" | "livez", ..] => Ok("ok".into()),
        ["version"] => Ok(json!({
            "major": "1",
            "minor": "36",
            "gitVersion": "v1.36.0-lab",
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "",
            "platform": "linux/amd64",
        })),
        ["api"] => Ok(json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        })),
        ["apis"] => {
            let groups: Vec<_> = groups().into_iter().map(group).collect();
            Ok(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
        }
        ["apis", name] if groups().contains(name) => {
            let mut answer = group(name);
            answer["kind"] = "APIGroup".into();
            answer["apiVersion"] = "v1".into();
            Ok(answer)
        }
        ["api", "v1"] => Ok(resources("")),
        ["apis", group, "v1"] if groups().contains(group) => Ok(resources(group)),
        _ => Err(Failure::no_such_path()),
    }
}

fn groups() -> Vec<&'static str> {
    let mut groups: Vec<_> = served().map(|resource| resource.group).collect();
    groups.push("authorization.k8s.io");
    groups.retain(|group| !group.is_empty());
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn group(name: &str) -> Value {
    let version = json!({ "groupVersion": format!("{name}/v1"), "version": "v1" });
    json!({ "name": name, "versions": [version], "preferredVersion": version })
}

fn resources(group: &str) -> Value {
    let mut found = Vec::new();
    for resource in served().filter(|resource| resource.group == group) {
        found.push(entry(resource));
        if resource.status {
            found.push(below(
                resource,
                "status",
                resource.kind,
                &["get", "patch", "update"],
            ));
        }
        if resource.is_pod() {
            found.push(below(resource, "eviction", "Eviction", &["create"]));
            found.push(below(resource, "binding", "Binding", &["create"]));
            found.push(below(resource, "log", resource.kind, &["get"]));
            found.push(below(resource, "exec", "PodExecOptions", &["create", "get"]));
            found.push(below(
                resource,
                "portforward",
                "PodPortForwardOptions",
                &["create", "get"],
            ));
            found.push(below(
                resource,
                "ephemeralcontainers",
                resource.kind,
                &["get", "patch", "update"],
            ));
        }
        if resource.plural == "serviceaccounts" {
            found.push(below(resource, "token", "TokenRequest", &["create"]));
        }
    }
    if group == "authorization.k8s.io" {
        found.push(json!({
            "name": "selfsubjectaccessreviews",
            "singularName": "selfsubjectaccessreview",
            "namespaced": false,
            "kind": "SelfSubjectAccessReview",
            "verbs": ["create"],
        }));
    }
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version(group, "v1"),
        "resources": found,
    })
}

fn entry(resource: &Resource) -> Value {
    let short: Vec<_> = [resource.short]
        .into_iter()
        .filter(|short| !short.is_empty())
        .collect();
    json!({
        "name": resource.plural,
        "singularName": resource.kind.to_lowercase(),
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "shortNames": short,
        "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
    })
}

fn below(resource: &Resource, name: &str, kind: &str, verbs: &[&str]) -> Value {
    json!({
        "name": format!("{}/{name}", resource.plural),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": kind,
        "verbs": verbs,
    })
}
