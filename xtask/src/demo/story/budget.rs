// SPDX-License-Identifier: Apache-2.0
//! The fourth step: a disruption budget forbids a repair.

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{PAUSE, repair};
use crate::demo::api;
use crate::demo::scenery::{Who, everybody};
use crate::demo::screen::Tone;
use crate::demo::stage::Stage;

const GUARDED: &str = "checkout";

/// A budget for the guarded pods.
pub(super) fn budget(least: usize) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": { "namespace": "shop", "name": GUARDED },
        "spec": { "minAvailable": least, "selector": { "matchLabels": { "app": GUARDED } } },
    })
}

/// The orphan that stays one.
pub(super) struct Refused {
    pub(super) who: Who,
    pub(super) at: Timestamp,
    /// The rule and the reason.
    pub(super) by: String,
}

pub(super) fn play(stage: &mut Stage<'_>) -> anyhow::Result<Refused> {
    let guarded: Vec<Who> = everybody(stage.cluster)?
        .into_iter()
        .filter(|who| who.app == GUARDED)
        .collect();
    let who = guarded.first().context("there is nobody to lose")?.clone();
    stage.cluster.api().apply(&budget(guarded.len()))?;
    stage.screen.heading("4. A DISRUPTION BUDGET FORBIDS A REPAIR")?;
    stage.screen.text(
        3,
        &format!(
            "ztunnel lets go of {}. Its annotation meshmedic.io/strategy allows a restart alone, and a \
             PodDisruptionBudget demands that both pods of {GUARDED} stay.",
            who.full_name()
        ),
    )?;
    let allowed = json!({ "metadata": { "annotations": { "meshmedic.io/strategy": "restart" } } });
    stage
        .cluster
        .api()
        .patch("pods", &who.namespace, &who.name, &allowed)?;
    repair::prove(stage, &who, |cluster, pod| cluster.orphan(pod))?;
    let request = stage.until("the API's word on the eviction", |stage| {
        let asked = api::rehearsals(stage.cluster)?.into_iter();
        let mut asked = asked.filter(|request| request.precondition == who.uid);
        Ok(asked.find(|request| request.code.is_some()))
    })?;
    ensure!(
        request.code == Some(429),
        "the question was answered with {:?}",
        request.code
    );
    let withheld = stage.line("the repair to be withheld", |line| {
        // That it is not healed in place was told before.
        line.is_audit(&who.uid, "withheld") && line.text("result") == "disruption-budget"
    })?;
    let by = repair::rule(&withheld, 5, "disruption-budget")?;
    let detail = withheld.text("detail");
    stage.entry(
        withheld.at,
        "asks",
        Tone::Plain,
        &format!("whether the API would evict it; the API would not (429): {detail}"),
    )?;
    stage.entry(withheld.at, "withheld", Tone::Doubt, &by)?;
    let note = stage.until("the Event on the pod", |stage| {
        api::event(stage.cluster, &who.namespace, &who.uid, "MeshRepairBlocked")
    })?;
    ensure!(note.contains("by rule 5"), "the Event names another rule: {note}");
    // The API's own words stand at its end, and were said already.
    let note = note.strip_suffix(&format!(" ({detail})")).unwrap_or(&note);
    stage.entry(
        Timestamp::now(),
        "event",
        Tone::Plain,
        &format!("MeshRepairBlocked on the pod: {note}"),
    )?;
    stage.kubernetes(&who)?;
    stage.pause(PAUSE)?;
    Ok(Refused {
        at: withheld.at,
        by,
        who,
    })
}
