// SPDX-License-Identifier: Apache-2.0
//! Sends a request and keeps of a refusal what kube drops: `Retry-After`, and a refusal that comes as a success.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, Request};
use kube::client::Body;
use kube::core::Status;
use kube::core::response::StatusDetails;
use kube::{Client, Error};

use crate::text::clean;

/// The reason that kube gives, and so do we, to a refusal that is no `Status`: a proxy's, or the API server's own
/// when it is overrun.
pub(super) const NO_STATUS: &str = "Failed to parse error data";
/// How much of such a refusal is kept.
const MAX_REFUSAL: usize = 512;
/// A server that asks for more patience than this is not believed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Sends a request; gives the body of a success.
pub(super) async fn send(client: &Client, request: Request<Vec<u8>>) -> Result<Vec<u8>, Error> {
    let response = client.send(request.map(Body::from)).await?;
    let (head, body) = response.into_parts();
    let body = body.collect_bytes().await?;
    // A Status that says Failure is a refusal whatever HTTP status it comes with. The API server hands one out as the
    // object that an eviction creates (two budgets); 1.36 sends it with 500, but nothing promises that.
    let status = serde_json::from_slice::<Status>(&body);
    match status {
        Ok(status) if head.status.is_success() && !status.is_failure() => Ok(body.to_vec()),
        Err(_) if head.status.is_success() => Ok(body.to_vec()),
        Ok(status) => Err(refusal(status, head.status.as_u16(), &head.headers)),
        Err(_) => {
            let text = clean(&String::from_utf8_lossy(&body), MAX_REFUSAL);
            let status = Status::failure(&text, NO_STATUS);
            Err(refusal(status, head.status.as_u16(), &head.headers))
        }
    }
}

fn refusal(mut status: Status, code: u16, headers: &HeaderMap) -> Error {
    if status.code == 0 {
        status.code = code;
    }
    if let Some(seconds) = retry_after(headers) {
        let details = status.details.get_or_insert_with(|| StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
        });
        if details.retry_after_seconds == 0 {
            details.retry_after_seconds = seconds;
        }
    }
    Error::Api(status.boxed())
}

/// Seconds only: the API server does not send the other form, a date.
fn retry_after(headers: &HeaderMap) -> Option<u32> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

/// For how long the server asks to be left alone.
pub(super) fn asked_to_wait(status: &Status) -> Option<Duration> {
    let seconds = status.details.as_ref()?.retry_after_seconds;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()).min(MAX_RETRY_AFTER))
}
