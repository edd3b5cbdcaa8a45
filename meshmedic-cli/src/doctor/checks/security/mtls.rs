// SPDX-License-Identifier: Apache-2.0
//! Which mTLS mode is in force for a pod, by all PeerAuthentications together.

use crate::doctor::kind::PEER;
use std::collections::BTreeMap;
use std::fmt;

use meshmedic_common::facts::Labels;
use serde_json::Value;

use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::snapshot::Custom;
use crate::doctor::view::{PodView, View, endpoints, has_all};

/// What a pod takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    Disable,
    /// mTLS and plaintext.
    Permissive,
    Strict,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        })
    }
}

/// What is in force for a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct InForce<'s> {
    pub(crate) mode: Mode,
    /// Who says so; none if nobody does.
    pub(crate) by: Option<&'s Custom>,
    /// Ports that have a mode of their own.
    pub(crate) ports: BTreeMap<u16, Mode>,
}

impl InForce<'_> {
    /// Whether plaintext gets in on any port.
    pub(crate) fn takes_plaintext(&self) -> bool {
        self.mode != Mode::Strict || self.ports.values().any(|mode| *mode != Mode::Strict)
    }

    /// The mode, and who says so.
    pub(crate) fn words(&self) -> String {
        let by = match self.by {
            Some(by) => format!("by {}", reference(by)),
            None => "as it is where no PeerAuthentication says otherwise".to_owned(),
        };
        let of_ports: Vec<String> = self
            .ports
            .iter()
            .map(|(port, mode)| format!("{mode} on port {port}"))
            .collect();
        let of_ports = if of_ports.is_empty() {
            String::new()
        } else {
            format!(" ({})", of_ports.join(", "))
        };
        format!("{} {by}{of_ports}", self.mode)
    }
}

pub(crate) fn reference(policy: &Custom) -> ObjectRef {
    ObjectRef::new(&policy.kind, policy.namespace(), policy.name())
}

/// A mode as it is written; none if it is to be inherited.
pub(crate) fn mode(of: Option<&Value>) -> Option<Mode> {
    match of?.get("mode")?.as_str()? {
        "STRICT" => Some(Mode::Strict),
        "PERMISSIVE" => Some(Mode::Permissive),
        "DISABLE" => Some(Mode::Disable),
        _ => None,
    }
}

/// The labels that a policy of Istio selects; none if it is for all pods.
pub(crate) fn selected(policy: &Custom) -> Option<Labels> {
    let labels = policy.spec.pointer("/selector/matchLabels")?.as_object()?;
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    let labels: Option<Labels> = labels.iter().map(text).collect();
    labels.filter(|labels| !labels.is_empty())
}

/// Of policies that compete the oldest wins.
fn oldest<'s>(policies: impl Iterator<Item = &'s Custom>) -> Option<&'s Custom> {
    policies.min_by_key(|policy| {
        let created = policy.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created, policy.namespace(), policy.name())
    })
}

/// The PeerAuthentication that is for a whole namespace.
pub(crate) fn of_namespace<'s>(view: &View<'s>, namespace: &str) -> Option<&'s Custom> {
    let all = view.custom(PEER).iter();
    oldest(all.filter(|policy| policy.namespace() == namespace && selected(policy).is_none()))
}

/// What is in force for a pod.
pub(crate) fn in_force<'s>(view: &View<'s>, pod: &PodView<'_>) -> InForce<'s> {
    let namespace = pod.facts.namespace.as_str();
    let workload = oldest(view.custom(PEER).iter().filter(|policy| {
        policy.namespace() == namespace
            && selected(policy).is_some_and(|labels| has_all(&pod.facts.labels, &labels))
    }));
    let levels = [
        workload,
        of_namespace(view, namespace),
        of_namespace(view, &view.root),
    ];
    let said = levels
        .into_iter()
        .flatten()
        .find_map(|policy| Some((mode(policy.spec.get("mtls"))?, policy)));
    let (mode_of_all, by) = said.map_or((Mode::Permissive, None), |(mode, by)| (mode, Some(by)));
    let ports = workload.and_then(|policy| policy.spec.get("portLevelMtls")?.as_object());
    let ports = ports
        .into_iter()
        .flatten()
        .filter_map(|(port, said)| Some((port.parse().ok()?, mode(Some(said))?)));
    InForce {
        mode: mode_of_all,
        by,
        ports: ports.filter(|(_, mode)| *mode != mode_of_all).collect(),
    }
}

/// Whether a pod is in the mesh: captured, or with a sidecar.
pub(crate) fn in_mesh(pod: &PodView<'_>) -> bool {
    pod.is_live() && (endpoints::is_captured(pod) || pod.facts.sidecar)
}

/// One finding for each namespace in which pods take plaintext.
pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut namespaces: BTreeMap<&str, BTreeMap<String, usize>> = BTreeMap::new();
    for pod in view.pods().iter().filter(|pod| in_mesh(pod)) {
        let force = in_force(view, pod);
        if force.takes_plaintext() {
            let modes = namespaces.entry(&pod.facts.namespace).or_default();
            *modes.entry(force.words()).or_default() += 1;
        }
    }
    let findings = namespaces.into_iter().map(|(namespace, modes)| {
        let mut finding = Finding::on(
            ObjectRef::cluster("Namespace", namespace),
            "its pods take plaintext as well as mTLS",
        );
        for (mode, count) in modes.into_iter().take(4) {
            let pods = if count == 1 { "1 pod is".to_owned() } else { format!("{count} pods are") };
            finding = finding.because(format!("{pods} {mode}"));
        }
        finding
            .so(
                "Good while a namespace moves into the mesh. Afterwards anybody who reaches these pods may speak to \
                 them without an identity, and a caller that fell out of the mesh goes unnoticed.",
            )
            .run(Command::new("meshmedic doctor --strict-ready").namespace(namespace))
            .by_hand("If that says go, make the namespace STRICT as it shows.")
    });
    findings.collect()
}
