// SPDX-License-Identifier: Apache-2.0
//! The way to the cluster, and what is said when it is barred.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;

use meshmedic_lab::{Exec, Fault};
use serde_json::json;

use crate::world::{Ran, World, assert_says, meshmedic};

fn scan(arguments: &[&str]) -> Ran {
    Ran::of(meshmedic(["scan"]).args(arguments).output().unwrap())
}

#[test]
fn what_makes_no_sense_is_refused() {
    let world = World::new();
    for (arguments, words) in [
        (&["-n", "shop", "-A"][..], &["cannot be used with"][..]),
        (&["-A", "cart"], &["cannot be used with"]),
        (&["-l", "app=cart", "cart"], &["cannot be used with"]),
        (
            &["-n", "pay", "shop/cart"],
            &["shop/cart is not in namespace pay"],
        ),
        (&["a\"b"], &["is no name that Kubernetes gives"]),
        (&["-n", "a'; drop"], &["-n: \"a'; drop\""]),
        (
            &["--via", "probe", "--no-probe"],
            &["--no-probe with --via probe"],
        ),
        (&["--via", "exec", "--probe"], &["--probe with --via exec"]),
        (&["--watch", "--via", "probe"], &["--watch adds no probes"]),
        (&["--watch", "--probe", "cart"], &["--watch adds no probes"]),
        (&["--concurrency", "0"], &["--concurrency"]),
        (&["--timeout", "1ms"], &["must be 100ms at least"]),
        (&["--request-timeout", "5"], &["has no unit"]),
        (&["-o", "xml"], &["table, wide, json, yaml, name"]),
    ] {
        let ran = world.scan(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {ran:?}");
        assert_says(&ran.stderr, words);
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
}

#[test]
fn a_kubeconfig_that_leads_nowhere_says_where_it_should() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken");
    std::fs::write(&broken, "{").unwrap();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let (broken, empty) = (broken.to_str().unwrap(), empty.to_str().unwrap());
    let mine = world.api.kubeconfig().to_str().unwrap();
    for (arguments, words) in [
        (&[][..], &["no kubeconfig", "--kubeconfig FILE", "KUBECONFIG"][..]),
        (
            &["--kubeconfig", "/nonexistent"],
            &["--kubeconfig /nonexistent: No such file"],
        ),
        (
            &["--kubeconfig", broken],
            &["--kubeconfig", "no YAML of a kubeconfig"],
        ),
        (
            &["--kubeconfig", empty],
            &["names no current context", "it has none"],
        ),
        (
            &["--kubeconfig", mine, "--context", "prod"],
            &["no context \"prod\"", "it has lab"],
        ),
        (
            &["--kubeconfig", mine, "--cluster", "prod"],
            &["no cluster \"prod\"", "it has lab"],
        ),
        (
            &["--kubeconfig", mine, "--user", "bob"],
            &["no user \"bob\"", "it has lab"],
        ),
    ] {
        let ran = scan(arguments);
        assert_eq!(ran.code, 3, "{arguments:?}: {ran:?}");
        assert_says(&ran.stderr, words);
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
}

#[test]
fn the_kubeconfig_is_looked_for_where_kubectl_looks() {
    let world = World::new();
    world.pod("cart-1", Exec::captured());
    let mut command = meshmedic(["scan"]);
    command.env("KUBECONFIG", world.api.kubeconfig());
    assert_eq!(Ran::of(command.output().unwrap()).code, 0);
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".kube")).unwrap();
    std::fs::copy(world.api.kubeconfig(), home.path().join(".kube/config")).unwrap();
    let mut command = meshmedic(["scan"]);
    command.env("HOME", home.path());
    assert_eq!(Ran::of(command.output().unwrap()).code, 0);
}

