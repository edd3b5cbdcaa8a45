// SPDX-License-Identifier: Apache-2.0
//! A cluster without machines: the lab's API server, nodes of the lab, and a thread that does what the
//! controllers, the scheduler, the kubelets and istio-cni do, over HTTP like anybody.
//!
//! ```no_run
//! use meshmedic_lab::{Cluster, ClusterSpec};
//!
//! # fn main() -> meshmedic_lab::Result<()> {
//! let cluster = Cluster::start(ClusterSpec::default())?;
//! cluster.namespace("shop", true)?;
//! let pods = cluster.deployment("shop", "cart", 2)?;
//! cluster.orphan(&pods[0])?;
//! cluster.api().evict("shop", pods[0].name(), &serde_json::Value::Null)?;
//! cluster.wait_gone(&pods[0])?;
//! let pods = cluster.wait_captured("shop", "cart", 2)?;
//! # Ok(())
//! # }
//! ```
//!
//! Its parts have users of their own (`kubelet`, `kube-scheduler`, `kube-controller-manager`, `istio-cni`), by
//! which the log of requests can be told apart and which a fault can spare.

mod cni;
mod controllers;
mod faults;
mod istio;
mod kubelet;
mod node;
mod scheduler;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{ApiServer, Client};
use crate::apiserver::object::{is_ready, list, meta, text};
use crate::error::{Context as _, Error, Result};
use crate::pod::Pod;
use crate::process::lock;
use crate::wait;
use crate::ztunnel::Ztunnel;

pub use node::Node;

/// How long what is waited for may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// After what time what could not be done is tried again.
const AGAIN: Duration = Duration::from_millis(20);
/// What wakes the controllers.
const WATCHED: [&str; 7] = [
    "pods",
    "namespaces",
    "nodes",
    "deployments",
    "replicasets",
    "statefulsets",
    "daemonsets",
];
const SCHEDULER: &str = "kube-scheduler";
const MANAGER: &str = "kube-controller-manager";
const KUBELET: &str = "kubelet";
const CNI: &str = "istio-cni";

/// What a cluster shall be.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// How many nodes it has: `node-a`, `node-b` and so on.
    pub nodes: usize,
    /// Whether Istio is installed: istiod, and ztunnel and istio-cni on every node.
    pub istio: bool,
    /// The namespace in which it is.
    pub istio_namespace: &'static str,
    /// Whether its API server is the real one, which can neither fail on demand nor tell of its requests.
    pub real_api: bool,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            nodes: 1,
            istio: true,
            istio_namespace: "istio-system",
            real_api: false,
        }
    }
}

/// A cluster: everything it made is gone when it is dropped.
pub struct Cluster {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the cluster's threads share.
struct Shared {
    api: ApiServer,
    nodes: Vec<Node>,
    istio_namespace: &'static str,
    /// The labels of each namespace, as istio-cni's informer has them.
    namespaces: Mutex<BTreeMap<String, BTreeMap<String, Value>>>,
    controls: Mutex<Controls>,
    /// Whether there is something to do.
    work: Mutex<bool>,
    wake: Condvar,
    stopping: AtomicBool,
}

/// What a test wants otherwise than usual.
#[derive(Default)]
struct Controls {
    /// Pods that are not ready, by UID.
    unready: BTreeSet<String>,
    /// Where the next pods go.
    next_node: Option<String>,
    /// How many pods were scheduled, for going round.
    scheduled: usize,
    cni_off: bool,
    lost_enrolments: usize,
    held_terminations: bool,
}

impl Shared {
    fn client(&self, user: &str) -> Client {
        let agent = if user == CNI { "install-cni" } else { user };
        // A real server knows nobody of these names.
        let client = match self.api.is_real() {
            true => (*self.api).clone(),
            false => self.api.with_token(&format!("admin:{user}")),
        };
        client.with_agent(agent)
    }

    fn wake(&self) {
        *lock(&self.work) = true;
        self.wake.notify_all();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Wakes whenever something changes, until the cluster ends.
    fn watch(&self, resource: &str) {
        let client = self.client("lab-wakener");
        let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        while !self.is_stopping() {
            if let Ok(mut watch) = client.watch_accepting(resource, "", "", accept) {
                while let Ok(Some(_)) = watch.next_event() {
                    self.wake();
                }
            }
            // What happened between two watches is in nobody's events.
            self.wake();
            if !self.is_stopping() {
                thread::sleep(AGAIN);
            }
        }
    }

    fn control(&self) {
        while !self.is_stopping() {
            let done = controllers::control(self)
                .and_then(|()| scheduler::schedule(self))
                .and_then(|()| kubelet::keep(self));
            let work = lock(&self.work);
            let mut work = if done.is_ok() {
                let waited = self.wake.wait_while(work, |work| !*work && !self.is_stopping());
                waited.unwrap_or_else(std::sync::PoisonError::into_inner)
            } else {
                // Somebody else was first, or the server is told to fail: look again.
                drop(work);
                thread::sleep(AGAIN);
                lock(&self.work)
            };
            *work = false;
        }
    }

    fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name() == name)
    }
}

