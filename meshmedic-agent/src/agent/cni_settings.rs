// SPDX-License-Identifier: Apache-2.0
//! Whom istio-cni enrols: its ConfigMap, read when another istio-cni came up, as it does itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use meshmedic_common::eligibility::Enablement;
use tokio::task::JoinSet;

use crate::cluster::Cni;

use meshmedic_common::kube::acts::describe;
use meshmedic_common::kube::facts::CNI_CONFIG;

/// After it could not be read, it is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// What the ConfigMap says: `None` where there is none, or why it cannot be read.
pub(super) type Read = Result<Option<BTreeMap<String, String>>, String>;

/// Reads the ConfigMap when it must be.
pub(super) struct CniSettings {
    client: Client,
    cnis: BTreeSet<Cni>,
    reading: JoinSet<Read>,
    last_failure: Option<String>,
}

impl CniSettings {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            cnis: BTreeSet::new(),
            reading: JoinSet::new(),
            last_failure: None,
        }
    }

    /// Takes the istio-cni of this node. Where two namespaces have one neither's settings hold, and the defaults stand in
    /// from now on.
    pub(super) fn refresh(&mut self, cnis: impl Iterator<Item = Cni>) -> Option<Enablement> {
        let cnis: BTreeSet<Cni> = cnis.collect();
        if cnis == self.cnis {
            return None;
        }
        self.cnis = cnis;
        self.read_after(Duration::ZERO);
        (self.places().len() > 1).then(Enablement::guessed)
    }

    fn places(&self) -> BTreeSet<&str> {
        self.cnis.iter().map(|cni| cni.namespace.as_str()).collect()
    }

    fn read_after(&mut self, wait: Duration) {
        self.reading.abort_all();
        let places = self.places();
        let (Some(namespace), 1) = (places.first(), places.len()) else {
            return;
        };
        let configs: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        self.reading.spawn(async move {
            tokio::time::sleep(wait).await;
            let read = configs.get_opt(CNI_CONFIG).await;
            read.map(|config| config.map(|config| config.data.unwrap_or_default()))
                .map_err(|error| describe(&error))
        });
    }

    /// The next result; never, while nothing is being read.
    pub(super) async fn next(&mut self) -> Read {
        loop {
            match self.reading.join_next().await {
                Some(Ok(read)) => return read,
                // A reading that was given up for a newer one.
                Some(Err(_)) => {}
                None => return std::future::pending().await,
            }
        }
    }

    /// What follows from a result. Where istio-cni's own words cannot be had the defaults stand in, and no pod
    /// is repaired that they decide about.
    pub(super) fn take(&mut self, read: Read) -> Enablement {
        if self.places().len() > 1 {
            return Enablement::guessed();
        }
        let understood = match read {
            Ok(Some(config)) => Enablement::from_config(&config).map_err(|error| error.to_string()),
            // An older istio-cni, which has no such settings.
            Ok(None) => Ok(Enablement::default()),
            Err(error) => Err(error),
        };
        match understood {
            Ok(enablement) => {
                self.last_failure = None;
                enablement
            }
            Err(error) => {
                if self.last_failure.as_ref() != Some(&error) {
                    tracing::warn!(
                        config_map = CNI_CONFIG,
                        %error,
                        "istio-cni's settings cannot be read: Istio's defaults stand in, and nothing is repaired by them"
                    );
                    self.last_failure = Some(error);
                }
                self.read_after(AGAIN);
                Enablement::guessed()
            }
        }
    }
}
