// SPDX-License-Identifier: Apache-2.0
//! Evicts or deletes the very pod that was judged, and no other of its name.
//!
//! Whoever stops waiting for one of these must take it for in doubt: the request may be on its way.

use http::Request;
use http::header::CONTENT_TYPE;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use kube::api::DeleteParams;
use kube::{Client, Error};
use serde::Deserialize;

use super::acted::{Acted, Target, classify};
use super::send::send;

const JSON: &str = "application/json";
/// The only value that the API knows.
const DRY_RUN: &str = "All";
/// How long the name of a pod or a namespace can be.
const MAX_NAME: usize = 253;

/// Evicts a pod, so that PodDisruptionBudgets hold. `pod_ready` is what is known of it, to explain a refusal.
pub async fn evict(client: &Client, target: &Target, pod_ready: bool, dry_run: bool) -> Acted {
    act(client, eviction(target, dry_run), pod_ready).await
}

/// Deletes a pod, past its PodDisruptionBudgets.
pub async fn delete(client: &Client, target: &Target, dry_run: bool) -> Acted {
    act(client, deletion(target, dry_run), true).await
}

async fn act(client: &Client, request: Result<Request<Vec<u8>>, Unfit>, pod_ready: bool) -> Acted {
    let request = match request {
        Ok(request) => request,
        Err(unfit) => return unfit.into(),
    };
    match send(client, request).await {
        Ok(body) if is_from_api_server(&body) => Acted::Accepted,
        Ok(_) => Acted::InDoubt {
            message: "a success that no API server would word so; is there a proxy in between?".to_owned(),
        },
        Err(error) => classify(&error, pod_ready),
    }
}

/// Whether a success is one, and not the login page of a proxy: a Status, or the pod that is about to go.
fn is_from_api_server(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Typed<'a> {
        kind: &'a str,
    }
    serde_json::from_slice(body).is_ok_and(|Typed { kind }| matches!(kind, "Status" | "Pod" | "Eviction"))
}

/// Why no request was made of a target.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("{0:?} is no name that can stand in a request")]
    Name(String),
    #[error("a pod without a UID cannot be distinguished from its successor")]
    NoUid,
    #[error("the request could not be made: {0}")]
    Build(#[from] Error),
}

impl From<Unfit> for Acted {
    fn from(unfit: Unfit) -> Self {
        Self::Refused {
            code: 0,
            message: unfit.to_string(),
        }
    }
}

/// The request of an eviction.
///
/// Not kube's `Api::evict`: kube 5 calls the options `delete_options` in what it sends. The API server knows only
/// `deleteOptions` and ignores other fields, so the precondition on the UID would be lost without a word, and the
/// successor of the pod that was judged could be evicted in its place.
fn eviction(target: &Target, dry_run: bool) -> Result<Request<Vec<u8>>, Unfit> {
    check(target)?;
    let eviction = Eviction {
        metadata: ObjectMeta {
            name: Some(target.name.clone()),
            namespace: Some(target.namespace.clone()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            // Said twice, and one is enough: whichever the server reads, it does nothing.
            dry_run: dry_run.then(|| vec![DRY_RUN.to_owned()]),
            preconditions: Some(Preconditions {
                uid: Some(target.uid.clone()),
                resource_version: None,
            }),
            ..DeleteOptions::default()
        }),
    };
    let query = if dry_run { "?dryRun=All" } else { "" };
    let (namespace, name) = (&target.namespace, &target.name);
    let uri = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction{query}");
    let body = serde_json::to_vec(&eviction).map_err(Error::SerdeError)?;
    let request = Request::post(uri).header(CONTENT_TYPE, JSON).body(body);
    Ok(request.map_err(Error::HttpError)?)
}

/// The request of a deletion. kube writes these options as the API expects them; a test watches that it stays so.
fn deletion(target: &Target, dry_run: bool) -> Result<Request<Vec<u8>>, Unfit> {
    check(target)?;
    let params = DeleteParams {
        dry_run,
        preconditions: Some(kube::api::Preconditions {
            uid: Some(target.uid.clone()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let pods = kube::core::Request::new(format!("/api/v1/namespaces/{}/pods", target.namespace));
    let request = pods.delete(&target.name, &params);
    Ok(request.map_err(Error::BuildRequest)?)
}

/// Refuses what would make another request of this one.
pub(super) fn check(target: &Target) -> Result<(), Unfit> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    for name in [&target.namespace, &target.name] {
        let dots = name.chars().all(|c| c == '.');
        if dots || name.len() > MAX_NAME || !name.chars().all(fits) {
            return Err(Unfit::Name(name.chars().take(MAX_NAME).collect()));
        }
    }
    if target.uid.is_empty() {
        return Err(Unfit::NoUid);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
