// SPDX-License-Identifier: Apache-2.0
//! Asks istio-cni to take a running pod in again: one patch of the pod's status.
//!
//! The patch sets istio-cni's own annotation to `pending`, from which istio-cni goes through a whole enrolment, and
//! writes down what was asked, and against what. It is refused unless the pod is the very one, in the very version, that
//! was judged.

mod heals;

use http::Request;
use http::header::CONTENT_TYPE;
use kube::{Client, Error};
use serde_json::Value;

use super::acted::{Acted, Target, classify};
use super::evict::check;
use super::send::send;
use crate::repair::heal::{Ask, Asked, patch};

pub use heals::{Around, Heals};

const MERGE_PATCH: &str = "application/merge-patch+json";
/// How the API server's records of who set which field know us.
const FIELD_MANAGER: &str = "meshmedic";
/// The API's answer to who may not: a right is missing, or a policy refuses.
const FORBIDDEN: u16 = 403;
/// How the API server names what refused, where that is one of its own policies.
const POLICY: &str = "ValidatingAdmissionPolicy";

/// Asks for one pod. `version` is that of the pod that was judged.
pub async fn ask(client: &Client, target: &Target, version: &str, ask: &Ask) -> Asked {
    if version.is_empty() {
        return Asked::Refused("the pod was fetched without its resourceVersion".to_owned());
    }
    let sent = match request(target, &patch(&target.uid, version, ask)) {
        Ok(request) => send(client, request)
            .await
            .map(drop)
            .map_err(|error| classify(&error, true)),
        Err(refused) => Err(refused),
    };
    match sent {
        Ok(()) => Asked::Accepted,
        Err(acted) => answer(acted),
    }
}

/// What an answer of the API means for an ask.
fn answer(acted: Acted) -> Asked {
    match acted {
        Acted::Accepted => Asked::Accepted,
        Acted::Changed => Asked::Changed,
        Acted::Gone | Acted::OtherPod => Asked::Gone,
        Acted::Refused {
            code: FORBIDDEN,
            message,
        } => Asked::NotPermitted(message),
        // Without a reason of its own a policy refuses as if the object were wrong.
        Acted::Refused { message, .. } if message.contains(POLICY) => Asked::NotPermitted(message),
        Acted::Refused { message, .. } => Asked::Refused(message),
        Acted::Busy { retry_after, .. } => Asked::Busy(retry_after),
        // A budget has no say here: whoever answers so is no API server.
        Acted::Blocked(block) => Asked::Busy(block.retry_after),
        Acted::InDoubt { message } => Asked::InDoubt(message),
    }
}

fn request(target: &Target, body: &Value) -> Result<Request<Vec<u8>>, Acted> {
    check(target)?;
    let Target { namespace, name, .. } = target;
    let uri = format!("/api/v1/namespaces/{namespace}/pods/{name}/status?fieldManager={FIELD_MANAGER}");
    Request::patch(uri)
        .header(CONTENT_TYPE, MERGE_PATCH)
        .body(body.to_string().into_bytes())
        .map_err(|error| classify(&Error::HttpError(error), true))
}

#[cfg(test)]
mod tests;
