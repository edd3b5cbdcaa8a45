// SPDX-License-Identifier: Apache-2.0
//! The healer over a node of the tests' own: an istio-cni that takes one pod after the other, or does not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::eligibility::Expectation;
use crate::facts::{Controller, Enrolment, PodFacts};
use crate::policy::Permissions;
use crate::ports::PortSet;
use crate::repair::Moment;
use crate::repair::sabotage::{Defence, OUT};
use crate::time::Time;
use crate::uid::PodUid;
use crate::verdict::{Redirection, State};

/// How long one turn of the loop takes.
const TURN: Duration = Duration::from_millis(100);

/// How this istio-cni is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cni {
    Works,
    Dead,
}

struct Pod {
    standing: Standing,
    state: State,
    streak: Option<Streak>,
    proved_at: Option<Time>,
    captured_at: Option<Time>,
    place: Option<Place>,
    redirection: Redirection,
    ports: PortSet,
    /// istio-cni's cache has another namespace.
    stale: bool,
    /// ztunnel believes that it serves it.
    believed: bool,
    /// ztunnel refuses it.
    refused: bool,
    version: u64,
}

struct Bench {
    healer: Healer,
    view: NodeView,
    pods: BTreeMap<PodUid, Pod>,
    now: Time,
    cni: Cni,
    /// Whom istio-cni has to take, in order.
    queue: Vec<PodUid>,
    takes: Duration,
    free_at: Time,
    asked: Vec<(PodUid, Attempt)>,
    most: usize,
    undone: BTreeSet<PodUid>,
    notices: Vec<Notice>,
    conflicts: u32,
    answer: Option<Asked>,
    fetched: usize,
}

fn on() -> Permissions {
    Permissions {
        ready: true,
        stuck: true,
        grace_period: Duration::from_secs(300),
        jobs: false,
    }
}

fn uid(number: usize) -> PodUid {
    PodUid::parse(&format!("00000000-0000-4000-8000-{number:012}")).unwrap()
}

impl Bench {
    fn new(pods: &[(&str, &str)]) -> Self {
        Self::with(on(), pods)
    }

