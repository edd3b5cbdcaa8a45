// SPDX-License-Identifier: Apache-2.0
//! What this agent's ServiceAccount may do, in the API server's own word.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::ResourceAttributes;
use kube::Client;
use meshmedic_common::kube::acts::describe;
use meshmedic_common::kube::rights::may;

/// What a proof needs: to follow the records, and to write into one.
const VERBS: [&str; 4] = ["list", "watch", "get", "update"];
/// While the API does not answer it is asked again after this.
const AGAIN: Duration = Duration::from_secs(30);

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
