// SPDX-License-Identifier: Apache-2.0
//! What the API says of a pod, reduced to what a verdict or a repair depends on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ask::Ask;
use crate::uid::PodUid;

/// The annotation in which istio-cni says that it enrolled a pod.
pub const REDIRECTION: &str = "ambient.istio.io/redirection";
/// The annotation that Envoy's injection leaves.
pub const SIDECAR: &str = "sidecar.istio.io/status";
/// The annotation, on a pod or a namespace, that forbids repairs.
pub const REPAIR: &str = "meshmedic.io/repair";
/// The annotation of a static pod's mirror that its cgroup carries instead of the UID.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// The annotation that only mirrors of static pods carry.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// The annotation in which a toggle keeps the label's value while it is away.
pub const TOGGLE_RESTORE: &str = "meshmedic.io/toggle-restore";
/// The annotation, on a pod or a namespace, that narrows the ways in which a pod may be brought back.
pub const STRATEGY: &str = "meshmedic.io/strategy";
/// The annotation in which an ask is written down, see [`crate::repair::heal::Ask`].
pub const HEAL: &str = "meshmedic.io/heal";

/// The init container that lets a pod's containers start once ztunnel listens beside them.
pub const GATE: &str = "meshmedic-gate";

/// By which charts say what version they installed.
const VERSION_LABEL: &str = "app.kubernetes.io/version";

/// Labels of a pod or a namespace.
pub type Labels = BTreeMap<String, String>;

/// What istio-cni says of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enrolment {
    /// Nothing, or something that means nothing.
    #[default]
    None,
    /// It is still trying.
    Pending,
    /// It enrolled it, once.
    Enabled,
}

/// Who recreates a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Its kind, such as `ReplicaSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// What the API says of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The node that it runs on.
    pub node: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Who recreates it.
    pub controller: Option<Controller>,
    /// The hash in a static pod's cgroup. A pod that has one is the kubelet's, not the API's.
    pub config_hash: Option<String>,
    /// Whether it is the mirror of a static pod.
    pub mirror: bool,
    /// Whether it shares the node's network.
    pub host_network: bool,
    /// Whether an Envoy takes its traffic.
    pub sidecar: bool,
    /// Its runtime class.
    pub runtime_class: Option<String>,
    /// What istio-cni says.
    pub enrolment: Enrolment,
    /// Whether it ran to its end.
    pub finished: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether its containers were begun: it is placed, its images are there, its network is made.
    pub started: bool,
    /// How long it may take to end once it is told to.
    pub grace: Duration,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Whether it is Ready.
    pub ready: bool,
    /// Since when it is Ready or not: the condition's transition, else its start, else its creation.
    pub ready_since: Option<Timestamp>,
    /// What its annotation says of repairs.
    pub repair: Option<String>,
    /// What a toggle left to be restored.
    pub toggle_restore: Option<String>,
    /// What its annotation says of the ways that are allowed.
    pub strategy: Option<String>,
    /// What an ask left.
    pub heal: Option<String>,
    /// Whether its sandbox is ready, where the kubelet says so.
    pub sandbox_ready: Option<bool>,
    /// Since when that is so.
    pub sandbox_since: Option<Timestamp>,
    /// Its first container's ID and image, of Istio's own pods alone.
    pub container: Option<Container>,
    /// Its gate, where it has one and the whole pod was asked for.
    pub gate: Option<Gate>,
}

/// The gate of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Whether it is the first of the init containers: what comes before it starts outside the mesh.
    pub first: bool,
    /// How far it is.
    pub state: GateState,
}

/// How far a gate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateState {
    /// Its turn has not come.
    Ahead,
    /// It waits for ztunnel, since this time.
    Waiting(Option<Timestamp>),
    /// It waited in vain, and left this message. The kubelet starts it again, unless the pod is never restarted.
    Failed(Option<String>),
    /// It has let the pod's containers start.
    Open,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Its ID, as the kubelet says it.
    pub id: Option<String>,
    /// Its image.
    pub image: String,
    /// When it started, while it runs.
    pub started: Option<Timestamp>,
}

impl PodFacts {
    /// The identity that its cgroup carries; `None` where the API's UID is none.
    #[must_use]
    pub fn cgroup_uid(&self) -> Option<PodUid> {
        PodUid::parse(self.config_hash.as_deref().unwrap_or(&self.uid))
    }

    /// Whether istio-cni is still trying because an ask of ours had it try. An ask that is older than the pod's sandbox
    /// was made for another.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        let ask = self.heal.as_deref().and_then(Ask::parse);
        let newer = |ask: &Ask| self.sandbox_since.is_none_or(|since| ask.at >= since);
        self.enrolment == Enrolment::Pending && ask.as_ref().is_some_and(newer)
    }

    /// What version it says that it is, where it is one of Istio's own: by its label, else by the tag of its image.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        let tag = || {
            let image = &self.container.as_ref()?.image;
            let name = image.rsplit_once('/').map_or(image.as_str(), |(_, name)| name);
            let name = name.split_once('@').map_or(name, |(name, _)| name);
            name.split_once(':').map(|(_, tag)| tag.to_owned())
        };
        self.labels.get(VERSION_LABEL).cloned().or_else(tag)
    }

    /// `namespace/name`.
    #[must_use]
    pub fn display_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}
