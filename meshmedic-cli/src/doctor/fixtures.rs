// SPDX-License-Identifier: Apache-2.0
//! A mesh in which all is well, and ways to hurt it.
//!
//! A test takes [`healthy`], hurts it in one place, and asks one check with [`findings`] or [`assert_passes`].

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::check::Outcome;
use super::checks;
use super::finding::Finding;
use super::report::{DoctorReport, Suppression};
use super::snapshot::{
    CUSTOM_KINDS, Certificate, Custom, IstiodFacts, LogFacts, Part, PodState, Reached, Scope, Snapshot,
    Workload, ZtunnelDump, ZtunnelFacts, ZtunnelMetrics,
};
use super::view::View;

/// When the snapshot is taken.
pub(crate) const NOW: &str = "2026-01-02T00:00:00Z";
/// When everything was made.
pub(crate) const LONG_AGO: &str = "2026-01-01T00:00:00Z";
pub(crate) const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
const VERSION: &str = "1.28.3";

/// What some checks say of a mesh with several faults, and of which not everything may be read.
pub(crate) fn ailing_report() -> DoctorReport {
    let mut snapshot = healthy();
    snapshot.with_pod("istio-system", "ztunnel-b", |pod| {
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "False".to_owned();
    });
    for pod in had(&mut snapshot.pods) {
        if pod.metadata.namespace.as_deref() == Some("till") {
            pod.metadata.annotations = None;
        }
    }
    snapshot.with_namespace("shop", |namespace| {
        let labels = namespace.metadata.labels.as_mut().unwrap();
        labels.insert("istio-injection".to_owned(), "enabled".to_owned());
    });
    let rule = "ann needs this rule in a ClusterRole:\n  - apiGroups: [\"\"]\n    resources: [events]\n    verbs: [list]";
    snapshot.events = Part::Unknown(super::snapshot::Unknown::Forbidden(rule.to_owned()));
    snapshot.scan = Part::not_asked("it needs MeshMedic's agents: no agent runs here");
    had(&mut snapshot.istiods)[1].metrics = Part::failed("no answer within 10s");
    let suppressed = Suppression {
        code: "MM0411".to_owned(),
        object: "shop/*".to_owned(),
    };
    let codes = [
        "MM0101", "MM0106", "MM0201", "MM0301", "MM0401", "MM0405", "MM0409",
    ];
    DoctorReport::judge(
        &snapshot,
        codes.into_iter().filter_map(checks::by_code),
        &[suppressed],
    )
}

/// An object from JSON, as a test writes it.
pub(crate) fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// What a check finds. It must not be skipped.
#[track_caller]
pub(crate) fn findings(code: &str, snapshot: &Snapshot) -> Vec<Finding> {
    let check = checks::by_code(code).unwrap_or_else(|| panic!("there is no check {code}"));
    match check.judge(&View::new(snapshot)).outcome {
        Outcome::Findings { findings } => findings,
        Outcome::Passed => Vec::new(),
        other => panic!("{code} was not run: {other:?}"),
    }
}

/// A check finds exactly one thing, on this object, as `Kind namespace/name`.
#[track_caller]
pub(crate) fn assert_finds(code: &str, snapshot: &Snapshot, on: &str) -> Finding {
    let mut found = findings(code, snapshot);
    assert_eq!(found.len(), 1, "{code}: {found:#?}");
    let finding = found.remove(0);
    assert_eq!(finding.object.to_string(), on, "{finding:#?}");
    assert!(!finding.evidence.is_empty(), "no evidence: {finding:#?}");
    assert!(!finding.effect.is_empty(), "no effect: {finding:#?}");
    assert!(!finding.remedy.is_empty(), "no remedy: {finding:#?}");
    assert!(
        !finding.problem.contains(&finding.object.path()),
        "findings that name their object never fold"
    );
    finding
}

/// A check finds nothing.
#[track_caller]
pub(crate) fn assert_passes(code: &str, snapshot: &Snapshot) {
    let found = findings(code, snapshot);
    assert!(found.is_empty(), "{code}: {found:#?}");
}

