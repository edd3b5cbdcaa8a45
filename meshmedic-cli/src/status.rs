// SPDX-License-Identifier: Apache-2.0
//! `meshmedic status`: the fleet at a glance, by what its agents say. No pod is touched.

pub(crate) mod changes;
mod history;
mod html;
mod proof;
mod show;
mod unwell;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;
use meshmedic_common::identity::Component;
use meshmedic_common::kube::control::Pause;
use meshmedic_common::kube::facts::pod_facts;
use meshmedic_common::report::{
    API_VERSION, BreakerReport, NodeReport, PodReport, RepairReport, TriggerMode,
};
use meshmedic_common::text::clean;
use meshmedic_common::verdict::{Condition, State, exit_code};
use serde::Serialize;

use crate::connection::{self, Connection, ConnectionArgs};
use crate::istio::{IstioArgs, difference};
use crate::output;
use crate::selection::claimants;
use crate::ways::{AgentArgs, Fleet, fleet};

pub(crate) use changes::{Change, changes_of};
pub(crate) use proof::FleetProof;
pub(crate) use show::by_severity;
pub(crate) use unwell::Unwell;

/// The kind of [`FleetStatus`].
const KIND: &str = "FleetStatus";
/// How many agents are asked at once.
const AT_ONCE: usize = 32;
/// So many of the last repairs are shown.
const REPAIRS_SHOWN: usize = 8;
/// How much of what an agent says is kept, a sentence each.
const MAX_WORDS: usize = 300;

/// Arguments of `meshmedic status`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// How to write the result
    #[arg(short, long, value_enum, default_value_t)]
    output: StatusFormat,
    /// How long an agent may take to answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = crate::spans::interval)]
    timeout: Duration,
    #[command(flatten)]
    agents: AgentArgs,
    #[command(flatten)]
    istio: IstioArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

const AFTER_HELP: &str = "\
Everything comes from the agents, through port-forward; pods are left alone.
Without agents use `meshmedic scan`.

REPAIRS says whom a node's agent repairs: off, all, ready pods or stuck pods
alone; or that repairs are paused.

Exit codes, whatever the output format:
  0  every node that runs ztunnel has an agent, and no agent has confirmed a
     finding
  1  an orphan, a partial capture, an imposter or a bypass was found
  2  wrong usage
  3  undetermined: an agent is missing or silent, or a pod stayed unverifiable";

/// How the fleet is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusFormat {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
    /// One file for a browser, a ticket or a printer
    Html,
}

/// The fleet.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FleetStatus {
    api_version: &'static str,
    kind: &'static str,
    /// Where the agents are looked for.
    pub(crate) agent_namespace: String,
    /// Why there is no agent at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) absence: Option<String>,
    /// Why repairs are paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) paused: Option<Pause>,
    /// How many pods are in each state.
    pub(crate) states: BTreeMap<State, usize>,
    /// The pods that are out of the mesh or may be, the worst first.
    pub(crate) unwell: Vec<Unwell>,
    /// What proves that the captured pods' traffic is led to ztunnel.
    pub(crate) proof: FleetProof,
    pub(crate) nodes: Vec<NodeStatus>,
    /// The last repairs, newest first.
    pub(crate) repairs: Vec<NodeRepair>,
    /// What the agents remember of their pods; `meshmedic watch --follow` writes it for programs.
    #[serde(skip)]
    pub(crate) changes: Vec<Change>,
    /// What could not be known, for people.
    pub(crate) notes: Vec<String>,
}

/// How a node's agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AgentHealth {
    /// It answers.
    Ok,
    /// It answers, and another agent is of a newer version.
    Old,
    /// It does not answer, or not so that it is believed.
    Silent,
    /// There is none, though ztunnel runs there.
    Missing,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeStatus {
    pub(crate) node: String,
    pub(crate) agent: AgentHealth,
    /// Why it is silent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trigger: Option<TriggerMode>,
    /// What it may repair: `off`, `ready`, `stuck` or `all`; none where it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repairs: Option<&'static str>,
    pub(crate) states: BTreeMap<State, usize>,
    pub(crate) conditions: BTreeMap<Condition, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) breakers: Vec<BreakerReport>,
}

/// A repair and the node on which it was done.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeRepair {
    pub(crate) node: String,
    #[serde(flatten)]
    pub(crate) repair: RepairReport,
}

