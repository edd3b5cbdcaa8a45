// SPDX-License-Identifier: Apache-2.0
//! What the API last said of this node and of the mesh.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use meshmedic_common::eligibility::Enablement;
use meshmedic_common::facts::PodFacts;
use meshmedic_common::identity::{
    Claimant, Component, DataPlane, Identity, Istiod, OnNode, PodKey, Slice, Traced,
};
use meshmedic_common::kube::facts::{NamespaceFacts, NodeFacts, standing};
use meshmedic_common::policy::Standing;
use meshmedic_common::uid::PodUid;

use super::store::{Delta, Store};
use super::watches;
use super::watches::Seen;
use crate::engine::Health;
use crate::node::PodName;
use crate::watch::Declared;
use meshmedic_common::kube::leases::SeenLease;
use meshmedic_common::time::Time;

/// What changed by some news.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Which pods there are, or what is expected of them.
    pub pods: bool,
    /// What holds above them.
    pub gates: bool,
}

/// What the API last said.
#[derive(Debug)]
pub struct Mirror {
    pods: Store<PodFacts>,
    namespaces: Store<NamespaceFacts>,
    identity: Identity,
    /// By the watch that tells of them.
    slices: Vec<Store<Slice>>,
    /// What stands behind istiod's endpoints, as far as it was found out.
    traced: BTreeMap<PodKey, Traced>,
    node: Store<NodeFacts>,
    control: Store<Option<String>>,
    leases: Store<SeenLease>,
    with_leases: bool,
    enablement: Enablement,
    standings: BTreeMap<PodUid, Standing>,
}

impl Mirror {
    /// A mirror that was told nothing yet; with or without Leases on which something depends.
    #[must_use]
    pub fn new(identity: Identity, with_leases: bool) -> Self {
        let slices = watches::slices(&identity).map(|_| Store::default()).collect();
        Self {
            pods: Store::default(),
            namespaces: Store::default(),
            identity,
            slices,
            traced: BTreeMap::new(),
            node: Store::default(),
            control: Store::default(),
            leases: Store::default(),
            with_leases,
            enablement: Enablement::guessed(),
            standings: BTreeMap::new(),
        }
    }

    /// Takes news in. Leases are not looked at here beyond being kept.
    pub fn take(&mut self, seen: Seen) -> Changed {
        let changed = match seen {
            Seen::Pod(delta) => {
                return Changed {
                    pods: self.take_pod(*delta),
                    gates: true,
                };
            }
            Seen::Namespace(delta) => Changed {
                pods: self.namespaces.take(delta),
                gates: false,
            },
            Seen::Slice(watch, delta) => {
                let slices = self.slices.get_mut(watch);
                above(slices.is_some_and(|slices| slices.take(delta)))
            }
            Seen::Node(delta) => above(self.node.take(delta)),
            Seen::Control(delta) => above(self.control.take(delta)),
            Seen::Lease(delta) => above(self.leases.take(delta)),
            Seen::Trouble(..) => Changed::default(),
        };
        if changed.pods {
            self.judge_pods();
        }
        changed
    }

    /// Takes istio-cni's settings. True if they are others than before.
    pub fn enable(&mut self, enablement: Enablement) -> bool {
        let changed = self.enablement != enablement;
        self.enablement = enablement;
        if changed {
            self.judge_pods();
        }
        changed
    }

    /// istio-cni's settings, as far as they are known.
    #[must_use]
    pub fn enablement(&self) -> &Enablement {
        &self.enablement
    }

    /// One pod that changed is judged by itself: a node has hundreds of others.
    fn take_pod(&mut self, delta: Delta<PodFacts>) -> bool {
        let key = match &delta {
            Delta::Is(key, _) | Delta::Gone(key) => Some(key.clone()),
            Delta::Begin | Delta::End => None,
        };
        let before = key.as_ref().and_then(|key| self.pods.get(key)?.cgroup_uid());
        let changed = self.pods.take(delta);
        match key {
            _ if !changed || !self.knows_pods() => {}
            None => self.judge_pods(),
            Some(key) => {
                if let Some(uid) = before {
                    self.standings.remove(&uid);
                }
                let judged = self.pods.get(&key).and_then(|facts| self.judge_pod(facts));
                self.standings.extend(judged);
            }
        }
        changed
    }