/// Why a check was skipped.
#[track_caller]
pub(crate) fn assert_skipped(code: &str, snapshot: &Snapshot) -> String {
    let check = checks::by_code(code).unwrap_or_else(|| panic!("there is no check {code}"));
    match check.judge(&View::new(snapshot)).outcome {
        Outcome::Skipped { why, .. } => why,
        other => panic!("{code} was not skipped: {other:?}"),
    }
}

/// A UID of its own for each name.
pub(crate) fn uid(namespace: &str, name: &str) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in namespace.bytes().chain([b'/']).chain(name.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let short = hash & 0xffff_ffff_ffff;
    format!("{:08x}-0000-4000-8000-{short:012x}", hash >> 32)
}

/// A pod that is Ready on this node, of a controller of this kind and name.
pub(crate) fn pod(
    namespace: &str,
    name: &str,
    node: &str,
    address: &str,
    labels: Value,
    owner: (&str, &str),
) -> Pod {
    object(json!({
        "metadata": {
            "namespace": namespace, "name": name, "uid": uid(namespace, name), "labels": labels,
            "creationTimestamp": LONG_AGO,
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": owner.0, "name": owner.1, "uid": uid(namespace, owner.1),
                "controller": true,
            }],
        },
        "spec": {
            "nodeName": node, "serviceAccountName": "default",
            "containers": [{
                "name": "app", "image": format!("registry.example/{}:{VERSION}", owner.1),
                "ports": [{ "name": "http", "containerPort": 8080 }],
            }],
        },
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "startTime": LONG_AGO,
            "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": LONG_AGO }],
            "containerStatuses": [{
                "name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": { "running": { "startedAt": LONG_AGO } },
            }],
        },
    }))
}

/// A pod that the ambient mesh captures, of a Deployment.
pub(crate) fn ambient_pod(namespace: &str, app: &str, node: &str, address: &str) -> Pod {
    let name = format!("{app}-7d4b-{}", node.trim_start_matches("node-"));
    let labels = json!({ "app": app, "pod-template-hash": "7d4b" });
    let mut pod = pod(
        namespace,
        &name,
        node,
        address,
        labels,
        ("ReplicaSet", &format!("{app}-7d4b")),
    );
    annotate(&mut pod, "ambient.istio.io/redirection", "enabled");
    pod
}

/// A pod with a sidecar that is native: it starts before the app and ends after it.
pub(crate) fn sidecar_pod(namespace: &str, app: &str, node: &str, address: &str) -> Pod {
    let mut pod = ambient_pod(namespace, app, node, address);
    let annotations = pod.metadata.annotations.as_mut().unwrap();
    annotations.clear();
    annotations.insert("sidecar.istio.io/status".to_owned(), String::new());
    pod.spec.as_mut().unwrap().init_containers = Some(vec![
        object(json!({ "name": "istio-init", "image": format!("docker.io/istio/proxyv2:{VERSION}") })),
        object(json!({
            "name": "istio-proxy", "image": format!("docker.io/istio/proxyv2:{VERSION}"), "restartPolicy": "Always",
            "resources": {
                "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "cpu": "2", "memory": "1Gi" },
            },
        })),
    ]);
    pod
}

pub(crate) fn annotate(pod: &mut Pod, key: &str, value: &str) {
    pod.metadata
        .annotations
        .get_or_insert_default()
        .insert(key.to_owned(), value.to_owned());
}

pub(crate) fn namespace(name: &str, labels: Value) -> Namespace {
    let mut labels = labels;
    labels["kubernetes.io/metadata.name"] = json!(name);
    object(json!({
        "metadata": { "name": name, "uid": uid("", name), "labels": labels, "creationTimestamp": LONG_AGO },
        "status": { "phase": "Active" },
    }))
}

/// An object of a kind in `CUSTOM_KINDS`, by `plural.group`.
pub(crate) fn custom(key: &str, namespace: &str, name: &str, spec: Value) -> Custom {
    let kind = CUSTOM_KINDS.iter().find(|kind| kind.key() == key).unwrap();
    object(json!({
        "apiVersion": format!("{}/v1", kind.group), "kind": kind.kind,
        "metadata": { "namespace": namespace, "name": name }, "spec": spec,
    }))
}

