// SPDX-License-Identifier: Apache-2.0
//! Puts back what an interrupted toggle left: whoever toggles writes down first what was there before.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::Client;
use meshmedic_common::kube::acted::{Acted, Target};
use meshmedic_common::kube::toggle::{self, RestoreError, Restored};
use meshmedic_common::policy::Standing;
use meshmedic_common::uid::PodUid;
use tokio::task::JoinSet;

use meshmedic_common::time::Time;

/// A toggle takes seconds. One that has not ended by then has been left.
const LEFT: Duration = Duration::from_secs(120);
/// The API's answer to who may not patch pods.
const FORBIDDEN: u16 = 403;

pub(super) struct Toggles {
    client: Client,
    /// Since when each toggle is known, and when it is looked at next.
    due: BTreeMap<PodUid, Time>,
    running: JoinSet<Outcome>,
    forbidden: bool,
}

struct Outcome {
    target: Target,
    result: Result<Restored, RestoreError>,
}

impl Toggles {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            due: BTreeMap::new(),
            running: JoinSet::new(),
            forbidden: false,
        }
    }

    /// Restores what was left. An agent that may not patch pods says so once and leaves it to `meshmedic doctor`.
    pub(super) fn restore(&mut self, now: Time, standings: &BTreeMap<PodUid, Standing>, may_act: bool) {
        while let Some(Ok(outcome)) = self.running.try_join_next() {
            self.tell(&outcome);
        }
        if !may_act || self.forbidden {
            return;
        }
        let left = |uid: &PodUid| {
            standings
                .get(uid)
                .is_some_and(|s| s.facts.toggle_restore.is_some())
        };
        self.due.retain(|uid, _| left(uid));
        for (uid, standing) in standings {
            let facts = &standing.facts;
            if facts.toggle_restore.is_none() {
                continue;
            }
            let due = self.due.entry(uid.clone()).or_insert(now + LEFT);
            if now < *due {
                continue;
            }
            *due = now + LEFT;
            let target = Target::from(facts);
            let client = self.client.clone();
            self.running.spawn(async move {
                let result = toggle::restore(&client, &target).await;
                Outcome { target, result }
            });
        }
    }

    fn tell(&mut self, outcome: &Outcome) {
        let Target { namespace, name, uid } = &outcome.target;
        match &outcome.result {
            Ok(Restored::Done) => tracing::info!(
                target: "meshmedic::audit",
                act = "restore-toggle", namespace, pod = name, uid,
                "a toggle that had been left was put back"
            ),
            Ok(Restored::Nothing) => {}
            Err(error) => {
                self.forbidden = matches!(error, RestoreError::Api(Acted::Refused { code: FORBIDDEN, .. }));
                tracing::warn!(
                    namespace, pod = name, uid, %error,
                    "a toggle that was left half done could not be put back; `meshmedic doctor` prints how to do it by hand"
                );
            }
        }
    }
}
