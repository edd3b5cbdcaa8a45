// SPDX-License-Identifier: Apache-2.0
//! Whether a namespace may go from PERMISSIVE to STRICT: a checklist, with the reasons.

use jiff::Timestamp;
use meshmedic_common::report::API_VERSION;
use meshmedic_common::text::clean;
use meshmedic_common::verdict::State;
use serde::Serialize;
use serde_json::{Value, json};

use super::checks::security::health::unchanged;
use super::checks::security::mtls::{self, Mode, in_mesh};
use super::checks::security::plaintext;
use super::checks::traffic;
use super::command::Command;
use super::snapshot::{Custom, Snapshot};
use super::view::{PodView, View, endpoints};
use crate::doctor::kind::{DESTINATION_RULE, PEER};

const KIND: &str = "StrictReadiness";
/// The most that is kept of one reason. What stands in objects and logs was written by others.
const MAX_WORDS: usize = 600;

/// What the checklist comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Go,
    NoGo,
    /// Nothing speaks against it, but not everything could be seen.
    Open,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ready {
    Yes,
    No,
    Unknown,
}

/// A step of the checklist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Step {
    pub(crate) title: &'static str,
    pub(crate) ready: Ready,
    /// Why it is not ready or not known; of a step that is ready, what is worth knowing.
    pub(crate) reasons: Vec<String>,
}

/// The checklist of a namespace.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StrictReadiness {
    api_version: &'static str,
    kind: &'static str,
    pub(crate) taken: Timestamp,
    pub(crate) namespace: String,
    pub(crate) verdict: Verdict,
    pub(crate) steps: Vec<Step>,
    /// What makes the namespace STRICT; only where the verdict is no no-go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) apply: Option<String>,
    /// How to look afterwards.
    pub(crate) watch: Vec<Command>,
}

impl StrictReadiness {
    /// Goes through the checklist.
    pub(crate) fn judge(snapshot: &Snapshot, namespace: &str) -> Self {
        let view = View::new(snapshot);
        let steps = vec![
            pods(&view, namespace),
            callers(&view, namespace),
            probes(&view, namespace),
            clients(&view, namespace),
            exceptions(&view, namespace),
        ];
        let any = |ready| steps.iter().any(|step| step.ready == ready);
        let verdict = match (any(Ready::No), any(Ready::Unknown)) {
            (true, _) => Verdict::NoGo,
            (false, true) => Verdict::Open,
            (false, false) => Verdict::Go,
        };
        Self {
            api_version: API_VERSION,
            kind: KIND,
            taken: snapshot.taken,
            namespace: namespace.to_owned(),
            verdict,
            apply: (verdict != Verdict::NoGo)
                .then(|| strict(&view, namespace))
                .flatten(),
            watch: vec![
                Command::new("kubectl logs -l app=ztunnel --since 5m").namespace(&view.istio),
                Command::new("meshmedic doctor --category security").namespace(namespace),
            ],
            steps,
        }
    }

    /// 0 to go, 1 not to, 3 where it stays open.
    pub(crate) const fn code(&self) -> u8 {
        match self.verdict {
            Verdict::Go => 0,
            Verdict::NoGo => 1,
            Verdict::Open => crate::exit::UNDETERMINED,
        }
    }
}

/// Collects what speaks against a step, and what is not known.
#[derive(Default)]
struct Notes {
    against: Vec<String>,
    unknown: Vec<String>,
    aside: Vec<String>,
}

impl Notes {
    fn step(self, title: &'static str) -> Step {
        let (ready, reasons) = if !self.against.is_empty() {
            let mut reasons = self.against;
            reasons.extend(self.unknown);
            (Ready::No, reasons)
        } else if !self.unknown.is_empty() {
            (Ready::Unknown, self.unknown)
        } else {
            (Ready::Yes, self.aside)
        };
        Step {
            title,
            ready,
            reasons: reasons.iter().map(|reason| clean(reason, MAX_WORDS)).collect(),
        }
    }
}

