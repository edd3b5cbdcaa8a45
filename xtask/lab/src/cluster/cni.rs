// SPDX-License-Identifier: Apache-2.0
//! istio-cni's node agent, with what makes the real one lose pods and take them in again.
//!
//! Like the real one (1.29 and later) it has a cache of network namespaces by pod UID that no restart of a sandbox
//! clears, an informer that acts only where annotation and labels disagree, one worker, and failures of two kinds:
//! what can be tried again is tried for ever, and what cannot takes the pod out of the cache and is forgotten.

mod informer;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::istio::{MODE, is_annotated, is_pending};
use super::{CNI, Shared};
use crate::api::Client;
use crate::apiserver::object::{list, meta, text};
use crate::error::{Error, Result};
use crate::pod::Pod;
use crate::process::{lock, netns_path};
use crate::zds::{Add, Del, Payload, WorkloadInfo};
use server::Ztunnels;

pub(super) use informer::inform;

/// Says that a pod is captured, or shall be.
const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Says that a pod has a sidecar.
const SIDECAR: &str = "sidecar.istio.io/status";
/// Left alone by the charts' defaults.
const EXCLUDED: &str = "kube-system";
/// What failed is tried again after this, doubling up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(5));
/// How often a worker that nobody wakes looks whether it may work.
const LOOK: Duration = Duration::from_millis(100);

/// What the worker has to do.
enum Work {
    /// A pod changed, or its namespace did: what it is like now counts. `old` is the pod before.
    Update { uid: String, old: Value },
    /// A pod is gone.
    Delete(Value),
    /// The plugin was called for a pod, with the network namespace of its new sandbox.
    Plugin { uid: String, netns: File },
}

struct Queued {
    work: Work,
    failures: u32,
    due: Instant,
}

/// How taking a pod in fails.
enum Failure {
    /// It is tried again, for ever.
    Again,
    /// It is forgotten until the pod changes.
    Never,
}

/// What a test wants otherwise than usual on a node.
#[derive(Default)]
pub(super) struct Wishes {
    /// Pods that no scan of `/proc` finds, by UID.
    pub(super) unfindable: BTreeSet<String>,
    /// How long one pod takes.
    pub(super) takes: Duration,
}

/// The node around the agent.
pub(super) trait Host {
    /// The pod that runs there for an API object, by its UID.
    fn pod(&self, uid: &str) -> Option<Pod>;

    /// Whether the agent's own pod is ready.
    fn cni_ready(&self) -> bool;
}

/// The node agent of one node.
pub(super) struct Cni {
    ztunnels: Ztunnels,
    state: Mutex<State>,
    wake: Condvar,
    pub(super) wishes: Mutex<Wishes>,
}

#[derive(Default)]
struct State {
    /// The network namespace of each pod by its UID, where it is known.
    cache: BTreeMap<String, Option<File>>,
    /// The node's pods as the informer has them, by UID.
    pods: BTreeMap<String, Value>,
    queue: Vec<Queued>,
}

impl Cni {
    pub(super) fn new(socket: PathBuf) -> Result<Self> {
        Ok(Self {
            ztunnels: Ztunnels::listen(socket)?,
            state: Mutex::default(),
            wake: Condvar::new(),
            wishes: Mutex::default(),
        })
    }

    /// Where ztunnel is to connect to.
    pub(super) fn socket(&self) -> PathBuf {
        self.ztunnels.path().to_owned()
    }

    /// How many ztunnels had their whole snapshot so far.
    pub(super) fn snapshots(&self) -> usize {
        self.ztunnels.snapshots()
    }

    /// Ends what waits for a ztunnel.
    pub(super) fn close(&self) {
        self.ztunnels.close();
        self.wake.notify_all();
    }

    /// Takes ztunnels in, until the cluster ends.
    pub(super) fn serve(&self, shared: &Shared) {
        self.ztunnels.serve(shared, || {
            let state = lock(&self.state);
            let entry = |(uid, netns): (&String, &Option<File>)| {
                let netns = netns.as_ref().and_then(|netns| netns.try_clone().ok());
                (uid.clone(), state.pods.get(uid).map(workload_info), netns)
            };
            state.cache.iter().map(entry).collect()
        });
    }

    /// What the plugin does for a pod whose sandbox is new: it hands its network namespace to the agent.
    pub(super) fn plugin(&self, pod: &Pod) {
        if let Ok(netns) = File::open(netns_path(pod.pid())) {
            let uid = pod.uid().to_owned();
            self.queue(Work::Plugin { uid, netns });
        }
    }

    fn queue(&self, work: Work) {
        let (failures, due) = (0, Instant::now());
        lock(&self.state).queue.push(Queued { work, failures, due });
        self.wake.notify_all();
    }

