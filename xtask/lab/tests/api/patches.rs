// SPDX-License-Identifier: Apache-2.0
//! Patches of every kind, and the status beside the object.

use meshmedic_lab::ApiServer;
use serde_json::{Value, json};

use crate::common::{config_map, pod, refusal, running, space, version};

const STRATEGIC: &str = "application/strategic-merge-patch+json";
const OPERATIONS: &str = "application/json-patch+json";

pub(crate) fn it_merges(api: &ApiServer) {
    let ns = space(api);
    api.create(&config_map(&ns, "a", "1")).unwrap();
    let patch = json!({ "metadata": { "labels": { "x": "y" } }, "data": { "key": null, "other": "2" } });
    let patched = api.patch("configmaps", &ns, "a", &patch).unwrap();
    assert_eq!(patched["data"], json!({ "other": "2" }));
    assert_eq!(patched["metadata"]["labels"], json!({ "x": "y" }));
    assert_eq!(refusal(api.patch("configmaps", &ns, "b", &patch)).0, 404);
    assert_eq!(
        refusal(api.patch_as("text/plain", "configmaps", &ns, "a", &patch)).0,
        415
    );
}

pub(crate) fn it_merges_lists_by_key(api: &ApiServer) {
    let ns = space(api);
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "namespace": ns, "name": "cart" },
        "spec": {
            "selector": { "matchLabels": { "app": "cart" } },
            "template": {
                "metadata": { "labels": { "app": "cart" } },
                "spec": { "containers": [
                    { "name": "app", "image": "cart:1" },
                    { "name": "side", "image": "side:1" },
                    { "name": "third", "image": "third:1" },
                ] },
            },
        },
    });
    api.create(&deployment).unwrap();
    let patch = json!({ "spec": { "template": { "spec": { "containers": [
        { "name": "side", "$patch": "delete" },
        { "name": "app", "image": "cart:2" },
    ] } } } });
    let patched = api
        .patch_as(STRATEGIC, "deployments", &ns, "cart", &patch)
        .unwrap();
    let containers = patched["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap();
    let images: Vec<_> = containers
        .iter()
        .map(|container| container["image"].as_str().unwrap())
        .collect();
    assert_eq!(images, ["cart:2", "third:1"]);
    assert_eq!(patched["metadata"]["generation"], 2);
}

pub(crate) fn it_patches_by_operations(api: &ApiServer) {
    let ns = space(api);
    api.create(&config_map(&ns, "a", "1")).unwrap();
    let patch = json!([
        { "op": "test", "path": "/data/key", "value": "1" },
        { "op": "add", "path": "/metadata/annotations", "value": { "a/b": "c" } },
        { "op": "replace", "path": "/metadata/annotations/a~1b", "value": "d" },
        { "op": "remove", "path": "/data/key" },
    ]);
    let patched = api.patch_as(OPERATIONS, "configmaps", &ns, "a", &patch).unwrap();
    assert_eq!(patched["metadata"]["annotations"], json!({ "a/b": "d" }));
    assert!(patched["data"]["key"].is_null());
    // The test at its beginning holds no longer.
    assert_eq!(
        refusal(api.patch_as(OPERATIONS, "configmaps", &ns, "a", &patch)).0,
        422
    );
}

pub(crate) fn a_patch_can_carry_its_version(api: &ApiServer) {
    let ns = space(api);
    let made = api.create(&config_map(&ns, "a", "1")).unwrap();
    let patch = |version: &str, value: &str| json!({ "metadata": { "resourceVersion": version }, "data": { "key": value } });
    api.patch("configmaps", &ns, "a", &patch(&version(&made), "2"))
        .unwrap();
    let late = refusal(api.patch("configmaps", &ns, "a", &patch(&version(&made), "3")));
    assert_eq!((late.0, late.1.as_str()), (409, "Conflict"));
    // Another UID is not a conflict to the real one but an attempt to change what cannot change.
    let stranger =
        json!({ "metadata": { "uid": "00000000-0000-4000-a000-000000000000", "labels": { "x": "y" } } });
    let (code, reason, message) = refusal(api.patch("configmaps", &ns, "a", &stranger));
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(message.contains("metadata.uid: Invalid value"), "{message}");
}

pub(crate) fn it_applies(api: &ApiServer) {
    let ns = space(api);
    let mut wanted = config_map(&ns, "a", "1");
    wanted["metadata"]["labels"] = json!({ "one": "1", "two": "2" });
    let made = api.apply(&wanted).unwrap();
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Apply");
    let foreign = json!({ "metadata": { "labels": { "foreign": "3" } } });
    api.patch("configmaps", &ns, "a", &foreign).unwrap();
    let before = api.apply(&wanted).unwrap();
    assert_eq!(version(&api.apply(&wanted).unwrap()), version(&before));
    // What is no longer applied goes; what others wrote stays.
    wanted["metadata"]["labels"] = json!({ "one": "1" });
    let applied = api.apply(&wanted).unwrap();
    assert_eq!(
        applied["metadata"]["labels"],
        json!({ "one": "1", "foreign": "3" })
    );
    let made = api.apply_yaml(&format!(
        "# two of them\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: b\n  namespace: {ns}\n---\n---\n\
         apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: c, namespace: {ns}}}\n"
    ));
    assert_eq!(made.unwrap().len(), 2);
    assert!(api.find("serviceaccounts", &ns, "c").unwrap().is_some());
}

pub(crate) fn the_status_is_apart(api: &ApiServer) {
    let ns = space(api);
    let mut made = pod(&ns, "a");
    made["status"] = json!({ "phase": "Running" });
    let mut made = api.create(&made).unwrap();
    assert_eq!(made["status"]["phase"], "Pending");
    made["status"]["phase"] = "Running".into();
    assert_eq!(api.update(&made).unwrap()["status"]["phase"], "Pending");
    made["metadata"]["resourceVersion"] = Value::Null;
    assert_eq!(api.update_status(&made).unwrap()["status"]["phase"], "Running");
    let patch = json!({ "spec": { "nodeName": "node-a" } });
    let patched = api.patch("pods/status", &ns, "a", &patch).unwrap();
    assert!(patched["spec"]["nodeName"].is_null());
    // Whatever the status says, the node is not for a patch to choose.
    assert_eq!(refusal(api.patch("pods", &ns, "a", &patch)).0, 422);
}

pub(crate) fn annotations_come_through_the_status(api: &ApiServer) {
    let ns = space(api);
    running(api, &ns, "a", true);
    let patch = json!({ "metadata": { "annotations": { "ambient.istio.io/redirection": "enabled" } } });
    let patched = api
        .with_agent("install-cni/1")
        .patch("pods/status", &ns, "a", &patch)
        .unwrap();
    assert_eq!(
        patched["metadata"]["annotations"]["ambient.istio.io/redirection"],
        "enabled"
    );
    assert_eq!(patched["status"]["phase"], "Running");
    let entries = patched["metadata"]["managedFields"].as_array().unwrap();
    let own = entries
        .iter()
        .find(|entry| entry["manager"] == "install-cni")
        .unwrap();
    assert_eq!(own["subresource"], "status");
}