/// The pods that the step is about: policies of the mesh do not reach pods of their node's network.
fn of<'v, 's>(view: &'v View<'s>, namespace: &'v str) -> impl Iterator<Item = &'v PodView<'s>> {
    view.pods_in(namespace)
        .filter(|pod| pod.is_live() && !pod.facts.host_network)
}

fn pods(view: &View<'_>, namespace: &str) -> Step {
    let mut notes = Notes::default();
    if let Some(why) = view.snapshot.pods.unknown() {
        notes
            .unknown
            .push(format!("pods could not be read: {}", why.why()));
    } else if of(view, namespace).next().is_none() {
        notes.against.push(format!(
            "namespace {namespace} has no pods that the mesh could protect"
        ));
    }
    let states = view.snapshot.scan.all();
    for pod in of(view, namespace) {
        let name = &pod.facts.name;
        if !in_mesh(pod) && !endpoints::has_proxy(pod.pod) {
            notes
                .against
                .push(format!("{name} is neither captured nor has it a sidecar"));
            continue;
        }
        match states
            .iter()
            .find(|state| state.uid == pod.facts.uid)
            .map(|state| state.state)
        {
            Some(
                State::Orphan
                | State::Partial
                | State::Imposter
                | State::Bypassing
                | State::Stalled
                | State::Pending,
            ) => {
                notes.against.push(format!(
                    "{name} fell out of the mesh, or is not in it yet: see `meshmedic scan`"
                ));
            }
            Some(State::Unverifiable | State::Suspect) => {
                notes
                    .unknown
                    .push(format!("whether {name} is captured is not known"));
            }
            Some(State::Captured | State::Exempt) => {}
            None if endpoints::is_captured(pod) => {
                notes
                    .unknown
                    .push(format!("the capture of {name} has not been checked"));
            }
            None => {}
        }
    }
    notes.step("every pod is in the mesh")
}

fn callers(view: &View<'_>, namespace: &str) -> Step {
    let mut notes = Notes::default();
    let here = |path: &str| path.split_once('/').is_some_and(|(of, _)| of == namespace);
    for link in plaintext::links(view).filter(|link| here(&link.destination)) {
        notes.against.push(format!(
            "{} sent {} plaintext, {} times, the last at {}",
            plaintext::caller(view, &link.source),
            link.destination,
            link.seen.count,
            link.seen.last
        ));
    }
    for (workload, count) in plaintext::counted(view, namespace) {
        notes.unknown.push(format!(
            "{workload} was sent {count:.0} connections without mTLS since its ztunnels started: see that none is \
             recent, by running this again with a longer --since"
        ));
    }
    let captured: Vec<&PodView<'_>> = of(view, namespace)
        .filter(|pod| endpoints::is_captured(pod))
        .collect();
    let ztunnels = view.snapshot.ztunnels.all();
    for node in nodes(&captured) {
        let log = ztunnels
            .iter()
            .find(|ztunnel| ztunnel.node == node)
            .map(|ztunnel| &ztunnel.log);
        let unread = match log {
            None => Some("no ztunnel is known there".to_owned()),
            Some(log) => log.unknown().map(|why| why.why().to_owned()),
        };
        if let Some(why) = unread {
            notes
                .unknown
                .push(format!("the log of ztunnel on {node} was not read: {why}"));
        }
    }
    let sidecars = of(view, namespace).filter(|pod| pod.facts.sidecar).count();
    if sidecars > 0 {
        notes.unknown.push(format!(
            "what {sidecars} pods with a sidecar are sent is not seen here: ask their sidecars' metrics for \
             istio_requests_total and istio_tcp_connections_opened_total with connection_security_policy=\"none\""
        ));
    }
    notes.step("no caller speaks plaintext")
}

fn nodes<'v>(pods: &[&'v PodView<'_>]) -> std::collections::BTreeSet<&'v str> {
    pods.iter().filter_map(|pod| pod.facts.node.as_deref()).collect()
}