    /// `pods`: the namespace and the owner of each, all of them lost.
    fn with(permissions: Permissions, pods: &[(&str, &str)]) -> Self {
        let now = Time::from_nanos(1_000_000_000_000);
        let view = NodeView {
            ztunnel_since: Some(now),
            cni_ready: true,
            serving: Serving::Captures,
            support: Support::Yes,
            containers: (Some("c1".to_owned()), Some("z1".to_owned())),
            ..NodeView::default()
        };
        let care = Care::DEFAULT;
        let mut bench = Self {
            healer: Healer::new(Healing { permissions, care }),
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
            notices: Vec::new(),
            conflicts: 0,
            answer: None,
            fetched: 0,
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

    fn pod(&mut self, number: usize) -> &mut Pod {
        self.pods.get_mut(&uid(number)).unwrap()
    }

    fn at(&self) -> Moment {
        let server = "2026-11-29T10:00:00Z".parse::<jiff::Timestamp>().unwrap();
        let elapsed = self.now.since(Time::from_nanos(1_000_000_000_000));
        let server = server + jiff::SignedDuration::try_from(elapsed).unwrap();
        Moment {
            now: self.now,
            server,
        }
    }

    fn read(&mut self, uid: &PodUid) {
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
    fn enrol(&mut self) {
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
        pod.standing.facts.enrolment = Enrolment::Enabled;
        pod.version += 1;
        if !pod.believed {
            (pod.state, pod.captured_at, pod.streak) = (State::Captured, Some(now), None);
        }
    }

    fn turn(&mut self) {
        self.now = self.now + TURN;
        self.enrol();
        let at = self.at();
        let candidates = candidates(&self.pods);
        self.healer.judge(at, &self.view, &candidates);
        for uid in self.healer.looks() {
            self.read(&uid);
        }
        for (id, request) in self.healer.requests(at) {
            let answer = self.perform(request);
            let at = self.at();
            let candidates = candidates(&self.pods);
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
            Request::Undo(pod) => {
                self.undone.insert(pod.cgroup_uid.clone());
                let found = self.pods.get_mut(&pod.cgroup_uid).unwrap();
                found.redirection = Redirection::Absent;
                Answer::Undone(Ok(()))
            }
        }
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.turn();
        }
    }

    fn healed(&self) -> usize {
        self.notices
            .iter()
            .filter(|notice| matches!(notice, Notice::Healed { .. }))
            .count()
    }

    fn withheld(&self) -> BTreeSet<Withheld> {
        let why = self.notices.iter().filter_map(|notice| match notice {
            Notice::Withheld { why, .. } => Some(*why),
            _ => None,
        });
        why.collect()
    }

    fn failures(&self) -> Vec<Diagnosis> {
        let why = self.notices.iter().filter_map(|notice| match notice {
            Notice::Failed { why, .. } => Some(*why),
            _ => None,
        });
        why.collect()
    }
}

fn candidates(pods: &BTreeMap<PodUid, Pod>) -> BTreeMap<PodUid, Candidate<'_>> {
    let candidate = |(uid, pod): (&PodUid, &'_ Pod)| {
        let _ = pod;
        uid.clone()
    };
    let uids: Vec<PodUid> = pods.iter().map(candidate).collect();
    uids.into_iter()
        .map(|uid| {
            let pod = &pods[&uid];
            let candidate = Candidate {
                standing: &pod.standing,
                state: pod.state,
                streak: pod.streak,
                proved_at: pod.proved_at,
                captured_at: pod.captured_at,
                place: pod.place,
                redirection: pod.redirection,
                ports: pod.ports,
                taken: false,
            };
            (uid, candidate)
        })
        .collect()
}

/// With a defence out.
fn without<T>(defence: Defence, run: impl FnOnce() -> T) -> T {
    OUT.set(Some(defence));
    let result = run();
    OUT.set(None);
    result
}

const MIXED: [(&str, &str); 6] = [
    ("shop", "cart"),
    ("shop", "cart"),
    ("bank", "pay"),
    ("bank", "pay"),
    ("news", "web"),
    ("news", "web"),
];

#[test]
fn an_orphan_is_asked_for_and_proved() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.run(10);
    assert_eq!((bench.asked.len(), bench.healed()), (1, 1), "{:?}", bench.notices);
    assert_eq!(bench.asked[0].1, Attempt::First);
}

#[test]
fn nothing_is_asked_before_the_readings_agree() {
    let first_ask = |bench: &mut Bench| {
        let begin = bench.now;
        while bench.asked.is_empty() {
            bench.turn();
        }
        (bench.now.since(begin), bench.pods[&uid(0)].streak)
    };
    let settled = Duration::from_secs(5);
    let (took, _) = first_ask(&mut Bench::new(&[("shop", "cart")]));
    assert!(took >= settled, "{took:?}");
    let mut bench = Bench::new(&[("shop", "cart")]);
    // Everything has settled long ago, and the pod was lost just now.
    bench.pod(0).state = State::Captured;
    bench.run(20);
    bench.pod(0).state = State::Orphan;
    let (took, streak) = first_ask(&mut bench);
    assert!(took >= Care::DEFAULT.confirm, "{took:?}");
    assert!(streak.unwrap().readings >= 3);
    let hasty = without(Defence::HealConfirm, || {
        let mut bench = Bench::new(&[("shop", "cart")]);
        bench.pod(0).state = State::Captured;
        bench.run(20);
        bench.pod(0).state = State::Orphan;
        first_ask(&mut bench).0
    });
    assert!(
        hasty < Care::DEFAULT.confirm,
        "the defence is what makes it wait: {hasty:?}"
    );
}

