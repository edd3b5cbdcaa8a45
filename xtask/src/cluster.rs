// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask cluster`: the programs of a real Kubernetes and a real Istio, built from pinned sources.

#![expect(clippy::print_stdout, reason = "a task tells on stdout what it does")]

mod build;
mod debian;
mod parts;
mod store;

use anyhow::Result;
use clap::{Args, Subcommand};

use parts::{Parts, Use};
pub(crate) use store::Store;

/// What to do with a real cluster.
#[derive(Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    task: ClusterTask,
}

#[derive(Subcommand)]
enum ClusterTask {
    /// Build the programs into the user's cache; needs Go, and apt for what comes from Debian
    Build(BuildArgs),
}

#[derive(Args)]
struct BuildArgs {
    /// Only these: `tests`, `node`, or programs by their names
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    only: Vec<String>,
    /// Say what is there, what is missing and how long each took, and build nothing
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(args: &ClusterArgs) -> Result<()> {
    match &args.task {
        ClusterTask::Build(args) => build(args),
    }
}

fn build(args: &BuildArgs) -> Result<()> {
    let parts = Parts::read()?;
    let store = Store::open(&parts)?;
    if args.list {
        println!("{}", store.list(&parts));
        return Ok(());
    }
    build::run(&parts.only(&args.only)?, &store)
}

/// Whether what the tests of the real thing need was built.
pub(crate) enum Built {
    /// All of it, here.
    Whole(Store),
    /// These are missing.
    Lacking(String),
}

/// Looks for what the tests of the real thing need.
pub(crate) fn built_for_tests() -> Result<Built> {
    let parts = Parts::read()?;
    let store = Store::open(&parts)?;
    let missing = store.missing(&parts.of(Use::Tests));
    Ok(match missing.is_empty() {
        true => Built::Whole(store),
        false => Built::Lacking(missing.join(", ")),
    })
}
