// SPDX-License-Identifier: Apache-2.0
//! Knows the rules of heals in place and what really happened, and nothing of the healer.
//!
//! Where what happened leaves a doubt (an ask that may have failed already, one that was still on its way) the healer
//! gets its benefit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::super::{Care, Notice};
use crate::ask::{Against, Ask, Attempt};
use crate::time::Time;
use crate::uid::PodUid;

/// The readings that an ask rests on.
const LEAST_READINGS: usize = 3;
/// Asks outstanding at once, and before a heal was proved.
const FEW: usize = 4;
/// After this an ask has certainly failed, if nothing came of it, however many were before it.
const SURELY_FAILED: Duration = Duration::from_secs(150);
/// Within this a pod that an ask made worse is taken out of the mesh again.
const UNDONE_BY: Duration = Duration::from_secs(180);
/// From a pod's turn to its ask lie a fetch, a reading and their journeys.
const ON_THE_WAY: Duration = Duration::from_secs(30);

/// What really happened.
#[derive(Debug)]
pub(super) enum What {
    /// An agent began; what the last one had in hand is nobody's but the pods'.
    Began,
    /// It read a pod's sockets, in this namespace.
    Read { pod: PodUid, captured: bool, netns: u64 },
    /// The API gave it a pod of this version.
    Fetched { pod: PodUid, version: u64 },
    /// The API accepted its patch.
    Asked {
        pod: PodUid,
        patch: Value,
        ask: Ask,
        /// What stood against it when it was sent.
        against: Vec<&'static str>,
        /// The version of the pod, and whether it was pending, until then.
        version: u64,
        pending: bool,
        owner: String,
        namespace: String,
        /// How many pods the owner has here.
        siblings: usize,
    },
    /// istio-cni says of a pod that it is enrolled.
    Worked { pod: PodUid },
    /// istio-cni's or ztunnel's container is another, or ztunnel ended.
    Anew,
    /// The pod's sandbox is another one.
    Replaced { pod: PodUid },
    /// Rules stand in a pod where nothing listens, and an ask wrote them.
    Worse { pod: PodUid },
    /// They do no more.
    Better { pod: PodUid },
    /// What the healer said, for whoever reads the trace.
    Told(#[expect(dead_code, reason = "it is shown")] Notice),
    /// After everything was mended: whom nobody brought back.
    Rest { lost: Vec<PodUid> },
}

#[derive(Default)]
struct Pod {
    owner: String,
    namespace: String,
    /// Readings in a row that found nothing, and where.
    readings: Vec<Time>,
    netns: u64,
    fetched: Option<(Time, u64)>,
    asked: Option<Time>,
    /// Whether an ask stands of which no reading shows that it took: whoever comes after waits for its proof.
    open: bool,
    /// When it was first asked for, from which its deadline counts at the earliest.
    began: Option<Time>,
    /// Whether istio-cni did it since.
    worked: bool,
    attempts: Vec<(Against, Attempt)>,
    worse: Option<Time>,
}

/// What is wrong with what happened, each with its rule.
pub(super) fn judge(care: &Care, trace: &[(Time, What)]) -> Vec<(&'static str, Time, String)> {
    let mut judge = Judge {
        care,
        pods: BTreeMap::new(),
        shares: Vec::new(),
        worked: None,
        proved: None,
        breaches: Vec::new(),
    };
    for (at, what) in trace {
        judge.late(*at);
        judge.take(*at, what);
    }
    judge.breaches
}

struct Judge<'a> {
    care: &'a Care,
    pods: BTreeMap<PodUid, Pod>,
    /// Whose pods were asked for, by this agent.
    shares: Vec<(Time, String)>,
    worked: Option<Time>,
    /// Whether a heal was proved to this agent, with these containers.
    proved: Option<Time>,
    breaches: Vec<(&'static str, Time, String)>,
}

impl Judge<'_> {
    fn blame(&mut self, rule: &'static str, at: Time, what: impl Into<String>) {
        self.breaches.push((rule, at, what.into()));
    }

