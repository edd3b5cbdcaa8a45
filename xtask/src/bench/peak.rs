// SPDX-License-Identifier: Apache-2.0
//! The most memory that an agent ever takes: it lists a full node's pods, all of them are lost, and all are healed.

use std::time::Duration;

use anyhow::Context as _;
use meshmedic_lab::wait;

use super::figures::{Column, Part, Row};
use super::quiet::grow;
use super::rest::{Agent, NODE, cluster};

/// A full node.
const PODS: usize = 250;
/// The most that an agent may ever take. The memory limit of the manifests is this with a margin.
const MOST: f64 = 24.0;
const DEADLINE: Duration = Duration::from_secs(600);

pub(super) fn measure(quick: bool) -> anyhow::Result<Part> {
    let count = if quick { 20 } else { PODS };
    let cluster = cluster()?;
    cluster.namespace("bench", true)?;
    let pods = grow(&cluster, &mut 0, count)?;
    let agent = Agent::start(&cluster, NODE, &["--auto-repair", "--repair-stuck"])?;
    wait::until("the agent to know all pods", DEADLINE, || {
        agent.captured() == count
    })?;
    let listed = agent.peak_mib()?;
    for pod in &pods {
        cluster.orphan(pod)?;
    }
    wait::until("the agent to see the loss", DEADLINE, || agent.captured() < count)?;
    wait::until("all pods to be healed", DEADLINE, || agent.captured() == count)?;
    let report = agent.report().context("the agent reports")?;
    let healed = report["repairs"].as_array().map_or(0, Vec::len);
    anyhow::ensure!(
        healed > 0,
        "no pod was healed by the agent, so nothing was measured"
    );
    let what = |then: &str| format!("most memory ever, {count} pods {then}");
    Ok(Part {
        rows: vec![
            Row::new(what("listed"), Column::Ebpf, "MiB", &[listed]).within(MOST),
            Row::new(
                what("listed, lost and healed at once"),
                Column::Ebpf,
                "MiB",
                &[agent.peak_mib()?],
            )
            .within(MOST),
        ],
        plots: Vec::new(),
    })
}
