// SPDX-License-Identifier: Apache-2.0
//! `meshmedic node` as its user runs it, on a lab node.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use meshmedic_common::report::NodeReport;
use meshmedic_common::verdict::{Condition, Owner, State};
use meshmedic_lab::{Lab, Pod, PodSpec, Ztunnel, ZtunnelSpec, need};

fn meshmedic(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshmedic"));
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the binary was built beside this test")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("what we write is text")
}

/// A lab node with three captured pods.
struct Node {
    lab: Lab,
    pods: Vec<Pod>,
    ztunnel: Ztunnel,
}

impl Node {
    fn start() -> Self {
        let lab = Lab::isolated().expect("the lab starts");
        let pods = lab
            .pods((0..3).map(|n| PodSpec::new("shop", &format!("cart-{n}"))))
            .expect("the pods start");
        let ztunnel = lab.ztunnel(ZtunnelSpec::default()).expect("ztunnel starts");
        ztunnel.enrol_many(&pods).expect("the pods are enrolled");
        Self { lab, pods, ztunnel }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = meshmedic(&["node", "--node", "lab", "--settle", "0s", "--confirm", "200ms"]);
        command.args(arguments);
        command.arg("--host-proc").arg(self.lab.proc_root());
        command.arg("--host-logs").arg(self.lab.log_root());
        command
    }

    fn report(&self, arguments: &[&str]) -> (NodeReport, Option<i32>) {
        let output = run(self.command(&["-o", "json"]).args(arguments));
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr));
        });
        (report, output.status.code())
    }

    fn state(report: &NodeReport, name: &str) -> State {
        let pod = report.pods.iter().find(|pod| pod.name.as_deref() == Some(name));
        pod.unwrap_or_else(|| panic!("{name} is missing")).state
    }
}

#[test]
fn a_healthy_node_is_clean_and_an_orphan_is_a_finding_whatever_the_format() {
    if !need::root("a_healthy_node_is_clean_and_an_orphan_is_a_finding_whatever_the_format") {
        return;
    }
    let node = Node::start();
    for trigger in ["auto", "poll"] {
        let (report, code) = node.report(&["--trigger", trigger]);
        assert_eq!(code, Some(0), "{trigger}");
        assert_eq!(Node::state(&report, "cart-1"), State::Captured);
        assert!(
            report
                .pods
                .iter()
                .filter(|p| p.state == State::Captured)
                .all(|p| p.owner == Some(Owner::Ztunnel))
        );
    }
    node.ztunnel.unenrol(&node.pods[1]).expect("un-enrolled");
    for format in ["table", "wide", "json", "yaml"] {
        let output = run(node.command(&["-o", format]).args(["--trigger", "poll"]));
        assert_eq!(output.status.code(), Some(1), "{format}");
        assert!(text(&output.stdout).contains("orphan"), "{format}");
        assert!(!text(&output.stdout).contains('\u{1b}'), "{format}");
    }
    let (report, _) = node.report(&[]);
    assert_eq!(Node::state(&report, "cart-1"), State::Orphan);
    assert_eq!(Node::state(&report, "cart-2"), State::Captured);
}

#[test]
fn without_ztunnel_the_node_is_at_fault_and_no_pod() {
    if !need::root("without_ztunnel_the_node_is_at_fault_and_no_pod") {
        return;
    }
    let node = Node::start();
    node.ztunnel.kill();
    node.ztunnel.wait_ended();
    let (report, code) = node.report(&[]);
    assert_eq!(code, Some(0));
    assert!(
        report
            .conditions
            .iter()
            .any(|c| c.condition == Condition::NodeFault)
    );
    assert!(report.pods.iter().all(|pod| !pod.state.is_finding()));
}

#[test]
fn the_table_fits_80_columns() {
    if !need::root("the_table_fits_80_columns") {
        return;
    }
    let node = Node::start();
    let output = run(&mut node.command(&[]));
    let table = text(&output.stdout);
    assert!(table.starts_with("POD "), "{table}");
    assert!(table.contains("shop/cart-0"), "{table}");
    assert!(
        table.lines().take(5).all(|line| line.chars().count() <= 80),
        "{table}"
    );
    assert!(table.contains("lab: 3 captured, 1 exempt"), "{table}");
}

#[test]
fn watch_prints_a_loss_as_it_is_confirmed() {
    if !need::root("watch_prints_a_loss_as_it_is_confirmed") {
        return;
    }
    let node = Node::start();
    let mut child = node
        .command(&["--watch", "-o", "json", "--interval", "1s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let uid = node.pods[0].uid().to_owned();
    let mut told = false;
    let mut states = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] != "pod" || event["uid"] != uid.as_str() {
            continue;
        }
        let state = event["to"].as_str().unwrap().to_owned();
        if state == "captured" && !told {
            told = true;
            node.ztunnel.unenrol(&node.pods[0]).unwrap();
        }
        let last = state == "orphan";
        states.push(state);
        if last {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        states.ends_with(&["captured".into(), "suspect".into(), "orphan".into()]),
        "{states:?}"
    );
}

#[test]
fn what_cannot_be_is_named() {
    let cases: [(&[&str], i32, &str); 6] = [
        (&["node", "--confirm", "10"], 2, "has no unit"),
        (&["node", "--confirm", "1ms"], 2, "must be 100ms at least"),
        (&["node", "--interval", "0"], 2, "must be 1s at least"),
        (&["node", "-o", "xml"], 2, "table, wide, json, yaml"),
        (
            &["node", "--host-proc", "/nonexistent", "--trigger", "poll"],
            3,
            "--host-proc",
        ),
        (&["nod"], 2, "unrecognized subcommand 'nod'"),
    ];
    for (arguments, code, message) in cases {
        let output = run(&mut meshmedic(arguments));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(
            text(&output.stderr).contains(message),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_an_error_and_a_reader_that_left_is_none() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = run(meshmedic(&["version"]).stdout(full));
    assert_eq!(output.status.code(), Some(3));
    assert!(
        text(&output.stderr).contains("No space left"),
        "{}",
        text(&output.stderr)
    );
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run(meshmedic(&["version"]).stdout(writer)).status.code(), Some(0));
}
