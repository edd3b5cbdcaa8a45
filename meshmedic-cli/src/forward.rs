// SPDX-License-Identifier: Apache-2.0
//! Asking something that listens inside a pod, through a port that the API server forwards.

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use crate::connection::Connection;

/// A port of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodPort<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    pub(crate) port: u16,
}

/// What it answers to `GET path`, if that is no longer than so many bytes.
pub(crate) async fn get(
    connection: &Connection,
    at: PodPort<'_>,
    path: &str,
    most: usize,
) -> anyhow::Result<Bytes> {
    let PodPort { namespace, pod, port } = at;
    let pods: Api<Pod> = Api::namespaced(connection.client.clone(), namespace);
    let ports = [port];
    let mut forwarder = connection
        .ask("port-forward", || pods.portforward(pod, &ports))
        .await
        .map_err(anyhow::Error::new)?;
    let stream = forwarder.take_stream(port).context("no stream was forwarded")?;
    let refused = forwarder.take_error(port).context("no stream was forwarded")?;
    let (mut sender, connected) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await.context("it does not answer")?;
        let status = response.status();
        let body = Limited::new(response.into_body(), most).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("its answer broke off: {error}"))?;
        anyhow::Ok((status, body.to_bytes()))
    };
    tokio::pin!(connected, refused, answer);
    let (status, body) = tokio::select! {
        answer = &mut answer => answer?,
        Some(words) = &mut refused => anyhow::bail!("port {port} is not served: {words}"),
        // It ends with the answer, which is then there to be read.
        _ = &mut connected => answer.await?,
    };
    forwarder.abort();
    // An agent says in the body what is wrong; of others the status is all that counts.
    anyhow::ensure!(
        status.is_success() || body.starts_with(b"{"),
        "{path} is answered with {status}"
    );
    Ok(body)
}