#[test]
fn a_pod_that_came_back_is_not_asked_for() {
    let run = || {
        let mut bench = Bench::new(&[("shop", "cart")]);
        bench.run(5);
        while bench.fetched == 0 {
            bench.turn();
        }
        // Between the fetch and the last look it is captured again, and lost to view: no reading was had of it since.
        let now = bench.now;
        bench.pod(0).streak = bench.pod(0).streak.map(|streak| Streak {
            last: streak.first,
            ..streak
        });
        bench.pod(0).captured_at = Some(now);
        bench.turn();
        bench.turn();
        bench.asked.len()
    };
    assert_eq!(run(), 0);
}

#[test]
fn only_a_reading_after_the_fetch_is_the_last_one() {
    let run = || {
        let mut bench = Bench::new(&[("shop", "cart")]);
        while bench.fetched == 0 {
            bench.turn();
        }
        // No reading comes any more.
        let before = bench.pod(0).streak;
        for _ in 0..20 {
            bench.turn();
            bench.pod(0).streak = before;
        }
        bench.asked.len()
    };
    assert_eq!(run(), 0);
    assert_eq!(
        without(Defence::LastLook, run),
        1,
        "the defence is what holds it back"
    );
}

#[test]
fn after_a_reboot_one_goes_first_and_few_are_outstanding() {
    let pods: Vec<(String, String)> = (0..60)
        .map(|n| (format!("ns{}", n % 6), format!("owner{}", n % 20)))
        .collect();
    let pods: Vec<(&str, &str)> = pods
        .iter()
        .map(|(ns, owner)| (ns.as_str(), owner.as_str()))
        .collect();
    let run = |pods: &[(&str, &str)]| {
        let mut bench = Bench::new(pods);
        let mut before_proof = 0;
        for _ in 0..1200 {
            bench.turn();
            if bench.healed() == 0 {
                before_proof = before_proof.max(bench.asked.len());
            }
        }
        (bench.healed(), bench.most, before_proof)
    };
    let (healed, most, before_proof) = run(&pods);
    assert_eq!(healed, 60);
    assert!(most <= 4, "{most} at once");
    assert_eq!(before_proof, 1, "one canary");
    let (_, most, _) = without(Defence::Outstanding, || run(&pods));
    assert!(most > 4, "the defence is what holds them back: {most}");
    let (_, _, before_proof) = without(Defence::HealCanary, || run(&pods));
    assert!(
        before_proof > 1,
        "the defence is what lets one go first: {before_proof}"
    );
}

#[test]
fn the_canary_is_the_one_with_least_to_lose() {
    let mut bench = Bench::new(&[("shop", "single"), ("shop", "cart"), ("shop", "cart")]);
    while bench.asked.is_empty() {
        bench.turn();
    }
    assert_ne!(bench.asked[0].0, uid(0), "others stand in for the other two");
}

#[test]
fn of_one_owner_a_third_is_asked_for_at_once() {
    let pods = [("shop", "cart"); 6];
    let within_a_gap = || {
        let mut bench = Bench::new(&pods);
        while bench.asked.is_empty() {
            bench.turn();
        }
        bench.run(9);
        bench.asked.len()
    };
    assert_eq!(within_a_gap(), 2);
    assert_eq!(without(Defence::OwnerShare, within_a_gap), 6);
    let mut bench = Bench::new(&pods);
    bench.run(60);
    assert_eq!(bench.healed(), 6, "all in the end");
}

#[test]
fn a_stale_cache_is_cured_by_a_second_ask() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.pod(0).stale = true;
    bench.run(20);
    let attempts: Vec<_> = bench.asked.iter().map(|(_, attempt)| *attempt).collect();
    assert_eq!(attempts, [Attempt::First, Attempt::Second]);
    assert_eq!(bench.healed(), 1, "{:?}", bench.notices);
}

