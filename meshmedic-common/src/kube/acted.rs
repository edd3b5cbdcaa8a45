// SPDX-License-Identifier: Apache-2.0
//! What came of an act, told apart so that whoever repairs knows what to do next.

use std::time::Duration;

use kube::Error;
use kube::core::Status;
use kube::core::response::reason;

use super::send::{NO_STATUS, asked_to_wait};
use crate::facts::PodFacts;
use crate::policy::Withheld;
use crate::repair::PodRef;
use crate::text::clean;

/// How much of an answer's words is kept.
const MAX_MESSAGE: usize = 512;
/// The cause that a PodDisruptionBudget's refusal carries, and nothing else that is answered with 429.
const BUDGET_CAUSE: &str = "DisruptionBudget";

/// The very pod that an act means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID. A pod of the same name with another one is left alone.
    pub uid: String,
}

impl From<&PodRef> for Target {
    fn from(pod: &PodRef) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        }
    }
}

impl From<&PodFacts> for Target {
    fn from(facts: &PodFacts) -> Self {
        Self {
            namespace: facts.namespace.clone(),
            name: facts.name.clone(),
            uid: facts.uid.clone(),
        }
    }
}

/// What came of an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acted {
    /// The API did it, or would have in a dry run.
    Accepted,
    /// There is no pod of that name.
    Gone,
    /// There is one, but not the one that was judged. Nothing was done.
    OtherPod,
    /// The pod changed meanwhile: judge it again. Nothing was done.
    Changed,
    /// A PodDisruptionBudget stands in the way. Nothing was done. Of a pod that is not Ready this may also hide that
    /// another one has its name: the API server then says that the budget is still being processed.
    Blocked(Block),
    /// The API server has no time. Nothing was done.
    Busy {
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
        /// In its words.
        message: String,
    },
    /// Refused for certain, or never sent. Nothing was done.
    Refused {
        /// The HTTP status; 0 if it was never sent.
        code: u16,
        /// In the words of whoever refused.
        message: String,
    },
    /// The answer was lost: it may have happened.
    InDoubt {
        /// What went wrong.
        message: String,
    },
}

/// A PodDisruptionBudget's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its name, where the refusal says it.
    pub budget: Option<String>,
    /// Whether it would let the pod go with `unhealthyPodEvictionPolicy: AlwaysAllow`, because it is not Ready.
    pub unhealthy_policy: bool,
    /// When to ask again, where the API server says it.
    pub retry_after: Option<Duration>,
    /// In the API server's words.
    pub message: String,
}

impl Acted {
    /// Why the repair was withheld; `None` where it was not, or where nobody knows.
    #[must_use]
    pub fn withheld(&self) -> Option<Withheld> {
        match self {
            Self::Accepted | Self::InDoubt { .. } => None,
            Self::Gone | Self::OtherPod => Some(Withheld::OtherPod),
            Self::Blocked(block) if block.unhealthy_policy => Some(Withheld::UnhealthyPolicy),
            Self::Blocked(_) => Some(Withheld::DisruptionBudget),
            Self::Changed | Self::Busy { .. } | Self::Refused { .. } => Some(Withheld::Refused),
        }
    }
}

impl std::fmt::Display for Acted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Accepted => f.write_str("accepted"),
            Self::Gone => f.write_str("the pod is gone"),
            Self::OtherPod => f.write_str("another pod has its name now"),
            Self::Changed => f.write_str("the pod changed meanwhile"),
            Self::Blocked(block) => f.write_str(&block.message),
            Self::Busy { message, .. } => write!(f, "the API server is busy: {message}"),
            Self::Refused { code: 0, message } => write!(f, "could not be sent: {message}"),
            Self::Refused { code, message } => write!(f, "refused with status {code}: {message}"),
            Self::InDoubt { message } => write!(f, "no answer, so it may have happened: {message}"),
        }
    }
}

/// What an error says of the act that it ended. `pod_ready` is what was known of the pod.
#[must_use]
pub fn classify(error: &Error, pod_ready: bool) -> Acted {
    match error {
        Error::Api(status) => classify_status(status, pod_ready),
        // These come before the first byte is sent.
        Error::BuildRequest(_)
        | Error::HttpError(_)
        | Error::Auth(_)
        | Error::InferConfig(_)
        | Error::InferKubeconfig(_)
        | Error::RustlsTls(_)
        | Error::TlsRequired
        | Error::ProxyProtocolUnsupported { .. }
        | Error::ProxyProtocolDisabled { .. } => Acted::Refused {
            code: 0,
            message: clean(&error.to_string(), MAX_MESSAGE),
        },
        _ => Acted::InDoubt {
            message: clean(&error.to_string(), MAX_MESSAGE),
        },
    }
}

