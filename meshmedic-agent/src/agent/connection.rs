// SPDX-License-Identifier: Apache-2.0
//! The way to the API.

use std::path::Path;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use meshmedic_common::kube::client::{self, Acting};
use meshmedic_common::kube::kubeconfig::describe;

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
                AgentError::Connection(format!(
                    "{in_cluster}; and by kubeconfig: {}",
                    describe(&elsewhere)
                ))
            })?,
        },
    };
    client::acting(config).map_err(|error| AgentError::Connection(error.to_string()))
}

/// Whether the kubeconfig by which [`connect`] will connect runs a program to get credentials. One that cannot be read
/// runs none.
pub(super) fn runs_programs(kubeconfig: Option<&Path>) -> bool {
    let file = match kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None if Config::incluster().is_ok() => return false,
        None => Kubeconfig::read(),
    };
    let users = file.map(|file| file.auth_infos).unwrap_or_default();
    users
        .into_iter()
        .filter_map(|user| user.auth_info)
        .any(|user| user.exec.is_some() || user.auth_provider.is_some())
}

fn named(path: &Path, error: &kube::config::KubeconfigError) -> AgentError {
    AgentError::Connection(format!("--kubeconfig {}: {}", path.display(), describe(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_that_runs_a_program_is_known_by_its_user() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kubeconfig");
        let runs = |user: &str| {
            let text = format!("apiVersion: v1\nkind: Config\nusers:\n- name: me\n  user: {user}\n");
            std::fs::write(&file, text).unwrap();
            runs_programs(Some(&file))
        };
        assert!(runs(
            "{exec: {apiVersion: client.authentication.k8s.io/v1, command: aws, args: []}}"
        ));
        assert!(runs("{auth-provider: {name: gcp, config: {}}}"));
        assert!(!runs("{token: abc}"));
        assert!(!runs("nonsense ["));
        assert!(!runs_programs(Some(&folder.path().join("missing"))));
    }
}
