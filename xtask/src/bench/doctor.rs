// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench --doctor`: how long it takes to judge a large cluster from its snapshot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::figures::{Column, Figure, Part, Row};
use super::scan::peak_kib;
const NAMESPACES: usize = 50;
const NODES: usize = 100;
/// Apps in a namespace, each with several pods and policies of its own.
const APPS: usize = 20;
const ISTIO: &str = "istio-system";
const LONG_AGO: &str = "2026-01-01T00:00:00Z";
/// One policy in so many forgets HBONE, so that there is something to find.
const FAULTY: usize = 400;
/// The families that were there before those of objects, waypoints and platforms.
const EARLIER: [&str; 9] = [
    "control-plane",
    "data-plane",
    "pod-creation",
    "enrolment",
    "network-policy",
    "security",
    "traffic",
    "sidecars",
    "network-underneath",
];
/// What all checks may cost, as a multiple of what the earlier ones cost in the same round.
const COST: f64 = 2.5;
/// What they may need, in MiB.
const MEMORY: f64 = 200.0;

/// How large the cluster is.
#[derive(Clone, Copy)]
struct Size {
    pods: usize,
    policies: usize,
}

/// The cluster of the targets.
const LARGE: Size = Size {
    pods: 10_000,
    policies: 2_000,
};
/// One that even a build without optimisation judges within seconds.
const SMALL: Size = Size {
    pods: 1_000,
    policies: 200,
};

/// Judges a large cluster from its snapshot, with all checks and with the earlier families alone, round by round.
pub(super) fn measure(quick: bool) -> anyhow::Result<Part> {
    let (size, rounds) = if quick { (SMALL, 3) } else { (LARGE, 7) };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("large.json");
    fs::write(&file, snapshot(size).to_string()).with_context(|| file.display().to_string())?;
    let earlier = EARLIER.iter().flat_map(|category| ["--category", category]);
    let earlier: Vec<&str> = earlier.collect();
    let (mut all, mut before, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..rounds {
        before.push(judge(&file, &earlier)?.seconds * 1_000.0);
        let judged = judge(&file, &[])?;
        all.push(judged.seconds * 1_000.0);
        peaks.push(judged.peak);
        last = Some(judged.report);
    }
    let report = last.context("no round was measured")?;
    let found: usize = report["checks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|check| Some(check["findings"].as_array()?.len()))
        .sum();
    let of = format!("{} pods and {} NetworkPolicies", size.pods, size.policies);
    let mut cost = Row::new(
        format!("all checks of {of}, beside the earlier families"),
        Column::Both,
        "ms",
        &all,
    )
    .beside(&all, &before);
    cost.target = Some(format!("at most {COST} times"));
    cost.met = cost.ratio.map(|ratio| ratio <= COST);
    cost.remark = Some(format!(
        "{} pairs decided, {found} findings, {} checks passed",
        report["decided"]["pairs"], report["summary"]["passed"]
    ));
    let mut memory = Row::new(format!("memory at most, {of}"), Column::Both, "MiB", &peaks);
    memory.target = Some(format!("at most {MEMORY} MiB"));
    memory.met = Some(Figure::of(&peaks).high <= MEMORY);
    Ok(Part {
        rows: vec![cost, memory],
        ..Part::default()
    })
}

/// One run of the command.
struct Judged {
    seconds: f64,
    /// The most memory that it held, in MiB.
    peak: f64,
    report: Value,
}

fn judge(file: &Path, flags: &[&str]) -> anyhow::Result<Judged> {
    let binary = binary()?;
    let begun = Instant::now();
    let mut child = Command::new(&binary)
        .args(["doctor", "-o", "json", "--from"])
        .arg(file)
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| binary.display().to_string())?;
    let stdout = child.stdout.take().context("doctor writes nothing")?;
    let output = std::thread::spawn(move || std::io::read_to_string(stdout));
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut peak = 0.0_f64;
    while child.try_wait()?.is_none() {
        peak = peak.max(peak_kib(&status).unwrap_or(0.0));
        std::thread::sleep(Duration::from_millis(2));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let text = output
        .join()
        .map_err(|_| anyhow::anyhow!("the reader of doctor's output broke off"))??;
    Ok(Judged {
        seconds,
        peak: peak / 1024.0,
        report: serde_json::from_str(&text).context("doctor wrote no JSON")?,
    })
}

/// Beside this program, or above it where this is a test.
fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folders = own.ancestors().skip(1).take(2);
    let mut known = folders.map(|folder| folder.join("meshmedic"));
    known
        .find(|path| path.is_file())
        .context("meshmedic is not built")
}

fn snapshot(size: Size) -> Value {
    let namespaces: Vec<Value> = (0..NAMESPACES)
        .map(|at| namespace(&format!("ns-{at}"), "ambient"))
        .chain([namespace(ISTIO, "none")])
        .collect();
    let nodes: Vec<Value> = (0..NODES)
        .map(|at| json!({ "metadata": { "name": format!("node-{at}") } }))
        .collect();
    let mut pods: Vec<Value> = (0..size.pods).map(pod).collect();
    for node in 0..NODES {
        for (name, key) in [("ztunnel", "app"), ("istio-cni-node", "k8s-app")] {
            pods.push(component(name, key, size.pods + node, node));
        }
    }
    json!({
        "kind": "DoctorSnapshot", "version": 1, "taken": "2026-01-02T00:00:00Z",
        "namespaces": { "had": namespaces }, "nodes": { "had": nodes }, "pods": { "had": pods },
        "services": { "had": services() },
        "networkPolicies": { "had": (0..size.policies).map(policy).collect::<Vec<_>>() },
        "daemonSets": { "had": [] }, "deployments": { "had": deployments() }, "statefulSets": { "had": [] },
        "jobs": { "had": [] }, "cronJobs": { "had": [] }, "events": { "had": [] }, "resourceQuotas": { "had": [] },
        "endpointSlices": { "had": [] }, "mutatingWebhooks": { "had": [] }, "validatingWebhooks": { "had": [] },
        "serviceAccounts": { "had": accounts() },
        "meshConfig": { "had": { "rootNamespace": ISTIO, "trustDomain": "cluster.local" } },
        "cniConfig": { "had": { "EXCLUDE_NAMESPACES": "kube-system" } }, "ciliumConfig": { "had": {} },
        "gatewayApi": { "had": { "gateways.gateway.networking.k8s.io": "v1.6.0" } },
        "custom": custom(),
    })
}

fn namespace(name: &str, mode: &str) -> Value {
    let labels = json!({ "kubernetes.io/metadata.name": name, "istio.io/dataplane-mode": mode });
    json!({ "metadata": { "name": name, "labels": labels } })
}

fn metadata(namespace: &str, name: &str, labels: &Value, owner: (&str, &str)) -> Value {
    json!({
        "namespace": namespace, "name": name, "uid": format!("uid-{namespace}-{name}"), "labels": labels,
        "creationTimestamp": LONG_AGO,
        "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": owner.0, "name": owner.1, "uid": owner.1, "controller": true,
        }],
    })
}

