// SPDX-License-Identifier: Apache-2.0
//! The second step: a pod falls out of the mesh and is healed in place.

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use meshmedic_lab::Pod;
use serde_json::Value;

use super::{PAUSE, repair};
use crate::demo::api;
use crate::demo::scenery::{self, Who, everybody};
use crate::demo::screen::{Tone, shown};
use crate::demo::stage::Stage;

pub(super) const HEADING: &str = "2. A POD FALLS OUT OF THE MESH, AND IS HEALED IN PLACE";
const LOST: &str = "cart";
/// The state column of an open connection in the kernel's table.
const ESTABLISHED: &str = "01";

pub(super) fn play(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let who = everybody(stage.cluster)?
        .into_iter()
        .find(|who| who.app == LOST)
        .context("there is nobody to lose")?;
    stage.screen.heading(HEADING)?;
    stage.screen.text(
        3,
        &format!(
            "ztunnel lets go of {}. It has a connection open. {}",
            who.full_name(),
            repair::counted_from(stage)
        ),
    )?;
    let pod = scenery::pod(stage.cluster, &who)?;
    let _open = pod.connections(1)?;
    let (uid, restarts, open) = (who.uid.clone(), restarts(stage, &who)?, open_in(&pod)?);
    repair::prove(stage, &who, |cluster, pod| cluster.orphan(pod))?;
    stage.kubernetes(&who)?;
    repair::ask(stage, &who)?;
    let captured = stage.line(&format!("{} to be captured again", who.name), |line| {
        line.is_change(&who.uid, "captured")
    })?;
    stage.entry(captured.at, "captured", Tone::Good, captured.message())?;
    let healed = stage.line("the proof of the heal", |line| line.is_audit(&who.uid, "healed"))?;
    ensure!(
        healed.text("result") == "succeeded",
        "the heal ended as {}",
        healed.text("result")
    );
    stage.entry(
        healed.at,
        "proved",
        Tone::Good,
        "all three listeners, ztunnel's own, in the very namespace that the pod had",
    )?;
    let after = self::restarts(stage, &who)?;
    ensure!(
        after == restarts && everybody(stage.cluster)?.iter().any(|now| now.uid == uid),
        "the pod was replaced or restarted"
    );
    ensure!(
        api::evictions(stage.cluster)?.is_empty() && api::lease_writes(stage.cluster)?.is_empty(),
        "an eviction was asked for or a Lease written"
    );
    stage.entry(
        Timestamp::now(),
        "untouched",
        Tone::Good,
        &format!("the same UID {uid}, {restarts} restarts as before; no eviction, no Lease"),
    )?;
    let still = open_in(&pod)?;
    let fate = match still.cmp(&open) {
        std::cmp::Ordering::Less => "its open connection was reset once",
        _ => {
            "its open connection is open still: the stand-in istio-cni routes and writes no rules, which on a real node \
             reset each once"
        }
    };
    stage.entry(Timestamp::now(), "connection", Tone::Plain, fate)?;
    stage.pause(PAUSE)?;
    Ok(format!(
        "{} in place, {} after its loss: the same pod, no restart",
        who.full_name(),
        shown(stage.after(healed.at))
    ))
}

/// How often the containers of a pod were restarted.
fn restarts(stage: &Stage<'_>, who: &Who) -> anyhow::Result<u64> {
    let pod = stage.cluster.api().get("pods", &who.namespace, &who.name)?;
    let all = pod["status"]["containerStatuses"].as_array();
    let count = |container: &Value| container["restartCount"].as_u64();
    Ok(all.into_iter().flatten().filter_map(count).sum())
}

/// How many connections are open in a pod's namespace.
fn open_in(pod: &Pod) -> anyhow::Result<usize> {
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", pod.pid()))
        .context("cannot read the pod's table of connections")?;
    let open = |line: &&str| line.split_whitespace().nth(3) == Some(ESTABLISHED);
    Ok(table.lines().filter(open).count())
}
