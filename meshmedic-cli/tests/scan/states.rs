// SPDX-License-Identifier: Apache-2.0
//! What a scan says of pods, and how it reads.

use meshmedic_lab::Exec;
use serde_json::json;

use crate::world::{World, assert_golden, assert_says};

const TCP: &str =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue \
                    rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

fn listening(port: u16) -> String {
    format!("   0: 00000000:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 77 1\n")
}

/// A pod of each state that a scan by exec can find.
fn every_state() -> World {
    let world = World::new();
    world.pod("cart-captured", Exec::captured());
    world.pod("cart-orphan", Exec::orphan());
    let tcp = format!("{TCP}{}", listening(15001));
    world.pod(
        "cart-partial",
        Exec::tables(tcp.as_bytes(), Some(TCP6.as_bytes())),
    );
    let long_ago = "2026-01-01T00:00:00Z";
    let mut pending = world.enrolled("cart-pending");
    pending["metadata"]["annotations"]["ambient.istio.io/redirection"] = "pending".into();
    world.create(pending, long_ago);
    let mut gvisor = world.enrolled("cart-gvisor");
    gvisor["spec"]["runtimeClassName"] = "gvisor".into();
    world.create(gvisor, long_ago);
    let mut plain = world.enrolled("cart-plain");
    plain["metadata"]["annotations"] = json!({});
    world.create(plain, long_ago);
    world.pod("cart-bare", Exec::distroless());
    world
}

/// What differs from run to run.
fn stable(world: &World, text: &str) -> String {
    let mut text = text.replace(world.api.url(), "SERVER");
    for pod in world.api.list("pods", "").unwrap() {
        text = text.replace(pod["metadata"]["uid"].as_str().unwrap(), "UID");
    }
    text
}

#[test]
fn every_state_reads_as_recorded() {
    let world = every_state();
    for (name, arguments) in [
        ("scan-table.txt", &[][..]),
        ("scan-wide.txt", &["-o", "wide"]),
        ("scan.json", &["-o", "json"]),
        ("scan.yaml", &["-o", "yaml"]),
        ("scan-name.txt", &["-o", "name"]),
    ] {
        let ran = world.scan(arguments);
        assert_eq!(ran.code, 1, "{arguments:?}: {ran:?}");
        assert_eq!(ran.stderr, "", "{arguments:?}");
        assert!(!ran.stdout.contains('\u{1b}'), "{arguments:?}");
        assert_golden(name, &stable(&world, &ran.stdout));
        if name == "scan-table.txt" {
            let wide: Vec<_> = ran
                .stdout
                .lines()
                .filter(|line| line.chars().count() > 80)
                .collect();
            assert!(wide.is_empty(), "{wide:#?}");
        }
    }
}

#[test]
fn exit_codes_are_the_same_in_every_format() {
    let world = World::new();
    let exits = |code: i32, arguments: &[&str]| {
        for format in ["table", "wide", "json", "yaml", "name"] {
            let ran = world.scan(&[&["-o", format], arguments].concat());
            assert_eq!(ran.code, code, "{format} {arguments:?}: {ran:?}");
        }
    };
    exits(0, &[]);
    world.pod("cart-1", Exec::captured());
    exits(0, &["-n", "shop"]);
    world.pod("cart-2", Exec::print("nonsense\n"));
    exits(3, &["-n", "shop", "--no-probe"]);
    world.pod("cart-3", Exec::orphan());
    exits(1, &["-l", "app=cart", "-n", "shop", "--no-probe"]);
    exits(0, &["shop/cart-1"]);
}

#[test]
fn pods_can_be_chosen() {
    let world = World::new();
    world.pod("cart-1", Exec::captured());
    world.pod("cart-2", Exec::captured());
    world.namespace("pay", true);
    let mut other = world.enrolled("till");
    other["metadata"]["namespace"] = "pay".into();
    other["metadata"]["labels"] = json!({ "app": "till" });
    other["spec"]["nodeName"] = "node-b".into();
    world.api.set_exec(("pay", "till"), Exec::captured()).unwrap();
    world.create(other, "2026-01-01T00:00:00Z");
    for (arguments, expected) in [
        (&[][..], 3),
        (&["-A"], 3),
        (&["-n", "pay"], 1),
        (&["-l", "app=cart"], 2),
        (&["-l", "app in (cart,till),app!=cart"], 1),
        (&["--node", "node-b"], 1),
        (&["-n", "shop", "cart-1", "shop/cart-1"], 1),
        (&["pay/till", "shop/cart-2"], 2),
    ] {
        let report = world.scan(&[arguments, &["-o", "json"]].concat()).json();
        assert_eq!(report["checked"], expected, "{arguments:?}: {report:#}");
    }
}

#[test]
fn pods_that_are_not_ready_are_left_out_on_demand_only() {
    let world = World::new();
    let mut pod = world.pod("cart-1", Exec::orphan());
    pod["status"]["conditions"][0]["status"] = "False".into();
    world.api.update_status(&pod).unwrap();
    assert_eq!(world.scan(&[]).code, 1);
    let ran = world.scan(&["--ready-only", "-n", "shop"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn under_a_ztunnel_that_is_away_or_new_nobody_is_accused() {
    let world = World::new();
    world.pod("cart-1", Exec::orphan());
    world.restart_ztunnel();
    let ran = world.scan(&["-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        World::state_of(&ran.json(), "cart-1"),
        ("suspect".to_owned(), "node-fault".to_owned())
    );
    let mut ztunnel = world.api.get("pods", "istio-system", "ztunnel-x").unwrap();
    ztunnel["status"]["conditions"][0]["status"] = "False".into();
    world.api.update_status(&ztunnel).unwrap();
    let ran = world.scan(&[]);
    assert_says(&ran.stdout, &["suspect", "ztunnel is not Ready on the node"]);
    assert_eq!(ran.code, 0);
}

#[test]
fn a_second_container_answers_where_the_first_cannot_and_tcp6_may_be_missing() {
    let world = World::new();
    let mut pod = world.enrolled("cart-1");
    pod["spec"]["containers"] = json!([{ "name": "bare", "image": "a" }, { "name": "full", "image": "b" }]);
    let of = |container: &str| meshmedic_lab::PodRef::new("shop", "cart-1").container(container);
    world
        .api
        .set_exec(of("bare"), Exec::without_in_docker(&["cat"], 126))
        .unwrap();
    let tcp = format!(
        "{TCP}{}{}{}",
        listening(15001),
        listening(15006),
        listening(15008)
    );
    world
        .api
        .set_exec(of("full"), Exec::tables(tcp.as_bytes(), None))
        .unwrap();
    world.create(pod, "2026-01-01T00:00:00Z");
    let ran = world.scan(&["-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let pod = &ran.json()["pods"][2];
    assert_eq!(
        (pod["name"].as_str(), pod["container"].as_str()),
        (Some("cart-1"), Some("full"))
    );
    assert_eq!(
        (pod["via"].as_str(), pod["ownWord"].as_bool()),
        (Some("exec"), Some(true))
    );
    world
        .api
        .set_exec(of("full"), Exec::tables(TCP.as_bytes(), None))
        .unwrap();
    assert_eq!(world.scan(&[]).code, 1);
}

#[test]
fn a_plugin_of_kubectl_says_how_it_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = folder.path().join("kubectl-meshmedic");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_meshmedic"), &plugin).unwrap();
    for arguments in [&["scan", "--help"][..], &["--help"]] {
        let output = std::process::Command::new(&plugin)
            .args(arguments)
            .output()
            .unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        assert_says(&help, &["Usage: kubectl meshmedic "]);
    }
}
