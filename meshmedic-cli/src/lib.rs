// SPDX-License-Identifier: Apache-2.0
//! The command `meshmedic`: finds pods that silently fell out of an Istio ambient mesh.
//!
//! A library, so that its fuzz targets reach what reads foreign bytes; `main.rs` calls [`main`] and nothing else.

#[cfg(all(target_os = "linux", feature = "node"))]
mod agent;
mod behavioral;
#[cfg(all(target_os = "linux", feature = "node"))]
mod capabilities;
mod cli_page;
mod completion;
mod connection;
mod control;
mod doctor;
mod exit;
mod explain;
mod forward;
#[cfg(fuzzing)]
pub mod fuzz;
mod gate;
mod install;
mod istio;
mod man_pages;
#[cfg(all(target_os = "linux", feature = "node"))]
mod node;
mod open_connection;
mod output;
mod print_sockets;
mod prove;
mod repair;
mod scan;
mod selection;
mod signals;
mod spans;
mod status;
mod undo;
mod watch;
mod ways;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

/// The name by which kubectl finds its plugin.
const PLUGIN: &str = "kubectl-meshmedic";

/// Finds pods that silently fell out of an Istio ambient mesh.
#[derive(Parser)]
#[command(name = "meshmedic", version, after_help = exit::CODES, propagate_version = true)]
struct Cli {
    /// How to write messages (they go to stderr)
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "MESHMEDIC_LOG_FORMAT"
    )]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum LogFormat {
    /// Text on a terminal, else JSON
    #[default]
    Auto,
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(all(target_os = "linux", feature = "node"))]
    /// Run the node agent: judge the node's pods, and repair them if asked to
    Agent(Box<agent::Args>),
    #[cfg(all(target_os = "linux", feature = "node"))]
    /// List the pods of this node and whether the mesh captures them, without the API
    Node(node::Args),
    /// List the pods of a cluster that fell out of the mesh
    Scan(Box<scan::Args>),
    /// Repair pods that lost mesh capture (dry run without --yes)
    Repair(Box<repair::Args>),
    /// Remove what repairs left on pods (dry run without --yes)
    Undo(Box<undo::Args>),
    /// Show the fleet of agents: nodes, pods by state, faults, the last repairs
    Status(status::Args),
    /// Watch the fleet live: pods that fall out, what is done about it, and their return
    Watch(Box<watch::Args>),
    /// Explain one pod: its state, the evidence, its history, what to do
    Explain(Box<explain::Args>),
    /// Prove leg by leg whether the mesh has one pod, and say what could not be seen
    Prove(Box<prove::Args>),
    /// Check the whole mesh: what is wrong, why, and what fixes it
    Doctor(Box<doctor::Args>),
    /// Print the manifest that installs MeshMedic in this cluster
    Install(install::Args),
    /// Pause all repairs in the cluster
    Pause(control::PauseArgs),
    /// Resume repairs
    Resume(control::ResumeArgs),
    /// Wait, as a pod's first init container, until ztunnel listens in it
    Gate(gate::Args),
    /// Print a script that completes commands in your shell
    Completion(completion::Args),
    /// Print the version
    Version,
    /// Write the manual pages
    #[command(hide = true)]
    ManPages(man_pages::Args),
    /// Print the page that describes every command, in Markdown
    #[command(hide = true)]
    CliPage,
    /// Print the socket tables and routes of this network namespace
    #[command(hide = true)]
    PrintSockets,
    /// Open one connection from this network namespace, and tell whether ztunnel took it
    #[command(hide = true)]
    OpenConnection(open_connection::Args),
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    match completion::answer(command) {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => {}
        // A shell that asks shows no error while one types.
        Err(_) => return ExitCode::FAILURE,
    }
    let asked = command().try_get_matches();
    let cli = match asked.and_then(|asked| Cli::from_arg_matches(&asked)) {
        Ok(cli) => cli,
        Err(error) => return help(&error),
    };
    // An agent tells what happens; whoever asks a question wants the answer.
    let level = match cli.command {
        #[cfg(all(target_os = "linux", feature = "node"))]
        Command::Agent(_) => "warn,meshmedic=info",
        // What the API says is told with the result.
        _ => "warn,kube_client=off",
    };
    start_log(cli.log_format, level);
    let result = match cli.command {
        #[cfg(all(target_os = "linux", feature = "node"))]
        Command::Agent(args) => agent::run(*args),
        #[cfg(all(target_os = "linux", feature = "node"))]
        Command::Node(args) => node::run(&args),
        Command::Scan(args) => scan::run(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Undo(args) => undo::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Prove(args) => prove::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Install(args) => install::run(&args),
        Command::Pause(args) => control::pause(&args),
        Command::Resume(args) => control::resume(&args),
        Command::Gate(args) => gate::run(&args),
        Command::Completion(args) => completion::run(&args),
        Command::ManPages(args) => man_pages::run(&args, command()),
        Command::CliPage => cli_page::run(command()),
        Command::PrintSockets => print_sockets::run(),
        Command::OpenConnection(args) => open_connection::run(&args),
        Command::Version => output::line(&format!("meshmedic {}", env!("CARGO_PKG_VERSION"))).map(|()| 0),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        // Whoever read our output has seen enough.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::from(exit::of(&error))
        }
    }
}

/// What clap has to say: help that was asked for, or what is wrong with the command line.
fn help(error: &clap::Error) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(exit::UNDETERMINED);
    let written = error.print().and_then(|()| std::io::stdout().flush());
    match written.context("the help cannot be written") {
        Ok(()) => ExitCode::from(code),
        Err(failure) if output::is_broken_pipe(&failure) => ExitCode::from(code),
        Err(failure) => {
            output::error(&failure);
            ExitCode::from(exit::of(&failure))
        }
    }
}

/// The command; as a plugin of kubectl its usage says so.
fn command() -> clap::Command {
    let called = std::env::args_os().next().map(PathBuf::from);
    let called = called.as_deref().and_then(Path::file_stem);
    let command = Cli::command();
    if called.is_some_and(|name| name == PLUGIN) {
        command.bin_name("kubectl meshmedic")
    } else {
        command
    }
}

/// Messages go to stderr, results to stdout. `MESHMEDIC_LOG` chooses levels as `RUST_LOG` does elsewhere.
fn start_log(format: LogFormat, level: &str) {
    let filter = EnvFilter::try_from_env("MESHMEDIC_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log.json().init(),
        LogFormat::Auto if !terminal => log.json().init(),
        _ => log
            .with_ansi(terminal && output::colour_allowed())
            .with_target(false)
            .without_time()
            .init(),
    }
}

/// What Go takes for a boolean, so that a deployment of the original means the same here.
fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn every_command_in_the_documents_is_one_that_there_is() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let commands =
            meshmedic_lab::docs::commands(&root, &["meshmedic"]).expect("the documents can be read");
        assert!(commands.len() > 10, "{commands:?}");
        for command in commands {
            if let Err(error) = super::Cli::command().try_get_matches_from(&command.words) {
                assert!(!error.use_stderr(), "{command}: {error}");
            }
        }
    }
}
