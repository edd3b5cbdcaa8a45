// SPDX-License-Identifier: Apache-2.0
//! Who speaks for Istio: which pods are ztunnel's, istio-cni's and istiod's.
//!
//! Anybody can label a pod. So a label is only a claim; what proves it is the namespace, which is configuration, and the
//! controller there. Every gate and every verdict asks here, and a claim without proof has a [`Claimant`]: shown, and
//! otherwise ignored.

mod istiod;
mod node;

use serde::{Deserialize, Serialize};

use crate::facts::Labels;
use crate::facts::{Controller, PodFacts};
use crate::text::clean;
use crate::verdict::named;

pub use istiod::{Endpoint, Istiod, PodKey, Slice, Traced};
pub use node::{DataPlane, NodeFault, OnNode};

/// Where Istio is installed unless the configuration says otherwise. Only a cluster's owner may write to these.
pub const DEFAULT_NAMESPACES: [&str; 2] = ["istio-system", "kube-system"];
/// The flag that names others.
pub const FLAG: &str = "--istio-namespace";
/// The longest name that Kubernetes gives to a namespace.
const LONGEST_NAMESPACE: usize = 63;
/// What makes the pods of ztunnel and istio-cni.
const DAEMON_SET: &str = "DaemonSet";
/// What makes istiod's pods, for a Deployment.
const REPLICA_SET: &str = "ReplicaSet";
/// How much of a claimant's name is shown.
const MAX_NAME: usize = 253;

named! {
    /// A part of Istio that verdicts and repairs depend on.
    pub enum Component {
        /// The proxy of a node.
        Ztunnel = "ztunnel", "holds the listeners of a node's pods";
        /// What enrols pods.
        Cni = "istio-cni", "enrols a node's pods";
        /// The control plane.
        Istiod = "istiod", "gives pods their identity";
    }
}

impl Component {
    /// The label by which Istio's charts mark its pods, and istiod's Service.
    const fn label(self) -> (&'static str, &'static str) {
        match self {
            Self::Ztunnel => ("app", "ztunnel"),
            Self::Cni => ("k8s-app", "istio-cni-node"),
            Self::Istiod => ("app", "istiod"),
        }
    }

    /// The label as a selector of the API: it finds whoever claims to be one.
    #[must_use]
    pub fn selector(self) -> String {
        let (key, value) = self.label();
        format!("{key}={value}")
    }

    /// What these labels claim to be.
    #[must_use]
    pub fn claimed(labels: &Labels) -> Option<Self> {
        let claims = |component: &&Self| {
            let (key, value) = component.label();
            labels.get(key).is_some_and(|found| found == value)
        };
        Self::ALL.iter().find(claims).copied()
    }
}

/// Who may speak for Istio, as configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Istio's namespaces. Only pods there can prove a claim.
    pub namespaces: Vec<String>,
    /// Whether istiod runs outside the cluster: then its endpoints there have no pods.
    #[serde(default)]
    pub external_istiod: bool,
}

impl Default for Identity {
    fn default() -> Self {
        Self::new(DEFAULT_NAMESPACES.map(str::to_owned).into(), false)
    }
}

/// What a pod's claim is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is proved. Of istiod's pods this says that a `ReplicaSet` made them: [`Identity::trace`] tells whose.
    Trusted(Component),
    /// It only says so.
    Stranger(Claimant),
}

/// Who claims to be a component without proof.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claimant {
    /// What it claims to be.
    pub component: Component,
    /// Where it is.
    pub namespace: String,
    /// The kind of what made the pod, else `Pod`; `Service` where endpoints claim to be istiod's.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl Claimant {
    fn new(component: Component, namespace: &str, kind: &str, name: &str) -> Self {
        let [namespace, kind, name] = [namespace, kind, name].map(|text| clean(text, MAX_NAME));
        Self {
            component,
            namespace,
            kind,
            name,
        }
    }

    /// Who claims what, for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self {
            component,
            namespace,
            kind,
            name,
        } = self;
        format!("{kind} {namespace}/{name} claims to be {component}")
    }
}

impl Identity {
    /// From the configuration; without a namespace nobody is trusted.
    #[must_use]
    pub const fn new(namespaces: Vec<String>, external_istiod: bool) -> Self {
        Self {
            namespaces,
            external_istiod,
        }
    }

    /// Whether Istio's parts may be in this namespace.
    #[must_use]
    pub fn trusts(&self, namespace: &str) -> bool {
        self.namespaces.iter().any(|trusted| trusted == namespace)
    }

