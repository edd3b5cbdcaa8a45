// SPDX-License-Identifier: Apache-2.0
//! Following a pod until it is captured: the one that takes another's place, or the one that was toggled.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use meshmedic_common::facts::{Controller, Enrolment, PodFacts};
use meshmedic_common::kube::facts::pod_facts;
use meshmedic_common::verdict::State;
use tokio::time::{Instant, sleep_until};

use super::Shop;
use super::records::Held;
use crate::connection::Failure;
use crate::scan::ScannedPod;
use crate::selection::list;

/// A pod that is not captured yet is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Each look may leave a probe in the pod's spec for ever, so after so many there are no more probes.
const PROBED_LOOKS: u32 = 3;
/// The label that tells the pods of one ReplicaSet from those of its like.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// What became of a pod that was followed.
pub(super) enum Followed {
    /// It is captured.
    Captured(Box<ScannedPod>),
    /// It was proved to be out of the mesh as well.
    Lost(Box<ScannedPod>),
    /// Neither by the deadline.
    Late(String),
    /// Somebody had enough.
    Interrupted(String),
}

/// The pods in which a successor may show itself.
#[derive(Default)]
struct Pods {
    known: BTreeMap<String, PodFacts>,
    told_anew: BTreeMap<String, PodFacts>,
}

impl Pods {
    fn take(&mut self, event: Event<Pod>) {
        let entry = |pod: &Pod| {
            let facts = pod_facts(pod);
            (facts.uid.clone(), facts)
        };
        match event {
            Event::Init => self.told_anew.clear(),
            Event::InitApply(pod) => {
                let (uid, facts) = entry(&pod);
                self.told_anew.insert(uid, facts);
            }
            Event::InitDone => self.known = std::mem::take(&mut self.told_anew),
            Event::Apply(pod) => {
                let (uid, facts) = entry(&pod);
                self.known.insert(uid, facts);
            }
            Event::Delete(pod) => {
                self.known.remove(&pod_facts(&pod).uid);
            }
        }
    }

    /// The oldest pod that may have taken the place of the one that was judged.
    fn successor(&self, judged: &PodFacts, controller: &Controller, before: &Before) -> Option<&PodFacts> {
        let may = self
            .known
            .values()
            .filter(|pod| may_succeed(pod, judged, controller, before));
        may.min_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)))
    }
}

/// What was so before the act.
pub(super) struct Before {
    /// When it was, by the API server's clock.
    at: Timestamp,
    /// The pods that were there. Creation is written down in whole seconds, so time alone does not tell.
    uids: BTreeSet<String>,
}

/// Whether a pod came from the same controller after the act.
fn may_succeed(pod: &PodFacts, judged: &PodFacts, controller: &Controller, before: &Before) -> bool {
    let owner = pod.controller.as_ref();
    let owned = owner.is_some_and(|owner| owner.uid == controller.uid);
    let created = pod.created;
    let after = created.is_some_and(|created| created.as_second() >= before.at.as_second());
    // A StatefulSet gives each of its pods a name that the next one has, too; a DaemonSet one to each node.
    let place = match controller.kind.as_str() {
        "StatefulSet" => pod.name == judged.name,
        "DaemonSet" => pod.node.is_none() || pod.node == judged.node,
        _ => true,
    };
    let new = pod.uid != judged.uid && !before.uids.contains(&pod.uid);
    owned && after && place && new && !pod.deleting && !pod.finished
}

/// The labels by which a successor is looked for among many pods.
fn selector(judged: &PodFacts) -> Option<String> {
    let hash = judged.labels.get(TEMPLATE_HASH)?;
    Some(format!("{TEMPLATE_HASH}={hash}"))
}