impl Cluster {
    /// Starts a cluster, and waits until Istio is there if it shall be.
    pub fn start(spec: ClusterSpec) -> Result<Self> {
        let api = if spec.real_api {
            ApiServer::real()?
        } else {
            ApiServer::start()?
        };
        let nodes = (0..spec.nodes).map(Node::make).collect::<Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            api,
            nodes,
            istio_namespace: spec.istio_namespace,
            namespaces: Mutex::default(),
            controls: Mutex::default(),
            work: Mutex::new(true),
            wake: Condvar::new(),
            stopping: AtomicBool::new(false),
        });
        let mut cluster = Self {
            shared,
            threads: Vec::new(),
        };
        for node in &cluster.shared.nodes {
            cluster.api().create(&node.object())?;
            cluster.api().update_status(&node.object())?;
        }
        if spec.istio {
            istio::objects(spec.istio_namespace)
                .iter()
                .try_for_each(|object| cluster.api().apply(object).map(drop))?;
        }
        let start = |name: &str, run: Box<dyn FnOnce(&Shared) + Send>| {
            let shared = Arc::clone(&cluster.shared);
            let thread = thread::Builder::new().name(name.to_owned());
            let thread = thread.spawn(move || run(&shared));
            thread.context(|| "starting a thread".to_owned())
        };
        let mut threads = vec![start("controllers", Box::new(Shared::control))?];
        for resource in WATCHED {
            threads.push(start(
                resource,
                Box::new(|shared: &Shared| shared.watch(resource)),
            )?);
        }
        if spec.istio {
            for resource in ["pods", "namespaces"] {
                let inform = move |shared: &Shared| cni::inform(shared, resource);
                threads.push(start("istio-cni informer", Box::new(inform))?);
            }
            for number in 0..cluster.shared.nodes.len() {
                let serve = move |shared: &Shared| shared.nodes[number].cni().serve(shared);
                let work =
                    move |shared: &Shared| shared.nodes[number].cni().work(shared, &shared.nodes[number]);
                threads.push(start("istio-cni server", Box::new(serve))?);
                threads.push(start("istio-cni", Box::new(work))?);
            }
        }
        cluster.threads = threads;
        if spec.istio {
            cluster.wait("istiod", || {
                istio::start_istiod(&cluster.shared).is_ok_and(|started| started)
            })?;
            for node in &cluster.shared.nodes {
                cluster.wait(&format!("ztunnel on {}", node.name()), || {
                    node.ztunnel().is_ok() && node.cni_ready() && node.cni().snapshots() > 0
                })?;
            }
        }
        Ok(cluster)
    }

    /// Its API server, with a client that may do everything.
    #[must_use]
    pub fn api(&self) -> &ApiServer {
        &self.shared.api
    }

    /// Its nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.shared.nodes
    }

    /// A node.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.shared.node(name).ok_or_else(|| Error::NotRunning {
            what: format!("the node {name}"),
        })
    }

    /// The node on which a pod runs.
    pub fn node_of(&self, pod: &Pod) -> Result<&Node> {
        let found = self.shared.nodes.iter().find(|node| node.runs(pod.uid()));
        found.ok_or_else(|| Error::NotRunning {
            what: format!("{pod:?}"),
        })
    }

    fn wait(&self, what: &str, condition: impl FnMut() -> bool) -> Result<()> {
        Ok(wait::until(what, PATIENCE, condition)?)
    }

    /// Makes a namespace, in the mesh or not.
    pub fn namespace(&self, name: &str, ambient: bool) -> Result<()> {
        let mode = if ambient { "ambient" } else { "none" };
        let labels = json!({ istio::MODE: mode });
        let object = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "labels": labels },
        });
        self.api().apply(&object).map(drop)
    }

    /// Applies the objects of a manifest, in YAML or JSON.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.api().apply_yaml(manifest).map(drop)
    }

    /// Makes or scales a Deployment whose pods are labelled `app=<name>`, and waits until they are ready.
    pub fn deployment(&self, namespace: &str, name: &str, replicas: usize) -> Result<Vec<Pod>> {
        self.workload("Deployment", namespace, name, replicas)
    }

    /// Makes or scales a StatefulSet whose pods are labelled `app=<name>`, and waits until they are ready.
    pub fn stateful_set(&self, namespace: &str, name: &str, replicas: usize) -> Result<Vec<Pod>> {
        self.workload("StatefulSet", namespace, name, replicas)
    }

    /// Makes a DaemonSet whose pods are labelled `app=<name>`, and waits until they are ready.
    pub fn daemon_set(&self, namespace: &str, name: &str) -> Result<Vec<Pod>> {
        self.workload("DaemonSet", namespace, name, self.nodes().len())
    }

    fn workload(&self, kind: &str, namespace: &str, name: &str, replicas: usize) -> Result<Vec<Pod>> {
        let mut object = controllers::workload(kind, namespace, name);
        if kind != "DaemonSet" {
            object["spec"]["replicas"] = replicas.into();
        }
        self.api().apply(&object)?;
        self.wait_ready(namespace, name, replicas)
    }

    /// Makes a pod that nobody owns, on a node, and waits until it is ready.
    pub fn bare_pod(&self, namespace: &str, name: &str, node: &str) -> Result<Pod> {
        let mut pod = controllers::workload("Pod", namespace, name);
        pod["spec"]["nodeName"] = node.into();
        self.api().create(&pod)?;
        self.one(self.wait_ready(namespace, name, 1)?, name)
    }

    /// Makes a static pod on a node, with its mirror in the API, and waits until it is ready.
    pub fn static_pod(&self, namespace: &str, name: &str, node: &str) -> Result<Pod> {
        let found = self.node(node)?;
        let client = self.shared.client(KUBELET);
        let plugged = !lock(&self.shared.controls).cni_off;
        kubelet::start_static(found, &client, namespace, name, plugged)?;
        self.shared.wake();
        self.one(self.wait_ready(namespace, name, 1)?, name)
    }

    fn one(&self, pods: Vec<Pod>, name: &str) -> Result<Pod> {
        pods.into_iter().next().ok_or_else(|| Error::NotRunning {
            what: format!("the pod {name}"),
        })
    }

    /// The API objects of the pods with the label `app=<name>`, terminating ones left out.
    fn objects_of(&self, namespace: &str, app: &str) -> Result<Vec<Value>> {
        let query = format!("labelSelector=app%3D{app}");
        let mut pods = self.api().list_where("pods", namespace, &query)?;
        pods.retain(|pod| meta(pod, "deletionTimestamp").is_empty());
        Ok(pods)
    }

    /// The pods with the label `app=<name>` that run, terminating ones left out.
    pub fn pods_of(&self, namespace: &str, app: &str) -> Result<Vec<Pod>> {
        let objects = self.objects_of(namespace, app)?;
        Ok(objects
            .iter()
            .filter_map(|pod| self.running(meta(pod, "uid")))
            .collect())
    }

    /// The pod that runs for an API object's UID.
    fn running(&self, uid: &str) -> Option<Pod> {
        self.shared.nodes.iter().find_map(|node| node.pod(uid))
    }

    /// Waits until that many pods with the label `app=<name>`, and no more, are ready.
    pub fn wait_ready(&self, namespace: &str, app: &str, count: usize) -> Result<Vec<Pod>> {
        self.wait(&format!("{count} ready pods of {namespace}/{app}"), || {
            let objects = self.objects_of(namespace, app).unwrap_or_default();
            objects.len() == count && objects.iter().all(is_ready)
        })?;
        self.pods_of(namespace, app)
    }

    /// Waits until that many pods with the label `app=<name>`, and no more, are ready and captured.
    pub fn wait_captured(&self, namespace: &str, app: &str, count: usize) -> Result<Vec<Pod>> {
        self.wait(&format!("{count} captured pods of {namespace}/{app}"), || {
            let objects = self.objects_of(namespace, app).unwrap_or_default();
            let captured = |pod: &Value| {
                is_ready(pod)
                    && istio::is_annotated(pod)
                    && self
                        .running(meta(pod, "uid"))
                        .is_some_and(|pod| self.is_captured(&pod))
            };
            objects.len() == count && objects.iter().all(captured)
        })?;
        self.pods_of(namespace, app)
    }

    /// Waits until a pod's object and process are gone.
    pub fn wait_gone(&self, pod: &Pod) -> Result<()> {
        self.wait(&format!("{pod:?} to be gone"), || {
            let object = self.api().find("pods", pod.namespace(), pod.name());
            let gone =
                object.is_ok_and(|object| object.is_none_or(|object| meta(&object, "uid") != pod.uid()));
            gone && self.running(pod.uid()).is_none()
        })
    }

    /// Whether the kernel shows all of ztunnel's ports in a pod.
    #[must_use]
    pub fn is_captured(&self, pod: &Pod) -> bool {
        istio::listens(pod.pid())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // Whoever waits for the server notices that it is gone.
        self.shared.api.end();
        self.shared.nodes.iter().for_each(|node| node.cni().close());
        self.shared.wake();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The ztunnel that runs on a node is shared with the tests.
type SharedZtunnel = Arc<Ztunnel>;

/// Whether an object is owned by another.
fn is_owned_by(object: &Value, uid: &str) -> bool {
    list(object, "/metadata/ownerReferences")
        .iter()
        .any(|owner| owner["controller"] == true && text(owner, "/uid") == uid)
}

/// Whether somebody was first with what was to be done.
fn tolerate(result: Result<Value>) -> Result<()> {
    match result {
        Ok(_) | Err(Error::Api { code: 404 | 409, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
