// SPDX-License-Identifier: Apache-2.0
//! How soon every pod is known to be captured again once a ztunnel that ended has its listeners back, and how
//! soon a node is known at all.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use meshmedic_agent::engine::Notice;
use meshmedic_agent::watch::Event;
use meshmedic_common::time::Time;
use meshmedic_common::verdict::State;
use serde_json::Value;

use super::baseline;
use super::figures::{Column, Part, Row, ms};
use super::rest::program;
use super::scene::{Scene, no_ebpf, runtime, until};

const PODS: usize = 250;
/// The agent's default.
const INTERVAL: Duration = Duration::from_secs(60);

/// In both ways of noticing changes.
pub(super) fn measure(quick: bool) -> anyhow::Result<Part> {
    let (pods, rounds) = if quick { (50, 2) } else { (PODS, 5) };
    let mut part = Part::default();
    let reason = no_ebpf();
    for (column, restart, start) in [(Column::Polling, 2_000.0, 2_000.0), (Column::Ebpf, 50.0, 500.0)] {
        let back = format!("ztunnel restart: the last of {pods} pods verified after its listeners' return");
        let begun = format!("start: from exec until every pod of {pods} is judged");
        if let (Column::Ebpf, Some(why)) = (column, &reason) {
            part.rows.push(Row::absent(back, column, why));
            part.rows.push(Row::absent(begun, column, why));
            continue;
        }
        let scene = Scene::new(pods, 500)?;
        let rounds_of_restart = runtime()?.block_on(restarts(&scene, column, rounds))?;
        part.rows.push(
            Row::new(back, column, "ms", &rounds_of_restart)
                .within(restart)
                .because("what else ran on the processors is in it"),
        );
        let (mut starts, mut sweeps) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            starts.push(start_of(&scene, column)?);
            let begun = Instant::now();
            baseline::sweep(scene.root(), &scene.names())?;
            sweeps.push(ms(begun.elapsed()));
        }
        part.rows.push(
            Row::new(begun, column, "ms", &starts)
                .beside(&starts, &sweeps)
                .within(start)
                .because("what else ran on the processors is in it")
                .remark("the whole command, each pod read from /proc once, until its last line"),
        );
    }
    Ok(part)
}

/// Each time from the moment at which ztunnel holds everything again, in milliseconds.
async fn restarts(scene: &Scene, column: Column, rounds: usize) -> anyhow::Result<Vec<f64>> {
    let mut watch = scene.watch(column, INTERVAL).await?;
    let mut delays = Vec::new();
    for _ in 0..rounds {
        let ztunnel = Arc::clone(&scene.ztunnel);
        let killed = Time::now();
        let restarting = tokio::task::spawn_blocking(move || {
            ztunnel.kill();
            ztunnel.start_again().map(|()| Time::now())
        });
        let mut verified = None;
        let mut orphans = 0;
        until(
            &mut watch,
            "every pod to be verified after the restart",
            |watch, events| {
                orphans += events.iter().filter(|event| is_finding(event)).count();
                let all = scene.uids.iter().all(|uid| {
                    let view = watch.engine().view(uid);
                    view.is_some_and(|view| view.state == State::Captured && view.captured_at > killed)
                });
                verified = verified.or_else(|| all.then(Time::now));
                all && restarting.is_finished()
            },
        )
        .await?;
        let back = restarting.await??;
        ensure!(orphans == 0, "a restart of ztunnel made {orphans} orphans");
        let verified = verified.context("the condition held")?;
        delays.push(ms(verified.since(back)));
        until(&mut watch, "the watch to come to rest", |watch, _| {
            watch.decided()
        })
        .await?;
    }
    Ok(delays)
}

fn is_finding(event: &Event) -> bool {
    matches!(event, Event::Notice(Notice::Pod(change)) if change.to.is_finding())
}

/// The milliseconds that the command takes to judge the whole node.
fn start_of(scene: &Scene, column: Column) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let output = Command::new(program()?)
        .args(["node", "--output", "json", "--settle", "0s"])
        .args(["--trigger", column.trigger(), "--host-proc"])
        .arg(scene.root())
        .arg("--host-logs")
        .arg(scene.lab.log_root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start the command")?;
    let took = ms(begun.elapsed());
    let report: Value = serde_json::from_slice(&output.stdout).context("the command wrote no JSON")?;
    let pods = report["pods"].as_array().context("a report has pods")?;
    let captured = pods.iter().filter(|pod| pod["state"] == "captured").count();
    ensure!(
        captured == scene.pods.len(),
        "{captured} of {} pods were found captured",
        scene.pods.len()
    );
    Ok(took)
}
