// SPDX-License-Identifier: Apache-2.0
//! What it costs to verify that every pod is captured, and how that grows.

use std::fs::File;
use std::io::Read as _;

use anyhow::ensure;
use meshmedic_agent::watch::Watch;
use meshmedic_common::time::Time;

use super::baseline;
use super::figures::{Column, Figure, Line, Part, Plot, Row, digits, ms};
use super::scene::{NEVER, Scene, cpu, no_ebpf, runtime};

/// What is a node like?
#[derive(Clone, Copy)]
struct Size {
    pods: usize,
    bystanders: usize,
    /// Established sockets of each pod.
    sockets: usize,
}

const fn size(pods: usize, bystanders: usize, sockets: usize) -> Size {
    Size {
        pods,
        bystanders,
        sockets,
    }
}

/// The node of the targets.
const BIG: Size = size(250, 500, 0);
/// It grows in pods, in processes of no pod, and in established sockets.
const PODS: [Size; 3] = [size(20, 500, 0), size(100, 500, 0), BIG];
const PROCESSES: [Size; 2] = [size(100, 500, 0), size(100, 5_000, 0)];
const SOCKETS: [Size; 3] = [size(4, 100, 0), size(4, 100, 100), size(4, 100, 16_000)];
/// As much as the agent asks for at once.
const BUFFER: usize = 4096;
/// Growth counts as linear, or as none, up to this factor: what is measured is shared with others.
const SLACK: f64 = 1.5;

/// The processor time of one verification, in milliseconds, in each round.
#[derive(Default)]
struct Costs {
    baseline: Vec<f64>,
    polling: Vec<f64>,
    ebpf: Vec<f64>,
    /// Of the kernel alone: one look into the table of each pod, as far as it fills the first buffer.
    walk: Vec<f64>,
}

impl Costs {
    fn of(&self, column: Column) -> &[f64] {
        match column {
            Column::Polling => &self.polling,
            Column::Ebpf | Column::Both => &self.ebpf,
        }
    }
}

/// Measures nodes of all sizes.
pub(super) fn measure(quick: bool) -> anyhow::Result<Part> {
    let rounds = if quick { 3 } else { 9 };
    let reason = no_ebpf();
    let with_ebpf = reason.is_none();
    let costs = |size: Size| measure_one(size, rounds, with_ebpf);
    let mut part = Part::default();
    let pods = if quick { &PODS[..2] } else { &PODS[..] };
    let by_pods = pods
        .iter()
        .map(|size| costs(*size))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for (size, costs) in pods.iter().zip(&by_pods) {
        let what = format!("one verification of {} captured pods", size.pods);
        for (column, share) in [(Column::Polling, 4.0), (Column::Ebpf, 500.0)] {
            part.rows
                .push(row(&what, column, costs, share, reason.as_deref()));
        }
    }
    let growth =
        |part: &mut Part, what: &str, sizes: &[Size], by: &[Costs], linear: bool, x: fn(&Size) -> usize| {
            for column in Column::EACH {
                part.rows
                    .push(growth_row(what, column, sizes, by, linear, reason.as_deref()));
            }
            part.plots.push(plot(what, sizes, by, x));
        };
    growth(&mut part, "by pods", pods, &by_pods, true, |size| size.pods);
    drop(by_pods);
    let processes = if quick {
        [size(20, 100, 0), size(20, 1_000, 0)]
    } else {
        PROCESSES
    };
    let by_processes = processes
        .iter()
        .map(|size| costs(*size))
        .collect::<anyhow::Result<Vec<_>>>()?;
    part.rows.push(more_processes(&processes, &by_processes));
    part.rows.push(growth_row(
        "by other processes",
        Column::Ebpf,
        &processes,
        &by_processes,
        false,
        reason.as_deref(),
    ));
    part.plots
        .push(plot("by other processes", &processes, &by_processes, |size| {
            size.bystanders
        }));
    let sockets = if quick { &SOCKETS[..2] } else { &SOCKETS[..] };
    let by_sockets = sockets
        .iter()
        .map(|size| costs(*size))
        .collect::<anyhow::Result<Vec<_>>>()?;
    growth(
        &mut part,
        "by established sockets of a pod",
        sockets,
        &by_sockets,
        false,
        |size| size.sockets,
    );
    if let (Some(size), Some(costs)) = (sockets.last(), by_sockets.last()) {
        part.rows.push(
            Row::new(
                format!(
                    "one verification of {} pods with {} sockets each, beside the kernel's own walk",
                    size.pods, size.sockets
                ),
                Column::Polling,
                "ms of CPU",
                &costs.polling,
            )
            .beside(&costs.polling, &costs.walk)
            .within_times(1.3)
            .because("the rest proves before and after each reading whose process it is")
            .remark("the baseline is one read of each pod's table, which any answer costs"),
        );
    }
    Ok(part)
}

fn row(what: &str, column: Column, costs: &Costs, share: f64, no_ebpf: Option<&str>) -> Row {
    if let (Column::Ebpf, Some(why)) = (column, no_ebpf) {
        return Row::absent(what, column, why);
    }
    let ours = costs.of(column);
    Row::new(what, column, "ms of CPU", ours)
        .beside(ours, &costs.baseline)
        .within_share(share)
        .because(match column {
            Column::Polling => "where ztunnel's are the only IPv6 listeners, the kernel walks its hash once for the last of them",
            _ => "the row is near the resolution of what wakes a process",
        })
}

