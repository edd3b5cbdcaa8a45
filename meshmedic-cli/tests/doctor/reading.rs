// SPDX-License-Identifier: Apache-2.0
//! What is read of a cluster, and what is said where it cannot be.

use std::net::TcpListener;

use serde_json::json;

use crate::world::{World, doctor_as, run};

#[test]
fn a_healthy_mesh_is_clean_and_every_check_has_a_result() {
    let world = World::new();
    let ran = world.doctor(&["-o", "json", "--fail-on", "info"]);
    assert_eq!((ran.code, ran.findings()), (0, vec![]), "{}", ran.stdout);
    assert_eq!(ran.ended("failed"), Vec::<String>::new(), "{}", ran.stdout);
    // Nobody runs MeshMedic's agents here.
    let skipped = ran.ended("skipped");
    for code in ["MM0303", "MM0401", "MM0901"] {
        assert!(
            skipped.iter().any(|skipped| skipped == code),
            "{code}: {skipped:?}"
        );
    }
    let table = world.doctor(&[]);
    assert_eq!(table.code, 0, "{table:?}");
    assert!(table.stdout.contains("√ Control plane"), "{}", table.stdout);
    assert!(table.stdout.contains("Nothing found"), "{}", table.stdout);
    assert!(!table.stdout.contains('\u{1b}'), "no terminal, no colours");
}

#[test]
fn an_api_server_that_answers_nothing_is_one_error() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "away",
        "contexts": [{ "name": "away", "context": { "cluster": "away", "user": "me" } }],
        "clusters": [{ "name": "away", "cluster": { "server": format!("http://127.0.0.1:{port}") } }],
        "users": [{ "name": "me", "user": {} }],
    });
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    let ran = run(&["--kubeconfig", kubeconfig.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, ""), "{ran:?}");
    assert!(ran.stderr.contains("cannot be reached"), "{ran:?}");
}

/// A Service, a Gateway and a route of which istiod has something to say.
fn denied(world: &World) {
    let condition = |kind: &str, reason: &str| {
        json!({
            "type": kind, "status": "False", "reason": reason, "message": "as istiod says", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let mut service = world.make(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "till", "name": "pay", "labels": { "istio.io/use-waypoint": "wp" } },
        "spec": { "selector": { "app": "pay" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    }));
    service["status"] = json!({ "conditions": [condition("istio.io/WaypointBound", "WaypointIsNotReady")] });
    world.api.update_status(&service).unwrap();
    let mut gateway = world.make(&json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": { "namespace": "till", "name": "in" },
        "spec": { "gatewayClassName": "istio", "listeners": [{ "name": "https", "port": 443, "protocol": "HTTPS" }] },
    }));
    gateway["status"] = json!({ "listeners": [{ "name": "https", "conditions": [condition("ResolvedRefs", "InvalidCertificateRef")] }] });
    world.api.update_status(&gateway).unwrap();
    let mut route = world.make(&json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "namespace": "till", "name": "pay" },
        "spec": {
            "parentRefs": [{ "name": "in" }], "rules": [{ "backendRefs": [{ "name": "pya", "port": 80 }] }],
        },
    }));
    route["status"] = json!({ "parents": [{
        "parentRef": { "name": "in" }, "controllerName": "istio.io/gateway-controller",
        "conditions": [condition("ResolvedRefs", "BackendNotFound")],
    }] });
    world.api.update_status(&route).unwrap();
    world.api.set_clock(3_600_000).unwrap();
}

#[test]
fn what_istiod_says_of_objects_is_read_and_kept() {
    let world = World::new();
    denied(&world);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.json");
    let saved = file.to_str().unwrap();
    let ran = world.doctor(&["-o", "json", "--save", saved]);
    let expected = [
        "MM1001 Service till/pay",
        "MM1004 Gateway till/in",
        "MM1005 HTTPRoute till/pay",
    ];
    assert_eq!(ran.findings(), expected, "{}", ran.stdout);
    assert!(ran.stdout.contains("as istiod says"));
    let again = run(&["--from", saved, "-o", "json"]);
    assert_eq!(again.findings(), expected, "{}", again.stdout);
}

