// SPDX-License-Identifier: Apache-2.0
//! Carries out what the healer asks for: each request once, each within a time limit.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::eligibility::Enablement;
use crate::identity::{Component, Identity};
use crate::kube::acted::{Acted, Target};
use crate::kube::acts::describe;
use crate::kube::facts::{NamespaceFacts, pod_facts, resource_version, standing};
use crate::kube::toggle::RestoreError;
use crate::kube::{cni, rights, toggle};
use crate::repair::PodRef;
use crate::repair::heal::{Answer, Asked, Fetched, LATELY, Request, SAMPLE, Sample};
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::ResourceAttributes;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client};

/// A request that takes longer than this failed, as far as we can tell.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// What a pod's standing hangs on besides the pod, as the watches show it.
#[derive(Clone, Debug)]
pub struct Around {
    /// Whom istio-cni enrols; it stands in where the node has no istio-cni.
    pub enablement: Enablement,
    /// The namespaces in which the node has an istio-cni, whose settings are read again before an ask.
    pub cnis: BTreeSet<String>,
    /// The pod's namespace, where it is known.
    pub namespace: Option<NamespaceFacts>,
}

/// What carries out the healer's requests.
#[derive(Clone)]
pub struct Heals {
    client: Client,
}

impl Heals {
    /// The client must not retry by itself.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Carries out one request.
    pub async fn perform(&self, request: Request, around: &Around) -> Answer {
        match request {
            Request::Fetch(pod) => {
                let fetched = within(self.fetch(&pod, around)).await.and_then(|fetched| fetched);
                Answer::Fetched(fetched.map(|found| found.map(|(fetched, _)| fetched)))
            }
            Request::Ask { pod, version, ask } => {
                let target = Target::from(&pod);
                let asked = within(super::ask(&self.client, &target, &version, &ask)).await;
                Answer::Asked(asked.unwrap_or_else(Asked::InDoubt))
            }
            Request::TakeOut(pod) => {
                let taken = within(self.take_out(&pod, around)).await;
                Answer::TakenOut(taken.and_then(|taken| taken))
            }
            Request::PutBack(pod) => {
                let put = within(self.put_back(&pod)).await;
                Answer::PutBack(put.and_then(|put| put))
            }
        }
    }

    /// The pod, and whom its node's istio-cni enrols by its settings of this moment.
    async fn fetch(
        &self,
        pod: &PodRef,
        around: &Around,
    ) -> Result<Option<(Box<Fetched>, Enablement)>, String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let places = around.cnis.iter().map(String::as_str).collect();
        let (found, settings) = tokio::join!(pods.get_opt(&pod.name), cni::settings(&self.client, &places));
        let Some(found) = found.map_err(|error| describe(&error))? else {
            return Ok(None);
        };
        let facts = pod_facts(&found);
        if facts.uid != pod.uid {
            return Ok(None);
        }
        let enablement = settings.unwrap_or_else(|| around.enablement.clone());
        let standing = standing(facts, around.namespace.as_ref(), &enablement);
        let version = resource_version(&found.metadata).to_owned();
        let fetched = Box::new(Fetched { standing, version });
        Ok(Some((fetched, enablement)))
    }

    /// The first half of a toggle: out of the mesh. What it leaves is put back once ztunnel is proved to serve.
    async fn take_out(&self, pod: &PodRef, around: &Around) -> Result<(), String> {
        let Some((fetched, enablement)) = self.fetch(pod, around).await? else {
            return Ok(());
        };
        let labels = around.namespace.as_ref().map(|known| &known.labels);
        let labels = labels.ok_or_else(|| "the labels of its namespace are not known".to_owned())?;
        let patch = toggle::plan_begin(&fetched.standing, &pod.uid, &fetched.version, &enablement, labels);
        let patch = patch.map_err(|why| why.sentence().to_owned())?;
        let applied = toggle::apply(&self.client, &patch, false).await;
        applied.map(drop).map_err(|acted| acted.to_string())
    }

    /// The second half. A pod that is gone needs nothing.
    async fn put_back(&self, pod: &PodRef) -> Result<(), String> {
        match toggle::restore(&self.client, &pod.into()).await {
            Ok(_) | Err(RestoreError::Api(Acted::Gone | Acted::OtherPod)) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// How many nodes there are, and how young a few of the ztunnels in this namespace are; `None` where the API does
    /// not say. Two short lists: thousands of agents may look at the same time.
    pub async fn sample(&self, namespace: &str, identity: &Identity, now: Timestamp) -> Option<Sample> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let ztunnels: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let (first, few) = (
            ListParams::default().limit(1),
            ListParams::default()
                .labels(&Component::Ztunnel.selector())
                .limit(SAMPLE),
        );
        let lists = async { tokio::try_join!(nodes.list_metadata(&first), ztunnels.list(&few)) };
        let (nodes, pods) = within(lists).await.ok()?.ok()?;
        let others = u32::try_from(nodes.metadata.remaining_item_count.unwrap_or(0)).ok()?;
        let listed = u32::try_from(nodes.items.len()).ok()?;
        let pods = pods.items.iter().map(pod_facts);
        let ages = pods
            .filter(|pod| identity.proves(pod, Component::Ztunnel))
            .map(|pod| {
                let since = pod.ready_since.filter(|_| pod.ready);
                since.is_none_or(|since| now.duration_since(since).unsigned_abs() < LATELY)
            });
        let (seen, young) = ages.fold((0, 0), |(seen, young), is| (seen + 1, young + u32::from(is)));
        (seen > 0).then_some(Sample {
            nodes: listed.saturating_add(others),
            seen,
            young,
        })
    }

    /// Whether the API lets us ask in a namespace; `None` where it does not say.
    pub async fn permitted(&self, namespace: &str) -> Option<Result<(), String>> {
        let what = ResourceAttributes {
            namespace: Some(namespace.to_owned()),
            verb: Some("patch".to_owned()),
            resource: Some("pods".to_owned()),
            subresource: Some("status".to_owned()),
            ..ResourceAttributes::default()
        };
        let allowed = within(rights::may(&self.client, what)).await.ok()?.ok()??;
        let missing = || "there is no right to pods/status: patch there".to_owned();
        Some(if allowed { Ok(()) } else { Err(missing()) })
    }
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(TIME_LIMIT, work)
        .await
        .map_err(|_| format!("the API did not answer within {}s", TIME_LIMIT.as_secs()))
}
