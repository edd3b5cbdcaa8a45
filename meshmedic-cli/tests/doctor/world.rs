// SPDX-License-Identifier: Apache-2.0
//! An API server with a healthy mesh, in which nothing runs but what ztunnels and istiods answer.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use meshmedic_lab::{ApiServer, Log};
use serde_json::{Value, json};

const LONG_AGO: &str = "2026-01-01T00:00:00Z";
const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The result as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The checks that ended so, with what they found on: `MM0101 Deployment istio-system/istiod`.
    #[track_caller]
    pub(crate) fn findings(&self) -> Vec<String> {
        let report = self.json();
        let checks = report["checks"].as_array().unwrap().iter();
        let found = checks.flat_map(|check| {
            let code = check["code"].as_str().unwrap();
            check["findings"].as_array().unwrap().iter().map(move |finding| {
                let object = &finding["object"];
                let place = object["namespace"]
                    .as_str()
                    .map(|namespace| format!("{namespace}/"));
                let (kind, name) = (object["kind"].as_str().unwrap(), object["name"].as_str().unwrap());
                format!("{code} {kind} {}{name}", place.unwrap_or_default())
            })
        });
        found.collect()
    }

    /// The codes of the checks that ended so.
    #[track_caller]
    pub(crate) fn ended(&self, how: &str) -> Vec<String> {
        let report = self.json();
        let checks = report["checks"].as_array().unwrap().iter();
        checks
            .filter(|check| check["result"] == how)
            .map(|check| check["code"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// A cluster with a mesh in it.
pub(crate) struct World {
    pub(crate) api: ApiServer,
}

impl World {
    /// A mesh in which all is well.
    pub(crate) fn new() -> Self {
        let world = Self {
            api: ApiServer::start().unwrap(),
        };
        world.api.install_istio().unwrap();
        for (name, labels) in [
            ("istio-system", json!({})),
            ("legacy", json!({ "istio-injection": "enabled" })),
            ("shop", json!({ "istio.io/dataplane-mode": "ambient" })),
            ("till", json!({ "istio.io/dataplane-mode": "ambient" })),
        ] {
            let mut labels = labels;
            labels["kubernetes.io/metadata.name"] = name.into();
            world.make(&json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels },
            }));
        }
        world.istio();
        for (at, node) in NODES.into_iter().enumerate() {
            world.make(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } }));
            for (name, labels) in [
                ("ztunnel", json!({ "app": "ztunnel" })),
                ("istio-cni-node", json!({ "k8s-app": "istio-cni-node" })),
            ] {
                let address = format!("10.244.{at}.{}", name.len());
                world.pod(
                    "istio-system",
                    &format!("{name}-{}", letter(node)),
                    node,
                    &address,
                    labels,
                    ("DaemonSet", name),
                );
            }
            world.app("shop", "cart", node, &format!("10.244.{at}.20"));
            world.app("till", "pay", node, &format!("10.244.{at}.21"));
        }
        world.pod(
            "istio-system",
            "istiod-x",
            "node-a",
            "10.244.0.30",
            json!({ "app": "istiod" }),
            ("ReplicaSet", "istiod"),
        );
        world.speak();
        world
    }

    fn istio(&self) {
        for name in ["ztunnel", "istio-cni-node"] {
            let key = if name == "ztunnel" { "app" } else { "k8s-app" };
            let template = template(&json!({ key: name }));
            self.make(&json!({
                "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "namespace": "istio-system", "name": name },
                "spec": { "selector": { "matchLabels": { key: name } }, "template": template },
            }));
        }
        let mut istiod = self.make(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "namespace": "istio-system", "name": "istiod" },
            "spec": {
                "replicas": 1, "selector": { "matchLabels": { "app": "istiod" } },
                "template": {
                    "metadata": { "labels": { "app": "istiod" } },
                    "spec": { "containers": [{ "name": "discovery", "image": "pilot:1", "env": [
                        { "name": "PILOT_ENABLE_AMBIENT", "value": "true" },
                    ] }] },
                },
            },
        }));
        self.make(&json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": { "namespace": "istio-system", "name": "istiod", "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "Deployment", "name": "istiod", "uid": istiod["metadata"]["uid"],
                "controller": true,
            }] },
            "spec": {
                "replicas": 1, "selector": { "matchLabels": { "app": "istiod" } },
                "template": template(&json!({ "app": "istiod" })),
            },
        }));
        istiod["status"] = json!({ "replicas": 1, "readyReplicas": 1 });
        self.api.update_status(&istiod).unwrap();
        self.make(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "istio-system", "name": "istiod" },
            "spec": { "selector": { "app": "istiod" }, "ports": [
                { "name": "https-dns", "port": 15012 },
                { "name": "https-webhook", "port": 443, "targetPort": 15017 },
            ] },
        }));
        self.make(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": "istio-system", "name": "istiod-x",
                "labels": { "kubernetes.io/service-name": "istiod" },
            },
            "addressType": "IPv4", "endpoints": [{ "addresses": ["10.244.0.30"], "conditions": { "ready": true } }],
            "ports": [{ "name": "https-dns", "port": 15012 }, { "name": "https-webhook", "port": 15017 }],
        }));
        self.make(&json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": "istio-system", "name": "istio-cni-config" },
            "data": {
                "AMBIENT_ENABLED": "true", "AMBIENT_RECONCILE_POD_RULES_ON_STARTUP": "true",
                "ENABLE_AMBIENT_DETECTION_RETRY": "true", "ISTIO_OWNED_CNI_CONFIG": "true",
            },
        }));
        for (kind, name, app, hook, path) in [
            (
                "MutatingWebhookConfiguration",
                "istio-sidecar-injector",
                "sidecar-injector",
                "namespace.sidecar-injector.istio.io",
                "/inject",
            ),
            (
                "ValidatingWebhookConfiguration",
                "istio-validator",
                "istiod",
                "rev.validation.istio.io",
                "/validate",
            ),
        ] {
            self.make(&json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
                "metadata": { "name": name, "labels": { "app": app, "istio.io/rev": "default" } },
                "webhooks": [{
                    "name": hook, "admissionReviewVersions": ["v1"], "sideEffects": "None",
                    "clientConfig": {
                        "caBundle": "bm90IGVtcHR5",
                        "service": { "namespace": "istio-system", "name": "istiod", "path": path, "port": 443 },
                    },
                }],
            }));
        }
        self.make(&json!({
            "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": { "namespace": "istio-system", "name": "default" }, "spec": { "mtls": { "mode": "STRICT" } },
        }));
    }

    /// A pod that runs and is Ready.
    pub(crate) fn pod(
        &self,
        namespace: &str,
        name: &str,
        node: &str,
        address: &str,
        labels: Value,
        owner: (&str, &str),
    ) -> Value {
        let env = match owner.1 {
            "istiod" => json!([{ "name": "PILOT_ENABLE_NODE_UNTAINT_CONTROLLERS", "value": "true" }]),
            _ => json!([]),
        };
        let made = self.make(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": namespace, "name": name, "labels": labels,
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": owner.0, "name": owner.1, "uid": "7", "controller": true,
                }],
            },
            "spec": { "nodeName": node, "containers": [{ "name": "app", "image": "app:1", "env": env }] },
        }));
        self.ready(made, address, true)
    }

    /// Writes a pod's status.
    pub(crate) fn ready(&self, mut pod: Value, address: &str, ready: bool) -> Value {
        let condition = if ready { "True" } else { "False" };
        pod["status"] = json!({
            "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "startTime": LONG_AGO,
            "conditions": [{ "type": "Ready", "status": condition, "lastTransitionTime": LONG_AGO }],
        });
        self.api.update_status(&pod).unwrap()
    }

    /// A pod of the ambient mesh.
    pub(crate) fn app(&self, namespace: &str, app: &str, node: &str, address: &str) {
        let name = format!("{app}-7d4b-{}", letter(node));
        let labels = json!({ "app": app, "pod-template-hash": "7d4b" });
        let owner = format!("{app}-7d4b");
        self.pod(namespace, &name, node, address, labels, ("ReplicaSet", &owner));
        let annotation =
            json!({ "metadata": { "annotations": { "ambient.istio.io/redirection": "enabled" } } });
        self.api.patch("pods", namespace, &name, &annotation).unwrap();
    }

    pub(crate) fn make(&self, object: &Value) -> Value {
        self.api
            .create(object)
            .unwrap_or_else(|error| panic!("{error}: {object:#}"))
    }

    /// Lets ztunnels and istiods say that all is well.
    fn speak(&self) {
        let silent = "# EOF\n";
        for node in NODES {
            let ztunnel = format!("ztunnel-{}", letter(node));
            self.answer(&ztunnel, 15000, &self.dump(node).to_string());
            self.answer(&ztunnel, 15020, silent);
            let line =
                "2026-01-01T00:00:00.000000Z\tinfo\tready\tTask 'proxy' complete (1s), marking server ready";
            self.api
                .set_log(
                    ("istio-system", ztunnel.as_str()),
                    Log::text(&format!("{line}\n")),
                )
                .unwrap();
        }
        self.answer("istiod-x", 15014, silent);
    }

    /// What a ztunnel knows: all ambient pods on its node.
    pub(crate) fn dump(&self, node: &str) -> Value {
        let mut workloads = Vec::new();
        let mut state = json!({});
        for namespace in ["shop", "till"] {
            for pod in self.api.list("pods", namespace).unwrap() {
                if pod["spec"]["nodeName"] == node {
                    let metadata = &pod["metadata"];
                    workloads.push(json!({
                        "name": metadata["name"], "namespace": namespace, "node": node, "protocol": "HBONE",
                    }));
                    state[metadata["uid"].as_str().unwrap()] = json!({ "state": "Up" });
                }
            }
        }
        json!({
            "workloads": workloads, "services": [], "workloadState": state,
            "certificates": [{
                "identity": "spiffe://cluster.local/ns/shop/sa/default", "state": "Available",
                "certChain": [{ "validFrom": "2026-01-01T00:00:00Z", "expirationTime": "2199-01-01T00:00:00Z" }],
            }],
        })
    }

    /// Lets a port of a pod in Istio's namespace answer so to every request.
    pub(crate) fn answer(&self, pod: &str, port: u16, body: &str) {
        self.answer_paths("istio-system", pod, port, &[("/", body)]);
    }

    /// Lets a port of a pod answer so to requests whose paths begin so.
    pub(crate) fn answer_paths(&self, namespace: &str, pod: &str, port: u16, answers: &[(&str, &str)]) {
        let owned = |&(path, body): &(&str, &str)| (path.to_owned(), body.to_owned());
        let at = serve(answers.iter().map(owned).collect());
        self.api.set_forward((namespace, pod), port, at).unwrap();
    }

    /// Runs it.
    pub(crate) fn doctor(&self, arguments: &[&str]) -> Ran {
        doctor_as(self.api.kubeconfig(), arguments)
    }
}

