// SPDX-License-Identifier: Apache-2.0
//! What the lab's server does by itself and the real one leaves to controllers, and its process.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use meshmedic_lab::{ApiServer, need, wait};
use serde_json::{Value, json};

use crate::common::{config_map, name, running, space};
use crate::watches::SOON;

fn owner(api: &ApiServer, ns: &str) -> Value {
    let made = api.create(&json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": { "namespace": ns, "name": "cart" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "cart" } },
            "template": {
                "metadata": { "labels": { "app": "cart" } },
                "spec": { "containers": [{ "name": "app", "image": "cart:1" }] },
            },
        },
    }));
    made.unwrap()
}

fn owned(api: &ApiServer, ns: &str, owner: &Value, name: &str) {
    let mut made = config_map(ns, name, "1");
    made["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "cart",
        "uid": owner["metadata"]["uid"],
        "controller": true,
    }]);
    api.create(&made).unwrap();
}

#[test]
fn what_is_owned_goes_along() {
    let api = ApiServer::start().unwrap();
    for policy in ["Background", "Foreground"] {
        let ns = space(&api);
        owned(&api, &ns, &owner(&api, &ns), "a");
        let options = json!({ "propagationPolicy": policy });
        api.delete_with("replicasets", &ns, "cart", &options).unwrap();
        assert!(api.find("configmaps", &ns, "a").unwrap().is_none(), "{policy}");
        assert!(
            api.find("replicasets", &ns, "cart").unwrap().is_none(),
            "{policy}"
        );
    }
    let ns = space(&api);
    owned(&api, &ns, &owner(&api, &ns), "a");
    let options = json!({ "propagationPolicy": "Orphan" });
    api.delete_with("replicasets", &ns, "cart", &options).unwrap();
    let orphan = api.get("configmaps", &ns, "a").unwrap();
    assert!(orphan["metadata"]["ownerReferences"].is_null());
    api.delete("namespaces", "", &ns).unwrap();
    assert!(api.find("configmaps", &ns, "a").unwrap().is_none());
}

#[test]
fn finalizers_hold() {
    let api = ApiServer::start().unwrap();
    let ns = space(&api);
    let mut made = config_map(&ns, "a", "1");
    made["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.create(&made).unwrap();
    api.delete("configmaps", &ns, "a").unwrap();
    let held = api.get("configmaps", &ns, "a").unwrap();
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    let free = json!({ "metadata": { "finalizers": null } });
    api.patch("configmaps", &ns, "a", &free).unwrap();
    assert!(api.find("configmaps", &ns, "a").unwrap().is_none());
}

#[test]
fn budgets_count_percentages_of_what_controllers_want() {
    let api = ApiServer::start().unwrap();
    let ns = space(&api);
    let set = owner(&api, &ns);
    for pod in ["a", "b"] {
        running(&api, &ns, pod, true);
        let owners = json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "cart", "uid": set["metadata"]["uid"], "controller": true,
        }]);
        let patch = json!({ "metadata": { "ownerReferences": owners } });
        api.patch("pods", &ns, pod, &patch).unwrap();
    }
    let status = |spec: Value| {
        let mut budget = json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": { "namespace": ns, "name": "cart" },
            "spec": spec,
        });
        budget["spec"]["selector"] = json!({ "matchLabels": { "app": "cart" } });
        api.create(&budget).unwrap();
        let status = api.get("poddisruptionbudgets", &ns, "cart").unwrap()["status"].clone();
        api.delete("poddisruptionbudgets", &ns, "cart").unwrap();
        ["expectedPods", "desiredHealthy", "disruptionsAllowed"].map(|field| status[field].as_i64().unwrap())
    };
    assert_eq!(status(json!({ "maxUnavailable": 1 })), [2, 1, 1]);
    assert_eq!(status(json!({ "maxUnavailable": "50%" })), [2, 1, 1]);
    assert_eq!(status(json!({ "minAvailable": "60%" })), [2, 2, 0]);
    api.patch("replicasets", &ns, "cart", &json!({ "spec": { "replicas": 4 } }))
        .unwrap();
    assert_eq!(status(json!({ "maxUnavailable": 1 })), [4, 3, 0]);
}

#[test]
fn kubectl_can_ask() {
    if !need::kubectl("kubectl_can_ask") {
        return;
    }
    let api = ApiServer::start().unwrap();
    let ns = space(&api);
    running(&api, &ns, "cart", true);
    let config = api.kubeconfig_for_kubectl().unwrap();
    let mut kubectl = Command::new("kubectl");
    kubectl.arg("--kubeconfig").arg(config);
    let output = kubectl
        .args(["get", "pods,pdb", "-n", &ns, "-o", "name"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "pod/cart\n",
        "{output:?}"
    );
}

#[test]
fn it_ends_with_its_handle() {
    let api = ApiServer::start().unwrap();
    let ns = space(&api);
    assert_eq!(name(&api.get("namespaces", "", &ns).unwrap()), ns);
    let other = api.with_agent("other");
    drop(api);
    wait::until("the server to end", SOON, || other.list("pods", "").is_err()).unwrap();
}

#[test]
fn what_is_on_the_leash_ends_with_the_lab() {
    let mut leash = Command::new(env!("CARGO_BIN_EXE_meshmedic-lab"))
        .args(["leash", "sleep", "3600"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", leash.id());
    let mut held = String::new();
    wait::until("the program", SOON, || {
        held = fs::read_to_string(&children).unwrap();
        !held.trim().is_empty()
    })
    .unwrap();
    drop(leash.stdin.take());
    assert!(leash.wait().unwrap().success());
    assert!(!Path::new("/proc").join(held.trim()).exists());
}

#[test]
fn what_a_killed_lab_left_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("admin.kubeconfig"), "").unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_meshmedic-lab"))
        .arg("apiserver")
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
    assert!(!folder.path().exists());
}

#[test]
fn the_log_has_the_precondition_of_an_eviction() {
    let api = ApiServer::start().unwrap();
    let ns = space(&api);
    let options = json!({ "preconditions": { "uid": "u" } });
    assert!(api.evict(&ns, "a", &options).is_err());
    let requests = api.requests().unwrap();
    let eviction = requests.iter().find(|request| request.subresource == "eviction");
    assert_eq!(eviction.unwrap().precondition, "u");
}