impl Snapshot {
    /// Adds an object of a kind in `CUSTOM_KINDS`.
    pub(crate) fn add_custom(&mut self, key: &str, namespace: &str, name: &str, spec: Value) -> &mut Self {
        let Some(Part::Had(all)) = self.custom.get_mut(key) else {
            panic!("{key} is not installed")
        };
        all.push(custom(key, namespace, name, spec));
        self
    }

    /// Adds a pod.
    pub(crate) fn add_pod(&mut self, pod: Pod) -> &mut Self {
        had(&mut self.pods).push(pod);
        self
    }

    /// Changes a pod.
    #[track_caller]
    pub(crate) fn with_pod(
        &mut self,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Pod),
    ) -> &mut Self {
        let of = |pod: &&mut Pod| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        };
        let mut pods = had(&mut self.pods).iter_mut();
        change(
            pods.find(of)
                .unwrap_or_else(|| panic!("no pod {namespace}/{name}")),
        );
        self
    }

    /// Takes pods away.
    pub(crate) fn drop_pods(&mut self, which: impl Fn(&Pod) -> bool) -> &mut Self {
        had(&mut self.pods).retain(|pod| !which(pod));
        self
    }

    /// Changes a namespace.
    pub(crate) fn with_namespace(&mut self, name: &str, change: impl FnOnce(&mut Namespace)) -> &mut Self {
        let mut all = had(&mut self.namespaces).iter_mut();
        change(
            all.find(|one| one.metadata.name.as_deref() == Some(name))
                .unwrap(),
        );
        self
    }
}

/// What is there and may be changed.
#[track_caller]
pub(crate) fn had<T>(part: &mut Part<T>) -> &mut T {
    match part {
        Part::Had(had) => had,
        Part::Unknown(why) => panic!("not had: {why:?}"),
    }
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

/// A mesh in which all is well: three nodes, two istiods, an ambient shop and till, a legacy namespace with sidecars.
pub(crate) fn healthy() -> Snapshot {
    let mut snapshot = Snapshot::new(at(NOW), Scope::default());
    snapshot.server_version = Part::Had("v1.34.1".to_owned());
    snapshot.namespaces = Part::Had(vec![
        namespace("istio-system", json!({})),
        namespace("kube-system", json!({})),
        namespace("legacy", json!({ "istio-injection": "enabled" })),
        namespace("plain", json!({})),
        namespace("shop", json!({ "istio.io/dataplane-mode": "ambient" })),
        namespace("till", json!({ "istio.io/dataplane-mode": "ambient" })),
    ]);
    snapshot.nodes = Part::Had(
        NODES
            .iter()
            .enumerate()
            .map(|(at, name)| node(name, at))
            .collect(),
    );
    snapshot.pods = Part::Had(pods());
    workloads(&mut snapshot);
    for kind in CUSTOM_KINDS {
        let part = if kind.with_spec {
            Part::Had(Vec::new())
        } else {
            Part::absent("not installed")
        };
        snapshot.custom.insert(kind.key(), part);
    }
    let strict = json!({ "mtls": { "mode": "STRICT" } });
    snapshot.add_custom(
        "peerauthentications.security.istio.io",
        "istio-system",
        "default",
        strict,
    );
    snapshot.events = Part::Had(Vec::new());
    snapshot.jobs = Part::Had(Vec::new());
    snapshot.network_policies = Part::Had(vec![object(json!({
        "metadata": { "namespace": "till", "name": "till" },
        "spec": {
            "podSelector": {}, "policyTypes": ["Ingress"],
            "ingress": [
                { "from": [{ "namespaceSelector": {} }], "ports": [{ "port": 8080 }, { "port": 15008 }] },
                { "from": [
                    { "ipBlock": { "cidr": "169.254.7.127/32" } },
                    { "ipBlock": { "cidr": "fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128" } },
                ] },
            ],
        },
    }))]);
    snapshot.mesh_config = Part::Had(object(
        json!({ "rootNamespace": "istio-system", "trustDomain": "cluster.local" }),
    ));
    snapshot.cni_config = Part::Had([("EXCLUDE_NAMESPACES".to_owned(), "kube-system".to_owned())].into());
    said(&mut snapshot);
    snapshot
}

fn node(name: &str, at: usize) -> k8s_openapi::api::core::v1::Node {
    object(json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/os": "linux" } },
        "spec": { "podCIDR": format!("10.244.{at}.0/24") },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": format!("192.168.0.{}", at + 10) }],
            "conditions": [{ "type": "Ready", "status": "True" }],
            "nodeInfo": {
                "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "containerd://2.1.0",
                "kernelVersion": "6.12.0", "kubeProxyVersion": "", "kubeletVersion": "v1.34.1", "machineID": "",
                "operatingSystem": "linux", "osImage": "Debian 13", "systemUUID": "",
            },
        },
    }))
}

