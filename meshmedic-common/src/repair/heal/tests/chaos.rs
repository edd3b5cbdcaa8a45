// SPDX-License-Identifier: Apache-2.0
//! Nodes on which much goes wrong, each run a function of its seed, and each defence taken out in turn.

mod mishaps;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::Duration;

use serde_json::Value;

use super::super::*;
use super::bench::{Bench, Cni, on, told};
use super::judge::{What, judge};
use crate::facts::Enrolment;
use crate::repair::RequestId;
use crate::repair::sabotage::{Defence, OUT};
use crate::rng::Rng;
use crate::time::Time;
use crate::uid::PodUid;
use crate::verdict::{Redirection, State};
use mishaps::Trouble;

/// Runs with all defences in place, and those that are tried at most before one counts as one that nobody would miss.
const RUNS: u64 = 25;
const TRIED: u64 = 60;
/// How long one turn takes.
const TURN: Duration = Duration::from_millis(250);
/// How long much goes wrong, and how long the healer has once it does not any more.
const TROUBLE: Duration = Duration::from_secs(10 * 60);
const REST: Duration = Duration::from_secs(12 * 60);
/// What was taken out of the mesh is put back after this.
const RESTORED: Duration = Duration::from_secs(20);

/// A request on its way to the API, or an answer on its way back.
enum Flight {
    There(RequestId, Request, Vec<&'static str>),
    Back(RequestId, Answer),
}

struct Sim {
    rng: Rng,
    bench: Bench,
    flights: Vec<(Time, Flight)>,
    /// Whom to read in the next turn.
    looks: BTreeSet<PodUid>,
    /// Pods whose listeners are back, which no reading has shown yet.
    back: BTreeSet<PodUid>,
    /// Who was opted out when it was last fetched.
    fetched_out: BTreeSet<PodUid>,
    /// Whose rules an ask wrote where there were none.
    worse: BTreeSet<PodUid>,
    restore: Vec<(Time, PodUid)>,
    number: u64,
    ends: Vec<(Time, Trouble)>,
    trace: Vec<(Time, What)>,
}

impl Sim {
    /// Some time below so many milliseconds.
    fn within(&mut self, millis: u64) -> Duration {
        Duration::from_millis(self.rng.below(millis))
    }

    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let namespaces = 2 + rng.below(3);
        let owners = 2 + rng.below(6);
        let pods: Vec<(String, String)> = (0..6 + rng.below(10))
            .map(|_| {
                let owner = rng.below(owners);
                (format!("ns{}", owner % namespaces), format!("owner{owner}"))
            })
            .collect();
        let named: Vec<(&str, &str)> = pods.iter().map(|(ns, owner)| (&**ns, &**owner)).collect();
        let mut bench = Bench::new(&named);
        bench.takes = Duration::from_millis(100 + rng.below(1500));
        bench.healer = Healer::new(Healing {
            permissions: on(),
            care: care(),
            toggle: false,
        })
        .alone();
        for pod in bench.pods.values_mut() {
            (pod.state, pod.redirection) = (State::Captured, Redirection::Routed);
        }
        let mut sim = Self {
            rng,
            bench,
            flights: Vec::new(),
            looks: BTreeSet::new(),
            back: BTreeSet::new(),
            fetched_out: BTreeSet::new(),
            worse: BTreeSet::new(),
            restore: Vec::new(),
            number: 0,
            ends: Vec::new(),
            trace: Vec::new(),
        };
        sim.tell(What::Began);
        sim
    }

    fn run(seed: u64) -> Vec<(Time, What)> {
        let mut sim = Self::new(seed);
        let begin = sim.bench.now;
        while sim.bench.now.since(begin) < TROUBLE {
            if sim.rng.one_in(40) {
                sim.mishap();
            }
            sim.turn();
        }
        sim.mend();
        while sim.bench.now.since(begin) < TROUBLE + REST {
            sim.turn();
        }
        let lost = sim.bench.pods.iter();
        let lost = lost.filter(|(uid, pod)| pod.state.is_lost() && !sim.back.contains(*uid));
        let lost = lost.map(|(uid, _)| uid.clone()).collect();
        sim.tell(What::Rest { lost });
        sim.trace
    }

