// SPDX-License-Identifier: Apache-2.0
//! A mesh with faults from the runbooks planted in it: exactly these are found, and what doctor says cures them.

use meshmedic_lab::Log;
use serde_json::{Value, json};

use crate::remedy::cure;
use crate::world::World;

/// A fault: what plants it, and what is found then.
struct Fault {
    finding: &'static str,
    plant: fn(&World),
}

/// Planted one on the other, none hides another.
const FAULTS: &[Fault] = &[
    Fault {
        // The Service lost the port on which ztunnels connect.
        finding: "MM0103 Service istio-system/istiod",
        plant: |world| {
            let mut service = world.api.get("services", "istio-system", "istiod").unwrap();
            service["spec"]["ports"] = json!([{ "name": "https-webhook", "port": 443, "targetPort": 15017 }]);
            world.api.update(&service).unwrap();
        },
    },
    Fault {
        // A GitOps tool put back what was committed.
        finding: "MM0104 ValidatingWebhookConfiguration istio-validator",
        plant: |world| {
            let name = "istio-validator";
            let mut webhook = world
                .api
                .get("validatingwebhookconfigurations", "", name)
                .unwrap();
            webhook["webhooks"][0]["clientConfig"]
                .as_object_mut()
                .unwrap()
                .remove("caBundle");
            world.api.update(&webhook).unwrap();
        },
    },
    Fault {
        // A proxy refuses what istiod makes of some object.
        finding: "MM0106 Pod istio-system/istiod-x",
        plant: |world| world.answer("istiod-x", 15014, "pilot_total_xds_rejects{type=\"lds\"} 3\n"),
    },
    Fault {
        // ztunnel of one node is 0/1.
        finding: "MM0201 Node node-b",
        plant: |world| {
            let pod = world.api.get("pods", "istio-system", "ztunnel-b").unwrap();
            world.ready(pod, "10.244.1.7", false);
        },
    },
    Fault {
        // istiod signs nothing for one ztunnel.
        finding: "MM0206 Pod istio-system/ztunnel-c",
        plant: |world| {
            let mut dump = world.dump("node-c");
            dump["certificates"][0]["state"] = "Unavailable: signing refused".into();
            world.answer("ztunnel-c", 15000, &dump.to_string());
        },
    },
    Fault {
        // A pod in a namespace that was labelled later, and was not restarted.
        finding: "MM0405 Pod shop/cart-7d4b-a",
        plant: |world| annotate(world, "shop", "cart-7d4b-a", Value::Null),
    },
    Fault {
        // ztunnel never took it over.
        finding: "MM0406 Pod shop/cart-7d4b-c",
        plant: |world| annotate(world, "shop", "cart-7d4b-c", "pending".into()),
    },
    Fault {
        // The label was taken away, and the pod was not restarted.
        finding: "MM0407 Pod till/pay-7d4b-a",
        plant: |world| {
            let out = json!({ "metadata": { "labels": { "istio.io/dataplane-mode": "none" } } });
            world.api.patch("pods", "till", "pay-7d4b-a", &out).unwrap();
        },
    },
    Fault {
        // Moved to ambient mode, with the old label left.
        finding: "MM0409 Namespace moved",
        plant: |world| {
            let labels = json!({ "istio.io/dataplane-mode": "ambient", "istio-injection": "enabled" });
            world.make(&json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "moved", "labels": labels },
            }));
        },
    },
    Fault {
        // No pod starts on a node whose ztunnel is not there.
        finding: "MM0302 Pod shop/late",
        plant: |world| {
            let labels = json!({ "app": "late" });
            let pod = world.pod("shop", "late", "node-b", "", labels, ("ReplicaSet", "late-7d4b"));
            let uid = pod["metadata"]["uid"].clone();
            let mut waiting = pod;
            waiting["status"] = json!({ "phase": "Pending" });
            world.api.update_status(&waiting).unwrap();
            world.make(&json!({
                "apiVersion": "v1", "kind": "Event", "metadata": { "namespace": "shop", "name": "late.1" },
                "reason": "FailedCreatePodSandBox", "type": "Warning", "count": 9,
                "message": "Failed to create pod sandbox: plugin type=\"istio-cni\" failed (add): unable to push CNI \
                            event (status code 500): partial add error: no ztunnel connection",
                "involvedObject": { "kind": "Pod", "namespace": "shop", "name": "late", "uid": uid },
            }));
        },
    },
    Fault {
        // Written before the mesh came: the app's port, and not the one by which pods of the mesh come.
        finding: "MM0501 NetworkPolicy shop/cart",
        plant: |world| {
            world.make(&json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "shop", "name": "cart" },
                "spec": { "selector": { "app": "cart" }, "ports": [{ "name": "http", "port": 8080 }] },
            }));
            let till = json!({ "matchLabels": { "kubernetes.io/metadata.name": "till" } });
            world.make(&json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": { "namespace": "shop", "name": "cart" },
                "spec": { "podSelector": { "matchLabels": { "app": "cart" } }, "policyTypes": ["Ingress"], "ingress": [
                    { "from": [{ "namespaceSelector": till }], "ports": [{ "protocol": "TCP", "port": 8080 }] },
                ] },
            }));
        },
    },
    Fault {
        // An ALLOW for callers of the mesh, before an app whose probes are not rewritten.
        finding: "MM0604 Pod legacy/orders-7d4b-a",
        plant: |world| {
            let probe = json!({ "httpGet": { "path": "/ready", "port": 8080 } });
            let pod = world.make(&json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "namespace": "legacy", "name": "orders-7d4b-a", "labels": { "app": "orders" },
                    "annotations": {
                        "sidecar.istio.io/rewriteAppHTTPProbers": "false", "sidecar.istio.io/status": "{}",
                    },
                },
                "spec": { "nodeName": "node-a", "containers": [
                    { "name": "app", "image": "app:1", "readinessProbe": probe },
                    { "name": "istio-proxy", "image": "app:1" },
                ] },
            }));
            world.ready(pod, "10.244.0.40", true);
            world.make(&json!({
                "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
                "metadata": { "namespace": "legacy", "name": "callers" },
                "spec": { "selector": { "matchLabels": { "app": "orders" } }, "rules": [
                    { "from": [{ "source": { "namespaces": ["shop"] } }] },
                ] },
            }));
        },
    },
];