fn pods() -> Vec<Pod> {
    let mut pods = Vec::new();
    for (at, node) in NODES.iter().enumerate() {
        let letter = node.trim_start_matches("node-");
        for (name, labels, image) in [
            (
                "ztunnel",
                json!({ "app": "ztunnel", "istio.io/dataplane-mode": "none" }),
                "ztunnel",
            ),
            (
                "istio-cni-node",
                json!({ "k8s-app": "istio-cni-node", "istio.io/dataplane-mode": "none" }),
                "install-cni",
            ),
        ] {
            let address = format!("10.244.{at}.{}", 2 + name.len());
            let mut pod = pod(
                "istio-system",
                &format!("{name}-{letter}"),
                node,
                &address,
                labels,
                ("DaemonSet", name),
            );
            pod.spec.as_mut().unwrap().containers[0].image =
                Some(format!("docker.io/istio/{image}:{VERSION}"));
            pods.push(pod);
        }
        pods.push(ambient_pod("shop", "cart", node, &format!("10.244.{at}.20")));
        pods.push(ambient_pod("shop", "catalog", node, &format!("10.244.{at}.21")));
        pods.push(ambient_pod("till", "pay", node, &format!("10.244.{at}.22")));
        pods.push(sidecar_pod("legacy", "orders", node, &format!("10.244.{at}.23")));
        let labels = json!({ "k8s-app": "kube-dns", "pod-template-hash": "66bc" });
        let owner = ("ReplicaSet", "coredns-66bc");
        pods.push(pod(
            "kube-system",
            &format!("coredns-66bc-{letter}"),
            node,
            &format!("10.244.{at}.3"),
            labels,
            owner,
        ));
    }
    for letter in ["a", "b"] {
        let labels = json!({ "app": "istiod", "istio": "pilot", "istio.io/dataplane-mode": "none", "pod-template-hash": "5f6c" });
        let address = if letter == "a" {
            "10.244.0.30"
        } else {
            "10.244.1.30"
        };
        let owner = ("ReplicaSet", "istiod-5f6c");
        let mut istiod = pod(
            "istio-system",
            &format!("istiod-5f6c-{letter}"),
            &format!("node-{letter}"),
            address,
            labels,
            owner,
        );
        let container = &mut istiod.spec.as_mut().unwrap().containers[0];
        container.name = "discovery".to_owned();
        container.image = Some(format!("docker.io/istio/pilot:{VERSION}"));
        container.env = Some(vec![object(
            json!({ "name": "PILOT_ENABLE_AMBIENT", "value": "true" }),
        )]);
        pods.push(istiod);
    }
    pods
}

