// SPDX-License-Identifier: Apache-2.0
//! `meshmedic install --print`: a manifest for the cluster at hand.

use std::process::Command;

use meshmedic_lab::api::documents;
use meshmedic_lab::{ClusterSpec, need};

use crate::fleet::run;
use crate::world::World;

/// What it prints; the rest of its output is a test's failure.
fn printed(world: &World, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_meshmedic"))
        .args(["install", "--print"])
        .args(arguments)
        .arg("--kubeconfig")
        .arg(world.cluster.api().kubeconfig())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_real_api_server_takes_what_is_printed() {
    let test = "a_real_api_server_takes_what_is_printed";
    if !need::root(test) || !need::real_apiserver(test) {
        return;
    }
    let world = World::granting(
        ClusterSpec {
            real_api: true,
            ..ClusterSpec::default()
        },
        &[],
        "meshmedic",
    );
    let text = printed(&world, &["--repair", "restart"]);
    assert!(text.contains("admission policies.\n"), "{text}");
    let api = world.cluster.api();
    for object in documents(&text).unwrap() {
        api.apply(&object).unwrap();
    }
    assert!(
        api.find("daemonsets", "meshmedic", "meshmedic")
            .unwrap()
            .is_some()
    );
}

#[test]
fn an_istio_elsewhere_is_named_and_never_trusted_by_itself() {
    let test = "an_istio_elsewhere_is_named_and_never_trusted_by_itself";
    if !need::root(test) {
        return;
    }
    let spec = ClusterSpec {
        istio_namespace: "mesh",
        ..ClusterSpec::default()
    };
    let world = World::granting(spec, &[], "meshmedic");
    let (code, text) = run(&world, &["install", "--print"]);
    assert_eq!(code, Some(3), "{text}");
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("pass --istio-namespace mesh"), "{text}");
    assert!(!text.contains("kind: DaemonSet"), "{text}");
    let text = printed(&world, &["--istio-namespace", "mesh"]);
    assert!(
        text.contains("MESHMEDIC_ISTIO_NAMESPACE\n              value: \"mesh\""),
        "{text}"
    );
}
