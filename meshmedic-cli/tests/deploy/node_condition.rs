// SPDX-License-Identifier: Apache-2.0
//! The right to the status of nodes, on a real API server: one condition of the agent's own node, and nothing else.

use meshmedic_lab::api::Client;
use meshmedic_lab::{ApiServer, Error, need, wait};
use serde_json::{Value, json};

use crate::files::{SOON, grant_all, install};

const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// A real API server with two nodes, and an agent on the first.
struct Guarded {
    api: ApiServer,
    agent: Client,
}

impl Guarded {
    /// With what the component grants, or, with `more`, with every right that there is.
    fn new(more: bool) -> Self {
        let api = ApiServer::real().unwrap();
        api.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "meshmedic" } }))
            .unwrap();
        let files = ["rights", "policy"].map(|file| format!("kustomize/node-condition/{file}.yaml"));
        install(&api, &files.each_ref().map(String::as_str));
        if more {
            grant_all(&api);
        }
        for name in ["node-a", "node-b"] {
            let mut node = api
                .create(&json!({
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": { "name": name, "labels": { "zone": "one" }, "annotations": { "note": "kept" } },
                }))
                .unwrap();
            node["status"] = json!({
                "capacity": { "cpu": "4", "memory": "8Gi" },
                "addresses": [{ "type": "InternalIP", "address": "10.1.0.1" }],
                "conditions": [
                    { "type": "Ready", "status": "True", "reason": "KubeletReady" },
                    { "type": "DiskPressure", "status": "False" },
                ],
            });
            api.update_status(&node).unwrap();
        }
        let pod = api
            .create(&json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": { "namespace": "meshmedic", "name": "agent" },
                "spec": {
                    "nodeName": "node-a",
                    "serviceAccountName": "meshmedic",
                    "containers": [{ "name": "agent", "image": "agent:1" }],
                },
            }))
            .unwrap();
        let agent = api.client_of_pod(&pod).unwrap();
        let guarded = Self { api, agent };
        let evil = json!({ "status": { "capacity": { "example.com/probe": "1" } } });
        let held = || guarded.patch(&guarded.agent, "node-a", &evil).is_err();
        wait::until("the policy to hold", SOON, held).unwrap();
        guarded
    }

    fn patch(&self, client: &Client, node: &str, patch: &Value) -> meshmedic_lab::Result<Value> {
        client.patch_as(STRATEGIC, "nodes/status", "", node, patch)
    }

    #[track_caller]
    fn refused(result: meshmedic_lab::Result<Value>, what: &str, why: &str) {
        match result {
            Err(Error::Api { code, message, .. }) => {
                assert_eq!(code, 403, "{what}: {message}");
                assert!(
                    message.contains("ValidatingAdmissionPolicy") && message.contains(why),
                    "{what}: {message}"
                );
            }
            other => panic!("{what} was not refused: {other:?}"),
        }
    }
}

fn ours(status: &str) -> Value {
    json!({
        "type": "MeshCaptureReady",
        "status": status,
        "reason": "Captures",
        "message": "well",
        "lastHeartbeatTime": "2026-11-29T10:00:00Z",
        "lastTransitionTime": "2026-11-29T10:00:00Z",
    })
}

fn conditions(all: Value) -> Value {
    json!({ "status": { "conditions": all } })
}

