// SPDX-License-Identifier: Apache-2.0
//! Carries out what the planner asks for: each request once, each within a time limit.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::eligibility::Enablement;
use crate::facts::{Controller, PodFacts};
use crate::identity::{Component, DataPlane, Identity, NodeFault, PodKey};
use crate::kube::acted::{Acted as Done, Target};
use crate::kube::client::ServerClock;
use crate::kube::cni;
use crate::kube::evict;
use crate::kube::facts::{is_cordoned, namespace_facts, pod_facts, standing};
use crate::kube::identity;
use crate::policy::{Gates, Means, Withheld};
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{ListParams, PostParams};
use kube::core::{NamespaceResourceScope, ParseExpressionError, Selector};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::control::{CONTROL, pause_reason};
use super::leases;
use crate::repair::ledger::{Allowance, Change, Record, Step};
use crate::repair::{
    self, Acted, Answer, Check, LeaseKey, Owner, PodRef, Presence, Refusal, Request, Sibling,
};

/// A request that takes longer than this failed, as far as we can tell.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// So often somebody else may be faster in changing a Lease.
const TRIES: usize = 4;

/// How many pods a controller wants, where it says so, and how they are selected.
type Workload = (Option<i32>, Result<Selector, ParseExpressionError>);

/// What is known already when a request is carried out. What is known by its name is fetched by it: a list that must be
/// the newest costs the API server a walk through all there is, and after an outage every agent would ask for one.
#[derive(Clone, Debug)]
pub struct Known {
    /// Whom istio-cni enrols.
    pub enablement: Enablement,
    /// What is known by its name; `None` where nothing is, and all is listed instead.
    pub named: Option<Named>,
}

/// What is known of Istio by its names, from a watch or an earlier look. What is gone counts as missing.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// The node's ztunnel and istio-cni.
    pub parts: Vec<PodKey>,
    /// istiod's slices, by namespace and name.
    pub slices: Vec<(String, String)>,
}

impl Known {
    /// Where no names are known.
    #[must_use]
    pub const fn listed(enablement: Enablement) -> Self {
        Self {
            enablement,
            named: None,
        }
    }
}

/// What carries out requests.
#[derive(Clone)]
pub struct Acts {
    client: Client,
    clock: Arc<ServerClock>,
    identity: Identity,
    node: String,
    namespace: String,
}

impl Acts {
    /// For the agent of `node`, which keeps its Leases in `namespace`. The client must not retry by itself.
    #[must_use]
    pub fn new(
        client: Client,
        clock: Arc<ServerClock>,
        identity: Identity,
        node: &str,
        namespace: &str,
    ) -> Self {
        Self {
            client,
            clock,
            identity,
            node: node.to_owned(),
            namespace: namespace.to_owned(),
        }
    }

