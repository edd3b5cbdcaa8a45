// SPDX-License-Identifier: Apache-2.0
//! What an agent or `meshmedic node` reports of its node.
//!
//! Whoever reads a report accepts fields that it does not know and does without those that came later.

mod history;
mod node;
mod read;
mod repair;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::eligibility::Expectation;
use crate::identity::{Claimant, Identity};
use crate::ports::PortSet;
use crate::rules::PodRules;
use crate::traffic::Connections;
use crate::uid::PodUid;
use crate::verdict::{Condition, Owner, Reason, Redirection, State, Traffic, named};

pub use history::{Recent, TransitionReport};
pub use node::{CniFolder, CniGap, Confinement, Overlay, Reach};
pub use read::ReadError;
pub use repair::{
    BreakerReport, BreakerScope, Budgets, HealStanding, RepairReport, RepairResult, RepairStanding,
};

/// The version of [`NodeReport`]. A reader accepts newer fields and refuses another version.
pub const API_VERSION: &str = "meshmedic.io/v1";
/// The kind of [`NodeReport`].
pub const NODE_REPORT: &str = "NodeReport";
/// The kind of an answer that is none: it has a `message` for people.
pub const ERROR: &str = "Error";

/// What triggers a look at a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TriggerMode {
    /// Kernel events, with the census as the safety net.
    Ebpf,
    /// A timer.
    Poll,
}

impl TriggerMode {
    /// Every mode.
    pub const ALL: &[Self] = &[Self::Ebpf, Self::Poll];

    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Poll => "poll",
        }
    }
}

/// A node and its pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// [`API_VERSION`].
    pub api_version: String,
    /// [`NODE_REPORT`].
    pub kind: String,
    /// The node's name.
    pub node: String,
    /// The version of the MeshMedic that reports.
    pub version: String,
    /// How changes are noticed.
    pub trigger: TriggerMode,
    /// What holds for the whole node.
    #[serde(deserialize_with = "read::known_conditions")]
    pub conditions: Vec<ConditionReport>,
    /// ztunnel's processes.
    pub ztunnel: Vec<u32>,
    /// Whether ztunnel is proved to serve, where the agent looks for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serves: Option<bool>,
    /// When this was so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// When the node started, by the same clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted: Option<Timestamp>,
    /// What repairs may still be begun; only an agent has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budgets: Option<Budgets>,
    /// The breakers that are open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breakers: Vec<BreakerReport>,
    /// The last repairs of this agent.
    #[serde(default, skip_serializing_if = "Recent::is_empty")]
    pub repairs: Recent<RepairReport>,
    /// What the agent's process may still do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confinement: Option<Confinement>,
    /// The node's CNI configuration, where the agent may see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni_folder: Option<CniFolder>,
    /// The overlay network under the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
    /// Who may speak for Istio, as this agent is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub istio: Option<Identity>,
    /// Who claims to be a part of Istio and is ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<Claimant>,
    /// The pods, by namespace, name and UID.
    #[serde(deserialize_with = "read::pods")]
    pub pods: Vec<PodReport>,
}

/// A condition that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionReport {
    /// Which one.
    pub condition: Condition,
    /// What exactly, for people.
    pub detail: String,
}

/// A pod, its state, and the evidence for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// Its namespace, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its UID; of a static pod, its config hash.
    pub uid: PodUid,
    /// Its state.
    pub state: State,
    /// Why, where the state alone does not tell.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "read::known"
    )]
    pub reason: Option<Reason>,
    /// More about the reason, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The capture ports that listen, on whichever address.
    pub ports: PortSet,
    /// Whose the listeners of a captured pod are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Who holds capture ports without being ztunnel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_by: Vec<Holder>,
    /// Whether Istio's routing table is there.
    pub redirection: Redirection,
    /// Whether Istio's redirection rules are there, by the kernel's own hooks; only the census knows.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "read::understood"
    )]
    pub rules: Option<PodRules>,
    /// Which way its connections go, by what the kernel counted.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "read::understood"
    )]
    pub connections: Option<Connections>,
    /// What an orphan's traffic does now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// How often it lost its listeners and got them back before the loss was confirmed.
    pub flaps: u32,
    /// Inode of its network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<u32>,
    /// Its sandbox, as `meshmedic.io/heal` names it; where it is proved to have an address that the API gives the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// A process that lives in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Since when it is in its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When the last reading of it in /proc began, by the API server's clock. Its state may be of a later census.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_at: Option<Timestamp>,
    /// Whether the API says that it should be captured.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "read::known"
    )]
    pub expectation: Option<Expected>,
    /// Whether it is Ready, where the API told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Whether it has not been Ready for longer than the grace period.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stuck: bool,
    /// Its last changes, oldest first.
    #[serde(default, skip_serializing_if = "Recent::is_empty")]
    pub transitions: Recent<TransitionReport>,
    /// How it stands with its repair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<RepairStanding>,
    /// How far its heal in place is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealStanding>,
}

