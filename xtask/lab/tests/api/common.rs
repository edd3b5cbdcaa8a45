// SPDX-License-Identifier: Apache-2.0
//! What many tests need.

use meshmedic_lab::api::Client;
use meshmedic_lab::{ApiServer, Error, Result};
use serde_json::{Value, json};

/// Makes a namespace of the test's own, and returns its name.
pub(crate) fn space(api: &ApiServer) -> String {
    let made = api.create(&json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "generateName": "test-" },
    }));
    name(&made.unwrap())
}

pub(crate) fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

pub(crate) fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

pub(crate) fn config_map(namespace: &str, name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "namespace": namespace, "name": name },
        "data": { "key": value },
    })
}

pub(crate) fn pod(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": namespace, "name": name, "labels": { "app": "cart" } },
        "spec": { "containers": [{ "name": "app", "image": "cart:1" }] },
    })
}

/// Creates a pod that runs on a node, ready or not.
pub(crate) fn running(api: &Client, namespace: &str, name: &str, ready: bool) -> Value {
    let mut pod = pod(namespace, name);
    pod["spec"]["nodeName"] = "node-a".into();
    let mut made = api.create(&pod).unwrap();
    made["status"] = json!({
        "phase": "Running",
        "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
    });
    api.update_status(&made).unwrap()
}

/// The code, reason and message of a refusal.
#[track_caller]
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T>) -> (u16, String, String) {
    match result {
        Err(Error::Api {
            code,
            reason,
            message,
            ..
        }) => (code, reason, message),
        other => panic!("no refusal: {other:?}"),
    }
}

/// The details of a refusal.
#[track_caller]
pub(crate) fn details<T: std::fmt::Debug>(result: Result<T>) -> Value {
    match result {
        Err(Error::Api { status, .. }) => status["details"].clone(),
        other => panic!("no refusal: {other:?}"),
    }
}