    /// The record of a Lease; an empty one where there is none.
    pub async fn record(&self, key: &LeaseKey) -> Result<Record, String> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let read = async { leases.get_opt(&leases::name(key)).await };
        match self.within(read).await?.map_err(|error| describe(&error))? {
            Some(lease) => leases::record_of(key, &lease),
            None => Ok(Record::default()),
        }
    }

    /// Carries out one request. `ready` tells whether the pod of an act is Ready.
    pub async fn perform(&self, request: Request, ready: bool, known: &Known) -> Answer {
        match request {
            Request::Update {
                lease,
                change,
                allowance,
            } => Answer::Updated(
                self.within(self.update(&lease, &change, &allowance))
                    .await
                    .unwrap_or_else(|late| Err(Refusal::Failed(late))),
            ),
            Request::Check(pod) => {
                Answer::Checked(self.within(self.check(&pod, known)).await.and_then(|done| done))
            }
            Request::Rehearse { pod, means } => {
                let done = self.within(self.act(&pod, means, ready, true)).await;
                Answer::Acted(done.unwrap_or_else(Acted::InDoubt))
            }
            Request::Act { pod, means } => {
                let done = self.within(self.act(&pod, means, ready, false)).await;
                Answer::Acted(done.unwrap_or_else(Acted::InDoubt))
            }
            Request::Find(pod) => Answer::Found(self.within(self.find(&pod)).await.and_then(|done| done)),
            Request::Survey { pod, controller } => Answer::Surveyed(
                self.within(self.has(&pod.namespace, &pod.uid, &controller))
                    .await
                    .and_then(|done| done),
            ),
        }
    }

    /// Writes something down that nobody waits for.
    pub async fn note(&self, lease: &LeaseKey, step: Step, allowance: &Allowance) -> Result<(), String> {
        let change = Change::of_no_repair(step);
        match self.within(self.update(lease, &change, allowance)).await? {
            Ok(_) => Ok(()),
            Err(Refusal::Withheld(why, _)) => Err(why.sentence().to_owned()),
            Err(Refusal::Failed(why)) => Err(why),
        }
    }

    async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, String> {
        tokio::time::timeout(TIME_LIMIT, work)
            .await
            .map_err(|_| format!("the API did not answer within {}s", TIME_LIMIT.as_secs()))
    }

    async fn update(
        &self,
        key: &LeaseKey,
        change: &Change,
        allowance: &Allowance,
    ) -> Result<Record, Refusal> {
        let failed = |what: String| Refusal::Failed(what);
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = leases::name(key);
        for _ in 0..TRIES {
            let read = leases
                .get_opt(&name)
                .await
                .map_err(|error| failed(describe(&error)))?;
            let mut record = match &read {
                Some(lease) => leases::record_of(key, lease).map_err(failed)?,
                None => Record::default(),
            };
            let now = self.clock.now();
            let now = now.ok_or_else(|| failed("the API server's time is not known yet".to_owned()))?;
            let (changed, answer) = repair::update(&mut record, change, allowance, now);
            if changed {
                let exists = read.is_some();
                let lease = leases::with_record(read, key, &record, now)
                    .map_err(|error| failed(error.to_string()))?;
                let written = if exists {
                    leases.replace(&name, &PostParams::default(), &lease).await
                } else {
                    leases.create(&PostParams::default(), &lease).await
                };
                match written {
                    Ok(_) => {}
                    // Somebody was faster: what holds now may be something else.
                    Err(kube::Error::Api(status)) if status.code == 409 => continue,
                    Err(error) => return Err(failed(describe(&error))),
                }
            }
            return answer;
        }
        Err(failed(format!(
            "the Lease {name} changes faster than it can be written"
        )))
    }

    /// Fetches everything that an act depends on; watches may lag, or be silent for a while.
    async fn check(&self, pod: &PodRef, known: &Known) -> Result<Option<Box<Check>>, String> {
        let client = || self.client.clone();
        let pods: Api<Pod> = Api::namespaced(client(), &pod.namespace);
        let namespaces: Api<Namespace> = Api::all(client());
        let nodes: Api<Node> = Api::all(client());
        let controls: Api<ConfigMap> = Api::namespaced(client(), &self.namespace);
        let named = known.named.as_ref();
        let istiod = async {
            match named {
                Some(known) => identity::istiod_behind(&self.client, &self.identity, &known.slices).await,
                None => identity::istiod(&self.client, &self.identity).await,
            }
        };
        let fetched = tokio::try_join!(
            pods.get_opt(&pod.name),
            namespaces.get_metadata(&pod.namespace),
            nodes.get(&self.node),
            controls.get_opt(CONTROL),
            istiod,
            self.parts(named),
        );
        let (found, namespace, node, control, istiod, parts) = fetched.map_err(|error| describe(&error))?;
        let Some(found) = found else { return Ok(None) };
        let facts = pod_facts(&found);
        let namespace = namespace_facts(&Namespace {
            metadata: namespace.metadata,
            ..Namespace::default()
        });
        let cnis = parts
            .iter()
            .filter(|facts| self.identity.proves(facts, Component::Cni));
        let places = cnis.map(|facts| facts.namespace.as_str()).collect();
        let settings = cni::settings(&self.client, &places).await;
        let enablement = settings.as_ref().unwrap_or(&known.enablement);
        let standing = standing(facts, Some(&namespace), enablement);
        let plane = DataPlane::of(&self.identity, parts.iter());
        let gates = Gates {
            node_fault: plane.fault(None).as_ref().map(NodeFault::to_string),
            mesh_fault: istiod.fault(),
            cordoned: is_cordoned(&node),
            paused: control.as_ref().and_then(pause_reason),
        };
        let owner = self.owner(&standing.facts).await?;
        Ok(Some(Box::new(Check {
            standing,
            gates,
            owner,
        })))
    }

    /// The node's parts of Istio, those of them that are still there.
    async fn parts(&self, named: Option<&Named>) -> Result<Vec<PodFacts>, kube::Error> {
        let Some(Named { parts: names, .. }) = named else {
            return self.listed_parts().await;
        };
        let mut parts = Vec::new();
        for key in names {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
            let found = pods.get_opt(&key.name).await?;
            let here = |facts: &PodFacts| facts.node.as_deref() == Some(&self.node);
            parts.extend(found.as_ref().map(pod_facts).filter(here));
        }
        Ok(parts)
    }

    async fn listed_parts(&self) -> Result<Vec<PodFacts>, kube::Error> {
        let here: Api<Pod> = Api::all(self.client.clone());
        let of = |component: Component| {
            ListParams::default()
                .labels(&component.selector())
                .fields(&format!("spec.nodeName={}", self.node))
        };
        let (ztunnel, cni) = (of(Component::Ztunnel), of(Component::Cni));
        let (ztunnels, cnis) = tokio::try_join!(here.list(&ztunnel), here.list(&cni))?;
        Ok(ztunnels.items.iter().chain(&cnis.items).map(pod_facts).collect())
    }

    /// What the pod's controller wants and has.
    async fn owner(&self, facts: &PodFacts) -> Result<Owner, String> {
        let Some(controller) = facts.controller.as_ref() else {
            return Ok(Owner::default());
        };
        let owner = self.has(&facts.namespace, &facts.uid, controller).await?;
        let Controller { kind, name, .. } = controller;
        owner.ok_or_else(|| format!("{kind} {name}, which would recreate it, is not there any more"))
    }

    /// What a controller wants, and its pods without this one; `None` once it is gone.
    async fn has(
        &self,
        namespace: &str,
        uid: &str,
        controller: &Controller,
    ) -> Result<Option<Owner>, String> {
        let Some((wanted, selector)) = self.workload(namespace, controller).await? else {
            return Ok(None);
        };
        let Some(wanted) = wanted.and_then(|wanted| usize::try_from(wanted).ok()) else {
            let Controller { kind, name, .. } = controller;
            return Err(format!("{kind} {name} does not say how many pods it wants"));
        };
        let selector = selector.map_err(|error| error.to_string())?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let all = pods.list(&ListParams::default().labels_from(&selector)).await;
        let all = all.map_err(|error| describe(&error))?;
        let others = all.items.iter().map(pod_facts).filter(|other| {
            let of_it = other
                .controller
                .as_ref()
                .is_some_and(|of| of.uid == controller.uid);
            of_it && other.uid != uid && !other.deleting && !other.finished
        });
        Ok(Some(Owner {
            wanted,
            others: others.map(|other| Sibling::of(&other)).collect(),
        }))
    }

    /// How many pods a controller wants, and the labels that they have; `None` once it is gone.
    async fn workload(&self, namespace: &str, controller: &Controller) -> Result<Option<Workload>, String> {
        fn spec(replicas: Option<i32>, selector: LabelSelector) -> Workload {
            (replicas.or(Some(1)), selector.try_into())
        }
        Ok(match controller.kind.as_str() {
            "ReplicaSet" => self
                .controller(namespace, controller)
                .await?
                .map(|set: ReplicaSet| {
                    let of = set.spec.unwrap_or_default();
                    spec(of.replicas, of.selector)
                }),
            "StatefulSet" => self
                .controller(namespace, controller)
                .await?
                .map(|set: StatefulSet| {
                    let of = set.spec.unwrap_or_default();
                    spec(of.replicas, of.selector)
                }),
            "DaemonSet" => self
                .controller(namespace, controller)
                .await?
                .map(|set: DaemonSet| {
                    let wanted = set.status.map(|status| status.desired_number_scheduled);
                    (wanted, set.spec.unwrap_or_default().selector.try_into())
                }),
            "ReplicationController" => {
                let set = self.controller(namespace, controller).await?;
                set.map(|set: ReplicationController| {
                    let of = set.spec.unwrap_or_default();
                    let labels = of.selector.unwrap_or_default();
                    (of.replicas.or(Some(1)), Ok(labels.into_iter().collect()))
                })
            }
            "Job" => self.controller(namespace, controller).await?.map(|job: Job| {
                let of = job.spec.unwrap_or_default();
                let done = job.status.and_then(|status| status.succeeded).unwrap_or(0);
                let at_once = of.parallelism.unwrap_or(1);
                let left = of.completions.map_or(at_once, |all| all.saturating_sub(done));
                let selector = of.selector.unwrap_or_default().try_into();
                (Some(at_once.min(left).max(0)), selector)
            }),
            kind => return Err(format!("nothing is known of how many pods a {kind} wants")),
        })
    }

    /// The very controller of a pod.
    async fn controller<K>(&self, namespace: &str, controller: &Controller) -> Result<Option<K>, String>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let found = api
            .get_opt(&controller.name)
            .await
            .map_err(|error| describe(&error))?;
        Ok(found.filter(|found| found.meta().uid.as_ref() == Some(&controller.uid)))
    }

    async fn act(&self, pod: &PodRef, means: Means, ready: bool, dry_run: bool) -> Acted {
        let target = Target::from(pod);
        let done = match means {
            Means::Evict => evict::evict(&self.client, &target, ready, dry_run).await,
            Means::Delete => evict::delete(&self.client, &target, dry_run).await,
            // A heal in place has requests of its own, and claims nothing.
            Means::Heal | Means::Toggle | Means::Restore => {
                let why = "a label is toggled by `meshmedic repair`".to_owned();
                return Acted::Refused(Withheld::NoToggle, why);
            }
        };
        match &done {
            Done::Accepted => Acted::Accepted,
            Done::Gone | Done::OtherPod => Acted::Gone,
            Done::InDoubt { message } => Acted::InDoubt(message.clone()),
            refused => Acted::Refused(
                refused.withheld().unwrap_or(Withheld::Refused),
                refused.to_string(),
            ),
        }
    }

    async fn find(&self, pod: &PodRef) -> Result<Presence, String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let found = pods.get_opt(&pod.name).await.map_err(|error| describe(&error))?;
        let there = found.is_some_and(|found| {
            let same = found.metadata.uid.as_deref() == Some(pod.uid.as_str());
            same && found.metadata.deletion_timestamp.is_none()
        });
        Ok(if there { Presence::There } else { Presence::Leaving })
    }
}

/// An error of the API in words: its own where it said some.
#[must_use]
pub fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => root_cause(other),
    }
}

/// The innermost error, which is the one that tells something.
#[must_use]
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
