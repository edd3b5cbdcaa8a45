// SPDX-License-Identifier: Apache-2.0
//! A lab node that is watched, and all that the watch ever said of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use meshmedic_agent::engine::{Notice, Transition};
use meshmedic_agent::kernel;
use meshmedic_agent::watch::{Event, Options, PodSource, Watch};
use meshmedic_common::identity::Identity;
use meshmedic_common::report::{NodeReport, PodReport, TriggerMode};
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Condition, Owner, State};
use meshmedic_lab::{Lab, Pod, PodSpec};
use tokio::runtime::Runtime;

/// Far more than any condition takes on a busy machine; who meets it has failed.
const DEADLINE: Duration = Duration::from_secs(90);
/// A step may wait for long when nothing is due; what the test looks at may be true before.
const LOOK: Duration = Duration::from_millis(20);

/// How patient a watch is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) confirm: Duration,
    pub(crate) settle: Duration,
    pub(crate) interval: Duration,
    /// Whether ztunnel's sockets are listed beside the kernel's events.
    pub(crate) census: bool,
}

/// A verdict soon, and everything looked at often.
pub(crate) const QUICK: Patience = Patience {
    confirm: Duration::from_millis(300),
    settle: Duration::ZERO,
    interval: Duration::from_millis(100),
    census: true,
};

/// Drives a watch and remembers every event.
pub(crate) struct Bench {
    watch: Watch,
    runtime: Runtime,
    events: Vec<Event>,
}

impl Bench {
    pub(crate) fn new(lab: &Lab, mode: TriggerMode, patience: Patience) -> Self {
        Self::over(lab.proc_root(), lab.log_root(), mode, patience)
    }

    /// Over another /proc root than the lab's.
    pub(crate) fn over(proc_root: &Path, log_root: &Path, mode: TriggerMode, patience: Patience) -> Self {
        let options = (mode == TriggerMode::Ebpf).then(kernel::Options::default);
        Self::with(proc_root, log_root, options.as_ref(), patience)
    }

    /// With the kernel programs loaded like this, or by polling.
    pub(crate) fn with(
        proc_root: &Path,
        log_root: &Path,
        kernel: Option<&kernel::Options>,
        patience: Patience,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let kernel = kernel.map(|options| kernel::load(options).unwrap());
        let mode = match kernel {
            Some(_) => TriggerMode::Ebpf,
            None => TriggerMode::Poll,
        };
        let options = Options {
            node: "lab".to_owned(),
            proc_root: proc_root.to_owned(),
            pods: PodSource::Node(log_root.to_owned(), Identity::default()),
            confirm: patience.confirm,
            settle: patience.settle,
            interval: patience.interval,
            pending_deadline: meshmedic_common::policy::PENDING_DEADLINE,
            use_census: patience.census,
        };
        let guard = runtime.enter();
        let watch = Watch::new(options, kernel).unwrap();
        drop(guard);
        assert_eq!(watch.trigger(), mode);
        let mut bench = Self {
            watch,
            runtime,
            events: Vec::new(),
        };
        // What it found out at once waits to be told; a test that forgets the beginning must have it here.
        bench.step();
        bench
    }

    pub(crate) fn step(&mut self) {
        let Self { watch, runtime, .. } = self;
        let happened = runtime.block_on(async { tokio::time::timeout(LOOK, watch.step()).await });
        self.events.extend(happened.unwrap_or_default());
    }

