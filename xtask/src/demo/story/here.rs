// SPDX-License-Identifier: Apache-2.0
//! The first step: who is here, by the agent's own report.

use meshmedic_common::report::{NodeReport, PodReport};
use meshmedic_common::verdict::{Owner, State};

use super::PAUSE;
use crate::demo::scenery::everybody;
use crate::demo::screen::Tone;
use crate::demo::stage::Stage;

pub(super) fn play(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    stage.screen.heading("1. WHO IS HERE")?;
    let all = everybody(stage.cluster)?.len();
    let report = stage.report(
        "the agent to report every pod captured, and the node healthy",
        |report| captured(report).count() == all && report.conditions.is_empty(),
    )?;
    let screen = stage.screen;
    let head = format!(
        "   {:<37}{:<10}{:<9}{:>11}{:>8}",
        "POD", "STATE", "HELD BY", "NETNS", "PID"
    );
    screen.plain(&screen.toned(Tone::Quiet, &head))?;
    let number = |number: Option<u32>| number.map_or("-".to_owned(), |number| number.to_string());
    for pod in captured(&report) {
        screen.plain(&format!(
            "   {:<37}{}{:<9}{:>11}{:>8}",
            pod.display_name(),
            screen.toned(Tone::Good, &format!("{:<10}", pod.state)),
            pod.owner.map_or("-", Owner::as_str),
            number(pod.netns),
            number(pod.pid),
        ))?;
    }
    let pids: Vec<String> = report.ztunnel.iter().map(u32::to_string).collect();
    screen.text(
        3,
        &format!(
            "From the agent's /v1/node: all {all} are captured. 15001, 15006 and 15008 listen in each, by \
             ztunnel, process {}.",
            pids.join(", ")
        ),
    )?;
    stage.pause(PAUSE)
}

fn captured(report: &NodeReport) -> impl Iterator<Item = &PodReport> {
    report.pods.iter().filter(|pod| pod.state == State::Captured)
}
