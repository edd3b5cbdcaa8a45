// SPDX-License-Identifier: Apache-2.0
//! A node of the tests' own: an istio-cni that takes one pod after the other, or does not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::*;
use crate::eligibility::Expectation;
use crate::facts::{Controller, Enrolment, PodFacts};
use crate::policy::Permissions;
use crate::ports::PortSet;
use crate::repair::Moment;
use crate::time::Time;
use crate::uid::PodUid;
use crate::verdict::{Redirection, State};

/// How long one turn of the loop takes.
pub(super) const TURN: Duration = Duration::from_millis(100);

/// How this istio-cni is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cni {
    Works,
    Dead,
}

pub(super) struct Pod {
    pub(super) standing: Standing,
    pub(super) state: State,
    pub(super) streak: Option<Streak>,
    pub(super) proved_at: Option<Time>,
    pub(super) captured_at: Option<Time>,
    pub(super) place: Option<Place>,
    pub(super) redirection: Redirection,
    pub(super) ports: PortSet,
    /// istio-cni's cache has another namespace.
    pub(super) stale: bool,
    /// ztunnel believes that it serves it.
    pub(super) believed: bool,
    /// ztunnel refuses it.
    pub(super) refused: bool,
    pub(super) version: u64,
}

pub(super) struct Bench {
    pub(super) healer: Healer,
    pub(super) view: NodeView,
    pub(super) pods: BTreeMap<PodUid, Pod>,
    pub(super) now: Time,
    pub(super) cni: Cni,
    /// Whom istio-cni has to take, in order.
    pub(super) queue: Vec<PodUid>,
    pub(super) takes: Duration,
    pub(super) free_at: Time,
    pub(super) asked: Vec<(PodUid, Attempt)>,
    pub(super) most: usize,
    pub(super) undone: BTreeSet<PodUid>,
    pub(super) put_back: BTreeSet<PodUid>,
    pub(super) notices: Vec<Notice>,
    pub(super) conflicts: u32,
    pub(super) answer: Option<Asked>,
    pub(super) fetched: usize,
    /// istio-cni does what it is asked, and has yet to say so.
    pub(super) silent: bool,
}

pub(super) fn on() -> Permissions {
    Permissions {
        ready: true,
        stuck: true,
        grace_period: Duration::from_secs(300),
        jobs: false,
    }
}

pub(super) fn uid(number: usize) -> PodUid {
    PodUid::parse(&format!("00000000-0000-4000-8000-{number:012}")).unwrap()
}

impl Bench {
    pub(super) fn new(pods: &[(&str, &str)]) -> Self {
        Self::with(on(), pods)
    }

    /// `pods`: the namespace and the owner of each, all of them lost.
    pub(super) fn with(permissions: Permissions, pods: &[(&str, &str)]) -> Self {
        let now = Time::from_nanos(1_000_000_000_000);
        let view = NodeView {
            ztunnel_since: Some(now),
            cni_since: Some(now),
            serving: Serving::Captures,
            support: Support::Yes,
            containers: (Some("c1".to_owned()), Some("z1".to_owned())),
            ..NodeView::default()
        };
        let care = Care::DEFAULT;
        let mut bench = Self {
            healer: Healer::new(Healing {
                permissions,
                care,
                toggle: false,
            })
            .alone(),
            view,
            pods: BTreeMap::new(),
            now,
            cni: Cni::Works,
            queue: Vec::new(),
            takes: Duration::from_millis(200),
            free_at: now,
            asked: Vec::new(),
            most: 0,
            undone: BTreeSet::new(),
            put_back: BTreeSet::new(),
            notices: Vec::new(),
            conflicts: 0,
            answer: None,
            fetched: 0,
            silent: false,
        };
        for (number, (namespace, owner)) in pods.iter().enumerate() {
            bench.add(number, namespace, owner);
        }
        bench
    }

    fn add(&mut self, number: usize, namespace: &str, owner: &str) {
        let uid = uid(number);
        let facts = PodFacts {
            namespace: namespace.to_owned(),
            name: format!("{owner}-{number}"),
            uid: uid.to_string(),
            addresses: vec!["10.0.0.7".parse().unwrap()],
            controller: Some(Controller {
                kind: "ReplicaSet".to_owned(),
                name: owner.to_owned(),
                uid: owner.to_owned(),
            }),
            enrolment: Enrolment::Enabled,
            ready: true,
            sandbox_ready: Some(true),
            ..PodFacts::default()
        };
        let pod = Pod {
            standing: Standing {
                facts,
                expectation: Expectation::Expected,
                certain: true,
                namespace_repair: None,
                namespace_strategy: None,
            },
            state: State::Orphan,
            streak: None,
            proved_at: None,
            captured_at: None,
            place: Some(Place {
                netns: 100 + number as u64,
                start: 5,
            }),
            redirection: Redirection::Absent,
            ports: PortSet::EMPTY,
            stale: false,
            believed: false,
            refused: false,
            version: 1,
        };
        self.pods.insert(uid, pod);
    }

    pub(super) fn pod(&mut self, number: usize) -> &mut Pod {
        self.pods.get_mut(&uid(number)).unwrap()
    }

    pub(super) fn at(&self) -> Moment {
        let server = "2026-11-29T10:00:00Z".parse::<jiff::Timestamp>().unwrap();
        let elapsed = self.now.since(Time::from_nanos(1_000_000_000_000));
        let server = server + jiff::SignedDuration::try_from(elapsed).unwrap();
        Moment {
            now: self.now,
            server,
        }
    }