    /// The one worker, until the cluster ends.
    pub(super) fn work(&self, shared: &Shared, node: &dyn Host) {
        let client = shared.client(CNI);
        while let Some(mut queued) = self.next(shared, node) {
            let done = match &queued.work {
                Work::Update { uid, old } => self.update(shared, node, &client, uid, old),
                Work::Delete(pod) => self.remove(node, &client, pod, true),
                Work::Plugin { uid, netns } => self.added(shared, node, &client, uid, netns),
            };
            if matches!(done, Err(Failure::Again)) {
                let wait = BACKOFF
                    .0
                    .saturating_mul(1 << queued.failures.min(16))
                    .min(BACKOFF.1);
                queued.failures += 1;
                queued.due = Instant::now() + wait;
                lock(&self.state).queue.push(queued);
            }
        }
    }

    /// The next thing to do, once this agent may work.
    fn next(&self, shared: &Shared, node: &dyn Host) -> Option<Queued> {
        loop {
            if shared.is_stopping() {
                return None;
            }
            // Asked before the queue is locked: the kubelet calls the plugin while it holds the node.
            let may = node.cni_ready() && !lock(&shared.controls).cni_off;
            let mut state = lock(&self.state);
            let now = Instant::now();
            let due = state
                .queue
                .iter()
                .position(|queued| queued.due <= now)
                .filter(|_| may);
            if let Some(due) = due {
                return Some(state.queue.remove(due));
            }
            let left = state
                .queue
                .iter()
                .map(|queued| queued.due.saturating_duration_since(now));
            let wait = left.min().filter(|_| may).map_or(LOOK, |left| left.min(LOOK));
            drop(self.wake.wait_timeout(state, wait));
        }
    }

    /// What the agent does for a pod that changed. It looks at the pod as it is now.
    fn update(
        &self,
        shared: &Shared,
        node: &dyn Host,
        client: &Client,
        uid: &str,
        old: &Value,
    ) -> Result<(), Failure> {
        let Some(pod) = lock(&self.state).pods.get(uid).cloned() else {
            return Ok(());
        };
        let (enrolled, partly) = (is_annotated(&pod), is_pending(&pod));
        if matches!(text(&pod, "/status/phase"), "Succeeded" | "Failed") {
            return if enrolled || partly {
                self.remove(node, client, old, true)
            } else {
                Ok(())
            };
        }
        let wanted = is_wanted(shared, &pod);
        if enrolled == wanted && !partly {
            return Ok(());
        }
        if !wanted {
            return self.remove(node, client, &pod, false);
        }
        if list(&pod, "/status/podIPs").is_empty() {
            // The update that brings the address comes later.
            return Ok(());
        }
        self.add(shared, node, client, &pod, None)
    }

    fn added(
        &self,
        shared: &Shared,
        node: &dyn Host,
        client: &Client,
        uid: &str,
        netns: &File,
    ) -> Result<(), Failure> {
        let Some(pod) = lock(&self.state).pods.get(uid).cloned() else {
            // The informer has not heard of it yet.
            return if node.pod(uid).is_some() {
                Err(Failure::Again)
            } else {
                Ok(())
            };
        };
        if is_wanted(shared, &pod) {
            return self.add(shared, node, client, &pod, netns.try_clone().ok());
        }
        Ok(())
    }

    /// Takes a pod in: its network namespace, the rules, ztunnel, the annotation, in this order.
    fn add(
        &self,
        shared: &Shared,
        node: &dyn Host,
        client: &Client,
        object: &Value,
        given: Option<File>,
    ) -> Result<(), Failure> {
        let uid = meta(object, "uid");
        let Some(pod) = node.pod(uid) else { return Ok(()) };
        thread::sleep(lock(&self.wishes).takes);
        let Some(netns) = self.netns(node, object, &pod, given) else {
            lock(&self.state).cache.remove(uid);
            return Err(Failure::Never);
        };
        // Rules go into what the cache holds. Where that is the namespace of a sandbox that is gone its devices are
        // gone as well, and no route can be added.
        let here = netns.metadata().ok().map(|netns| netns.ino());
        if here.is_none() || here != pod.netns().ok() || pod.set_redirected(true).is_err() {
            lock(&self.state).cache.remove(uid);
            return Err(Failure::Never);
        }
        let lost = {
            let mut controls = lock(&shared.controls);
            let lost = controls.lost_enrolments > 0;
            controls.lost_enrolments = controls.lost_enrolments.saturating_sub(1);
            lost
        };
        let payload = Payload::Add(Add {
            uid: uid.to_owned(),
            workload_info: Some(workload_info(object)),
        });
        if !lost && self.ztunnels.add(payload, netns.as_fd()).is_err() {
            if !is_pending(object) {
                // It is tried again whether or not this could be written.
                let _ = self.annotate(client, object, "pending".into());
            }
            return Err(Failure::Again);
        }
        self.annotate(client, object, "enabled".into())
    }

