// SPDX-License-Identifier: Apache-2.0
//! What the kernel programs cost, by the kernel's own counters, and when records are lost.

use std::collections::HashSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use aya::programs::{ProgramInfo, loaded_programs};
use aya::sys::{Stats, enable_stats};
use meshmedic_agent::kernel::{self, Census, Kernel, Options};
use meshmedic_common::abi::{ListenChange, PORT_INBOUND_HBONE};
use meshmedic_lab::rules::{Filter, IstioRules};
use meshmedic_lab::{Churn, Pod, PodSpec, cpu_time};
use rustix::event::{EventfdFlags, eventfd};

use super::figures::{Column, Part, Row, ms};
use super::scene::{NEVER, Scene, cpu, load, no_ebpf, runtime};

/// The name of the program on the tracepoint.
const TRIGGER: &str = "trigger";
/// A port that nobody cares about.
const OTHER_PORT: u16 = 20_001;
/// Matching events a second that must not be lost. Each listener that comes and goes makes two.
const RATE: u32 = 10_000;
/// Listeners whose records, two each, fit into the ring unread.
const UNREAD: u32 = 3_000;
/// The pods whose rules a census reads.
const PODS: usize = 250;
/// A census that reads rules may cost so many times what one costs that does not.
const RULES_MOST: f64 = 1.3;
/// A transition that is not ours may cost so many times what it costs a program that counts no connections.
const COUNTING_MOST: f64 = 1.2;
/// Unrelated listens a second.
const STORM: u32 = 10_000;

const fn churn(port: Option<u16>, times: u32, per_second: Option<u32>) -> Churn {
    let listen = match port {
        Some(port) => Some(SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)),
        None => None,
    };
    Churn {
        listen,
        times,
        per_second,
    }
}

/// Measures with the kernel's counters on, which makes everything a little slower.
pub(super) fn measure(quick: bool) -> anyhow::Result<Part> {
    let mut part = Part::default();
    if let Some(why) = no_ebpf() {
        part.rows
            .push(Row::absent("the kernel programs", Column::Ebpf, &why));
        return Ok(part);
    }
    let (rounds, times) = if quick { (3, 500) } else { (7, 4_000) };
    let scene = Scene::new(20, 0)?;
    let outside = scene.lab.pod(PodSpec::new("bench", "outside"))?;
    part.rows.extend(programs(&outside, rounds, times)?);
    part.rows.extend(counting(&outside, rounds, times)?);
    part.rows.extend(censuses(rounds, if quick { 20 } else { PODS })?);
    let seconds = if quick { 2 } else { 20 };
    part.rows.extend(losses(&outside, seconds)?);
    part.rows
        .extend(runtime()?.block_on(storms(&scene, &outside, seconds))?);
    Ok(part)
}

