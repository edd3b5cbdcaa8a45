// SPDX-License-Identifier: Apache-2.0
//! `meshmedic watch`: the fleet live, as a screen for people or a line a transition for pipes.

mod follow;
mod keys;
mod live;
mod screen;
mod terminal;
mod told;
mod view;

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::time::Duration;

use jiff::Timestamp;
use meshmedic_common::report::PodReport;

use crate::connection::{self, ConnectionArgs};
use crate::exit::Usage;
use crate::istio::IstioArgs;
use crate::status::Answers;
use crate::ways::AgentArgs;

/// Arguments of `meshmedic watch`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Write one line for each transition instead of a screen, until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// With --follow: how to write a transition
    #[arg(short, long, value_enum, default_value_t, requires = "follow")]
    output: follow::LineFormat,
    /// With --follow: begin with what the agents still know from after this time, or from so long ago
    #[arg(long, value_name = "TIME|DURATION", value_parser = crate::spans::instant, requires = "follow")]
    since: Option<Timestamp>,
    /// Only pods of these namespaces
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Vec<String>,
    /// How long to wait between two rounds through the agents
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = crate::spans::interval)]
    interval: Duration,
    /// How long an agent may take to answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = crate::spans::interval)]
    timeout: Duration,
    #[command(flatten)]
    agents: AgentArgs,
    #[command(flatten)]
    istio: IstioArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

const AFTER_HELP: &str = "\
Everything comes from the agents, through port-forward; pods are left alone,
unless you ask for one pod's story (Enter), which reads that pod.

Keys:
  Up, Down   choose a pod          Enter   its story, as `meshmedic explain`
  /          filter by a word      Esc     back; drop the filter
  q          quit

An agent keeps the last 16 transitions of each pod that it knows. To go on
where a pipe broke, pass the last line's time to --since.

Exit codes:
  0  ended by you
  2  wrong usage
  3  no agent was found, or the cluster cannot be reached

Examples:
  meshmedic watch                         the whole fleet
  meshmedic watch -n shop                 only the pods of one namespace
  meshmedic watch --follow                one line a transition
  meshmedic watch --follow -o json | jq   the same for programs";

/// Watches until told to stop; gives the exit code.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if !args.follow && !terminal {
        return Err(Usage(
            "watch draws a screen, and this is not a terminal: --follow writes one line a transition"
                .to_owned(),
        )
        .into());
    }
    connection::runtime()?.block_on(async {
        let mut connection = args.connection.connect().await?;
        args.istio
            .settle(&mut connection, Some(&args.agents), args.timeout)
            .await;
        let first = tokio::select! {
            first = args.round(&connection) => first?,
            interrupt = tokio::signal::ctrl_c() => {
                interrupt?;
                return Ok(0);
            }
        };
        if let Some(why) = &first.fleet.absence {
            anyhow::bail!("{why}. `meshmedic scan --watch` finds lost pods without agents");
        }
        if args.follow {
            follow::run(args, &connection, first).await
        } else {
            live::run(args, &connection, first).await
        }
    })
}

impl Args {
    async fn round(&self, connection: &connection::Connection) -> anyhow::Result<Answers> {
        Answers::gather(connection, &self.agents, self.timeout).await
    }

    /// The pods that are to be shown.
    fn pods<'a>(&'a self, answers: &'a Answers) -> impl Iterator<Item = &'a PodReport> {
        let reports = answers
            .fleet
            .reports
            .values()
            .filter_map(|report| report.as_ref().ok());
        let pods = reports.flat_map(|report| &report.pods);
        pods.filter(|pod| self.wants(pod.namespace.as_deref()))
    }

    /// What is to be said of namespaces of which no agent knows a pod: a misspelt one would look as if all were well.
    fn unknown(&self, answers: &Answers) -> Vec<String> {
        let known: BTreeSet<&str> = self
            .pods(answers)
            .filter_map(|pod| pod.namespace.as_deref())
            .collect();
        let unknown = self
            .namespace
            .iter()
            .filter(|wanted| !known.contains(wanted.as_str()));
        unknown
            .map(|wanted| format!("no agent knows a pod of namespace {wanted}"))
            .collect()
    }

    /// Whether a pod of this namespace is to be shown.
    fn wants(&self, namespace: Option<&str>) -> bool {
        let named = |wanted: &String| Some(wanted.as_str()) == namespace;
        self.namespace.is_empty() || self.namespace.iter().any(named)
    }
}
