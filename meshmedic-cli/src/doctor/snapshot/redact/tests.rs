// SPDX-License-Identifier: Apache-2.0
use k8s_openapi::api::core::v1::Pod;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::doctor::snapshot::{CUSTOM_KINDS, Custom};

/// What must not get out, wherever it stood.
const SECRET: &str = "hunter2";

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[track_caller]
fn assert_kept_secret(kept: &impl serde::Serialize) -> Value {
    let kept = serde_json::to_value(kept).unwrap();
    assert!(!kept.to_string().contains(SECRET), "it got out: {kept:#}");
    kept
}

/// A pod with the secret in every place where people put one.
fn pod_with_secrets() -> Value {
    let container = json!({
        "name": "app", "image": "cart:1", "command": ["sh", "-c", "login --password=hunter2"], "args": ["hunter2"],
        "env": [
            { "name": "TOKEN", "value": "hunter2" },
            { "name": "PILOT_ENABLE_AMBIENT", "value": "hunter2" },
            { "name": "REF", "valueFrom": { "secretKeyRef": { "name": "hunter2", "key": "hunter2" } } },
        ],
        "envFrom": [{ "secretRef": { "name": "hunter2" } }],
        "workingDir": "/hunter2",
        "lifecycle": { "preStop": { "exec": { "command": ["hunter2"] } } },
        "volumeMounts": [{ "name": "hunter2", "mountPath": "/hunter2" }],
        "readinessProbe": { "httpGet": {
            "path": "/ready?token=hunter2", "port": 8080, "host": "hunter2",
            "httpHeaders": [{ "name": "authorization", "value": "hunter2" }],
        } },
        "livenessProbe": { "exec": { "command": ["check", "hunter2"] } },
    });
    json!({
        "metadata": {
            "name": "cart", "namespace": "shop", "labels": { "app": "cart" },
            "annotations": {
                "ambient.istio.io/redirection": "hunter2",
                "istio.io/reroute-virtual-interfaces": "Hunter is hunter2!",
                "kubectl.kubernetes.io/last-applied-configuration": "{\"env\": \"hunter2\"}",
                "meshmedic.io/toggle-restore": "hunter2",
                "proxy.istio.io/config": "proxyMetadata: {TOKEN: hunter2}\nholdApplicationUntilProxyStarts: true",
                "sidecar.istio.io/inject": "hunter2",
                "sidecar.istio.io/proxyCPU": "hunter2",
                "sidecar.istio.io/status": "{\"imagePullSecrets\": [\"hunter2\"]}",
                "sidecar.istio.io/userVolume": "{\"hunter2\": 1}",
                "traffic.sidecar.istio.io/excludeInboundPorts": "hunter2",
                "vault.example/token": "hunter2",
            },
            "managedFields": [{ "manager": "hunter2" }],
            "finalizers": ["hunter2"],
        },
        "spec": {
            "containers": [container], "initContainers": [container],
            "imagePullSecrets": [{ "name": "hunter2" }],
            "volumes": [{ "name": "hunter2", "secret": { "secretName": "hunter2" } }],
            "hostAliases": [{ "ip": "10.0.0.1", "hostnames": ["hunter2"] }],
        },
        "status": {
            "phase": "Running", "message": "hunter2",
            "conditions": [{ "type": "Ready", "status": "False", "message": "hunter2" }],
            "containerStatuses": [{
                "name": "app", "image": "cart:1", "imageID": "hunter2", "ready": false, "restartCount": 1,
                "containerID": "hunter2",
                "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "hunter2" } },
                "lastState": { "terminated": { "exitCode": 1, "message": "hunter2", "containerID": "hunter2" } },
            }],
        },
    })
}

#[test]
fn nothing_secret_of_a_pod_is_kept() {
    let kept = assert_kept_secret(&pod(&object::<Pod>(pod_with_secrets())));
    assert_eq!(kept["spec"]["containers"][0]["env"][0]["name"], "TOKEN");
    assert_eq!(
        kept["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"],
        "/ready"
    );
    let annotations = kept["metadata"]["annotations"].as_object().unwrap();
    assert!(
        annotations.contains_key("vault.example/token"),
        "that it is there may be told"
    );
    assert_eq!(
        annotations["proxy.istio.io/config"],
        "{\"holdApplicationUntilProxyStarts\": true}"
    );
    assert_eq!(annotations["meshmedic.io/toggle-restore"], "left out");
}