#[test]
fn with_istio_cni_broken_two_pods_are_touched_and_no_more() {
    let touched = || {
        let mut bench = Bench::new(&MIXED);
        bench.cni = Cni::Dead;
        bench.run(600);
        let touched: BTreeSet<_> = bench.asked.iter().map(|(uid, _)| uid.clone()).collect();
        (
            touched.len(),
            bench.notices.contains(&Notice::Stopped),
            bench.withheld(),
        )
    };
    let (count, stopped, withheld) = touched();
    assert_eq!((count, stopped), (2, true));
    assert!(withheld.contains(&Withheld::HealStopped));
    // What did not take on this node leaves the others to the next rung's own canary.
    let mut bench = Bench::new(&MIXED);
    bench.cni = Cni::Dead;
    bench.run(600);
    assert!(
        MIXED
            .iter()
            .enumerate()
            .all(|(number, _)| matches!(bench.healer.below(&uid(number)), Below::May(_)))
    );
}

#[test]
fn no_tenant_stops_the_others() {
    let pods = [
        ("evil", "a"),
        ("evil", "b"),
        ("evil", "c"),
        ("shop", "cart"),
        ("bank", "pay"),
    ];
    let run = || {
        let mut bench = Bench::new(&pods);
        for number in 0..3 {
            bench.pod(number).refused = true;
        }
        bench.run(120);
        let captured = (3..5)
            .filter(|number| bench.pods[&uid(*number)].state == State::Captured)
            .count();
        let evil = bench
            .asked
            .iter()
            .filter(|(asked, _)| (0..3).any(|number| *asked == uid(number)))
            .count();
        (captured, evil, bench.notices.contains(&Notice::Stopped))
    };
    let (captured, _, stopped) = run();
    assert_eq!((captured, stopped), (2, false));
}

#[test]
fn after_one_that_did_not_take_something_must_show_that_istio_cni_works() {
    let pods = [("shop", "cart"), ("shop", "cart"), ("shop", "cart")];
    let touched = || {
        let mut bench = Bench::new(&pods);
        bench.cni = Cni::Dead;
        bench.run(120);
        let touched: BTreeSet<_> = bench.asked.iter().map(|(uid, _)| uid.clone()).collect();
        touched.len()
    };
    assert_eq!(touched(), 1, "of one owner one is enough to learn from");
    assert_eq!(without(Defence::Feedback, touched), 3);
}

#[test]
fn a_slow_istio_cni_fails_nobody() {
    let mut bench = Bench::new(&MIXED);
    bench.takes = Duration::from_secs(7);
    bench.run(240);
    assert_eq!(
        (bench.healed(), bench.failures().len()),
        (6, 0),
        "{:?}",
        bench.failures()
    );
}

#[test]
fn the_same_is_not_asked_again_until_something_changed() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.pod(0).believed = true;
    bench.run(120);
    assert_eq!(bench.asked.len(), 1);
    assert_eq!(bench.failures(), [Diagnosis::Believed]);
    assert_eq!(bench.healer.below(&uid(0)), Below::May(Some(Diagnosis::Believed)));
    // Another agent knows it from the pod alone.
    let standing = bench.pod(0).standing.clone();
    let mut other = Bench::new(&[("shop", "cart")]);
    other.pod(0).standing = standing;
    other.run(60);
    assert_eq!(other.asked.len(), 0, "{:?}", other.asked);
    // Another ztunnel believes nothing yet.
    bench.view.containers.1 = Some("z2".to_owned());
    bench.pod(0).believed = false;
    bench.run(60);
    assert_eq!((bench.asked.len(), bench.healed()), (2, 1));
}

#[test]
fn after_a_crash_it_goes_on_from_what_the_pod_says() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.cni = Cni::Dead;
    while bench.asked.is_empty() {
        bench.turn();
    }
    bench.healer = Healer::new(Healing {
        permissions: on(),
        care: Care::DEFAULT,
    });
    bench.cni = Cni::Works;
    bench.run(20);
    assert_eq!(bench.asked.len(), 1, "it was asked for already");
    assert_eq!(bench.healed(), 1, "{:?}", bench.notices);
}

