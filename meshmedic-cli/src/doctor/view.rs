// SPDX-License-Identifier: Apache-2.0
//! A snapshot, indexed once, so that checks are short.

pub(crate) mod bindings;
pub(crate) mod endpoints;
pub(crate) mod gateways;
pub(crate) mod keeper;
pub(crate) mod revisions;
pub(crate) mod switches;

use crate::doctor::kind::ISTIO_GATEWAY;
use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meshmedic_common::eligibility::{Enablement, Expectation};
use meshmedic_common::facts::{Controller, Labels, PodFacts};
use meshmedic_common::identity::{Claim, Component, DEFAULT_NAMESPACES, Identity, Traced};
use meshmedic_common::kube::facts::{controller, pod_facts};

use super::command::Command;
use super::finding::{Finding, ObjectRef};
use super::policy::{Gaps, NetworkPolicies};
use super::snapshot::{Custom, Snapshot};

/// Where Istio is if nothing tells otherwise.
const ISTIO: &str = DEFAULT_NAMESPACES[0];
/// The label of namespaces that holds their name.
pub(crate) const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A pod, with what follows from it.
#[derive(Debug)]
pub(crate) struct PodView<'s> {
    pub(crate) pod: &'s Pod,
    pub(crate) facts: PodFacts,
    /// Whether it should be captured. Without its annotation of istio-cni it counts as exempt; see
    /// [`View::is_ambient`] for what its labels want.
    pub(crate) expectation: Expectation,
    /// What made it, as people name it: of a ReplicaSet its Deployment.
    pub(crate) workload: Option<ObjectRef>,
}

impl PodView<'_> {
    pub(crate) fn object(&self) -> ObjectRef {
        ObjectRef::new("Pod", &self.facts.namespace, &self.facts.name)
    }

    /// Whether it lives: not finished, not being deleted.
    pub(crate) fn is_live(&self) -> bool {
        !self.facts.finished && !self.facts.deleting
    }

    /// A command that makes it anew: its workload's rollout, or its deletion; none where nothing recreates it.
    pub(crate) fn restart(&self) -> Option<Command> {
        let namespace = &self.facts.namespace;
        match &self.workload {
            Some(workload)
                if matches!(workload.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet") =>
            {
                let kind = workload.kind.to_lowercase();
                let restart = Command::new("kubectl rollout restart").namespace(namespace);
                Some(restart.path(&kind, &workload.name))
            }
            Some(_) => Some(self.delete()),
            None => None,
        }
    }

    /// A command that deletes it.
    pub(crate) fn delete(&self) -> Command {
        let (of, called) = (&self.facts.namespace, &self.facts.name);
        Command::new("kubectl delete pod").namespace(of).name(called)
    }

    /// A command that shows the end of its log.
    pub(crate) fn logs(&self) -> Command {
        let (of, called) = (&self.facts.namespace, &self.facts.name);
        Command::new("kubectl logs --tail 200").namespace(of).name(called)
    }

    /// A finding that ends once the pod is made anew.
    pub(crate) fn made_anew(&self, finding: Finding) -> Finding {
        match self.restart() {
            Some(command) => finding.run(command),
            None => finding.by_hand("nothing recreates this pod: delete it and make it anew yourself"),
        }
    }
}

/// A snapshot, indexed.
#[derive(Debug)]
pub(crate) struct View<'s> {
    pub(crate) snapshot: &'s Snapshot,
    /// When the snapshot was taken: what is near its end is so from then.
    pub(crate) now: Timestamp,
    /// Istio's namespace.
    pub(crate) istio: String,
    /// Where objects of Istio hold for the whole mesh.
    pub(crate) root: String,
    /// Whom istio-cni enrols.
    pub(crate) enablement: Enablement,
    pods: Vec<PodView<'s>>,
    pods_by_name: HashMap<(&'s str, &'s str), usize>,
    pods_by_namespace: BTreeMap<&'s str, Vec<usize>>,
    namespaces: BTreeMap<&'s str, &'s Namespace>,
    /// By namespace and name, what made each ReplicaSet.
    sets: HashMap<(&'s str, &'s str), Controller>,
    none: Labels,
    /// How many pairs of peers NetworkPolicies were decided for.
    decided: Cell<u64>,
    /// The NetworkPolicies, compiled when the first check asks for them.
    policies: OnceCell<NetworkPolicies>,
    gaps: OnceCell<Gaps>,
    patches: OnceCell<BTreeMap<usize, NetworkPolicy>>,
}