#[test]
fn a_move_to_ambient_mode_is_foretold() {
    let world = World::new();
    world.make(&json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": { "namespace": "legacy", "name": "tokens" }, "spec": { "jwtRules": [{ "issuer": "x" }] },
    }));
    let pod = world.make(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "legacy", "name": "orders-7d4b-a", "labels": { "app": "orders" },
            "annotations": { "sidecar.istio.io/status": "{}" },
        },
        "spec": { "nodeName": "node-a", "containers": [{ "name": "app", "image": "app:1" }, { "name": "istio-proxy", "image": "app:1" }] },
    }));
    world.ready(pod, "10.244.0.40", true);
    assert_eq!(
        world.doctor(&["-o", "json", "--check", "MM1202"]).findings(),
        Vec::<String>::new()
    );
    let ran = world.doctor(&["--migrate", "legacy", "-o", "json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(ran.json()["kind"], "AmbientMigration");
    assert_eq!(
        ran.findings(),
        ["MM1202 RequestAuthentication legacy/tokens"],
        "{}",
        ran.stdout
    );
    let table = world.doctor(&["--migrate", "legacy"]);
    assert!(
        table.stdout.starts_with("What would stop working"),
        "{}",
        table.stdout
    );
    let usage = world.doctor(&["--migrate", "legacy", "-n", "shop"]);
    assert_eq!(usage.code, 2, "{usage:?}");
}

#[test]
fn nothing_is_changed_in_the_cluster() {
    let world = World::new();
    world.api.forget_requests().unwrap();
    world.doctor(&["-n", "shop"]);
    for request in world.api.requests().unwrap() {
        let is_forward = request.full_resource().ends_with("/portforward");
        let is_exec = request.full_resource().ends_with("/exec");
        assert!(!request.is_write() || is_forward || is_exec, "{request:?}");
    }
}

#[test]
fn whoever_may_do_nothing_is_told_each_rule() {
    let world = World::new();
    world.make(&json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "ops" },
    }));
    world.make(&json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "namespace": "ops", "name": "ann" },
    }));
    let kubeconfig = world.api.kubeconfig_for_service_account("ops", "ann").unwrap();
    let ran = doctor_as(&kubeconfig, &["-o", "json"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_eq!(ran.findings(), Vec::<String>::new());
    assert_eq!(ran.ended("passed"), Vec::<String>::new(), "{}", ran.stdout);
    let report = ran.json();
    let checks = report["checks"].as_array().unwrap();
    let rule = checks.iter().find(|check| check["code"] == "MM0201").unwrap()["reason"]
        .as_str()
        .unwrap();
    for words in [
        "system:serviceaccount:ops:ann needs this rule in a ClusterRole",
        "resources: [pods]",
        "verbs: [list]",
    ] {
        assert!(rule.contains(words), "{rule}");
    }
    let short = doctor_as(&kubeconfig, &["-o", "short"]);
    assert!(
        short
            .stdout
            .contains("system:serviceaccount:ops:ann needs this rule"),
        "{}",
        short.stdout
    );
}

#[test]
fn a_cluster_without_istio_has_nothing_to_find() {
    let api = meshmedic_lab::ApiServer::start().unwrap();
    let ran = doctor_as(api.kubeconfig(), &["-o", "json", "--fail-on", "info"]);
    assert_eq!((ran.code, ran.findings()), (0, vec![]), "{}", ran.stdout);
    assert_eq!(ran.ended("failed"), Vec::<String>::new(), "{}", ran.stdout);
}

#[test]
fn what_was_saved_is_judged_the_same_without_the_cluster() {
    let world = World::new();
    let secret = json!({ "metadata": { "annotations": { "vault.example/token": "hunter2" } } });
    world.api.patch("pods", "shop", "cart-7d4b-a", &secret).unwrap();
    world
        .api
        .patch(
            "namespaces",
            "",
            "shop",
            &json!({ "metadata": { "labels": { "istio-injection": "enabled" } } }),
        )
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.json");
    let file = file.to_str().unwrap();
    let live = world.doctor(&["-o", "json", "--save", file]);
    drop(world);
    let again = run(&["-o", "json", "--from", file]);
    assert_eq!(again.stdout, live.stdout);
    assert_eq!((again.code, live.code), (0, 0));
    assert!(again.findings().contains(&"MM0409 Namespace shop".to_owned()));
    assert_eq!(run(&["--from", file, "--fail-on", "warning"]).code, 1);
    assert!(!std::fs::read_to_string(file).unwrap().contains("hunter2"));
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(
        std::fs::metadata(file).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn checks_can_be_chosen_listed_and_silenced() {
    let world = World::new();
    world
        .api
        .patch(
            "namespaces",
            "",
            "shop",
            &json!({ "metadata": { "labels": { "istio-injection": "enabled" } } }),
        )
        .unwrap();
    let chosen = world.doctor(&["-o", "json", "--check", "mm0409", "--category", "pod-creation"]);
    let codes: Vec<String> = chosen.json()["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["code"].to_string())
        .collect();
    assert_eq!(codes, ["\"MM0301\"", "\"MM0302\"", "\"MM0303\"", "\"MM0409\""]);
    let silenced = world.doctor(&["-o", "json", "--check", "MM0409", "--suppress", "MM0409=shop"]);
    assert_eq!(silenced.json()["summary"]["suppressed"], 1, "{}", silenced.stdout);
    assert_eq!(silenced.findings(), Vec::<String>::new());
    let list = run(&["--list"]);
    assert!(
        list.stdout.starts_with("MM0101  error    istiod is ready\n"),
        "{}",
        list.stdout
    );
}

#[test]
fn wrong_usage_names_the_next_step() {
    for (arguments, words) in [
        (&["--check", "MM9999"][..], "--list"),
        (&["--suppress", "MM0101"], "CODE=NAMESPACE/NAME"),
        (&["--suppress", "MM9999=a/b"], "no such check"),
        (&["-n", "No!"], "no name that Kubernetes gives"),
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let ran = run(&["--from", "/nonexistent"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("--from /nonexistent"), "{ran:?}");
}

#[test]
fn one_namespace_shows_the_mesh_and_itself() {
    let world = World::new();
    for namespace in ["shop", "till"] {
        world
            .api
            .patch(
                "namespaces",
                "",
                namespace,
                &json!({ "metadata": { "labels": { "istio.io/dataplane-mode": null } } }),
            )
            .unwrap();
    }
    let all = world.doctor(&["-o", "json", "--check", "MM0407"]);
    assert_eq!(all.findings().len(), 6, "{}", all.stdout);
    let one = world.doctor(&["-o", "json", "--check", "MM0407", "-n", "shop"]);
    assert_eq!(one.findings().len(), 3, "{}", one.stdout);
    let pod = world.doctor(&["-o", "json", "--check", "MM0407", "till/pay-7d4b-b"]);
    assert_eq!(pod.findings(), ["MM0407 Pod till/pay-7d4b-b"], "{}", pod.stdout);
}

#[test]
fn a_pod_that_ended_while_others_were_asked_is_not_missed() {
    let world = World::new();
    world.api.set_clock(3_600_000).unwrap();
    let mut dump = world.dump("node-a");
    let pod = world.api.get("pods", "shop", "cart-7d4b-a").unwrap();
    dump["workloadState"]
        .as_object_mut()
        .unwrap()
        .remove(pod["metadata"]["uid"].as_str().unwrap());
    world.answer("ztunnel-a", 15000, &dump.to_string());
    let missed = world.doctor(&["-o", "json", "--check", "MM0209"]);
    assert_eq!(
        missed.findings(),
        ["MM0209 Pod shop/cart-7d4b-a"],
        "{}",
        missed.stdout
    );
    // Whoever asks for this pod alone is told that it is gone; the list is of a moment before.
    let gone = meshmedic_lab::Fault::status(404)
        .verb("get")
        .resource("pods")
        .name("cart-7d4b-a");
    let _gone = world.api.fault(gone).unwrap();
    let ended = world.doctor(&["-o", "json", "--check", "MM0209"]);
    assert_eq!(ended.findings(), Vec::<String>::new(), "{}", ended.stdout);
}

/// Makes MeshMedic's DaemonSet and an agent on each node, which says this of its node.
fn agents(world: &World, says: &dyn Fn(&str) -> serde_json::Value, reached: &dyn Fn(&str) -> bool) {
    let labels = json!({ "app.kubernetes.io/name": "meshmedic" });
    world.make(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "meshmedic" } }));
    let set = world.make(&json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "namespace": "meshmedic", "name": "meshmedic", "labels": labels },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "agent", "image": "m:1" }] } },
        },
    }));
    for (at, node) in ["node-a", "node-b", "node-c"].into_iter().enumerate() {
        let mut report = json!({
            "apiVersion": "meshmedic.io/v1", "kind": "NodeReport", "node": node, "version": "0.1.0", "trigger": "poll",
            "conditions": [], "ztunnel": [], "pods": [],
        });
        let more = says(node);
        for (key, value) in more.as_object().unwrap() {
            report[key] = value.clone();
        }
        let name = format!("agent-{at}");
        let pod = world.pod(
            "meshmedic",
            &name,
            node,
            &format!("10.244.{at}.90"),
            labels.clone(),
            ("DaemonSet", "meshmedic"),
        );
        let mut owned = pod;
        owned["metadata"]["ownerReferences"][0]["uid"] = set["metadata"]["uid"].clone();
        world.api.update(&owned).unwrap();
        let reach = json!({ "reached": reached(node), "detail": "no answer within 2 s" }).to_string();
        world.answer_paths(
            "meshmedic",
            &name,
            9101,
            &[("/v1/node", &report.to_string()), ("/v1/reach/", &reach)],
        );
    }
}

