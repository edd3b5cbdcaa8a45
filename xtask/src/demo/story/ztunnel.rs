// SPDX-License-Identifier: Apache-2.0
//! The fifth step: ztunnel dies while there is an orphan.

use anyhow::ensure;
use jiff::Timestamp;
use meshmedic_common::verdict::Reason;

use super::budget::{self, Refused};
use super::repair;
use crate::demo::api;
use crate::demo::scenery::{NODE, Who, everybody};
use crate::demo::screen::{Tone, shown};
use crate::demo::stage::Stage;

/// Gives what there is to say of the orphan's repair, and of all evictions.
pub(super) fn play(stage: &mut Stage<'_>, refused: &Refused) -> anyhow::Result<(String, String)> {
    let orphan = &refused.who;
    let before = everybody(stage.cluster)?;
    let others: Vec<&Who> = before.iter().filter(|who| *who != orphan).collect();
    stage.screen.heading("5. ZTUNNEL DIES, AND COMES BACK")?;
    stage.screen.text(
        3,
        "It takes the listeners of all pods with it. No pod is to blame, and none may be repaired, nor \
         may the orphan: its successor would fall out, too. Times count from the kill.",
    )?;
    let asked = api::evictions(stage.cluster)?.len();
    dies(stage, orphan, &others)?;
    let by = withheld(stage, refused)?;
    ensure!(
        everybody(stage.cluster)? == before && api::evictions(stage.cluster)?.len() == asked,
        "pods were touched while ztunnel was away"
    );
    stage.entry(
        Timestamp::now(),
        "meanwhile",
        Tone::Good,
        "no eviction was asked for, and all pods are the same ones",
    )?;
    comes_back(stage, &before)?;
    stage.until("every Lease to be free", |stage| api::free_leases(stage.cluster))?;
    let evictions = api::evictions(stage.cluster)?.len();
    ensure!(
        everybody(stage.cluster)? == before && evictions == asked,
        "pods were touched though ztunnel took all of them back"
    );
    stage.entry(
        Timestamp::now(),
        "in the end",
        Tone::Good,
        "every pod is the same one: a restart of any of them would have been for nothing",
    )?;
    let written = api::other_writes(stage.cluster)?;
    ensure!(
        written.is_empty(),
        "the agent wrote what is not its own: {written:?}"
    );
    Ok((
        format!(
            "{}, first {}, then {by}; the ztunnel that was started again took it back",
            orphan.full_name(),
            refused.by
        ),
        format!("one pod was evicted, that of step 3; {evictions} eviction was asked for"),
    ))
}

fn dies(stage: &mut Stage<'_>, orphan: &Who, others: &[&Who]) -> anyhow::Result<()> {
    stage.begin()?;
    stage.cluster.kill_ztunnel(NODE)?;
    let fault = stage.line("the node's fault", |line| {
        line.text("condition") == "node-fault" && !line.text("detail").is_empty()
    })?;
    stage.entry(fault.at, "node fault", Tone::Bad, fault.text("detail"))?;
    let last = stage.until("all other pods to be suspect", |stage| {
        let suspicions = others.iter().map(|who| {
            let mut lines = stage.lines(|line| line.is_change(&who.uid, "suspect"));
            lines.pop().filter(|line| line.text("reason") == "node-fault")
        });
        let suspicions: Option<Vec<_>> = suspicions.collect();
        Ok(suspicions.and_then(|lines| lines.into_iter().map(|line| line.at).max()))
    })?;
    // Both come of one look at the node, and are logged in either order.
    stage.entry(
        last.max(fault.at),
        "suspect",
        Tone::Doubt,
        &format!("{} pods: {}", others.len(), Reason::NodeFault.sentence()),
    )?;
    let mut well = 0;
    for who in others.iter().copied().chain([orphan]) {
        let pod = stage.cluster.api().get("pods", &who.namespace, &who.name)?;
        let (phase, ready, enrolled) = api::shown(&pod);
        well += usize::from(phase == "Running" && ready && enrolled);
    }
    stage.entry(
        Timestamp::now(),
        "kubernetes",
        Tone::Plain,
        &format!(
            "still says of {well} of {} pods: Running, Ready, enrolled",
            others.len() + 1
        ),
    )?;
    stage.cluster.api().apply(&budget::budget(1))?;
    stage.entry(
        Timestamp::now(),
        "budget",
        Tone::Plain,
        "widened: the API would allow the eviction now",
    )
}

/// The agent comes back to the orphan, and a second rule stands in its way.
fn withheld(stage: &mut Stage<'_>, refused: &Refused) -> anyhow::Result<String> {
    stage
        .screen
        .remark("(the agent asks again some time after a refusal: this takes a moment)")?;
    let withheld = stage.line("the repair to be withheld by the node's fault", |line| {
        line.is_audit(&refused.who.uid, "withheld")
    })?;
    let by = repair::rule(&withheld, 2, "node-fault")?;
    stage.entry(
        withheld.at,
        "withheld",
        Tone::Doubt,
        &format!(
            "{by}, {} after the refusal: {}",
            between(refused.at, withheld.at),
            withheld.text("detail")
        ),
    )?;
    Ok(by)
}

fn comes_back(stage: &mut Stage<'_>, pods: &[Who]) -> anyhow::Result<()> {
    let start = Timestamp::now();
    stage.cluster.start_ztunnel(NODE)?;
    stage.entry(
        start,
        "ztunnel",
        Tone::Plain,
        "is started again, and takes back the pods that istio-cni knows, the orphan among them",
    )?;
    let last = stage.until("all pods to be captured again", |stage| {
        let captures = pods.iter().map(|who| {
            let mut lines = stage.lines(|line| line.at >= start && line.is_change(&who.uid, "captured"));
            lines.pop()
        });
        let captures: Option<Vec<_>> = captures.collect();
        Ok(captures.and_then(|lines| lines.into_iter().map(|line| line.at).max()))
    })?;
    stage.entry(last, "captured", Tone::Good, &format!("all {} pods", pods.len()))?;
    let over = stage.line("the node's fault to be over", |line| {
        line.at >= start && line.text("condition") == "node-fault" && line.text("detail").is_empty()
    })?;
    stage.entry(
        over.at,
        "node fault",
        Tone::Good,
        &format!(
            "over: ztunnel has settled, {} after its start",
            between(start, over.at)
        ),
    )
}

fn between(earlier: Timestamp, later: Timestamp) -> String {
    shown(later.duration_since(earlier).try_into().unwrap_or_default())
}