#[test]
fn nothing_secret_of_what_makes_pods_is_kept() {
    let template = pod_with_secrets();
    let made = |spec: Value| json!({ "metadata": template["metadata"], "spec": spec });
    let set = json!({ "selector": {}, "template": template });
    assert_kept_secret(&daemon_set(&object(made(set.clone()))));
    assert_kept_secret(&deployment(&object(made(set))));
    assert_kept_secret(&job(&object(made(json!({ "template": template })))));
    assert_kept_secret(&replica_set(&object(made(
        json!({ "selector": {}, "template": template }),
    ))));
    assert_kept_secret(&namespace(&object(json!({ "metadata": template["metadata"] }))));
    assert_kept_secret(&node(&object(json!({ "metadata": template["metadata"] }))));
    assert_kept_secret(&service(&object(json!({ "metadata": template["metadata"] }))));
}

#[test]
fn what_checks_look_at_is_kept() {
    let value = json!({
        "metadata": { "name": "cart", "annotations": {
            "ambient.istio.io/redirection": "enabled", "sidecar.istio.io/proxyMemoryLimit": "1Gi",
            "istio.io/use-waypoint": "shop-waypoint", "traffic.sidecar.istio.io/excludeInboundPorts": "9000-9100,*",
        } },
        "spec": { "hostNetwork": true, "containers": [{
            "name": "app", "env": [{ "name": "PILOT_ENABLE_AMBIENT", "value": "true" }],
            "args": ["-c", "work && curl -X POST localhost:15020/quitquitquit"],
        }] },
    });
    let kept = serde_json::to_value(pod(&object::<Pod>(value.clone()))).unwrap();
    assert_eq!(kept["metadata"]["annotations"], value["metadata"]["annotations"]);
    assert_eq!(kept["spec"]["containers"][0]["env"][0]["value"], "true");
    assert_eq!(kept["spec"]["containers"][0]["args"], json!(["quitquitquit"]));
    assert_eq!(kept["spec"]["hostNetwork"], true);
}

fn reduced(plural: &str, spec: Value) -> Custom {
    let kind = CUSTOM_KINDS.iter().find(|kind| kind.plural == plural).unwrap();
    let made = json!({ "apiVersion": "x/v1", "kind": "X", "metadata": { "name": "x" }, "spec": spec });
    custom(kind, "x/v1", &object(made))
}

#[test]
fn headers_and_tokens_in_objects_of_istio_are_not_kept() {
    let spec = json!({
        "hosts": ["cart"],
        "http": [{
            "match": [{ "headers": { "authorization": { "exact": "hunter2" } }, "uri": { "prefix": "/" } }],
            "headers": { "request": { "set": { "x-token": "hunter2" } } },
            "directResponse": { "body": { "string": "hunter2" } },
            "route": [{ "destination": { "host": "cart", "subset": "v1" }, "weight": 90, "headers": { "a": "hunter2" } }],
        }],
    });
    let kept = reduced("virtualservices", spec);
    assert_kept_secret(&kept);
    assert_eq!(kept.spec.pointer("/http/0/route/0/weight"), Some(&json!(90)));
    assert_eq!(
        kept.spec.pointer("/http/0/match/0/headers"),
        Some(&json!({})),
        "that there was one is kept"
    );
    let when = json!({ "rules": [{ "when": [
        { "key": "request.headers[x-token]", "values": ["hunter2"], "notValues": ["hunter2"] },
        { "key": "source.namespace", "values": ["shop"] },
    ] }] });
    let kept = reduced("authorizationpolicies", when);
    assert_kept_secret(&kept);
    assert_eq!(
        kept.spec.pointer("/rules/0/when/1/values/0"),
        Some(&json!("shop"))
    );
    let jwt =
        json!({ "jwtRules": [{ "issuer": "x", "jwks": "hunter2", "fromHeaders": [{ "name": "hunter2" }] }] });
    assert_kept_secret(&reduced("requestauthentications", jwt));
    assert_eq!(
        reduced("ciliumnetworkpolicies", json!({ "a": "hunter2" })).spec,
        Value::Null
    );
}