    fn pod(&mut self, uid: &PodUid) -> &mut Pod {
        self.pods.entry(uid.clone()).or_default()
    }

    fn take(&mut self, at: Time, what: &What) {
        match what {
            What::Began => {
                (self.proved, self.worked) = (None, None);
                self.shares.clear();
                for pod in self.pods.values_mut() {
                    // It finds what was made worse, and has the same time for it.
                    pod.worse = pod.worse.map(|_| at);
                    pod.readings.clear();
                    (pod.fetched, pod.asked) = (None, None);
                }
            }
            What::Read { pod, captured, netns } => self.read(at, pod, *captured, *netns),
            What::Fetched { pod, version } => self.pod(pod).fetched = Some((at, *version)),
            What::Asked { .. } => self.asked(at, what),
            What::Worked { pod } => {
                self.worked = Some(at);
                self.pod(pod).worked = true;
            }
            What::Anew => {
                (self.proved, self.worked) = (None, None);
                self.pods.values_mut().for_each(|pod| pod.asked = None);
            }
            What::Replaced { pod } => {
                let pod = self.pod(pod);
                pod.readings.clear();
                (pod.asked, pod.open) = (None, false);
            }
            What::Told(_) => {}
            What::Worse { pod } => self.pod(pod).worse = Some(at),
            What::Better { pod } => self.pod(pod).worse = None,
            What::Rest { lost } => {
                if !lost.is_empty() {
                    self.blame("rest", at, format!("{lost:?} were never healed"));
                }
            }
        }
    }

    fn read(&mut self, at: Time, uid: &PodUid, captured: bool, netns: u64) {
        let pod = self.pod(uid);
        if captured || pod.netns != netns {
            pod.readings.clear();
        }
        pod.netns = netns;
        if !captured {
            return pod.readings.push(at);
        }
        if std::mem::take(&mut pod.open) {
            pod.asked = None;
            self.proved = Some(at);
        }
    }

    /// Who waits for what was taken back too late.
    fn late(&mut self, at: Time) {
        let late = self.pods.iter_mut().filter_map(|(uid, pod)| {
            let since = pod.worse.filter(|since| at.since(*since) > UNDONE_BY)?;
            pod.worse = None;
            Some((uid.clone(), since))
        });
        let late: Vec<_> = late.collect();
        for (uid, since) in late {
            self.blame("undo", since, format!("{uid} was made worse, and left so"));
        }
    }

    fn asked(&mut self, at: Time, what: &What) {
        let What::Asked {
            pod: uid,
            patch,
            ask,
            against,
            version,
            pending,
            owner,
            namespace,
            siblings,
        } = what
        else {
            return;
        };
        for why in against {
            self.blame("gates", at, format!("{uid}, though {why}"));
        }
        self.judge_patch(at, uid, patch, *version);
        self.judge_readings(at, uid);
        self.judge_pace(at, uid, owner, namespace);
        let gap = self.care.owner_gap.saturating_sub(ON_THE_WAY);
        let lately = self
            .shares
            .iter()
            .filter(|(asked, of)| of == owner && at.since(*asked) < gap);
        if ask.attempt == Attempt::First && lately.count() >= (siblings / 3).max(1) {
            self.blame("share", at, format!("{uid} of {owner}"));
        }
        // A second ask comes when another one's turn may have begun.
        if ask.attempt == Attempt::First {
            self.shares.push((at, owner.clone()));
        }
        let pod = self.pod(uid);
        let again = pod.attempts.iter().any(|(tried, attempt)| {
            *tried == ask.against && (*attempt == ask.attempt || ask.attempt == Attempt::First)
        });
        pod.attempts.push((ask.against.clone(), ask.attempt));
        (pod.owner, pod.namespace) = (owner.clone(), namespace.clone());
        (pod.asked, pod.open, pod.worked) = (Some(at), true, false);
        if ask.attempt == Attempt::First {
            pod.began = Some(at);
        }
        if again || (ask.attempt == Attempt::Second && !pending) {
            self.blame("repeat", at, format!("{uid} by {ask}"));
        }
    }

