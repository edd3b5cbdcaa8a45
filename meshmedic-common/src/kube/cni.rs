// SPDX-License-Identifier: Apache-2.0
//! istio-cni's settings, read just before something hangs on them.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};

use super::facts::CNI_CONFIG;
use crate::eligibility::Enablement;

/// Whom a node's istio-cni enrols, by its settings of this moment; `places` are the namespaces in which the node has one,
/// and `None` is for a node that has none. What cannot be read, or is said in two places, is a guess, by which nothing is
/// repaired.
pub async fn settings(client: &Client, places: &BTreeSet<&str>) -> Option<Enablement> {
    let place = places.first()?;
    if places.len() > 1 {
        return Some(Enablement::guessed());
    }
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), place);
    Some(match configs.get_opt(CNI_CONFIG).await {
        Ok(Some(config)) => Enablement::from_config(&config.data.unwrap_or_default())
            .unwrap_or_else(|_| Enablement::guessed()),
        // An older istio-cni, which has no such settings.
        Ok(None) => Enablement::default(),
        Err(_) => Enablement::guessed(),
    })
}
