// SPDX-License-Identifier: Apache-2.0
//! A cluster with what the manifest grants, and what is looked at in it.

use std::path::PathBuf;

use meshmedic_lab::api::documents;
use meshmedic_lab::{Cluster, ClusterSpec, Pod};
use serde_json::{Value, json};

use crate::process::Agent;

/// Whom the manifest makes the agent.
pub(crate) const USER: &str = "system:serviceaccount:meshmedic:meshmedic";
pub(crate) const DETECT: &str = include_str!("../../../deploy/meshmedic-daemonset.yaml");
/// What both ways to repair are granted, and what narrows that on a real API server.
pub(crate) const REPAIR_RIGHTS: [&str; 3] = [
    include_str!("../../../deploy/kustomize/repair/rights-heal.yaml"),
    include_str!("../../../deploy/kustomize/repair/rights-restart.yaml"),
    include_str!("../../../deploy/kustomize/repair/policies.yaml"),
];
/// Quick enough for a test, and nothing that a real agent would not do.
const QUICK: [&str; 10] = [
    "--confirm",
    "400ms",
    "--settle",
    "1s",
    "--interval",
    "2s",
    "--heal-confirm",
    "300ms",
    "--heal-settle",
    "1s",
];
/// Both repairs on, by a restart alone.
pub(crate) const REPAIR: [&str; 4] = ["--auto-repair", "--repair-stuck", "--strategy", "restart"];
/// Both repairs on, gentlest first.
pub(crate) const HEAL: [&str; 2] = ["--auto-repair", "--repair-stuck"];

/// A cluster in which the agent has its ServiceAccount and its roles.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    account: String,
}

impl World {
    pub(crate) fn new(nodes: usize) -> Self {
        Self::with(ClusterSpec {
            nodes,
            ..ClusterSpec::default()
        })
    }

    /// The same over a real API server.
    pub(crate) fn real() -> Self {
        Self::with(ClusterSpec {
            real_api: true,
            ..ClusterSpec::default()
        })
    }

    pub(crate) fn with(spec: ClusterSpec) -> Self {
        let manifests = [&[DETECT][..], &REPAIR_RIGHTS].concat();
        Self::granting(spec, &manifests, "meshmedic")
    }

    /// One in which the agent may only detect.
    pub(crate) fn detecting() -> Self {
        Self::granting(ClusterSpec::default(), &[DETECT], "meshmedic")
    }

    /// One with the objects of these manifests, in which the agent is this ServiceAccount.
    pub(crate) fn granting(spec: ClusterSpec, manifests: &[&str], account: &str) -> Self {
        let cluster = Cluster::start(spec).unwrap();
        cluster.namespace("meshmedic", false).unwrap();
        cluster.namespace("shop", true).unwrap();
        let objects = manifests.iter().flat_map(|manifest| documents(manifest).unwrap());
        for object in objects {
            // The DaemonSet's pods are the processes that the tests start, and the operator's kinds are not served.
            if object["kind"] != "DaemonSet" && object["apiVersion"] != "monitoring.coreos.com/v1" {
                cluster.api().apply(&object).unwrap();
            }
        }
        Self {
            cluster,
            account: account.to_owned(),
        }
    }

