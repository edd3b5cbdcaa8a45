// SPDX-License-Identifier: Apache-2.0
//! `meshmedic scan`: which pods of a cluster fell out of the mesh, read from afar.

mod accused;
mod report;
mod show;
mod sweep;

use std::time::Duration;

use meshmedic_common::duration;
use meshmedic_common::policy::SETTLE;
use meshmedic_common::verdict::{Reason, exit_code};

use crate::connection::{self, Connection, ConnectionArgs};
use crate::istio::IstioArgs;
use crate::selection::{Selection, SelectionArgs, no_pod};
use crate::ways::{Age, WayArgs};

pub(crate) use accused::sweep as sweep_accused;
pub(crate) use report::{Grounds, ScanReport, ScannedPod};
pub(crate) use sweep::{seen, sweep, sweep_again};

/// Arguments of `meshmedic scan`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// How to write the result
    #[arg(short, long, value_enum, default_value_t)]
    output: show::ScanFormat,
    /// Scan again and again, and print what changed; adds no probes
    #[arg(short, long)]
    watch: bool,
    /// With --watch: how long to wait between two scans
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::spans::interval)]
    interval: Duration,
    /// For how long three readings must agree before a loss is believed
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = crate::spans::confirm, env = "MESHMEDIC_CONFIRM")]
    confirm: Duration,
    /// How long ztunnel must have been Ready before its absence in a pod means anything
    #[arg(long, value_name = "DURATION", default_value = duration::show(SETTLE), value_parser = duration::parse, env = "MESHMEDIC_SETTLE")]
    settle: Duration,
    /// Read the ztunnels' logs first, and look only at the pods that they accuse
    #[arg(long, conflicts_with = "watch")]
    behavioral: bool,
    /// With --behavioral: how far back the logs are read
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = since, requires = "behavioral")]
    since: Duration,
    /// Only pods that are Ready
    #[arg(long, help_heading = "Pods")]
    ready_only: bool,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    ways: WayArgs,
    #[command(flatten)]
    istio: IstioArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

const AFTER_HELP: &str = "\
The table shows pods that need a look, and those that were named; -o wide, json
and yaml show all. -o name lists the findings as NAMESPACE/POD.

A loss counts when three readings across --confirm agree, and never while
ztunnel or istio-cni of its node is not Ready or has not settled.

--behavioral takes the accused for pods that were named. It needs to list all
pods and namespaces, and pods/log of the ztunnels. An orphan without
traffic leaves no trace in any log: only a scan without --behavioral finds it.

Exit codes, whatever the output format:
  0  clean, or a loss that is not confirmed yet
  1  an orphan, a partial capture, an imposter or a bypass was found
  2  wrong usage
  3  undetermined: something could not be read, and nothing worse was found

Examples:
  meshmedic scan                         who fell out of the mesh?
  meshmedic scan -n shop -l app=cart     only these
  meshmedic scan shop/cart-7d4b -o wide  one pod, with all that is known
  meshmedic scan -A -o json              the same for a script
  meshmedic scan --behavioral            whom do the logs accuse?";

/// The API counts in whole seconds.
const SHORTEST_SINCE: Duration = Duration::from_secs(1);

pub(crate) fn since(text: &str) -> Result<Duration, String> {
    crate::spans::at_least(text, SHORTEST_SINCE)
}

/// What a sweep does.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// For how long three readings must agree.
    pub(crate) confirm: Duration,
    /// How long ztunnel must have been Ready.
    pub(crate) settle: Duration,
    /// Whether pods that are not Ready are left out.
    pub(crate) ready_only: bool,
    /// How old an agent's readings may be.
    pub(crate) age: Age,
}

/// Scans once, or until Ctrl-C; gives the exit code.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    args.ways.check()?;
    let ways = if args.watch {
        args.ways.repeated()?
    } else {
        args.ways.clone()
    };
    connection::runtime()?.block_on(async {
        let mut connection = args.connection.connect().await?;
        args.istio
            .settle(&mut connection, ways.asked_agents(), ways.timeout())
            .await;
        let selection = args.selection.check(&connection.namespace)?;
        if args.watch {
            follow(args, &ways, &connection, &selection).await
        } else {
            let report = tokio::select! {
                report = once(args, &ways, &connection, &selection) => report?,
                interrupt = tokio::signal::ctrl_c() => {
                    interrupt?;
                    anyhow::bail!("interrupted before every pod was read");
                }
            };
            // The names alone were wrong: that is no result.
            let there = |pod: &ScannedPod| pod.reason != Some(Reason::NotFound);
            if let Some(pod) = report.pods.first()
                && !report.pods.iter().any(there)
            {
                anyhow::bail!(no_pod(&pod.namespace, &pod.name));
            }
            show::scan(&report, args.output, args.behavioral || selection.names_pods())?;
            Ok(code(&report))
        }
    })
}

pub(crate) fn code(report: &ScanReport) -> u8 {
    let code = exit_code(report.pods.iter().map(|pod| pod.state));
    if code == 0 && report.undetermined.is_some() {
        return crate::exit::UNDETERMINED;
    }
    // Logs that do not tell all acquit nobody.
    match &report.logs {
        Some(logs) if code == 0 && !logs.complete => crate::exit::UNDETERMINED,
        _ => code,
    }
}

async fn once(
    args: &Args,
    ways: &WayArgs,
    connection: &Connection,
    selection: &Selection,
) -> anyhow::Result<ScanReport> {
    let options = Options {
        confirm: args.confirm,
        settle: args.settle,
        ready_only: args.ready_only,
        age: Age::Any,
    };
    if args.behavioral {
        accused::sweep(connection, selection, ways, options, args.since).await
    } else {
        sweep(connection, selection, ways, options).await
    }
}

/// Scans until Ctrl-C. What one scan could not do the next may.
async fn follow(
    args: &Args,
    ways: &WayArgs,
    connection: &Connection,
    selection: &Selection,
) -> anyhow::Result<u8> {
    let mut terminate = crate::signals::Terminate::listen()?;
    let mut last: Option<ScanReport> = None;
    let rounds = async {
        loop {
            match (once(args, ways, connection, selection).await, &last) {
                (Ok(report), before) => {
                    show::scan_again(before.as_ref(), &report, args.output, selection.names_pods())?;
                    last = Some(report);
                }
                (Err(error), None) => return Err(error),
                (Err(error), Some(_)) => tracing::warn!("this scan failed, the next is tried: {error:#}"),
            }
            tokio::time::sleep(args.interval).await;
        }
    };
    tokio::select! {
        ended = rounds => return ended,
        interrupt = tokio::signal::ctrl_c() => interrupt?,
        () = terminate.wait() => {}
    }
    Ok(last.as_ref().map_or(crate::exit::UNDETERMINED, code))
}
