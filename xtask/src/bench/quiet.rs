// SPDX-License-Identifier: Apache-2.0
//! What whole agents cost with the default flags: an hour in which nothing happens, memory, and what they ask of
//! the API when ztunnel restarts. One agent polls and one uses eBPF, side by side over the same node.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use meshmedic_lab::{Churn, Cluster, Pod, PodSpec, wait};

use super::baseline;
use super::figures::{Column, Part, Row, ms};
use super::rest::{Agent, COME_TO_REST, NODE, USER, cluster, is_shipped, program};
use super::scene::{cpu, no_ebpf};

const NAMESPACE: &str = "bench";
/// The node of the hour, and that of the memory.
const PODS: usize = 100;
const PODS_OF_MEMORY: usize = 250;
const PODS_EACH: usize = 50;
const PROCESSES: usize = 3_000;
const DEADLINE: Duration = Duration::from_secs(120);
/// Both the agent's default and the original's.
const INTERVAL: u64 = 60;
const HOUR: u64 = 3_600;
/// Neither required nor bound by default: whoever opens it takes nothing away.
const SOCKS: u16 = 15_080;
/// Events in one go, and how many a second.
const BATCH: u32 = 100_000;
const RATE: u32 = 10_000;

/// The agents, and how they are told apart.
type Agents = Vec<(Column, Agent)>;

pub(super) fn measure(quick: bool) -> anyhow::Result<Part> {
    let mut part = Part::default();
    let (pods, processes) = if quick { (20, 500) } else { (PODS, PROCESSES) };
    // A quick answer has no time for a whole interval.
    let interval = if quick { 5 } else { INTERVAL };
    let cluster = cluster()?;
    cluster.namespace(NAMESPACE, true)?;
    let mut apps = 0;
    let first = grow(&cluster, &mut apps, pods)?;
    cluster.node(NODE)?.lab().bystanders(processes)?;
    let agents = start(&cluster, pods, &format!("{interval}s"))?;
    let rest = if quick {
        Duration::from_secs(6)
    } else {
        COME_TO_REST
    };
    std::thread::sleep(rest);
    part.rows.extend(hours(
        &cluster,
        &agents,
        &first,
        processes,
        interval,
        if quick { 1 } else { 3 },
    )?);
    if !quick {
        grow(&cluster, &mut apps, PODS_OF_MEMORY - pods)?;
        let all = PODS_OF_MEMORY;
        wait::until("the agents to know all pods", DEADLINE, || {
            agents.iter().all(|(_, agent)| agent.captured() == all)
        })?;
    }
    part.rows.extend(memory(
        &cluster,
        &agents,
        first.first().context("there are pods")?,
        quick,
    )?);
    part.rows.push(restart(&cluster, &agents)?);
    part.rows.push(binary()?);
    if let Some(why) = no_ebpf() {
        part.rows
            .push(Row::absent("an agent at rest", Column::Ebpf, &why));
    }
    Ok(part)
}

/// So many more pods, all captured.
pub(super) fn grow(cluster: &Cluster, apps: &mut usize, count: usize) -> anyhow::Result<Vec<Pod>> {
    let mut pods = Vec::new();
    while pods.len() < count {
        let name = format!("app-{apps}");
        let each = PODS_EACH.min(count - pods.len());
        cluster.deployment(NAMESPACE, &name, each)?;
        pods.extend(cluster.wait_captured(NAMESPACE, &name, each)?);
        *apps += 1;
    }
    Ok(pods)
}

fn start(cluster: &Cluster, pods: usize, interval: &str) -> anyhow::Result<Agents> {
    let mut agents = Agents::new();
    for column in Column::EACH {
        if column == Column::Ebpf && no_ebpf().is_some() {
            continue;
        }
        let flags = ["--trigger", column.trigger(), "--interval", interval];
        agents.push((column, Agent::start(cluster, NODE, &flags)?));
    }
    wait::until("the agents to know all pods", DEADLINE, || {
        agents.iter().all(|(_, agent)| agent.captured() == pods)
    })?;
    Ok(agents)
}

