// SPDX-License-Identifier: Apache-2.0
//! What is answered to which request.

use std::sync::Arc;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use meshmedic_common::report::{API_VERSION, ERROR, NodeReport, Reach};
use serde_json::json;

use super::board::Status;
use super::metrics::Metrics;
use meshmedic_common::time::Time;

/// One of the listeners, each with its own paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// For scrapers and the kubelet: nothing that names a pod.
    Metrics,
    /// For people and the CLI.
    Status,
}

pub(super) type Answer = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Answers a request.
pub(super) fn respond(endpoint: Endpoint, status: &Status, method: &Method, path: &str) -> Answer {
    if method != Method::GET && method != Method::HEAD {
        let message = format!("{method} is not answered here; ask with GET or HEAD");
        let mut answer = refuse(endpoint, StatusCode::METHOD_NOT_ALLOWED, message);
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match endpoint {
        Endpoint::Metrics => metrics(status, path),
        Endpoint::Status => report(status, path),
    }
}

fn metrics(status: &Status, path: &str) -> Answer {
    match path {
        "/metrics" => answer(StatusCode::OK, Metrics::CONTENT_TYPE, status.metrics().text()),
        "/healthz" => match status.health(Time::now()) {
            Ok(()) => answer(StatusCode::OK, TEXT, "ok\n".to_owned()),
            Err(why) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, why + "\n"),
        },
        "/readyz" => match status.pending().as_slice() {
            [] => answer(StatusCode::OK, TEXT, "ok\n".to_owned()),
            pending => {
                let text = format!("not ready, waiting for: {}\n", pending.join(", "));
                answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
            }
        },
        _ => {
            let message = "there is nothing here; there are /metrics, /healthz and /readyz".to_owned();
            refuse(Endpoint::Metrics, StatusCode::NOT_FOUND, message)
        }
    }
}

/// The report is for people on loopback, under no other name.
pub(super) fn misdirected() -> Answer {
    let message = "the report is served to localhost only: ask for it through kubectl port-forward, as                    http://localhost:<port>";
    refuse(
        Endpoint::Status,
        StatusCode::MISDIRECTED_REQUEST,
        message.to_owned(),
    )
}

/// What came of an attempt to reach another agent.
pub(super) fn reached(reach: &Reach) -> Answer {
    match serde_json::to_string(reach) {
        Ok(text) => answer(StatusCode::OK, JSON, text + "\n"),
        Err(error) => refuse(
            Endpoint::Status,
            StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
        ),
    }
}

fn report(status: &Status, path: &str) -> Answer {
    let refuse = |code, message| refuse(Endpoint::Status, code, message);
    let pod = path
        .strip_prefix("/v1/pods/")
        .and_then(|rest| rest.split_once('/'));
    if path != "/v1/node" && pod.is_none_or(|(_, name)| name.contains('/')) {
        let message = "there is nothing here; there are /v1/node, /v1/pods/<namespace>/<name> and \
                       /v1/reach/<address>"
            .to_owned();
        return refuse(StatusCode::NOT_FOUND, message);
    }
    let report = match pod {
        None => status.whole_report().map(Arc::new),
        Some(_) => status.report(),
    };
    let Some(report) = report else {
        let message = match status.pending().as_slice() {
            [] => "nothing is known of this node yet; ask again in a moment".to_owned(),
            pending => format!(
                "nothing is known of this node yet; waiting for {}",
                pending.join(", ")
            ),
        };
        return refuse(StatusCode::SERVICE_UNAVAILABLE, message);
    };
    match pod {
        None => written(&report),
        Some((namespace, name)) => match report.of_pod(namespace, name) {
            Some(report) => written(&report),
            // What was asked for is not said again: it may be anything.
            None => refuse(
                StatusCode::NOT_FOUND,
                format!(
                    "no pod of this namespace and name is known on node {}",
                    report.node
                ),
            ),
        },
    }
}

fn written(report: &NodeReport) -> Answer {
    match serde_json::to_string(report) {
        Ok(text) => answer(StatusCode::OK, JSON, text + "\n"),
        Err(error) => refuse(
            Endpoint::Status,
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the report could not be written: {error}"),
        ),
    }
}

fn refuse(endpoint: Endpoint, code: StatusCode, message: String) -> Answer {
    match endpoint {
        Endpoint::Metrics => answer(code, TEXT, message + "\n"),
        Endpoint::Status => {
            let error = json!({ "apiVersion": API_VERSION, "kind": ERROR, "message": message });
            answer(code, JSON, format!("{error}\n"))
        }
    }
}

fn answer(code: StatusCode, content_type: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = code;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
