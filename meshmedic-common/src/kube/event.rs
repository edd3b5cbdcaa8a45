// SPDX-License-Identifier: Apache-2.0
//! Says in Events what befell a pod or a node, and no more often than somebody can read.
//!
//! Needs the right to create `events` of `events.k8s.io`.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client, Error};

use super::acted::Target;
use crate::text::clean;
use crate::verdict::named;

pub use limiter::{Decision, Limiter, Suppressed};

mod limiter;

/// What the API allows: bytes of a note, of an instance, of an Event's name.
const MAX_NOTE: usize = 1024;
const MAX_INSTANCE: usize = 128;
const MAX_NAME: usize = 253;
/// Events of objects without a namespace live here.
const NAMESPACE_OF_NODES: &str = "default";
/// The API's answer where an object of that name is there.
const ALREADY_EXISTS: u16 = 409;

named! {
    /// What an Event is about. Its name is the Event's reason.
    pub enum EventReason {
        /// A pod fell out of the mesh.
        CaptureLost = "MeshCaptureLost", "a pod fell out of the mesh";
        /// It is captured again, by itself.
        CaptureRecovered = "MeshCaptureRecovered", "a pod is captured again";
        /// Its repair began.
        RepairStarted = "MeshRepairStarted", "the repair of a pod began";
        /// Something forbids its repair.
        RepairBlocked = "MeshRepairBlocked", "something prevents a repair";
        /// Its successor is captured.
        RepairSucceeded = "MeshRepairSucceeded", "a repair took: the successor is captured";
        /// Its successor is not, or nobody knows.
        RepairFailed = "MeshRepairFailed", "a repair failed";
        /// Its owner wants no successor.
        RepairOver = "MeshRepairOver", "a repair ended: the owner wants no successor of the repaired pod";
        /// ztunnel or istio-cni of a node is at fault.
        NodeFault = "MeshNodeFault", "a node's ztunnel or istio-cni is at fault";
        /// Somebody in a namespace claims to be a part of Istio.
        IdentityConflict = "MeshIdentityConflict", "a stranger claims to be a part of Istio and is ignored";
    }
}

impl EventReason {
    /// `Warning` or `Normal`.
    #[must_use]
    pub const fn event_type(self) -> &'static str {
        match self {
            Self::CaptureLost
            | Self::RepairBlocked
            | Self::RepairFailed
            | Self::NodeFault
            | Self::IdentityConflict => "Warning",
            Self::CaptureRecovered | Self::RepairStarted | Self::RepairSucceeded | Self::RepairOver => {
                "Normal"
            }
        }
    }

    /// What we were doing.
    #[must_use]
    pub const fn action(self) -> &'static str {
        match self {
            Self::CaptureLost | Self::CaptureRecovered | Self::NodeFault | Self::IdentityConflict => "Detect",
            Self::RepairStarted
            | Self::RepairBlocked
            | Self::RepairSucceeded
            | Self::RepairFailed
            | Self::RepairOver => "Repair",
        }
    }

    /// Whether it tells of an act or what became of it. Each of these is worth an Event of its own.
    #[must_use]
    pub const fn is_act(self) -> bool {
        matches!(
            self,
            Self::RepairStarted | Self::RepairSucceeded | Self::RepairFailed
        )
    }
}

/// What an Event regards.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A pod.
    Pod(Target),
    /// A node, by its name.
    Node(String),
    /// A namespace, by its name.
    Namespace(String),
}

impl Subject {
    /// Whether every agent of the cluster may say the same of it, and one of them is enough.
    const fn is_shared(&self) -> bool {
        matches!(self, Self::Namespace(_))
    }
}

/// Publishes Events.
pub struct Reporter {
    client: Client,
    controller: &'static str,
    instance: String,
    limiter: Mutex<Limiter>,
}

impl Reporter {
    /// `controller` is a qualified name such as `meshmedic.io/agent`; `instance` tells it from its like.
    #[must_use]
    pub fn new(client: Client, controller: &'static str, instance: &str) -> Self {
        let mut instance = clean(instance, MAX_INSTANCE);
        if instance.is_empty() {
            controller.clone_into(&mut instance);
        }
        Self {
            client,
            controller,
            instance,
            limiter: Mutex::new(Limiter::new(Instant::now())),
        }
    }

    /// Publishes an Event unless there were enough of its kind.
    ///
    /// Not through kube's `Recorder`: it takes Events of the same object and reason for one series, and keeps the note
    /// of the first; and its Events of a pod with a long name are refused for a name that is too long.
    pub async fn publish(
        &self,
        subject: &Subject,
        reason: EventReason,
        note: &str,
    ) -> Result<Decision, Error> {
        let note = clean(note, MAX_NOTE);
        let decision = self.limiter().admit(subject, reason, &note, Instant::now());
        if decision != Decision::Publish {
            return Ok(decision);
        }
        let event = event(
            subject,
            reason,
            note,
            Timestamp::now(),
            self.controller,
            &self.instance,
        );
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        if let Err(error) = events.create(&PostParams::default(), &event).await {
            if subject.is_shared() && matches!(&error, Error::Api(status) if status.code == ALREADY_EXISTS) {
                return Ok(Decision::Duplicate);
            }
            // Nobody read it, so the next one like it is no duplicate.
            self.limiter().forget(subject, reason);
            return Err(error);
        }
        Ok(decision)
    }

    /// How many Events were not published so far.
    #[must_use]
    pub fn suppressed(&self) -> Suppressed {
        self.limiter().suppressed()
    }

    /// A thread that panicked while it held it left at most a token out.
    fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn event(
    subject: &Subject,
    reason: EventReason,
    note: String,
    now: Timestamp,
    controller: &str,
    instance: &str,
) -> Event {
    let (regarding, namespace, name) = match subject {
        Subject::Pod(pod) => {
            let regarding = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectReference::default()
            };
            (regarding, pod.namespace.as_str(), &pod.name)
        }
        // The kubelet names a node by its name instead of its UID, `kubectl describe node` looks for that in all its
        // versions, and we need not know the UID. The namespace stays out of it: kubectl asks for Events without.
        Subject::Node(name) | Subject::Namespace(name) => {
            let kind = if subject.is_shared() { "Namespace" } else { "Node" };
            let regarding = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some(kind.to_owned()),
                name: Some(name.clone()),
                uid: Some(name.clone()),
                ..ObjectReference::default()
            };
            (regarding, NAMESPACE_OF_NODES, name)
        }
    };
    // The same words of two agents have the same name, and the API takes the first only.
    let suffix = if subject.is_shared() {
        let mut hasher = DefaultHasher::new();
        (reason, &note).hash(&mut hasher);
        u128::from(hasher.finish())
    } else {
        u128::try_from(now.as_nanosecond()).unwrap_or_default()
    };
    Event {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(event_name(name, suffix)),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        regarding: Some(regarding),
        reason: Some(reason.as_str().to_owned()),
        action: Some(reason.action().to_owned()),
        type_: Some(reason.event_type().to_owned()),
        note: Some(note),
        reporting_controller: Some(controller.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Event::default()
    }
}

/// The object's name and mostly the time, as is the custom; cut where the API would refuse the whole.
fn event_name(object: &str, suffix: u128) -> String {
    let suffix = format!(".{suffix:x}");
    let mut end = object.len().min(MAX_NAME - suffix.len());
    while !object.is_char_boundary(end) {
        end -= 1;
    }
    let object = object[..end].trim_end_matches(['-', '.']);
    format!("{object}{suffix}")
}

#[cfg(test)]
mod tests;
