// SPDX-License-Identifier: Apache-2.0
//! The checklist before STRICT, of a cluster and of a snapshot.

use serde_json::json;

use crate::world::{World, run};

#[test]
fn the_checklist_says_what_speaks_against_strict() {
    let world = World::new();
    // Nobody looks into the pods of this cluster, so nothing speaks against it, and not everything is seen.
    let open = world.doctor(&["--strict-ready", "-n", "shop", "-o", "json"]);
    assert_eq!(
        (open.code, &open.json()["verdict"]),
        (3, &json!("open")),
        "{open:?}"
    );
    assert!(open.json()["apply"].as_str().unwrap().contains("mode: STRICT"));
    let labels = json!({ "app": "batch", "istio.io/dataplane-mode": "none" });
    world.pod(
        "shop",
        "batch-0",
        "node-a",
        "10.244.0.90",
        labels,
        ("StatefulSet", "batch"),
    );
    let file = tempfile::tempdir().unwrap();
    let file = file.path().join("mesh.json");
    let file = file.to_str().unwrap();
    let no_go = world.doctor(&["--strict-ready", "-n", "shop", "--save", file]);
    assert_eq!(no_go.code, 1, "{no_go:?}");
    assert!(
        no_go
            .stdout
            .contains("batch-0 is neither captured nor has it a sidecar")
    );
    assert!(no_go.stdout.contains("No-go: STRICT would cut off"));
    // The snapshot says the same, and knows which namespace was meant.
    for arguments in [
        &["--from", file, "--strict-ready", "-n", "shop"][..],
        &["--from", file, "--strict-ready"],
    ] {
        let again = run(arguments);
        assert_eq!((again.code, &again.stdout), (1, &no_go.stdout));
    }
}

#[test]
fn the_checklist_wants_one_namespace() {
    for arguments in [
        &["--strict-ready"][..],
        &["--strict-ready", "-A"],
        &["--strict-ready", "-n", "shop", "-o", "html"],
        &["--strict-ready", "-n", "shop", "--check", "MM0601"],
        &["--from", "mesh.json", "-n", "shop"],
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?} {ran:?}");
    }
}
