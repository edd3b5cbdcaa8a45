// SPDX-License-Identifier: Apache-2.0
//! Whether the mesh is at fault: whether istiod has an endpoint that is Ready, and istiod's own.

use std::collections::BTreeSet;

use super::{Claimant, Component, Identity};
use crate::facts::Labels;
use crate::facts::{Controller, PodFacts};

/// The label by which a slice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// istiod's Service; those of further revisions begin with it and a dash.
const SERVICE: &str = "istiod";

/// The endpoints of a Service, or some of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Where they are.
    pub namespace: String,
    /// Whose they are: the Service's name, where the slice tells it.
    pub service: Option<String>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it serves.
    pub ready: bool,
    /// The pod behind it; none behind an address that somebody wrote down.
    pub pod: Option<PodKey>,
}

/// A pod, as an endpoint names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl From<&PodFacts> for PodKey {
    fn from(pod: &PodFacts) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        }
    }
}

/// What stands behind an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traced {
    /// A Deployment of a trusted namespace.
    Deployment,
    /// Something else, or nothing any more.
    Other,
}

/// istiod's endpoints, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Istiod {
    /// Those that are Ready and istiod's own.
    pub ready: usize,
    /// Those that are Ready and have no pod, though istiod runs in the cluster.
    podless: usize,
    /// Those that are Ready and whose pods were not traced yet.
    untraced: usize,
    /// Those that are Ready and whose pods no Deployment made.
    foreign: usize,
    /// Whoever claims to be istiod elsewhere.
    pub strangers: BTreeSet<Claimant>,
}

impl Slice {
    /// The Service's name among a slice's labels.
    #[must_use]
    pub fn service_of(labels: &Labels) -> Option<String> {
        labels.get(SERVICE_NAME).cloned()
    }

    /// Whether they are istiod's by the Service's name.
    fn is_istiod(&self) -> bool {
        let rest = self
            .service
            .as_deref()
            .and_then(|name| name.strip_prefix(SERVICE));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

impl Identity {
    /// The slices among which istiod's are: those with its label; of an external istiod all that have a Service, since
    /// whoever wrote its addresses down need not have labelled them.
    #[must_use]
    pub fn slice_selector(&self) -> String {
        if self.external_istiod {
            SERVICE_NAME.to_owned()
        } else {
            Component::Istiod.selector()
        }
    }

    /// Whether a pod is istiod's. `set_controller` is the controller of the `ReplicaSet` that made the pod.
    #[must_use]
    pub fn trace(&self, pod: &PodFacts, set_controller: Option<&Controller>) -> Traced {
        let of_deployment = set_controller.is_some_and(|controller| controller.kind == "Deployment");
        if of_deployment && self.trusts(&pod.namespace) && super::is_made_by(pod, super::REPLICA_SET) {
            Traced::Deployment
        } else {
            Traced::Other
        }
    }

    /// Sorts endpoints. `traced` tells what stands behind a pod, `None` as long as that is not known.
    pub fn istiod<'a>(
        &self,
        slices: impl Iterator<Item = &'a Slice>,
        traced: impl Fn(&PodKey) -> Option<Traced>,
    ) -> Istiod {
        let mut istiod = Istiod::default();
        for slice in slices {
            if !self.trusts(&slice.namespace) {
                let kind = if slice.service.is_some() {
                    "Service"
                } else {
                    "EndpointSlice"
                };
                let name = slice.service.as_deref().unwrap_or("(unnamed)");
                let stranger = Claimant::new(Component::Istiod, &slice.namespace, kind, name);
                istiod.strangers.insert(stranger);
                continue;
            }
            for endpoint in slice
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.ready && slice.is_istiod())
            {
                let counter = match &endpoint.pod {
                    None if self.external_istiod => &mut istiod.ready,
                    None => &mut istiod.podless,
                    Some(pod) if pod.namespace != slice.namespace => &mut istiod.foreign,
                    Some(pod) => match traced(pod) {
                        Some(Traced::Deployment) => &mut istiod.ready,
                        Some(Traced::Other) => &mut istiod.foreign,
                        None => &mut istiod.untraced,
                    },
                };
                *counter += 1;
            }
        }
        istiod
    }

    /// The pods behind istiod's endpoints that are Ready.
    pub fn istiod_pods<'a>(
        &self,
        slices: impl Iterator<Item = &'a Slice>,
    ) -> impl Iterator<Item = &'a PodKey> {
        let own = slices.filter(|slice| self.trusts(&slice.namespace) && slice.is_istiod());
        let ready = own.flat_map(|slice| slice.endpoints.iter().filter(|endpoint| endpoint.ready));
        ready.filter_map(|endpoint| endpoint.pod.as_ref())
    }
}

impl Istiod {
    /// What is wrong with the mesh: a pod that starts now would get no identity.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if self.ready > 0 {
            return None;
        }
        let why = match self {
            Self { untraced: 1.., .. } => {
                ": whether a Deployment made the pods behind its endpoints is not known yet"
            }
            Self { podless: 1.., .. } => {
                ": its endpoints have no pods, which counts only with --external-istiod"
            }
            Self { foreign: 1.., .. } => ": no Deployment made the pods behind its endpoints",
            _ => "",
        };
        Some(format!("istiod has no ready endpoint{why}"))
    }
}
