// SPDX-License-Identifier: Apache-2.0
//! What a real API server holds the agents' token to: each way to overstep is refused, and what agents do is not.

use meshmedic_lab::api::Client;
use meshmedic_lab::{ApiServer, Error, need, wait};
use serde_json::{Value, json};

use crate::files::{SOON, grant_all, install};

const REDIRECTION: &str = "ambient.istio.io/redirection";
const HEAL: &str = "meshmedic.io/heal";
const KEPT: &str = "meshmedic.io/toggle-restore";
const MODE: &str = "istio.io/dataplane-mode";

/// A real API server with the policies, and an agent on `node-a`.
struct Guarded {
    api: ApiServer,
    agent: Client,
}

impl Guarded {
    fn new() -> Self {
        let api = ApiServer::real().unwrap();
        for name in ["meshmedic", "shop", "quiet"] {
            let annotations = match name {
                "quiet" => json!({ "meshmedic.io/repair": "disabled" }),
                _ => json!({}),
            };
            api.apply(&json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": { "name": name, "annotations": annotations },
            }))
            .unwrap();
        }
        let files =
            ["rights-heal", "rights-restart", "policies"].map(|file| format!("kustomize/repair/{file}.yaml"));
        install(&api, &files.each_ref().map(String::as_str));
        // What no role of ours grants: the policies hold even where somebody grants more.
        grant_all(&api);
        let agent = pod("meshmedic", "agent", "node-a");
        let agent = api.create(&agent).unwrap();
        let agent = api.client_of_pod(&agent).unwrap();
        let guarded = Self { api, agent };
        guarded.pod("probe");
        let mut tried = 0;
        let held = || {
            tried += 1;
            let label = json!({ "metadata": { "labels": { "probe": tried.to_string() } } });
            let try_out = json!({ "dryRun": ["All"] });
            guarded.patch(&guarded.agent, "probe", &label).is_err()
                && guarded.agent.evict("shop", "probe", &try_out).is_err()
        };
        wait::until("the policies to hold", SOON, held).unwrap();
        guarded
    }

    /// Makes a pod of `node-a` that was lost.
    fn pod(&self, name: &str) -> Value {
        self.make(pod("shop", name, "node-a"))
    }

    fn make(&self, mut pod: Value) -> Value {
        pod["metadata"]["annotations"][REDIRECTION] = "enabled".into();
        pod["metadata"]["annotations"]["example.com/note"] = "kept".into();
        pod["metadata"]["labels"][MODE] = "ambient".into();
        let mut made = self.api.create(&pod).unwrap();
        made["status"] = json!({
            "phase": "Running",
            "podIPs": [{ "ip": "10.0.0.9" }],
            "podIP": "10.0.0.9",
            "conditions": [{ "type": "Ready", "status": "True" }],
        });
        self.api.update_status(&made).unwrap()
    }

    fn patch(&self, client: &Client, name: &str, patch: &Value) -> meshmedic_lab::Result<Value> {
        client.patch("pods/status", "shop", name, patch)
    }

    /// What is refused, and by what.
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

fn pod(namespace: &str, name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": namespace, "name": name, "labels": {}, "annotations": {} },
        "spec": {
            "nodeName": node,
            "serviceAccountName": if namespace == "meshmedic" { "meshmedic" } else { "default" },
            "containers": [{ "name": "app", "image": "app:1" }],
        },
    })
}

/// What is written of an ask.
fn asked(attempt: u32) -> String {
    let id = "a".repeat(64);
    format!("v1 {attempt} 2026-11-29T10:00:00Z 4026532345-1764410400 {id} {id}")
}

fn annotate(annotations: Value) -> Value {
    json!({ "metadata": { "annotations": annotations } })
}

fn ask(attempt: u32) -> Value {
    annotate(json!({ REDIRECTION: "pending", HEAL: asked(attempt) }))
}