    /// What an agent of a node finds in its pod.
    fn kubeconfig(&self, node: &str) -> PathBuf {
        let api = self.cluster.api();
        if !api.is_real() {
            return api
                .kubeconfig_for_service_account("meshmedic", &self.account)
                .unwrap();
        }
        // A real server asks on which node it is, and knows that by its pod.
        let pod = api.apply(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "namespace": "meshmedic", "name": format!("agent-{node}") },
            "spec": {
                "nodeName": node,
                "serviceAccountName": self.account,
                "containers": [{ "name": "meshmedic", "image": "meshmedic" }],
            },
        }));
        api.kubeconfig_for_pod(&pod.unwrap()).unwrap()
    }

    /// Starts the agent of a node.
    pub(crate) fn agent(&self, node: &str, flags: &[&str]) -> Agent {
        self.agent_in("", node, flags)
    }

    /// Starts the agent of a node in a pod.
    pub(crate) fn agent_in(&self, pod_uid: &str, node: &str, flags: &[&str]) -> Agent {
        // What a test says itself counts.
        let quick = QUICK.chunks(2).filter(|pair| !flags.contains(&pair[0])).flatten();
        let flags: Vec<&str> = quick.chain(flags).copied().collect();
        let proc_root = self.cluster.node(node).unwrap().lab().proc_root();
        Agent::start(&self.kubeconfig(node), node, proc_root, &flags, pod_uid)
    }

    /// Starts the agent of the first node and waits until it has judged every pod.
    pub(crate) fn ready_agent(&self, flags: &[&str]) -> Agent {
        let mut agent = self.agent("node-a", flags);
        agent.until("the agent to be ready", |agent| agent.health("/readyz").0 == 200);
        agent.until("every pod to be judged", |agent| {
            let report = agent.report();
            let open = |pod: &meshmedic_common::report::PodReport| {
                pod.reason == Some(meshmedic_common::verdict::Reason::NotRead)
            };
            !report.pods.is_empty() && !report.pods.iter().any(open)
        });
        agent
    }

    pub(crate) fn deployment(&self, name: &str, replicas: usize) -> Vec<Pod> {
        self.cluster.deployment("shop", name, replicas).unwrap();
        self.cluster.wait_captured("shop", name, replicas).unwrap()
    }

    /// Three pods of different owners and namespaces on a node.
    pub(crate) fn on_node(&self, node: &str) -> Vec<Pod> {
        let pods = ["shop", "bank", "news"].map(|namespace| {
            if namespace != "shop" {
                self.cluster.namespace(namespace, true).unwrap();
            }
            let name = format!("{namespace}-{node}");
            self.cluster.bare_pod(namespace, &name, node).unwrap();
            self.cluster.wait_captured(namespace, &name, 1).unwrap().remove(0)
        });
        pods.into()
    }

    /// All Leases but that of the heals' breaker, which comes with the manifests.
    pub(crate) fn leases_of_restarts(&self) -> Vec<Value> {
        let mut leases = self.cluster.api().list("leases", "meshmedic").unwrap();
        leases.retain(|lease| lease["metadata"]["name"] != "meshmedic-heals");
        leases
    }

    /// The nodes on which heals did not take, as the agents wrote it down for one another.
    pub(crate) fn failed_nodes(&self) -> Vec<String> {
        let lease = self
            .cluster
            .api()
            .get("leases", "meshmedic", "meshmedic-heals")
            .unwrap();
        let record = lease["metadata"]["annotations"]["meshmedic.io/record"].as_str();
        let record: Value = serde_json::from_str(record.unwrap_or("{}")).unwrap();
        let places = record["places"].as_array().into_iter().flatten();
        let mut nodes: Vec<String> = places
            .filter_map(|place| place["node"].as_str().map(str::to_owned))
            .collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }

    /// The reasons of the Events about a pod, each once.
    pub(crate) fn events_of(&self, pod: &Pod) -> Vec<String> {
        let events = self.cluster.api().list("events.events.k8s.io", pod.namespace());
        let of_pod = |event: &&Value| event["regarding"]["uid"] == pod.uid();
        let mut reasons: Vec<String> = events
            .unwrap()
            .iter()
            .filter(of_pod)
            .filter_map(|event| event["reason"].as_str().map(str::to_owned))
            .collect();
        reasons.sort();
        reasons.dedup();
        reasons
    }

    /// How many evictions the agents asked for.
    pub(crate) fn evictions(&self) -> usize {
        let requests = self.cluster.api().requests_of(USER).unwrap();
        requests
            .iter()
            .filter(|request| request.full_resource() == "pods/eviction" && !request.is_dry_run())
            .count()
    }

    /// How often they asked whether one would be refused.
    pub(crate) fn rehearsals(&self) -> usize {
        let requests = self.cluster.api().requests_of(USER).unwrap();
        requests
            .iter()
            .filter(|request| request.full_resource() == "pods/eviction" && request.is_dry_run())
            .count()
    }

    /// Whether nobody holds any Lease.
    pub(crate) fn leases_are_free(&self) -> bool {
        let leases = self.cluster.api().list("leases", "meshmedic").unwrap();
        leases.iter().all(|lease| {
            let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
            let record = lease["metadata"]["annotations"]["meshmedic.io/record"].as_str();
            let record: Value = serde_json::from_str(record.unwrap_or("{}")).unwrap();
            holder.is_empty() && record["repairs"].as_array().is_none_or(Vec::is_empty)
        })
    }

    /// The UID of a pod's object, if there is one.
    pub(crate) fn uid_of(&self, namespace: &str, name: &str) -> Option<String> {
        let object = self.cluster.api().find("pods", namespace, name).unwrap()?;
        object["metadata"]["uid"].as_str().map(str::to_owned)
    }

    /// Whether the very pod is still there, and nobody is deleting it.
    pub(crate) fn is_untouched(&self, pod: &Pod) -> bool {
        let object = self
            .cluster
            .api()
            .find("pods", pod.namespace(), pod.name())
            .unwrap();
        object.is_some_and(|object| {
            object["metadata"]["uid"] == pod.uid() && object["metadata"]["deletionTimestamp"].is_null()
        })
    }
}
