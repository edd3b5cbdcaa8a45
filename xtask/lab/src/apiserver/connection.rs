// SPDX-License-Identifier: Apache-2.0
//! Connections: requests in, responses out, and what goes wrong in between.

use std::io;
use std::sync::Arc;

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
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use super::call::Target;
use super::dispatch::dispatch;
use super::done::Done;
use super::failure::Failure;
use super::rbac::{self, User};
use super::server::Server;
use super::streams::upgrade::{Switch, Upgrade};
use super::watch::Lines;
use crate::api::fault::Outage;
use crate::api::request::Request as Logged;

/// Comes before the token in a path, for clients that send none over plain HTTP.
const AS: &str = "/as/";

/// A response's body.
type Body = Either<Full<Bytes>, Lines>;

impl Server {
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
        let mut kicks = self.kicks();
        let outage = self.state().outage();
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
            let mut request = Logged {
                verb: parts.method.as_str().to_lowercase(),
                path: path.clone(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                user_agent: header(USER_AGENT).unwrap_or_default().to_owned(),
                user: user.as_ref().map(|user| user.name.clone()).unwrap_or_default(),
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
            state.enter(&mut request);
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
