// SPDX-License-Identifier: Apache-2.0
//! An API server with a mesh, in which nothing really runs: pods answer as they are told.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use meshmedic_lab::{ApiServer, Exec};
use serde_json::{Value, json};

pub(crate) const NODE: &str = "node-a";
/// Long before any test, so that everything has settled.
const LONG_AGO: &str = "2026-01-01T00:00:00Z";

/// The command with nothing of this machine's in its environment.
pub(crate) fn meshmedic<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshmedic"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env("HOME", "/nonexistent");
    for name in [
        "KUBECONFIG",
        "KUBERNETES_SERVICE_HOST",
        "MESHMEDIC_LOG",
        "MESHMEDIC_CONFIRM",
        "HTTPS_PROXY",
    ] {
        command.env_remove(name);
    }
    command
}

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("what we write is text");
        Self {
            code: output.status.code().expect("it ends by itself"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// The result as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

#[track_caller]
pub(crate) fn assert_says(text: &str, words: &[&str]) {
    // Sentences are broken where a line is full.
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        let found = text.contains(word) || flat.contains(word);
        assert!(found, "{word:?} is not in:\n{text}");
    }
}

/// What says that a DaemonSet made a pod.
fn made_by(set: &str) -> Value {
    json!([{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": set, "uid": "7", "controller": true }])
}

/// A mesh of one node.
pub(crate) struct World {
    pub(crate) api: ApiServer,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            api: ApiServer::start().unwrap(),
        };
        world.namespace("istio-system", false);
        world.namespace("shop", true);
        world.ztunnel(LONG_AGO);
        let labels = json!({ "k8s-app": "istio-cni-node" });
        let mut cni = world.template("istio-system", "istio-cni-x", labels);
        cni["metadata"]["ownerReferences"] = made_by("istio-cni-node");
        world.create(cni, LONG_AGO);
        world.api.forget_requests().unwrap();
        world
    }

    fn ztunnel(&self, since: &str) {
        self.ztunnel_called("ztunnel-x", since);
    }

    /// One of ztunnel's pods.
    pub(crate) fn ztunnel_called(&self, name: &str, since: &str) {
        let mut pod = self.template("istio-system", name, json!({ "app": "ztunnel" }));
        pod["metadata"]["ownerReferences"] = made_by("ztunnel");
        self.create(pod, since);
    }

    /// Nobody runs pods here, so nobody ends them gracefully.
    pub(crate) fn kill_ztunnel(&self) {
        let now = json!({ "gracePeriodSeconds": 0 });
        self.api
            .delete_with("pods", "istio-system", "ztunnel-x", &now)
            .unwrap();
    }

    /// ztunnel becomes Ready anew, just now.
    pub(crate) fn restart_ztunnel(&self) {
        self.kill_ztunnel();
        self.ztunnel("2100-01-01T00:00:00Z");
    }

    pub(crate) fn namespace(&self, name: &str, ambient: bool) {
        let mode = if ambient { "ambient" } else { "none" };
        self.api
            .create(&json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": { "name": name, "labels": { "istio.io/dataplane-mode": mode } },
            }))
            .unwrap();
    }

    /// A pod before it is made.
    pub(crate) fn template(&self, namespace: &str, name: &str, labels: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": namespace, "name": name, "labels": labels },
            "spec": { "nodeName": NODE, "containers": [{ "name": "app", "image": "cart:1" }] },
        })
    }

    /// Makes a pod that is Ready.
    pub(crate) fn create(&self, pod: Value, since: &str) -> Value {
        self.create_at("10.0.0.7", pod, since)
    }

    /// The same at an address of its own.
    pub(crate) fn create_at(&self, address: &str, pod: Value, since: &str) -> Value {
        let mut made = self.api.create(&pod).unwrap();
        let containers = made["spec"]["containers"].as_array().unwrap().iter().map(|container| {
            json!({
                "name": container["name"], "image": "cart:1", "imageID": "", "ready": true, "restartCount": 0,
                "state": { "running": { "startedAt": LONG_AGO } },
            })
        });
        made["status"] = json!({
            "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "startTime": since,
            "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": since }],
            "containerStatuses": containers.collect::<Vec<_>>(),
        });
        self.api.update_status(&made).unwrap()
    }

    /// A pod of the mesh, before it is made.
    pub(crate) fn enrolled(&self, name: &str) -> Value {
        let mut pod = self.template("shop", name, json!({ "app": "cart" }));
        pod["metadata"]["annotations"] = json!({ "ambient.istio.io/redirection": "enabled" });
        pod
    }

    /// A pod of the mesh that answers so.
    pub(crate) fn pod(&self, name: &str, exec: Exec) -> Value {
        self.api.set_exec(("shop", name), exec).unwrap();
        self.create(self.enrolled(name), LONG_AGO)
    }

    /// A ServiceAccount `ops/ann` with these rules in the whole cluster, and its kubeconfig.
    pub(crate) fn user(&self, rules: Value) -> std::path::PathBuf {
        self.namespace("ops", false);
        for object in [
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "namespace": "ops", "name": "ann" } }),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": { "name": "ann" }, "rules": rules,
            }),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": { "name": "ann" },
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "ann" },
                "subjects": [{ "kind": "ServiceAccount", "namespace": "ops", "name": "ann" }],
            }),
        ] {
            self.api.create(&object).unwrap();
        }
        self.api.kubeconfig_for_service_account("ops", "ann").unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = meshmedic(["scan", "--confirm", "100ms", "--kubeconfig"]);
        command.arg(self.api.kubeconfig()).args(arguments);
        command
    }

    /// Scans.
    pub(crate) fn scan(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// Scans as somebody else.
    pub(crate) fn scan_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Ran {
        let mut command = meshmedic(["scan", "--confirm", "100ms", "--kubeconfig"]);
        Ran::of(command.arg(kubeconfig).args(arguments).output().unwrap())
    }

    /// The state and the reason of a pod in a scan's JSON.
    pub(crate) fn state_of(report: &Value, name: &str) -> (String, String) {
        let pods = report["pods"].as_array().unwrap();
        let pod = pods.iter().find(|pod| pod["name"] == name);
        let pod = pod.unwrap_or_else(|| panic!("{name} is not in {report:#}"));
        let text = |key: &str| pod[key].as_str().unwrap_or_default().to_owned();
        (text("state"), text("reason"))
    }
}

/// Compares with a file; `UPDATE_GOLDEN=1` writes it anew.
#[track_caller]
pub(crate) fn assert_golden(name: &str, text: &str) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(&golden).unwrap_or_default(),
        "{name}"
    );
}
