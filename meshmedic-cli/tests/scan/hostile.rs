// SPDX-License-Identifier: Apache-2.0
//! Pods that lie, flood and hang, and a cluster that changes under a scan.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use meshmedic_lab::{Exec, Fault, wait};

use crate::world::{Ran, World, meshmedic};

/// `unverifiable`, for this reason.
fn unverifiable(reason: &str) -> (String, String) {
    ("unverifiable".to_owned(), reason.to_owned())
}

#[test]
fn whatever_a_pod_prints_is_bounded_and_cleaned() {
    let world = World::new();
    let table = "  sl  local_address rem_address\n";
    for (name, exec, reason) in [
        ("silent", Exec::silence(), "timed-out"),
        ("endless-line", Exec::endless([b'x'; 4096]), "timed-out|malformed"),
        ("endless-rows", Exec::endless(table), "timed-out|malformed"),
        (
            "gigabytes",
            Exec::flood([0xff; 8192], 2 << 30),
            "timed-out|malformed",
        ),
        (
            "escapes",
            Exec::print("\u{1b}]0;owned\u{7}\u{1b}[2J\n"),
            "read-failed",
        ),
        (
            "binary",
            Exec::print([0xff, 0xfe, 0x00, b'\n', 0xc3]),
            "read-failed",
        ),
        (
            "complains",
            Exec::print("").stderr("\u{1b}[31mno\u{9b}2J\u{202e}way").exit(1),
            "read-failed",
        ),
        ("cut", Exec::captured().cut_after(100), "read-failed"),
        ("nothing", Exec::print(""), "read-failed"),
        ("half", Exec::print(table), "read-failed"),
    ] {
        world.pod(name, exec);
        let ran = world.scan(&["-n", "shop", "-o", "json", "--no-probe", "--timeout", "1s", name]);
        assert_eq!(ran.code, 3, "{name}: {ran:?}");
        let (state, found) = World::state_of(&ran.json(), name);
        assert_eq!(state, "unverifiable", "{name}: {ran:?}");
        assert!(
            reason.split('|').any(|reason| reason == found),
            "{name}: {found}: {ran:?}"
        );
        let table = world.scan(&["-n", "shop", "-o", "wide", "--no-probe", "--timeout", "1s", name]);
        let unfit = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!table.stdout.contains(unfit), "{name}: {:?}", table.stdout);
    }
}

#[test]
fn one_pod_that_hangs_holds_up_nobody_else() {
    let world = World::new();
    world.pod("silent", Exec::silence());
    for number in 0..20 {
        world.pod(&format!("cart-{number}"), Exec::captured());
    }
    let ran = world.scan(&["-o", "json", "--timeout", "1s", "--concurrency", "2"]);
    let report = ran.json();
    assert_eq!((ran.code, report["healthy"].as_u64()), (3, Some(20)), "{ran:?}");
    assert_eq!(World::state_of(&report, "silent"), unverifiable("timed-out"));
    assert!(world.api.peak_sessions().unwrap() <= 8);
}

#[test]
fn a_pod_that_went_away_meanwhile_is_no_finding() {
    let world = World::new();
    world.pod("cart-1", Exec::orphan());
    world.pod("cart-2", Exec::captured());
    // It is there when pods are listed, and gone when it is looked at once more.
    let gone = Fault::status(404).verb("get").resource("pods").name("cart-1");
    let gone = world.api.fault(gone).unwrap();
    let ran = world.scan(&["-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        World::state_of(&ran.json(), "cart-1"),
        ("exempt".to_owned(), "deleting".to_owned())
    );
    assert_eq!(gone.hits().unwrap(), 1);
}

#[test]
fn a_namespace_that_vanishes_in_the_middle_takes_its_pods_along() {
    let world = World::new();
    for number in 0..5 {
        world.pod(&format!("cart-{number}"), Exec::captured());
    }
    let all = |verb: &str, resource: &str| {
        let fault = Fault::status(404).verb(verb).resource(resource).namespace("shop");
        world.api.fault(fault).unwrap()
    };
    let _gone = (
        all("create", "pods/exec"),
        all("get", "pods/exec"),
        all("get", "pods"),
    );
    let ran = world.scan(&["-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.json()["states"]["exempt"], 7, "{ran:?}");
}

#[test]
fn a_busy_server_is_asked_again_and_not_for_ever() {
    let world = World::new();
    world.pod("cart-1", Exec::captured());
    let lists = world
        .api
        .fault(Fault::status(429).verb("list").resource("pods").times(2))
        .unwrap();
    let execs = world
        .api
        .fault(Fault::status(503).resource("pods/exec").times(2))
        .unwrap();
    let ran = world.scan(&["-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!((lists.hits().unwrap(), execs.hits().unwrap()), (2, 2));
    drop((lists, execs));
    let _busy = world.api.fault(Fault::status(429).resource("pods/exec")).unwrap();
    let ran = world.scan(&["-o", "json", "--timeout", "2s"]);
    assert_eq!(ran.code, 3, "{ran:?}");
}

#[test]
fn a_loss_that_passes_is_none() {
    let world = World::new();
    world.pod("cart-1", Exec::orphan());
    let mut command = meshmedic(["scan", "-o", "json", "--confirm", "2s", "--kubeconfig"]);
    command.arg(world.api.kubeconfig()).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    let execs = || {
        let requests = world.api.requests().unwrap();
        requests
            .iter()
            .filter(|request| request.full_resource() == "pods/exec")
            .count()
    };
    // A request is recorded a moment before its session begins.
    wait::until("the first reading", Duration::from_secs(60), || {
        world.api.peak_sessions().unwrap() > 0 && world.api.sessions().unwrap() == 0
    })
    .unwrap();
    world.api.set_exec(("shop", "cart-1"), Exec::captured()).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(World::state_of(&ran.json(), "cart-1").0, "captured");
    assert_eq!(execs(), 2);
}

#[test]
fn whoever_watches_is_told_what_changes() {
    let world = World::new();
    world.pod("cart-1", Exec::captured());
    let mut command = meshmedic(["scan", "--watch", "--interval", "1s", "--confirm", "100ms"]);
    command.arg("--kubeconfig").arg(world.api.kubeconfig());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let mut until = |word: &str| lines.find(|line| line.contains(word)).is_some();
    assert!(until("1 pod checked: 1 captured"));
    assert!(until("Watching; Ctrl-C ends it."));
    world.api.set_exec(("shop", "cart-1"), Exec::orphan()).unwrap();
    assert!(until("shop/cart-1  captured -> orphan"));
    world.pod("cart-2", Exec::captured());
    assert!(until("shop/cart-2  new -> captured"));
    // A scan that fails is not the end.
    let broken = world
        .api
        .fault(Fault::status(500).verb("list").resource("pods"))
        .unwrap();
    wait::until("a scan that fails", Duration::from_secs(60), || {
        broken.hits().unwrap() > 0
    })
    .unwrap();
    drop(broken);
    let now = serde_json::json!({ "gracePeriodSeconds": 0 });
    world.api.delete_with("pods", "shop", "cart-2", &now).unwrap();
    assert!(until("shop/cart-2  captured -> gone"));
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
