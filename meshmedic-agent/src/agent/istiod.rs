// SPDX-License-Identifier: Apache-2.0
//! Who stands behind istiod's endpoints: each pod is traced to its Deployment once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::Client;
use meshmedic_common::identity::{Identity, PodKey, Traced};
use meshmedic_common::kube::identity::trace;
use tokio::task::JoinSet;

use meshmedic_common::kube::acts::describe;

/// After a pod could not be traced, it is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// Traces pods beside the loop.
pub(super) struct Tracing {
    client: Client,
    identity: Identity,
    known: BTreeMap<PodKey, Traced>,
    under_way: BTreeSet<PodKey>,
    asking: JoinSet<(PodKey, Result<Traced, String>)>,
    last_failure: Option<String>,
}

impl Tracing {
    pub(super) fn new(client: Client, identity: Identity) -> Self {
        Self {
            client,
            identity,
            known: BTreeMap::new(),
            under_way: BTreeSet::new(),
            asking: JoinSet::new(),
            last_failure: None,
        }
    }

    /// Takes the pods behind istiod's endpoints, and begins to trace those that are new.
    pub(super) fn refresh(&mut self, pods: &BTreeSet<PodKey>) {
        self.known.retain(|pod, _| pods.contains(pod));
        for pod in pods {
            if !self.known.contains_key(pod) && self.under_way.insert(pod.clone()) {
                self.ask(pod.clone(), Duration::ZERO);
            }
        }
    }

    fn ask(&mut self, pod: PodKey, wait: Duration) {
        let (client, identity) = (self.client.clone(), self.identity.clone());
        self.asking.spawn(async move {
            tokio::time::sleep(wait).await;
            let traced = trace(&client, &identity, &pod).await;
            let traced = traced.map_err(|error| describe(&error));
            (pod, traced)
        });
    }

    /// Waits until one more pod was traced, or could not be; never comes back while none is asked for.
    pub(super) async fn next(&mut self) -> Found {
        match self.asking.join_next().await {
            Some(Ok((pod, traced))) => Found { pod, traced },
            // None is ever given up or panics.
            Some(Err(error)) => panic!("tracing istiod's pods failed to run: {error}"),
            None => std::future::pending().await,
        }
    }

    /// Everything that is known after this. `wanted` are the pods behind istiod's endpoints now.
    pub(super) fn take(&mut self, found: Found, wanted: &BTreeSet<PodKey>) -> BTreeMap<PodKey, Traced> {
        let Found { pod, traced } = found;
        match traced {
            Ok(traced) => {
                self.under_way.remove(&pod);
                self.last_failure = None;
                if wanted.contains(&pod) {
                    self.known.insert(pod, traced);
                }
            }
            Err(_) if !wanted.contains(&pod) => drop(self.under_way.remove(&pod)),
            Err(error) => {
                if self.last_failure.as_ref() != Some(&error) {
                    tracing::warn!(
                        namespace = pod.namespace,
                        pod = pod.name,
                        error,
                        "whether a Deployment made istiod's pod cannot be found out: it counts for nothing, and trying \
                         again"
                    );
                    self.last_failure = Some(error);
                }
                self.ask(pod, AGAIN);
            }
        }
        self.known.clone()
    }
}

/// What came of tracing one pod.
pub(super) struct Found {
    pod: PodKey,
    traced: Result<Traced, String>,
}