#[test]
fn what_was_made_worse_is_taken_back() {
    let run = || {
        let mut bench = Bench::new(&[("shop", "cart")]);
        bench.pod(0).refused = true;
        bench.run(60);
        bench.undone.len()
    };
    assert_eq!(run(), 1);
    assert_eq!(
        without(Defence::Undo, run),
        0,
        "the defence is what takes it back"
    );
    // Rules that were there before were not our doing.
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.pod(0).refused = true;
    bench.pod(0).redirection = Redirection::Routed;
    bench.run(60);
    assert!(bench.undone.is_empty());
    assert_eq!(bench.failures(), [Diagnosis::Refused]);
}

#[test]
fn a_ztunnel_that_falls_after_an_ask_stops_everything() {
    let mut bench = Bench::new(&MIXED);
    for number in 0..6 {
        bench.pod(number).refused = true;
    }
    while bench.asked.is_empty() {
        bench.turn();
    }
    bench.view.gates.node_fault = Some("ztunnel is not Ready on this node".to_owned());
    bench.view.ztunnel_since = None;
    bench.run(60);
    assert_eq!(bench.asked.len(), 1);
    assert_eq!(bench.failures(), [Diagnosis::ZtunnelFell]);
    assert_eq!(bench.undone.len(), 1);
}

/// Asks nothing while this holds of the node, and asks once it does not.
#[track_caller]
fn holds_back(why: Withheld, change: impl Fn(&mut NodeView)) {
    let run = || {
        let mut bench = Bench::new(&[("shop", "cart")]);
        change(&mut bench.view);
        bench.run(30);
        (bench.asked.len(), bench.withheld().contains(&why))
    };
    assert_eq!(run(), (0, true), "{why}");
    assert_eq!(
        without(Defence::Reason(why), run).0,
        1,
        "{why} is what holds it back"
    );
}

#[test]
fn nothing_is_asked_while_the_node_or_the_mesh_is_not_proved() {
    holds_back(Withheld::ZtunnelUnproven, |view| view.serving = Serving::Unproven);
    holds_back(Withheld::NodeFault, |view| {
        view.gates.node_fault = Some("x".to_owned())
    });
    holds_back(Withheld::MeshFault, |view| {
        view.gates.mesh_fault = Some("x".to_owned())
    });
    holds_back(Withheld::Paused, |view| view.gates.paused = Some(String::new()));
    holds_back(Withheld::HealUnsupported, |view| view.support = Support::Unknown);
    holds_back(Withheld::HealUnsupported, |view| {
        view.support = Support::TooOld("1.24.0".to_owned())
    });
    holds_back(Withheld::Superseded, |view| view.watches_only = true);
    // A cordoned node keeps its pods for now, and nothing of them restarts.
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.view.gates.cordoned = true;
    bench.run(30);
    assert_eq!(bench.healed(), 1);
}

#[test]
fn the_version_must_be_known_and_young_enough() {
    let of = |version| Support::of(Some(version));
    for version in ["1.25.0", "1.32-dev", "1.30.3-distroless", "2.0.0", "1.100.1"] {
        assert_eq!(of(version), Support::Yes, "{version}");
    }
    for version in ["1.24.9", "0.99.0", "1.9.1"] {
        assert_eq!(of(version), Support::TooOld(version.to_owned()));
    }
    for version in ["latest", "", "1", "v1.30.3", "master-deadbeef"] {
        assert_eq!(of(version), Support::Unknown, "{version}");
    }
    assert_eq!(Support::of(None), Support::Unknown);
}

#[test]
fn a_connection_to_istio_cni_proves_ztunnel_after_a_while() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.view.serving = Serving::Unproven;
    bench.run(30);
    bench.view.serving = Serving::Connected;
    bench.run(4);
    assert!(bench.asked.is_empty());
    bench.run(10);
    assert_eq!(bench.healed(), 1);
}

/// Asks nothing while this holds of the pod.
#[track_caller]
fn spares(why: Withheld, change: impl Fn(&mut Pod)) {
    let run = || {
        let mut bench = Bench::new(&[("shop", "cart")]);
        change(bench.pod(0));
        bench.run(30);
        (bench.asked.len(), bench.withheld().contains(&why))
    };
    assert_eq!(run(), (0, true), "{why}");
    assert_eq!(without(Defence::Reason(why), run).0, 1, "{why} is what spares it");
}