/// The kubelet has no certificate. To captured pods its probes come past ztunnel.
fn probes(view: &View<'_>, namespace: &str) -> Step {
    let mut notes = Notes::default();
    for pod in of(view, namespace).filter(|pod| pod.facts.sidecar) {
        if let Some(asked) = unchanged(pod).first() {
            notes.against.push(format!(
                "{} is asked for {} on port {} past the rewriting of probes, in plaintext",
                pod.facts.name, asked.path, asked.port
            ));
        }
    }
    notes.step("the kubelet's probes need no certificate")
}

/// Sidecars that are told not to use mTLS towards this namespace.
fn clients(view: &View<'_>, namespace: &str) -> Step {
    let mut notes = Notes::default();
    if let Some(why) = view
        .snapshot
        .custom
        .get(DESTINATION_RULE)
        .and_then(|part| part.unknown())
    {
        notes
            .unknown
            .push(format!("DestinationRules could not be read: {}", why.why()));
    }
    for rule in view.custom(DESTINATION_RULE) {
        if traffic::reaches(rule, namespace)
            && let Some(mode) = without_mtls(rule)
        {
            notes.against.push(format!(
                "DestinationRule {}/{} has callers with a sidecar use tls.mode {mode}",
                rule.namespace(),
                rule.name()
            ));
        }
    }
    notes.step("callers with a sidecar learn of no other TLS")
}

/// A mode of TLS that is not the mesh's own, wherever the rule says it.
fn without_mtls(rule: &Custom) -> Option<String> {
    fn modes(policy: Option<&Value>) -> impl Iterator<Item = &Value> {
        let of_ports = policy.and_then(|policy| policy.get("portLevelSettings")?.as_array());
        let of_ports = of_ports.into_iter().flatten();
        policy
            .into_iter()
            .chain(of_ports)
            .filter_map(|policy| policy.pointer("/tls/mode"))
    }
    let subsets = rule
        .list("/subsets")
        .iter()
        .map(|subset| subset.get("trafficPolicy"));
    let policies = std::iter::once(rule.spec.get("trafficPolicy")).chain(subsets);
    let mut modes = policies.flat_map(modes).filter_map(Value::as_str);
    modes.find(|mode| *mode != "ISTIO_MUTUAL").map(str::to_owned)
}

/// What a policy for the whole namespace would not change.
fn exceptions(view: &View<'_>, namespace: &str) -> Step {
    let mut notes = Notes::default();
    if let Some(why) = view.snapshot.custom.get(PEER).and_then(|part| part.unknown()) {
        notes
            .unknown
            .push(format!("PeerAuthentications could not be read: {}", why.why()));
        return notes.step("the modes that are in force are known");
    }
    let modes: std::collections::BTreeSet<String> = of(view, namespace)
        .filter(|pod| in_mesh(pod))
        .map(|pod| mtls::in_force(view, pod).words())
        .collect();
    notes
        .aside
        .extend(modes.into_iter().map(|mode| format!("now {mode}")));
    for policy in view.custom(PEER) {
        let weaker = mtls::mode(policy.spec.get("mtls")).is_some_and(|mode| mode != Mode::Strict)
            || policy.spec.get("portLevelMtls").is_some();
        if policy.namespace() == namespace && mtls::selected(policy).is_some() && weaker {
            notes.aside.push(format!(
                "PeerAuthentication {} goes on as an exception",
                policy.name()
            ));
        }
    }
    notes.step("the modes that are in force are known")
}

/// The policy for the namespace: under the name of the one that is there, for two would compete.
fn strict(view: &View<'_>, namespace: &str) -> Option<String> {
    let name = mtls::of_namespace(view, namespace).map_or("default", Custom::name);
    let policy = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"mtls": {"mode": "STRICT"}},
    });
    serde_saphyr::to_string(&policy).ok()
}

#[cfg(test)]
mod tests;
