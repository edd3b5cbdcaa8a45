// SPDX-License-Identifier: Apache-2.0
//! What is below pods: ephemeral containers, and the ways into a pod up to the kubelet.

use meshmedic_lab::{ApiServer, api::Client};
use serde_json::{Value, json};

use crate::common::{pod, refusal, running, space};

const STRATEGIC: &str = "application/strategic-merge-patch+json";

fn medic() -> Value {
    json!({
        "name": "medic",
        "image": "tools:1",
        "command": ["cat", "/proc/net/tcp"],
        "targetContainerName": "app",
    })
}

fn add(api: &Client, ns: &str, name: &str, container: &Value) -> meshmedic_lab::Result<Value> {
    let patch = json!({ "spec": { "ephemeralContainers": [container] } });
    api.patch_as(STRATEGIC, "pods/ephemeralcontainers", ns, name, &patch)
}

pub(crate) fn ephemeral_containers_are_added(api: &ApiServer) {
    let ns = space(api);
    let before = api.create(&pod(&ns, "a")).unwrap();
    let after = add(api, &ns, "a", &medic()).unwrap();
    let added = &after["spec"]["ephemeralContainers"][0];
    assert_eq!(
        (&added["name"], &added["terminationMessagePolicy"]),
        (&json!("medic"), &json!("File"))
    );
    assert_eq!(added["imagePullPolicy"], "IfNotPresent");
    assert_eq!(after["metadata"]["generation"], 2);
    assert_ne!(
        after["metadata"]["resourceVersion"],
        before["metadata"]["resourceVersion"]
    );
    assert_eq!(api.get("pods/ephemeralcontainers", &ns, "a").unwrap(), after);
    assert_eq!(api.get("pods", &ns, "a").unwrap(), after);
    // Whoever replaces the whole replaces nothing but these.
    let mut whole = after.clone();
    let mut second = medic();
    second["name"] = "second".into();
    whole["spec"]["ephemeralContainers"]
        .as_array_mut()
        .unwrap()
        .push(second);
    whole["spec"]["containers"][0]["image"] = "other:1".into();
    let path = format!("/api/v1/namespaces/{ns}/pods/a/ephemeralcontainers");
    let replaced = api.send("PUT", &path, "application/json", &whole).unwrap();
    assert_eq!(replaced.code, 200, "{:?}", replaced.body);
    assert_eq!(replaced.body["spec"]["ephemeralContainers"][1]["name"], "second");
    assert_eq!(replaced.body["spec"]["containers"], after["spec"]["containers"]);
    let outdated = api.send("PUT", &path, "application/json", &whole).unwrap();
    assert_eq!(outdated.code, 409);
    // An update of the pod itself cannot do it.
    let patch = json!({ "spec": { "ephemeralContainers": [] } });
    assert_eq!(refusal(api.patch("pods", &ns, "a", &patch)).0, 422);
}

pub(crate) fn ephemeral_containers_keep_to_the_rules(api: &ApiServer) {
    let ns = space(api);
    api.create(&pod(&ns, "a")).unwrap();
    add(api, &ns, "a", &medic()).unwrap();
    let with = |field: &str, value: Value| {
        let mut container = medic();
        container["name"] = "other".into();
        container[field] = value;
        container
    };
    let label = "Invalid value: \"No_\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters";
    for (container, field, why) in [
        (with("name", json!("app")), "[1].name", "Duplicate value: \"app\""),
        (with("name", json!("No_")), "[1].name", label),
        (with("image", json!("")), "[1].image", "Required value"),
        (
            with("targetContainerName", json!("no")),
            "[1].targetContainerName",
            "Not found: \"no\"",
        ),
        (
            with("ports", json!([{ "containerPort": 80 }])),
            "[1].ports",
            "Forbidden: cannot be set for an Ephemeral Container",
        ),
    ] {
        // Which one comes first is not ours to say.
        let patch = json!({ "spec": { "ephemeralContainers": [container] } });
        let refused = api.patch_as(STRATEGIC, "pods/ephemeralcontainers", &ns, "a", &patch);
        let (code, _, message) = refusal(refused);
        let first = field.replace("[1]", "[0]");
        let expected = |field: &str| format!("spec.ephemeralContainers{field}: {why}");
        assert_eq!(code, 422, "{message}");
        assert!(message.starts_with("Pod \"a\" is invalid: "), "{message}");
        assert!(
            message.contains(&expected(field)) || message.contains(&expected(&first)),
            "{message}"
        );
    }
    let mut other = medic();
    other["command"] = json!(["true"]);
    let (_, _, message) = refusal(add(api, &ns, "a", &other));
    let why =
        "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"medic\" may not be changed";
    assert!(message.contains(why), "{message}");
    let none = json!({ "spec": { "ephemeralContainers": null } });
    let merge = "application/merge-patch+json";
    let refused = api.patch_as(merge, "pods/ephemeralcontainers", &ns, "a", &none);
    let (_, _, message) = refusal(refused);
    let why =
        "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"medic\" may not be removed";
    assert!(message.contains(why), "{message}");
    let mut mirror = pod(&ns, "static");
    mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
    mirror["spec"]["nodeName"] = "node-a".into();
    api.create(&mirror).unwrap();
    let (code, _, message) = refusal(add(api, &ns, "static", &medic()));
    assert_eq!(
        (code, message.as_str()),
        (
            422,
            "Pod \"static\" is invalid: []: Forbidden: static pods do not support ephemeral containers"
        )
    );
    assert_eq!(refusal(add(api, &ns, "none", &medic())).0, 404);
    running(api, &ns, "leaving", true);
    api.delete("pods", &ns, "leaving").unwrap();
    // What leaves is not refused one; the kubelet does not start it.
    add(api, &ns, "leaving", &medic()).unwrap();
}