#[test]
fn an_agent_writes_the_condition_of_its_own_node() {
    if !need::real_apiserver("an_agent_writes_the_condition_of_its_own_node") {
        return;
    }
    let guarded = Guarded::new(false);
    let before = guarded.api.get("nodes", "", "node-a").unwrap();
    for status in ["Unknown", "True", "False", "True"] {
        let after = guarded
            .patch(&guarded.agent, "node-a", &conditions(json!([ours(status)])))
            .unwrap();
        let all = after["status"]["conditions"].as_array().unwrap();
        assert!(all.contains(&ours(status)), "{all:?}");
        let others: Vec<&Value> = all
            .iter()
            .filter(|found| found["type"] != "MeshCaptureReady")
            .collect();
        let kept: Vec<&Value> = before["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .collect();
        assert_eq!(others, kept);
    }
    // The kubelet and everybody else go on as before.
    let ready = json!([{ "type": "Ready", "status": "False" }]);
    guarded.patch(&guarded.api, "node-b", &conditions(ready)).unwrap();
}

#[test]
fn an_agent_writes_nothing_else_of_a_node() {
    if !need::real_apiserver("an_agent_writes_nothing_else_of_a_node") {
        return;
    }
    let guarded = Guarded::new(true);
    let agent = &guarded.agent;
    let mine = || conditions(json!([ours("True")]));
    guarded.patch(agent, "node-a", &mine()).unwrap();
    let with = |pointer: &str, value: Value| {
        let mut patch = mine();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let mut at = &mut patch;
        for part in parent.split('/').filter(|part| !part.is_empty()) {
            at = &mut at[part];
        }
        at[key] = value;
        patch
    };
    let with_ours = |key: &str, value: Value| {
        let mut condition = ours("True");
        condition[key] = value;
        conditions(json!([condition]))
    };
    let steps: Vec<(&str, Value, &str)> = vec![
        (
            "a label",
            with("/metadata/labels", json!({ "zone": "two" })),
            "nothing of a node but",
        ),
        (
            "an annotation",
            with("/metadata/annotations", json!({ "note": "x" })),
            "nothing of a node but",
        ),
        (
            "a finalizer",
            with("/metadata/finalizers", json!(["example.com/held"])),
            "nothing of a node but",
        ),
        (
            "capacity",
            with("/status/capacity", json!({ "cpu": "400" })),
            "nothing of a node's status",
        ),
        (
            "more capacity",
            with("/status/capacity", json!({ "example.com/gpu": "8" })),
            "nothing of a node's status",
        ),
        (
            "an address",
            with(
                "/status/addresses",
                json!([{ "type": "InternalIP", "address": "10.1.0.66" }]),
            ),
            "nothing of a node's status",
        ),
        (
            "a field's removal",
            with("/status/capacity", Value::Null),
            "nothing of a node's status",
        ),
        (
            "that it is not Ready",
            conditions(json!([ours("True"), { "type": "Ready", "status": "False" }])),
            "no condition of a node but",
        ),
        (
            "another condition",
            conditions(json!([ours("True"), { "type": "Evil", "status": "True" }])),
            "no condition of a node but",
        ),
        (
            "a condition's removal",
            conditions(json!([ours("True"), { "type": "DiskPressure", "$patch": "delete" }])),
            "no condition of a node but",
        ),
        (
            "its own condition's removal",
            conditions(json!([{ "type": "MeshCaptureReady", "$patch": "delete" }])),
            "as True, False or Unknown",
        ),
        (
            "another status",
            with_ours("status", "Maybe".into()),
            "as True, False or Unknown",
        ),
        (
            "a sentence for a reason",
            with_ours("reason", "two words".into()),
            "as True, False or Unknown",
        ),
        (
            "a long message",
            with_ours("message", "x".repeat(513).into()),
            "as True, False or Unknown",
        ),
    ];
    for (what, patch, why) in steps {
        Guarded::refused(guarded.patch(agent, "node-a", &patch), what, why);
    }
    Guarded::refused(
        guarded.patch(agent, "node-b", &mine()),
        "another node",
        "own node only",
    );
    // A token that says nothing of a node has none.
    let unbound = guarded.api.client_of("meshmedic", "meshmedic").unwrap();
    Guarded::refused(
        guarded.patch(&unbound, "node-a", &mine()),
        "a token without a node",
        "own node only",
    );
    // The same through the node itself, whoever granted that.
    let taint = json!({ "spec": { "taints": [{ "key": "evil", "effect": "NoExecute" }] } });
    Guarded::refused(
        agent.patch("nodes", "", "node-a", &taint),
        "a taint",
        "nothing of a node but",
    );
}
