// SPDX-License-Identifier: Apache-2.0
//! The way to the API.

use std::path::Path;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use meshmedic_common::kube::client::{self, Acting};

use super::AgentError;

/// Connects by the given file; else as a pod does; else as kubectl does.
pub(super) async fn connect(kubeconfig: Option<&Path>) -> Result<Acting, AgentError> {
    let options = KubeConfigOptions::default();
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| named(path, &error))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|error| named(path, &error))?
        }
        None => match Config::incluster() {
            Ok(config) => config,
            Err(in_cluster) => Config::from_kubeconfig(&options).await.map_err(|elsewhere| {
                AgentError::Connection(format!("{in_cluster}; and by kubeconfig: {elsewhere}"))
            })?,
        },
    };
    client::acting(config).map_err(|error| AgentError::Connection(error.to_string()))
}

fn named(path: &Path, error: &kube::config::KubeconfigError) -> AgentError {
    AgentError::Connection(format!("--kubeconfig {}: {error}", path.display()))
}
