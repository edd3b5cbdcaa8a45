// SPDX-License-Identifier: Apache-2.0
//! `meshmedic agent`: which flags it takes, and which it refuses before anything starts.

use std::process::{Command, Output, Stdio};

/// An agent on this machine, whose node is `n`, and that reaches no API.
fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshmedic"));
    command.args([
        "agent",
        "--node",
        "n",
        "--host-proc",
        "/proc",
        "--kubeconfig",
        "/dev/null",
    ]);
    command.args(["--metrics-addr", "", "--status-addr", ""]);
    command.args(arguments).stdin(Stdio::null());
    for name in ["MESHMEDIC_LOG", "NODE_NAME", "POD_NAMESPACE"] {
        command.env_remove(name);
    }
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the binary was built beside this test")
}

fn errors(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("what we write is text")
}

/// An agent without any of these: no argument may be given twice.
fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshmedic"));
    command.arg("agent").args(arguments).stdin(Stdio::null());
    command.env_remove("NODE_NAME").env_remove("MESHMEDIC_LOG");
    command
}

#[track_caller]
fn assert_refused(command: &mut Command, words: &[&str]) {
    let output = run(command);
    assert_eq!(output.status.code(), Some(2), "{command:?}: {}", errors(&output));
    for word in words {
        assert!(errors(&output).contains(word), "{command:?}: {}", errors(&output));
    }
    assert!(output.stdout.is_empty(), "{command:?}");
}

#[test]
fn what_makes_no_sense_is_refused_by_the_name_of_its_flag() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["--confirm", "1ms"], &["--confirm", "must be 100ms at least"]),
        (&["--interval", "10ms"], &["--interval", "must be 1s at least"]),
        (&["--settle=-1s"], &["--settle", "negative"]),
        (&["--grace-period", "5"], &["--grace-period", "has no unit"]),
        (&["--trigger", "magic"], &["--trigger", "auto, ebpf, poll"]),
        (&["--auto-repair=maybe"], &["--auto-repair", "true or false"]),
        (&["--cooldown", "0s"], &["--cooldown", "must be 1s at least"]),
        (&["--cooldown", "2h"], &["--cooldown 2h", "--cooldown-max 1h"]),
        (
            &["--breaker-failures", "0"],
            &["--breaker-failures", "not in 1.."],
        ),
        (
            &["--breaker-open", "1s"],
            &["--breaker-open", "must be 1m at least"],
        ),
        (&["--max-in-flight-node=-1"], &["--max-in-flight-node"]),
        (
            &["--auto-repair", "--max-in-flight-node", "0"],
            &["--max-in-flight-node 0", "no repair at all"],
        ),
        (
            &["--auto-repair", "--max-in-flight-owner", "0"],
            &["--max-in-flight-owner 0"],
        ),
        (
            &["--repair-stuck", "--cluster-slots", "0"],
            &["--cluster-slots 0"],
        ),
        (
            &["--auto-repair", "--max-repairs-per-hour", "0"],
            &["--max-repairs-per-hour 0"],
        ),
        (
            &["--auto-repair", "--max-repairs-per-hour-cluster", "0"],
            &["--max-repairs-per-hour-cluster 0"],
        ),
        (
            &["--auto-repair", "--settle", "0s"],
            &["--settle 0s", "1s is the least"],
        ),
        (
            &["--auto-repair", "--successor-deadline", "40s"],
            &["--successor-deadline 40s", "--settle", "--confirm", "40s"],
        ),
    ];
    for (arguments, words) in cases {
        assert_refused(&mut agent(arguments), words);
    }
}

#[test]
fn what_is_not_there_is_refused_by_the_name_of_its_flag() {
    let proc = ["--host-proc", "/proc"];
    assert_refused(&mut bare(&proc), &["--node", "NODE_NAME", "spec.nodeName"]);
    assert_refused(bare(&proc).env("NODE_NAME", ""), &["--node"]);
    let node = ["--node", "n"];
    assert_refused(
        bare(&node).args(["--host-proc", "/nonexistent"]),
        &["--host-proc /nonexistent", "hostPID"],
    );
    let mut here = bare(&node);
    here.args(proc);
    assert_refused(
        here.args(["--kubeconfig", "/nonexistent"]),
        &["--kubeconfig /nonexistent"],
    );
    for (arguments, words) in [
        (
            &["--status-addr", ":9101"][..],
            &["--status-addr :9101", "loopback"][..],
        ),
        (
            &["--status-addr", "10.0.0.1:9101"],
            &["--status-addr", "loopback"],
        ),
        (
            &["--status-addr", "127.0.0.1:9100"],
            &["--status-addr", "--metrics-addr :9100"],
        ),
        (&["--metrics-addr", "9100"], &["--metrics-addr", "no address"]),
    ] {
        assert_refused(bare(&node).args(proc).args(arguments), words);
    }
}

#[test]
fn gos_booleans_mean_what_they_mean_to_go() {
    // Whether repairs are on shows in what is refused.
    let on = "no repair at all";
    for (arguments, repairs) in [
        (&["--auto-repair"][..], true),
        (&["--auto-repair=true"], true),
        (&["--auto-repair=T"], true),
        (&["--repair-stuck=1"], true),
        (&["--auto-repair=false"], false),
        (&["--auto-repair=0", "--repair-stuck=F"], false),
        (&[], false),
    ] {
        let output = run(agent(&["--cluster-slots", "0"]).args(arguments));
        assert_eq!(
            errors(&output).contains(on),
            repairs,
            "{arguments:?}: {}",
            errors(&output)
        );
    }
    for (value, repairs) in [("true", true), ("false", false)] {
        let output = run(agent(&["--cluster-slots", "0"]).env("MESHMEDIC_AUTO_REPAIR", value));
        assert_eq!(
            errors(&output).contains(on),
            repairs,
            "{value}: {}",
            errors(&output)
        );
    }
}

#[test]
fn what_is_hardly_meant_is_said_and_done() {
    let output = run(&mut agent(&[
        "--confirm",
        "2m",
        "--repair-stuck",
        "--grace-period",
        "0s",
        "--delete-instead-of-evict",
        "--max-repairs-per-hour",
        "100",
    ]));
    assert_ne!(output.status.code(), Some(2), "{}", errors(&output));
    for word in [
        "--confirm 2m is not shorter",
        "--grace-period 0s",
        "no PodDisruptionBudget is respected",
        "--max-repairs-per-hour 100 is never reached",
    ] {
        assert!(errors(&output).contains(word), "{word}: {}", errors(&output));
    }
    let output = run(&mut agent(&["--repair-jobs"]));
    assert!(
        errors(&output).contains("--repair-jobs changes nothing"),
        "{}",
        errors(&output)
    );
}

#[test]
fn an_agent_tells_what_happens_as_json_unless_told_otherwise() {
    let output = run(&mut agent(&[]));
    let line = errors(&output)
        .lines()
        .find(|line| line.contains("what this agent may do"))
        .unwrap_or_else(|| panic!("{}", errors(&output)));
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["level"], "INFO");
    assert!(line["fields"]["capabilities"].is_string(), "{line}");
    let quiet = run(agent(&[]).env("MESHMEDIC_LOG", "error"));
    assert!(
        !errors(&quiet).contains("what this agent may do"),
        "{}",
        errors(&quiet)
    );
    let text = run(&mut agent(&["--log-format", "text"]));
    assert!(
        errors(&text).contains(" INFO what this agent may do"),
        "{}",
        errors(&text)
    );
}
