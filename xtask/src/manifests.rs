// SPDX-License-Identifier: Apache-2.0
//! What is applied to a cluster so that an agent may repair there.

use meshmedic_lab::Cluster;
use meshmedic_lab::api::documents;

const MANIFESTS: [&str; 4] = [
    include_str!("../../deploy/meshmedic-daemonset.yaml"),
    include_str!("../../deploy/kustomize/repair/rights-heal.yaml"),
    include_str!("../../deploy/kustomize/repair/rights-restart.yaml"),
    include_str!("../../deploy/kustomize/repair/policies.yaml"),
];

/// Everything but the DaemonSet: its pods are the processes that are started beside the cluster.
pub(crate) fn apply_without_agents(cluster: &Cluster) -> anyhow::Result<()> {
    apply(cluster, |kind| kind != "DaemonSet")
}

/// The DaemonSet as well: its pods stand for the agents that are started beside them.
pub(crate) fn apply_with_agents(cluster: &Cluster) -> anyhow::Result<()> {
    apply(cluster, |_| true)
}

fn apply(cluster: &Cluster, wanted: fn(&str) -> bool) -> anyhow::Result<()> {
    for manifest in MANIFESTS {
        for object in documents(manifest)? {
            if object["kind"].as_str().is_some_and(wanted) {
                cluster.api().apply(&object)?;
            }
        }
    }
    Ok(())
}
