// SPDX-License-Identifier: Apache-2.0
//! The way to a cluster, and what to say when it is barred.

mod failure;
mod istio;
mod rule;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use meshmedic_common::duration;
use meshmedic_common::kube::client::{self, ServerClock};
use meshmedic_common::kube::kubeconfig::describe;

pub(crate) use failure::{Failure, explain};
pub(crate) use istio::{Heard, Istio};

/// How many times a question is asked again that the server was too busy for.
const ATTEMPTS: u32 = 6;
/// A server that asks for more patience than this between two attempts is not believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long to wait before a question is asked again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Which cluster, and as whom; flattened into every command that talks to one.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ConnectionArgs {
    /// The kubeconfig to use [default: the cluster that this runs in, else $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The cluster of the kubeconfig, instead of the context's
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// The user of the kubeconfig, instead of the context's
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Act as this user, if you may impersonate
    #[arg(long = "as", value_name = "USER")]
    impersonate: Option<String>,
    /// How long the API server may take to answer one request; 0 waits for ever
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    request_timeout: Duration,
}

/// A cluster that can be asked.
#[derive(Clone)]
pub(crate) struct Connection {
    /// The client; it repeats nothing by itself.
    pub(crate) client: Client,
    /// The API server's time.
    pub(crate) clock: Arc<ServerClock>,
    /// The namespace of the context.
    pub(crate) namespace: String,
    /// The API server's address, for messages.
    pub(crate) server: String,
    /// Whom to take for Istio there; the charts' defaults until an agent was asked.
    pub(crate) istio: Istio,
    timeout: Option<Duration>,
}

impl ConnectionArgs {
    /// Connects. Nothing is asked of the cluster yet.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let mut config = self.config().await?;
        if let Some(user) = &self.impersonate {
            config.auth_info.impersonate = Some(user.clone());
        }
        let timeout = (!self.request_timeout.is_zero()).then_some(self.request_timeout);
        if let Some(timeout) = timeout {
            config.connect_timeout = Some(config.connect_timeout.unwrap_or(timeout).min(timeout));
        }
        let server = config.cluster_url.to_string();
        let namespace = config.default_namespace.clone();
        let acting = client::acting(config)
            .map_err(|error| explain(&error, &server).context("the credentials cannot be used"))?;
        Ok(Connection {
            client: acting.client,
            clock: acting.clock,
            namespace,
            server,
            istio: Istio::default(),
            timeout,
        })
    }

    /// The contexts that one may choose from; none where no kubeconfig can be read.
    pub(crate) fn contexts(&self) -> Vec<String> {
        let file = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let contexts = file.map(|file| file.contexts).unwrap_or_default();
        contexts.into_iter().map(|named| named.name).collect()
    }

    /// The given file; else as a pod does; else as kubectl does.
    async fn config(&self) -> anyhow::Result<Config> {
        if let Some(path) = &self.kubeconfig {
            let file = Kubeconfig::read_from(path).map_err(|error| unreadable(&error, Some(path)))?;
            return self.choose(file, &format!("{}", path.display())).await;
        }
        // Whoever names a part of a kubeconfig does not mean the cluster around this pod.
        let chosen = self.context.is_some() || self.cluster.is_some() || self.user.is_some();
        if !chosen && let Ok(config) = Config::incluster() {
            return Ok(config);
        }
        let file = Kubeconfig::read().map_err(|error| unreadable(&error, None))?;
        self.choose(file, "the kubeconfig").await
    }

    async fn choose(&self, file: Kubeconfig, place: &str) -> anyhow::Result<Config> {
        let contexts: Vec<&str> = file.contexts.iter().map(|named| named.name.as_str()).collect();
        let clusters: Vec<&str> = file.clusters.iter().map(|named| named.name.as_str()).collect();
        let users: Vec<&str> = file.auth_infos.iter().map(|named| named.name.as_str()).collect();
        for (flag, chosen, known) in [
            ("context", &self.context, &contexts),
            ("cluster", &self.cluster, &clusters),
            ("user", &self.user, &users),
        ] {
            if let Some(name) = chosen
                && !known.contains(&name.as_str())
            {
                bail!(
                    "{place} has no {flag} {name:?} (--{flag}); it has {}",
                    listed(known)
                );
            }
        }
        let known = listed(&contexts);
        let options = KubeConfigOptions {
            context: self.context.clone(),
            cluster: self.cluster.clone(),
            user: self.user.clone(),
        };
        let config = Config::from_custom_kubeconfig(file, &options).await;
        config.map_err(|error| match error {
            KubeconfigError::CurrentContextNotSet => anyhow!(
                "{place} names no current context: choose one with --context (it has {known}), or with `kubectl config \
                 use-context`"
            ),
            KubeconfigError::LoadContext(name) => {
                anyhow!("{place} has no context {name:?}: choose one with --context; it has {known}")
            }
            KubeconfigError::LoadClusterOfContext(name) => {
                anyhow!("{place} has no cluster {name:?}, which its context asks for: choose one with --cluster")
            }
            error => anyhow!("{place} cannot be used: {}", describe(&error)),
        })
    }
}

/// Names for a message.
fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn unreadable(error: &KubeconfigError, path: Option<&Path>) -> anyhow::Error {
    match (error, path) {
        (KubeconfigError::ReadConfig(cause, _), Some(path)) => {
            anyhow!("--kubeconfig {}: {cause}", path.display())
        }
        (error, Some(path)) => anyhow!("--kubeconfig {}: {}", path.display(), describe(error)),
        (KubeconfigError::ReadConfig(cause, path), None) => anyhow!(
            "no kubeconfig: {}: {cause}. Name one with --kubeconfig FILE, or in KUBECONFIG",
            path.display()
        ),
        (KubeconfigError::FindPath, None) => {
            anyhow!(
                "no kubeconfig: there is no home directory. Name one with --kubeconfig FILE, or in KUBECONFIG"
            )
        }
        (error, None) => anyhow!("the kubeconfig cannot be read: {}", describe(error)),
    }
}

impl Connection {
    /// Asks one question, within the time for a request. A server that is too busy is asked again, which only
    /// questions may be: `ask` must change nothing.
    pub(crate) async fn ask<T, F>(&self, what: &str, ask: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, kube::Error>>,
    {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let result = match self.timeout {
                None => ask().await,
                Some(timeout) => match tokio::time::timeout(timeout, ask()).await {
                    Ok(result) => result,
                    Err(_) => return Err(Failure::silent(what, &self.server, timeout)),
                },
            };
            match result {
                Ok(answer) => return Ok(answer),
                Err(kube::Error::Api(status)) if attempt < ATTEMPTS && failure::is_busy(&status) => {
                    let asked = status
                        .details
                        .as_ref()
                        .map_or(0, |details| details.retry_after_seconds);
                    let asked = Duration::from_secs(asked.into());
                    tokio::time::sleep(asked.max(pause).min(LONGEST_PAUSE)).await;
                    pause *= 2;
                }
                Err(error) => return Err(Failure::new(what, &self.server, error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// The same for an act, which is never repeated.
    pub(crate) async fn act<T, F>(&self, what: &str, act: F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, kube::Error>>,
    {
        let result = match self.timeout {
            None => act.await,
            Some(timeout) => match tokio::time::timeout(timeout, act).await {
                Ok(result) => result,
                Err(_) => return Err(Failure::silent(what, &self.server, timeout)),
            },
        };
        result.map_err(|error| Failure::new(what, &self.server, error))
    }
}

/// A runtime for a command that talks to a cluster.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime: too few file descriptors or processes allowed?")
}
