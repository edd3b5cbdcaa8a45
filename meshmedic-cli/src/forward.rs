// SPDX-License-Identifier: Apache-2.0
//! Asking something that listens inside a pod, through a port that the API server forwards.

use std::io;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::sync::mpsc;

use crate::connection::Connection;

/// A port of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodPort<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    pub(crate) port: u16,
}

/// Parts of an answer that wait to be read.
const WAITING: usize = 16;

/// What it answers to `GET path`, if that is no longer than so many bytes.
pub(crate) async fn get(
    connection: &Connection,
    at: PodPort<'_>,
    path: &str,
    most: usize,
) -> anyhow::Result<Bytes> {
    exchange(connection, at, path, async |response| {
        let status = response.status();
        let body = Limited::new(response.into_body(), most).collect().await;
        let body = body
            .map_err(|error| anyhow::anyhow!("its answer broke off: {error}"))?
            .to_bytes();
        // An agent says in the body what is wrong; of others the status is all that counts.
        anyhow::ensure!(
            status.is_success() || body.starts_with(b"{"),
            "{path} is answered with {status}"
        );
        Ok(body)
    })
    .await
}

/// What `read` makes of the answer to `GET path` while it comes, up to so many bytes. No more of it is in memory than
/// `read` keeps, and what waits for it.
pub(crate) async fn stream<T: Send + 'static>(
    connection: &Connection,
    at: PodPort<'_>,
    path: &str,
    most: usize,
    read: impl FnOnce(&mut Body) -> T + Send + 'static,
) -> anyhow::Result<T> {
    exchange(connection, at, path, async |response| {
        let status = response.status();
        anyhow::ensure!(status.is_success(), "{path} is answered with {status}");
        let (parts, waiting) = mpsc::channel(WAITING);
        let reading = tokio::task::spawn_blocking(move || read(&mut Body::new(waiting)));
        let mut body = Limited::new(response.into_body(), most);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| anyhow::anyhow!("its answer broke off: {error}"))?;
            // A reader that has read enough is gone.
            if let Ok(part) = frame.into_data()
                && parts.send(part).await.is_err()
            {
                break;
            }
        }
        drop(parts);
        Ok(reading.await?)
    })
    .await
}

/// The body of an answer while it comes.
pub(crate) struct Body {
    parts: mpsc::Receiver<Bytes>,
    part: Bytes,
}

impl Body {
    fn new(parts: mpsc::Receiver<Bytes>) -> Self {
        Self {
            parts,
            part: Bytes::new(),
        }
    }
}

impl io::Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.part = part,
                None => return Ok(0),
            }
        }
        let count = into.len().min(self.part.len());
        let (now, _) = into.split_at_mut(count);
        now.copy_from_slice(&self.part.split_to(count));
        Ok(count)
    }
}

async fn exchange<T>(
    connection: &Connection,
    at: PodPort<'_>,
    path: &str,
    take: impl AsyncFnOnce(Response<Incoming>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
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
        take(response).await
    };
    tokio::pin!(connected, refused, answer);
    let answer = tokio::select! {
        answer = &mut answer => answer?,
        Some(words) = &mut refused => anyhow::bail!("port {port} is not served: {words}"),
        // It ends with the answer, which is then there to be read.
        _ = &mut connected => answer.await?,
    };
    forwarder.abort();
    Ok(answer)
}