    fn tell(&mut self, what: What) {
        self.trace.push((self.bench.now, what));
    }

    fn turn(&mut self) {
        self.bench.now = self.bench.now + TURN;
        let now = self.bench.now;
        let (over, ends) = self.ends.drain(..).partition(|(at, _)| *at <= now);
        self.ends = ends;
        let over: Vec<(Time, Trouble)> = over;
        for (_, trouble) in over {
            let goes_on = self.ends.iter().any(|(_, other)| *other == trouble);
            if !goes_on {
                self.end(trouble);
            }
        }
        for uid in std::mem::take(&mut self.looks) {
            // Readers are busy at times, and what is asked for meanwhile has no last look.
            if self.rng.one_in(4) {
                self.looks.insert(uid);
            } else {
                self.read(&uid);
            }
        }
        self.fly();
        self.restore();
        self.enrol();
        let at = self.bench.at();
        let none = Healer::new(self.bench.healer.healing).alone();
        let mut healer = std::mem::replace(&mut self.bench.healer, none);
        healer.judge(at, &self.bench.view, &told(&self.bench.pods));
        self.looks.extend(healer.looks());
        for (id, request) in healer.requests(at) {
            let against = self.stands_against(&request);
            let arrives = now + self.within(1500);
            self.flights.push((arrives, Flight::There(id, request, against)));
        }
        for notice in healer.drain() {
            self.tell(What::Told(notice));
        }
        self.bench.healer = healer;
        if self.rng.one_in(30) {
            // A census, now and then.
            for uid in std::mem::take(&mut self.back) {
                let pod = self.bench.pods.get_mut(&uid).unwrap();
                (pod.state, pod.captured_at, pod.streak) = (State::Captured, Some(now), None);
            }
        }
    }

    fn read(&mut self, uid: &PodUid) {
        let pod = self.bench.pods.get_mut(uid).unwrap();
        if self.back.remove(uid) {
            pod.state = State::Captured;
        }
        let what = What::Read {
            pod: uid.clone(),
            captured: pod.state == State::Captured,
            netns: pod.place.unwrap().netns,
        };
        self.tell(what);
        self.bench.read(uid);
    }