/// Shows the fleet; gives the exit code.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    connection::runtime()?.block_on(async {
        let mut connection = args.connection.connect().await?;
        args.istio
            .settle(&mut connection, Some(&args.agents), args.timeout)
            .await;
        let status = ask(args, &connection).await?;
        let now = connection.clock.now().unwrap_or_else(Timestamp::now);
        output::write(&match args.output {
            StatusFormat::Table => show::text(&status, now)?,
            StatusFormat::Json => format!("{}\n", serde_json::to_string_pretty(&status)?),
            StatusFormat::Yaml => serde_saphyr::to_string(&status)?,
            StatusFormat::Html => html::page(&status, now)?,
        })?;
        Ok(status.code())
    })
}

async fn ask(args: &Args, connection: &Connection) -> anyhow::Result<FleetStatus> {
    let answers = Answers::gather(connection, &args.agents, args.timeout).await?;
    Ok(FleetStatus::of(answers))
}

/// What a round through the fleet gave.
pub(crate) struct Answers {
    namespace: String,
    pub(crate) fleet: Fleet,
    ztunnels: BTreeSet<String>,
    paused: Option<Pause>,
    notes: Vec<String>,
}

impl Answers {
    /// Asks every agent, and the API what no agent says.
    pub(crate) async fn gather(
        connection: &Connection,
        agents: &AgentArgs,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        let namespace = &agents.agent_namespace;
        let mut notes = Vec::new();
        let ztunnels = match ztunnel_nodes(connection).await {
            Ok(nodes) => nodes,
            Err(failure) if failure.is_forbidden() => {
                notes.push(format!(
                    "ztunnel's pods cannot be listed, so nodes without an agent are not seen ({})",
                    failure.short()
                ));
                BTreeSet::new()
            }
            Err(failure) => return Err(failure.into()),
        };
        let paused = match crate::control::read(connection, namespace).await {
            Ok(paused) => paused,
            Err(failure) => {
                notes.push(format!(
                    "whether repairs are paused is not known ({})",
                    failure.short()
                ));
                None
            }
        };
        let fleet = fleet(connection, agents, timeout, AT_ONCE, None).await;
        let others = fleet.reports.iter().filter_map(|(node, report)| {
            let theirs = report.as_ref().ok()?.istio.as_ref()?;
            Some(format!(
                "node {node}: {}",
                difference(&connection.istio.identity, theirs)?
            ))
        });
        notes.extend(others);
        Ok(Self {
            namespace: namespace.clone(),
            fleet,
            ztunnels,
            paused,
            notes,
        })
    }
}

async fn ztunnel_nodes(connection: &Connection) -> Result<BTreeSet<String>, connection::Failure> {
    let identity = &connection.istio.identity;
    let pods = claimants(connection, Component::Ztunnel, pod_facts).await?;
    let runs = pods
        .into_iter()
        .filter(|pod| identity.proves(pod, Component::Ztunnel) && !pod.finished);
    Ok(runs.filter_map(|pod| pod.node).collect())
}

impl FleetStatus {
    /// The fleet as it answered.
    pub(crate) fn of(answers: Answers) -> Self {
        let Answers {
            namespace,
            fleet,
            ztunnels,
            paused,
            mut notes,
        } = answers;
        let newest = fleet
            .reports
            .values()
            .flatten()
            .map(|report| parts(&report.version))
            .max();
        let mut repairs = Vec::new();
        let mut unwell = Vec::new();
        let mut changes = Vec::new();
        let mut proof = FleetProof::default();
        let mut nodes: Vec<NodeStatus> = Vec::new();
        for (node, report) in fleet.reports {
            nodes.push(match report {
                Ok(report) => {
                    unwell.extend(report.pods.iter().filter_map(|pod| Unwell::of(&node, pod)));
                    changes.extend(report.pods.iter().flat_map(|pod| changes_of(&node, pod)));
                    report.pods.iter().for_each(|pod| proof.add(pod));
                    repairs.extend(report.repairs.iter().map(|repair| NodeRepair {
                        node: node.clone(),
                        repair: shown(repair),
                    }));
                    let old = newest
                        .as_ref()
                        .is_some_and(|newest| parts(&report.version) < *newest);
                    NodeStatus::of(node, &report, old)
                }
                Err(why) => NodeStatus {
                    detail: Some(why),
                    ..NodeStatus::without(node, AgentHealth::Silent)
                },
            });
        }
        if fleet.absence.is_none() {
            let known: BTreeSet<String> = nodes.iter().map(|node| node.node.clone()).collect();
            let missing = ztunnels.difference(&known).cloned();
            nodes.extend(missing.map(|node| NodeStatus::without(node, AgentHealth::Missing)));
        }
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        unwell.sort_by_cached_key(Unwell::rank);
        repairs.sort_by(|a, b| (b.repair.at, &b.repair.pod).cmp(&(a.repair.at, &a.repair.pod)));
        repairs.truncate(REPAIRS_SHOWN);
        let mut states = BTreeMap::new();
        for (state, count) in nodes.iter().flat_map(|node| &node.states) {
            *states.entry(*state).or_default() += count;
        }
        let own = env!("CARGO_PKG_VERSION");
        if newest.is_some_and(|newest| newest > parts(own)) {
            notes.push(format!("agents are of a newer version than this command ({own})"));
        }
        Self {
            api_version: API_VERSION,
            kind: KIND,
            agent_namespace: namespace,
            absence: fleet.absence,
            paused,
            states,
            unwell,
            proof,
            nodes,
            repairs,
            changes,
            notes,
        }
    }

