// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: how long a loss takes from the kernel's timestamp to the suspicion, and what an agent
//! costs at rest, and how long a scan takes.

mod doctor;
mod scan;
mod steady;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context as _, bail};
use clap::Args;
use meshmedic_agent::engine::Notice;
use meshmedic_agent::kernel;
use meshmedic_agent::time::Time;
use meshmedic_agent::watch::{Event, Options, PodSource, Watch};
use meshmedic_common::abi::CHANGE_OPENED;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::State;
use meshmedic_lab::{Lab, Pod, PodSpec, Ztunnel, ZtunnelSpec};
use serde_json::json;

use crate::demo::build;
use crate::test::{cargo, workspace_root};
use scan::Scans;
use steady::Steady;

/// As many pods as a big node has.
const PODS: usize = 200;
/// Losses to measure: enough for a 99th percentile that is not the maximum.
const LOSSES: usize = 300;
const LOSSES_QUICK: usize = 50;
/// Longer than any measurement: no loss gets as far as a verdict.
const CONFIRM: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(30);
/// What did not happen by then does not happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// What is measured: its name, in what mode, and within which time the 99th percentile is to be.
const CASES: [(&str, bool, Duration); 2] = [
    ("suspect by the census", true, Duration::from_millis(5)),
    ("suspect without a census", false, Duration::from_millis(25)),
];

/// What `cargo xtask bench` takes.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Fewer losses: a rough answer within seconds
    #[arg(long)]
    quick: bool,
    /// Only how long `meshmedic doctor` takes to judge a large cluster
    #[arg(long)]
    doctor: bool,
}

struct Outcome {
    what: &'static str,
    census: bool,
    target: Duration,
    delays: Vec<Duration>,
}

impl Outcome {
    /// The delay that `percent` of the losses stay within.
    fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.delays.len() * percent).div_ceil(100).max(1);
        self.delays[rank - 1]
    }

    fn met(&self) -> bool {
        self.percentile(99) <= self.target
    }
}

