// SPDX-License-Identifier: Apache-2.0
//! The third step: a heal in place does not take, and the pod is started anew.

use anyhow::{Context as _, ensure};

use super::{PAUSE, repair};
use crate::demo::api;
use crate::demo::scenery::everybody;
use crate::demo::screen::{Tone, shown};
use crate::demo::stage::Stage;

pub(super) const HEADING: &str = "3. ANOTHER, FOR WHICH THAT DOES NOT TAKE, IS STARTED ANEW";
const LOST: &str = "frontend";

pub(super) fn play(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let who = everybody(stage.cluster)?
        .into_iter()
        .find(|who| who.app == LOST)
        .context("there is nobody to lose")?;
    stage.screen.heading(HEADING)?;
    stage.screen.text(
        3,
        &format!(
            "ztunnel loses the listeners of {}, and goes on believing that it serves it.",
            who.full_name()
        ),
    )?;
    repair::prove(stage, &who, |cluster, pod| cluster.orphan_believed(pod))?;
    repair::ask(stage, &who)?;
    let failed = stage.line("the heal to be given up", |line| {
        line.is_audit(&who.uid, "healed")
    })?;
    ensure!(
        (failed.text("result"), failed.text("detail")) == ("failed", "believed"),
        "the heal ended as {}: {}",
        failed.text("result"),
        failed.text("detail")
    );
    stage.entry(
        failed.at,
        "not taken",
        Tone::Doubt,
        "istio-cni says that it is enrolled: ztunnel believes that it serves it already. The next way is a restart",
    )?;
    let healed = repair::heal(stage, &who)?;
    let leases = stage.until("every Lease to be free", |stage| api::free_leases(stage.cluster))?;
    stage.entry(
        jiff::Timestamp::now(),
        "leases",
        Tone::Quiet,
        &format!("{leases} were written for it, so that no two repair at once; all are free again"),
    )?;
    let asked = api::evictions(stage.cluster)?.len();
    ensure!(
        asked == 1,
        "{asked} evictions were asked for where one was needed"
    );
    stage.pause(PAUSE)?;
    Ok(format!(
        "{}, {} after its loss: {} is captured in its place",
        who.full_name(),
        shown(stage.after(healed.at)),
        healed.name
    ))
}
