// SPDX-License-Identifier: Apache-2.0
//! Probes: when they may be added, what they leave, and how they are read.

use meshmedic_lab::{Ephemeral, Exec};
use serde_json::Value;

use crate::world::{World, assert_says};

const IMAGE: [&str; 2] = ["--probe-image", "busybox:1"];

fn probes(world: &World, name: &str) -> Vec<Value> {
    let pod = world.api.get("pods", "shop", name).unwrap();
    pod["spec"]["ephemeralContainers"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

#[test]
fn a_probe_is_for_pods_that_were_named_and_that_nothing_else_can_read() {
    let world = World::new();
    world.pod("bare", Exec::distroless());
    world.pod("cart-1", Exec::captured());
    let shop = meshmedic_lab::PodRef::all_in("shop");
    world
        .api
        .set_ephemeral(shop, Ephemeral::runs(Exec::captured()))
        .unwrap();
    let ran = world.scan(&[&["-o", "json"], &IMAGE[..]].concat());
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_eq!(
        World::state_of(&ran.json(), "bare"),
        ("unverifiable".to_owned(), "no-reader".to_owned())
    );
    assert_says(&ran.stdout, &["--probe would add"]);
    assert_eq!(
        world
            .scan(&[&["-n", "shop", "--no-probe"], &IMAGE[..]].concat())
            .code,
        3
    );
    assert!(probes(&world, "bare").is_empty());
    let ran = world.scan(&[&["-n", "shop"], &IMAGE[..]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_says(
        &ran.stdout,
        &["1 by probe", "1 pod has an ended probe in its spec from now on"],
    );
    assert_eq!(
        (probes(&world, "bare").len(), probes(&world, "cart-1").len()),
        (1, 0)
    );
    // A later scan works just as well.
    let ran = world.scan(&[&["--probe", "-o", "json"], &IMAGE[..]].concat());
    assert_eq!((ran.code, ran.json()["probed"].as_u64()), (0, Some(1)), "{ran:?}");
    let names: Vec<Value> = probes(&world, "bare")
        .iter()
        .map(|probe| probe["name"].clone())
        .collect();
    assert!(names.len() == 2 && names[0] != names[1], "{names:?}");
    assert_eq!(
        world
            .scan(&[&["--via", "probe", "-l", "app=cart"], &IMAGE[..]].concat())
            .code,
        0
    );
    assert_eq!(probes(&world, "cart-1").len(), 1);
}

#[test]
fn a_probe_is_admitted_where_pods_are_restricted() {
    let world = World::new();
    let labels = serde_json::json!({ "metadata": { "labels": {
        "pod-security.kubernetes.io/enforce": "restricted",
    } } });
    world.api.patch("namespaces", "", "shop", &labels).unwrap();
    let mut pod = world.enrolled("bare");
    pod["spec"]["securityContext"] = serde_json::json!({
        "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" },
    });
    pod["spec"]["containers"][0]["securityContext"] = serde_json::json!({
        "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
    });
    world.api.set_exec(("shop", "bare"), Exec::distroless()).unwrap();
    world
        .api
        .set_ephemeral(("shop", "bare"), Ephemeral::runs(Exec::orphan()))
        .unwrap();
    world.create(pod, "2026-01-01T00:00:00Z");
    let ran = world.scan(&[&["shop/bare", "-o", "json"], &IMAGE[..]].concat());
    assert_eq!(ran.code, 1, "{ran:?}");
    let report = ran.json();
    assert_eq!(
        (report["orphans"][0]["via"].as_str(), report["probed"].as_u64()),
        (Some("probe"), Some(1))
    );
    // Three readings must agree, and each is a container of its own.
    assert_eq!(probes(&world, "bare").len(), 3);
}

#[test]
fn a_probe_that_cannot_run_says_why() {
    let world = World::new();
    for (name, fortune, words) in [
        ("no-image", Ephemeral::no_image(), "ErrImagePull|ImagePullBackOff"),
        (
            "no-cat",
            Ephemeral::no_program("cat"),
            "cannot run there; --probe-image",
        ),
        ("never", Ephemeral::waits(), "nothing within 600ms"),
    ] {
        world.pod(name, Exec::distroless());
        world.api.set_ephemeral(("shop", name), fortune).unwrap();
        let pod = format!("shop/{name}");
        let ran = world.scan(
            &[
                &[pod.as_str(), "--timeout", "100ms", "--via", "probe"],
                &IMAGE[..],
            ]
            .concat(),
        );
        assert_eq!(ran.code, 3, "{name}: {ran:?}");
        let text = ran.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.split('|').any(|word| text.contains(word)), "{name}: {text}");
    }
    world.pod("cart-1", Exec::distroless());
    let ran = world.scan(&["shop/cart-1"]);
    assert_says(&ran.stdout, &["no image for a probe"]);
}