pub(crate) fn pod_security_is_enforced(api: &ApiServer) {
    let ns = space(api);
    let enforce = |level: &str| {
        let labels = json!({ "pod-security.kubernetes.io/enforce": level });
        api.patch(
            "namespaces",
            "",
            &ns,
            &json!({ "metadata": { "labels": labels } }),
        )
        .unwrap();
    };
    let careful = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "runAsNonRoot": true,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    let mut made = pod(&ns, "a");
    made["spec"]["containers"][0]["securityContext"] = careful.clone();
    api.create(&made).unwrap();
    enforce("restricted");
    let violated = |container: &Value| {
        let mut message = String::new();
        // The namespace's label reaches the check when it does.
        meshmedic_lab::wait::until("the refusal", crate::watches::SOON, || {
            let refused = api.patch_as(
                STRATEGIC,
                "pods/ephemeralcontainers?dryRun=All",
                &ns,
                "a",
                &json!({ "spec": { "ephemeralContainers": [container] } }),
            );
            match refused {
                Err(meshmedic_lab::Error::Api {
                    code: 403,
                    message: told,
                    ..
                }) => message = told,
                other => drop(other.unwrap()),
            }
            !message.is_empty()
        })
        .unwrap();
        message
    };
    assert_eq!(
        violated(&medic()),
        "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false \
         (container \"medic\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities \
         (container \"medic\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or \
         container \"medic\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \
         \"medic\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    let mut bold = medic();
    bold["securityContext"] = careful.clone();
    bold["securityContext"]["runAsUser"] = 0.into();
    bold["securityContext"]["capabilities"]["add"] = json!(["NET_ADMIN"]);
    assert_eq!(
        violated(&bold),
        "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": unrestricted capabilities (container \
         \"medic\" must not include \"NET_ADMIN\" in securityContext.capabilities.add), runAsUser=0 (container \
         \"medic\" must not set runAsUser=0)"
    );
    bold["securityContext"] = careful;
    add(api, &ns, "a", &bold).unwrap();
    enforce("baseline");
    let mut strong = medic();
    strong["name"] = "strong".into();
    strong["securityContext"] =
        json!({ "privileged": true, "capabilities": { "add": ["NET_ADMIN", "CHOWN"] } });
    assert_eq!(
        violated(&strong).replace("restricted", "baseline"),
        "pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": non-default capabilities \
         (container \"strong\" must not include \"NET_ADMIN\" in securityContext.capabilities.add), privileged \
         (container \"strong\" must not set securityContext.privileged=true)"
    );
}

pub(crate) fn the_ways_into_a_pod_are_checked(api: &ApiServer) {
    let ns = space(api);
    let mut two = pod(&ns, "a");
    two["spec"]["containers"] =
        json!([{ "name": "app", "image": "a:1" }, { "name": "side", "image": "a:1" }]);
    two["spec"]["initContainers"] = json!([{ "name": "before", "image": "a:1" }]);
    api.create(&two).unwrap();
    let get = |way: &str| {
        let path = format!("/api/v1/namespaces/{ns}/pods/{way}");
        let answer = api.send("GET", &path, "application/json", &Value::Null).unwrap();
        let message = answer.body["message"].as_str().unwrap_or_default().to_owned();
        (answer.code, message)
    };
    let choose = "a container name must be specified for pod a, choose one of: [before app side]";
    let wrong = "container no is not valid for pod a";
    let homeless = "pod a does not have a host assigned";
    for (way, code, message) in [
        ("a/exec?command=cat&stdout=true", 400, choose),
        ("a/exec?command=cat&stdout=true&container=no", 400, wrong),
        ("a/exec?command=cat&stdout=true&container=side", 400, homeless),
        ("a/portforward?ports=80", 400, homeless),
        (
            "none/exec?command=cat&stdout=true",
            404,
            "pods \"none\" not found",
        ),
        ("none/portforward?ports=80", 404, "pods \"none\" not found"),
        ("none/log", 404, "pods \"none\" not found"),
        ("a/log", 400, choose),
        ("a/log?container=no", 400, wrong),
        (
            "a/log?container=app&tailLines=-1",
            422,
            "tailLines: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "a/log?container=app&limitBytes=0",
            422,
            "limitBytes: Invalid value: 0: must be greater than 0",
        ),
        (
            "a/log?container=app&sinceSeconds=0",
            422,
            "sinceSeconds: Invalid value: 0: must be greater than 0",
        ),
        (
            "a/log?container=app&sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
            422,
            "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
        ),
    ] {
        let (given, told) = get(way);
        assert_eq!(
            (given, told.contains(message)),
            (code, true),
            "{way}: {given} {told}"
        );
    }
    assert_eq!(get("a/log?container=app").0, 204);
}
