// SPDX-License-Identifier: Apache-2.0
//! What hostile and broken pods cost at once, and whether a true orphan is found among them: an imposter that toggles a
//! capture port, a pod that holds many descriptors, and a node whose ztunnel is away.

use std::net::Ipv6Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use meshmedic_common::duration;
use meshmedic_lab::{Churn, Cluster, Pod, wait};
use serde_json::Value;

use super::figures::{Column, Part, Row};
use super::quiet::grow;
use super::rest::{Agent, COME_TO_REST, NODE, cluster};
use super::scene::no_ebpf;

/// So many pods lose their listeners with ztunnel.
const SUSPECTS: usize = 200;
/// So many descriptors one pod holds.
const DESCRIPTORS: usize = 18_000;
/// HBONE's port, which the imposter opens and closes so often a second.
const TOGGLED: u16 = 15_008;
const TOGGLES: u32 = 1_000;
/// For how long ztunnel is away, and what is measured of the processor in one piece.
const FAULT: Duration = Duration::from_secs(15);
const WINDOW: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(180);
/// The most that an agent may take of one core, in percent.
const MOST: f64 = 20.0;
/// How much later than `--confirm` an orphan may be proved.
const LATER: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(500);
/// The agent's default.
const INTERVAL: Duration = Duration::from_secs(60);

/// The noise, and a pod in it that is lost for good.
struct Crowd {
    cluster: Cluster,
    victim: Pod,
    imposter: Pod,
}

pub(super) fn measure(quick: bool) -> anyhow::Result<Part> {
    let mut part = Part::default();
    for column in Column::EACH {
        let why = no_ebpf().filter(|_| column == Column::Ebpf);
        match why {
            Some(why) => part.rows.push(Row::absent("an agent in the noise", column, &why)),
            None => part.rows.extend(rows(column, quick)?),
        }
    }
    Ok(part)
}

fn rows(column: Column, quick: bool) -> anyhow::Result<Vec<Row>> {
    let (pods, descriptors) = if quick { (20, 500) } else { (SUSPECTS, DESCRIPTORS) };
    let confirm = Duration::from_secs(if quick { 2 } else { 10 });
    let settle = Duration::from_secs(if quick { 2 } else { 30 });
    let cluster = cluster()?;
    cluster.namespace("bench", true)?;
    grow(&cluster, &mut 0, pods)?;
    let one = |name: &str| -> anyhow::Result<Pod> {
        cluster.deployment("bench", name, 1)?;
        let mut pods = cluster.wait_captured("bench", name, 1)?;
        pods.pop().context("there is one pod")
    };
    let (victim, imposter, holder) = (one("victim")?, one("imposter")?, one("holder")?);
    let (confirm_flag, settle_flag) = (duration::show(confirm), duration::show(settle));
    let flags = [
        "--trigger",
        column.trigger(),
        "--confirm",
        &confirm_flag,
        "--settle",
        &settle_flag,
    ];
    let agent = Agent::start(&cluster, NODE, &flags)?;
    let all = pods + 3;
    wait::until("the agent to know all pods", DEADLINE, || agent.captured() == all)?;
    std::thread::sleep(if quick { settle } else { COME_TO_REST });
    // They end with it.
    let _held = holder.connections(descriptors)?;
    cluster.orphan(&imposter)?;
    let crowd = Crowd {
        cluster,
        victim,
        imposter,
    };
    let (most, proved) = endure(&crowd, &agent, all - 1)?;
    // Without kernel events a loss shows at the next look.
    let seen = match column {
        Column::Polling => INTERVAL,
        Column::Ebpf | Column::Both => Duration::ZERO,
    };
    let noise = format!("{pods} suspects, an imposter that toggles {TOGGLED}, {descriptors} descriptors");
    let limit = (seen + confirm + LATER).as_secs_f64();
    Ok(vec![
        Row::new(
            format!("most of one core in a second: {noise}"),
            column,
            "%",
            &[most],
        )
        .within(MOST)
        .because("looking is held to an eighth, beside a census to a tenth, and makes room for the reports and lines about so many pods; a short burst comes on top"),
        Row::new(
            format!("from a loss in this noise to its proof, --confirm {confirm_flag}"),
            column,
            "s",
            &[proved.as_secs_f64()],
        )
        .within(limit),
    ])
}

/// Makes the noise; gives the most that the agent took of a core in one window, and how long the proof took.
fn endure(crowd: &Crowd, agent: &Agent, captured: usize) -> anyhow::Result<(f64, Duration)> {
    let over = AtomicBool::new(false);
    let most = Mutex::new(Ok(0.0));
    let proved = std::thread::scope(|scope| {
        scope.spawn(|| toggle(&crowd.imposter, &over));
        scope.spawn(|| {
            let measured = most_of_a_core(agent, &over);
            *most.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = measured;
        });
        let proved = prove(crowd, agent, captured);
        over.store(true, Ordering::Relaxed);
        proved
    });
    let most = most
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok((most?, proved?))
}

/// Opens and closes a capture port until it is over.
fn toggle(imposter: &Pod, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let churn = Churn {
            listen: Some((Ipv6Addr::UNSPECIFIED, TOGGLED).into()),
            times: TOGGLES,
            per_second: Some(TOGGLES),
        };
        // ztunnel may hold the port for a moment.
        if imposter.churn(churn).is_err() {
            std::thread::sleep(LOOK);
        }
    }
}

fn most_of_a_core(agent: &Agent, over: &AtomicBool) -> anyhow::Result<f64> {
    let mut most: f64 = 0.0;
    while !over.load(Ordering::Relaxed) {
        let (before, begun) = (agent.cpu()?, Instant::now());
        std::thread::sleep(WINDOW);
        let spent = agent.cpu()?.saturating_sub(before);
        most = most.max(spent.as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0);
    }
    Ok(most)
}

/// ztunnel goes and returns, and then one pod is lost.
fn prove(crowd: &Crowd, agent: &Agent, captured: usize) -> anyhow::Result<Duration> {
    let Crowd { cluster, victim, .. } = crowd;
    cluster.kill_ztunnel(NODE)?;
    until("the agent to suspect all pods", || {
        count(agent, "suspect") >= captured
    })?;
    std::thread::sleep(FAULT);
    cluster.start_ztunnel(NODE)?;
    until("the pods to be captured again", || agent.captured() >= captured)?;
    until("ztunnel to settle", || {
        let report = agent.report().unwrap_or_default();
        !report["conditions"].to_string().contains("node-fault")
    })?;
    let lost = Instant::now();
    cluster.orphan(victim)?;
    until("the orphan to be proved", || {
        state_of(agent, victim).as_deref() == Some("orphan")
    })?;
    Ok(lost.elapsed())
}

/// Asks seldom: each answer names all pods, and would be a noise of our own.
fn until(what: &str, condition: impl FnMut() -> bool) -> Result<(), wait::TimedOut> {
    wait::until_every(LOOK, what, DEADLINE, condition)
}

fn pods_of(report: &Value) -> impl Iterator<Item = &Value> {
    report["pods"].as_array().into_iter().flatten()
}

fn count(agent: &Agent, state: &str) -> usize {
    let report = agent.report().unwrap_or_default();
    pods_of(&report).filter(|pod| pod["state"] == state).count()
}

fn state_of(agent: &Agent, pod: &Pod) -> Option<String> {
    let report = agent.report()?;
    let found = pods_of(&report).find(|found| found["uid"] == pod.uid())?;
    found["state"].as_str().map(str::to_owned)
}