fn workloads(snapshot: &mut Snapshot) {
    let deployment = |namespace: &str, name: &str, replicas: i32| {
        object(json!({
            "metadata": { "namespace": namespace, "name": name, "uid": uid(namespace, name), "generation": 1 },
            "spec": {
                "replicas": replicas, "selector": { "matchLabels": { "app": name } },
                "template": { "metadata": { "labels": { "app": name } }, "spec": { "containers": [{ "name": "app" }] } },
            },
            "status": { "replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas },
        }))
    };
    snapshot.deployments = Part::Had(vec![
        deployment("istio-system", "istiod", 2),
        deployment("legacy", "orders", 3),
        deployment("shop", "cart", 3),
        deployment("shop", "catalog", 3),
        deployment("till", "pay", 3),
    ]);
    let replica_set = |namespace: &str, name: &str, hash: &str| {
        object(json!({
            "metadata": {
                "namespace": namespace, "name": format!("{name}-{hash}"),
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": uid(namespace, name),
                    "controller": true,
                }],
            },
        }))
    };
    snapshot.replica_sets = Part::Had(vec![
        replica_set("istio-system", "istiod", "5f6c"),
        replica_set("legacy", "orders", "7d4b"),
        replica_set("shop", "cart", "7d4b"),
        replica_set("shop", "catalog", "7d4b"),
        replica_set("till", "pay", "7d4b"),
    ]);
    let daemon_set = |name: &str, key: &str| {
        object(json!({
            "metadata": { "namespace": "istio-system", "name": name, "uid": uid("istio-system", name), "generation": 1 },
            "spec": {
                "selector": { "matchLabels": { key: name } },
                "template": { "metadata": { "labels": { key: name } }, "spec": { "containers": [{ "name": "app" }] } },
            },
            "status": {
                "currentNumberScheduled": 3, "desiredNumberScheduled": 3, "numberMisscheduled": 0, "numberReady": 3,
                "numberAvailable": 3, "updatedNumberScheduled": 3, "observedGeneration": 1,
            },
        }))
    };
    snapshot.daemon_sets = Part::Had(vec![
        daemon_set("istio-cni-node", "k8s-app"),
        daemon_set("ztunnel", "app"),
    ]);
    let service = |namespace: &str, name: &str, ports: Value| {
        object(json!({
            "metadata": { "namespace": namespace, "name": name },
            "spec": { "selector": { "app": name }, "ports": ports, "clusterIP": "10.96.0.10" },
        }))
    };
    let http = || json!([{ "name": "http", "port": 80, "targetPort": 8080 }]);
    snapshot.services = Part::Had(vec![
        service(
            "istio-system",
            "istiod",
            json!([
                { "name": "grpc-xds", "port": 15010 }, { "name": "https-dns", "port": 15012 },
                { "name": "https-webhook", "port": 443, "targetPort": 15017 }, { "name": "http-monitoring", "port": 15014 },
            ]),
        ),
        service("legacy", "orders", http()),
        service("shop", "cart", http()),
        service("shop", "catalog", http()),
        service("till", "pay", http()),
    ]);
    snapshot.endpoint_slices = Part::Had(vec![object(json!({
        "metadata": {
            "namespace": "istio-system", "name": "istiod-x", "labels": { "kubernetes.io/service-name": "istiod" },
        },
        "addressType": "IPv4",
        "endpoints": [
            { "addresses": ["10.244.0.30"], "conditions": { "ready": true } },
            { "addresses": ["10.244.1.30"], "conditions": { "ready": true } },
        ],
        "ports": [{ "name": "https-dns", "port": 15012 }, { "name": "https-webhook", "port": 15017 }],
    }))]);
    let client = |path: &str| {
        json!({
            "service": { "namespace": "istio-system", "name": "istiod", "path": path, "port": 443 }, "caBundle": "bm90IGVtcHR5",
        })
    };
    let of_revision = json!({ "app": "sidecar-injector", "istio.io/rev": "default" });
    let hook = |name: &str, path: &str| {
        json!({
            "name": name, "clientConfig": client(path), "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "namespaceSelector": { "matchLabels": { "istio-injection": "enabled" } },
        })
    };
    snapshot.mutating_webhooks = Part::Had(vec![object(json!({
        "metadata": { "name": "istio-sidecar-injector", "labels": of_revision },
        "webhooks": [hook("namespace.sidecar-injector.istio.io", "/inject")],
    }))]);
    snapshot.validating_webhooks = Part::Had(vec![object(json!({
        "metadata": { "name": "istio-validator-istio-system", "labels": { "app": "istiod", "istio": "istiod" } },
        "webhooks": [hook("rev.validation.istio.io", "/validate")],
    }))]);
}