    /// The network namespace that is used for a pod: the one that was given, else the one in the cache, unseen, else
    /// what a scan finds.
    fn netns(&self, node: &dyn Host, object: &Value, pod: &Pod, given: Option<File>) -> Option<File> {
        let uid = meta(object, "uid");
        let mut state = lock(&self.state);
        let entry = state.cache.entry(uid.to_owned()).or_default();
        if let Some(given) = given {
            let identity = |file: &File| {
                file.metadata()
                    .ok()
                    .map(|metadata| (metadata.dev(), metadata.ino()))
            };
            if entry
                .as_ref()
                .is_none_or(|held| identity(held) != identity(&given))
            {
                *entry = Some(given);
            }
        }
        if entry.is_none() {
            *entry = self.scan(node, object, pod);
        }
        entry.as_ref()?.try_clone().ok()
    }

    /// Looks for a pod among the processes. Its namespace must have one of the addresses that the API gives it.
    fn scan(&self, node: &dyn Host, object: &Value, pod: &Pod) -> Option<File> {
        let uid = meta(object, "uid");
        let hidden = lock(&self.wishes).unfindable.contains(uid) || pod.cgroup_uid() != uid;
        let addresses = list(object, "/status/podIPs")
            .iter()
            .filter_map(|ip| ip["ip"].as_str());
        let own = addresses
            .filter_map(|ip| ip.parse().ok())
            .any(|ip| pod.addresses().contains(&ip));
        if hidden || !own || node.pod(uid).is_none() {
            return None;
        }
        File::open(netns_path(pod.pid())).ok()
    }

    /// Lets a pod go. The one in a namespace that is gone keeps its rules.
    fn remove(&self, node: &dyn Host, client: &Client, object: &Value, deleted: bool) -> Result<(), Failure> {
        let uid = meta(object, "uid");
        let entry = lock(&self.state).cache.remove(uid);
        let known = entry.flatten().and_then(|netns| netns.metadata().ok());
        if !deleted
            && let (Some(netns), Some(pod)) = (known, node.pod(uid))
            && pod.netns().ok() == Some(netns.ino())
        {
            pod.set_redirected(false).map_err(|_| Failure::Again)?;
        }
        self.ztunnels.tell_all(&Payload::Del(Del { uid: uid.to_owned() }));
        self.annotate(client, object, Value::Null)
    }

    fn annotate(&self, client: &Client, pod: &Value, value: Value) -> Result<(), Failure> {
        let patch = json!({ "metadata": { "annotations": { REDIRECTION: value } } });
        match client.patch("pods/status", meta(pod, "namespace"), meta(pod, "name"), &patch) {
            Ok(written) => {
                // What it wrote it knows, before the watch tells.
                if let Some(known) = lock(&self.state).pods.get_mut(meta(&written, "uid")) {
                    *known = written;
                }
                Ok(())
            }
            Err(Error::Api { code: 404 | 409, .. }) => Ok(()),
            Err(_) => Err(Failure::Again),
        }
    }

    /// Starts anew: only what a scan finds of the pods that are said to be captured is known, and ztunnel gets a new
    /// snapshot.
    pub(super) fn restart(&self, node: &dyn Host, scans: bool) -> Result<()> {
        let pods: Vec<Value> = lock(&self.state).pods.values().cloned().collect();
        let mut cache = BTreeMap::new();
        for object in pods.iter().filter(|pod| is_annotated(pod)) {
            let uid = meta(object, "uid");
            let found = node
                .pod(uid)
                .filter(|_| scans)
                .and_then(|pod| self.scan(node, object, &pod));
            cache.insert(uid.to_owned(), found);
        }
        {
            let mut state = lock(&self.state);
            state.queue.clear();
            state.cache = cache;
        }
        for pod in pods {
            let uid = meta(&pod, "uid").to_owned();
            self.queue(Work::Update { uid, old: pod });
        }
        self.ztunnels.restart()
    }
}

fn workload_info(pod: &Value) -> WorkloadInfo {
    WorkloadInfo {
        name: meta(pod, "name").to_owned(),
        namespace: meta(pod, "namespace").to_owned(),
        service_account: text(pod, "/spec/serviceAccountName").to_owned(),
    }
}

/// Whether a pod belongs into the mesh.
fn is_wanted(shared: &Shared, pod: &Value) -> bool {
    let namespaces = lock(&shared.namespaces);
    let own = pod["metadata"]["labels"][MODE].as_str();
    let of_namespace = || namespaces.get(meta(pod, "namespace"))?.get(MODE)?.as_str();
    own.or_else(of_namespace) == Some("ambient")
        && meta(pod, "namespace") != EXCLUDED
        && pod["spec"]["hostNetwork"] != true
        && pod["metadata"]["annotations"][SIDECAR].is_null()
}
