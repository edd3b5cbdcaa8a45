// SPDX-License-Identifier: Apache-2.0
//! The gentle repair: takes a pod out of the mesh by its label and, once istio-cni has let it go, puts the label back.
//! istio-cni then enrols it anew, and no container restarts.
//!
//! Each step is one patch of label and annotation together, so no crash falls between them. The annotation holds what
//! the label said; whoever comes next restores it. Once [`is_cleared`] holds, restoring is right whoever does it.

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::acted::{Acted, Target};
use super::facts::{pod_facts, resource_version};
use super::status::{NotChanged, change};
use crate::eligibility::{Enablement, MODE_LABEL, NONE};
use crate::facts::Labels;
use crate::facts::{Enrolment, PodFacts, TOGGLE_RESTORE};
use crate::policy::{Standing, Withheld, toggle_forbidden};

pub use super::status::{Patch, apply};

/// How long the value of a label can be.
const MAX_LABEL: usize = 63;
/// More than that we never write: the longest value, and what stands around it.
const MAX_ANNOTATION: usize = MAX_LABEL + 16;

/// What the annotation holds. `null` where the pod had no such label.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    // Not `default`: an annotation that does not mention the label is none of ours.
    #[serde(deserialize_with = "Option::deserialize")]
    label: Option<String>,
}

/// Why a leftover is not restored. It is not of our making, or of a MeshMedic that knows more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// It says nothing that we would have written.
    #[error(
        "annotation {TOGGLE_RESTORE} holds no {{\"label\": …}}; set the label {MODE_LABEL} by hand and remove the annotation"
    )]
    NotOurs,
    /// The kubelet's pods are never toggled.
    #[error(
        "annotation {TOGGLE_RESTORE} is on the mirror of a static pod, which is never toggled; remove it"
    )]
    Static,
    /// Without it there is no saying which state of the pod was judged.
    #[error("the pod was fetched without its resourceVersion")]
    NoVersion,
}

/// How a restore ended, where it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// The label is as it was, or as somebody else set it meanwhile.
    Done,
    /// There was nothing to restore.
    Nothing,
}

/// Why a restore failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// What there is to be restored makes no sense.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// The pod could not be looked at, so nothing was done.
    #[error("cannot fetch the pod to restore its label: {0}")]
    Fetch(String),
    /// The API did not do it.
    #[error("the label could not be put back: {0}")]
    Api(Acted),
}

/// Plans the first half: out of the mesh. `uid` is the pod that was judged, `version` that of `standing`.
pub fn plan_begin(
    standing: &Standing,
    uid: &str,
    version: &str,
    enablement: &Enablement,
    namespace: &Labels,
) -> Result<Patch, Withheld> {
    let facts = &standing.facts;
    if let Some(withheld) = toggle_forbidden(standing, uid) {
        return Err(withheld);
    }
    if version.is_empty() {
        return Err(Withheld::NotFetched);
    }
    if !enablement.heeds_opt_out(facts, namespace) {
        return Err(Withheld::NoToggle);
    }
    let label = facts.labels.get(MODE_LABEL).cloned();
    // The API would not have accepted such a label, and we would not restore it.
    if !label.as_deref().is_none_or(is_label) {
        return Err(Withheld::Untrusted);
    }
    let kept = serde_json::to_string(&Kept { label }).map_err(|_| Withheld::Untrusted)?;
    Ok(patch(facts, version, Some(json!(NONE)), json!(kept)))
}

/// Whether istio-cni has let the pod go, which it says by taking its annotation back as the last step.
#[must_use]
pub fn is_cleared(facts: &PodFacts) -> bool {
    facts.enrolment == Enrolment::None
}

/// Plans the second half, also for a leftover; `None` where nothing is left.
///
/// A label that is not ours any more was set by somebody who knew why: only the annotation goes.
pub fn plan_restore(facts: &PodFacts, version: &str) -> Result<Option<Patch>, Untrusted> {
    let Some(kept) = &facts.toggle_restore else {
        return Ok(None);
    };
    // Neither will be in the mesh again.
    if facts.deleting || facts.finished {
        return Ok(None);
    }
    if facts.mirror {
        return Err(Untrusted::Static);
    }
    if version.is_empty() {
        return Err(Untrusted::NoVersion);
    }
    let label = read_kept(kept)?;
    let ours = facts.labels.get(MODE_LABEL).is_some_and(|mode| mode == NONE);
    Ok(Some(patch(
        facts,
        version,
        ours.then(|| json!(label)),
        Value::Null,
    )))
}

/// Puts back the label of a pod whose toggle has begun, whoever began it. Where nothing is left it does nothing.
pub async fn restore(client: &Client, target: &Target) -> Result<Restored, RestoreError> {
    let plan = |pod: &Pod| plan_restore(&pod_facts(pod), resource_version(&pod.metadata));
    match change(client, target, plan).await {
        Ok(true) => Ok(Restored::Done),
        Ok(false) => Ok(Restored::Nothing),
        Err(NotChanged::Unfit(untrusted)) => Err(untrusted.into()),
        Err(NotChanged::Fetch(why)) => Err(RestoreError::Fetch(why)),
        Err(NotChanged::Api(acted)) => Err(RestoreError::Api(acted)),
    }
}

/// The label stays as it is where `label` is `None`.
fn patch(facts: &PodFacts, version: &str, label: Option<Value>, annotation: Value) -> Patch {
    let mut metadata = json!({
        "uid": facts.uid,
        "resourceVersion": version,
        "annotations": {TOGGLE_RESTORE: annotation},
    });
    if let Some(label) = label {
        metadata["labels"] = json!({MODE_LABEL: label});
    }
    Patch {
        target: Target {
            namespace: facts.namespace.clone(),
            name: facts.name.clone(),
            uid: facts.uid.clone(),
        },
        body: json!({"metadata": metadata}),
    }
}

/// The label's old value; `None` where there was none.
fn read_kept(text: &str) -> Result<Option<String>, Untrusted> {
    // serde would also take an array for a struct.
    if text.len() > MAX_ANNOTATION || !text.trim_start().starts_with('{') {
        return Err(Untrusted::NotOurs);
    }
    let kept: Kept = serde_json::from_str(text).map_err(|_| Untrusted::NotOurs)?;
    match kept.label {
        // Such a pod would never have been toggled.
        Some(label) if label == NONE || !is_label(&label) => Err(Untrusted::NotOurs),
        label => Ok(label),
    }
}

/// Whether the API server would take it for a label's value.
fn is_label(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() <= MAX_LABEL
        && bytes
            .iter()
            .all(|&b| alphanumeric(b) || matches!(b, b'-' | b'_' | b'.'))
        && ends.into_iter().flatten().all(|&b| alphanumeric(b))
}

#[cfg(test)]
mod tests;