/// What ztunnels, istiods, agents and a scan say of it.
fn said(snapshot: &mut Snapshot) {
    let view = View::new(snapshot);
    let enrolled = |node: &str| {
        let on = view
            .pods()
            .iter()
            .filter(|pod| pod.facts.node.as_deref() == Some(node));
        on.filter(|pod| view.is_ambient(&pod.facts))
            .map(|pod| pod.facts.clone())
            .collect::<Vec<_>>()
    };
    let mut ztunnels = Vec::new();
    let mut states = Vec::new();
    for node in NODES {
        let pods = enrolled(node);
        assert_eq!(pods.len(), 3);
        ztunnels.push(ZtunnelFacts {
            namespace: "istio-system".to_owned(),
            name: format!("ztunnel-{}", node.trim_start_matches("node-")),
            node: node.to_owned(),
            dump: Part::Had(ZtunnelDump {
                workloads_known: 30,
                services_known: 5,
                workloads: pods
                    .iter()
                    .map(|pod| Workload {
                        namespace: pod.namespace.clone(),
                        name: pod.name.clone(),
                        protocol: "HBONE".to_owned(),
                        waypoint: None,
                    })
                    .collect(),
                proxies: pods
                    .iter()
                    .map(|pod| (pod.uid.clone(), "Up".to_owned()))
                    .collect(),
                certificates: vec![Certificate {
                    identity: "spiffe://cluster.local/ns/shop/sa/default".to_owned(),
                    state: "Available".to_owned(),
                    begins: Some(at("2026-01-01T12:00:00Z")),
                    expires: Some(at("2026-01-02T12:00:00Z")),
                }],
            }),
            metrics: Part::Had(ZtunnelMetrics {
                active_proxies: Some(3.0),
                pending_proxies: Some(0.0),
                version: Some(VERSION.to_owned()),
                ..ZtunnelMetrics::default()
            }),
            log: Part::Had(LogFacts {
                lines: 100,
                ..LogFacts::default()
            }),
        });
        states.extend(pods.iter().map(|pod| PodState {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            state: meshmedic_common::verdict::State::Captured,
            reason: None,
            detail: None,
            redirection: Some("routed".to_owned()),
            via: Some("agent".to_owned()),
        }));
    }
    let metrics = [
        ("pilot_xds_pushes{type=cds}", 100.0),
        ("pilot_total_xds_rejects", 0.0),
    ];
    let istiods = ["istiod-5f6c-a", "istiod-5f6c-b"].map(|name| IstiodFacts {
        namespace: "istio-system".to_owned(),
        name: name.to_owned(),
        metrics: Part::Had(
            metrics
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
        ),
    });
    let agents = NODES.map(|node| (node.to_owned(), Part::Had(agent(node))));
    snapshot.ztunnels = Part::Had(ztunnels);
    snapshot.istiods = Part::Had(istiods.into());
    snapshot.agents = Part::Had(agents.into());
    snapshot.scan = Part::Had(states);
    snapshot.reach = Part::Had(reach());
}

/// Each node's agent tried the next two.
fn reach() -> Vec<Reached> {
    let pairs = [(0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)];
    let told = pairs.map(|(from, to): (usize, usize)| Reached {
        from: NODES[from].to_owned(),
        to: NODES[to].to_owned(),
        reached: Some(true),
        detail: None,
    });
    told.into()
}

fn agent(node: &str) -> meshmedic_common::report::NodeReport {
    object(json!({
        "apiVersion": "meshmedic.io/v1", "kind": "NodeReport", "node": node, "version": "0.1.0", "trigger": "ebpf",
        "conditions": [], "ztunnel": [7], "pods": [],
        "cniFolder": {
            "file": "10-flannel.conflist", "plugins": ["flannel", "portmap", "istio-cni"], "callsIstioCni": true,
        },
        "overlay": { "interfaces": ["flannel.1"], "udpPorts": [8472] },
    }))
}
