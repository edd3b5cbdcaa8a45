// SPDX-License-Identifier: Apache-2.0
//! The project's own tasks: `cargo xtask --help`.

mod bench;
mod cluster;
mod crates;
mod demo;
mod docs;
mod e2e;
mod ebpf;
mod fuzz;
#[cfg(test)]
mod house;
mod image;
mod interrupt;
mod kind;
mod licences;
mod lines;
mod manifests;
mod pack;
mod release;
mod test;
mod workspace;

use clap::{Parser, Subcommand};

/// The project's own tasks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Watch the agent heal a pod that fell out of the mesh, on a node that is made for it
    Demo(demo::DemoArgs),
    /// Measure what a node pays for MeshMedic, and how quickly it learns, beside the algorithm of 0.0.1
    Bench(bench::BenchArgs),
    /// Build the kernel programs, or check the committed object against its sources
    Ebpf(ebpf::EbpfArgs),
    /// Feed hostile bytes to everything that reads foreign ones
    Fuzz(fuzz::FuzzArgs),
    /// Write the container image as an archive, without Docker
    Image(image::ImageArgs),
    /// Make a kind cluster with a mesh, break a pod in it, and show that it heals; needs Docker
    Kind(kind::KindArgs),
    /// A real Kubernetes and a real Istio, built from pinned sources: a node of them on this machine
    Cluster(cluster::ClusterArgs),
    /// Show on a cluster of your own that pods are found and brought back, in a namespace that is made for it
    E2e(e2e::E2eArgs),
    /// Put everything of a release into one folder, with what proves each file
    Release(release::ReleaseArgs),
    /// Write the pages of commands and metrics, and the manual pages
    Docs(docs::DocsArgs),
    /// For mdBook: lead a book's links to other files of the repository out of it
    #[command(hide = true)]
    LinksOut {
        /// What mdBook asks
        words: Vec<String>,
    },
    /// Count the lines of Rust that are no tests, by room
    Lines,
    /// Run every test that this machine can run, and list what it skipped
    Test(test::TestArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Demo(args) => match demo::run(&args)? {
            0 => Ok(()),
            // What happened was said last.
            code => std::process::exit(code),
        },
        Task::Bench(args) => bench::run(&args),
        Task::Ebpf(args) => ebpf::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Image(args) => image::run(&args),
        Task::Kind(args) => kind::run(&args),
        Task::Cluster(args) => cluster::run(&args),
        Task::E2e(args) => e2e::run(&args),
        Task::Release(args) => release::run(&args),
        Task::Docs(args) => docs::run(&args),
        Task::LinksOut { words } => docs::book::run(&words),
        Task::Lines => lines::run(),
        Task::Test(args) => {
            if !test::run(&args)? {
                // The totals are the last thing said.
                std::process::exit(1);
            }
            Ok(())
        }
    }
}
