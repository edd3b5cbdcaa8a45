// SPDX-License-Identifier: Apache-2.0
//! The listeners: one for scrapers and the kubelet, one on loopback for people.
//!
//! Anybody who reaches the node may connect to the first one. So everything is bounded: the size of a
//! request, the time of a connection, their number, and the number from one address; and when all places are taken a
//! newcomer takes the place of the greediest, so that no flood keeps the kubelet out. They run on a thread of their
//! own, and the agent's loop never waits for them.

mod crowd;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::thread::JoinHandle;
use std::time::Duration;

use http::header::HOST;
use http::{HeaderMap, Method, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::board::Status;
use super::listen::ListenAddr;
use super::reach;
use super::routes::{Endpoint, misdirected, reached, respond};
use crowd::{Crowd, Place};

/// Where to listen; `None` for not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// `/metrics`, `/healthz` and `/readyz`.
    pub metrics: Option<ListenAddr>,
    /// `/v1/node` and `/v1/pods/<namespace>/<name>`; on loopback only.
    pub status: Option<ListenAddr>,
}

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be had.
    #[error("cannot listen on {address} ({flag}): {source}. {}", remedy(.source))]
    Bind {
        /// The flag that chose the address.
        flag: &'static str,
        /// The address.
        address: ListenAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Anybody could read it.
    #[error(
        "--status-addr {0} is no loopback address: what it serves is guarded by nothing but port-forward; write for \
         example 127.0.0.1:9101"
    )]
    NotLoopback(ListenAddr),
    /// No thread or runtime can be had.
    #[error("cannot start the thread of the endpoints: {0}. Too few processes or file descriptors allowed?")]
    Thread(#[source] io::Error),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "Another process, perhaps another agent, listens there: choose another address, or none to turn it off"
        }
        io::ErrorKind::PermissionDenied => "Choose a port from 1024 on, or none to turn it off",
        _ => "Choose an address of this machine, or none to turn it off",
    }
}

/// How much is put up with.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// A request must be complete by then.
    request: Duration,
    /// A connection, with one request each, lasts no longer.
    connection: Duration,
    /// Connections at once.
    connections: usize,
    /// Connections at once from one address.
    per_peer: usize,
}

const LIMITS: Limits = Limits {
    request: Duration::from_secs(5),
    connection: Duration::from_secs(15),
    connections: 64,
    per_peer: 16,
};

/// The longest head of a request, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;
/// After a failure to accept, mostly for want of file descriptors, wait until some may be free.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);
/// At the end, answers that are under way have so long.
const GRACE: Duration = Duration::from_secs(1);

/// The listeners while they run. They stop when it is dropped.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    metrics: Option<SocketAddr>,
    status: Option<SocketAddr>,
}

impl Server {
    /// Listens, and serves what `status` knows.
    pub fn start(endpoints: Endpoints, status: Status) -> Result<Self, ServerError> {
        Self::start_with(endpoints, status, LIMITS)
    }

    fn start_with(endpoints: Endpoints, status: Status, limits: Limits) -> Result<Self, ServerError> {
        if let Some(address) = endpoints.status.filter(|address| !address.is_loopback()) {
            return Err(ServerError::NotLoopback(address));
        }
        let mut listeners = Vec::new();
        let mut listen = |flag, address: Option<ListenAddr>, endpoint| {
            let Some(address) = address else { return Ok(None) };
            let (listener, local) = bind(address).map_err(|source| ServerError::Bind {
                flag,
                address,
                source,
            })?;
            listeners.push((listener, endpoint));
            Ok(Some(local))
        };
        let metrics = listen("--metrics-addr", endpoints.metrics, Endpoint::Metrics)?;
        let local = listen("--status-addr", endpoints.status, Endpoint::Status)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ServerError::Thread)?;
        let (stop, stopped) = watch::channel(false);
        // Every agent of a cluster serves its health on the same port.
        let neighbours = metrics.map(|address| address.port());
        let serve = move || {
            runtime.block_on(async {
                let mut servers = JoinSet::new();
                for (listener, endpoint) in listeners {
                    let host = Host {
                        endpoint,
                        status: status.clone(),
                        limits,
                        stopped: stopped.clone(),
                        crowd: Crowd::default(),
                        neighbours,
                    };
                    servers.spawn(host.serve(listener));
                }
                while servers.join_next().await.is_some() {}
            });
        };
        let thread = std::thread::Builder::new()
            .name("endpoints".to_owned())
            .spawn(serve)
            .map_err(ServerError::Thread)?;
        Ok(Self {
            stop,
            thread: Some(thread),
            metrics,
            status: local,
        })
    }

    /// Where the metrics are served.
    #[must_use]
    pub const fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Where the report is served.
    #[must_use]
    pub const fn status_addr(&self) -> Option<SocketAddr> {
        self.status
    }

    /// Accepts nothing more, lets what is under way be answered, and ends.
    pub fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread of the endpoints had panicked");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