    /// The namespaces, for people.
    #[must_use]
    pub fn places(&self) -> String {
        self.namespaces.join(", ")
    }

    /// What a pod claims to be, and whether it is; `None` if it claims nothing.
    #[must_use]
    pub fn claim(&self, pod: &PodFacts) -> Option<Claim> {
        let component = Component::claimed(&pod.labels)?;
        let made_by = match component {
            Component::Ztunnel | Component::Cni => DAEMON_SET,
            Component::Istiod => REPLICA_SET,
        };
        let owned = is_made_by(pod, made_by);
        Some(if owned && self.trusts(&pod.namespace) {
            Claim::Trusted(component)
        } else {
            Claim::Stranger(claimant(component, pod))
        })
    }

    /// Whether a pod is proved to be this component's. Istiod's pods are traced besides.
    #[must_use]
    pub fn proves(&self, pod: &PodFacts, component: Component) -> bool {
        self.claim(pod) == Some(Claim::Trusted(component))
    }

    /// The pod among these that is this component's on a node: the youngest, while one takes another's place.
    #[must_use]
    pub fn part<'a>(
        &self,
        pods: impl Iterator<Item = &'a PodFacts>,
        component: Component,
    ) -> Option<&'a PodFacts> {
        let here = pods.filter(|pod| self.proves(pod, component) && !pod.deleting && !pod.finished);
        here.max_by_key(|pod| pod.created)
    }

    /// Whether a pod's ztunnel may hold listeners, and its processes count: a pod that is not Ready, or is about to
    /// leave, serves nobody.
    #[must_use]
    pub fn serves_as_ztunnel(&self, pod: &PodFacts) -> bool {
        let serves = pod.ready && !pod.deleting && !pod.finished;
        serves && self.proves(pod, Component::Ztunnel)
    }

    /// Whether a workload in this namespace, whose pods get these labels, is one of Istio's.
    #[must_use]
    pub fn is_workload_of(&self, component: Component, namespace: &str, pod_labels: &Labels) -> bool {
        self.trusts(namespace) && Component::claimed(pod_labels) == Some(component)
    }

    /// Who among these pods claims to be a component without proof. One that ended or is leaving claims nothing.
    pub fn strangers<'a>(&self, pods: impl Iterator<Item = &'a PodFacts>) -> impl Iterator<Item = Claimant> {
        let here = pods.filter(|pod| !pod.finished && !pod.deleting);
        here.filter_map(|pod| match self.claim(pod)? {
            Claim::Stranger(claimant) => Some(claimant),
            Claim::Trusted(_) => None,
        })
    }

    /// The one line for somebody whose Istio is elsewhere: where no pod proves to be the component's and somebody claims
    /// it.
    #[must_use]
    pub fn hint(&self, component: Component, claimants: &[Claimant]) -> Option<String> {
        let mut claimants = claimants
            .iter()
            .filter(|claimant| claimant.component == component);
        let first = claimants.next()?;
        let as_istio =
            |claimant: &&Claimant| claimant.kind == DAEMON_SET && !self.trusts(&claimant.namespace);
        let likeliest = std::iter::once(first).chain(claimants).find(as_istio);
        let why = match likeliest {
            Some(Claimant { namespace, .. }) => {
                format!("if that is your Istio, pass {FLAG} {namespace}, beside those of its other parts")
            }
            None => "what Istio's charts install is made by a DaemonSet".to_owned(),
        };
        Some(format!(
            "no {component} is in {} ({FLAG}), but {}: {why}",
            self.places(),
            likeliest.unwrap_or(first).sentence()
        ))
    }
}

/// Checks the name of a namespace, as a flag or a variable gives it.
pub fn check_namespace(text: &str) -> Result<String, String> {
    let name = text.trim();
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = !name.is_empty() && name.len() <= LONGEST_NAMESPACE;
    if fits && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-') {
        return Ok(name.to_owned());
    }
    Err(format!(
        "{text:?} is no namespace: write small letters, digits and dashes, such as istio-system"
    ))
}

fn is_made_by(pod: &PodFacts, kind: &str) -> bool {
    let controller = pod.controller.as_ref();
    controller.is_some_and(|controller| controller.kind == kind)
}

/// Whoever made it, since that is what a person has to look at; else the pod itself.
fn claimant(component: Component, pod: &PodFacts) -> Claimant {
    let (kind, name) = match &pod.controller {
        Some(Controller { kind, name, .. }) => (kind.as_str(), name),
        None => ("Pod", &pod.name),
    };
    Claimant::new(component, &pod.namespace, kind, name)
}

#[cfg(test)]
mod tests;
