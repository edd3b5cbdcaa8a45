// SPDX-License-Identifier: Apache-2.0
//! Asks istio-cni to take a running pod in again: one patch of the pod's status.
//!
//! The patch sets istio-cni's own annotation to `pending`, from which istio-cni goes through a whole enrolment, and
//! writes down what was asked, and against what. It is refused unless the pod is the very one, in the very version, that
//! was judged.

mod heals;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use serde_json::json;

use super::acted::{Acted, Target};
use super::facts::{pod_facts, resource_version};
use super::status::{NotChanged, Patch, apply, change};
use crate::facts::HEAL;
use crate::repair::heal::{Ask, Asked, patch};

pub use heals::{Around, Heals};

/// The API's answer to who may not: a right is missing, or a policy refuses.
const FORBIDDEN: u16 = 403;
/// How the API server names what refused, where that is one of its own policies.
const POLICY: &str = "ValidatingAdmissionPolicy";

/// Asks for one pod. `version` is that of the pod that was judged.
pub async fn ask(client: &Client, target: &Target, version: &str, ask: &Ask) -> Asked {
    if version.is_empty() {
        return Asked::Refused("the pod was fetched without its resourceVersion".to_owned());
    }
    let patch = Patch {
        target: target.clone(),
        body: patch(&target.uid, version, ask),
    };
    match apply(client, &patch, false).await {
        Ok(_) => Asked::Accepted,
        Err(acted) => answer(acted),
    }
}

/// Takes away what an ask wrote down, once nobody goes by it any more. False where nothing is left.
pub async fn forget(client: &Client, target: &Target) -> Result<bool, Acted> {
    let plan = |pod: &Pod| -> Result<Option<Patch>, std::convert::Infallible> {
        let body = json!({ "metadata": {
            "uid": target.uid,
            "resourceVersion": resource_version(&pod.metadata),
            "annotations": { HEAL: null },
        }});
        let target = target.clone();
        Ok(pod_facts(pod).heal.map(|_| Patch { target, body }))
    };
    change(client, target, plan).await.map_err(|not| match not {
        NotChanged::Unfit(never) => match never {},
        NotChanged::Fetch(message) => Acted::InDoubt { message },
        NotChanged::Api(acted) => acted,
    })
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

#[cfg(test)]
mod tests;
