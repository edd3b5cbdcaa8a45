// SPDX-License-Identifier: Apache-2.0
//! Changes of one pod through its status, by a merge patch that fails if the pod is another or has changed.
//!
//! The subresource lets labels and annotations be changed and leaves the spec alone, so no right to write pods is needed.

use http::Request;
use http::header::CONTENT_TYPE;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, Error};
use serde_json::Value;

use super::acted::{Acted, Target, classify};
use super::evict::check;
use super::send::send;

const MERGE_PATCH: &str = "application/merge-patch+json";
/// How the API server's records of who set which field know us.
const FIELD_MANAGER: &str = "meshmedic";
/// How often a change is planned anew because the pod changed under it. istio-cni and the kubelet write pods, too.
pub(super) const TRIES: u32 = 5;

/// A change. Both preconditions stand in what is sent, and `null` removes what may be missing already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    pub(super) target: Target,
    pub(super) body: Value,
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotChanged<E> {
    /// It is not to be made of this pod.
    Unfit(E),
    /// The pod could not be looked at, so nothing was done.
    Fetch(String),
    /// The API did not do it.
    Api(Acted),
}

impl Patch {
    /// The request; a dry run changes nothing.
    pub(super) fn request(&self, dry_run: bool) -> Result<Request<Vec<u8>>, Acted> {
        check(&self.target)?;
        let Target { namespace, name, .. } = &self.target;
        let dry_run = if dry_run { "&dryRun=All" } else { "" };
        let uri = format!(
            "/api/v1/namespaces/{namespace}/pods/{name}/status?fieldManager={FIELD_MANAGER}{dry_run}"
        );
        Request::patch(uri)
            .header(CONTENT_TYPE, MERGE_PATCH)
            .body(self.body.to_string().into_bytes())
            .map_err(|error| classify(&Error::HttpError(error), true))
    }
}

/// Sends a change; gives the pod as it is then.
pub async fn apply(client: &Client, patch: &Patch, dry_run: bool) -> Result<Box<Pod>, Acted> {
    let request = patch.request(dry_run)?;
    let body = send(client, request)
        .await
        .map_err(|error| classify(&error, true))?;
    let pod: Box<Pod> =
        serde_json::from_slice(&body).map_err(|error| classify(&Error::SerdeError(error), true))?;
    // Anything shaped like an object would do for a pod, also what a proxy says.
    if pod.metadata.uid.as_deref() == Some(&patch.target.uid) {
        Ok(pod)
    } else {
        Err(Acted::InDoubt {
            message: "the answer to the patch is another object".to_owned(),
        })
    }
}

/// Plans a change of the pod as it is and sends it, and does both again where the pod changed meanwhile. False where
/// nothing is to be changed.
pub async fn change<E>(
    client: &Client,
    target: &Target,
    plan: impl Fn(&Pod) -> Result<Option<Patch>, E>,
) -> Result<bool, NotChanged<E>> {
    check(target).map_err(|unfit| NotChanged::Api(unfit.into()))?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &target.namespace);
    let mut acted = Acted::Changed;
    for _ in 0..TRIES {
        let pod = pods
            .get(&target.name)
            .await
            .map_err(|error| not_fetched(&error))?;
        if pod.metadata.uid.as_deref() != Some(&target.uid) {
            return Err(NotChanged::Api(Acted::OtherPod));
        }
        let Some(patch) = plan(&pod).map_err(NotChanged::Unfit)? else {
            return Ok(false);
        };
        match apply(client, &patch, false).await {
            Ok(_) => return Ok(true),
            // Nothing is lost by asking again: the next look shows whether an answer that got lost was a yes.
            Err(failed @ (Acted::Changed | Acted::InDoubt { .. })) => acted = failed,
            Err(failed) => return Err(NotChanged::Api(failed)),
        }
    }
    Err(NotChanged::Api(acted))
}

fn not_fetched<E>(error: &Error) -> NotChanged<E> {
    match classify(error, true) {
        Acted::InDoubt { message } => NotChanged::Fetch(message),
        other => NotChanged::Api(other),
    }
}