#[test]
fn a_server_that_is_away_or_silent_is_named() {
    let world = World::new();
    let url = world.api.url().to_owned();
    world.api.outage(meshmedic_lab::Outage::Reset).unwrap();
    let ran = world.scan(&[]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_says(
        &ran.stderr,
        &[&url, "cannot be reached", "is it the right context"],
    );
    world.api.recover().unwrap();
    let fault = Fault::latency(std::time::Duration::from_secs(600))
        .verb("list")
        .resource("pods");
    let _slow = world.api.fault(fault).unwrap();
    let ran = world.scan(&["--request-timeout", "200ms"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_says(
        &ran.stderr,
        &[
            "listing pods",
            &url,
            "no answer within 200ms",
            "--request-timeout",
        ],
    );
}

#[test]
fn who_may_not_is_told_the_rule() {
    let world = World::new();
    world.pod("cart-1", Exec::captured());
    let nobody = world.user(json!([]));
    let ran = world.scan_as(&nobody, &["-n", "shop"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_says(
        &ran.stderr,
        &[
            "listing pods in namespace shop: forbidden: system:serviceaccount:ops:ann needs this rule in a Role in \
             namespace shop, or a ClusterRole:",
            "  - apiGroups: [\"\"]\n    resources: [pods]\n    verbs: [list]\n",
        ],
    );
    let stranger = std::fs::read_to_string(&nobody).unwrap();
    let json: serde_json::Value = serde_json::from_str(&stranger).unwrap();
    let token = json["users"][0]["user"]["token"].as_str().unwrap();
    std::fs::write(&nobody, stranger.replace(token, "expired")).unwrap();
    let ran = world.scan_as(&nobody, &[]);
    assert_says(
        &ran.stderr,
        &["does not know these credentials (401)", "--context"],
    );
    assert_eq!(ran.code, 3);
}

#[test]
fn with_rights_for_pods_alone_a_scan_does_what_it_can() {
    let world = World::new();
    world.pod("cart-1", Exec::captured());
    let user = world.user(json!([
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] },
        { "apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create", "get"] },
    ]));
    let ran = world.scan_as(&user, &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_says(
        &ran.stdout,
        &[
            "namespaces cannot be read, so a pod counts as expected if istio-cni's annotation says so",
            "istio-cni's settings cannot be read, so Istio's defaults stand in",
            "1 pod checked: 1 captured",
        ],
    );
}

#[test]
fn a_scan_without_the_right_to_exec_is_undetermined_and_asks_once() {
    let world = World::new();
    for number in 0..40 {
        world.pod(&format!("cart-{number}"), Exec::captured());
    }
    let user = world.user(json!([
        { "apiGroups": [""], "resources": ["pods", "namespaces", "configmaps"], "verbs": ["get", "list"] },
    ]));
    world.api.forget_requests().unwrap();
    let ran = world.scan_as(&user, &["-o", "json", "--concurrency", "2"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let report = ran.json();
    assert_eq!(
        World::state_of(&report, "cart-7"),
        ("unverifiable".to_owned(), "forbidden".to_owned())
    );
    assert_says(
        &report["unverifiable"]["shop/cart-7"].to_string(),
        &["may not", "pods/exec"],
    );
    let requests = world.api.requests().unwrap();
    let execs = requests
        .iter()
        .filter(|request| request.full_resource() == "pods/exec")
        .count();
    assert!(execs <= 2, "{execs} requests for what is forbidden");
}

#[test]
fn somebody_else_can_be_impersonated() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let lines = BufReader::new(listener.accept().unwrap().0).lines();
        let head = lines.map_while(Result::ok).take_while(|line| !line.is_empty());
        head.collect::<Vec<_>>().join("\n")
    });
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("config");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{ "name": "lab", "cluster": { "server": format!("http://{address}") } }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "" } }],
    });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let ran = scan(&["--as", "bob", "--kubeconfig", kubeconfig.to_str().unwrap()]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_says(&server.join().unwrap(), &["impersonate-user: bob", "limit=500"]);
}

#[test]
fn a_namespace_or_pod_or_mesh_that_is_not_there_is_said() {
    let world = World::new();
    world.pod("cart-1", Exec::captured());
    let ran = world.scan(&["-n", "nowhere"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_says(
        &ran.stderr,
        &["there is no namespace \"nowhere\"", "kubectl get namespaces"],
    );
    let ran = world.scan(&["-n", "shop", "cart-1", "cart-2"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_says(
        &ran.stdout,
        &[
            "shop/cart-1  captured",
            "shop/cart-2  unverifiable",
            "there is no such pod",
        ],
    );
    // Pods that belong to the mesh, and no ztunnel: that is the incident, not a wrong context.
    world.kill_ztunnel();
    let ran = world.scan(&[]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_says(
        &ran.stdout,
        &[
            "1 captured",
            "every node is at fault",
            "no ztunnel found",
            "app=ztunnel",
        ],
    );
    world.pod("cart-3", Exec::orphan());
    let ran = world.scan(&[]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_says(&ran.stdout, &["shop/cart-3  suspect", "ztunnel is at fault"]);
    // Nothing that belongs to a mesh: then the question is whether there is one.
    let ran = world.scan(&["-n", "istio-system"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_says(&ran.stderr, &["no ztunnel found", "ambient mode installed"]);
}

#[test]
fn a_name_of_nothing_is_no_clean_result() {
    let world = World::new();
    world.pod("cart-1", Exec::captured());
    let kubeconfig = world.api.kubeconfig().to_str().unwrap();
    let (no_pod, no_node) = (
        "there is no pod \"nope\" in namespace shop",
        "there is no node \"nope\"",
    );
    let no_namespace = "there is no namespace \"nope\"";
    let no_labels = "no pod has the labels app=nope: nothing was looked at";
    for (arguments, says) in [
        (&["scan", "--node", "nope"][..], no_node),
        (&["scan", "-l", "app=nope"], no_labels),
        (&["scan", "-n", "nope"], no_namespace),
        (&["repair", "--node", "nope"], no_node),
        (&["repair", "-l", "app=nope"], no_labels),
        (&["undo", "shop/nope"], no_pod),
        (&["undo", "--node", "nope"], no_node),
        (&["explain", "shop/nope"], no_pod),
        (&["prove", "shop/nope"], no_pod),
        (&["doctor", "shop/nope"], no_pod),
        (&["doctor", "-n", "nope"], no_namespace),
    ] {
        let mut command = meshmedic(arguments);
        let ran = Ran::of(command.args(["--kubeconfig", kubeconfig]).output().unwrap());
        assert_eq!(ran.code, 3, "{arguments:?}: {ran:?}");
        assert_says(&ran.stderr, &[says]);
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
}
