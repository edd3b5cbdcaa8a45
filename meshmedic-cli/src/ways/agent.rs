// SPDX-License-Identifier: Apache-2.0
//! Asking the agents, each through a stream of its own that the API server forwards.
//!
//! Anybody can label a pod, and whoever can may write a report. Only pods of MeshMedic's own DaemonSet are asked, by
//! its UID, and only what they say of the node on which the API has them running counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use meshmedic_common::duration;
use meshmedic_common::facts::PodFacts;
use meshmedic_common::kube::facts::pod_facts;
use meshmedic_common::report::{NodeReport, PodReport};
use meshmedic_common::text::clean;
use meshmedic_common::uid::PodUid;

use super::{AgentArgs, WayArgs};
use crate::connection::{Connection, Failure, Heard};
use crate::forward::{self, PodPort};
use crate::selection::{list, of_node};

/// The label of MeshMedic's DaemonSet and of its pods.
const LABEL: &str = "app.kubernetes.io/name=meshmedic";
/// The name that our manifests give the DaemonSet; it decides where several have the label.
const NAME: &str = "meshmedic";
/// Many times the report of the fullest node.
const MAX_REPORT: usize = 16 * 1024 * 1024;
/// A report that is older was not written by an agent that lives.
const OLDEST: Duration = Duration::from_secs(180);
/// So many agents are asked for what all of them should say.
const AGENTS_ASKED: usize = 3;
/// How much of what an agent's node says in an error is kept.
const MAX_WORDS: usize = 200;

/// What the agents say.
#[derive(Debug, Default)]
pub(super) struct Agents {
    /// By node: what its agent reports by pod, or why there is nothing.
    nodes: BTreeMap<String, Result<BTreeMap<PodUid, PodReport>, String>>,
    /// By node: what its agent says of the node.
    words: BTreeMap<String, Words>,
    /// The image that MeshMedic runs from here.
    image: Option<String>,
    absence: Option<String>,
    notes: Vec<String>,
}

/// What an agent says of its node, on which an ask to istio-cni hangs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    /// Whether ztunnel is proved to serve, where the agent looks for that.
    pub(crate) serves: Option<bool>,
}

impl Words {
    fn of(report: &NodeReport) -> Self {
        Self {
            serves: report.serves,
        }
    }
}

impl Agents {
    /// What the agents say of their nodes.
    pub(super) const fn words(&self) -> &BTreeMap<String, Words> {
        &self.words
    }

    /// Why there is no agent at all.
    pub(super) fn absence(&self) -> Option<&str> {
        self.absence.as_deref()
    }

    /// The image of MeshMedic's own DaemonSet.
    pub(super) fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// What people should know of them.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What the agent of its node says of a pod.
    pub(super) fn of(&self, pod: &PodFacts) -> Result<&PodReport, String> {
        if let Some(why) = &self.absence {
            return Err(why.clone());
        }
        let node = pod.node.as_deref().ok_or("it is on no node yet")?;
        let reports = match self.nodes.get(node) {
            None => return Err(format!("no agent runs on node {node}")),
            Some(Err(why)) => return Err(format!("the agent of node {node}: {why}")),
            Some(Ok(reports)) => reports,
        };
        let report = pod.cgroup_uid().and_then(|uid| reports.get(&uid));
        report.ok_or_else(|| format!("the agent of node {node} does not know it"))
    }
}

/// Finds the agents of these nodes and asks each for its report.
pub(super) async fn ask(connection: &Connection, args: &WayArgs, nodes: BTreeSet<&str>) -> Agents {
    let fleet = fleet(
        connection,
        &args.agents,
        args.timeout,
        args.concurrency(),
        Some(&nodes),
    )
    .await;
    let spoke = fleet.reports.iter();
    let words = spoke.filter_map(|(node, report)| Some((node.clone(), Words::of(report.as_ref().ok()?))));
    let words = words.collect();
    let by_pod = |report: NodeReport| {
        let pods = report.pods.into_iter();
        pods.map(|pod| (pod.uid.clone(), pod)).collect()
    };
    let nodes = fleet.reports.into_iter();
    let mut agents = Agents {
        nodes: nodes.map(|(node, report)| (node, report.map(by_pod))).collect(),
        words,
        image: fleet.image,
        absence: fleet.absence,
        notes: Vec::new(),
    };
    let failed = agents
        .nodes
        .iter()
        .filter_map(|(node, report)| Some((node, report.as_ref().err()?)));
    let mut failed = failed.peekable();
    if let Some((node, why)) = failed.peek() {
        let first = format!("{node}: {why}");
        let note = match failed.count() {
            1 => format!("the agent of node {first}"),
            count => format!("{count} agents give no report; that of node {first}"),
        };
        agents.notes.push(note);
    }
    agents
}

