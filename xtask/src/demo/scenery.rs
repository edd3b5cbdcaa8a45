// SPDX-License-Identifier: Apache-2.0
//! The cluster in which the story takes place, and whom it concerns.

use std::path::PathBuf;

use meshmedic_lab::{Cluster, ClusterSpec, Pod};

use crate::interrupt::Interrupt;
use crate::manifests::apply_without_agents;

/// The node that the agent watches.
pub(super) const NODE: &str = "node-a";
const NAMESPACES: [&str; 2] = ["payments", "shop"];

/// What keeps the pods of an application.
#[derive(Clone, Copy)]
enum Kind {
    Deployment,
    StatefulSet,
}

const APPLICATIONS: [(&str, &str, Kind, usize); 6] = [
    ("payments", "gateway", Kind::Deployment, 2),
    ("payments", "ledger", Kind::StatefulSet, 2),
    ("shop", "cart", Kind::Deployment, 2),
    ("shop", "checkout", Kind::Deployment, 2),
    ("shop", "frontend", Kind::Deployment, 2),
    ("shop", "search", Kind::Deployment, 1),
];

/// A pod, by what the API calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) namespace: String,
    pub(super) app: String,
    pub(super) name: String,
    pub(super) uid: String,
}

impl Who {
    fn of(pod: &Pod, app: &str) -> Self {
        Self {
            namespace: pod.namespace().to_owned(),
            app: app.to_owned(),
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
        }
    }

    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The cluster with its pods, and the agent's way in.
pub(super) struct Scenery {
    pub(super) cluster: Cluster,
    pub(super) kubeconfig: PathBuf,
}

impl Scenery {
    pub(super) fn build(interrupt: &Interrupt) -> anyhow::Result<Self> {
        let cluster = Cluster::start(ClusterSpec::default())?;
        apply_without_agents(&cluster)?;
        for namespace in NAMESPACES {
            cluster.namespace(namespace, true)?;
        }
        for (namespace, app, kind, replicas) in APPLICATIONS {
            interrupt.check()?;
            match kind {
                Kind::Deployment => cluster.deployment(namespace, app, replicas)?,
                Kind::StatefulSet => cluster.stateful_set(namespace, app, replicas)?,
            };
        }
        let kubeconfig = cluster
            .api()
            .kubeconfig_for_service_account("meshmedic", "meshmedic")?;
        Ok(Self { cluster, kubeconfig })
    }
}

/// The pods that are meant to be in the mesh, as they are now.
pub(super) fn everybody(cluster: &Cluster) -> anyhow::Result<Vec<Who>> {
    let mut all = Vec::new();
    for (namespace, app, ..) in APPLICATIONS {
        let pods = cluster.pods_of(namespace, app)?;
        all.extend(pods.iter().map(|pod| Who::of(pod, app)));
    }
    Ok(all)
}

/// A pod of the lab, by its UID.
pub(super) fn pod(cluster: &Cluster, who: &Who) -> anyhow::Result<Pod> {
    let found = cluster
        .nodes()
        .iter()
        .find_map(|node| node.pod(&who.uid))
        .ok_or_else(|| anyhow::anyhow!("{} does not run", who.full_name()))?;
    Ok(found)
}
