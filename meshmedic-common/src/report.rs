// SPDX-License-Identifier: Apache-2.0
//! What an agent or `meshmedic node` reports of its node.

use serde::{Deserialize, Serialize};

use crate::ports::PortSet;
use crate::uid::PodUid;
use crate::verdict::{Condition, Owner, Reason, Redirection, State, Traffic};

/// The version of [`NodeReport`]. A reader accepts newer fields and refuses another version.
pub const API_VERSION: &str = "meshmedic.io/v1";
/// The kind of [`NodeReport`].
pub const NODE_REPORT: &str = "NodeReport";

/// What triggers a look at a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TriggerMode {
    /// Kernel events, with the census as the safety net.
    Ebpf,
    /// A timer.
    Poll,
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
    pub conditions: Vec<ConditionReport>,
    /// ztunnel's processes.
    pub ztunnel: Vec<u32>,
    /// The pods, by namespace, name and UID.
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
    #[serde(skip_serializing_if = "Option::is_none")]
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
    /// What an orphan's traffic does now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// How often it lost its listeners and got them back before the loss was confirmed.
    pub flaps: u32,
    /// Inode of its network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<u32>,
    /// A process that lives in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
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
    /// `namespace/name` where they are known, else the UID.
    #[must_use]
    pub fn display_name(&self) -> String {
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => self.uid.to_string(),
        }
    }
}