#[test]
fn a_token_does_what_agents_do() {
    if !need::real_apiserver("a_token_does_what_agents_do") {
        return;
    }
    let guarded = Guarded::new();
    let agent = &guarded.agent;
    let lost = guarded.pod("lost");

    // An ask, and a second one while it is pending.
    let mut first = ask(1);
    first["metadata"]["uid"] = lost["metadata"]["uid"].clone();
    first["metadata"]["resourceVersion"] = lost["metadata"]["resourceVersion"].clone();
    guarded.patch(agent, "lost", &first).unwrap();
    guarded.patch(agent, "lost", &ask(2)).unwrap();

    // A toggle, there and back.
    let kept = json!({ "label": "ambient" }).to_string();
    let out = json!({ "metadata": { "labels": { MODE: "none" }, "annotations": { KEPT: kept } } });
    let back = json!({ "metadata": { "labels": { MODE: "ambient" }, "annotations": { KEPT: null } } });
    guarded.patch(agent, "lost", &out).unwrap();
    let after = guarded.patch(agent, "lost", &back).unwrap();
    assert_eq!(after["metadata"]["labels"], lost["metadata"]["labels"]);
    // One whose label somebody else set meanwhile.
    guarded.patch(agent, "lost", &out).unwrap();
    let theirs = json!({ "metadata": { "labels": { MODE: "ambient" } } });
    guarded.patch(&guarded.api, "lost", &theirs).unwrap();
    guarded
        .patch(agent, "lost", &annotate(json!({ KEPT: null })))
        .unwrap();
    // One of a pod that has no label of its own.
    let none = json!({ "metadata": { "labels": { MODE: null } } });
    guarded.patch(&guarded.api, "lost", &none).unwrap();
    let kept = json!({ "label": null }).to_string();
    let out = json!({ "metadata": { "labels": { MODE: "none" }, "annotations": { KEPT: kept } } });
    let back = json!({ "metadata": { "labels": { MODE: null }, "annotations": { KEPT: null } } });
    guarded.patch(agent, "lost", &out).unwrap();
    guarded.patch(agent, "lost", &back).unwrap();

    // An eviction, and a deletion, of the very pod.
    let very = json!({ "preconditions": { "uid": lost["metadata"]["uid"] } });
    agent.evict("shop", "lost", &very).unwrap();
    let other = guarded.pod("other");
    let very = json!({ "preconditions": { "uid": other["metadata"]["uid"] } });
    agent.delete_with("pods", "shop", "other", &very).unwrap();
}

#[test]
fn a_token_does_nothing_else_to_the_status_of_pods() {
    if !need::real_apiserver("a_token_does_nothing_else_to_the_status_of_pods") {
        return;
    }
    let guarded = Guarded::new();
    let agent = &guarded.agent;
    guarded.pod("lost");
    let id = "a".repeat(64);
    let with = |key: &str, value: Value| {
        let mut patch = ask(1);
        patch["metadata"]["annotations"][key] = value;
        patch
    };
    let toggled = |mode: Value, kept: Value| json!({ "metadata": { "labels": { MODE: mode }, "annotations": { KEPT: kept } } });
    let ambient = json!({ "label": "ambient" }).to_string();
    let steps: Vec<(&str, Value, &str)> = vec![
        (
            "another annotation",
            with("example.com/other", "x".into()),
            "no other annotation",
        ),
        (
            "one that was there",
            with("example.com/note", "x".into()),
            "no other annotation",
        ),
        (
            "its removal",
            with("example.com/note", Value::Null),
            "no other annotation",
        ),
        (
            "the redirection's removal",
            annotate(json!({ REDIRECTION: null })),
            "no other annotation",
        ),
        (
            "a false success",
            with(REDIRECTION, "disabled".into()),
            "pending only",
        ),
        (
            "half an ask",
            annotate(json!({ REDIRECTION: "pending" })),
            "says what it asked",
        ),
        (
            "the other half",
            annotate(json!({ HEAL: asked(1) })),
            "what was asked",
        ),
        ("a third attempt", ask(3), "what was asked"),
        (
            "an ask of another form",
            with(HEAL, format!("{} more", asked(1)).into()),
            "what was asked",
        ),
        (
            "an ask that is too long",
            with(HEAL, format!("{}{id}", asked(1)).into()),
            "what was asked",
        ),
        (
            "a label",
            json!({ "metadata": { "labels": { "app": "evil" } } }),
            "no other label",
        ),
        (
            "readiness",
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } }),
            "nothing but",
        ),
        (
            "the phase",
            json!({ "status": { "phase": "Failed" } }),
            "nothing but",
        ),
        (
            "addresses",
            json!({ "status": { "podIPs": [{ "ip": "10.0.0.66" }], "podIP": "10.0.0.66" } }),
            "nothing but",
        ),
        (
            "a finalizer",
            json!({ "metadata": { "finalizers": ["example.com/held"] } }),
            "nothing but",
        ),
        (
            "out of the mesh without a record",
            json!({ "metadata": { "labels": { MODE: "none" } } }),
            "keeping its label",
        ),
        (
            "with a false record",
            toggled("none".into(), json!({ "label": null }).to_string().into()),
            "keeping its label",
        ),
        (
            "a record of its own",
            annotate(json!({ KEPT: ambient })),
            "keeping its label",
        ),
        (
            "another mode",
            toggled("sidecar".into(), ambient.clone().into()),
            "keeping its label",
        ),
    ];
    for (what, patch, why) in steps {
        Guarded::refused(guarded.patch(agent, "lost", &patch), what, why);
    }
    // What was kept is put back as it was, and nothing else.
    let out = toggled("none".into(), ambient.into());
    guarded.patch(agent, "lost", &out).unwrap();
    Guarded::refused(
        guarded.patch(agent, "lost", &toggled(Value::Null, Value::Null)),
        "another label than was kept",
        "as it was",
    );
    // The same through the pod itself, whoever granted that.
    let image = json!({ "spec": { "containers": [{ "name": "app", "image": "evil:1" }] } });
    Guarded::refused(
        agent.patch("pods", "shop", "lost", &image),
        "an image",
        "nothing but",
    );
}