impl<'s> View<'s> {
    pub(crate) fn new(snapshot: &'s Snapshot) -> Self {
        let namespaces: BTreeMap<&str, &Namespace> = snapshot
            .namespaces
            .all()
            .iter()
            .map(|namespace| (name(&namespace.metadata), namespace))
            .collect();
        let enablement = snapshot
            .cni_config
            .had()
            .and_then(|config| Enablement::from_config(config).ok())
            .unwrap_or_else(Enablement::guessed);
        let sets = makers_of_replica_sets(snapshot);
        let pods: Vec<PodView<'_>> = snapshot
            .pods
            .all()
            .iter()
            .map(|pod| {
                let facts = pod_facts(pod);
                let labels = namespaces.get(facts.namespace.as_str());
                let labels = labels.map(|namespace| namespace.metadata.labels.clone().unwrap_or_default());
                let expectation = enablement.expectation(&facts, labels.as_ref());
                let workload = workload(&facts, &sets);
                PodView {
                    pod,
                    facts,
                    expectation,
                    workload,
                }
            })
            .collect();
        let mut pods_by_name = HashMap::new();
        let mut pods_by_namespace: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, pod) in snapshot.pods.all().iter().enumerate() {
            pods_by_name.insert((namespace(&pod.metadata), name(&pod.metadata)), at);
            pods_by_namespace
                .entry(namespace(&pod.metadata))
                .or_default()
                .push(at);
        }
        let istio = istio_namespace(&pods, snapshot);
        let config = snapshot.mesh_config.had();
        let root = config
            .and_then(|config| config.root_namespace.clone())
            .unwrap_or_else(|| istio.clone());
        Self {
            snapshot,
            now: snapshot.taken,
            istio,
            root,
            enablement,
            pods,
            pods_by_name,
            pods_by_namespace,
            namespaces,
            sets,
            none: Labels::new(),
            decided: Cell::new(0),
            policies: OnceCell::new(),
            gaps: OnceCell::new(),
            patches: OnceCell::new(),
        }
    }

    /// All pods.
    pub(crate) fn pods(&self) -> &[PodView<'s>] {
        &self.pods
    }

    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<&PodView<'s>> {
        self.pods.get(*self.pods_by_name.get(&(namespace, name))?)
    }

    pub(crate) fn pods_in(&self, namespace: &str) -> impl Iterator<Item = &PodView<'s>> {
        let places = self.pods_by_namespace.get(namespace).into_iter().flatten();
        places.filter_map(|at| self.pods.get(*at))
    }

    /// The names of all namespaces that are known.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = (&'s str, &'s Namespace)> {
        self.namespaces
            .iter()
            .map(|(name, namespace)| (*name, *namespace))
    }

    /// The labels of a namespace; none where they are not known.
    pub(crate) fn namespace_labels(&self, name: &str) -> &Labels {
        let namespace = self.namespaces.get(name);
        namespace
            .and_then(|namespace| namespace.metadata.labels.as_ref())
            .unwrap_or(&self.none)
    }

    /// Whether labels want a pod in the ambient mesh, whatever istio-cni has made of it so far.
    pub(crate) fn is_ambient(&self, pod: &PodFacts) -> bool {
        use meshmedic_common::facts::Enrolment;
        if !self.namespaces.contains_key(pod.namespace.as_str()) {
            return false;
        }
        let enrolled = PodFacts {
            enrolment: Enrolment::Enabled,
            ..pod.clone()
        };
        let expectation = self
            .enablement
            .expectation(&enrolled, Some(self.namespace_labels(&pod.namespace)));
        matches!(expectation, Expectation::Expected | Expectation::Unverifiable(_))
    }

    /// istiod's pods, those that live.
    pub(crate) fn istiods(&self) -> impl Iterator<Item = &PodView<'s>> {
        // Where ReplicaSets could not be read, nothing is above them.
        let known = self.snapshot.replica_sets.had().is_some();
        self.component(Component::Istiod).filter(move |pod| {
            let set = pod.facts.controller.as_ref();
            let set = set.map(|set| (pod.facts.namespace.as_str(), set.name.as_str()));
            let above = set.and_then(|set| self.sets.get(&set));
            !known || self.identity().trace(&pod.facts, above) == Traced::Deployment
        })
    }

    /// Who may speak for Istio.
    pub(crate) fn identity(&self) -> &'s Identity {
        &self.snapshot.istio
    }

    /// ztunnel's pods, those that live.
    pub(crate) fn ztunnels(&self) -> impl Iterator<Item = &PodView<'s>> {
        self.component(Component::Ztunnel)
    }

    /// istio-cni's pods, those that live.
    pub(crate) fn cnis(&self) -> impl Iterator<Item = &PodView<'s>> {
        self.component(Component::Cni)
    }

    fn component(&self, component: Component) -> impl Iterator<Item = &PodView<'s>> {
        let identity = self.identity();
        self.pods
            .iter()
            .filter(move |pod| pod.is_live() && identity.proves(&pod.facts, component))
    }

    /// ztunnel's DaemonSets.
    pub(crate) fn ztunnel_sets(&self) -> impl Iterator<Item = &'s DaemonSet> {
        self.daemon_sets_of(Component::Ztunnel)
    }

    /// istio-cni's DaemonSets.
    pub(crate) fn cni_sets(&self) -> impl Iterator<Item = &'s DaemonSet> {
        self.daemon_sets_of(Component::Cni)
    }

    fn daemon_sets_of(&self, component: Component) -> impl Iterator<Item = &'s DaemonSet> {
        let identity = self.identity();
        self.snapshot.daemon_sets.all().iter().filter(move |set| {
            let template = set.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
            let labels = template.and_then(|metadata| metadata.labels.as_ref());
            labels.is_some_and(|labels| identity.is_workload_of(component, namespace(&set.metadata), labels))
        })
    }

    /// Whether any part of Istio is there.
    pub(crate) fn is_istio_installed(&self) -> bool {
        self.istiods().next().is_some()
            || self.istiod_deployments().next().is_some()
            || self.ztunnels().next().is_some()
            || self.ztunnel_sets().next().is_some()
    }

    /// istiod's Deployments: one a revision.
    pub(crate) fn istiod_deployments(&self) -> impl Iterator<Item = &'s Deployment> {
        let identity = self.identity();
        self.snapshot.deployments.all().iter().filter(|deployment| {
            let template = deployment
                .spec
                .as_ref()
                .and_then(|spec| spec.template.metadata.as_ref());
            let labels = template.and_then(|metadata| metadata.labels.as_ref());
            let of = namespace(&deployment.metadata);
            labels.is_some_and(|labels| identity.is_workload_of(Component::Istiod, of, labels))
        })
    }

    /// Whether a Gateway of Istio's own API selects pods with these labels.
    pub(crate) fn is_selected_by_gateway(&self, labels: &Labels) -> bool {
        self.custom(ISTIO_GATEWAY).iter().any(|gateway| {
            let selector = gateway
                .spec
                .get("selector")
                .and_then(serde_json::Value::as_object);
            selector.is_some_and(|selector| {
                let has = |(key, value): (&String, &serde_json::Value)| {
                    labels.get(key).map(String::as_str) == value.as_str()
                };
                !selector.is_empty() && selector.iter().all(has)
            })
        })
    }

    /// Whether any istiod is Ready.
    pub(crate) fn has_ready_istiod(&self) -> bool {
        self.istiods().any(|pod| pod.facts.ready)
    }

    /// Whether a pod is older than this; one that was just made may still become what it should be.
    pub(crate) fn is_older(&self, pod: &PodFacts, than: SignedDuration) -> bool {
        pod.created
            .is_some_and(|created| self.now.duration_since(created) > than)
    }

    /// The pods that a Service selects.
    pub(crate) fn pods_of(&self, service: &'s Service) -> impl Iterator<Item = &PodView<'s>> {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let selector = selector.filter(|selector| !selector.is_empty());
        self.pods_in(namespace(&service.metadata))
            .filter(move |pod| selector.is_some_and(|wanted| has_all(&pod.facts.labels, wanted)))
    }

    pub(crate) fn service(&self, of: &str, called: &str) -> Option<&'s Service> {
        let services = self.snapshot.services.all();
        services
            .iter()
            .find(|service| namespace(&service.metadata) == of && name(&service.metadata) == called)
    }

    /// Objects of a kind that `CUSTOM_KINDS` names, by `plural.group`.
    pub(crate) fn custom(&self, kind: &str) -> &'s [Custom] {
        self.snapshot.custom(kind)
    }

    /// Whether a finding on this object was asked for. The mesh's own objects always are.
    pub(crate) fn is_asked_for(&self, object: &ObjectRef) -> bool {
        let scope = &self.snapshot.scope;
        let of = match &object.namespace {
            Some(of) => of,
            None if object.kind == "Namespace" => &object.name,
            None => return true,
        };
        let ours = *of == self.istio || *of == self.root;
        if scope.pods.is_empty() {
            return ours || scope.namespace.as_ref().is_none_or(|asked| asked == of);
        }
        // Of a pod that was named, whatever its namespace has counts too, but no other pod.
        let namespaces: BTreeSet<&str> = scope
            .pods
            .iter()
            .filter_map(|pod| Some(pod.split_once('/')?.0))
            .collect();
        ours || if object.kind == "Pod" {
            scope.pods.contains(&object.path())
        } else {
            namespaces.contains(of.as_str())
        }
    }

    /// The place of a pod among [`Self::pods`].
    pub(crate) fn place(&self, pod: &PodView<'_>) -> Option<usize> {
        let name = (pod.facts.namespace.as_str(), pod.facts.name.as_str());
        self.pods_by_name.get(&name).copied()
    }

    /// The places, among the pods of [`Self::network_policies`], of the istiod and the ztunnel that an installation
    /// would bring; none where there is an istiod, or no namespace for one.
    pub(crate) fn planned(&self) -> Option<(usize, usize)> {
        let none = self.istiods().next().is_none() && self.istiod_deployments().next().is_none();
        let place = self.pods.len();
        (none && self.namespaces.contains_key(self.istio.as_str())).then_some((place, place + 1))
    }

    /// The NetworkPolicies of the cluster; their pods are those of [`Self::pods`], in that order.
    pub(crate) fn network_policies(&self) -> &NetworkPolicies {
        self.policies.get_or_init(|| endpoints::compile(self))
    }

    /// The pods of the mesh that NetworkPolicies cut off from each other.
    pub(crate) fn hbone_gaps(&self) -> &Gaps {
        self.gaps.get_or_init(|| {
            let gaps = self.network_policies().hbone_gaps();
            self.decided.set(gaps.decided.pairs);
            gaps
        })
    }

    /// What cures the NetworkPolicies at these places, made once by who knows how.
    pub(crate) fn patches(
        &self,
        make: impl FnOnce() -> BTreeMap<usize, NetworkPolicy>,
    ) -> &BTreeMap<usize, NetworkPolicy> {
        self.patches.get_or_init(make)
    }

    pub(crate) fn decided(&self) -> u64 {
        self.decided.get()
    }
}

