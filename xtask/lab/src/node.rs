// SPDX-License-Identifier: Apache-2.0
//! `meshmedic-lab node [--user] [PODS] [BYSTANDERS]`: a node to try things out on by hand.
//!
//! Prints what it made as one line of JSON, then obeys its input: `unenrol POD`, `enrol POD`, `kill`, `start`,
//! `hang`, `resume`; each is answered by `done`. Ends with its input, or by Ctrl-C. `--user` makes it in a
//! user namespace, which needs no privilege.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the command's output"
)]

use std::io::{BufRead as _, stdin};
use std::process::{Command, ExitCode};
use std::time::Instant;

use meshmedic_lab::{Lab, Pod, PodSpec, Result, Ztunnel, ZtunnelSpec, userns};
use serde_json::json;

/// How many pods there are unless told otherwise.
const PODS: usize = 12;

pub(crate) fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let mut arguments: Vec<_> = arguments.collect();
    if arguments.first().is_some_and(|first| first == "--user") {
        arguments.remove(0);
        return enter(&arguments);
    }
    let mut numbers = arguments.iter().map(|argument| argument.parse::<usize>().ok());
    let (pods, bystanders) = (numbers.next().flatten(), numbers.next().flatten());
    match run(pods.unwrap_or(PODS), bystanders.unwrap_or(0)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the same again, inside.
fn enter(arguments: &[String]) -> ExitCode {
    let status = userns::available().and_then(|()| {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut inside = Command::new(own);
        userns::enter(inside.arg("node").args(arguments));
        inside.status().map_err(|error| error.to_string())
    });
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(count: usize, bystanders: usize) -> Result<()> {
    let start = Instant::now();
    let lab = Lab::new()?;
    let pods = lab.pods((0..count).map(|n| PodSpec::new("shop", &format!("cart-{n}"))))?;
    let started = start.elapsed();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default())?;
    ztunnel.enrol_many(&pods)?;
    let enrolled = start.elapsed() - started;
    let bystanders = lab.bystanders(bystanders)?;
    let shown = pods.iter().map(show).collect::<Result<Vec<_>>>()?;
    println!(
        "{}",
        json!({
            "mode": format!("{:?}", lab.mode()),
            "procRoot": lab.proc_root(),
            "logRoot": lab.log_root(),
            "podsMs": started.as_millis(),
            "ztunnelMs": enrolled.as_millis(),
            "bystanders": bystanders.len(),
            "bystandersMs": (start.elapsed() - started - enrolled).as_millis(),
            "ztunnel": { "pid": ztunnel.pid(), "uid": ztunnel.uid(), "netns": ztunnel.netns()? },
            "pods": shown,
        })
    );
    for line in stdin().lock().lines().map_while(std::result::Result::ok) {
        match obey(&line, &pods, &ztunnel) {
            Ok(true) => println!("done"),
            Ok(false) => println!(
                "unknown: {line}; there are unenrol POD, enrol POD, kill, start, hang and resume, and the pods above"
            ),
            Err(error) => println!("failed: {error}"),
        }
    }
    Ok(())
}

fn show(pod: &Pod) -> Result<serde_json::Value> {
    Ok(json!({
        "name": pod.name(),
        "uid": pod.uid(),
        "pid": pod.pid(),
        "netns": pod.netns()?,
        "cgroup": pod.cgroup(),
        "addresses": pod.addresses(),
    }))
}

/// Does what a line says; `false` if it says nothing known.
fn obey(line: &str, pods: &[Pod], ztunnel: &Ztunnel) -> Result<bool> {
    let (word, name) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    let pod = pods.iter().find(|pod| pod.name() == name);
    match (word, pod) {
        ("unenrol", Some(pod)) => ztunnel.unenrol(pod)?,
        ("enrol", Some(pod)) => ztunnel.enrol(pod)?,
        ("kill", None) => ztunnel.kill(),
        ("start", None) => ztunnel.start_again()?,
        ("hang", None) => ztunnel.hang()?,
        ("resume", None) => ztunnel.resume()?,
        _ => return Ok(false),
    }
    Ok(true)
}
