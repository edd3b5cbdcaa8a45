// SPDX-License-Identifier: Apache-2.0
//! A node of a cluster, and what runs on it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::SharedZtunnel;
use super::cni::{Cni, Host};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::pod::Pod;
use crate::process::lock;
use crate::ztunnel::Ztunnel;

/// A node: a lab of its own, and what the kubelet knows.
pub struct Node {
    name: String,
    number: u8,
    lab: Lab,
    cni: Cni,
    pods: AtomicU8,
    local: Mutex<BTreeMap<String, Local>>,
}

/// What runs for an API object, by its UID.
pub(super) struct Local {
    pub(super) what: What,
    pub(super) address: Option<IpAddr>,
    /// Whether the kubelet said that it is ready.
    pub(super) ready: bool,
    /// Whether its object was found in the API; before that, its absence says nothing.
    pub(super) seen: bool,
    /// The process that the API server knows of.
    pub(super) told: Option<u32>,
    /// How often its sandbox was replaced, and when last.
    pub(super) restarts: u32,
    pub(super) restarted: Option<Timestamp>,
}

/// What runs.
pub(super) enum What {
    Pod(Pod),
    Ztunnel(SharedZtunnel),
    /// The node agent of istio-cni, which is the cluster's own thread.
    Cni(Pod),
}

impl Node {
    pub(super) fn make(number: usize) -> Result<Self> {
        let number = u8::try_from(number).unwrap_or(u8::MAX);
        let lab = Lab::isolated()?;
        let cni = Cni::new(lab.folder().join("ztunnel.sock"))?;
        Ok(Self {
            name: format!("node-{}", char::from(b'a' + number % 26)),
            number,
            lab,
            cni,
            pods: AtomicU8::new(0),
            local: Mutex::default(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its processes, where an agent is to look.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Its own address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        Ipv4Addr::new(172, 18, 0, self.number + 2).into()
    }

    pub(super) fn cni(&self) -> &Cni {
        &self.cni
    }

    /// An address for a pod, which no other node gives.
    pub(super) fn pod_address(&self) -> IpAddr {
        let number = self.pods.fetch_add(1, Ordering::Relaxed) % 250;
        Ipv4Addr::new(10, 244, self.number + 1, number + 2).into()
    }

    pub(super) fn local(&self) -> MutexGuard<'_, BTreeMap<String, Local>> {
        lock(&self.local)
    }

    /// Its ztunnel, which runs or was killed.
    pub fn ztunnel(&self) -> Result<Arc<Ztunnel>> {
        let local = self.local();
        let mut found = local.values().filter_map(|local| match &local.what {
            What::Ztunnel(ztunnel) => Some(Arc::clone(ztunnel)),
            _ => None,
        });
        found.next().ok_or_else(|| Error::NotRunning {
            what: format!("ztunnel on {}", self.name),
        })
    }

    /// The pod that runs here for an API object, by its UID.
    #[must_use]
    pub fn pod(&self, uid: &str) -> Option<Pod> {
        match &self.local().get(uid)?.what {
            What::Pod(pod) | What::Cni(pod) => Some(pod.clone()),
            What::Ztunnel(_) => None,
        }
    }

    /// The pods here that are no part of Istio.
    pub(super) fn application_pods(&self) -> Vec<Pod> {
        let local = self.local();
        let pods = local.values().filter_map(|local| match &local.what {
            What::Pod(pod) => Some(pod.clone()),
            _ => None,
        });
        pods.collect()
    }

    /// Whether a pod runs here.
    pub(super) fn runs(&self, uid: &str) -> bool {
        let local = self.local();
        // A static pod's own UID is not that of its mirror.
        local.contains_key(uid)
            || local
                .values()
                .any(|local| matches!(&local.what, What::Pod(pod) if pod.uid() == uid))
    }

    pub(super) fn object(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": self.name, "labels": { "kubernetes.io/hostname": self.name } },
            "spec": {},
            "status": {
                "addresses": [{ "type": "InternalIP", "address": self.address() }],
                "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
                "nodeInfo": { "kernelVersion": "", "kubeletVersion": "v1.36.0-lab" },
            },
        })
    }

    /// Whether the node agent of istio-cni is ready.
    pub(super) fn cni_ready(&self) -> bool {
        self.local()
            .values()
            .any(|local| matches!(local.what, What::Cni(_)) && local.ready)
    }
}

impl Host for Node {
    fn pod(&self, uid: &str) -> Option<Pod> {
        self.pod(uid)
    }

    fn cni_ready(&self) -> bool {
        self.cni_ready()
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("name", &self.name).finish()
    }
}
