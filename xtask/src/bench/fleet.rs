// SPDX-License-Identifier: Apache-2.0
//! Beyond one node: what the agents of a whole fleet ask of the API server, and how soon they heal it.
//!
//! What an agent asks for while nothing is wrong is seen from a real one, on the lab. What happens after a zone lost
//! power is simulated: the planner of every node is the real one, and so are the records in the Leases.

mod heals;
mod model;
mod node;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use meshmedic_lab::wait;

use super::figures::{Column, Line, Part, Plot, Row};
use super::rest::{Agent, NODE, USER, cluster};
use heals::Cut;
use model::{Load, Outage};

const SIZES: [usize; 5] = [100, 300, 1_000, 2_500, 5_000];
const SIZES_QUICK: [usize; 2] = [50, 100];
pub(super) const PODS_EACH: usize = 30;
/// One node in so many is in the zone that lost power.
const ZONES: usize = 3;
/// Of its pods so many in a hundred come back as orphans.
const ORPHANS: usize = 10;
/// So many nodes at most are simulated with every disruption budget exhausted.
const EXHAUSTED: usize = 1_000;
/// How far a node's share may grow from the smallest to the biggest fleet and still count as the same.
const SLACK: f64 = 1.25;
/// The API server sends a bookmark on each watch about this often.
const BOOKMARK: f64 = 60.0;
const BOOKMARK_BYTES: f64 = 350.0;
/// A pod of a real cluster, as JSON.
const POD_BYTES: f64 = 10_000.0;
/// How often the object of a pod changes from its creation to its end, ztunnel's included.
const CHANGES_OF_A_POD: f64 = 9.0;
/// Of the fleet that is healed in place, so many nodes in one that has a broken istio-cni.
const BROKEN_IN: usize = 4;
/// What healing it may take, in seconds from a node's settling, and what it may ask of the API.
const HEALED_WITHIN: f64 = 300.0;
const WRITES_A_SECOND: f64 = 400.0;
const DEADLINE: Duration = Duration::from_secs(60);

/// What a real agent asks for.
struct Measured {
    /// Lists at its start, by the resource and whether a field or label narrows them.
    lists: Vec<(String, bool)>,
    watches: usize,
    /// After so many seconds each watch is begun anew.
    renewed: f64,
}

pub(super) fn measure(quick: bool) -> anyhow::Result<Part> {
    let measured = ask_an_agent()?;
    let mut part = Part::default();
    let all_pods = measured
        .lists
        .iter()
        .any(|(resource, narrowed)| resource == "pods" && !narrowed);
    part.rows.push(
        Row::new(
            "an agent's LISTs of all pods",
            Column::Both,
            "requests",
            &[f64::from(u8::from(all_pods))],
        )
        .target("none", !all_pods)
        .remark(&format!("its lists at the start: {}", names(&measured.lists))),
    );
    let sizes = if quick { &SIZES_QUICK[..] } else { &SIZES[..] };
    let outages: Vec<Outage> = sizes
        .iter()
        .map(|nodes| model::outage(*nodes, *nodes / ZONES, ORPHANS))
        .collect();
    for (nodes, outage) in sizes.iter().zip(&outages) {
        part.rows.extend(rows(*nodes, &measured, outage));
    }
    part.rows
        .extend(heal_rows(sizes.last().copied().unwrap_or(SIZES_QUICK[0])));
    part.rows.extend(exhausted(sizes));
    part.rows.extend(growth(&measured, sizes, &outages));
    part.plots = plots(&measured, sizes, &outages);
    Ok(part)
}

/// Starts one and looks at what the API server saw of it.
fn ask_an_agent() -> anyhow::Result<Measured> {
    let cluster = cluster()?;
    cluster.namespace("bench", true)?;
    cluster.deployment("bench", "app", 3)?;
    cluster.wait_captured("bench", "app", 3)?;
    cluster.api().forget_requests()?;
    let _agent = Agent::start(&cluster, NODE, &["--auto-repair", "--repair-stuck"])?;
    let requests = || cluster.api().requests_of(USER).unwrap_or_default();
    wait::until("the agent's watches to begin", DEADLINE, || {
        requests()
            .iter()
            .filter(|request| request.verb == "watch")
            .count()
            >= 6
    })?;
    let (mut lists, mut watches, mut renewed) = (Vec::new(), 0, None);
    for request in requests() {
        match request.verb.as_str() {
            "list" => lists.push((request.resource.clone(), request.query.contains("Selector="))),
            "watch" => {
                watches += 1;
                let (_, rest) = request.query.split_once("timeoutSeconds=").unwrap_or_default();
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                renewed = digits.parse::<f64>().ok().or(renewed);
            }
            _ => {}
        }
    }
    ensure!(!lists.is_empty(), "the agent listed nothing");
    lists.sort();
    lists.dedup();
    Ok(Measured {
        lists,
        watches,
        renewed: renewed.context("the agent's watches have no time limit")?,
    })
}