fn annotate(world: &World, namespace: &str, pod: &str, value: Value) {
    let annotation = json!({ "metadata": { "annotations": { "ambient.istio.io/redirection": value } } });
    world.api.patch("pods", namespace, pod, &annotation).unwrap();
}

/// Pods of this world are older than doctor asks for: the server's clock runs ahead.
fn aged() -> World {
    let world = World::new();
    world.api.set_clock(3_600_000).unwrap();
    world
}

#[test]
fn each_fault_alone_is_found_and_nothing_else() {
    for fault in FAULTS {
        let world = aged();
        (fault.plant)(&world);
        let ran = world.doctor(&["-o", "json"]);
        assert_eq!(ran.findings(), [fault.finding], "{}", ran.stdout);
        assert_eq!(ran.code, i32::from(is_error(&ran.json())), "{}", fault.finding);
    }
}

#[test]
fn all_faults_together_are_found_and_cured_by_what_doctor_says() {
    let world = aged();
    for fault in FAULTS {
        (fault.plant)(&world);
    }
    let ran = world.doctor(&["-o", "json"]);
    let mut planted: Vec<&str> = FAULTS.iter().map(|fault| fault.finding).collect();
    planted.sort_unstable();
    assert_eq!(ran.findings(), planted, "{}", ran.stdout);
    cure(&world, &ran.json());
    let ran = world.doctor(&["-o", "json", "--fail-on", "info"]);
    assert_eq!((ran.code, ran.findings()), (0, vec![]), "{}", ran.stdout);
}

fn is_error(report: &Value) -> bool {
    report["summary"]["errors"] != 0
}

#[test]
fn a_ztunnel_that_logs_that_it_cannot_reach_istiod_is_found() {
    let world = World::new();
    let now = jiff_now();
    let line = format!(
        "{now}\twarn\txds::client\tXDS client connection error: gRPC connection error: deadline has elapsed\n"
    );
    world
        .api
        .set_log(("istio-system", "ztunnel-a"), Log::text(&line.repeat(5)))
        .unwrap();
    let ran = world.doctor(&["-o", "json"]);
    assert_eq!(
        ran.findings(),
        ["MM0205 Pod istio-system/ztunnel-a"],
        "{}",
        ran.stdout
    );
}

/// The time as ztunnel writes it.
fn jiff_now() -> String {
    let now = std::process::Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%S.000000Z"])
        .output()
        .unwrap();
    String::from_utf8(now.stdout).unwrap().trim().to_owned()
}
