// SPDX-License-Identifier: Apache-2.0
//! What this agent's ServiceAccount may do, in the API server's own word.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use meshmedic_common::kube::acts::describe;

/// What a proof needs: to follow the records, and to write into one.
const VERBS: [&str; 4] = ["list", "watch", "get", "update"];
/// While the API does not answer it is asked again after this.
const AGAIN: Duration = Duration::from_secs(30);

/// Whether the API lets us do this, if it says so.
pub(super) async fn may(client: &Client, what: ResourceAttributes) -> kube::Result<Option<bool>> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(what),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let answer = api.create(&PostParams::default(), &review).await?;
    Ok(answer.status.map(|status| status.allowed))
}

/// Whether the agents' records may be followed and written in this namespace. Asks until there is an answer.
pub(super) async fn on_leases(client: &Client, namespace: &str) -> bool {
    for verb in VERBS {
        let what = ResourceAttributes {
            group: Some("coordination.k8s.io".to_owned()),
            resource: Some("leases".to_owned()),
            namespace: Some(namespace.to_owned()),
            verb: Some(verb.to_owned()),
            ..ResourceAttributes::default()
        };
        let allowed = loop {
            match may(client, what.clone()).await {
                Ok(allowed) => break allowed == Some(true),
                Err(error) => {
                    tracing::debug!("asking for the right to {verb} Leases: {}", describe(&error));
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        if !allowed {
            return false;
        }
    }
    true
}