fn bind(address: ListenAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = address.bind()?;
    listener.set_nonblocking(true)?;
    let local = listener.local_addr()?;
    Ok((listener, local))
}

/// One listener and what it needs.
#[derive(Clone, Debug)]
struct Host {
    endpoint: Endpoint,
    status: Status,
    limits: Limits,
    stopped: watch::Receiver<bool>,
    crowd: Crowd,
    /// The port on which other agents can be reached.
    neighbours: Option<u16>,
}

impl Host {
    async fn serve(mut self, listener: TcpListener) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                return tracing::error!(%error, endpoint = ?self.endpoint, "an endpoint cannot be served");
            }
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = end(&mut self.stopped) => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let Limits { connections: most, per_peer, .. } = self.limits;
                        let place = self.crowd.enter(peer.ip(), most, per_peer);
                        connections.spawn(self.clone().connection(stream, place));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                }
            }
        }
        drop(listener);
        let over = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, over).await.is_err() {
            tracing::debug!("connections were cut at the end");
        }
    }

    async fn connection(self, stream: TcpStream, mut place: Place) {
        let Self {
            endpoint,
            status,
            limits,
            mut stopped,
            neighbours,
            ..
        } = self;
        let answer = service_fn(move |request: Request<Incoming>| {
            let (method, path) = (request.method(), request.uri().path());
            let asked = reach::asked(path).filter(|_| endpoint == Endpoint::Status && method == Method::GET);
            let answer = match asked.zip(neighbours) {
                _ if endpoint == Endpoint::Status && !is_local(request.headers()) => Ok(misdirected()),
                Some(to) => Err(to),
                None => Ok(respond(endpoint, &status, method, path)),
            };
            async move {
                Ok::<_, Infallible>(match answer {
                    Ok(answer) => answer,
                    Err((address, port)) => reached(&reach::reach(address, port).await),
                })
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.request)
            .keep_alive(false)
            .max_buf_size(LONGEST_HEAD)
            .serve_connection(TokioIo::new(stream), answer);
        let mut connection = pin!(connection);
        let served = async {
            tokio::select! {
                served = connection.as_mut() => served,
                () = end(&mut stopped) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        let served = tokio::select! {
            served = tokio::time::timeout(limits.connection, served) => served,
            () = place.taken_away() => return tracing::debug!("a connection made room for another one"),
        };
        match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a connection broke"),
            Err(_) => tracing::debug!("a connection took too long and was closed"),
        }
    }
}

/// Whether a request to loopback means loopback. A page in an administrator's browser may have its own name lead to
/// 127.0.0.1, and so to a port that is forwarded here; its requests then carry that name.
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else {
        // Browsers always send it.
        return true;
    };
    let Some(authority) = host
        .to_str()
        .ok()
        .and_then(|host| host.parse::<http::uri::Authority>().ok())
    else {
        return false;
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let address = name.parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Waits until the server stops, or is gone.
async fn end(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stopped| *stopped).await);
}

#[cfg(test)]
mod tests;