    fn code(&self) -> u8 {
        let code = exit_code(self.states.keys().copied());
        let unheard = |node: &NodeStatus| matches!(node.agent, AgentHealth::Silent | AgentHealth::Missing);
        // While a node is at fault, its suspects are neither proved lost nor proved well.
        let unjudged = |node: &NodeStatus| {
            node.conditions.contains_key(&Condition::NodeFault) && node.states.contains_key(&State::Suspect)
        };
        let open = |node: &NodeStatus| unheard(node) || unjudged(node);
        if code == 0 && (self.absence.is_some() || self.nodes.iter().any(open)) {
            crate::exit::UNDETERMINED
        } else {
            code
        }
    }
}

/// How many pods are in which state.
pub(crate) fn count_states<'a>(pods: impl IntoIterator<Item = &'a PodReport>) -> BTreeMap<State, usize> {
    let mut states = BTreeMap::new();
    for pod in pods {
        *states.entry(pod.state).or_default() += 1;
    }
    states
}

impl NodeStatus {
    fn without(node: String, agent: AgentHealth) -> Self {
        Self {
            node,
            agent,
            detail: None,
            version: None,
            trigger: None,
            repairs: None,
            states: BTreeMap::new(),
            conditions: BTreeMap::new(),
            breakers: Vec::new(),
        }
    }

    fn of(node: String, report: &NodeReport, old: bool) -> Self {
        let states = count_states(&report.pods);
        let repairs =
            report
                .budgets
                .as_ref()
                .map(|budgets| match (budgets.repairs_ready, budgets.repairs_stuck) {
                    (false, false) => "off",
                    (true, false) => "ready pods",
                    (false, true) => "stuck pods",
                    (true, true) => "all",
                });
        let conditions = report.conditions.iter();
        Self {
            version: Some(clean(&report.version, MAX_WORDS)),
            trigger: Some(report.trigger),
            repairs,
            states,
            conditions: conditions
                .map(|found| (found.condition, clean(&found.detail, MAX_WORDS)))
                .collect(),
            breakers: report
                .breakers
                .iter()
                .map(|breaker| BreakerReport {
                    name: breaker.name.as_ref().map(|name| clean(name, MAX_WORDS)),
                    ..breaker.clone()
                })
                .collect(),
            ..Self::without(node, if old { AgentHealth::Old } else { AgentHealth::Ok })
        }
    }
}

/// A repair, fit to be shown.
fn shown(repair: &RepairReport) -> RepairReport {
    RepairReport {
        pod: clean(&repair.pod, MAX_WORDS),
        detail: repair.detail.as_ref().map(|detail| clean(detail, MAX_WORDS)),
        ..repair.clone()
    }
}

/// The numbers of a version; what is none counts as zero, so that nonsense is old.
fn parts(version: &str) -> Vec<u64> {
    let numbers = version.split(['.', '-', '+']).take(3);
    numbers.map(|part| part.parse().unwrap_or_default()).collect()
}