#[test]
fn a_spec_of_any_depth_is_survived() {
    let mut spec = json!(SECRET);
    for _ in 0..100 {
        spec = json!([spec]);
    }
    assert_kept_secret(&reduced("virtualservices", spec));
}

#[test]
fn settings_and_webhooks_lose_what_is_not_looked_at() {
    let mesh = "rootNamespace: istio-system\nextensionProviders: [{name: hunter2}]\ndefaultConfig: {tracing: hunter2}";
    let config = mesh_config(mesh).unwrap();
    assert_eq!(config.root_namespace.as_deref(), Some("istio-system"));
    assert_kept_secret(&config);
    assert_eq!(mesh_config("{"), None);
    let data = [
        ("AMBIENT_ENABLED".to_owned(), "true".to_owned()),
        ("OTHER".to_owned(), SECRET.to_owned()),
    ]
    .into();
    assert_eq!(cni_config(&data).len(), 1);
    let hook = json!({ "metadata": { "name": "x" }, "webhooks": [{
        "name": "x", "admissionReviewVersions": [], "sideEffects": "None",
        "clientConfig": { "url": "https://user:hunter2@example.com/" },
    }] });
    assert_kept_secret(&mutating_webhook(&object(hook.clone())));
    assert_kept_secret(&validating_webhook(&object(hook)));
}

#[test]
fn an_event_is_kept_if_a_check_looks_at_it() {
    let made = |reason: &str, message: &str| {
        event(&object(json!({
            "metadata": {}, "reason": reason, "message": message, "count": 3, "type": "Warning",
            "involvedObject": { "kind": "Pod", "namespace": "shop", "name": "cart", "uid": "u" },
        })))
    };
    assert_eq!(made("Scheduled", SECRET), None);
    let kept = made(
        "FailedCreatePodSandBox",
        &format!("no\u{1b}[2J ztunnel {}", "x".repeat(5000)),
    )
    .unwrap();
    assert!(kept.message.starts_with("no [2J ztunnel") && kept.message.len() <= 600);
    assert_eq!((kept.count, kept.name.as_str()), (3, "cart"));
}

#[test]
fn of_objects_that_hold_code_or_keys_only_whom_they_are_for_is_kept() {
    for (plural, spec) in [
        (
            "envoyfilters",
            json!({ "workloadSelector": { "labels": { "app": "cart" } }, "configPatches": [{ "patch": { "lua": "hunter2" } }] }),
        ),
        (
            "wasmplugins",
            json!({ "selector": { "matchLabels": { "app": "cart" } }, "pluginConfig": { "key": "hunter2" } }),
        ),
        (
            "felixconfigurations",
            json!({ "bpfEnabled": true, "prometheusMetricsKeyFile": "hunter2" }),
        ),
    ] {
        let kept = reduced(plural, spec);
        assert_kept_secret(&kept);
        assert_eq!(kept.spec.as_object().unwrap().len(), 1, "{kept:?}");
    }
}