/// MeshMedic's DaemonSet, and what each of its pods says.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    /// Why there is no agent at all.
    pub(crate) absence: Option<String>,
    /// The image that MeshMedic runs from here.
    pub(crate) image: Option<String>,
    /// By node: what its agent reports, or why there is nothing.
    pub(crate) reports: BTreeMap<String, Result<NodeReport, String>>,
}

/// Finds the agents and asks each for its report; those of `nodes`, where that is given.
pub(crate) async fn fleet(
    connection: &Connection,
    args: &AgentArgs,
    timeout: Duration,
    at_once: usize,
    nodes: Option<&BTreeSet<&str>>,
) -> Fleet {
    let mut fleet = Fleet::default();
    let set = match daemon_set(connection, &args.agent_namespace).await {
        Ok(set) => set,
        Err(why) => {
            fleet.absence = Some(why);
            return fleet;
        }
    };
    fleet.image = set.image;
    // A fleet's agents are many: of one node's alone the others are not listed.
    let only = nodes.filter(|nodes| nodes.len() == 1);
    let only = only.and_then(|nodes| nodes.first().copied());
    let mut by_node = match pods_of(connection, &args.agent_namespace, &set.uid, only).await {
        Ok(pods) => pods,
        Err(why) => {
            fleet.absence = Some(why);
            return fleet;
        }
    };
    by_node.retain(|node, _| nodes.is_none_or(|nodes| nodes.contains(node.as_str())));
    let ask = |(node, pods): (String, Vec<PodFacts>)| async move {
        let mut last = Err("it does not run".to_owned());
        for pod in pods {
            last = report_of(connection, args, timeout, &node, &pod).await;
            if last.is_ok() {
                break;
            }
        }
        (node, last)
    };
    let asked = by_node.into_iter().map(ask).collect::<Vec<_>>();
    fleet.reports = stream::iter(asked).buffer_unordered(at_once).collect().await;
    fleet
}

async fn report_of(
    connection: &Connection,
    args: &AgentArgs,
    timeout: Duration,
    node: &str,
    pod: &PodFacts,
) -> Result<NodeReport, String> {
    if let Some(report) = connection.istio.take_heard(&pod.uid) {
        return Ok(report);
    }
    let report = tokio::time::timeout(timeout, fetch(connection, args.agent_port, pod)).await;
    match report {
        Ok(Ok(report)) => check(report, node, connection.clock.now()),
        Ok(Err(error)) => Err(clean(&format!("{error:#}"), MAX_WORDS)),
        Err(_) => Err(format!("no answer within {}", duration::show(timeout))),
    }
}

/// The report of an agent, whichever answers: for what all of them should say. `status` and `doctor` ask all.
pub(crate) async fn first_report(
    connection: &Connection,
    args: &AgentArgs,
    timeout: Duration,
) -> Option<Heard> {
    let set = daemon_set(connection, &args.agent_namespace).await.ok()?;
    let by_node = pods_of(connection, &args.agent_namespace, &set.uid, None)
        .await
        .ok()?;
    let mut pods: Vec<_> = by_node
        .iter()
        .flat_map(|(node, pods)| pods.iter().map(move |pod| (node, pod)))
        .filter(|(_, pod)| pod.ready && !pod.deleting)
        .collect();
    // Those that have run for longest answer most likely.
    pods.sort_by_key(|(_, pod)| pod.ready_since);
    for (node, pod) in pods.into_iter().take(AGENTS_ASKED) {
        if let Ok(report) = report_of(connection, args, timeout, node, pod).await {
            let agent = pod.uid.clone();
            return Some(Heard { agent, report });
        }
    }
    None
}

struct Set {
    uid: String,
    image: Option<String>,
}

