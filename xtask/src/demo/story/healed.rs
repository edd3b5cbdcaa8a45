// SPDX-License-Identifier: Apache-2.0
//! The second step: a pod falls out of the mesh and is healed.

use anyhow::{Context as _, ensure};

use super::{PAUSE, repair};
use crate::demo::api;
use crate::demo::scenery::everybody;
use crate::demo::screen::{Tone, shown};
use crate::demo::stage::Stage;

const LOST: &str = "cart";

pub(super) fn play(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let who = everybody(stage.cluster)?
        .into_iter()
        .find(|who| who.app == LOST)
        .context("there is nobody to lose")?;
    stage
        .screen
        .heading("2. A POD FALLS OUT OF THE MESH, AND IS HEALED")?;
    stage.screen.text(
        3,
        &format!(
            "ztunnel lets go of {}. {}",
            who.full_name(),
            repair::counted_from(stage)
        ),
    )?;
    repair::prove(stage, &who)?;
    stage.kubernetes(&who)?;
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
