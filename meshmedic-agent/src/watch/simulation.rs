// SPDX-License-Identifier: Apache-2.0
//! The watch itself under simulated time, over a /proc that is a folder: polling, with readings that cost what they
//! cost on a slow machine whose processors are busy.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs;
use std::path::Path;

use meshmedic_common::verdict::State;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::engine::Expectation;
use crate::node::{Evidence, Unreadable};

const CONFIRM: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(60);
/// One walk of the kernel's table of connections.
const WALK: Duration = Duration::from_millis(4);
/// A busy processor gives half of its time.
const BUSY: u32 = 2;
const READERS: usize = 2;
const ZTUNNEL: u32 = 50_000;
const ZTUNNEL_POD: u32 = 999_999;
const HEADER: &str = "  sl  local_address rem_address   st\n";

/// A /proc that a test writes.
struct Proc {
    folder: TempDir,
    ended: Cell<u32>,
}

impl Proc {
    fn new() -> Self {
        let proc = Self {
            folder: tempfile::tempdir().unwrap(),
            ended: Cell::new(0),
        };
        proc.process(1, 1, "init", "/init.scope", false);
        proc
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn process(&self, pid: u32, start: u64, name: &str, cgroup: &str, listens: bool) {
        let folder = self.path().join(pid.to_string());
        fs::create_dir_all(folder.join("net")).unwrap();
        fs::create_dir_all(folder.join("ns")).unwrap();
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18";
        fs::write(folder.join("stat"), format!("{pid} ({name}) {rest} {start} 20")).unwrap();
        fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
        fs::write(folder.join("net/tcp6"), HEADER).unwrap();
        fs::write(folder.join("net/tcp"), HEADER).unwrap();
        fs::write(folder.join("ns/net"), "").unwrap();
        if listens {
            self.listen(pid, true);
        }
    }

    fn listen(&self, pid: u32, listens: bool) {
        let rows = ["3A99", "3A9E", "3AA0"]
            .map(|port| format!("   0: 00000000:{port} 0:0 0A 0:0 00:0 0     0        0 4711 1 0\n"));
        let rows = if listens { rows.concat() } else { String::new() };
        // In place: the inode of this file is the namespace's identity.
        fs::write(
            self.path().join(format!("{pid}/net/tcp")),
            format!("{HEADER}{rows}"),
        )
        .unwrap();
    }

    fn end(&self, pid: u32) {
        // Moved away, not deleted: the inodes of a folder that is deleted are used again at once, those of /proc are not.
        let grave = self.path().join(format!("gone-{}", self.ended.get()));
        self.ended.set(self.ended.get() + 1);
        fs::rename(self.path().join(pid.to_string()), grave).unwrap();
    }
}

/// A reading under way: what it saw is what there was when it began.
type Reading = Result<Evidence, Unreadable>;

struct Sim {
    proc: Proc,
    watch: Watch,
    now: Time,
    /// By the time at which they come back.
    reading: BinaryHeap<Reverse<(Time, u64)>>,
    under_way: BTreeMap<u64, (PodUid, Mapping, Time, Duration, Reading)>,
    numbers: u64,
    spent: Duration,
    reached: BTreeMap<PodUid, (State, Time)>,
}

fn uid(pod: u32) -> PodUid {
    PodUid::parse(&format!("{pod:08x}-0000-0000-0000-000000000000")).unwrap()
}

fn cgroup(pod: u32) -> String {
    format!("/kubepods/burstable/pod{}/c0ffee", uid(pod))
}

fn declared_pod(name: &str, expectation: Expectation) -> Declared {
    Declared {
        name: PodName {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        },
        expectation,
        addresses: Vec::new(),
        ztunnel: false,
    }
}

/// The number of a pod's first process.
const fn pid(pod: u32) -> u32 {
    1_000 + pod
}

impl Sim {
    fn new(pods: u32) -> Self {
        let proc = Proc::new();
        proc.process(ZTUNNEL, 7, "ztunnel", &cgroup(ZTUNNEL_POD), false);
        for pod in 0..pods {
            proc.process(pid(pod), 100, "app", &cgroup(pod), true);
        }
        let options = Options {
            node: "simulated".to_owned(),
            proc_root: proc.path().to_owned(),
            pods: PodSource::Api,
            confirm: CONFIRM,
            settle: Duration::ZERO,
            interval: INTERVAL,
            pending_deadline: meshmedic_common::policy::PENDING_DEADLINE,
            use_census: false,
        };
        let now = Time::now();
        let mut sim = Self {
            watch: Watch::begin(now, options, None).unwrap(),
            proc,
            now,
            reading: BinaryHeap::new(),
            under_way: BTreeMap::new(),
            numbers: 0,
            spent: Duration::ZERO,
            reached: BTreeMap::new(),
        };
        let mut declared: HashMap<_, _> = (0..pods)
            .map(|pod| {
                (
                    uid(pod),
                    declared_pod(&format!("pod-{pod}"), Expectation::Expected),
                )
            })
            .collect();
        let ztunnel = Declared {
            ztunnel: true,
            ..declared_pod("ztunnel", Expectation::Exempt(Reason::DataPlane))
        };
        declared.insert(uid(ZTUNNEL_POD), ztunnel);
        sim.watch.declare(now, declared);
        sim.run(INTERVAL);
        sim
    }

