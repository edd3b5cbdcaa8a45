// SPDX-License-Identifier: Apache-2.0
//! Does what doctor says, as an operator with kubectl would, and what the controllers of a real cluster make of it.
//!
//! Nothing here knows of a fault: only of commands. One that is not understood, and is no mere look, fails the test.

use serde_json::{Value, json};

use crate::world::World;

/// Commands that change nothing.
const LOOKS: [[&str; 2]; 8] = [
    ["istioctl", "analyze"],
    ["istioctl", "proxy-status"],
    ["istioctl", "ztunnel-config"],
    ["kubectl", "describe"],
    ["kubectl", "get"],
    ["kubectl", "logs"],
    ["meshmedic", "explain"],
    ["meshmedic", "doctor"],
];

/// Carries out every remedy of a report.
pub(crate) fn cure(world: &World, report: &Value) {
    let checks = report["checks"].as_array().unwrap();
    for finding in checks
        .iter()
        .flat_map(|check| check["findings"].as_array().unwrap())
    {
        for step in finding["remedy"].as_array().unwrap() {
            for command in step["commands"].as_array().into_iter().flatten() {
                let argv = command.as_array().unwrap().iter();
                let argv: Vec<&str> = argv.map(|word| word.as_str().unwrap()).collect();
                run(world, &argv);
            }
            if let Some(yaml) = step["apply"].as_str() {
                world.api.apply_yaml(yaml).unwrap();
            }
        }
    }
}

fn run(world: &World, argv: &[&str]) {
    if LOOKS.iter().any(|look| argv.starts_with(look)) {
        return;
    }
    match argv {
        ["kubectl", "delete", "pod", "-n", namespace, name] => made_anew(world, namespace, name),
        ["kubectl", "rollout", "restart", "-n", namespace, workload] => restart(world, namespace, workload),
        ["kubectl", "label", "namespace", name, change] => label(world, name, change),
        [
            "kubectl",
            "patch",
            kind,
            "-n",
            namespace,
            name,
            "--type",
            "json",
            "-p",
            patch,
        ] => {
            let patch: Value = serde_json::from_str(patch).unwrap();
            let resource = format!("{kind}s");
            world
                .api
                .patch_as("application/json-patch+json", &resource, namespace, name, &patch)
                .unwrap();
        }
        _ => panic!("this command is not known here: {argv:?}"),
    }
}

/// `key=value`, or `key-` to take it away.
fn label(world: &World, namespace: &str, change: &str) {
    let (key, value) = match change.split_once('=') {
        Some((key, value)) => (key, json!(value)),
        None => (change.trim_end_matches('-'), Value::Null),
    };
    world
        .api
        .patch(
            "namespaces",
            "",
            namespace,
            &json!({ "metadata": { "labels": { key: value } } }),
        )
        .unwrap();
}

/// What a workload's controller, the kubelet and istio-cni make of a pod that was deleted.
fn made_anew(world: &World, namespace: &str, name: &str) {
    let Some(pod) = world.api.find("pods", namespace, name).unwrap() else {
        return;
    };
    world
        .api
        .delete_with("pods", namespace, name, &json!({ "gracePeriodSeconds": 0 }))
        .unwrap();
    let node = pod["spec"]["nodeName"].as_str().unwrap().to_owned();
    let address = pod["status"]["podIP"].as_str().unwrap_or("10.244.9.9").to_owned();
    let owner = &pod["metadata"]["ownerReferences"][0];
    let owner = (owner["kind"].as_str().unwrap(), owner["name"].as_str().unwrap());
    let mut labels = pod["metadata"]["labels"].clone();
    if namespace == "istio-system" {
        world.pod(namespace, name, &node, &address, labels, owner);
        if name.starts_with("istiod") {
            // Its counters begin anew, and it writes its bundle into the webhooks.
            world.answer(name, 15014, "# EOF\n");
            bundle(world);
        }
    } else {
        // The label was somebody's on this pod alone; its template has none.
        labels.as_object_mut().unwrap().remove("istio.io/dataplane-mode");
        world.pod(namespace, name, &node, &address, labels, owner);
        let enrolled =
            json!({ "metadata": { "annotations": { "ambient.istio.io/redirection": "enabled" } } });
        world.api.patch("pods", namespace, name, &enrolled).unwrap();
    }
    // Whoever serves that node tells of it from now on, and pods that waited for it start.
    world.answer(
        &format!("ztunnel-{}", node.trim_start_matches("node-")),
        15000,
        &world.dump(&node).to_string(),
    );
    if name.starts_with("ztunnel") {
        start_waiting(world, &node);
    }
}

fn start_waiting(world: &World, node: &str) {
    for namespace in ["shop", "till"] {
        for pod in world.api.list("pods", namespace).unwrap() {
            if pod["spec"]["nodeName"] == node && pod["status"]["phase"] == "Pending" {
                made_anew(world, namespace, pod["metadata"]["name"].as_str().unwrap());
            }
        }
    }
}

fn bundle(world: &World) {
    for resource in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        for mut webhook in world.api.list(resource, "").unwrap() {
            let kind = if resource.starts_with("mutating") {
                "MutatingWebhookConfiguration"
            } else {
                "ValidatingWebhookConfiguration"
            };
            (webhook["kind"], webhook["apiVersion"]) =
                (kind.into(), "admissionregistration.k8s.io/v1".into());
            webhook["webhooks"][0]["clientConfig"]["caBundle"] = "bm90IGVtcHR5".into();
            world.api.update(&webhook).unwrap();
        }
    }
}

/// Every pod of a workload is made anew, by the name of the workload in its own.
fn restart(world: &World, namespace: &str, workload: &str) {
    let (_, name) = workload.split_once('/').unwrap();
    for pod in world.api.list("pods", namespace).unwrap() {
        let pod = pod["metadata"]["name"].as_str().unwrap();
        if pod.starts_with(&format!("{name}-")) {
            made_anew(world, namespace, pod);
        }
    }
}
