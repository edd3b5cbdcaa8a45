// SPDX-License-Identifier: Apache-2.0
//! Connections, the log, and what is in store for a request.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, DATE, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE, USER_AGENT,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch::{self, Receiver, Sender};

use super::call::Target;
use super::dispatch::{Done, dispatch};
use super::failure::Failure;
use super::faults::Faults;
use super::pods::{self, Pods, Switch, Upgrade};
use super::rbac::{self, User};
use super::resources::known;
use super::store::Store;
use super::watch::Lines;
use super::write::{Writer, manager};
use crate::api::{Answer, Order, Outage, Request as Logged};
use crate::process::lock;

/// How often a watch sends a bookmark unless told otherwise.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// How many requests are remembered.
const LOG: usize = 100_000;
/// Comes before the token in a path, for clients that send none over plain HTTP.
const AS: &str = "/as/";

/// A response's body.
pub(crate) type Body = Either<Full<Bytes>, Lines>;

/// The server.
pub(crate) struct Server {
    state: Mutex<State>,
    /// Ticks whenever a watch may have something to say.
    changes: Sender<()>,
    /// Ticks when all connections are to be closed.
    kicks: Sender<()>,
}

/// What all connections share.
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) faults: Faults,
    pub(crate) pods: Pods,
    /// Watches of another epoch end.
    pub(crate) epoch: u64,
    /// How many run.
    pub(crate) watches: u64,
    pub(crate) bookmarks: Duration,
    log: Vec<Logged>,
    requests: u64,
    clock: SignedDuration,
    outage: Option<Outage>,
    started: Instant,
}

impl State {
    pub(crate) fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        now.checked_add(self.clock).unwrap_or(now)
    }

    pub(crate) fn is_hanging(&self) -> bool {
        self.outage == Some(Outage::Hang)
    }
}