    /// What forbids an ask as things stand now.
    fn stands_against(&self, request: &Request) -> Vec<&'static str> {
        let Request::Ask { pod, ask, .. } = request else {
            return Vec::new();
        };
        let (view, now) = (&self.bench.view, self.bench.now);
        let young = |since: Time| now.since(since) < Care::DEFAULT.settle;
        let pod_uid = &pod.cgroup_uid;
        let all = [
            ("repairs are paused", view.gates.paused.is_some()),
            ("istiod has no endpoint", view.gates.mesh_fault.is_some()),
            ("ztunnel is not settled", view.ztunnel_since.is_none_or(young)),
            ("istio-cni is not settled", view.cni_since.is_none_or(young)),
            ("ztunnel is not proved", view.serving == Serving::Unproven),
            (
                "none is begun in the cluster",
                view.breaker.is_some() && ask.attempt == Attempt::First,
            ),
            ("it opted out", self.fetched_out.contains(pod_uid)),
        ];
        all.into_iter()
            .filter_map(|(why, holds)| holds.then_some(why))
            .collect()
    }

    fn fly(&mut self) {
        let now = self.bench.now;
        let (due, rest) = self.flights.drain(..).partition(|(at, _)| *at <= now);
        self.flights = rest;
        let due: Vec<(Time, Flight)> = due;
        for (_, flight) in due {
            match flight {
                Flight::There(id, request, against) => {
                    let answer = self.perform(request, against);
                    let back = now + self.within(1500);
                    self.flights.push((back, Flight::Back(id, answer)));
                }
                Flight::Back(id, answer) => {
                    let at = self.bench.at();
                    let pods = told(&self.bench.pods);
                    self.bench.healer.answer(at, id, answer, &pods);
                }
            }
        }
    }

    fn perform(&mut self, request: Request, against: Vec<&'static str>) -> Answer {
        // Now and then the kubelet writes the pod in between.
        let written = self.rng.one_in(8);
        let (Request::Fetch(of) | Request::Ask { pod: of, .. } | Request::TakeOut(of) | Request::PutBack(of)) =
            &request;
        let of = of.cgroup_uid.clone();
        let pod = self.bench.pods.get_mut(&of).unwrap();
        match request {
            Request::Fetch(_) if self.rng.one_in(20) => Answer::Fetched(Err("busy".to_owned())),
            Request::Fetch(_) => {
                let fetched = Fetched {
                    standing: pod.standing.clone(),
                    version: pod.version.to_string(),
                };
                let version = pod.version;
                self.fetched_out.remove(&of);
                if pod.standing.facts.repair.is_some() {
                    self.fetched_out.insert(of.clone());
                }
                self.tell(What::Fetched { pod: of, version });
                Answer::Fetched(Ok(Some(Box::new(fetched))))
            }
            Request::Ask { version, ask, .. } => {
                pod.version += u64::from(written);
                if self.rng.one_in(25) {
                    return Answer::Asked(Asked::Busy(Some(Duration::from_secs(2))));
                }
                let patch = patch(of.as_str(), &version, &ask);
                self.ask(&of, &patch, ask, against)
            }
            Request::TakeOut(_) => {
                (pod.redirection, pod.standing.facts.enrolment) = (Redirection::Absent, Enrolment::None);
                pod.standing.facts.toggle_restore = Some("{\"label\":null}".to_owned());
                pod.version += 1;
                self.worse.remove(&of);
                self.tell(What::Better { pod: of.clone() });
                self.restore.push((self.bench.now + RESTORED, of));
                Answer::TakenOut(Ok(()))
            }
            Request::PutBack(_) => panic!("no strategy of these runs has the toggle"),
        }
    }

    /// The API takes a patch as it is: its preconditions, if it has any, and what it writes.
    fn ask(&mut self, of: &PodUid, patch: &Value, ask: Ask, against: Vec<&'static str>) -> Answer {
        let siblings = |pods: &BTreeMap<PodUid, super::bench::Pod>, owner: &str| {
            let of_owner = pods
                .values()
                .filter(|pod| pod.standing.facts.controller.as_ref().unwrap().uid == owner);
            of_owner.count()
        };
        let metadata = &patch["metadata"];
        let owner = self.bench.pods[of]
            .standing
            .facts
            .controller
            .as_ref()
            .unwrap()
            .uid
            .clone();
        let siblings = siblings(&self.bench.pods, &owner);
        let pod = self.bench.pods.get_mut(of).unwrap();
        let wanted = metadata["resourceVersion"].as_str();
        if wanted.is_some_and(|wanted| wanted != pod.version.to_string()) {
            return Answer::Asked(Asked::Changed);
        }
        let version = pod.version;
        let pending = pod.standing.facts.enrolment == Enrolment::Pending;
        let facts = &mut pod.standing.facts;
        if metadata["annotations"]["ambient.istio.io/redirection"] == "pending" {
            facts.enrolment = Enrolment::Pending;
        }
        facts.heal = Some(ask.to_string());
        let namespace = facts.namespace.clone();
        pod.version += 1;
        self.bench.queue.push(of.clone());
        self.tell(What::Asked {
            pod: of.clone(),
            patch: patch.clone(),
            ask,
            against,
            version,
            pending,
            owner,
            namespace,
            siblings,
        });
        if self.rng.one_in(15) {
            return Answer::Asked(Asked::InDoubt("the answer was lost".to_owned()));
        }
        Answer::Asked(Asked::Accepted)
    }

    /// What was taken out of the mesh is put back, and enrolled like any other pod.
    fn restore(&mut self) {
        let now = self.bench.now;
        let ready = self.bench.view.ztunnel_since.is_some() && self.bench.cni == Cni::Works;
        let (due, rest) = self.restore.drain(..).partition(|(at, _)| *at <= now && ready);
        self.restore = rest;
        let due: Vec<(Time, PodUid)> = due;
        for (_, uid) in due {
            let pod = self.bench.pods.get_mut(&uid).unwrap();
            pod.standing.facts.toggle_restore = None;
            pod.standing.facts.enrolment = Enrolment::Enabled;
            pod.version += 1;
            if !pod.refused {
                (pod.state, pod.captured_at, pod.streak) = (State::Captured, Some(now), None);
                pod.redirection = Redirection::Routed;
            }
        }
    }

    fn enrol(&mut self) {
        if self.bench.view.ztunnel_since.is_none() {
            // It writes rules, and finds nobody to send the pod to.
            return;
        }
        let before: BTreeMap<PodUid, (Redirection, Enrolment)> = self
            .bench
            .pods
            .iter()
            .map(|(uid, pod)| (uid.clone(), (pod.redirection, pod.standing.facts.enrolment)))
            .collect();
        self.bench.enrol();
        let mut news = Vec::new();
        for (uid, pod) in &self.bench.pods {
            let (redirection, enrolment) = before[uid];
            if pod.standing.facts.enrolment == Enrolment::Enabled && enrolment == Enrolment::Pending {
                news.push(What::Worked { pod: uid.clone() });
            }
            let written = pod.redirection == Redirection::Routed && redirection != Redirection::Routed;
            if written && pod.state != State::Captured && self.worse.insert(uid.clone()) {
                news.push(What::Worse { pod: uid.clone() });
            }
            if pod.state == State::Captured && self.worse.remove(uid) {
                news.push(What::Better { pod: uid.clone() });
            }
        }
        news.into_iter().for_each(|what| self.tell(what));
    }
}