    /// Begins what may begin. A listener that is there is met at once; to know that there is none costs two walks.
    fn begin(&mut self) {
        let room = READERS - self.under_way.len();
        for (uid, job) in self.watch.due_jobs(self.now, room) {
            let result = job.run();
            let complete = result
                .as_ref()
                .is_ok_and(|evidence| evidence.reading.is_complete());
            let cost = if complete { WALK } else { WALK * 2 };
            self.spent += cost;
            self.numbers += 1;
            self.reading.push(Reverse((self.now + cost * BUSY, self.numbers)));
            self.under_way
                .insert(self.numbers, (uid, job.mapping, self.now, cost, result));
        }
        self.collect();
    }

    fn collect(&mut self) {
        for event in std::mem::take(&mut self.watch.events) {
            if let Event::Notice(Notice::Pod(transition)) = event {
                self.reached
                    .insert(transition.uid, (transition.to, transition.at));
            }
        }
    }

    /// Lets time pass.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.begin();
            let timer = self.watch.next_timer();
            // What is due waits for a reader, if for nothing else.
            let timer = if self.under_way.len() == READERS {
                end
            } else {
                timer
            };
            let back = self.reading.peek().map_or(end, |Reverse((at, _))| *at);
            let next = timer.max(self.now).min(back);
            if next >= end {
                break;
            }
            self.now = next;
            let wake = match self.reading.peek() {
                Some(&Reverse((at, number))) if at <= self.now => {
                    self.reading.pop();
                    let (uid, mapping, started, cost, result) = self.under_way.remove(&number).unwrap();
                    Wake::Read(Finished {
                        uid,
                        mapping,
                        started,
                        ended: self.now,
                        cost,
                        result,
                    })
                }
                _ => Wake::Timer,
            };
            self.watch.take(self.now, wake);
            self.watch.collect();
            self.collect();
        }
        self.now = end;
    }

    fn state(&self, pod: u32) -> State {
        self.watch.engine.view(&uid(pod)).unwrap().state
    }

    fn count(&self, pods: u32, state: State) -> usize {
        (0..pods).filter(|pod| self.state(*pod) == state).count()
    }
}

/// Fails where readers go round among the first few, where late readings start confirmations anew, or where the
/// share of a processor stops what has to be confirmed.
#[test]
fn all_of_250_lost_pods_are_judged_soon_on_a_slow_and_busy_machine() {
    let mut sim = Sim::new(250);
    assert_eq!(sim.count(250, State::Captured), 250);
    for pod in 0..250 {
        sim.proc.listen(pid(pod), false);
    }
    // By polling a loss is seen at the next sweep.
    sim.run(INTERVAL + CONFIRM + Duration::from_secs(5));
    assert_eq!(sim.count(250, State::Orphan), 250);
}

/// Fails where what is known is read again and again.
#[test]
fn while_the_node_is_at_fault_only_a_sample_is_read() {
    let mut sim = Sim::new(200);
    sim.proc.end(ZTUNNEL);
    for pod in 0..200 {
        sim.proc.listen(pid(pod), false);
    }
    sim.run(INTERVAL * 2);
    assert_eq!(sim.count(200, State::Suspect), 200, "each was read once");
    let (spent, begun) = (sim.spent, sim.now);
    sim.run(INTERVAL * 10);
    let share = (sim.spent - spent).as_secs_f64() / sim.now.since(begun).as_secs_f64();
    assert!(share < 0.02, "{share} of a processor");
    // What is back is found all the same.
    sim.proc
        .process(ZTUNNEL + 1, 8, "ztunnel", &cgroup(ZTUNNEL_POD), false);
    for pod in 0..200 {
        sim.proc.listen(pid(pod), true);
    }
    sim.run(INTERVAL);
    assert_eq!(sim.count(200, State::Captured), 200);
}