fn classify_status(status: &Status, pod_ready: bool) -> Acted {
    let message = clean(&status.message, MAX_MESSAGE);
    let kind = status
        .details
        .as_ref()
        .map_or("", |details| details.kind.as_str());
    if let Some(block) = refused_by_budget(status, &message, pod_ready) {
        return Acted::Blocked(block);
    }
    match status.code {
        404 if status.reason == reason::NOT_FOUND && is_pod_or_namespace(kind) => Acted::Gone,
        409 if names_another_uid(status) => Acted::OtherPod,
        409 => Acted::Changed,
        422 if names_another_uid(status) => Acted::OtherPod,
        429 => Acted::Busy {
            retry_after: asked_to_wait(status),
            message,
        },
        // A proxy gave up waiting for the API server.
        408 => Acted::InDoubt { message },
        code @ 400..=499 => Acted::Refused { code, message },
        code if message.is_empty() => Acted::InDoubt {
            message: format!("status {code}"),
        },
        _ => Acted::InDoubt { message },
    }
}

/// A 404 for anything else comes from a proxy, or from an API server that has no evictions.
fn is_pod_or_namespace(kind: &str) -> bool {
    ["pods", "pod", "namespaces"]
        .iter()
        .any(|known| kind.eq_ignore_ascii_case(known))
}

/// Whether the precondition on the UID failed. The API server says so in words, or for a patch by the field.
fn names_another_uid(status: &Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    ["UID in precondition", "UID in the precondition"]
        .iter()
        .any(|words| status.message.contains(words))
        || causes.any(|cause| cause.field == "metadata.uid")
}

fn refused_by_budget(status: &Status, message: &str, pod_ready: bool) -> Option<Block> {
    // Never by the words of a proxy or a webhook.
    if status.reason == NO_STATUS {
        return None;
    }
    let details = status.details.as_ref();
    let block = |budget, unhealthy_policy, message: String| Block {
        budget,
        unhealthy_policy,
        retry_after: asked_to_wait(status),
        message,
    };
    match status.code {
        429 => {
            let mut causes = details?.causes.iter();
            let cause = causes.find(|cause| cause.reason == BUDGET_CAUSE)?;
            let words = clean(&cause.message, MAX_MESSAGE);
            let (budget, unhealthy_policy) = read_cause(&words, pod_ready);
            let whole = if words.is_empty() {
                message.to_owned()
            } else {
                format!("{message} {words}")
            };
            Some(block(budget, unhealthy_policy, whole))
        }
        // The budget's bookkeeping is off, which is as good as a refusal by it.
        403 if details?.kind == "poddisruptionbudget" => {
            Some(block(budget_name(&details?.name), false, message.to_owned()))
        }
        500 if status.message.contains("more than one PodDisruptionBudget") => {
            Some(block(None, false, message.to_owned()))
        }
        _ => None,
    }
}

/// Reads `The disruption budget NAME needs N healthy pods and has M currently`: the budget's name, and whether only
/// its policy for pods that are not Ready stands in the way.
///
/// Reading the budget itself would need a right that the agent does not have. It is not needed: the API server lets
/// a pod go that is not Ready if the budget has what it needs, whatever the policy, and under `AlwaysAllow` without
/// asking. So this refusal of such a pod means that the policy is another.
fn read_cause(words: &str, pod_ready: bool) -> (Option<String>, bool) {
    let Some(rest) = words.strip_prefix("The disruption budget ") else {
        return (None, false);
    };
    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let counts = rest
        .strip_prefix("needs ")
        .and_then(|rest| rest.strip_suffix(" currently"))
        .and_then(|rest| rest.split_once(" healthy pods and has "))
        .and_then(|(needs, has)| Some((needs.parse::<u32>().ok()?, has.parse::<u32>().ok()?)));
    // With all that it needs, the API server must have seen the pod Ready after all.
    let short = counts.is_some_and(|(needs, has)| needs == 0 || has < needs);
    (budget_name(name), !pod_ready && short)
}

/// A name as Kubernetes has them, or none.
fn budget_name(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    (!text.is_empty() && text.len() <= 253 && text.chars().all(fits)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
