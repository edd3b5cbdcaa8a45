// SPDX-License-Identifier: Apache-2.0
//! `meshmedic node`: the pods of this node and whether the mesh captures them, with no cluster in reach.

mod events;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use meshmedic_agent::agent::load_kernel;
use meshmedic_agent::watch::{Event, Options, PodSource, Watch};
use meshmedic_common::duration;
use meshmedic_common::identity::{Identity, check_namespace};
use meshmedic_common::policy::SETTLE;
use meshmedic_common::verdict::exit_code;

use crate::capabilities;
use crate::output::{self, Format};
use crate::spans::{confirm, interval};

/// Arguments of `meshmedic node`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// How to write the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Stay, and print each transition as the kernel reports it
    #[arg(short, long)]
    watch: bool,
    /// How changes are noticed; without eBPF, auto polls and says why
    #[arg(long, value_enum, default_value_t, env = "MESHMEDIC_TRIGGER")]
    trigger: Trigger,
    /// For how long every reading must agree before a loss is believed
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = confirm, env = "MESHMEDIC_CONFIRM")]
    confirm: Duration,
    /// How long ztunnel must have run before its absence in a pod means anything
    #[arg(long, value_name = "DURATION", default_value = duration::show(SETTLE), value_parser = duration::parse, env = "MESHMEDIC_SETTLE")]
    settle: Duration,
    /// With --watch: how often all pods are looked at
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = interval, env = "MESHMEDIC_INTERVAL")]
    interval: Duration,
    /// The node's /proc
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/proc",
        env = "MESHMEDIC_HOST_PROC"
    )]
    host_proc: PathBuf,
    /// The node's root, for what else is read of it
    #[arg(long, value_name = "DIR", default_value = "/", env = "MESHMEDIC_HOST_ROOT")]
    host_root: PathBuf,
    /// The kubelet's log folders, which give the pods their names [default: var/log/pods below --host-root]
    #[arg(long, value_name = "DIR", env = "MESHMEDIC_HOST_LOGS")]
    host_logs: Option<PathBuf>,
    /// A namespace of Istio's: only there a process called ztunnel is one. May be given several times
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system,kube-system", value_parser = check_namespace,
          value_delimiter = ',', env = "MESHMEDIC_ISTIO_NAMESPACE")]
    istio_namespace: Vec<String>,
    /// The node's name in the result [default: the host's name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: Option<String>,
}

const AFTER_HELP: &str = "\
Nothing here asks the API, so nothing tells which pods should be in the mesh: a pod
counts as expected once it was seen captured, or if it shows Istio's routing table.
Others without ztunnel's listeners are listed as exempt.

Examples:
  meshmedic node                 who is captured on this node?
  meshmedic node -o json         the same for a script
  meshmedic node --watch         print each change as it happens";

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Trigger {
    #[default]
    Auto,
    Ebpf,
    Poll,
}

impl From<Trigger> for meshmedic_agent::options::Trigger {
    fn from(trigger: Trigger) -> Self {
        match trigger {
            Trigger::Auto => Self::Auto,
            Trigger::Ebpf => Self::Ebpf,
            Trigger::Poll => Self::Poll,
        }
    }
}

/// Lists or watches; gives the exit code.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime: too few file descriptors or processes allowed?")?;
    runtime.block_on(async {
        let watch = start(args)?;
        if args.watch {
            follow(args, watch).await
        } else {
            list(args, watch).await
        }
    })
}

fn start(args: &Args) -> anyhow::Result<Watch> {
    for loss in capabilities::losses() {
        tracing::warn!("{loss}");
    }
    let host_name = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let logs = args
        .host_logs
        .clone()
        .unwrap_or_else(|| args.host_root.join("var/log/pods"));
    let options = Options {
        node: args.node.clone().unwrap_or_else(host_name),
        proc_root: args.host_proc.clone(),
        pods: PodSource::Node(logs, Identity::new(args.istio_namespace.clone(), false)),
        confirm: args.confirm,
        settle: args.settle,
        interval: args.interval,
        pending_deadline: meshmedic_common::policy::PENDING_DEADLINE,
        use_census: true,
    };
    let kernel = load_kernel(args.trigger.into()).map_err(|error| {
        anyhow::anyhow!("{error}. {} Or leave out --trigger ebpf to poll.", error.remedy())
    })?;
    Ok(Watch::new(options, kernel)?)
}

/// Reads every pod once, a loss until it is confirmed or over.
async fn list(args: &Args, mut watch: Watch) -> anyhow::Result<u8> {
    while !watch.decided() {
        tokio::select! {
            events = watch.step() => warn_of(&events),
            interrupt = tokio::signal::ctrl_c() => {
                interrupt?;
                anyhow::bail!("interrupted before every pod was read");
            }
        }
    }
    let report = watch.report();
    show::node_report(&report, args.output)?;
    Ok(exit_code(report.pods.iter().map(|pod| pod.state)))
}

/// Prints each event until Ctrl-C.
async fn follow(args: &Args, mut watch: Watch) -> anyhow::Result<u8> {
    let mut begun = false;
    let mut terminate = crate::signals::Terminate::listen()?;
    loop {
        tokio::select! {
            events = watch.step() => {
                warn_of(&events);
                if begun || args.output.is_for_programs() {
                    events::events(&watch, &events, args.output)?;
                } else if watch.decided() {
                    // People first see how things stand, then what changes.
                    begun = true;
                    show::node_report(&watch.report(), args.output)?;
                    output::line("Watching; Ctrl-C ends it.\n")?;
                }
            }
            interrupt = tokio::signal::ctrl_c() => break interrupt?,
            () = terminate.wait() => break,
        }
    }
    Ok(exit_code(watch.engine().views().map(|(_, view)| view.state)))
}

fn warn_of(events: &[Event]) {
    for event in events {
        match event {
            Event::RecordsLost(total) => {
                tracing::warn!(
                    total,
                    "the kernel's buffer was full and records were lost; all pods are read again"
                );
            }
            Event::KernelFailed(error) => {
                tracing::warn!(%error, "the kernel programs failed, polling from now on; restart to try them again");
            }
            Event::Census(Some(error)) => {
                tracing::warn!(%error, "the census failed and is tried again; meanwhile each change asks for a reading");
            }
            Event::Census(None) => tracing::info!("the census works again"),
            Event::Kernel { .. } | Event::Notice(_) => {}
        }
    }
}