named! {
    /// Whether a pod should be captured, without the reasons.
    pub enum Expected {
        /// It should.
        Yes = "expected", "should be captured";
        /// istio-cni is still trying.
        Pending = "pending", "istio-cni is still trying to enrol it";
        /// It should not.
        Exempt = "exempt", "should not be captured";
        /// It should, but nothing that can be read would show it.
        Unverifiable = "unverifiable", "should be captured, and nothing that can be read would show it";
        /// Nobody said so.
        Undeclared = "undeclared", "unknown whether it should be captured";
    }
}

impl From<Expectation> for Expected {
    fn from(expectation: Expectation) -> Self {
        match expectation {
            Expectation::Expected => Self::Yes,
            Expectation::Pending => Self::Pending,
            Expectation::Exempt(_) => Self::Exempt,
            Expectation::Unverifiable(_) => Self::Unverifiable,
            Expectation::Undeclared => Self::Undeclared,
        }
    }
}

/// A process that holds capture ports in a pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its name: its own word, cleaned of control characters.
    pub name: String,
    /// The ports that it holds.
    pub ports: PortSet,
}

impl PodReport {
    /// When what it says was last seen by the API server's clock: the last reading began, or since then the census has
    /// seen it captured.
    #[must_use]
    pub fn seen_at(&self) -> Option<Timestamp> {
        let census = self.since.filter(|_| self.state == State::Captured);
        self.read_at
            .map(|read| census.map_or(read, |since| read.max(since)))
    }

    /// `namespace/name` where they are known, else the UID.
    #[must_use]
    pub fn display_name(&self) -> String {
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => self.uid.to_string(),
        }
    }
}

impl NodeReport {
    /// When a pod last became captured, as far as its history goes.
    #[must_use]
    pub fn captured_at(&self, uid: &PodUid) -> Option<Timestamp> {
        let pod = self.pods.iter().find(|pod| pod.uid == *uid)?;
        let mut changes = pod.transitions.iter().rev();
        changes
            .find(|change| change.to == State::Captured)
            .map(|change| change.at)
    }

    /// The time without istio-cni in which a sandbox was made that was ready then.
    #[must_use]
    pub fn gap_of(&self, ready: Option<Timestamp>) -> Option<CniGap> {
        let gaps = &self.cni_folder.as_ref()?.gaps;
        let ready = ready?;
        gaps.iter().find(|gap| gap.covers(ready)).copied()
    }

    /// The same report, of one pod only. While a pod is replaced, two may have its name.
    #[must_use]
    pub fn of_pod(&self, namespace: &str, name: &str) -> Option<Self> {
        let (namespace, name) = (Some(namespace), Some(name));
        let its = |pod: &&PodReport| pod.namespace.as_deref() == namespace && pod.name.as_deref() == name;
        let pods: Vec<PodReport> = self.pods.iter().filter(its).cloned().collect();
        (!pods.is_empty()).then(|| Self {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            node: self.node.clone(),
            version: self.version.clone(),
            trigger: self.trigger,
            conditions: self.conditions.clone(),
            ztunnel: self.ztunnel.clone(),
            serves: self.serves,
            at: self.at,
            booted: self.booted,
            budgets: self.budgets.clone(),
            breakers: self.breakers.clone(),
            repairs: self.repairs.clone(),
            confinement: self.confinement.clone(),
            cni_folder: self.cni_folder.clone(),
            overlay: self.overlay.clone(),
            istio: self.istio.clone(),
            strangers: self.strangers.clone(),
            pods,
        })
    }
}

#[cfg(test)]
mod tests;
