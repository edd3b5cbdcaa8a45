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

    /// Takes the listeners from a pod that ztunnel goes on believing to serve: no Add of istio-cni brings them back.
    pub fn orphan_believed(&self, pod: &Pod) -> Result<()> {
        self.node_of(pod)?.ztunnel()?.lose_listeners(pod)
    }

    /// Gives a pod a new sandbox behind istio-cni's back, whose cache then holds the network namespace of the old one.
    pub fn replace_sandbox(&self, pod: &Pod) -> Result<()> {
        let before = self.restarts(pod);
        pod.renew_sandbox()?;
        self.kubelet_tells(pod, before)
    }

    fn restarts(&self, pod: &Pod) -> u64 {
        let object = self.api().get("pods", pod.namespace(), pod.name());
        let count = |object: &Value| {
            object
                .pointer("/status/containerStatuses/0/restartCount")?
                .as_u64()
        };
        object.ok().as_ref().and_then(count).unwrap_or(0)
    }

    /// Waits until the API knows of a pod's new sandbox: what comes later is then a change by itself.
    fn kubelet_tells(&self, pod: &Pod, before: u64) -> Result<()> {
        self.shared.wake();
        self.wait(&format!("the kubelet to tell of {pod:?}"), || {
            self.restarts(pod) > before
        })
    }

    /// Restarts a node as a reboot does at which istio-cni is missing in the CNI configuration: its pods come back in
    /// new sandboxes, which istio-cni's one scan finds without addresses, and are said to be captured still.
    pub fn reboot(&self, node: &str) -> Result<()> {
        let node = self.node(node)?;
        let before = node.cni().snapshots();
        let ztunnel = node.ztunnel()?;
        ztunnel.kill();
        let pods = node.application_pods();
        let restarts: Vec<_> = pods.iter().map(|pod| self.restarts(pod)).collect();
        for pod in &pods {
            pod.renew_sandbox()?;
        }
        for (pod, before) in pods.iter().zip(restarts) {
            self.kubelet_tells(pod, before)?;
        }
        node.cni().restart(node, false)?;
        ztunnel.start_empty()?;
        self.wait("ztunnel to have its pods", || node.cni().snapshots() > before)
    }

    /// Restarts the istio-cni of a node.
    pub fn restart_cni(&self, node: &str) -> Result<()> {
        let node = self.node(node)?;
        let before = node.cni().snapshots();
        node.cni().restart(node, true)?;
        self.wait("ztunnel to have its pods", || node.cni().snapshots() > before)
    }

    /// Hides a pod from istio-cni's scan of `/proc`, as an unusual cgroup does.
    pub fn hide_from_cni(&self, pod: &Pod) -> Result<()> {
        let node = self.node_of(pod)?;
        lock(&node.cni().wishes).unfindable.insert(pod.uid().to_owned());
        Ok(())
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

    /// Starts the ztunnel of a node again, which istio-cni then tells of its pods.
    pub fn start_ztunnel(&self, node: &str) -> Result<()> {
        let found = self.node(node)?;
        let before = found.cni().snapshots();
        found.ztunnel()?.start_empty()?;
        self.wait("ztunnel to have its pods", || found.cni().snapshots() > before)?;
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