#[test]
fn a_token_changes_pods_of_its_own_node_only() {
    if !need::real_apiserver("a_token_changes_pods_of_its_own_node_only") {
        return;
    }
    let guarded = Guarded::new();
    guarded.make(pod("shop", "elsewhere", "node-b"));
    guarded.pod("here");
    let refused = guarded.patch(&guarded.agent, "elsewhere", &ask(1));
    Guarded::refused(refused, "a pod of another node", "own node");
    // One that says nothing of a node has none.
    let unbound = guarded.api.client_of("meshmedic", "meshmedic").unwrap();
    Guarded::refused(
        guarded.patch(&unbound, "here", &ask(1)),
        "a token without a node",
        "own node",
    );
    guarded.patch(&guarded.agent, "here", &ask(1)).unwrap();
}

#[test]
fn a_token_touches_nobody_who_opted_out() {
    if !need::real_apiserver("a_token_touches_nobody_who_opted_out") {
        return;
    }
    let guarded = Guarded::new();
    let agent = &guarded.agent;
    let quiet = guarded.make(pod("quiet", "quiet", "node-a"));
    let uid = json!({ "preconditions": { "uid": quiet["metadata"]["uid"] } });
    let why = "opted out";
    Guarded::refused(
        agent.patch("pods/status", "quiet", "quiet", &ask(1)),
        "an ask",
        why,
    );
    Guarded::refused(agent.evict("quiet", "quiet", &uid), "an eviction", why);
    Guarded::refused(
        agent.delete_with("pods", "quiet", "quiet", &uid),
        "a deletion",
        why,
    );
    let mut pod = pod("shop", "quiet", "node-a");
    pod["metadata"]["annotations"]["meshmedic.io/repair"] = "disabled".into();
    guarded.make(pod);
    Guarded::refused(guarded.patch(agent, "quiet", &ask(1)), "an ask", why);
}

#[test]
fn a_token_restarts_only_the_very_pod_that_was_judged() {
    if !need::real_apiserver("a_token_restarts_only_the_very_pod_that_was_judged") {
        return;
    }
    let guarded = Guarded::new();
    let agent = &guarded.agent;
    let lost = guarded.pod("lost");
    let version = &lost["metadata"]["resourceVersion"];
    let why = "by its UID";
    for (what, options) in [
        ("nothing", Value::Null),
        ("no precondition", json!({ "gracePeriodSeconds": 0 })),
        (
            "another precondition",
            json!({ "preconditions": { "resourceVersion": version } }),
        ),
    ] {
        Guarded::refused(agent.evict("shop", "lost", &options), what, why);
        Guarded::refused(agent.delete_with("pods", "shop", "lost", &options), what, why);
    }
    let path = "/api/v1/namespaces/shop/pods";
    let all = agent
        .send("DELETE", path, "application/json", &Value::Null)
        .unwrap();
    assert_eq!(all.code, 403, "{}", all.body);
    // They say nothing to anybody else.
    guarded.api.evict("shop", "lost", &Value::Null).unwrap();
}