async fn daemon_set(connection: &Connection, namespace: &str) -> Result<Set, String> {
    let api: Api<DaemonSet> = Api::namespaced(connection.client.clone(), namespace);
    let what = format!("listing DaemonSets in namespace {namespace}");
    let reduce = |set: &DaemonSet| {
        let spec = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        let image = spec.and_then(|spec| spec.containers.first()?.image.clone());
        (set.metadata.name.clone(), set.metadata.uid.clone(), image)
    };
    let found = list(
        connection,
        &what,
        &api,
        &ListParams::default().labels(LABEL),
        reduce,
    )
    .await;
    let mut sets = found.map_err(|failure| format!("no agent can be found ({})", failure.short()))?;
    if sets.len() > 1 {
        sets.retain(|(name, ..)| name.as_deref() == Some(NAME));
    }
    match sets.pop() {
        Some((_, Some(uid), image)) if sets.is_empty() => Ok(Set { uid, image }),
        _ => Err(format!(
            "no agent runs here: namespace {namespace} has no DaemonSet with the label {LABEL}; --agent-namespace \
             names another"
        )),
    }
}

/// The DaemonSet's own pods by node, those first that are Ready; of one node, where that is given.
async fn pods_of(
    connection: &Connection,
    namespace: &str,
    uid: &str,
    node: Option<&str>,
) -> Result<BTreeMap<String, Vec<PodFacts>>, String> {
    let api: Api<Pod> = Api::namespaced(connection.client.clone(), namespace);
    let what = format!("listing pods in namespace {namespace}");
    let mut parameters = ListParams::default().labels(LABEL);
    parameters.field_selector = node.map(of_node);
    let found = list(connection, &what, &api, &parameters, pod_facts).await;
    let pods = found.map_err(|failure| format!("no agent can be found ({})", failure.short()))?;
    let mut by_node: BTreeMap<String, Vec<PodFacts>> = BTreeMap::new();
    for pod in pods {
        let owned = pod
            .controller
            .as_ref()
            .is_some_and(|owner| owner.kind == "DaemonSet" && owner.uid == uid);
        if let Some(node) = pod.node.clone().filter(|_| owned && !pod.finished) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    for pods in by_node.values_mut() {
        pods.sort_by_key(|pod| (!pod.ready, pod.deleting));
    }
    Ok(by_node)
}

/// `/v1/node` through a forwarded port.
async fn fetch(connection: &Connection, port: u16, pod: &PodFacts) -> anyhow::Result<NodeReport> {
    let at = PodPort {
        namespace: &pod.namespace,
        pod: &pod.name,
        port,
    };
    let body = forward::get(connection, at, "/v1/node", MAX_REPORT).await;
    let body = body.map_err(|error| match error.downcast::<Failure>() {
        Ok(failure) => anyhow::anyhow!("port-forward: {}", failure.short()),
        Err(error) => error,
    })?;
    Ok(NodeReport::read(&body)?)
}

/// Whether a report can be believed: of this node, and of now.
fn check(report: NodeReport, node: &str, now: Option<Timestamp>) -> Result<NodeReport, String> {
    if report.node != node {
        return Err(format!(
            "it reports of node {}, so it is not believed",
            clean(&report.node, MAX_WORDS)
        ));
    }
    if let (Some(at), Some(now)) = (report.at, now) {
        let age = Duration::try_from(now.duration_since(at)).unwrap_or_default();
        if age > OLDEST {
            return Err(format!("its report is {} old", duration::show(age)));
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(node: &str, at: Option<&str>) -> NodeReport {
        let mut report = serde_json::json!({
            "apiVersion": "meshmedic.io/v1", "kind": "NodeReport", "node": node, "version": "1", "trigger": "poll",
            "conditions": [], "ztunnel": [], "pods": [],
        });
        if let Some(at) = at {
            report["at"] = at.into();
        }
        NodeReport::read(report.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_report_of_another_node_or_another_time_is_not_believed() {
        let now = Some("2026-01-01T00:10:00Z".parse().unwrap());
        assert!(check(report("a", None), "a", now).is_ok());
        assert!(check(report("a", Some("2026-01-01T00:09:00Z")), "a", now).is_ok());
        assert!(check(report("a", Some("2026-01-01T00:11:00Z")), "a", now).is_ok());
        let other = check(report("b\u{1b}[2J", None), "a", now).unwrap_err();
        assert_eq!(other, "it reports of node b [2J, so it is not believed");
        let old = check(report("a", Some("2026-01-01T00:00:00Z")), "a", now).unwrap_err();
        assert_eq!(old, "its report is 10m old");
    }

    #[test]
    fn without_agents_it_is_said_why() {
        let agents = Agents {
            absence: Some("none here".to_owned()),
            ..Agents::default()
        };
        assert_eq!(agents.of(&PodFacts::default()).unwrap_err(), "none here");
        let pod = PodFacts {
            node: Some("b".to_owned()),
            ..PodFacts::default()
        };
        assert_eq!(Agents::default().of(&pod).unwrap_err(), "no agent runs on node b");
    }
}