const fn care() -> Care {
    Care {
        // Long beside the way of a request, so that the judge can tell.
        owner_gap: Duration::from_secs(90),
        ..Care::DEFAULT
    }
}

#[test]
fn whatever_goes_wrong_no_rule_is_broken_and_all_are_healed() {
    let mut asks = 0;
    for seed in 0..RUNS {
        let trace = Sim::run(seed);
        let asked = |what: &What| matches!(what, What::Asked { .. });
        asks += trace.iter().filter(|(_, what)| asked(what)).count();
        let breaches = judge(&care(), &trace);
        if let Some((_, at, _)) = breaches.first() {
            let before = trace.iter().filter(|(when, _)| when <= at).rev().take(60);
            for (when, what) in before.collect::<Vec<_>>().into_iter().rev() {
                writeln!(std::io::stderr(), "{when:?} {what:?}").ok();
            }
        }
        assert!(breaches.is_empty(), "seed {seed}: {breaches:?}");
    }
    assert!(asks > 300, "hardly anything was asked: {asks}");
}

/// What keeps heals from doing harm, and the rule that is broken without it.
const DEFENCES: [(Defence, &str); 15] = [
    (Defence::Reason(Withheld::Paused), "gates"),
    (Defence::Reason(Withheld::MeshFault), "gates"),
    (Defence::Reason(Withheld::NodeFault), "gates"),
    (Defence::Reason(Withheld::ZtunnelUnproven), "gates"),
    (Defence::Reason(Withheld::OptedOutPod), "gates"),
    (Defence::Reason(Withheld::HealBreaker), "gates"),
    (Defence::HealConfirm, "confirm"),
    (Defence::LastLook, "look"),
    (Defence::HealCanary, "canary"),
    (Defence::Outstanding, "outstanding"),
    (Defence::OwnerShare, "share"),
    (Defence::Undo, "undo"),
    (Defence::SecondAsk, "rest"),
    (Defence::Preconditions, "preconditions"),
    (Defence::Keys, "keys"),
];

#[test]
fn every_defence_of_heals_is_missed() {
    let missed = |out: Defence, rule: &str| {
        OUT.set(Some(out));
        let seen = (0..TRIED).find(|seed| {
            judge(&care(), &Sim::run(*seed))
                .iter()
                .any(|(broken, ..)| *broken == rule)
        });
        OUT.set(None);
        writeln!(std::io::stderr(), "{out:?} is missed after {seen:?}").ok();
        seen
    };
    let unseen: Vec<_> = DEFENCES
        .into_iter()
        .filter(|(out, rule)| missed(*out, rule).is_none())
        .collect();
    assert!(unseen.is_empty(), "nobody would miss {unseen:?}");
}