/// Measures, prints a table and writes the numbers down. Judges nothing: it says whether a target is met.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    // What an unoptimised build needs says nothing.
    if cfg!(debug_assertions) && env::var_os("CARGO").is_some() {
        let status = cargo(workspace_root()?)
            .args([
                "run",
                "--quiet",
                "--locked",
                "--profile",
                "quick",
                "--package",
                "xtask",
                "--",
                "bench",
            ])
            .args(args.quick.then_some("--quick"))
            .args(args.doctor.then_some("--doctor"))
            .status()
            .context("cannot start cargo")?;
        if !status.success() {
            std::process::exit(status.code().unwrap_or(1));
        }
        return Ok(());
    }
    if args.doctor {
        return doctor::run();
    }
    build(&["meshmedic-lab", "meshmedic-cli"])?;
    let losses = if args.quick { LOSSES_QUICK } else { LOSSES };
    say(&format!(
        "{losses} losses each, one at a time, on a lab node of {PODS} pods. From the kernel's\n\
         timestamp of the first closing listener to the suspicion, in milliseconds:\n"
    ))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    say(&format!(
        "{:<28}{:>9}{:>9}{:>9}{:>9}  p99 is",
        "", "p50", "p99", "max", "target"
    ))?;
    let mut outcomes = Vec::new();
    for (what, census, target) in CASES {
        let mut delays = runtime.block_on(measure(census, losses)).context(what)?;
        delays.sort_unstable();
        let outcome = Outcome {
            what,
            census,
            target,
            delays,
        };
        say(&format!(
            "{:<28}{:>9.2}{:>9.2}{:>9.2}{:>9.0}  {}",
            outcome.what,
            ms(outcome.percentile(50)),
            ms(outcome.percentile(99)),
            ms(outcome.percentile(100)),
            ms(outcome.target),
            if outcome.met() { "met" } else { "missed" }
        ))?;
        outcomes.push(outcome);
    }
    say("\nAn agent with repairs on, in a cluster at rest:\n")?;
    let steady = steady::measure().context("the agent at rest")?;
    say(&format!(
        "{} pods, {:.0} s: {:.1} MiB resident, {:.0} ms of CPU an hour, {} requests besides watches",
        steady.pods, steady.seconds, steady.resident_mib, steady.cpu_ms_an_hour, steady.requests
    ))?;
    say("\nA scan of 500 pods, each of which takes 50 ms to answer:\n")?;
    let scans = scan::measure().context("the scan")?;
    say(&format!("one after the other           {:>7.2} s", scans.serial))?;
    for (what, took, share, met) in scans.rows() {
        let met = if met { "met" } else { "missed" };
        say(&format!(
            "{what:<30}{took:>7.2} s, 1/{:.0} of it: {met}",
            1.0 / share
        ))?;
    }
    say(&format!(
        "memory at its peak: {:.1} MiB with 500 pods, {:.1} MiB with 5,000",
        scans.mib_few, scans.mib_many
    ))?;
    let file = write(&outcomes, &steady, &scans)?;
    say(&format!("\nWritten to {}", file.display()))
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn write(outcomes: &[Outcome], steady: &Steady, scans: &Scans) -> anyhow::Result<PathBuf> {
    let target = match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => folder.into(),
        None => workspace_root()?.join("target"),
    };
    let file = target.join("bench/detection.json");
    let folder = target.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let cases: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            json!({
                "what": outcome.what,
                "census": outcome.census,
                "pods": PODS,
                "losses": outcome.delays.len(),
                "p50Ms": ms(outcome.percentile(50)),
                "p99Ms": ms(outcome.percentile(99)),
                "maxMs": ms(outcome.percentile(100)),
                "targetP99Ms": ms(outcome.target),
                "met": outcome.met(),
            })
        })
        .collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let text = serde_json::to_string_pretty(&json!({
        "optimised": !cfg!(debug_assertions),
        "kernel": kernel.trim(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cases": cases,
        "agentAtRest": {
            "pods": steady.pods,
            "seconds": steady.seconds,
            "residentMib": steady.resident_mib,
            "cpuMsAnHour": steady.cpu_ms_an_hour,
            "requestsBesidesWatches": steady.requests,
        },
        "scan": {
            "pods": 500,
            "serialSeconds": scans.serial,
            "execSeconds": scans.exec,
            "agentSeconds": scans.agent,
            "peakMib500": scans.mib_few,
            "peakMib5000": scans.mib_many,
        },
    }))?;
    fs::write(&file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// The delays of so many losses.
async fn measure(use_census: bool, losses: usize) -> anyhow::Result<Vec<Duration>> {
    let kernel = match kernel::load(&kernel::Options::default()) {
        Ok(kernel) => kernel,
        Err(error) => bail!(
            "eBPF is what is measured, and there is none: {error}. {}",
            error.remedy()
        ),
    };
    let lab = Lab::isolated()?;
    let ztunnel = Arc::new(lab.ztunnel(ZtunnelSpec::default())?);
    let pods = lab.pods((0..PODS).map(|number| PodSpec::new("bench", &format!("pod-{number}"))))?;
    ztunnel.enrol_many(&pods)?;
    let options = Options {
        node: "lab".to_owned(),
        proc_root: lab.proc_root().to_owned(),
        pods: PodSource::Node(lab.log_root().to_owned()),
        confirm: CONFIRM,
        // The lab's ztunnel is known to be well.
        settle: Duration::ZERO,
        interval: INTERVAL,
        use_census,
    };
    let mut watch = Watch::new(options, Some(kernel))?;
    let uids: Vec<PodUid> = pods
        .iter()
        .map(|pod| PodUid::parse(pod.uid()).context("the lab's UIDs are those of pods"))
        .collect::<anyhow::Result<_>>()?;
    let captured = |watch: &Watch, uid: &PodUid| {
        let view = watch.engine().view(uid);
        view.is_some_and(|view| view.state == State::Captured)
    };
    until(&mut watch, "all pods to be captured and read", |watch, _| {
        watch.decided() && uids.iter().all(|uid| captured(watch, uid))
    })
    .await?;

    let mut delays = Vec::with_capacity(losses);
    for round in 0..losses {
        // Not one after the other as they were made.
        let number = round * 37 % PODS;
        let uid = &uids[number];
        delays.push(loss(&mut watch, &ztunnel, &pods[number], uid).await?);
        let (again, pod) = (Arc::clone(&ztunnel), pods[number].clone());
        let enrolling = tokio::task::spawn_blocking(move || again.enrol(&pod));
        // Until nothing is left to do: a measurement begins on an idle agent, as nearly every loss does.
        until(&mut watch, "the pod to be captured again", |watch, _| {
            enrolling.is_finished() && captured(watch, uid) && watch.decided()
        })
        .await?;
        enrolling.await??;
    }
    Ok(delays)
}

/// Takes one pod's listeners away; the time from the kernel's record to the suspicion.
async fn loss(
    watch: &mut Watch,
    ztunnel: &Arc<Ztunnel>,
    pod: &Pod,
    uid: &PodUid,
) -> anyhow::Result<Duration> {
    let mut stamp: Option<Time> = None;
    let mut suspected: Option<Time> = None;
    let (ztunnel, pod) = (Arc::clone(ztunnel), pod.clone());
    let leaving = tokio::task::spawn_blocking(move || ztunnel.unenrol(&pod));
    until(
        watch,
        "the pod to be suspect, with a record of the kernel",
        |_, events| {
            // When the caller has it: an instant taken inside would leave out what comes after it.
            let now = Time::now();
            for event in events {
                match event {
                    Event::Kernel { change, uid: of } if of == uid => {
                        // Of any port: DNS capture may close first, and its record has the census run.
                        let closed = change.change != CHANGE_OPENED;
                        if closed {
                            stamp.get_or_insert(Time::from_nanos(change.at_ns));
                        }
                    }
                    Event::Notice(Notice::Pod(change))
                        if change.uid == *uid && change.to == State::Suspect =>
                    {
                        suspected.get_or_insert(now);
                    }
                    _ => {}
                }
            }
            // A census that ran for another reason may be ahead of the record, by nothing worth counting.
            stamp.is_some() && suspected.is_some() && leaving.is_finished()
        },
    )
    .await?;
    leaving.await??;
    match (stamp, suspected) {
        (Some(stamp), Some(suspected)) => Ok(suspected.since(stamp)),
        _ => bail!("{uid} became suspect without a record of the kernel"),
    }
}

async fn until(
    watch: &mut Watch,
    what: &str,
    mut condition: impl FnMut(&Watch, &[Event]) -> bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    let mut events = Vec::new();
    while !condition(watch, &events) {
        if Instant::now() >= deadline {
            bail!("waited {DEADLINE:?} in vain for {what}");
        }
        // The condition may hang on the lab's own task as well, of which the watch knows nothing.
        events = tokio::time::timeout(Duration::from_millis(20), watch.step())
            .await
            .unwrap_or_default();
    }
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout().lock(), "{text}").context("cannot write")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_percentile_is_not_the_maximum_of_many() {
        let delays = (1..=200).map(Duration::from_millis).collect();
        let outcome = Outcome {
            what: "",
            census: true,
            target: Duration::from_millis(198),
            delays,
        };
        assert_eq!(outcome.percentile(50), Duration::from_millis(100));
        assert_eq!(outcome.percentile(99), Duration::from_millis(198));
        assert_eq!(outcome.percentile(100), Duration::from_millis(200));
        assert!(outcome.met());
    }
}
