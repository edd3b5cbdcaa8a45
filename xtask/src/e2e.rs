// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask e2e`: what MeshMedic promises, shown on a cluster of one's own.
//!
//! By default all happens in a namespace that is made for it and removed again. What touches a node happens on demand
//! only, and what was changed is written down in the cluster first, so that any later run can take it back.

#![expect(clippy::print_stdout, reason = "a task tells on stdout what it does")]

mod cluster;
mod node;
mod scenes;

use std::path::PathBuf;
use std::process;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::interrupt::{INTERRUPTED, Interrupt, Interrupted};
use crate::workspace::{cargo, workspace_root};
use cluster::Cluster;

/// Which cluster, and how far to go.
#[derive(Args)]
pub(crate) struct E2eArgs {
    /// The cluster: a test cluster with Istio in ambient mode
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// A context of the kubeconfig
    #[arg(long)]
    context: Option<String>,
    /// The namespace that is made and removed
    #[arg(long, value_name = "NAME", default_value = "meshmedic-e2e")]
    namespace: String,
    /// The image of the pods; it needs sleep and cat
    #[arg(long, default_value = "docker.io/library/busybox:1.37.0")]
    image: String,
    /// The namespace of ztunnel and istio-cni
    #[arg(long, value_name = "NAME", default_value = "istio-system")]
    istio_namespace: String,
    /// The command to show, instead of building it
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Also scenes that take ztunnel and istio-cni away from a node
    #[arg(long, requires = "node")]
    disruptive: bool,
    /// That node, on which nothing runs but what every node has
    #[arg(long, value_name = "NAME", requires = "disruptive")]
    node: Option<String>,
    /// Only take back what an earlier run left, which was killed
    #[arg(long, conflicts_with = "disruptive")]
    clear: bool,
}

pub(crate) fn run(args: &E2eArgs) -> Result<()> {
    ensure!(
        args.kubeconfig.is_file(),
        "there is no kubeconfig at {}",
        args.kubeconfig.display()
    );
    let program = match &args.program {
        Some(program) => program.clone(),
        None => build()?,
    };
    let interrupt = Interrupt::listen()?;
    let cluster = Cluster::new(args, program, interrupt);
    cluster.clear()?;
    if args.clear {
        println!("nothing of an earlier run is left");
        return Ok(());
    }
    let shown = show(args, &cluster);
    // Whatever happened, the cluster is as it was.
    let cleared = cluster.clear();
    match shown {
        Err(error) if error.is::<Interrupted>() => {
            cleared?;
            println!("interrupted; what was made is removed");
            process::exit(INTERRUPTED);
        }
        Err(error) => {
            if let Err(also) = cleared {
                println!("and clearing up failed: {also:#}");
            }
            Err(error)
        }
        Ok(()) => {
            cleared?;
            println!("\nall of it holds, and nothing of it is left in the cluster");
            Ok(())
        }
    }
}

fn show(args: &E2eArgs, cluster: &Cluster) -> Result<()> {
    cluster.check()?;
    let node = match &args.node {
        Some(name) if args.disruptive => Some(node::agreed(cluster, name)?),
        _ => None,
    };
    scenes::show(cluster)?;
    match node {
        Some(node) => node.show(cluster),
        None => Ok(()),
    }
}

/// Builds the command, and says where it is.
fn build() -> Result<PathBuf> {
    let built = cargo(workspace_root()?)
        .args(["build", "--locked", "--workspace", "--bin", "meshmedic"])
        .status()
        .context("cannot start cargo")?;
    ensure!(built.success(), "the command does not build");
    let own = std::env::current_exe().context("cannot find this program")?;
    Ok(own.with_file_name("meshmedic"))
}
