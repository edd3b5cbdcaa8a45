// SPDX-License-Identifier: Apache-2.0
//! From a loss to its proof, and from an eviction to the proof of the successor.

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use meshmedic_common::duration;
use meshmedic_common::report::TriggerMode;
use meshmedic_common::verdict::Traffic;
use meshmedic_lab::api::Request;
use meshmedic_lab::{Cluster, Pod};

use super::CONFIRM;
use crate::demo::agent::Line;
use crate::demo::scenery::Who;
use crate::demo::screen::Tone;
use crate::demo::stage::Stage;

/// The pod that came in place of another, and when it was proved captured.
pub(super) struct Healed {
    pub(super) at: Timestamp,
    pub(super) name: String,
}

/// How delays are counted, for the reader.
pub(super) fn counted_from(stage: &Stage<'_>) -> &'static str {
    match stage.trigger {
        TriggerMode::Ebpf => "Times count from the kernel's own timestamp of the first closing listener.",
        TriggerMode::Poll => "Times count from the moment the stand-in ztunnel was told to let go.",
    }
}

/// Lets a pod fall out of the mesh, and follows the agent to its verdict.
pub(super) fn prove(
    stage: &mut Stage<'_>,
    who: &Who,
    fault: impl Fn(&Cluster, &Pod) -> meshmedic_lab::Result<()>,
) -> anyhow::Result<()> {
    let suspect = stage.lose(who, fault)?;
    let lost = match stage.trigger {
        TriggerMode::Ebpf => "the kernel saw its listeners close",
        TriggerMode::Poll => "its listeners are closed",
    };
    stage.entry(stage.zero(), "lost", Tone::Quiet, lost)?;
    stage.entry(suspect.at, "suspect", Tone::Doubt, suspect.message())?;
    let orphan = stage.line(&format!("{} to be an orphan", who.name), |line| {
        line.is_change(&who.uid, "orphan")
    })?;
    stage.entry(orphan.at, "orphan", Tone::Bad, orphan.message())?;
    let traffic = orphan.text("traffic");
    let traffic = Traffic::ALL
        .iter()
        .find(|known| known.as_str() == traffic && **known != Traffic::Unknown)
        .with_context(|| {
            format!(
                "it could not be determined what the traffic of {} does now",
                who.name
            )
        })?;
    stage.entry(
        orphan.at,
        "evidence",
        Tone::Plain,
        &format!(
            "every reading across {} found no listener; {traffic}: {}",
            duration::show(CONFIRM),
            traffic.sentence()
        ),
    )
}

/// The agent's ask of istio-cni.
pub(super) fn ask(stage: &mut Stage<'_>, who: &Who) -> anyhow::Result<()> {
    let asked = stage.line("the agent to ask istio-cni", |line| {
        line.is_audit(&who.uid, "heal")
    })?;
    stage.entry(
        asked.at,
        "ask",
        Tone::Plain,
        "asks istio-cni to enrol the running pod again: one patch of its status, if it is the very pod still",
    )
}

/// The agent's act, and the request that the API server had of it.
pub(super) fn act(stage: &mut Stage<'_>, who: &Who) -> anyhow::Result<(Line, Request)> {
    let act = stage.line("the agent to ask for an eviction", |line| {
        line.is_audit(&who.uid, "evict")
    })?;
    let request = stage.until("the API's answer to the eviction", |stage| {
        let request = stage.evictions()?.into_iter().next();
        Ok(request.filter(|request| request.code.is_some()))
    })?;
    ensure!(
        request.precondition == who.uid,
        "the eviction did not name the UID of the pod that was judged"
    );
    Ok((act, request))
}

/// Follows the agent from the act to the proof.
pub(super) fn heal(stage: &mut Stage<'_>, who: &Who) -> anyhow::Result<Healed> {
    let (act, request) = act(stage, who)?;
    ensure!(
        request.code == Some(201),
        "the eviction was answered with {:?}",
        request.code
    );
    stage.entry(
        act.at,
        "evict",
        Tone::Plain,
        &format!(
            "asks the API to evict it, and only if its UID still is {}",
            who.uid
        ),
    )?;
    let what = format!("a new pod of {}", who.app);
    let next = stage.until(&what, |stage| {
        Ok(stage.arrivals.after(act.at, &who.namespace, &who.app))
    })?;
    ensure!(next.uid != who.uid, "the same pod came again");
    stage.entry(
        next.at,
        "recreated",
        Tone::Plain,
        &format!("by its controller, as {}", next.name),
    )?;
    let captured = stage.line(&format!("{} to be captured", next.name), |line| {
        line.is_change(&next.uid, "captured")
    })?;
    stage.entry(captured.at, "captured", Tone::Good, captured.message())?;
    let ended = stage.line("the repair to end", |line| line.is_audit(&who.uid, "ended"))?;
    ensure!(
        ended.text("result") == "succeeded",
        "the repair ended as {}: {}",
        ended.text("result"),
        ended.text("detail")
    );
    stage.entry(ended.at, "proved", Tone::Good, ended.text("detail"))?;
    Ok(Healed {
        at: ended.at,
        name: next.name,
    })
}

/// By which rule a repair was withheld and why; fails if it was another one.
pub(super) fn rule(withheld: &Line, rule: u8, why: &str) -> anyhow::Result<String> {
    let found = withheld.number("rule").unwrap_or_default();
    let reason = withheld.text("result");
    ensure!(
        found == f64::from(rule) && reason == why,
        "it was withheld by rule {found}, {reason}, and not by rule {rule}, {why}"
    );
    Ok(format!("by rule {rule}, {why}"))
}
