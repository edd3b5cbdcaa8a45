// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask kind`: MeshMedic in a real cluster with a real mesh, on a machine with Docker.
//!
//! What is done is a plan: a list of commands that a shell would take as well. It is printed as it goes, and by
//! `--dry-run` without being done.

#![expect(clippy::print_stdout, reason = "a task tells on stdout what it does")]

mod plan;
mod run;
mod step;
#[cfg(test)]
mod tests;
mod tools;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};

use crate::workspace::workspace_root;
use plan::{Installer, Plan};

/// What `cargo xtask kind` takes.
#[derive(Args)]
pub(crate) struct KindArgs {
    #[command(subcommand)]
    task: Task,
    /// Print the commands, and do nothing
    #[arg(long, global = true)]
    dry_run: bool,
    /// The name of the kind cluster
    #[arg(long, global = true, default_value = "meshmedic")]
    name: String,
}

#[derive(Clone, Copy, Subcommand)]
enum Task {
    /// Make a cluster of three nodes with Istio ambient and an application in the mesh
    Up,
    /// Build the image, load it onto the nodes, and start an agent on each, which detects only
    Load,
    /// Throw a pod of the application out of the mesh
    Break {
        /// How
        #[arg(long, value_enum, default_value_t)]
        by: Way,
    },
    /// Break a pod and show that it is found, told of and healed, with the time that each took
    E2e,
    /// Remove the cluster
    Down,
}

/// How a pod is thrown out of the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Have ztunnel close one pod's listeners, and have istio-cni believe that it did not
    #[default]
    Listeners,
    /// Restart a node's container, as a power cut would: upstream's own trigger, which does not orphan a pod every time
    Restart,
}

pub(crate) fn run(args: &KindArgs) -> Result<()> {
    let found = tools::Found::on_path();
    // A plan can be read on a machine that has neither.
    let installer = if found.has("istioctl") || !found.has("helm") {
        Installer::Istioctl
    } else {
        Installer::Helm
    };
    let plan = Plan::new(workspace_root()?, &args.name, installer);
    let steps = match args.task {
        Task::Up => plan.up(),
        Task::Load => plan.load(),
        Task::Break { by } => plan.break_pod(by),
        Task::E2e => plan.e2e(),
        Task::Down => plan.down(),
    };
    if args.dry_run {
        return run::print(&steps);
    }
    found.demand(&steps)?;
    run::carry_out(&steps, plan.workspace())
}
