// SPDX-License-Identifier: Apache-2.0
//! What a test can make a cluster do.

use serde_json::{Value, json};

use super::{Cluster, istio};
use crate::apiserver::object::{is_ready, meta};
use crate::error::{Error, Result};
use crate::pod::Pod;
use crate::process::lock;

impl Cluster {
    /// Takes a pod out of the mesh as the fault does: nothing is bound in it, and its annotation stays.
    pub fn orphan(&self, pod: &Pod) -> Result<()> {
        self.node_of(pod)?.ztunnel()?.unenrol(pod)
    }

    /// Sets whether a pod is ready, and waits until the API says so.
    pub fn set_ready(&self, pod: &Pod, ready: bool) -> Result<()> {
        self.set_ready_by(pod.namespace(), pod.name(), pod.uid(), ready)
    }

    fn set_ready_by(&self, namespace: &str, name: &str, uid: &str, ready: bool) -> Result<()> {
        {
            let mut controls = lock(&self.shared.controls);
            if ready {
                controls.unready.remove(uid);
            } else {
                controls.unready.insert(uid.to_owned());
            }
        }
        self.shared.wake();
        self.wait(&format!("{namespace}/{name} to be ready: {ready}"), || {
            let object = self.api().get("pods", namespace, name);
            object.is_ok_and(|object| is_ready(&object) == ready)
        })
    }

    /// Sends the pods that are scheduled from now on to a node; `None` lets them go round again.
    pub fn schedule_on(&self, node: Option<&str>) {
        lock(&self.shared.controls).next_node = node.map(str::to_owned);
    }

    /// Cordons a node, or no longer.
    pub fn cordon(&self, node: &str, on: bool) -> Result<()> {
        let patch = json!({ "spec": { "unschedulable": on } });
        self.api().patch("nodes", "", node, &patch).map(drop)
    }

    /// Turns istio-cni on or off: while it is off, new pods are neither annotated nor captured.
    pub fn set_cni(&self, on: bool) {
        lock(&self.shared.controls).cni_off = !on;
        self.shared.wake();
    }

    /// Lets that many enrolments get lost: the pod is annotated, and ztunnel never hears of it.
    pub fn lose_enrolments(&self, count: usize) {
        lock(&self.shared.controls).lost_enrolments = count;
    }

    /// Leaves pods in Terminating, as a process that does not end or a kubelet that is away does.
    pub fn hold_terminations(&self, on: bool) {
        lock(&self.shared.controls).held_terminations = on;
        self.shared.wake();
    }

    /// Sets whether the istio-cni pod of a node is ready, and waits until the API says so.
    pub fn set_cni_ready(&self, node: &str, ready: bool) -> Result<()> {
        let pod = self.istio_pod("k8s-app%3Distio-cni-node", node)?;
        self.set_ready_by(
            self.shared.istio_namespace,
            meta(&pod, "name"),
            meta(&pod, "uid"),
            ready,
        )
    }

    /// Kills the ztunnel of a node, whose pod is then not ready.
    pub fn kill_ztunnel(&self, node: &str) -> Result<()> {
        self.node(node)?.ztunnel()?.kill();
        self.ztunnel_ready(node, false)
    }

    /// Starts the ztunnel of a node again, which enrols the pods that it had.
    pub fn start_ztunnel(&self, node: &str) -> Result<()> {
        self.node(node)?.ztunnel()?.start_again()?;
        self.ztunnel_ready(node, true)
    }

    /// Sets whether the ztunnel pod of a node is ready, and waits until the API says so.
    pub fn ztunnel_ready(&self, node: &str, ready: bool) -> Result<()> {
        let pod = self.istio_pod("app%3Dztunnel", node)?;
        self.set_ready_by(
            self.shared.istio_namespace,
            meta(&pod, "name"),
            meta(&pod, "uid"),
            ready,
        )
    }

    fn istio_pod(&self, label: &str, node: &str) -> Result<Value> {
        let query = format!("labelSelector={label}&fieldSelector=spec.nodeName%3D{node}");
        let pods = self
            .api()
            .list_where("pods", self.shared.istio_namespace, &query)?;
        let mut pods = pods
            .into_iter()
            .filter(|pod| meta(pod, "deletionTimestamp").is_empty());
        pods.next().ok_or_else(|| Error::NotRunning {
            what: format!("{label} on {node}"),
        })
    }

    /// Sets whether istiod has a ready endpoint.
    pub fn set_istiod_ready(&self, ready: bool) -> Result<()> {
        let endpoints = istio::endpoints(&self.shared, ready)?;
        let patch = json!({ "endpoints": endpoints });
        let namespace = self.shared.istio_namespace;
        self.api()
            .patch("endpointslices", namespace, istio::ISTIOD_SLICE, &patch)
            .map(drop)
    }
}
