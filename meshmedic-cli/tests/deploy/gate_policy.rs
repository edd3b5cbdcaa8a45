// SPDX-License-Identifier: Apache-2.0
//! The gate as a real API server adds it to pods.

use meshmedic_lab::{ApiServer, need, wait};
use serde_json::{Value, json};

use crate::files::{SOON, objects};

/// From 1.36 on it is served as it stands in `deploy`; before that an API server has to be told.
const FLAGS: [&str; 2] = [
    "--feature-gates=MutatingAdmissionPolicy=true",
    "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
];
const GROUP: &str = "admissionregistration.k8s.io";
const JSON: &str = "application/json";

/// A real API server with the policy, in the version that it serves.
fn served() -> ApiServer {
    let api = ApiServer::real_with(&FLAGS).unwrap();
    let serves = |version: &str| {
        let list = format!("/apis/{GROUP}/{version}/mutatingadmissionpolicies");
        api.send("GET", &list, JSON, &Value::Null).unwrap().code == 200
    };
    let version = ["v1", "v1beta1"]
        .into_iter()
        .find(|version| serves(version))
        .expect("an API server that has MutatingAdmissionPolicy: 1.34 or later");
    for (name, labels) in [
        ("meshmedic", json!({})),
        ("shop", json!({ "meshmedic.io/gate": "enabled" })),
        ("plain", json!({})),
    ] {
        let metadata = json!({ "name": name, "labels": labels });
        api.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }))
            .unwrap();
    }
    api.apply(&objects("kustomize/gate-policy/settings.yaml")[0])
        .unwrap();
    for mut object in objects("kustomize/gate-policy/policy.yaml") {
        let plural = match object["kind"].as_str().unwrap() {
            "MutatingAdmissionPolicy" => "mutatingadmissionpolicies",
            "MutatingAdmissionPolicyBinding" => "mutatingadmissionpolicybindings",
            other => panic!("{other}"),
        };
        assert_eq!(object["apiVersion"], format!("{GROUP}/v1"));
        object["apiVersion"] = format!("{GROUP}/{version}").into();
        let path = format!("/apis/{GROUP}/{version}/{plural}?fieldValidation=Strict");
        let answer = api.send("POST", &path, JSON, &object).unwrap();
        assert_eq!(answer.code, 201, "{}", answer.body);
    }
    let mut tried = 0;
    wait::until("the policy to hold", SOON, || {
        tried += 1;
        let made = api.create(&pod("shop", &format!("probe-{tried}"), &json!({})));
        made.is_ok_and(|pod| names(&pod) == [GATE])
    })
    .unwrap();
    api
}

const GATE: &str = "meshmedic-gate";

fn pod(namespace: &str, name: &str, more: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "containers": [{ "name": "app", "image": "app:1" }] },
    });
    for part in ["metadata", "spec"] {
        for (key, value) in more[part].as_object().into_iter().flatten() {
            pod[part][key] = value.clone();
        }
    }
    pod
}

/// The init containers, in order.
fn names(pod: &Value) -> Vec<&str> {
    let all = pod["spec"]["initContainers"].as_array();
    let all = all.into_iter().flatten();
    all.filter_map(|container| container["name"].as_str()).collect()
}

#[test]
fn the_gate_comes_first_in_pods_of_labelled_namespaces_and_in_no_other() {
    if !need::real_apiserver("the_gate_comes_first_in_pods_of_labelled_namespaces_and_in_no_other") {
        return;
    }
    let api = served();
    let sidecar = json!({ "spec": { "initContainers": [
        { "name": "native", "image": "sidecar:1", "restartPolicy": "Always" },
        { "name": "migrate", "image": "app:1" },
    ] } });
    let job = json!({ "spec": { "restartPolicy": "Never" }, "metadata": { "labels": { "batch.kubernetes.io/job-name": "once" } } });
    let own = json!({ "spec": { "initContainers": [{ "name": GATE, "image": "mine:1" }] } });
    let mirror = json!({
        "metadata": { "annotations": { "kubernetes.io/config.mirror": "x" } },
        "spec": { "nodeName": "node-a" },
    });
    let labelled = |key: &str, value: &str| json!({ "metadata": { "labels": { key: value } } });
    let cases: Vec<(&str, &str, Value, &[&str])> = vec![
        ("bare", "shop", json!({}), &[GATE]),
        ("sidecar", "shop", sidecar, &[GATE, "native", "migrate"]),
        ("job", "shop", job, &[GATE]),
        ("own", "shop", own, &[GATE]),
        ("host", "shop", json!({ "spec": { "hostNetwork": true } }), &[]),
        ("mirror", "shop", mirror, &[]),
        ("out", "shop", labelled("istio.io/dataplane-mode", "none"), &[]),
        (
            "opted-out",
            "shop",
            labelled("meshmedic.io/gate", "disabled"),
            &[],
        ),
        ("elsewhere", "plain", json!({}), &[]),
    ];
    for (name, namespace, more, expected) in cases {
        let made = api.create(&pod(namespace, name, &more)).unwrap();
        assert_eq!(names(&made), expected, "{name}");
    }
    // It is the container of the component for workloads, word for word.
    let made = api.get("pods", "shop", "bare").unwrap();
    let gate = &made["spec"]["initContainers"][0];
    let component = &objects("kustomize/gate/gate.yaml")[0];
    let expected = &component["spec"]["template"]["spec"]["initContainers"][0];
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&gate[key], value, "{key}");
    }
}

#[test]
fn where_the_gate_cannot_be_made_no_pod_is() {
    if !need::real_apiserver("where_the_gate_cannot_be_made_no_pod_is") {
        return;
    }
    let api = served();
    api.delete("configmaps", "meshmedic", GATE).unwrap();
    let mut tried = 0;
    wait::until("pods to be refused", SOON, || {
        tried += 1;
        api.create(&pod("shop", &format!("without-{tried}"), &json!({})))
            .is_err()
    })
    .unwrap();
    api.create(&pod("plain", "elsewhere", &json!({}))).unwrap();
}