    /// Goes on until a condition holds.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, condition: impl Fn(&NodeReport) -> bool) {
        let start = Instant::now();
        while !condition(&self.report()) {
            if start.elapsed() >= DEADLINE {
                self.fail(what);
            }
            self.step();
        }
    }

    /// Goes on until no reading is under way: one that began before what comes next would tell of what was.
    #[track_caller]
    pub(crate) fn until_idle(&mut self) {
        let start = Instant::now();
        while !self.watch.decided() {
            if start.elapsed() >= DEADLINE {
                self.fail("the last reading");
            }
            self.step();
        }
    }

    /// Goes on until an event was told.
    #[track_caller]
    pub(crate) fn until_told(&mut self, what: &str, condition: impl Fn(&Event) -> bool) {
        let start = Instant::now();
        while !self.events.iter().any(&condition) {
            if start.elapsed() >= DEADLINE {
                self.fail(what);
            }
            self.step();
        }
    }

    /// Goes on for a while in which something must not happen.
    pub(crate) fn go_on_for(&mut self, span: Duration) {
        let start = Instant::now();
        while start.elapsed() < span {
            self.step();
        }
    }

    /// Goes on until a pod has a state.
    #[track_caller]
    pub(crate) fn until_state(&mut self, pod: &Pod, state: State) {
        let what = format!("{pod:?} to be {state}");
        self.until(&what, |report| {
            find(report, pod).is_some_and(|found| found.state == state)
        });
    }

    /// Goes on until a pod is captured and ztunnel is known to hold it.
    #[track_caller]
    pub(crate) fn until_captured(&mut self, pod: &Pod) {
        self.until_all_captured(std::slice::from_ref(pod));
    }

    #[track_caller]
    pub(crate) fn until_all_captured(&mut self, pods: &[Pod]) {
        self.until("all pods to be captured by ztunnel", |report| {
            pods.iter().all(|pod| find(report, pod).is_some_and(is_captured))
        });
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        let last = self.events.len().saturating_sub(20);
        let mut report = self.report();
        report.pods.retain(|pod| !is_captured(pod));
        report.pods.truncate(5);
        panic!(
            "waited in vain for {what}; {report:#?}, {:#?}",
            &self.events[last..]
        );
    }

    pub(crate) fn report(&self) -> NodeReport {
        self.watch.report()
    }

    #[track_caller]
    pub(crate) fn pod(&self, pod: &Pod) -> PodReport {
        find(&self.report(), pod).cloned().unwrap()
    }

    pub(crate) fn knows(&self, pod: &Pod) -> bool {
        find(&self.report(), pod).is_some()
    }

    /// How often all pods were looked at because it was time.
    pub(crate) fn sweeps(&self) -> u64 {
        self.watch.counters().sweeps
    }

    pub(crate) fn has(&self, condition: Condition) -> bool {
        holds(&self.report(), condition)
    }

    pub(crate) fn transitions(&self) -> impl Iterator<Item = &Transition> {
        self.events.iter().filter_map(|event| match event {
            Event::Notice(Notice::Pod(transition)) => Some(transition),
            _ => None,
        })
    }

    /// Whether a pod ever was in a state.
    pub(crate) fn was(&self, pod: &Pod, state: State) -> bool {
        self.transitions()
            .any(|transition| transition.uid == uid(pod) && transition.to == state)
    }

    /// Asserts that nothing was ever found amiss.
    #[track_caller]
    pub(crate) fn assert_no_finding(&self) {
        let findings: Vec<_> = self.transitions().filter(|t| t.to.is_finding()).collect();
        assert!(findings.is_empty(), "{findings:#?}");
    }

    /// What was told of a condition: its details when it began or changed, `None` when it ended.
    pub(crate) fn told_of(&self, wanted: Condition) -> Vec<Option<String>> {
        let told = self.events.iter().filter_map(|event| match event {
            Event::Notice(Notice::Node {
                condition, detail, ..
            }) if *condition == wanted => Some(detail.clone()),
            _ => None,
        });
        told.collect()
    }

    pub(crate) fn forget(&mut self) {
        self.events.clear();
    }
}

pub(crate) fn uid(pod: &Pod) -> PodUid {
    PodUid::parse(pod.cgroup_uid()).unwrap()
}

pub(crate) fn find<'a>(report: &'a NodeReport, pod: &Pod) -> Option<&'a PodReport> {
    let uid = uid(pod);
    report.pods.iter().find(|found| found.uid == uid)
}

pub(crate) fn is_captured(pod: &PodReport) -> bool {
    pod.state == State::Captured && pod.owner == Some(Owner::Ztunnel)
}

pub(crate) fn holds(report: &NodeReport, condition: Condition) -> bool {
    report.conditions.iter().any(|found| found.condition == condition)
}

pub(crate) fn spec(name: &str) -> PodSpec {
    PodSpec::new("shop", name)
}

pub(crate) fn many(lab: &Lab, count: usize) -> Vec<Pod> {
    lab.pods((0..count).map(|n| spec(&format!("cart-{n}")))).unwrap()
}

/// A /proc root of which the test writes what it likes; everything else is the kernel's.
pub(crate) struct Composed {
    folder: tempfile::TempDir,
}

impl Composed {
    pub(crate) fn new() -> Self {
        let composed = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        composed.show(1, 1);
        composed
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Shows a process under a number, in place of the one that had it.
    pub(crate) fn show(&self, number: u32, pid: u32) {
        // Both links exist for a moment, so the new one never has the inode of the old one.
        let hidden = self.path().join(".next");
        std::os::unix::fs::symlink(format!("/proc/{pid}"), &hidden).unwrap();
        std::fs::rename(hidden, self.path().join(number.to_string())).unwrap();
    }

    /// Shows a process whose `net` is a folder that the test may change; returns that folder.
    pub(crate) fn show_with_own_net(&self, pid: u32) -> PathBuf {
        let real = PathBuf::from(format!("/proc/{pid}"));
        let shown = self.path().join(pid.to_string());
        let net = shown.join("net");
        std::fs::create_dir_all(&net).unwrap();
        for file in ["stat", "cgroup", "ns", "fd"] {
            std::os::unix::fs::symlink(real.join(file), shown.join(file)).unwrap();
        }
        for file in ["tcp", "tcp6", "fib_trie", "if_inet6"] {
            std::os::unix::fs::symlink(real.join("net").join(file), net.join(file)).unwrap();
        }
        net
    }
}

/// Makes of each scenario two tests: one by polling, one with the kernel programs.
macro_rules! in_both_modes {
    ($($scenario:ident),+ $(,)?) => {
        mod poll {
            $(#[test]
            fn $scenario() {
                if meshmedic_lab::need::root(concat!("traps, polling: ", stringify!($scenario))) {
                    super::$scenario(meshmedic_common::report::TriggerMode::Poll);
                }
            })+
        }
        mod ebpf {
            $(#[test]
            fn $scenario() {
                if meshmedic_lab::need::ebpf(concat!("traps, eBPF: ", stringify!($scenario))) {
                    super::$scenario(meshmedic_common::report::TriggerMode::Ebpf);
                }
            })+
        }
    };
}
pub(crate) use in_both_modes;
