// SPDX-License-Identifier: Apache-2.0
//! The closing screen: the same pods as a user at a workstation sees them, where this build has the commands.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::demo::scenery::everybody;
use crate::demo::stage::Stage;

pub(super) fn play(stage: &mut Stage<'_>, program: &Path) -> anyhow::Result<()> {
    let help = Command::new(program)
        .arg("--help")
        .output()
        .context("meshmedic --help")?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let has = |command: &str| {
        help.lines()
            .any(|line| line.split_whitespace().next() == Some(command))
    };
    let who = everybody(stage.cluster)?
        .into_iter()
        .next()
        .context("there is nobody left")?;
    let named = who.full_name();
    stage.screen.text(
        0,
        "The demo's agent is a process of its own. In a cluster commands find the agents by their DaemonSet, and need \
         not look into pods by exec.",
    )?;
    for (command, object) in [("scan", None), ("explain", Some(named.as_str()))] {
        if !has(command) {
            continue;
        }
        let shown = ["$ meshmedic", command]
            .into_iter()
            .chain(object)
            .collect::<Vec<_>>();
        stage.screen.heading(&shown.join(" "))?;
        stage.screen.flush()?;
        let output = Command::new(program)
            .arg(command)
            .args(object)
            .env("KUBECONFIG", stage.cluster.api().kubeconfig())
            .output()
            .with_context(|| shown.join(" "))?;
        stage
            .screen
            .plain(String::from_utf8_lossy(&output.stdout).trim_end())?;
        ensure!(
            output.status.success(),
            "meshmedic {command} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
