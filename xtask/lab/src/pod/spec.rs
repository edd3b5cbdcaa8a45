// SPDX-License-Identifier: Apache-2.0
//! What a pod shall be.

use std::net::{IpAddr, SocketAddr};

/// A pod's class of service, which its cgroup path shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Qos {
    /// No class in the path.
    Guaranteed,
    /// `burstable`
    #[default]
    Burstable,
    /// `besteffort`
    BestEffort,
}

/// The kubelet's cgroup driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// `/kubepods/burstable/pod<uid>/<container>`
    Cgroupfs,
    /// `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<container>.scope`
    #[default]
    Systemd,
}

/// What lies around the kubelet's cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// Nothing: a node of its own.
    #[default]
    Node,
    /// A Docker container: `/docker/<container>/kubepods…`
    Docker,
    /// kind: `/system.slice/docker-<container>.scope/kubelet.slice/kubelet-kubepods.slice/…`
    Kind,
}

/// What a pod shall be.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID. By default it follows from the lab, the namespace and the name, so that two labs on one
    /// machine cannot be taken for each other.
    pub uid: Option<String>,
    /// Its class of service.
    pub qos: Qos,
    /// The kubelet's cgroup driver.
    pub driver: Driver,
    /// What lies around the kubelet's cgroups.
    pub shape: Shape,
    /// A static pod's config hash, which its cgroup and its log folder carry instead of its UID.
    pub config_hash: Option<String>,
    /// Its addresses, on loopback; by default one of 10.244.0.0/16 that no other pod of the lab has.
    pub addresses: Vec<IpAddr>,
    /// Whether its network namespace has IPv6.
    pub ipv6: bool,
    /// Whether it shares the node's network namespace.
    pub host_network: bool,
    /// What its application listens on.
    pub listeners: Vec<SocketAddr>,
    /// Whether Istio's route and rule are in its network namespace.
    pub redirected: bool,
    /// What its processes call themselves.
    pub process_name: String,
}

impl PodSpec {
    /// A pod with one address, redirected, whose application listens on nothing.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: None,
            qos: Qos::default(),
            driver: Driver::default(),
            shape: Shape::default(),
            config_hash: None,
            addresses: Vec::new(),
            ipv6: true,
            host_network: false,
            listeners: Vec::new(),
            redirected: true,
            process_name: "app".to_owned(),
        }
    }
}