    pub(super) fn read(&mut self, uid: &PodUid) {
        let now = self.now;
        let pod = self.pods.get_mut(uid).unwrap();
        let Some(place) = pod.place else { return };
        if pod.state == State::Captured {
            (pod.proved_at, pod.captured_at, pod.streak) = (Some(now), Some(now), None);
            return;
        }
        let same = pod.streak.filter(|streak| streak.place == place);
        pod.streak = Some(match same {
            Some(streak) => Streak {
                readings: streak.readings + 1,
                last: now,
                ..streak
            },
            None => Streak {
                place,
                readings: 1,
                first: now,
                last: now,
            },
        });
    }

    /// istio-cni takes its next pod, if it has had time for it.
    pub(super) fn enrol(&mut self) {
        // A pod that is enrolled by now needs nothing.
        let pods = &self.pods;
        self.queue
            .retain(|uid| pods[uid].standing.facts.enrolment == Enrolment::Pending);
        if self.cni == Cni::Dead || self.now < self.free_at || self.queue.is_empty() {
            return;
        }
        self.free_at = self.now + self.takes;
        let uid = self.queue.remove(0);
        let now = self.now;
        let pod = self.pods.get_mut(&uid).unwrap();
        if std::mem::take(&mut pod.stale) {
            return;
        }
        pod.redirection = Redirection::Routed;
        if pod.refused {
            return;
        }
        if !self.silent {
            pod.standing.facts.enrolment = Enrolment::Enabled;
        }
        pod.version += 1;
        if !pod.believed {
            (pod.state, pod.captured_at, pod.streak) = (State::Captured, Some(now), None);
        }
    }

    pub(super) fn turn(&mut self) {
        self.now = self.now + TURN;
        self.enrol();
        let at = self.at();
        let candidates = told(&self.pods);
        self.healer.judge(at, &self.view, &candidates);
        for uid in self.healer.looks() {
            self.read(&uid);
        }
        for (id, request) in self.healer.requests(at) {
            let answer = self.perform(request);
            let at = self.at();
            let candidates = told(&self.pods);
            self.healer.answer(at, id, answer, &candidates);
        }
        let outstanding = self
            .pods
            .values()
            .filter(|pod| pod.standing.facts.enrolment == Enrolment::Pending);
        self.most = self.most.max(outstanding.count());
        self.notices.extend(self.healer.drain());
    }

    fn perform(&mut self, request: Request) -> Answer {
        match request {
            Request::Fetch(pod) => {
                self.fetched += 1;
                let pod = &self.pods[&pod.cgroup_uid];
                Answer::Fetched(Ok(Some(Box::new(Fetched {
                    standing: pod.standing.clone(),
                    version: pod.version.to_string(),
                }))))
            }
            Request::Ask { pod, version, ask } => {
                if let Some(answer) = self.answer.clone() {
                    return Answer::Asked(answer);
                }
                let found = self.pods.get_mut(&pod.cgroup_uid).unwrap();
                if self.conflicts > 0 {
                    self.conflicts -= 1;
                    found.version += 1;
                }
                if version != found.version.to_string() {
                    return Answer::Asked(Asked::Changed);
                }
                let facts = &mut found.standing.facts;
                let text = ask.to_string();
                assert_ne!(
                    facts.heal.as_ref(),
                    Some(&text),
                    "an ask that changes nothing is no event"
                );
                (facts.enrolment, facts.heal) = (Enrolment::Pending, Some(text));
                found.version += 1;
                self.asked.push((pod.cgroup_uid.clone(), ask.attempt));
                self.queue.push(pod.cgroup_uid);
                Answer::Asked(Asked::Accepted)
            }
            Request::TakeOut(pod) => {
                self.undone.insert(pod.cgroup_uid.clone());
                let found = self.pods.get_mut(&pod.cgroup_uid).unwrap();
                found.redirection = Redirection::Absent;
                // istio-cni lets it go, and whoever remembered it forgets it.
                (found.standing.facts.enrolment, found.believed) = (Enrolment::None, false);
                found.version += 1;
                Answer::TakenOut(Ok(()))
            }
            Request::PutBack(pod) => {
                self.put_back.insert(pod.cgroup_uid.clone());
                let found = self.pods.get_mut(&pod.cgroup_uid).unwrap();
                found.standing.facts.enrolment = Enrolment::Pending;
                found.version += 1;
                self.queue.push(pod.cgroup_uid);
                Answer::PutBack(Ok(()))
            }
        }
    }

    pub(super) fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.turn();
        }
    }

    pub(super) fn healed(&self) -> usize {
        self.notices
            .iter()
            .filter(|notice| matches!(notice, Notice::Healed { .. }))
            .count()
    }

    pub(super) fn withheld(&self) -> BTreeSet<Withheld> {
        let why = self.notices.iter().filter_map(|notice| match notice {
            Notice::Withheld { why, .. } => Some(*why),
            _ => None,
        });
        why.collect()
    }

    pub(super) fn failures(&self) -> Vec<Diagnosis> {
        let why = self.notices.iter().filter_map(|notice| match notice {
            Notice::Failed { why, .. } => Some(*why),
            _ => None,
        });
        why.collect()
    }
}

/// The pods as the healer is told of them.
pub(super) fn told(pods: &BTreeMap<PodUid, Pod>) -> BTreeMap<PodUid, Candidate<'_>> {
    let mut told = BTreeMap::new();
    for (uid, pod) in pods {
        let candidate = Candidate {
            standing: &pod.standing,
            state: pod.state,
            streak: pod.streak,
            proved_at: pod.proved_at,
            captured_at: pod.captured_at,
            place: pod.place,
            leads: pod.redirection,
            ports: pod.ports,
            taken: false,
        };
        told.insert(uid.clone(), candidate);
    }
    told
}
