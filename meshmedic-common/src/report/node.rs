// SPDX-License-Identifier: Apache-2.0
//! What only somebody on the node can see of what the mesh stands on.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Recent;

/// The CNI configuration that the node's container runtime uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniFolder {
    /// The file that counts: the first by name. None where the folder has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The types of the plugins that it calls, in order.
    #[serde(default)]
    pub plugins: Vec<String>,
    /// Whether istio-cni is among them.
    #[serde(default)]
    pub calls_istio_cni: bool,
    /// When it was not, as the agent saw it since it started; the last ones, oldest first.
    #[serde(default, skip_serializing_if = "Recent::is_empty")]
    pub gaps: Recent<CniGap>,
}

/// A time in which no configuration called istio-cni, so that no pod whose network was made in it got redirection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniGap {
    /// When that was first seen, by the node's clock.
    pub from: Timestamp,
    /// When it was first seen to be over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl CniGap {
    /// How much later than its network a sandbox may be told to be ready.
    const LATE: SignedDuration = SignedDuration::from_secs(5);
    /// The kubelet cuts times to seconds.
    const CUT: SignedDuration = SignedDuration::from_secs(1);

    /// Whether the network of a sandbox that was ready then was made in it.
    #[must_use]
    pub fn covers(&self, ready: Timestamp) -> bool {
        self.from.duration_since(ready) < Self::CUT
            && self
                .until
                .is_none_or(|until| ready.duration_since(until) <= Self::LATE)
    }
}

/// What the agent's process may still do, after it gave up what only its start needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Confinement {
    /// The capabilities that it holds, by name.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Whether the kernel denies it the system calls that it never makes.
    #[serde(default)]
    pub seccomp: bool,
    /// Whether no program that it might start could get more rights.
    #[serde(default)]
    pub no_new_privs: bool,
    /// What it could not give up, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
}

/// The overlay network, as the node's own network namespace shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overlay {
    /// Interfaces whose names overlay networks give, such as `flannel.1`.
    #[serde(default)]
    pub interfaces: Vec<String>,
    /// Which of the UDP ports of overlay networks are open.
    #[serde(default)]
    pub udp_ports: Vec<u16>,
}

/// Whether an agent reached another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reach {
    /// Whether it did.
    pub reached: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
