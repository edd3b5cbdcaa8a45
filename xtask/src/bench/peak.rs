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
/// The most that an agent may ever take.
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
    // What the start took does not count twice.
    agent.forget_peak()?;
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
            Row::new(what("listed, the start included"), Column::Ebpf, "MiB", &[listed])
                .within(MOST)
                .because("to load a program, the loader's library parses all types of the kernel"),
            Row::new(
                what("lost and healed at once"),
                Column::Ebpf,
                "MiB",
                &[agent.peak_mib()?],
            )
            .within(MOST),
        ],
        plots: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::bench::Results;
    use crate::workspace::workspace_root;

    /// The limit also counts what the kernel keeps for the agent (maps, sockets, names in /proc) and the pages of its
    /// program, and there are nodes of more pods: so many times the peak.
    const MARGIN: f64 = 2.5;
    const MANIFESTS: [&str; 3] = [
        "deploy/kustomize/base/daemonset.yaml",
        "deploy/meshmedic-daemonset.yaml",
        "deploy/helm/meshmedic/values.yaml",
    ];

    #[test]
    fn the_memory_limit_of_the_manifests_follows_from_the_peak() {
        let root = workspace_root().unwrap();
        let numbers = fs::read_to_string(root.join("docs/performance.json")).unwrap();
        let results: Results = serde_json::from_str(&numbers).unwrap();
        let peaks = results.scenes["peak"].rows.iter();
        let peak = peaks.map(|row| row.ours.unwrap().high).fold(MOST, f64::max);
        for manifest in MANIFESTS {
            let text = fs::read_to_string(root.join(manifest)).unwrap();
            let limit = text.split("limits:").nth(1).unwrap();
            let limit = limit.split("memory: ").nth(1).unwrap();
            let (mib, _) = limit.split_once("Mi").unwrap();
            let mib: f64 = mib.parse().unwrap();
            assert!(
                mib >= peak * MARGIN,
                "{manifest} allows {mib} MiB, and an agent took {peak} at its peak"
            );
        }
    }
}