/// Windows of one interval, scaled to an hour; in each the baseline sweeps once.
fn hours(
    cluster: &Cluster,
    agents: &Agents,
    pods: &[Pod],
    processes: usize,
    interval: u64,
    windows: usize,
) -> anyhow::Result<Vec<Row>> {
    let names: Vec<String> = pods.iter().map(|pod| pod.uid().to_owned()).collect();
    let root = cluster.node(NODE)?.lab().proc_root().to_owned();
    let per_hour = HOUR as f64 / interval as f64;
    let mut baselines = Vec::new();
    let mut spent: Vec<Vec<f64>> = vec![Vec::new(); agents.len()];
    for _ in 0..windows {
        let before = agents
            .iter()
            .map(|(_, agent)| agent.cpu())
            .collect::<anyhow::Result<Vec<_>>>()?;
        let own = cpu();
        let captured = baseline::sweep(&root, &names)?;
        baselines.push(ms(cpu().saturating_sub(own)) * per_hour);
        ensure!(
            captured == names.len(),
            "the baseline found {captured} pods captured"
        );
        std::thread::sleep(Duration::from_secs(interval));
        for ((spent, (_, agent)), before) in spent.iter_mut().zip(agents).zip(before) {
            spent.push(ms(agent.cpu()?.saturating_sub(before)) * per_hour);
        }
    }
    let rows = agents.iter().zip(spent).map(|((column, _), spent)| {
        let what = format!(
            "CPU an hour at rest, {} pods, {processes} processes, sweeps each {interval} s",
            pods.len()
        );
        Row::new(what, *column, "ms", &spent)
            .beside(&spent, &baselines)
            .within_share(if *column == Column::Polling { 8.0 } else { 1_000.0 })
            .because(match column {
                Column::Polling => "all processes are listed and every pod is read each time",
                _ => {
                    "the census is less than half of it; the rest are the watches' bookmarks, the report that is made \
                     anew twice a minute, and the turns of the loop"
                }
            })
    });
    Ok(rows.collect())
}

fn memory(cluster: &Cluster, agents: &Agents, inside: &Pod, quick: bool) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let before = residents(agents)?;
    for ((column, agent), resident) in agents.iter().zip(&before) {
        let what = format!("resident memory, {} pods", agent.captured());
        rows.push(Row::new(what, *column, "MiB", &[*resident]).within(16.0));
    }
    let outside = cluster
        .node(NODE)?
        .lab()
        .pod(PodSpec::new(NAMESPACE, "outside"))?;
    let batches = if quick { 0 } else { 5 };
    let (each, rate) = if quick { (10_000, RATE) } else { (BATCH, RATE) };
    // Each listener makes two events; half of them in a pod of the node, half in an unknown namespace.
    let churn = |pod: &Pod| {
        pod.churn(Churn {
            listen: Some(([0; 8], SOCKS).into()),
            times: each / 2,
            per_second: Some(rate / 2),
        })
    };
    let mut events = 0;
    for _ in 0..=batches {
        churn(inside)?;
        churn(&outside)?;
        events += 2 * each;
        if !quick && events >= 1_000_000 {
            break;
        }
    }
    for (((column, _), before), after) in agents.iter().zip(before).zip(residents(agents)?) {
        let what = format!("growth of resident memory over {events} events");
        rows.push(Row::new(what, *column, "MiB", &[after - before]).within(1.0));
    }
    Ok(rows)
}

/// What users get.
fn binary() -> anyhow::Result<Row> {
    let what = "the command, stripped and optimised for release";
    if !is_shipped() {
        return Ok(Row::absent(what, Column::Both, "a quick bench has no such build"));
    }
    let bytes = fs::metadata(program()?)?.len();
    Ok(Row::new(what, Column::Both, "MiB", &[bytes as f64 / 1_048_576.0]).within(15.0))
}

fn residents(agents: &Agents) -> anyhow::Result<Vec<f64>> {
    agents.iter().map(|(_, agent)| agent.resident_mib()).collect()
}

/// What the agents write to the API because of a restart.
fn restart(cluster: &Cluster, agents: &Agents) -> anyhow::Result<Row> {
    let all: Vec<usize> = agents.iter().map(|(_, agent)| agent.captured()).collect();
    cluster.api().forget_requests()?;
    cluster.kill_ztunnel(NODE)?;
    cluster.start_ztunnel(NODE)?;
    let knows = |agent: &Agent, all: usize| {
        let report = agent.report().unwrap_or_default();
        let fault = report["conditions"].to_string().contains("run unchanged");
        fault && agent.captured() == all
    };
    wait::until("the agents to see ztunnel again", DEADLINE, || {
        agents
            .iter()
            .zip(&all)
            .all(|((_, agent), all)| knows(agent, *all))
    })?;
    let requests = cluster.api().requests_of(USER)?;
    let writes = requests.iter().filter(|request| request.is_write()).count();
    Ok(Row::new(
        "ztunnel restart: writes to the API, both agents",
        Column::Both,
        "requests",
        &[writes as f64],
    )
    .target("none", writes == 0))
}