fn names(lists: &[(String, bool)]) -> String {
    let name = |(resource, narrowed): &(String, bool)| {
        if *narrowed {
            format!("{resource} (selected)")
        } else {
            resource.clone()
        }
    };
    lists.iter().map(name).collect::<Vec<_>>().join(", ")
}

impl Measured {
    /// An hour in which nothing happens, on all nodes.
    fn quiet(&self, nodes: usize) -> Load {
        let (nodes, watches) = (nodes as f64, self.watches as f64);
        let bookmarks = watches * 3_600.0 / BOOKMARK;
        Load {
            requests: nodes * watches * 3_600.0 / self.renewed,
            watch_events: nodes * bookmarks,
            bytes: nodes * bookmarks * BOOKMARK_BYTES,
            ..Load::default()
        }
    }

    /// An upgrade of ztunnel, one node after the other within an hour: what comes on top. Each agent hears of its own
    /// node's pods only, and a fault that is over within a minute becomes no Event.
    fn upgrade(nodes: usize) -> Load {
        let watch_events = nodes as f64 * 2.0 * CHANGES_OF_A_POD;
        Load {
            watch_events,
            bytes: watch_events * POD_BYTES,
            ..Load::default()
        }
    }
}

fn rows(nodes: usize, measured: &Measured, outage: &Outage) -> Vec<Row> {
    let mut rows = Vec::new();
    let watches = (nodes * measured.watches) as f64;
    rows.push(Row::new(
        format!("{nodes} nodes: open watches"),
        Column::Both,
        "watches",
        &[watches],
    ));
    for (when, load) in [
        ("a quiet hour", measured.quiet(nodes)),
        ("a rolling upgrade of ztunnel", Measured::upgrade(nodes)),
        ("the hour after a zone's power loss", outage.busiest_hour),
    ] {
        for (what, unit, number) in [
            ("requests", "requests", load.requests),
            ("of these writes to Leases", "requests", load.lease_writes),
            ("Events", "Events", load.events),
            ("events on watches", "events", load.watch_events),
            ("sent by the API server", "MB", load.bytes / 1e6),
        ] {
            rows.push(Row::new(
                format!("{nodes} nodes, {when}: {what}"),
                Column::Both,
                unit,
                &[number],
            ));
        }
    }
    let healed = Row::new(
        format!(
            "{nodes} nodes: {} orphans healed within the budgets",
            outage.orphans
        ),
        Column::Both,
        "hours",
        &[outage.hours],
    );
    rows.push(
        healed
            .target("all healed", outage.healed == outage.orphans)
            .remark(&format!(
                "{} repairs an hour in the cluster are the default; at most {} were under way at once",
                meshmedic_common::repair::Limits::DEFAULT.per_hour_cluster,
                outage.most_at_once
            )),
    );
    rows
}

/// A power loss on every node, healed in place: everywhere, and with a quarter of the istio-cnis broken.
fn heal_rows(nodes: usize) -> Vec<Row> {
    let row = |what: &str, unit: &str, number: f64| {
        Row::new(
            format!("{nodes} nodes without power: {what}"),
            Column::Both,
            unit,
            &[number],
        )
    };
    let well = heals::power_loss(nodes, None, Cut::Noticed);
    let blink = heals::power_loss(nodes, None, Cut::Blink);
    let ill = heals::power_loss(nodes, Some(BROKEN_IN), Cut::Noticed);
    let wanted = ill.orphans - ill.orphans * ill.broken / nodes.max(1);
    vec![
        row("healed in place, after a node settled", "s", well.slowest)
            .within(HEALED_WITHIN)
            .remark(&format!("{} of {} orphans", well.healed, well.orphans)),
        row("orphans left", "pods", (well.orphans - well.healed) as f64)
            .target("none", well.healed == well.orphans),
        row(
            "writes by all agents in the busiest second",
            "writes",
            well.agents as f64,
        )
        .within(WRITES_A_SECOND)
        .remark(&format!(
            "{} times an agent looked at a few ztunnels of the fleet",
            well.samples
        )),
        row(
            "writes by all agents in the busiest second, where it was away for less than a node's Lease lasts",
            "writes",
            blink.agents as f64,
        )
        .remark("the first nodes back take themselves for the only ones"),
        row(
            "writes by every istio-cni in the busiest second",
            "writes",
            well.cnis as f64,
        )
        .remark("istiod tells ztunnel of each pod, and writes nothing"),
        row("pods left to a restart", "pods", well.restarts as f64).target("none", well.restarts == 0),
        row(
            "a quarter of the istio-cnis broken: pods touched there, of a node",
            "pods",
            ill.touched as f64,
        )
        .within(2.0),
        row(
            "a quarter of the istio-cnis broken: orphans of the others healed",
            "pods",
            ill.healed as f64,
        )
        .target("all", ill.healed == wanted),
        row(
            "a quarter of the istio-cnis broken: times that the breaker was opened",
            "times",
            ill.opened as f64,
        )
        .target("once at least", ill.opened > 0),
    ]
}