/// As Kubernetes writes times.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Server {
    pub(crate) fn new(seed: &str) -> Self {
        let mut store = Store::new(format!("{seed}/{}", Timestamp::now()));
        furnish(&mut store);
        let state = State {
            store,
            faults: Faults::default(),
            pods: Pods::default(),
            epoch: 0,
            watches: 0,
            bookmarks: BOOKMARKS,
            log: Vec::new(),
            requests: 0,
            clock: SignedDuration::ZERO,
            outage: None,
            started: Instant::now(),
        };
        Self {
            state: Mutex::new(state),
            changes: watch::channel(()).0,
            kicks: watch::channel(()).0,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn changes(&self) -> Receiver<()> {
        self.changes.subscribe()
    }

    /// Ticks when all connections are to be closed.
    pub(crate) fn kicks(&self) -> Receiver<()> {
        self.kicks.subscribe()
    }

    /// Tells the watches that there may be something to say.
    pub(crate) fn changed(&self) {
        self.changes.send_replace(());
    }

    /// Does what the lab wants.
    pub(crate) fn obey(&self, order: Order) -> Answer {
        let mut state = self.state();
        let mut answer = Answer::Done;
        match order {
            Order::Add(fault) => answer = Answer::Number(state.faults.add(*fault)),
            Order::Remove(number) => state.faults.remove(number),
            Order::Hits(number) => answer = Answer::Number(state.faults.hits(number)),
            Order::BreakWatches => state.epoch += 1,
            Order::Compact => state.store.compact(),
            Order::Remember(limit) => state.store.limit(limit),
            Order::Outage(outage) => {
                state.outage = outage;
                // What hung is not answered afterwards, either.
                self.kicks.send_replace(());
            }
            Order::Clock { milliseconds } => state.clock = SignedDuration::from_millis(milliseconds),
            Order::Bookmarks(every) => state.bookmarks = every,
            Order::Requests => answer = Answer::Requests(state.log.clone()),
            Order::ForgetRequests => {
                state.log.clear();
                state.pods.forget_peak();
            }
            Order::InstallIstio => super::resources::install_istio(),
            Order::Version => answer = Answer::Number(state.store.version()),
            Order::Watches => answer = Answer::Number(state.watches),
            Order::Populate { pod, count } => {
                if let Err(failure) = populate(&mut state, &pod, count) {
                    answer = Answer::Failed(failure.message);
                }
            }
            other => {
                let now = state.now();
                answer = state.pods.obey(other, now);
            }
        }
        drop(state);
        self.changed();
        answer
    }

    /// Accepts connections for ever.
    pub(crate) async fn serve(self: &Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(Arc::clone(self).converse(stream));
                }
                // Out of descriptors: others end, and then it goes on.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    async fn converse(self: Arc<Self>, stream: TcpStream) {
        let mut kicks = self.kicks.subscribe();
        let outage = self.state().outage;
        match outage {
            Some(Outage::Reset) => {
                // A closed connection that lingers for no time is a reset one.
                let _ = stream.set_zero_linger();
                return;
            }
            Some(Outage::Hang) => {
                let _ = kicks.changed().await;
                return;
            }
            None => {}
        }
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| Arc::clone(&self).handle(request));
        let connection = hyper::server::conn::http1::Builder::new()
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::select! {
            // A client that goes away is no concern of ours.
            _ = connection => {}
            _ = kicks.changed() => {}
        }
    }

    /// Answers a request; an error drops the connection.
    async fn handle(self: Arc<Self>, mut request: Request<Incoming>) -> io::Result<Response<Body>> {
        let upgrade = Upgrade::of(&mut request);
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let path = parts.uri.path();
        let (path, token) = match path.strip_prefix(AS).and_then(|rest| rest.split_once('/')) {
            Some((token, rest)) => (format!("/{rest}"), Some(token)),
            None => (
                path.to_owned(),
                header(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer ")),
            ),
        };
        let target = Target::of(&parts, &path);
        let (request, user, fate) = {
            let mut state = self.state();
            let user = match token {
                Some(token) => rbac::authenticate(&state.store, token),
                None => Some(User {
                    name: "system:anonymous".to_owned(),
                    groups: vec!["system:unauthenticated".to_owned()],
                }),
            };
            state.requests += 1;
            let mut request = Logged {
                number: state.requests,
                verb: parts.method.as_str().to_lowercase(),
                path: path.clone(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                user_agent: header(USER_AGENT).unwrap_or_default().to_owned(),
                user: user.as_ref().map(|user| user.name.clone()).unwrap_or_default(),
                at: state.started.elapsed(),
                ..Logged::default()
            };
            if let Ok(Target::Resource(call)) = &target {
                request.verb = call.verb.to_owned();
                request.group = call.resource.group.to_owned();
                request.resource = call.resource.plural.to_owned();
                request.subresource = call.below.clone();
                request.namespace = call.space().to_owned();
                request.name = call.name.clone();
                if call.below == "eviction" {
                    let eviction: Value = serde_json::from_slice(&body).unwrap_or_default();
                    let uid = &eviction["deleteOptions"]["preconditions"]["uid"];
                    request.precondition = uid.as_str().unwrap_or_default().to_owned();
                }
            }
            if state.log.len() < LOG {
                state.log.push(request.clone());
            }
            let fate = state.faults.decide(&request);
            (request, user, fate)
        };
        if !fate.latency.is_zero() {
            tokio::time::sleep(fate.latency).await;
        }
        self.wait_out().await;
        if fate.drop_before {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let done = match (fate.failure, user, target) {
            (Some(failure), _, _) | (None, Some(_), Err(failure)) => Err(failure),
            (None, None, _) => Err(Failure::unauthorized()),
            (None, Some(user), Ok(target)) => {
                dispatch(&self, target, &user, &body, request.clone(), fate.stale, upgrade)
            }
        };
        self.changed();
        let response = self.respond(done);
        if fate.drop_after {
            self.note(request.number, None);
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.note(request.number, Some(response.status()));
        Ok(response)
    }

    /// Waits while nothing is answered.
    async fn wait_out(&self) {
        let mut changes = self.changes();
        while self.state().is_hanging() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Notes in the log how a request was answered.
    fn note(&self, number: u64, code: Option<StatusCode>) {
        let mut state = self.state();
        let entry = state.log.iter_mut().rev().find(|entry| entry.number == number);
        if let Some(entry) = entry {
            entry.code = code.map(|code| code.as_u16());
        }
    }

    fn respond(&self, done: Result<Done, Failure>) -> Response<Body> {
        let mut retry = None;
        let (code, kind, body) = match done {
            Ok(Done::Object(code, object)) => (code, "application/json", text(object.to_string())),
            Ok(Done::Text(plain)) => (200, "text/plain; charset=utf-8", text(plain)),
            Ok(Done::Watch(lines)) => (200, "application/json", Either::Right(lines)),
            Ok(Done::Nothing) => (204, "text/plain", text(String::new())),
            Ok(Done::Log(lines)) => (200, "text/plain", Either::Right(lines)),
            Ok(Done::Switch(switch)) => return switched(&switch),
            Err(failure) => {
                retry = failure.retry_after;
                let body = text(failure.body().to_string());
                (failure.code, "application/json", body)
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        let date = self
            .state()
            .now()
            .strftime("%a, %d %b %Y %H:%M:%S GMT")
            .to_string();
        if let Ok(date) = HeaderValue::from_str(&date) {
            headers.insert(DATE, date);
        }
        if let Some(seconds) = retry {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Agrees to a WebSocket.
fn switched(switch: &Switch) -> Response<Body> {
    let mut response = Response::new(text(String::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(switch.protocol));
    if let Ok(accept) = HeaderValue::from_str(&switch.accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

fn text(text: String) -> Body {
    Either::Left(Full::from(text))
}

fn populate(state: &mut State, pod: &Value, count: usize) -> Result<(), Failure> {
    let now = rfc3339(state.now());
    let mut writer = Writer {
        store: &mut state.store,
        now: now.clone(),
        later: &|_| now.clone(),
        manager: manager("", "kubelet"),
    };
    pods::populate(&mut writer, pod, count)
}

/// What is there from the beginning.
fn furnish(store: &mut Store) {
    let now = rfc3339(Timestamp::now());
    let mut writer = Writer {
        store,
        now: now.clone(),
        later: &|_| now.clone(),
        manager: manager("", "kube-apiserver"),
    };
    let named = |name: &str| json!({ "metadata": { "name": name } });
    let mut everything = named("cluster-admin");
    everything["rules"] = json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }]);
    let made = ["default", "kube-system", "kube-public", "kube-node-lease"]
        .map(|name| (known("namespaces"), named(name)))
        .into_iter()
        .chain([(known("clusterroles"), everything)])
        .try_for_each(|(resource, object)| writer.create(resource, "", object).map(drop));
    debug_assert!(made.is_ok(), "{made:?}");
}
