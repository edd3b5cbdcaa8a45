// SPDX-License-Identifier: Apache-2.0
//! What is known of the node and of a pod when an ask is considered.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::policy::{Gates, Standing};
use crate::ports::PortSet;
use crate::text::clean;
use crate::time::Time;
use crate::verdict::{Redirection, State};

/// Where a pod lives: its network namespace and the process that holds it. No other sandbox of the pod has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The namespace's number.
    pub netns: u64,
    /// When the process started, in the kernel's ticks.
    pub start: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.netns, self.start)
    }
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (netns, start) = text.split_once('-').ok_or(NoPlace)?;
        let number = |digits: &str| digits.parse().map_err(|_| NoPlace);
        Ok(Self {
            netns: number(netns)?,
            start: number(start)?,
        })
    }
}

/// What is written is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a place is a namespace's number and a process's start, with a dash between")]
pub struct NoPlace;

/// Looks in a row, in one place, that found the same amiss, with nothing else in between: readings of /proc that found
/// no listener of ztunnel's, or censuses that found its listeners and none of Istio's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streak {
    /// Where.
    pub place: Place,
    /// How many.
    pub readings: u32,
    /// When the first began.
    pub first: Time,
    /// When the last began.
    pub last: Time,
}

/// A pod of this node.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// What the API says.
    pub standing: &'a Standing,
    /// What the readings say.
    pub state: State,
    /// The last readings, if they found no listener; of a bypassing pod the censuses that found no rules.
    pub streak: Option<Streak>,
    /// When the last reading of /proc began that found all listeners, all of them ztunnel's.
    pub proved_at: Option<Time>,
    /// When it was last seen captured, by whatever looks.
    pub captured_at: Option<Time>,
    /// Where it lives; `None` where no process of it is found in a namespace that has an address which the API gives
    /// the pod.
    pub place: Option<Place>,
    /// What leads to ztunnel: Istio's rules where they were read, or else its routing table.
    pub leads: Redirection,
    /// The ports of ztunnel's that listen, whoever holds them.
    pub ports: PortSet,
    /// Whether a lower rung is at work on it.
    pub taken: bool,
}

/// Whether this node's ztunnel is proved to serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serving {
    /// Nothing shows it.
    #[default]
    Unproven,
    /// It holds the listeners of some pod of this node.
    Captures,
    /// No pod is captured, but it has a connection to istio-cni.
    Connected,
}

/// Whether istio-cni takes a running pod in again when it is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Support {
    /// It does.
    Yes,
    /// Its version is too old for that.
    TooOld(String),
    /// Its version cannot be told.
    #[default]
    Unknown,
}

impl Support {
    /// From what istio-cni's labels, its image or the user say: `1.30.3`, `1.32-dev`, `1.27.1-distroless`.
    #[must_use]
    pub fn of(version: Option<&str>) -> Self {
        let Some(version) = version else {
            return Self::Unknown;
        };
        let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= LEAST => Self::Yes,
            (Some(Ok(_)), Some(Ok(_))) => Self::TooOld(clean(version, 64)),
            _ => Self::Unknown,
        }
    }
}

/// The first Istio whose istio-cni keeps its duty towards a pod that is `pending`.
const LEAST: (u32, u32) = (1, 25);

/// What is known of the node.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// What holds above the pods. Of its fault only what is wrong now counts here, not what has yet to settle.
    pub gates: Gates,
    /// Since when ztunnel is Ready and its processes are the ones they are; `None` while it is not Ready.
    pub ztunnel_since: Option<Time>,
    /// Since when istio-cni is Ready; `None` while it is not.
    pub cni_since: Option<Time>,
    /// Whether ztunnel is proved to serve.
    pub serving: Serving,
    /// Whether istio-cni understands.
    pub support: Support,
    /// istio-cni's container and ztunnel's, as far as the API says.
    pub containers: (Option<String>, Option<String>),
    /// What is said of the cluster's heals, where so many did not take that none is begun.
    pub breaker: Option<String>,
    /// The node's address inside the cluster, where it is known.
    pub address: Option<IpAddr>,
    /// Whether another agent of this node is the one that acts.
    pub watches_only: bool,
}
