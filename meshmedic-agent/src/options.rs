// SPDX-License-Identifier: Apache-2.0
//! How an agent is to work, checked and complete.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::status::{Endpoints, ListenAddr};
use meshmedic_common::identity::Identity;
use meshmedic_common::policy::Rungs;
use meshmedic_common::repair::Repairer;
use meshmedic_common::repair::heal::Care;

/// How changes are noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trigger {
    /// Kernel events; without eBPF a timer, and a warning that says why.
    #[default]
    Auto,
    /// Kernel events or nothing.
    Ebpf,
    /// A timer.
    Poll,
}

/// How an agent is to work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentOptions {
    /// This node's name, as the API has it.
    pub node: String,
    /// The node's /proc.
    pub proc_root: PathBuf,
    /// The kubelet's log folders, where they are mounted; the API gives the pods their names.
    pub log_root: Option<PathBuf>,
    /// The node's folder of CNI configurations, where it is mounted.
    pub cni_folder: Option<PathBuf>,
    /// How changes are noticed.
    pub trigger: Trigger,
    /// How often all pods are looked at.
    pub interval: Duration,
    /// For how long every reading must agree before a loss is believed.
    pub confirm: Duration,
    /// How long ztunnel must have been Ready before its absence in a pod means anything.
    pub settle: Duration,
    /// For how long istio-cni may go on trying to enrol a pod before that is a finding.
    pub pending_deadline: Duration,
    /// Whether the node's condition is kept.
    pub node_condition: bool,
    /// Where metrics and health are served; `None` for nowhere.
    pub metrics_addr: Option<ListenAddr>,
    /// Where the report is served, on loopback; `None` for nowhere.
    pub status_addr: Option<ListenAddr>,
    /// How to reach the API; `None` for the cluster that this runs in, then the usual places.
    pub kubeconfig: Option<PathBuf>,
    /// Who may speak for Istio.
    pub identity: Identity,
    /// The namespace in which the agents keep their records.
    pub namespace: String,
    /// The UID of the pod in which this runs, where it was told: another agent of the node may be older.
    pub pod_uid: Option<String>,
    /// Which ways to bring a pod back may be used.
    pub rungs: Rungs,
    /// How careful heals in place are.
    pub care: Care,
    /// Which version istio-cni is, where its own word is not to be taken.
    pub istio_version: Option<String>,
    /// Who repairs, and how carefully.
    pub repairer: Repairer,
    /// Whether successors that land here are proved, for repairs of any node.
    pub prove: bool,
}

/// A loop that goes round at least once an interval is standing still after so many of them,
const STALLED_INTERVALS: u32 = 3;
/// and never before this: a busy node is no reason to restart its agent.
const STALLED_LEAST: Duration = Duration::from_secs(120);

impl AgentOptions {
    /// Where to listen.
    #[must_use]
    pub const fn endpoints(&self) -> Endpoints {
        Endpoints {
            metrics: self.metrics_addr,
            status: self.status_addr,
        }
    }

    /// After what silence of the loop `/healthz` says so.
    #[must_use]
    pub fn stalled_after(&self) -> Duration {
        self.interval.saturating_mul(STALLED_INTERVALS).max(STALLED_LEAST)
    }
}

/// Where Kubernetes tells a pod its namespace.
pub const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// The namespace of our manifests.
const DEFAULT_NAMESPACE: &str = "meshmedic";

/// The namespace in which this runs: as it was told, as `file` says, or that of our manifests.
#[must_use]
pub fn own_namespace(told: Option<String>, file: &Path) -> String {
    let read = || std::fs::read_to_string(file).ok();
    let told = told.filter(|name| !name.trim().is_empty()).or_else(read);
    told.map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_is_the_one_that_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("namespace");
        assert_eq!(own_namespace(None, &file), "meshmedic");
        std::fs::write(&file, "istio-system\n").unwrap();
        assert_eq!(own_namespace(None, &file), "istio-system");
        assert_eq!(own_namespace(Some(String::new()), &file), "istio-system");
        assert_eq!(own_namespace(Some("mine".to_owned()), &file), "mine");
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(own_namespace(None, &file), "meshmedic");
    }
}
