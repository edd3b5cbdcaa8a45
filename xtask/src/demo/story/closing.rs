// SPDX-License-Identifier: Apache-2.0
//! The closing screen: the same node as a user at a workstation sees it, where this build has the commands.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::demo::scenery::everybody;
use crate::demo::stage::Stage;

/// Wrong usage: the one exit code that no finding explains.
const USAGE: i32 = 2;

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
    for arguments in [&["scan"][..], &["explain", &named]] {
        if !arguments.first().is_some_and(|command| has(command)) {
            continue;
        }
        stage
            .screen
            .heading(&format!("$ meshmedic {}", arguments.join(" ")))?;
        let output = Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", stage.cluster.api().kubeconfig())
            .output()
            .with_context(|| format!("meshmedic {}", arguments.join(" ")))?;
        stage
            .screen
            .plain(String::from_utf8_lossy(&output.stdout).trim_end())?;
        if output.status.code().is_none_or(|code| code == USAGE) {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    Ok(())
}
