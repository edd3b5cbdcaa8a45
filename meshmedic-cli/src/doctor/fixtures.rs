// SPDX-License-Identifier: Apache-2.0
//! A mesh in which all is well, and ways to hurt it.
//!
//! A test takes [`healthy`], hurts it in one place, and asks one check with [`findings`] or [`assert_passes`].

mod gateways;
mod healthy;
pub(crate) mod hostile;
mod production;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::check::Outcome;
use super::checks;
use super::finding::{Finding, Remedy};
use super::report::{DoctorReport, Suppression};
use super::snapshot::{CUSTOM_KINDS, Custom, Part, Snapshot};
use super::view::View;

pub(crate) use healthy::healthy;
pub(crate) use production::{Layout, production};

/// When the snapshot is taken.
pub(crate) const NOW: &str = "2026-01-02T00:00:00Z";
/// When everything was made.
pub(crate) const LONG_AGO: &str = "2026-01-01T00:00:00Z";
pub(crate) const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
/// The patch of its minor release that closes the holes that are known of it.
const VERSION: &str = "1.28.10";

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
    hostile::assert_unshaken(code, snapshot);
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
                "apiVersion": if owner.0 == "Job" { "batch/v1" } else { "apps/v1" },
                "kind": owner.0, "name": owner.1, "uid": uid(namespace, owner.1),
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

/// A pod of namespace `plain` that is an Envoy of Istio alone.
pub(crate) fn gateway_pod(labels: Value) -> Pod {
    let owner = ("ReplicaSet", "gw-1");
    let mut pod = pod("plain", "gw-0", "node-a", "10.244.0.90", labels, owner);
    pod.spec.as_mut().unwrap().containers[0].name = "istio-proxy".to_owned();
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

impl Finding {
    /// The commands of its remedy, as a shell takes them.
    pub(crate) fn commands(&self) -> Vec<String> {
        let of = |remedy: &Remedy| match remedy {
            Remedy::Commands(commands) => commands.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        };
        self.remedy.iter().flat_map(of).collect()
    }
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