/// Nanoseconds a run of the trigger.
fn programs(outside: &Pod, rounds: usize, times: u32) -> anyhow::Result<Vec<Row>> {
    let _counting = enable_stats(Stats::RunTime).context("the kernel does not count")?;
    let (kernel, program) = load_and_find(&Options::default())?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let reader = std::thread::spawn(move || read_until(kernel, stopped));
    let mut rows = Vec::new();
    for (what, port, per_second, target) in [
        ("a transition that is none of LISTEN", None, None, 80.0),
        ("a LISTEN of another port", Some(OTHER_PORT), None, 120.0),
        // Slowly, so that each finds its reader asleep.
        (
            "a LISTEN of a capture port, which wakes a reader",
            Some(PORT_INBOUND_HBONE),
            Some(2_000),
            4_000.0,
        ),
    ] {
        let nanoseconds = (0..rounds)
            .map(|_| of_one_run(program, outside, churn(port, times, per_second)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let row = Row::new(format!("kernel side: {what}"), Column::Ebpf, "ns", &nanoseconds)
            .within(target)
            .because("all but what the next row shows is the interrupt that wakes the reader");
        rows.push(match port {
            Some(PORT_INBOUND_HBONE) => row
                .beside(&nanoseconds, &bare_wakes(rounds, times)?)
                .remark("the baseline is a write to an eventfd on which a thread sleeps"),
            _ => row,
        });
    }
    drop(stop);
    reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader broke off"))??;
    // Whoever has not read the last record is not woken for the next.
    let (mut kernel, program) = load_and_find(&Options::default())?;
    let mut batch = Vec::new();
    let unread = times.min(UNREAD);
    let mut nanoseconds = Vec::new();
    for _ in 0..rounds {
        nanoseconds.push(of_one_run(
            program,
            outside,
            churn(Some(PORT_INBOUND_HBONE), unread, None),
        )?);
        kernel.trigger.drain(&mut batch);
        batch.clear();
    }
    rows.push(Row::new(
        "kernel side: a LISTEN of a capture port, while its reader is behind",
        Column::Ebpf,
        "ns",
        &nanoseconds,
    ));
    Ok(rows)
}

/// What it costs the connections of everybody else that those of pods are counted: beside the same program without.
fn counting(outside: &Pod, rounds: usize, times: u32) -> anyhow::Result<Vec<Row>> {
    let _counting = enable_stats(Stats::RunTime).context("the kernel does not count")?;
    let (with, counts) = load_and_find(&Options::default())?;
    let (without, counts_not) = load_and_find(&Options {
        count_connections: false,
        ..Options::default()
    })?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        // Both see each transition.
        let before = (runs(counts)?, runs(counts_not)?);
        outside.churn(churn(None, times, None))?;
        ours.push(mean(before.0, runs(counts)?, times)?);
        bare.push(mean(before.1, runs(counts_not)?, times)?);
    }
    drop((with, without));
    let row = Row::new(
        "kernel side: a transition that is none of LISTEN, beside a program that counts no connections",
        Column::Ebpf,
        "ns",
        &ours,
    );
    Ok(vec![row.beside(&ours, &bare).within_times(COUNTING_MOST)])
}

/// Nanoseconds that a write takes which wakes a sleeping thread, in each round.
fn bare_wakes(rounds: usize, times: u32) -> anyhow::Result<Vec<f64>> {
    let bell = eventfd(0, EventfdFlags::empty())?;
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| -> anyhow::Result<()> {
            let (mut seen, mut count) = (0, [0; 8]);
            while seen < rounds as u64 * u64::from(times) {
                rustix::io::read(&bell, &mut count)?;
                seen += u64::from_ne_bytes(count);
            }
            Ok(())
        });
        let mut nanoseconds = Vec::new();
        for _ in 0..rounds {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                // Until it sleeps again.
                std::thread::sleep(Duration::from_micros(500));
                let before = Instant::now();
                rustix::io::write(&bell, &1_u64.to_ne_bytes())?;
                spent += before.elapsed();
            }
            nanoseconds.push(spent.as_nanos() as f64 / f64::from(times));
        }
        sleeper
            .join()
            .map_err(|_| anyhow::anyhow!("the sleeper broke off"))??;
        Ok(nanoseconds)
    })
}

/// What a census costs with the redirection rules of captured pods, and without, by packet filter.
fn censuses(rounds: usize, pods: usize) -> anyhow::Result<Vec<Row>> {
    let census = |census_rules: bool| {
        let options = Options {
            census_rules,
            ..Options::default()
        };
        anyhow::Ok(kernel::load(&options)?.census)
    };
    let mut rows = Vec::new();
    for (filter, what) in [
        (Filter::IptablesNft, "nf_tables by iptables"),
        (Filter::Nft, "nf_tables by nft"),
        (Filter::Legacy, "legacy tables"),
    ] {
        let what = format!("census of one pod's listeners and rules, {what}");
        let scene = Scene::new(pods, 0)?;
        let istio = IstioRules {
            filter,
            dns: true,
            ipv6: true,
        };
        let [first, others @ ..] = scene.pods.as_slice() else {
            continue;
        };
        if let Err(why) = istio.write(Some(first.pid())) {
            rows.push(Row::absent(what, Column::Ebpf, &why.to_string()));
            continue;
        }
        for pod in others {
            istio.write(Some(pod.pid()))?;
        }
        let (mut with, mut without) = (census(true)?, census(false)?);
        let ztunnel = [scene.ztunnel.pid()];
        let times = (20_000 / scene.pods.len()) as u32;
        let of_one = |census: &mut Census| {
            let mut rows = Vec::new();
            let before = cpu();
            for _ in 0..times {
                rows.clear();
                census.of(&ztunnel, &mut rows)?;
            }
            let spent = cpu().saturating_sub(before);
            anyhow::Ok(spent.as_secs_f64() * 1e6 / f64::from(times) / scene.pods.len() as f64)
        };
        let (mut bare, mut full) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            bare.push(of_one(&mut without)?);
            full.push(of_one(&mut with)?);
        }
        let row = Row::new(what, Column::Ebpf, "µs", &full);
        rows.push(row.beside(&full, &bare).within_times(RULES_MOST));
    }
    Ok(rows)
}

/// What one run of the program took on average, in nanoseconds.
fn of_one_run(program: u32, outside: &Pod, churn: Churn) -> anyhow::Result<f64> {
    let before = runs(program)?;
    let times = churn.times;
    outside.churn(churn)?;
    mean(before, runs(program)?, times)
}

/// Nanoseconds a run, of at least so many.
fn mean(before: (Duration, u64), after: (Duration, u64), least: u32) -> anyhow::Result<f64> {
    let count = after.1 - before.1;
    ensure!(count >= u64::from(least), "the program ran {count} times only");
    Ok((after.0 - before.0).as_nanos() as f64 / count as f64)
}

