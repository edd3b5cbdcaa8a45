// SPDX-License-Identifier: Apache-2.0
//! What many tests need.

use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, AttachedProcess};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use meshmedic_lab::ApiServer;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

/// How long what must happen may take.
pub(crate) const SOON: Duration = Duration::from_secs(30);
pub(crate) const CAT: [&str; 3] = ["cat", "/proc/net/tcp", "/proc/net/tcp6"];

/// A client that reads a kubeconfig, as the command does.
pub(crate) async fn client(kubeconfig: &Path) -> Client {
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let mut config = config.unwrap();
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// A server with a namespace, and the pods of that namespace.
pub(crate) async fn start() -> (ApiServer, Api<Pod>) {
    let api = ApiServer::start().unwrap();
    space(&api, "shop", &json!({}));
    let pods = Api::namespaced(client(api.kubeconfig()).await, "shop");
    (api, pods)
}

pub(crate) fn space(api: &ApiServer, name: &str, labels: &Value) {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": name, "labels": labels },
    });
    api.create(&namespace).unwrap();
}

/// Makes a running pod with these containers.
pub(crate) fn pod(api: &ApiServer, namespace: &str, name: &str, containers: &[&str]) -> Value {
    let containers: Vec<_> = containers
        .iter()
        .map(|name| json!({ "name": name, "image": "cart:1" }))
        .collect();
    let made = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "nodeName": "node-a", "containers": containers },
    });
    let mut made = api.create(&made).unwrap();
    made["status"] = json!({ "phase": "Running" });
    api.update_status(&made).unwrap()
}

/// What a command put out, and how the API server said that it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) status: Option<Status>,
}

impl Ran {
    pub(crate) async fn of(mut process: AttachedProcess) -> Self {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (mut out, mut err) = (process.stdout().unwrap(), process.stderr().unwrap());
        let mut status = Box::pin(process.take_status().unwrap());
        let ended = {
            let reading = async { tokio::join!(out.read_to_end(&mut stdout), err.read_to_end(&mut stderr)) };
            let mut reading = Box::pin(reading);
            tokio::select! {
                biased;
                _ = &mut reading => status.await,
                status = &mut status => {
                    // Where the connection was lost, the client's streams have no end: only what is there is read.
                    match &status {
                        Some(_) => drop(reading.await),
                        None => drop(reading.now_or_never()),
                    }
                    status
                }
            }
        };
        Self {
            stdout,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            status: ended,
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn message(&self) -> String {
        let status = self.status.as_ref().unwrap();
        status.message.clone().unwrap_or_default()
    }

    /// The exit code that the status gives.
    pub(crate) fn code(&self) -> Option<i32> {
        let status = self.status.as_ref().unwrap();
        if status.status.as_deref() == Some("Success") {
            return Some(0);
        }
        assert_eq!(status.status.as_deref(), Some("Failure"));
        let causes = status.details.as_ref()?.causes.as_ref()?;
        let cause = causes
            .iter()
            .find(|cause| cause.reason.as_deref() == Some("ExitCode"))?;
        cause.message.as_ref()?.parse().ok()
    }
}

/// Runs a command in a container.
pub(crate) async fn run(pods: &Api<Pod>, pod: &str, container: Option<&str>, command: &[&str]) -> Ran {
    let parameters = AttachParams {
        container: container.map(str::to_owned),
        ..AttachParams::default()
    };
    let process = pods.exec(pod, command.iter().copied(), &parameters).await;
    Ran::of(process.unwrap()).await
}

/// The code and message of a refusal.
#[track_caller]
pub(crate) fn refusal<T>(result: kube::Result<T>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.message),
        Err(error) => panic!("no refusal: {error:?}"),
        Ok(_) => panic!("no refusal"),
    }
}
