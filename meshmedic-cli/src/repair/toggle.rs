// SPDX-License-Identifier: Apache-2.0
//! The gentle repair: out of the mesh by the label and in again, and no container restarts.
//!
//! Whatever happens after the first half, the label is put back before anything else is said.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::wait::await_condition;
use meshmedic_common::eligibility::MODE_LABEL;
use meshmedic_common::facts::{PodFacts, TOGGLE_RESTORE};
use meshmedic_common::kube::acted::{Acted as Done, Target};
use meshmedic_common::kube::facts::{pod_facts, resource_version};
use meshmedic_common::kube::toggle::{self, RestoreError, Restored};
use meshmedic_common::policy::Withheld;
use meshmedic_common::repair::Acted;

use super::Repairs;

/// How often, and how long after each other, putting the label back is tried while the API does not do it.
const RESTORE_TRIES: u32 = 10;
const RESTORE_PAUSE: Duration = Duration::from_secs(2);
/// A watch that ended is begun anew after this.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// Why waiting for istio-cni ended.
enum Waited {
    Cleared,
    Gone,
    Late,
    Interrupted,
}

impl Repairs<'_> {
    /// Puts the label of a pod that is out back, once istio-cni let the pod go or nobody wants to wait any more.
    pub(super) async fn bring_back(&self, facts: &PodFacts) -> Result<(), String> {
        let waited = self.until_cleared(facts).await;
        if let Err(error) = self.restore(facts).await {
            let PodFacts { namespace, name, .. } = facts;
            return Err(format!(
                "{error}. Its label {MODE_LABEL} still says none: repeat the repair, or set the label by hand to what \
                 the annotation {TOGGLE_RESTORE} of {namespace}/{name} holds, and remove the annotation"
            ));
        }
        match waited {
            Waited::Cleared | Waited::Interrupted => Ok(()),
            Waited::Gone => Err("the pod ended while it was out of the mesh".to_owned()),
            Waited::Late => Err(
                "istio-cni did not let it go in time; its label is as it was. Is istio-cni well?".to_owned(),
            ),
        }
    }

    /// Puts back what somebody else left away.
    pub(super) async fn put_back(&self, facts: &PodFacts) -> Acted {
        match self.restore(facts).await {
            Ok(()) => Acted::Accepted,
            Err(error) => Acted::Refused(Withheld::Refused, error.to_string()),
        }
    }

    /// Takes the pod out of the mesh.
    pub(super) async fn take_out(&self, facts: &PodFacts) -> Acted {
        match self.begin(facts).await {
            Ok(()) => Acted::Accepted,
            Err((why, detail)) => Acted::Refused(why, detail.unwrap_or_default()),
        }
    }

    /// Takes the pod out of the mesh. An answer that was lost may have been a yes, and counts as one: what is left is
    /// restored in any case.
    async fn begin(&self, facts: &PodFacts) -> Result<(), (Withheld, Option<String>)> {
        let PodFacts {
            namespace, name, uid, ..
        } = facts;
        let what = format!("reading pod {namespace}/{name}");
        let api = self.pods(facts);
        let found = self.connection.ask(&what, || api.get(name)).await;
        let found = found.map_err(|failure| (Withheld::NotFetched, Some(failure.short())))?;
        let mut standing = self.world.standing(&pod_facts(&found));
        self.risks.overrides().lift(&mut standing);
        let version = resource_version(&found.metadata);
        let (enablement, labels) = (self.world.enablement(facts), self.world.labels(namespace));
        let patch =
            toggle::plan_begin(&standing, uid, version, &enablement, &labels).map_err(|why| (why, None))?;
        match toggle::apply(&self.connection.client, &patch, false).await {
            Ok(_) | Err(Done::InDoubt { .. }) => Ok(()),
            Err(acted) => Err((
                acted.withheld().unwrap_or(Withheld::Refused),
                Some(acted.to_string()),
            )),
        }
    }

    /// Waits until istio-cni has let the pod go.
    async fn until_cleared(&self, facts: &PodFacts) -> Waited {
        let uid = facts.uid.clone();
        let cleared = move |pod: Option<&Pod>| {
            let now = pod.map(pod_facts);
            now.is_none_or(|now| now.uid != uid || now.deleting || toggle::is_cleared(&now))
        };
        let deadline = tokio::time::Instant::now() + self.how.deadline;
        loop {
            let waited = await_condition(self.pods(facts), &facts.name, cleared.clone());
            let found = tokio::select! {
                found = waited => found,
                () = tokio::time::sleep_until(deadline) => return Waited::Late,
                () = self.stop.wait() => return Waited::Interrupted,
            };
            match found {
                Ok(Some(pod)) if pod.metadata.uid.as_deref() == Some(facts.uid.as_str()) => {
                    return if pod.metadata.deletion_timestamp.is_some() {
                        Waited::Gone
                    } else {
                        Waited::Cleared
                    };
                }
                Ok(_) => return Waited::Gone,
                Err(error) => {
                    tracing::debug!("the watch of {} was interrupted: {error}", facts.display_name());
                    tokio::time::sleep(WATCH_AGAIN).await;
                }
            }
        }
    }

    /// Puts the label back, and does not give up easily.
    async fn restore(&self, facts: &PodFacts) -> Result<(), RestoreError> {
        let target = Target::from(facts);
        let mut attempt = 1;
        loop {
            match toggle::restore(&self.connection.client, &target).await {
                Ok(Restored::Done | Restored::Nothing)
                | Err(RestoreError::Api(Done::Gone | Done::OtherPod)) => {
                    return Ok(());
                }
                Err(error @ RestoreError::Untrusted(_)) => return Err(error),
                Err(error) if attempt >= RESTORE_TRIES => return Err(error),
                Err(error) => {
                    tracing::warn!("{}: {error}; trying again", facts.display_name());
                    attempt += 1;
                    tokio::time::sleep(RESTORE_PAUSE).await;
                }
            }
        }
    }

    fn pods(&self, facts: &PodFacts) -> Api<Pod> {
        Api::namespaced(self.connection.client.clone(), &facts.namespace)
    }
}