/// Takes records as they come.
fn read_until(mut kernel: Kernel, mut stopped: tokio::sync::oneshot::Receiver<()>) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                _ = &mut stopped => return Ok(()),
                taken = kernel.trigger.next(&mut batch) => taken?,
            }
            batch.clear();
        }
    })
}

/// The programs, and the number of the one on the tracepoint.
fn load_and_find(options: &Options) -> anyhow::Result<(Kernel, u32)> {
    let triggers = || -> anyhow::Result<HashSet<u32>> {
        let programs = loaded_programs().collect::<Result<Vec<ProgramInfo>, _>>();
        let programs = programs.context("the kernel lists no programs")?;
        let own = programs
            .iter()
            .filter(|program| program.name_as_str() == Some(TRIGGER));
        Ok(own.map(ProgramInfo::id).collect())
    };
    let before = triggers()?;
    let kernel = kernel::load(options)?;
    let after = triggers()?;
    let program = after.difference(&before).max().copied();
    Ok((
        kernel,
        program.context("the program is not among the loaded ones")?,
    ))
}

/// For how long and how often a program ran.
fn runs(program: u32) -> anyhow::Result<(Duration, u64)> {
    let info = loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == program)
        .context("the program is gone")?;
    Ok((info.run_time(), info.run_count()))
}

/// Records come whole at the rate that is promised; beyond it, what is lost is counted.
fn losses(outside: &Pod, seconds: u32) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let own = |batch: &[ListenChange], netns: u64| {
        batch
            .iter()
            .filter(|change| u64::from(change.netns) == netns)
            .count() as u64
    };
    let netns = outside.netns()?;
    let mut kernel = load()?;
    let mut batch = Vec::new();
    let times = RATE / 2 * seconds;
    let seen = std::thread::scope(|scope| -> anyhow::Result<u64> {
        let sender = scope.spawn(|| outside.churn(churn(Some(PORT_INBOUND_HBONE), times, Some(RATE / 2))));
        let mut seen = 0;
        loop {
            let ended = sender.is_finished();
            kernel.trigger.drain(&mut batch);
            seen += own(&batch, netns);
            batch.clear();
            if ended {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        sender
            .join()
            .map_err(|_| anyhow::anyhow!("the sender broke off"))??;
        Ok(seen)
    })?;
    let lost = u64::from(times * 2).saturating_sub(seen);
    rows.push(
        Row::new(
            format!("records lost of {} at {RATE} a second", times * 2),
            Column::Ebpf,
            "records",
            &[lost as f64],
        )
        .target("none", lost == 0),
    );
    // Nobody reads meanwhile.
    let before = kernel.trigger.lost()?;
    let flood = 10_000_u32;
    outside.churn(churn(Some(PORT_INBOUND_HBONE), flood, None))?;
    kernel.trigger.drain(&mut batch);
    let kept = own(&batch, netns);
    let lost = kernel.trigger.lost()? - before;
    rows.push(
        Row::new(
            format!("records lost of {} while no one reads", flood * 2),
            Column::Ebpf,
            "records",
            &[lost as f64],
        )
        .target("each is counted", lost > 0 && kept + lost >= u64::from(flood) * 2),
    );
    Ok(rows)
}

/// What a whole watch pays for events that concern none of its pods.
async fn storms(scene: &Scene, outside: &Pod, seconds: u32) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut watch = scene.watch(Column::Ebpf, NEVER).await?;
    for (what, port, rate) in [
        ("no event", None, 0),
        ("10,000 unrelated listens a second", Some(OTHER_PORT), STORM),
        (
            "10,000 matching events a second of an unknown netns",
            Some(PORT_INBOUND_HBONE),
            RATE / 2,
        ),
    ] {
        let (before, lost) = (cpu(), watch.counters().records_lost);
        let of_sender = cpu_time(outside.pid())?;
        let pod = outside.clone();
        let storm = tokio::task::spawn_blocking(move || match rate {
            0 => {
                std::thread::sleep(Duration::from_secs(seconds.into()));
                Ok(())
            }
            rate => pod.churn(churn(port, rate * seconds, Some(rate))),
        });
        while !storm.is_finished() {
            // A storm of events that nobody hears wakes nobody.
            let _ = tokio::time::timeout(Duration::from_millis(100), watch.step()).await;
        }
        storm.await??;
        let spent = ms(cpu().saturating_sub(before)) / f64::from(seconds);
        let sender = ms(cpu_time(outside.pid())?.saturating_sub(of_sender)) / f64::from(seconds);
        let lost = watch.counters().records_lost - lost;
        let row = Row::new(format!("a second of {what}"), Column::Ebpf, "ms of CPU", &[spent]);
        rows.push(if rate == 0 {
            row
        } else {
            row.target("no record lost", lost == 0)
                .remark(&format!("the load itself takes {sender:.0} ms"))
        });
        ensure!(scene.all_captured(&watch), "a storm made the watch lose a pod");
    }
    Ok(rows)
}
