// SPDX-License-Identifier: Apache-2.0
//! `meshmedic gate`: an init container that lets a pod's containers start once ztunnel listens beside them.
//!
//! It reads its own namespace's socket tables and nothing else: no API, no eBPF, no privilege.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use meshmedic_common::duration;
use meshmedic_common::ports::PortSet;
use meshmedic_common::sockets::{Family, Reading, TableParser};

use crate::exit::UNDETERMINED;
use crate::output;
use crate::signals::Terminate;

/// Arguments of `meshmedic gate`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// For how long to wait; longer than an agent takes to see and heal the pod
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse, env = "MESHMEDIC_GATE_TIMEOUT")]
    timeout: Duration,
    /// Where the kubelet reads why this container ended
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/dev/termination-log",
        env = "MESHMEDIC_GATE_TERMINATION_LOG"
    )]
    termination_log: PathBuf,
}

const AFTER_HELP: &str = "\
Run it as the first init container of a pod that must never speak outside the mesh. After a
reboot init containers run again, so a pod that istio-cni forgot waits here, not Ready, until
its agent has healed it, and its containers never start outside the mesh. It looks for
ztunnel's listeners on 15001, 15006 and 15008; whether the redirection rules are there only
an agent with eBPF can tell.

Exit codes:
  0  ztunnel listens
  1  it did not in time; the log and the termination message say what was missing
  2  wrong usage
  3  the socket tables cannot be read

Examples:
  meshmedic gate                  wait five minutes at most
  meshmedic gate --timeout 10m    wait longer";

/// How often the tables are read: a listener is met within a page of them.
const AGAIN: Duration = Duration::from_millis(250);
/// No table is read beyond so many bytes: what is longer was made to be.
const TABLE_MOST: u64 = 16 * 1024 * 1024;
/// IPv6's first: a ztunnel with its default settings listens there even for pods without IPv6.
const TABLES: [(&str, Family); 2] = [
    ("/proc/self/net/tcp6", Family::Inet6),
    ("/proc/self/net/tcp", Family::Inet),
];

/// Waits until ztunnel listens.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(wait(args))
}

async fn wait(args: &Args) -> anyhow::Result<u8> {
    let begin = Instant::now();
    // As the first process of its container it would not be ended by the signal alone.
    let mut terminate = Terminate::listen().context("cannot listen for SIGTERM")?;
    let mut told = None;
    loop {
        let missing = match missing() {
            Ok(missing) => missing,
            Err(error) => {
                let why = format!("{error:#}: whether ztunnel listens cannot be told");
                tell_kubelet(&args.termination_log, &why);
                output::say(&why);
                return Ok(UNDETERMINED);
            }
        };
        if missing.is_empty() {
            output::line("ztunnel listens: the pod is captured")?;
            return Ok(0);
        }
        if told != Some(missing) {
            output::line(&format!("waiting for ztunnel to listen on {missing}"))?;
            told = Some(missing);
        }
        let left = args.timeout.saturating_sub(begin.elapsed());
        if left.is_zero() {
            let why = format!(
                "ztunnel does not listen on {missing} in this pod after {}: it is not captured, and its containers \
                 would speak outside the mesh. `meshmedic explain` of this pod tells why",
                duration::show(args.timeout)
            );
            tell_kubelet(&args.termination_log, &why);
            output::say(&why);
            return Ok(1);
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN.min(left)) => {}
            () = terminate.wait() => {
                tell_kubelet(&args.termination_log, "it was told to end before ztunnel listened");
                return Ok(1);
            }
        }
    }
}

/// The required ports on which nobody listens on the wildcard address. This is the pod's first container: whoever
/// listens is ztunnel.
fn missing() -> anyhow::Result<PortSet> {
    let mut reading = Reading::default();
    for (path, family) in TABLES {
        match File::open(path) {
            Ok(file) => read(file, family, &mut reading).with_context(|| format!("cannot read {path}"))?,
            // A kernel without IPv6 has no such file.
            Err(error) if error.kind() == ErrorKind::NotFound && family == Family::Inet6 => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        }
        if reading.is_complete() {
            break;
        }
    }
    Ok(PortSet::REQUIRED.difference(reading.wildcard_ports()))
}

fn read(file: File, family: Family, reading: &mut Reading) -> std::io::Result<()> {
    let mut parser = TableParser::new(family);
    let mut file = file.take(TABLE_MOST);
    let mut buffer = [0; 8192];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => parser.feed(buffer.get(..length).unwrap_or_default(), reading),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if reading.is_complete() || parser.listeners_ended() {
            break;
        }
    }
    parser.finish(reading);
    Ok(())
}

/// The kubelet shows it with the pod. Outside a container there is no such file, and nobody to tell.
fn tell_kubelet(path: &Path, why: &str) {
    if path.exists() {
        let _ = std::fs::write(path, why);
    }
}