#[test]
fn what_agents_see_of_their_nodes_and_pods_is_judged() {
    let world = World::new();
    let uid = world.api.get("pods", "shop", "cart-7d4b-a").unwrap()["metadata"]["uid"].clone();
    let says = |node: &str| {
        let lost = node == "node-b";
        let interfaces = if lost { json!([]) } else { json!(["flannel.1"]) };
        let ports = if lost { json!([]) } else { json!([8472]) };
        let pods = if node == "node-a" {
            json!([{
                "namespace": "shop", "name": "cart-7d4b-a", "uid": uid, "state": "orphan", "ports": [],
                "redirection": "routed", "flaps": 0,
            }])
        } else {
            json!([])
        };
        json!({
            "overlay": { "interfaces": interfaces, "udpPorts": ports }, "pods": pods,
            "cniFolder": { "file": "10-x.conflist", "plugins": ["flannel"], "callsIstioCni": node != "node-c" },
        })
    };
    agents(&world, &says, &|_| true);
    let ran = world.doctor(&["-o", "json"]);
    assert_eq!(
        ran.findings(),
        [
            "MM0303 Node node-c",
            "MM0401 Pod shop/cart-7d4b-a",
            "MM0901 Node node-b"
        ],
        "{}",
        ran.stdout
    );
    assert!(
        ran.ended("passed").contains(&"MM0903".to_owned()),
        "{}",
        ran.stdout
    );
}

#[test]
fn nodes_that_do_not_reach_each_other_are_found() {
    let world = World::new();
    agents(&world, &|_| json!({}), &|node| node != "node-c");
    let ran = world.doctor(&["-o", "json"]);
    // What the agent of this node tries fails, and it is reached by the others.
    assert_eq!(
        ran.findings(),
        ["MM0903 Node node-c", "MM0903 Node node-c"],
        "{}",
        ran.stdout
    );
}