/// How the cost of a pod changes from the smallest to the biggest node.
fn growth_row(
    what: &str,
    column: Column,
    sizes: &[Size],
    by: &[Costs],
    linear: bool,
    no_ebpf: Option<&str>,
) -> Row {
    let what = format!(
        "growth {what}: what {} costs on the biggest node, by the smallest",
        if linear { "a pod" } else { "it" }
    );
    if let (Column::Ebpf, Some(why)) = (column, no_ebpf) {
        return Row::absent(what, column, why);
    }
    let cost = |at: usize| -> f64 {
        let (Some(costs), Some(size)) = (by.get(at), sizes.get(at)) else {
            return f64::NAN;
        };
        let per = if linear { size.pods as f64 } else { 1.0 };
        Figure::of(costs.of(column)).median / per
    };
    let (first, last) = (cost(0), cost(by.len().saturating_sub(1)));
    Row::new(what, column, "times", &[last / first])
        .within(SLACK)
        .because(match column {
            Column::Polling => {
                "a walk of the kernel's hash, where one is paid, passes the sockets of all pods"
            }
            _ => "with so few pods the row is near the resolution of what wakes a process",
        })
        .remark(&format!("from {} to {} ms of CPU", digits(first), digits(last)))
}

/// Polling lists all processes each time, but of those that it knows it reads nothing.
fn more_processes(sizes: &[Size], by: &[Costs]) -> Row {
    let more = |of: fn(&Costs) -> &[f64]| -> f64 {
        let median = |costs: Option<&Costs>| costs.map_or(f64::NAN, |costs| Figure::of(of(costs)).median);
        median(by.last()) - median(by.first())
    };
    let (ours, baseline) = (more(|costs| &costs.polling), more(|costs| &costs.baseline));
    let count = |size: Option<&Size>| size.map_or(0, |size| size.bystanders);
    let more = count(sizes.last()) - count(sizes.first());
    Row::new(
        format!("growth by other processes: {more} more of them"),
        Column::Polling,
        "ms of CPU",
        &[ours],
    )
    .beside(&[ours], &[baseline])
    .within_share(4.0)
}

fn plot(what: &str, sizes: &[Size], by: &[Costs], x: fn(&Size) -> usize) -> Plot {
    let line = |name: &str, of: fn(&Costs) -> &[f64]| Line {
        name: name.to_owned(),
        points: sizes
            .iter()
            .zip(by)
            .filter(|(_, costs)| !of(costs).is_empty())
            .map(|(size, costs)| (x(size) as f64, Figure::of(of(costs)).median))
            .collect(),
    };
    Plot {
        title: format!("CPU of one verification {what}"),
        x: what.trim_start_matches("by ").to_owned(),
        y: "ms of CPU".to_owned(),
        lines: vec![
            line("baseline", |costs| &costs.baseline),
            line("polling", |costs| &costs.polling),
            line("eBPF", |costs| &costs.ebpf),
        ],
    }
}

fn measure_one(size: Size, rounds: usize, with_ebpf: bool) -> anyhow::Result<Costs> {
    let scene = Scene::new(size.pods, size.bystanders)?;
    if size.sockets > 0 {
        for pod in &scene.pods {
            pod.connections(size.sockets)?;
        }
    }
    runtime()?.block_on(async {
        let mut polling = scene.watch(Column::Polling, NEVER).await?;
        let mut ebpf = match with_ebpf {
            true => Some(scene.watch(Column::Ebpf, NEVER).await?),
            false => None,
        };
        come_to_know(&mut polling, size.pods).await?;
        let names = scene.names();
        let mut costs = Costs::default();
        for _ in 0..rounds {
            let before = cpu();
            let captured = baseline::sweep(scene.root(), &names)?;
            costs.baseline.push(ms(cpu().saturating_sub(before)));
            ensure!(
                captured == names.len(),
                "the baseline found {captured} pods captured"
            );
            costs.walk.push(walk(&scene)?);
            costs.polling.push(verify(&mut polling, size.pods).await?);
            if let Some(ebpf) = &mut ebpf {
                costs.ebpf.push(verify(ebpf, 0).await?);
                ensure!(scene.all_captured(ebpf), "the census lost a pod");
            }
        }
        ensure!(scene.all_captured(&polling), "a reading lost a pod");
        Ok(costs)
    })
}

/// What the kernel alone needs to fill one buffer from the table of each pod.
fn walk(scene: &Scene) -> anyhow::Result<f64> {
    let mut buffer = vec![0; BUFFER];
    let before = cpu();
    for pod in &scene.pods {
        let path = scene.root().join(format!("{}/net/tcp6", pod.pid()));
        let read = File::open(path)?.read(&mut buffer)?;
        ensure!(read > 0, "a pod's table is empty");
    }
    Ok(ms(cpu().saturating_sub(before)))
}

/// Verifies until no process is read any more: those that were made for the scene are young at first, and are read
/// until they are not.
async fn come_to_know(polling: &mut Watch, pods: usize) -> anyhow::Result<()> {
    loop {
        let before = polling.counters().processes_read;
        verify(polling, pods).await?;
        if polling.counters().processes_read == before {
            return Ok(());
        }
    }
}

/// Has every pod verified, which takes so many readings.
async fn verify(watch: &mut Watch, readings: usize) -> anyhow::Result<f64> {
    let read = |watch: &Watch| {
        let counters = watch.counters();
        counters.complete + counters.partial + counters.none + counters.unreadable
    };
    let wanted = read(watch) + readings as u64;
    let before = cpu();
    watch.sweep(Time::now());
    while read(watch) < wanted {
        watch.step().await;
    }
    Ok(ms(cpu().saturating_sub(before)))
}