/// Whether labels have all of these.
pub(crate) fn has_all(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Labels as a selector is written.
pub(crate) fn written(labels: &Labels) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

pub(crate) fn name(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().unwrap_or_default()
}

fn makers_of_replica_sets(snapshot: &Snapshot) -> HashMap<(&str, &str), Controller> {
    let sets = snapshot.replica_sets.all().iter();
    let made = sets.filter_map(|set| {
        let key = (namespace(&set.metadata), name(&set.metadata));
        Some((key, controller(&set.metadata)?))
    });
    made.collect()
}

/// Where ReplicaSets could not be read, the hash that a pod's label carries tells the Deployment's name as well.
fn workload(pod: &PodFacts, makers: &HashMap<(&str, &str), Controller>) -> Option<ObjectRef> {
    let owner = pod.controller.as_ref()?;
    if owner.kind == "ReplicaSet" {
        let maker = makers.get(&(pod.namespace.as_str(), owner.name.as_str()));
        let known = maker
            .filter(|maker| maker.kind == "Deployment")
            .map(|maker| maker.name.as_str());
        let hash = pod.labels.get("pod-template-hash");
        let guessed = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
        if let Some(deployment) = known.or(guessed) {
            return Some(ObjectRef::new("Deployment", &pod.namespace, deployment));
        }
    }
    Some(ObjectRef::new(&owner.kind, &pod.namespace, &owner.name))
}

/// Where istiod is, else where ztunnel is, else where it usually is; always one of the trusted namespaces.
fn istio_namespace(pods: &[PodView<'_>], snapshot: &Snapshot) -> String {
    let identity = &snapshot.istio;
    let place_of = |component: Component| {
        let found = pods
            .iter()
            .filter(|pod| identity.claim(&pod.facts) == Some(Claim::Trusted(component)));
        let places: BTreeSet<&str> = found.map(|pod| pod.facts.namespace.as_str()).collect();
        if places.contains(ISTIO) {
            Some(ISTIO.to_owned())
        } else {
            places.first().map(|&place| place.to_owned())
        }
    };
    let deployment = snapshot.deployments.all().iter().find(|deployment| {
        name(&deployment.metadata) == "istiod" && identity.trusts(namespace(&deployment.metadata))
    });
    deployment
        .map(|deployment| namespace(&deployment.metadata).to_owned())
        .or_else(|| place_of(Component::Istiod))
        .or_else(|| place_of(Component::Ztunnel))
        .or_else(|| identity.namespaces.first().cloned())
        .unwrap_or_else(|| ISTIO.to_owned())
}