/// How long ago something was, for people.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    let age = Duration::try_from(now.duration_since(at)).unwrap_or_default();
    let seconds = age.as_secs();
    match seconds {
        0..=119 => format!("{seconds}s ago"),
        120..=7199 => format!("{}m ago", seconds / 60),
        7200..=172_799 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// A fleet of a node that reports, one that is silent for this reason, and as many as run ztunnel.
#[cfg(test)]
pub(crate) fn example(
    report: &serde_json::Value,
    silence: &str,
    ztunnels: &[&str],
    paused: Option<Pause>,
) -> FleetStatus {
    let report = NodeReport::read(report.to_string().as_bytes()).unwrap();
    let fleet = Fleet {
        reports: BTreeMap::from([
            ("node-a".to_owned(), Ok(report)),
            ("node-b".to_owned(), Err(silence.to_owned())),
        ]),
        ..Fleet::default()
    };
    FleetStatus::of(answers(fleet, ztunnels, paused))
}

/// A round through a fleet that answered so.
#[cfg(test)]
pub(crate) fn answers(fleet: Fleet, ztunnels: &[&str], paused: Option<Pause>) -> Answers {
    Answers {
        namespace: "meshmedic".to_owned(),
        fleet,
        ztunnels: ztunnels.iter().map(|&node| node.to_owned()).collect(),
        paused,
        notes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(node: &str, version: &str, state: &str) -> NodeReport {
        let report = serde_json::json!({
            "apiVersion": "meshmedic.io/v1", "kind": "NodeReport", "node": node, "version": version,
            "trigger": "poll", "conditions": [{"condition": "node-fault", "detail": "no \u{1b}[2Jztunnel"}],
            "ztunnel": [], "pods": [{
                "namespace": "shop", "name": "cart", "uid": "0a1b2c3d-1111-2222-3333-444455556666", "state": state,
                "ports": [], "redirection": "unknown", "flaps": 0,
            }],
        });
        NodeReport::read(report.to_string().as_bytes()).unwrap()
    }

    fn status(reports: Vec<(&str, Result<NodeReport, String>)>, ztunnels: &[&str]) -> FleetStatus {
        let fleet = Fleet {
            reports: reports
                .into_iter()
                .map(|(node, report)| (node.to_owned(), report))
                .collect(),
            ..Fleet::default()
        };
        FleetStatus::of(answers(fleet, ztunnels, None))
    }

    #[test]
    fn each_node_with_a_ztunnel_wants_an_agent_that_answers() {
        let captured = || Ok(report("a", "0.1.0", "captured"));
        assert_eq!(status(vec![("a", captured())], &["a"]).code(), 0);
        let found = status(
            vec![("a", captured()), ("c", Err("no answer".to_owned()))],
            &["a", "b"],
        );
        let health: Vec<_> = found
            .nodes
            .iter()
            .map(|node| (node.node.as_str(), node.agent))
            .collect();
        assert_eq!(
            health,
            [
                ("a", AgentHealth::Ok),
                ("b", AgentHealth::Missing),
                ("c", AgentHealth::Silent)
            ]
        );
        assert_eq!(found.code(), 3);
        // A finding is worse than an agent that is missing.
        let worse = status(vec![("a", Ok(report("a", "0.1.0", "orphan")))], &["a", "b"]);
        assert_eq!(worse.code(), 1);
        assert_eq!(worse.states, BTreeMap::from([(State::Orphan, 1)]));
        assert_eq!(worse.nodes[0].conditions[&Condition::NodeFault], "no  [2Jztunnel");
    }

    #[test]
    fn an_agent_is_old_beside_a_newer_one() {
        let found = status(
            vec![
                ("a", Ok(report("a", "0.9.1", "captured"))),
                ("b", Ok(report("b", "0.10.0", "captured"))),
                ("c", Ok(report("c", "nonsense", "captured"))),
            ],
            &[],
        );
        let health: Vec<_> = found.nodes.iter().map(|node| node.agent).collect();
        assert_eq!(health, [AgentHealth::Old, AgentHealth::Ok, AgentHealth::Old]);
        assert!(found.notes[0].contains("newer version"), "{:?}", found.notes);
    }

    #[test]
    fn ages_are_short() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (age, text) in [
            (0, "0s ago"),
            (119, "119s ago"),
            (150, "2m ago"),
            (7300, "2h ago"),
            (200_000, "2d ago"),
        ] {
            assert_eq!(ago(at(0), at(age)), text);
        }
        assert_eq!(ago(at(5), at(0)), "0s ago");
    }
}
