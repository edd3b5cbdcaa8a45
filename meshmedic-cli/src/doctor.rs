// SPDX-License-Identifier: Apache-2.0
//! `meshmedic doctor`: what is wrong with the whole mesh, why we think so, and what helps.
//!
//! A [`snapshot::Snapshot`] is read once; each check is a pure function of it.

mod check;
mod checks;
mod finding;
#[cfg(test)]
mod fixtures;
mod need;
mod report;
mod snapshot;
mod view;

use std::path::PathBuf;

use crate::connection::ConnectionArgs;

pub(crate) use check::{Category, Severity};
pub(crate) use report::DoctorReport;

/// Arguments of `meshmedic doctor`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Judge this snapshot, without a cluster
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Exit with 1 from this severity on
    #[arg(long, value_enum, default_value_t = Severity::Error)]
    fail_on: Severity,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Judges; gives the exit code.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    let Some(path) = &args.from else {
        anyhow::bail!("no cluster can be read yet")
    };
    let snapshot = snapshot::read(path)?;
    let report = DoctorReport::judge(&snapshot, checks::all(), &[]);
    crate::output::line(&serde_json::to_string_pretty(&report)?)?;
    Ok(report.code(args.fail_on))
}
