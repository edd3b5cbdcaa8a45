// SPDX-License-Identifier: Apache-2.0
//! What a reader of logs has to know of the cluster's pods.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;

/// Which pod: a name alone would also mean its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PodId {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// What a pod is to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It should be captured.
    Expected,
    /// A waypoint or a gateway: its Envoy speaks HBONE itself, ztunnel captures nothing.
    Waypoint,
    /// It shares its node's address with whatever else runs there.
    HostNetwork,
    /// Nobody wants it captured: opted out, with a sidecar, or outside the mesh.
    Exempt,
}

/// A pod, as far as a log's reader has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Which pod.
    pub id: PodId,
    /// What it is to the mesh.
    pub role: Role,
    /// When it was created. What is older was said of another pod.
    pub created: Option<Timestamp>,
}

/// The pods of a cluster.
pub trait Directory: Send + Sync {
    /// The pod that has this address now.
    fn pod_by_ip(&self, ip: IpAddr) -> Option<&Pod>;
    /// The pod that has this name now.
    fn pod_by_name(&self, namespace: &str, name: &str) -> Option<&Pod>;
}

/// A [`Directory`] of pods that were listed.
#[derive(Clone, Debug, Default)]
pub struct PodIndex {
    pods: Vec<Pod>,
    by_ip: HashMap<IpAddr, usize>,
    by_name: BTreeMap<(String, String), usize>,
}

impl PodIndex {
    /// Adds a pod that runs.
    ///
    /// Pods that ended must be left out: they keep an address in their status that others have by now.
    pub fn insert(&mut self, pod: Pod, addresses: impl IntoIterator<Item = IpAddr>) {
        let index = self.pods.len();
        for ip in addresses {
            let ip = ip.to_canonical();
            // A node's address says nothing about a pod, and must not hide the pod that has it by a mistake.
            // Of two pods the younger has the address: the other is about to leave it.
            let better = self
                .by_ip
                .get(&ip)
                .is_none_or(|&known| rank(&pod) > rank(&self.pods[known]));
            if better {
                self.by_ip.insert(ip, index);
            }
        }
        let name = (pod.id.namespace.clone(), pod.id.name.clone());
        self.by_name.insert(name, index);
        self.pods.push(pod);
    }
}

fn rank(pod: &Pod) -> (bool, Option<Timestamp>, &PodId) {
    (pod.role != Role::HostNetwork, pod.created, &pod.id)
}

impl Directory for PodIndex {
    fn pod_by_ip(&self, ip: IpAddr) -> Option<&Pod> {
        self.by_ip.get(&ip.to_canonical()).map(|&index| &self.pods[index])
    }

    fn pod_by_name(&self, namespace: &str, name: &str) -> Option<&Pod> {
        let key = (namespace.to_owned(), name.to_owned());
        self.by_name.get(&key).map(|&index| &self.pods[index])
    }
}
