// SPDX-License-Identifier: Apache-2.0
//! Ephemeral containers.

use futures_util::{AsyncBufReadExt as _, FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{LogParams, Patch, PatchParams, PostParams};
use meshmedic_lab::{ApiServer, Ephemeral, Exec, PodRef, wait};
use serde_json::{Value, json};

use crate::common::{CAT, SOON, pod, refusal, space, start};

pub(crate) fn patch(container: &Value) -> Patch<Value> {
    Patch::Strategic(json!({ "spec": { "ephemeralContainers": [container] } }))
}

pub(crate) fn medic() -> Value {
    json!({ "name": "medic", "image": "registry.example/tools:1", "command": CAT, "targetContainerName": "app" })
}

pub(crate) fn of_medic(follow: bool) -> LogParams {
    LogParams {
        container: Some("medic".to_owned()),
        follow,
        ..LogParams::default()
    }
}

async fn add(pods: &Api<Pod>, name: &str, container: &Value) -> kube::Result<Pod> {
    let params = PatchParams::default();
    pods.patch_ephemeral_containers(name, &params, &patch(container))
        .await
}

/// The state of the container, once it has this one.
pub(crate) fn state(api: &ApiServer, namespace: &str, name: &str, which: &str) -> Value {
    let mut found = Value::Null;
    wait::until(which, SOON, || {
        let pod = api.get("pods", namespace, name).unwrap();
        let state = &pod["status"]["ephemeralContainerStatuses"][0]["state"];
        found = state.clone();
        state.pointer(which).is_some()
    })
    .unwrap();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_once_and_leaves_a_log() {
    let (api, pods) = start().await;
    pod(&api, "shop", "a", &["app"]);
    api.set_exec(PodRef::all(), Exec::captured()).unwrap();
    let mut watch = api.watch("pods", "shop", "resourceVersion=0").unwrap();
    let made = add(&pods, "a", &medic()).await.unwrap();
    assert!(made.spec.unwrap().ephemeral_containers.is_some());
    let mut seen = Vec::new();
    while seen.last().map(String::as_str) != Some("terminated") {
        let event = watch.next_event().unwrap().unwrap();
        let status = &event["object"]["status"]["ephemeralContainerStatuses"][0];
        if let Some(state) = status["state"].as_object() {
            seen.extend(state.keys().cloned());
        }
    }
    assert_eq!(seen, ["waiting", "running", "terminated"]);
    let ended = &state(&api, "shop", "a", "/terminated")["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["reason"]),
        (&json!(0), &json!("Completed"))
    );
    let params = of_medic(true);
    let log = pods.logs("a", &params).await.unwrap();
    assert!(log.contains(":3AA0"), "{log}");
    let whole = pods.get_ephemeral_containers("a").await.unwrap();
    assert_eq!(whole.spec.unwrap().ephemeral_containers.unwrap()[0].name, "medic");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_to_the_rules() {
    let (api, pods) = start().await;
    let mut object = pod(&api, "shop", "a", &["app"]);
    api.set_exec(PodRef::all(), Exec::captured()).unwrap();
    add(&pods, "a", &medic()).await.unwrap();
    state(&api, "shop", "a", "/terminated");
    let with = |field: &str, value: Value| {
        let mut container = medic();
        container["name"] = "other".into();
        container[field] = value;
        container
    };
    let long = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters";
    for (container, why) in [
        (
            with("name", json!("app")),
            "spec.ephemeralContainers[1].name: Duplicate value: \"app\"",
        ),
        (with("name", json!("No_")), long),
        (
            with("image", json!("")),
            "spec.ephemeralContainers[1].image: Required value",
        ),
        (
            with("targetContainerName", json!("no")),
            "spec.ephemeralContainers[1].targetContainerName: Not found: \"no\"",
        ),
        (
            with("resources", json!({ "limits": { "cpu": 1 } })),
            "spec.ephemeralContainers[1].resources: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (with("name", json!("medic")), ""),
    ] {
        let mut container = container;
        if why.is_empty() {
            container["command"] = json!(["true"]);
        }
        let (code, message) = refusal(add(&pods, "a", &container).await);
        assert_eq!(code, 422, "{message}");
        let why = if why.is_empty() {
            "existing ephemeral containers \"medic\" may not be changed"
        } else {
            why
        };
        assert!(
            message.starts_with("Pod \"a\" is invalid: ") && message.contains(why),
            "{message}"
        );
    }
    object["metadata"]["resourceVersion"] = Value::Null;
    let bare = serde_json::from_value(object.clone()).unwrap();
    let (_, message) = refusal(
        pods.replace_ephemeral_containers("a", &PostParams::default(), &bare)
            .await,
    );
    assert!(message.contains("\"medic\" may not be removed"), "{message}");
    // A plain update cannot add one.
    object["spec"]["ephemeralContainers"] = json!([medic()]);
    assert!(api.update(&object).is_err());
    let mut mirror = object.clone();
    mirror["metadata"] = json!({
        "namespace": "shop", "name": "static", "annotations": { "kubernetes.io/config.mirror": "x" },
    });
    mirror["spec"]["ephemeralContainers"] = json!([]);
    api.create(&mirror).unwrap();
    let (_, message) = refusal(add(&pods, "static", &medic()).await);
    assert!(
        message.contains("static pods do not support ephemeral containers"),
        "{message}"
    );
    assert_eq!(refusal(add(&pods, "none", &medic()).await).0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_can_forbid_it() {
    let (api, pods) = start().await;
    let client = pods.into_client();
    api.set_exec(PodRef::all(), Exec::captured()).unwrap();
    for level in ["restricted", "baseline"] {
        space(
            &api,
            level,
            &json!({ "pod-security.kubernetes.io/enforce": level }),
        );
        pod(&api, level, "a", &["app"]);
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), "restricted");
    let (code, message) = refusal(add(&pods, "a", &medic()).await);
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false \
         (container \"medic\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities \
         (container \"medic\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or \
         container \"medic\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \
         \"medic\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    let mut careful = medic();
    careful["securityContext"] = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    add(&pods, "a", &careful).await.unwrap();
    state(&api, "restricted", "a", "/terminated");
    let pods: Api<Pod> = Api::namespaced(client, "baseline");
    let mut strong = medic();
    strong["securityContext"] =
        json!({ "privileged": true, "capabilities": { "add": ["NET_ADMIN", "CHOWN"] } });
    let (_, message) = refusal(add(&pods, "a", &strong).await);
    assert!(
        message.ends_with(
            "violates PodSecurity \"baseline:latest\": non-default capabilities (container \"medic\" must not \
             include \"NET_ADMIN\" in securityContext.capabilities.add), privileged (container \"medic\" must not set securityContext.privileged=true)"
        ),
        "{message}"
    );
    add(&pods, "a", &medic()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_fail_to_start() {
    let (api, pods) = start().await;
    for name in ["pull", "start", "wait", "code"] {
        pod(&api, "shop", name, &["app"]);
    }
    api.set_ephemeral(("shop", "pull"), Ephemeral::no_image())
        .unwrap();
    api.set_ephemeral(("shop", "start"), Ephemeral::no_program("cat"))
        .unwrap();
    api.set_ephemeral(("shop", "wait"), Ephemeral::waits()).unwrap();
    api.set_ephemeral(
        ("shop", "code"),
        Ephemeral::runs(Exec::print("half a line").exit(7)),
    )
    .unwrap();
    for name in ["pull", "start", "wait", "code"] {
        add(&pods, name, &medic()).await.unwrap();
    }
    wait::until("the back-off", SOON, || {
        state(&api, "shop", "pull", "/waiting")["waiting"]["reason"] == "ImagePullBackOff"
    })
    .unwrap();
    let ended = &state(&api, "shop", "start", "/terminated")["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["reason"]),
        (&json!(128), &json!("StartError"))
    );
    let why = "exec: \"cat\": executable file not found in $PATH: unknown";
    assert!(ended["message"].as_str().unwrap().ends_with(why));
    assert_eq!(
        state(&api, "shop", "code", "/terminated")["terminated"]["exitCode"],
        7
    );
    assert_eq!(
        state(&api, "shop", "wait", "/waiting")["waiting"]["reason"],
        "ContainerCreating"
    );
    let params = of_medic(false);
    assert_eq!(pods.logs("code", &params).await.unwrap(), "half a line\n");
    let (code, message) = refusal(pods.logs("pull", &params).await);
    assert_eq!(code, 400);
    assert_eq!(
        message,
        "container \"medic\" in pod \"pull\" is waiting to start: trying and failing to pull image"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_go_on_until_its_pod_goes() {
    let (api, pods) = start().await;
    pod(&api, "shop", "a", &["app"]);
    api.set_ephemeral(PodRef::all(), Ephemeral::runs(Exec::print("one\n").stays()))
        .unwrap();
    add(&pods, "a", &medic()).await.unwrap();
    state(&api, "shop", "a", "/running");
    let mut lines = pods.log_stream("a", &of_medic(true)).await.unwrap().lines();
    assert_eq!(lines.next().await.unwrap().unwrap(), "one");
    api.delete("pods", "shop", "a").unwrap();
    assert!(lines.next().now_or_never().is_none());
    // The real one does not refuse this, either; the kubelet starts nothing any more.
    let mut late = medic();
    late["name"] = "late".into();
    add(&pods, "a", &late).await.unwrap();
    let terminating = api.get("pods", "shop", "a").unwrap();
    let started = terminating["status"]["ephemeralContainerStatuses"].as_array();
    assert_eq!(started.map(Vec::len), Some(1));
    let now = json!({ "gracePeriodSeconds": 0 });
    api.delete_with("pods", "shop", "a", &now).unwrap();
    assert!(lines.next().await.is_none());
}