fn status(at: usize) -> Value {
    let address = format!("10.{}.{}.{}", at / 65_536, at / 256 % 256, at % 256);
    json!({
        "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
        "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": LONG_AGO }],
    })
}

fn pod(at: usize) -> Value {
    let (space, app) = (
        format!("ns-{}", at % NAMESPACES),
        format!("app-{}", at / NAMESPACES % APPS),
    );
    let labels = json!({ "app": app, "pod-template-hash": "7d4b" });
    let mut metadata = metadata(
        &space,
        &format!("{app}-7d4b-{at}"),
        &labels,
        ("ReplicaSet", &format!("{app}-7d4b")),
    );
    metadata["annotations"] = json!({ "ambient.istio.io/redirection": "enabled" });
    json!({
        "metadata": metadata,
        "spec": {
            "nodeName": format!("node-{}", at % NODES),
            "containers": [{ "name": "app", "ports": [{ "name": "http", "containerPort": 8080 }] }],
        },
        "status": status(at),
    })
}

fn component(name: &str, key: &str, at: usize, node: usize) -> Value {
    let labels = json!({ key: name });
    json!({
        "metadata": metadata(ISTIO, &format!("{name}-{node}"), &labels, ("DaemonSet", name)),
        "spec": { "nodeName": format!("node-{node}"), "containers": [{ "name": "app" }] },
        "status": status(at),
    })
}

fn services() -> Vec<Value> {
    let mut services = Vec::new();
    for space in 0..NAMESPACES {
        for app in 0..APPS {
            services.push(json!({
                "metadata": {
                    "namespace": format!("ns-{space}"), "name": format!("app-{app}"),
                    "labels": { "istio.io/use-waypoint": if app % 2 == 0 { "waypoint" } else { "none" } },
                },
                "spec": {
                    "selector": { "app": format!("app-{app}") },
                    "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }],
                },
            }));
        }
    }
    services
}

fn everywhere(make: impl Fn(String, String) -> Value) -> Vec<Value> {
    let spaces = (0..NAMESPACES).map(|space| format!("ns-{space}"));
    spaces
        .flat_map(|space| (0..APPS).map(move |app| (space.clone(), format!("app-{app}"))))
        .map(|(space, app)| make(space, app))
        .collect()
}

fn deployments() -> Vec<Value> {
    everywhere(|space, app| {
        let labels = json!({ "app": app });
        json!({
            "metadata": { "namespace": space, "name": app },
            "spec": {
                "replicas": 10, "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "app" }] } },
            },
        })
    })
}

fn accounts() -> Vec<Value> {
    (0..NAMESPACES)
        .flat_map(|space| ["default", "waypoint"].map(|name| (space, name)))
        .map(|(space, name)| json!({ "metadata": { "namespace": format!("ns-{space}"), "name": name } }))
        .collect()
}