pub(crate) fn doctor_as(kubeconfig: &Path, arguments: &[&str]) -> Ran {
    let kubeconfig = kubeconfig.to_str().unwrap();
    run(&[&["--kubeconfig", kubeconfig], arguments].concat())
}

/// The command with nothing of this machine's in its environment.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshmedic"));
    command
        .arg("doctor")
        .args(arguments)
        .stdin(Stdio::null())
        .env("HOME", "/nonexistent");
    for name in [
        "KUBECONFIG",
        "KUBERNETES_SERVICE_HOST",
        "MESHMEDIC_LOG",
        "HTTPS_PROXY",
    ] {
        command.env_remove(name);
    }
    command
}

pub(crate) fn run(arguments: &[&str]) -> Ran {
    let output = command(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("what we write is text");
    Ran {
        code: output.status.code().expect("it ends by itself"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn letter(node: &str) -> &str {
    node.trim_start_matches("node-")
}

fn template(labels: &Value) -> Value {
    json!({ "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "app", "image": "app:1" }] } })
}

/// A server that answers requests by how their paths begin, until the test's process ends.
fn serve(answers: Vec<(String, String)>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 4096];
            // One read has all of a request without a body.
            let Ok(read) = stream.read(&mut request) else {
                continue;
            };
            let path = String::from_utf8_lossy(&request[..read]);
            let path = path.split(' ').nth(1).unwrap_or_default();
            let (code, body) = match answers.iter().find(|(beginning, _)| path.starts_with(beginning)) {
                Some((_, body)) => ("200 OK", body.as_str()),
                None => ("404 Not Found", ""),
            };
            let head = format!(
                "HTTP/1.1 {code}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(body.as_bytes()));
        }
    });
    address
}
