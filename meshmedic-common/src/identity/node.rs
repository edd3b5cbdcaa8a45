// SPDX-License-Identifier: Apache-2.0
//! Whether a node is at fault: how its ztunnel and its istio-cni are, by what the API says.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::{Component, Identity};
use crate::duration;
use crate::facts::PodFacts;

/// How a part of Istio is on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnNode {
    /// No pod there is.
    Missing,
    /// Pods of several workloads are, and nothing decides between them.
    Disputed(Vec<String>),
    /// One of its pods is not Ready.
    NotReady,
    /// All of its pods are Ready; the youngest since then, where that is known.
    Ready(Option<Timestamp>),
}

/// The parts of Istio on one node that its pods depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataPlane {
    /// What holds the pods' listeners.
    pub ztunnel: OnNode,
    /// What enrols them.
    pub cni: OnNode,
}

/// Why readings of a node's pods prove nothing, and none of them is repaired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeFault {
    /// There is none.
    Missing(Component),
    /// Several workloads are this component.
    Disputed(Component, Vec<String>),
    /// It is not Ready.
    NotReady(Component),
    /// It has been Ready for this long only.
    Unsettled(Component, Duration),
}

impl fmt::Display for NodeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(component) => write!(f, "no {component} runs on the node"),
            Self::Disputed(component, sets) => {
                write!(f, "{} are both {component} on the node", sets.join(" and "))
            }
            Self::NotReady(component) => write!(f, "{component} is not Ready on the node"),
            Self::Unsettled(component, age) => {
                write!(
                    f,
                    "{component} on the node has been Ready for {} only",
                    duration::show(*age)
                )
            }
        }
    }
}

impl DataPlane {
    /// From the pods of one node.
    #[must_use]
    pub fn of<'a>(identity: &Identity, pods: impl Iterator<Item = &'a PodFacts> + Clone) -> Self {
        Self {
            ztunnel: OnNode::of(identity, Component::Ztunnel, pods.clone()),
            cni: OnNode::of(identity, Component::Cni, pods),
        }
    }

    /// What is wrong with the node. Its ztunnel must have been Ready for `settle` at the API server's time, where both
    /// are given: an agent knows better, from the process.
    #[must_use]
    pub fn fault(&self, settled: Option<(Duration, Timestamp)>) -> Option<NodeFault> {
        let ztunnel = self.ztunnel.fault(Component::Ztunnel);
        ztunnel
            .or_else(|| self.cni.fault(Component::Cni))
            .or_else(|| self.unsettled(settled))
    }

    /// The same for an ask, which istio-cni must have settled for as well.
    #[must_use]
    pub fn fault_for_ask(&self, settled: (Duration, Timestamp)) -> Option<NodeFault> {
        self.fault(Some(settled))
            .or_else(|| self.cni.unsettled(Component::Cni, settled))
    }

    fn unsettled(&self, settled: Option<(Duration, Timestamp)>) -> Option<NodeFault> {
        self.ztunnel.unsettled(Component::Ztunnel, settled?)
    }
}

impl OnNode {
    /// From the pods of one node. Those that are leaving or ended count for nothing: another takes their place.
    fn of<'a>(identity: &Identity, component: Component, pods: impl Iterator<Item = &'a PodFacts>) -> Self {
        let mut sets = BTreeSet::new();
        let mut youngest = None;
        let mut ready = true;
        for pod in pods.filter(|pod| !pod.deleting && !pod.finished && identity.proves(pod, component)) {
            let Some(set) = &pod.controller else { continue };
            sets.insert((&set.uid, format!("{} {}/{}", set.kind, pod.namespace, set.name)));
            ready &= pod.ready;
            youngest = youngest.max(pod.ready_since);
        }
        match sets.len() {
            0 => Self::Missing,
            1 if ready => Self::Ready(youngest),
            1 => Self::NotReady,
            // By name, so that it is the same whichever pod the API shows first.
            _ => Self::Disputed(
                sets.into_iter()
                    .map(|(_, name)| name)
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect(),
            ),
        }
    }

    fn unsettled(&self, component: Component, settled: (Duration, Timestamp)) -> Option<NodeFault> {
        let (settle, now) = settled;
        let Self::Ready(since) = self else {
            return None;
        };
        let age = Duration::try_from(now.duration_since((*since)?)).unwrap_or_default();
        (age < settle).then_some(NodeFault::Unsettled(component, age))
    }

    fn fault(&self, component: Component) -> Option<NodeFault> {
        match self {
            Self::Missing => Some(NodeFault::Missing(component)),
            Self::Disputed(sets) => Some(NodeFault::Disputed(component, sets.clone())),
            Self::NotReady => Some(NodeFault::NotReady(component)),
            Self::Ready(_) => None,
        }
    }
}