/// Objects of all kinds that the checks of references, waypoints and protection read: for each app a policy of
/// identities, a VirtualService, a DestinationRule and a route, and for each namespace a waypoint.
fn custom() -> Value {
    let object = |group: &str, version: &str, kind: &str, of: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": format!("{group}/{version}"), "kind": kind,
            "metadata": { "namespace": of, "name": name }, "spec": spec,
        })
    };
    let (security, networking, gateway) = (
        "security.istio.io",
        "networking.istio.io",
        "gateway.networking.k8s.io",
    );
    let policies = everywhere(|space, app| {
        let callers = json!([
            "cluster.local/ns/ns-0/sa/default",
            format!("cluster.local/ns/{space}/sa/waypoint")
        ]);
        let rules = json!([{ "from": [{ "source": { "principals": callers } }] }]);
        let spec = json!({ "selector": { "matchLabels": { "app": app } }, "rules": rules });
        object(security, "v1", "AuthorizationPolicy", &space, &app, spec)
    });
    let services = everywhere(|space, app| {
        let http = json!([{ "route": [{ "destination": { "host": app, "port": { "number": 80 } } }] }]);
        object(
            networking,
            "v1",
            "VirtualService",
            &space,
            &app,
            json!({ "hosts": [app], "http": http }),
        )
    });
    let rules = everywhere(|space, app| {
        object(
            networking,
            "v1",
            "DestinationRule",
            &space,
            &app,
            json!({ "host": app }),
        )
    });
    let routes = everywhere(|space, app| {
        let parents = json!([{ "group": "", "kind": "Service", "name": app }]);
        let backends = json!([{ "backendRefs": [{ "name": app, "port": 80 }] }]);
        let spec = json!({ "parentRefs": parents, "rules": backends });
        object(gateway, "v1", "HTTPRoute", &space, &app, spec)
    });
    let waypoints: Vec<Value> = (0..NAMESPACES)
        .map(|space| {
            let listeners = json!([{ "name": "mesh", "port": 15008, "protocol": "HBONE" }]);
            let spec = json!({ "gatewayClassName": "istio-waypoint", "listeners": listeners });
            object(gateway, "v1", "Gateway", &format!("ns-{space}"), "waypoint", spec)
        })
        .collect();
    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": { "name": "istio-waypoint" }, "spec": { "controllerName": "istio.io/mesh-controller" },
    });
    json!({
        "authorizationpolicies.security.istio.io": { "had": policies },
        "requestauthentications.security.istio.io": { "had": [] },
        "peerauthentications.security.istio.io": { "had": [] },
        "virtualservices.networking.istio.io": { "had": services },
        "destinationrules.networking.istio.io": { "had": rules },
        "serviceentries.networking.istio.io": { "had": [] },
        "sidecars.networking.istio.io": { "had": [] },
        "envoyfilters.networking.istio.io": { "had": [] },
        "wasmplugins.extensions.istio.io": { "had": [] },
        "httproutes.gateway.networking.k8s.io": { "had": routes },
        "referencegrants.gateway.networking.k8s.io": { "had": [] },
        "gateways.gateway.networking.k8s.io": { "had": waypoints },
        "gatewayclasses.gateway.networking.k8s.io": { "had": [class] },
    })
}

/// Of each namespace some policies select an app, and admit an app of another namespace or a block of addresses.
fn policy(at: usize) -> Value {
    let (space, app) = (at % NAMESPACES, at / NAMESPACES % APPS);
    let mut ports = vec![json!({ "port": "http" }), json!({ "port": 15008 })];
    if at.is_multiple_of(FAULTY) {
        ports.pop();
    }
    let peer = if at.is_multiple_of(3) {
        json!({ "ipBlock": { "cidr": "10.0.0.0/9", "except": [format!("10.{}.0.0/16", at % 100)] } })
    } else {
        let from = format!("ns-{}", (space + at) % NAMESPACES);
        json!({
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": from } },
            "podSelector": { "matchExpressions": [
                { "key": "app", "operator": "In", "values": [format!("app-{app}"), "app-0", "app-1"] },
            ] },
        })
    };
    json!({
        "metadata": { "namespace": format!("ns-{space}"), "name": format!("policy-{at}") },
        "spec": {
            "podSelector": { "matchLabels": { "app": format!("app-{app}") } },
            "policyTypes": ["Ingress"],
            "ingress": [
                { "from": [peer], "ports": ports },
                { "from": [{ "ipBlock": { "cidr": "169.254.7.127/32" } }] },
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps the scene alive: what it costs says nothing here.
    #[test]
    fn a_small_cluster_is_judged_by_all_checks_and_by_the_earlier_ones() {
        if let Err(error) = binary() {
            meshmedic_lab::need::skip(
                "a_small_cluster_is_judged_by_all_checks_and_by_the_earlier_ones",
                &error.to_string(),
            );
            return;
        }
        let part = measure(true).unwrap();
        assert_eq!(part.rows.len(), 2);
        let [cost, memory] = part.rows.as_slice() else {
            panic!("{part:?}")
        };
        assert!(cost.ratio.is_some_and(f64::is_finite), "{cost:?}");
        assert!(memory.ours.is_some_and(|ours| ours.median > 0.0), "{memory:?}");
    }
}