#[test]
fn what_controllers_say_is_kept_and_cleaned() {
    let condition = |message: &str| {
        json!({
            "type": "Accepted", "status": "False", "reason": "NoMatchingParent", "message": message, "observedGeneration": 3,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let said = |plural: &str, status: Value| {
        let kind = CUSTOM_KINDS.iter().find(|kind| kind.plural == plural).unwrap();
        let made =
            json!({ "apiVersion": "x/v1", "kind": "X", "metadata": { "name": "x" }, "status": status });
        custom(kind, "x/v1", &object(made)).status
    };
    let gateway = said(
        "gateways",
        json!({
            "addresses": [{ "type": "Hostname", "value": "wp.shop.svc.cluster.local" }],
            "conditions": [condition("no\u{1b}[2J parent")],
            "listeners": [{ "name": "http", "attachedRoutes": 1, "conditions": [condition("x")] }],
            "other": "hunter2",
        }),
    );
    assert_eq!(gateway.conditions[0].message, "no [2J parent");
    assert_eq!(gateway.conditions[0].observed_generation, Some(3));
    assert_eq!(
        (gateway.addresses.len(), gateway.parts[0].of.as_str()),
        (1, "http")
    );
    assert_kept_secret(&gateway);
    let route = said(
        "httproutes",
        json!({ "parents": [{
        "controllerName": "istio.io/gateway-controller", "conditions": [condition("x")],
        "parentRef": { "group": "", "kind": "Service", "namespace": "shop", "name": "cart" },
    }] }),
    );
    assert_eq!(route.parts[0].of, "Service shop/cart");
    assert_eq!(route.parts[0].controller, "istio.io/gateway-controller");
    // Istio's own objects have the generation as a text.
    let policy = said(
        "authorizationpolicies",
        json!({ "conditions": [{ "type": "ZtunnelAccepted", "observedGeneration": "7" }] }),
    );
    assert_eq!(policy.conditions[0].observed_generation, Some(7));
    for odd in [
        json!("x"),
        json!({ "conditions": {}, "listeners": [1], "parents": "x" }),
        json!({ "conditions": [[]] }),
    ] {
        assert!(said("gateways", odd).parts.len() <= 1);
    }
}

#[test]
fn of_volumes_the_folders_of_the_node_are_kept_and_of_the_networks_switches_their_words() {
    let set = json!({ "metadata": { "name": "x" }, "spec": { "selector": {}, "template": { "spec": {
        "volumes": [
            { "name": "cni-net-dir", "hostPath": { "path": "/etc/cni/net.d" } },
            { "name": "hunter2", "secret": { "secretName": "hunter2" } },
        ],
        "containers": [{ "name": "x", "env": [
            { "name": "POD_SECURITY_GROUP_ENFORCING_MODE", "value": "strict" },
            { "name": "ENABLE_POD_ENI", "value": "hunter2" },
        ] }],
    } } } });
    let kept = assert_kept_secret(&daemon_set(&object(set)));
    let spec = &kept["spec"]["template"]["spec"];
    assert_eq!(
        spec["volumes"],
        json!([{ "name": "cni-net-dir", "hostPath": { "path": "/etc/cni/net.d" } }])
    );
    assert_eq!(spec["containers"][0]["env"][0]["value"], "strict");
}

#[test]
fn accounts_lose_what_they_may_mount_and_services_keep_what_is_said_of_them() {
    let account = json!({
        "metadata": { "name": "x", "namespace": "shop" }, "secrets": [{ "name": "hunter2" }],
        "imagePullSecrets": [{ "name": "hunter2" }],
    });
    assert_kept_secret(&service_account(&object(account)));
    let said = json!({
        "metadata": { "name": "cart" },
        "status": {
            "loadBalancer": { "ingress": [{ "hostname": "hunter2" }] },
            "conditions": [{
                "type": "istio.io/WaypointBound", "status": "False", "reason": "WaypointIsNotReady",
                "message": "waypoint\u{7} is not ready", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    });
    let kept = assert_kept_secret(&service(&object(said)));
    assert_eq!(
        kept["status"]["conditions"][0]["message"],
        "waypoint  is not ready"
    );
}

#[test]
fn settings_keep_what_a_reboot_and_the_network_depend_on() {
    let data = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let cni = cni_config(&data(&[
        ("ISTIO_OWNED_CNI_CONFIG", "true"),
        ("REPAIR_ENABLED", "hunter2"),
    ]));
    assert_eq!(cni.len(), 1);
    let cilium = cilium_config(&data(&[("cni-exclusive", "false"), ("etcd-config", "hunter2")]));
    assert_eq!(cilium.len(), 1);
    let mesh = mesh_config("trustDomain: mesh.example\ntrustDomainAliases: [old.example, 7]").unwrap();
    assert_eq!(mesh.trust_domain_aliases, ["old.example"]);
}