    /// Only what asks, of the very pod.
    fn judge_patch(&mut self, at: Time, uid: &PodUid, patch: &Value, version: u64) {
        let keys = |value: &Value| -> BTreeSet<String> {
            let object = value.as_object().into_iter().flatten();
            object.map(|(key, _)| key.clone()).collect()
        };
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<BTreeSet<_>>()
        };
        let metadata = &patch["metadata"];
        let annotations = &metadata["annotations"];
        let only = keys(patch) == names(&["metadata"])
            && keys(metadata).is_subset(&names(&["annotations", "resourceVersion", "uid"]))
            && keys(annotations) == names(&["ambient.istio.io/redirection", "meshmedic.io/heal"])
            && annotations["ambient.istio.io/redirection"] == "pending";
        if !only {
            self.blame("keys", at, format!("{uid} by {patch}"));
        }
        let judged = self.pod(uid).fetched.map(|(_, version)| version);
        let named = metadata["uid"] == uid.as_str()
            && metadata["resourceVersion"].as_str() == Some(&version.to_string());
        if judged != Some(version) || !named {
            self.blame(
                "preconditions",
                at,
                format!("{uid} in version {version}, judged was {judged:?}"),
            );
        }
    }

    fn judge_readings(&mut self, at: Time, uid: &PodUid) {
        let confirm = self.care.confirm;
        let pod = self.pod(uid);
        let (first, last) = (pod.readings.first().copied(), pod.readings.last().copied());
        let long = first
            .zip(last)
            .is_some_and(|(first, last)| last.since(first) >= confirm);
        let fetched = pod.fetched.map(|(at, _)| at);
        let fresh = last.zip(fetched).is_some_and(|(last, fetched)| last > fetched);
        if !long || pod.readings.len() < LEAST_READINGS {
            self.blame("confirm", at, format!("{uid} before its readings agreed"));
        }
        if !fresh {
            self.blame("look", at, format!("{uid} without a last look"));
        }
    }

    /// Few at a time, one before the first proof, and none where nothing came of the last.
    fn judge_pace(&mut self, at: Time, uid: &PodUid, owner: &str, namespace: &str) {
        let others = self.pods.iter().filter(|(other, _)| *other != uid);
        let others: Vec<(Time, &Pod)> = others.filter_map(|(_, pod)| Some((pod.asked?, pod))).collect();
        let outstanding = others
            .iter()
            .filter(|(_, pod)| {
                !pod.worked
                    && pod
                        .began
                        .is_some_and(|began| at.since(began) < self.care.deadline)
            })
            .count();
        let worked = self.worked;
        let failed: Vec<&Pod> = others
            .iter()
            .filter(|(asked, _)| {
                at.since(*asked) > SURELY_FAILED && worked.is_none_or(|worked| worked < *asked)
            })
            .map(|(_, pod)| *pod)
            .collect();
        let of_owner = failed.iter().any(|pod| pod.owner == owner);
        let of_namespace = failed.iter().filter(|pod| pod.namespace == namespace).count();
        let strangers = failed.iter().any(|one| {
            failed
                .iter()
                .any(|other| one.owner != other.owner && one.namespace != other.namespace)
        });
        if outstanding >= FEW {
            self.blame("outstanding", at, format!("{uid} beside {outstanding}"));
        } else if outstanding > 0 && self.proved.is_none() {
            self.blame("canary", at, format!("{uid} beside {outstanding}"));
        }
        if of_owner || of_namespace > 1 || strangers {
            self.blame("feedback", at, format!("{uid}, though others did not take"));
        }
    }
}