    fn judge_pods(&mut self) {
        if self.knows_pods() {
            let judged = self.pods.values().filter_map(|facts| self.judge_pod(facts));
            self.standings = judged.collect();
        }
    }

    fn judge_pod(&self, facts: &PodFacts) -> Option<(PodUid, Standing)> {
        let namespace = self.namespaces.get(&facts.namespace);
        let standing = standing(facts.clone(), namespace, &self.enablement);
        Some((facts.cgroup_uid()?, standing))
    }

    /// The watches that have not told everything yet.
    pub fn pending(&self) -> impl Iterator<Item = &'static str> {
        [
            ("pods", self.pods.is_complete()),
            ("namespaces", self.namespaces.is_complete()),
            ("endpointslices", self.slices.iter().all(Store::is_complete)),
            ("nodes", self.node.is_complete()),
            ("configmaps", self.control.is_complete()),
            ("leases", self.leases.is_complete() || !self.with_leases),
        ]
        .into_iter()
        .filter_map(|(resource, complete)| (!complete).then_some(resource))
    }

    /// Whether the API listed this node's pods and their namespaces.
    #[must_use]
    pub fn knows_pods(&self) -> bool {
        self.pods.is_complete() && self.namespaces.is_complete()
    }

    /// This node's pods by the identity in their cgroups.
    #[must_use]
    pub fn standings(&self) -> &BTreeMap<PodUid, Standing> {
        &self.standings
    }

    /// The Lease of this name.
    #[must_use]
    pub fn lease(&self, name: &str) -> Option<&SeenLease> {
        self.leases.get(name)
    }

    /// The Leases of owners.
    pub fn leases(&self) -> impl Iterator<Item = &SeenLease> {
        self.leases.values()
    }

    /// The pods in the words of the watch.
    #[must_use]
    pub fn declared(&self) -> HashMap<PodUid, Declared> {
        let declare = |(uid, standing): (&PodUid, &Standing)| {
            let facts = &standing.facts;
            let declared = Declared {
                name: PodName {
                    namespace: facts.namespace.clone(),
                    name: facts.name.clone(),
                },
                expectation: standing.expectation,
                addresses: facts.addresses.clone(),
                ztunnel: self.identity.serves_as_ztunnel(facts),
            };
            (uid.clone(), declared)
        };
        self.standings.iter().map(declare).collect()
    }

    /// Whether anything of Istio's data plane is on this node.
    #[must_use]
    pub fn has_istio(&self) -> bool {
        self.has_component(Component::Ztunnel) || self.has_component(Component::Cni)
    }

    /// Whether a pod of this component is on this node.
    #[must_use]
    pub fn has_component(&self, component: Component) -> bool {
        self.pods
            .values()
            .any(|facts| self.identity.proves(facts, component))
    }

    /// The istio-cni of this node, two during an upgrade: another one has read its settings anew.
    pub fn cnis(&self) -> impl Iterator<Item = Cni> {
        let cnis = self
            .pods
            .values()
            .filter(|facts| self.identity.proves(facts, Component::Cni));
        cnis.map(|facts| Cni {
            namespace: facts.namespace.clone(),
            uid: facts.uid.clone(),
            container: facts
                .container
                .as_ref()
                .and_then(|container| container.id.clone()),
        })
    }

    /// The pods of Istio that this node's depend on.
    #[must_use]
    pub fn parts(&self) -> Vec<PodKey> {
        let proved = |facts: &&PodFacts| {
            [Component::Ztunnel, Component::Cni]
                .iter()
                .any(|component| self.identity.proves(facts, *component))
        };
        self.pods.values().filter(proved).map(PodKey::from).collect()
    }

    /// istiod's slices, by namespace and name.
    #[must_use]
    pub fn slice_names(&self) -> Vec<(String, String)> {
        let keys = self.slices.iter().flat_map(Store::keys);
        let names = keys.filter_map(|key| key.split_once('/'));
        names
            .map(|(namespace, name)| (namespace.to_owned(), name.to_owned()))
            .collect()
    }

    /// The containers of this node's istio-cni and ztunnel: while there are two of a kind during an upgrade, of the
    /// younger.
    #[must_use]
    pub fn containers(&self) -> (Option<String>, Option<String>) {
        let id = |part| {
            self.part(part)
                .and_then(|facts| facts.container.as_ref()?.id.clone())
        };
        (id(Component::Cni), id(Component::Ztunnel))
    }

    /// What version istio-cni says that it is: by its label, else by the tag of its image.
    #[must_use]
    pub fn cni_version(&self) -> Option<String> {
        self.part(Component::Cni)?.version()
    }

    /// Where this node's ztunnel comes from.
    #[must_use]
    pub fn ztunnel_namespace(&self) -> Option<&str> {
        Some(&self.part(Component::Ztunnel)?.namespace)
    }

    fn part(&self, part: Component) -> Option<&PodFacts> {
        self.identity.part(self.pods.values(), part)
    }

    /// What the API says of a namespace.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&NamespaceFacts> {
        self.namespaces.get(name)
    }

    /// How ztunnel and istio-cni of this node are. `None` until the pods were told.
    #[must_use]
    pub fn health(&self, now: Time, server: Timestamp) -> Option<Health> {
        self.pods.is_complete().then(|| {
            let plane = DataPlane::of(&self.identity, self.pods.values());
            let ready = |part: &OnNode| match part {
                OnNode::Ready(since) => {
                    let ago = server.duration_since(since.unwrap_or(server));
                    Some(now - Duration::try_from(ago).unwrap_or_default())
                }
                OnNode::Missing | OnNode::Disputed(_) | OnNode::NotReady => None,
            };
            Health {
                ztunnel_ready: ready(&plane.ztunnel),
                cni_ready: ready(&plane.cni),
                fault: plane.fault(None),
            }
        })
    }

    /// Who claims to be a component of Istio without proof: by pods of this node.
    #[must_use]
    pub fn strangers(&self) -> BTreeSet<Claimant> {
        let mut strangers = self.istiod().strangers;
        strangers.extend(self.identity.strangers(self.pods.values()));
        strangers
    }

    /// Who may speak for Istio.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The pods behind istiod's endpoints.
    #[must_use]
    pub fn istiod_pods(&self) -> BTreeSet<PodKey> {
        self.identity.istiod_pods(self.all_slices()).cloned().collect()
    }

    /// Takes what stands behind these pods, all that is known of them.
    pub fn trace(&mut self, traced: BTreeMap<PodKey, Traced>) {
        self.traced = traced;
    }

    fn all_slices(&self) -> impl Iterator<Item = &Slice> {
        self.slices.iter().flat_map(Store::values)
    }

    fn istiod(&self) -> Istiod {
        self.identity
            .istiod(self.all_slices(), |pod| self.traced.get(pod).copied())
    }

    /// What is wrong with the mesh, as far as it was told.
    #[must_use]
    pub fn mesh_fault(&self) -> Option<String> {
        if let Some(resource) = self.pending().next() {
            return Some(format!("the API has not listed {resource} yet"));
        }
        self.istiod().fault()
    }

    /// Whether this node is cordoned. One that the API does not know is about to leave, too.
    #[must_use]
    pub fn is_cordoned(&self) -> bool {
        self.node.values().next().is_none_or(|node| node.cordoned)
    }

    /// This node's address inside the cluster, where the API says it.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.node.values().next()?.address
    }

    /// Why repairs are paused, if they are.
    #[must_use]
    pub fn paused(&self) -> Option<String> {
        self.control.values().flatten().next().cloned()
    }
}

/// An istio-cni, as it began. A container that starts again in the same pod is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cni {
    /// Its namespace.
    pub namespace: String,
    /// Its pod's UID.
    pub uid: String,
    /// Its container, once it has one.
    pub container: Option<String>,
}

const fn above(gates: bool) -> Changed {
    Changed { pods: false, gates }
}

#[cfg(test)]
mod tests;