impl Shop<'_> {
    /// Looks which pods there are before the act.
    pub(super) async fn before(&self, judged: &PodFacts) -> Result<Before, Failure> {
        let api: Api<Pod> = Api::namespaced(self.connection.client.clone(), &judged.namespace);
        let what = format!("listing pods in namespace {}", judged.namespace);
        let parameters = ListParams {
            label_selector: selector(judged),
            ..ListParams::default()
        };
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        let uids = list(self.connection, &what, &api, &parameters, uid).await?;
        Ok(Before {
            at: self.records.now(),
            uids: uids.into_iter().collect(),
        })
    }

    /// Follows the successor of a pod that was evicted.
    pub(super) async fn follow(
        &self,
        judged: &PodFacts,
        controller: &Controller,
        before: &Before,
        held: &mut Held,
    ) -> Followed {
        let config = watcher::Config {
            label_selector: selector(judged),
            ..watcher::Config::default()
        };
        let find = |pods: &Pods| pods.successor(judged, controller, before).cloned();
        let waiting = format!("{} {} has made no new pod yet", controller.kind, controller.name);
        self.until_captured(judged, config, find, &waiting, held).await
    }

    /// Waits until the pod that `find` finds is captured.
    pub(super) async fn follow_itself(&self, judged: &PodFacts, held: &mut Held) -> Followed {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", judged.name));
        let find = |pods: &Pods| pods.known.get(&judged.uid).filter(|pod| !pod.deleting).cloned();
        self.until_captured(judged, config, find, "the pod is gone", held)
            .await
    }

    async fn until_captured(
        &self,
        judged: &PodFacts,
        config: watcher::Config,
        find: impl Fn(&Pods) -> Option<PodFacts>,
        waiting: &str,
        held: &mut Held,
    ) -> Followed {
        let api: Api<Pod> = Api::namespaced(self.connection.client.clone(), &judged.namespace);
        let mut stream = pin!(watch(api, config).default_backoff());
        let deadline = Instant::now() + self.how.deadline;
        let mut pods = Pods::default();
        let mut look_at = Instant::now();
        let mut looks = 0;
        let mut last = waiting.to_owned();
        loop {
            tokio::select! {
                event = stream.next() => match event {
                    Some(Ok(event)) => pods.take(event),
                    // It is begun anew by itself.
                    Some(Err(error)) => tracing::debug!("the watch of pods was interrupted: {error}"),
                    None => return Followed::Late("the watch of pods ended".to_owned()),
                },
                () = sleep_until(look_at.max(Instant::now() + LOOK_AGAIN / 4)) => {}
                () = sleep_until(deadline) => return Followed::Late(last),
                () = self.stop.wait() => return Followed::Interrupted(last),
            }
            self.records.renew(judged, held).await;
            let Some(pod) = find(&pods) else {
                waiting.clone_into(&mut last);
                continue;
            };
            if pod.enrolment != Enrolment::Enabled {
                last = format!("{} is not enrolled yet", pod.display_name());
                continue;
            }
            if Instant::now() < look_at {
                continue;
            }
            let ways = match self.verifier.ways.repeated() {
                Ok(without_probes) if looks >= PROBED_LOOKS => without_probes,
                Err(_) if looks >= PROBED_LOOKS => return Followed::Late(last),
                _ => self.verifier.ways.clone(),
            };
            looks += 1;
            let seen = tokio::select! {
                seen = self.verifier.verify_by(&ways, &pod.namespace, &pod.name, self.verifier.confirm) => seen,
                () = sleep_until(deadline) => return Followed::Late(last),
                () = self.stop.wait() => return Followed::Interrupted(last),
            };
            look_at = Instant::now() + LOOK_AGAIN;
            match seen {
                Ok(seen) if seen.uid != pod.uid => {}
                Ok(seen) if seen.state == State::Captured => return Followed::Captured(Box::new(seen)),
                Ok(seen) if seen.state.is_finding() => return Followed::Lost(Box::new(seen)),
                Ok(seen) => last = format!("{} is {}: {}", seen.display_name(), seen.state, seen.sentence()),
                Err(error) => last = format!("{} could not be read: {error:#}", pod.display_name()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn before() -> Before {
        Before {
            at: at(10),
            uids: BTreeSet::from(["sibling".to_owned()]),
        }
    }

    fn controller(kind: &str) -> Controller {
        Controller {
            kind: kind.to_owned(),
            name: "cart".to_owned(),
            uid: "owner".to_owned(),
        }
    }

    fn pod(name: &str, uid: &str, created: i64, kind: &str) -> PodFacts {
        PodFacts {
            name: name.to_owned(),
            uid: uid.to_owned(),
            node: Some("a".to_owned()),
            created: Some(at(created)),
            controller: Some(controller(kind)),
            ..PodFacts::default()
        }
    }

    #[test]
    fn a_successor_is_newer_and_of_the_same_controller() {
        let judged = pod("cart-1", "old", 1, "ReplicaSet");
        let owner = controller("ReplicaSet");
        let may = |pod: &PodFacts| may_succeed(pod, &judged, &owner, &before());
        assert!(may(&pod("cart-2", "new", 10, "ReplicaSet")));
        assert!(
            !may(&pod("cart-2", "other", 9, "ReplicaSet")),
            "it was there before"
        );
        assert!(
            !may(&pod("cart-3", "sibling", 10, "ReplicaSet")),
            "it was there in the same second"
        );
        assert!(
            !may(&pod("cart-1", "old", 10, "ReplicaSet")),
            "it is the same pod"
        );
        let mut foreign = pod("cart-2", "new", 10, "ReplicaSet");
        foreign.controller.as_mut().unwrap().uid = "another".to_owned();
        assert!(!may(&foreign));
        let mut leaving = pod("cart-2", "new", 10, "ReplicaSet");
        leaving.deleting = true;
        assert!(!may(&leaving));
    }

    #[test]
    fn a_stateful_set_gives_the_name_again_and_a_daemon_set_the_node() {
        let owner = controller("StatefulSet");
        let judged = pod("db-0", "old", 1, "StatefulSet");
        assert!(may_succeed(
            &pod("db-0", "new", 10, "StatefulSet"),
            &judged,
            &owner,
            &before()
        ));
        assert!(!may_succeed(
            &pod("db-1", "new", 10, "StatefulSet"),
            &judged,
            &owner,
            &before()
        ));
        let owner = controller("DaemonSet");
        let mut elsewhere = pod("log-2", "new", 10, "DaemonSet");
        elsewhere.node = Some("b".to_owned());
        assert!(!may_succeed(&elsewhere, &judged, &owner, &before()));
    }
}