#[test]
fn pods_that_forbid_it_are_spared() {
    let controller = |kind: &str| Controller {
        kind: kind.to_owned(),
        name: "x".to_owned(),
        uid: "x".to_owned(),
    };
    spares(Withheld::OptedOutPod, |pod| {
        pod.standing.facts.repair = Some("disabled".to_owned())
    });
    spares(Withheld::OptedOutNamespace, |pod| {
        pod.standing.namespace_repair = Some("disabled".to_owned())
    });
    spares(Withheld::Strategy, |pod| {
        pod.standing.facts.strategy = Some("restart".to_owned())
    });
    spares(Withheld::Strategy, |pod| {
        pod.standing.namespace_strategy = Some("toggle".to_owned())
    });
    spares(Withheld::StaticPod, |pod| pod.standing.facts.mirror = true);
    spares(Withheld::JobPod, |pod| {
        pod.standing.facts.controller = Some(controller("Job"))
    });
    spares(Withheld::Toggling, |pod| {
        pod.standing.facts.toggle_restore = Some("{}".to_owned())
    });
    spares(Withheld::Guessed, |pod| pod.standing.certain = false);
    spares(Withheld::NoAddress, |pod| pod.standing.facts.addresses.clear());
    spares(Withheld::NoAddress, |pod| {
        pod.standing.facts.sandbox_ready = Some(false)
    });
    spares(Withheld::PortHeld, |pod| pod.ports = PortSet::EMPTY.with(15053));
    // A bare pod gains most.
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.pod(0).standing.facts.controller = None;
    bench.run(30);
    assert_eq!(bench.healed(), 1);
}

#[test]
fn readiness_delays_no_heal() {
    let permissions = Permissions { stuck: false, ..on() };
    let mut bench = Bench::with(permissions, &[("shop", "cart")]);
    bench.pod(0).standing.facts.ready = false;
    bench.run(30);
    assert_eq!(bench.healed(), 1);
}

#[test]
fn with_repairs_off_it_only_says_what_it_would_do() {
    let off = Permissions {
        ready: false,
        stuck: false,
        ..on()
    };
    let mut bench = Bench::with(off, &[("shop", "cart")]);
    bench.run(60);
    assert!(bench.asked.is_empty() && bench.fetched == 0);
    let would = bench
        .notices
        .iter()
        .filter(|notice| matches!(notice, Notice::Would { .. }));
    assert_eq!(would.count(), 1, "{:?}", bench.notices);
}

#[test]
fn a_pod_that_changes_is_judged_and_asked_again() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.conflicts = 3;
    bench.run(30);
    assert_eq!((bench.healed(), bench.fetched), (1, 4));
}

#[test]
fn a_right_that_is_missing_restarts_nothing() {
    let mut bench = Bench::new(&MIXED);
    bench.answer = Some(Asked::NotPermitted("pods/status is forbidden".to_owned()));
    bench.run(60);
    assert!(bench.healer.not_permitted().is_some());
    assert_eq!(bench.failures(), []);
    for number in 0..6 {
        assert!(
            matches!(bench.healer.below(&uid(number)), Below::Waits(_)),
            "{number}"
        );
    }
    bench.answer = None;
    bench.healer.permit(Ok(()));
    bench.run(60);
    assert_eq!(bench.healed(), 6);
}

#[test]
fn what_is_being_healed_is_left_to_it() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.cni = Cni::Dead;
    while bench.asked.is_empty() {
        bench.turn();
        assert!(matches!(bench.healer.below(&uid(0)), Below::Waits(_)));
    }
    assert_eq!(bench.healer.progress(&uid(0)), Some(Progress::Asked));
    bench.run(30);
    assert_eq!(
        bench.healer.progress(&uid(0)),
        Some(Progress::Failed(Diagnosis::NotTakenUp))
    );
}