/// A fleet-wide loss while a budget refuses every eviction.
fn exhausted(sizes: &[usize]) -> Vec<Row> {
    let nodes = sizes
        .iter()
        .copied()
        .filter(|nodes| *nodes <= EXHAUSTED)
        .max()
        .unwrap_or(EXHAUSTED);
    let load = model::exhausted(nodes, ORPHANS);
    let row = |what: &str, number: f64| {
        let name = format!("{nodes} nodes, every disruption budget exhausted: {what}");
        Row::new(name, Column::Both, "a second", &[number / 3_600.0])
    };
    vec![
        row("requests", load.requests),
        row("writes to Leases", load.lease_writes).target("none", load.lease_writes == 0.0),
        row("events on watches", load.watch_events).target("none", load.watch_events == 0.0),
    ]
}

/// What a node's share is in the biggest fleet, by that in the smallest.
fn growth(measured: &Measured, sizes: &[usize], outages: &[Outage]) -> Vec<Row> {
    let (Some(few), Some(many)) = (sizes.first(), sizes.last()) else {
        return Vec::new();
    };
    let (Some(first), Some(last)) = (outages.first(), outages.last()) else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    for (when, small, big) in [
        ("a quiet hour", measured.quiet(*few), measured.quiet(*many)),
        (
            "a rolling upgrade",
            Measured::upgrade(*few),
            Measured::upgrade(*many),
        ),
        (
            "the hour after a power loss",
            first.busiest_hour,
            last.busiest_hour,
        ),
    ] {
        for (what, of) in Load::QUANTITIES {
            let (small, big) = (of(&small) / *few as f64, of(&big) / *many as f64);
            let factor = if big == 0.0 { 0.0 } else { big / small };
            rows.push(
                Row::new(
                    format!("{when}: a node's {what} with {many} nodes by those with {few}"),
                    Column::Both,
                    "times",
                    &[factor],
                )
                .within(SLACK),
            );
        }
    }
    rows
}

fn plots(measured: &Measured, sizes: &[usize], outages: &[Outage]) -> Vec<Plot> {
    let line = |name: &str, of: &dyn Fn(usize, &Outage) -> f64| Line {
        name: name.to_owned(),
        points: sizes
            .iter()
            .zip(outages)
            .map(|(nodes, outage)| (*nodes as f64, of(*nodes, outage)))
            .collect(),
    };
    let plot = |title: &str, y: &str, lines: Vec<Line>| Plot {
        title: title.to_owned(),
        x: "nodes".to_owned(),
        y: y.to_owned(),
        lines,
    };
    vec![
        plot(
            "Requests of the fleet",
            "requests a second",
            vec![
                line("quiet hour", &|nodes, _| measured.quiet(nodes).requests / 3_600.0),
                line("after a power loss", &|nodes, outage| {
                    (measured.quiet(nodes).requests + outage.busiest_hour.requests) / 3_600.0
                }),
            ],
        ),
        plot(
            "Sent to the fleet",
            "kB a second",
            vec![
                line("quiet hour", &|nodes, _| measured.quiet(nodes).bytes / 3.6e6),
                line("ztunnel upgrade", &|nodes, _| {
                    (measured.quiet(nodes).bytes + Measured::upgrade(nodes).bytes) / 3.6e6
                }),
                line("after a power loss", &|nodes, outage| {
                    (measured.quiet(nodes).bytes + outage.busiest_hour.bytes) / 3.6e6
                }),
            ],
        ),
        plot(
            "Until the fleet is healed",
            "hours",
            vec![line("10% orphans in a zone", &|_, outage| outage.hours)],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_fleet_is_healed_within_its_budgets_and_every_write_reaches_every_agent() {
        let outage = model::outage(30, 10, ORPHANS);
        assert_eq!(outage.orphans, 30);
        assert_eq!(outage.healed, outage.orphans);
        assert!((1..=3).contains(&outage.most_at_once), "{}", outage.most_at_once);
        let load = outage.busiest_hour;
        assert!(load.lease_writes > 0.0 && load.events > 0.0 && load.requests > load.lease_writes);
        assert!(load.watch_events >= 30.0, "{}", load.watch_events);
    }

    #[test]
    fn more_orphans_than_an_hours_budget_take_longer_than_an_hour() {
        let outage = model::outage(90, 30, ORPHANS);
        assert_eq!((outage.orphans, outage.healed), (90, 90));
        assert!(outage.hours > 1.0 && outage.hours < 3.0, "{}", outage.hours);
    }
}
