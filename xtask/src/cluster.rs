// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask cluster`: a real Kubernetes and a real Istio, built from pinned sources, and a node of them.

#![expect(clippy::print_stdout, reason = "a task tells on stdout what it does")]

mod build;
mod debian;
mod node;
mod parts;
mod store;

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};

use node::{NAMES, Node, Nodes, Wanted};
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
    /// Start real nodes on this machine, in namespaces of its own, with Istio and MeshMedic; needs root
    Up(UpArgs),
    /// Let the node's power fail and come back, which leaves pods outside the mesh
    Reboot(NodeArgs),
    /// End the nodes, and remove all that they had
    Down,
    /// kubectl in the node
    Kubectl(CommandArgs),
    /// A shell or a command in a node's namespaces
    Enter(EnterArgs),
}

#[derive(Args)]
struct UpArgs {
    /// How many: the first has the control plane
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=NAMES.len() as i64))]
    nodes: u8,
    /// Kubernetes alone, without Istio and MeshMedic
    #[arg(long)]
    only_kubernetes: bool,
    /// A real ztunnel; else a stand-in opens its ports, which carries no traffic
    #[arg(long, value_name = "FILE", conflicts_with = "only_kubernetes")]
    ztunnel: Option<PathBuf>,
}

#[derive(Args)]
struct NodeArgs {
    /// Which one
    #[arg(long, value_name = "NAME", default_value = NAMES[0], value_parser = NAMES)]
    node: String,
}

#[derive(Args)]
struct EnterArgs {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    command: CommandArgs,
}

#[derive(Args)]
struct CommandArgs {
    /// What it is to do
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
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
        ClusterTask::Up(args) => up(args),
        ClusterTask::Reboot(args) => {
            let store = Store::open(&Parts::read()?)?;
            Node::named(&store, &args.node)?.reboot(&store)
        }
        ClusterTask::Down => {
            let nodes = Nodes::of_machine(&Store::open(&Parts::read()?)?)?;
            let was_up = nodes.are_down().is_err();
            nodes.down()?;
            println!(
                "{}",
                if was_up {
                    "no node is left"
                } else {
                    "no node was up"
                }
            );
            Ok(())
        }
        ClusterTask::Kubectl(args) => become_in_node(NAMES[0], "kubectl", &args.words),
        ClusterTask::Enter(args) => match args.command.words.split_first() {
            Some((program, words)) => become_in_node(&args.node.node, program, words),
            None => become_in_node(&args.node.node, "bash", &[]),
        },
    }
}

fn up(args: &UpArgs) -> Result<()> {
    let parts = Parts::read()?;
    let store = Store::open(&parts)?;
    let missing = store.missing(&parts);
    ensure!(
        missing.is_empty(),
        "without {} there is no node: `cargo xtask cluster build`",
        missing.join(", ")
    );
    let nodes = Nodes::of_machine(&store)?;
    nodes.are_down()?;
    node::build_own()?;
    nodes.up(
        &store,
        &Wanted {
            nodes: args.nodes.into(),
            mesh: !args.only_kubernetes,
            ztunnel: args.ztunnel.clone(),
        },
    )
}

/// Gives this process over to a program in the node.
fn become_in_node(node: &str, program: &str, words: &[String]) -> Result<()> {
    let words: Vec<&str> = std::iter::once(program)
        .chain(words.iter().map(String::as_str))
        .collect();
    let store = Store::open(&Parts::read()?)?;
    let error = Node::named(&store, node)?.command(&words)?.exec();
    Err(error).with_context(|| format!("cannot run {program} on {node}"))
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

/// Looks for what the tests of the real thing need, but for a whole node.
pub(crate) fn built_for_tests() -> Result<Built> {
    let parts = Parts::read()?;
    built(&parts, &parts.of(Use::Tests))
}

/// Looks for what a whole node needs.
pub(crate) fn built_for_node() -> Result<Built> {
    let parts = Parts::read()?;
    built(&parts, &parts)
}

fn built(all: &Parts, needed: &Parts) -> Result<Built> {
    let store = Store::open(all)?;
    let missing = store.missing(needed);
    Ok(match missing.is_empty() {
        true => Built::Whole(store),
        false => Built::Lacking(missing.join(", ")),
    })
}