/// Fails where a reading that met the end of a process leaves its pod waiting for the reading's return.
#[test]
fn a_reading_that_meets_a_dying_process_does_not_silence_its_pod() {
    let mut sim = Sim::new(3);
    sim.watch.look_at(sim.now, &uid(1));
    // It ends between the choice and the reading.
    let jobs = sim.watch.due_jobs(sim.now, 1);
    let (uid_1, job) = jobs.into_iter().next().unwrap();
    sim.proc.end(pid(1));
    let result = job.run();
    assert!(result.is_err());
    let finished = Finished {
        uid: uid_1,
        mapping: job.mapping,
        started: sim.now,
        ended: sim.now,
        cost: WALK,
        result,
    };
    sim.watch.take(sim.now, Wake::Read(finished));
    sim.watch.collect();
    // The next sandbox, in a namespace of its own, under another number, and without listeners.
    sim.proc.process(pid(901), 200, "app", &cgroup(1), false);
    // Sooner than a reading is given up that never comes back.
    sim.run(CONFIRM * 3);
    assert_eq!(sim.state(1), State::Orphan);
    assert_eq!((sim.state(0), sim.state(2)), (State::Captured, State::Captured));
}

/// Fails where a verdict outlives the namespace for which it was given.
#[test]
fn a_namespace_that_is_replaced_voids_what_was_known() {
    let mut sim = Sim::new(2);
    sim.proc.end(pid(0));
    sim.proc.process(pid(902), 300, "app", &cgroup(0), false);
    sim.watch.take(sim.now, Wake::Ended);
    sim.watch.refresh_or_warn(sim.now);
    sim.watch.collect();
    let view = sim.watch.engine.view(&uid(0)).unwrap();
    assert_eq!(
        (view.state, view.reason),
        (State::Unverifiable, Some(Reason::Replaced))
    );
    sim.run(Duration::from_secs(1));
    assert_eq!(
        sim.state(0),
        State::Suspect,
        "it is read at once, not at the next sweep"
    );
    sim.run(CONFIRM);
    assert_eq!(sim.state(0), State::Orphan);
}

/// What befalls processes in the random runs.
#[derive(Clone, Debug)]
enum Fate {
    /// A pod's listeners go or come.
    Listen(u32, bool),
    /// A pod's process ends, and nothing takes its place.
    End(u32),
    /// A process takes the place of a pod's; it may have the same number. It listens, or not.
    Begin(u32, bool, bool),
    /// Time passes.
    Pass(u64),
}

fn fate(pods: u32) -> impl Strategy<Value = Fate> {
    prop_oneof![
        (0..pods, any::<bool>()).prop_map(|(pod, listens)| Fate::Listen(pod, listens)),
        (0..pods).prop_map(Fate::End),
        (0..pods, any::<bool>(), any::<bool>())
            .prop_map(|(pod, same, listens)| Fate::Begin(pod, same, listens)),
        (1_u64..30_000).prop_map(Fate::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Processes die, are replaced, and have their numbers used again, at any time, also between the choice of a
    /// reading and its end: once all is quiet, each pod's state is the truth.
    #[test]
    fn whatever_befalls_processes_the_truth_is_found_in_the_end(
        fates in proptest::collection::vec(fate(6), 1..40)
    ) {
        let mut sim = Sim::new(6);
        // Each pod's process, and whether it listens.
        let mut truth: BTreeMap<u32, Option<(u32, bool)>> = (0..6).map(|pod| (pod, Some((pid(pod), true)))).collect();
        let mut starts = 1_000;
        for fate in fates {
            match fate {
                Fate::Listen(pod, listens) => {
                    if let Some((pid, shown)) = truth.get_mut(&pod).and_then(Option::as_mut) {
                        *shown = listens;
                        sim.proc.listen(*pid, listens);
                    }
                }
                Fate::End(pod) => {
                    if let Some((pid, _)) = truth.insert(pod, None).flatten() {
                        sim.proc.end(pid);
                    }
                }
                Fate::Begin(pod, same, listens) => {
                    starts += 1;
                    let before = truth[&pod].map(|(pid, _)| pid);
                    if let Some(pid) = before {
                        sim.proc.end(pid);
                    }
                    let pid = match before {
                        Some(pid) if same => pid,
                        _ => 2_000 + starts,
                    };
                    sim.proc.process(pid, starts.into(), "app", &cgroup(pod), listens);
                    truth.insert(pod, Some((pid, listens)));
                }
                Fate::Pass(milliseconds) => sim.run(Duration::from_millis(milliseconds)),
            }
        }
        sim.run(INTERVAL * 3 + CONFIRM * 2);
        for (pod, process) in truth {
            let view = sim.watch.engine.view(&uid(pod));
            let expected = match process {
                Some((_, true)) => State::Captured,
                Some((_, false)) => State::Orphan,
                None => State::Unverifiable,
            };
            prop_assert_eq!(view.map(|view| view.state), Some(expected));
        }
    }
}
