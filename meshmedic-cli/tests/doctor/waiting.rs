// SPDX-License-Identifier: Apache-2.0
//! `--wait` and the formats of pipelines.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use serde_json::json;

use crate::world::{World, command, run};

fn ztunnel(world: &World, ready: bool) {
    let pod = world.api.get("pods", "istio-system", "ztunnel-b").unwrap();
    world.ready(pod, "10.244.1.7", ready);
}

#[test]
fn it_looks_again_until_all_is_well() {
    let world = World::new();
    ztunnel(&world, false);
    let kubeconfig = world.api.kubeconfig().to_str().unwrap();
    let mut child = command(&["--kubeconfig", kubeconfig, "--wait", "10m"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(
        line.starts_with("1 error; ") && line.contains("Looking again, for "),
        "{line}"
    );
    ztunnel(&world, true);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{rest}");
    assert!(
        text.starts_with("Nothing found; "),
        "only the last look is written: {text}"
    );
}

#[test]
fn when_time_is_up_the_last_look_counts() {
    let world = World::new();
    ztunnel(&world, false);
    let ran = world.doctor(&["--wait", "1s", "-o", "json"]);
    assert_eq!(
        (ran.code, ran.findings()),
        (1, vec!["MM0201 Node node-b".to_owned()]),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("Looking again"), "{ran:?}");
}

#[test]
fn wrong_usage_is_not_waited_for() {
    for arguments in [
        &["--wait", "1m", "--list"][..],
        &["--wait", "1m", "--from", "x"],
        &["--wait", "1ms"],
    ] {
        assert_eq!(run(arguments).code, 2, "{arguments:?}");
    }
    assert_eq!(run(&["--wait", "1m", "-n", "No!"]).code, 2);
}

#[test]
fn pipelines_get_what_they_read() {
    let world = World::new();
    ztunnel(&world, false);
    let junit = world.doctor(&["-o", "junit"]);
    assert_eq!(junit.code, 1);
    assert_eq!(junit.stdout.matches("<failure ").count(), 1, "{}", junit.stdout);
    let sarif = world.doctor(&["-o", "sarif"]);
    let results = &sarif.json()["runs"][0]["results"];
    assert_eq!(results[0]["ruleId"], json!("MM0201"), "{}", sarif.stdout);
    let list = run(&["--list", "-o", "json"]);
    assert_eq!(list.json()[0]["code"], "MM0101");
    assert_eq!(run(&["--list", "-o", "html"]).code, 2);
}
