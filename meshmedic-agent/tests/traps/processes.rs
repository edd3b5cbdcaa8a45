// SPDX-License-Identifier: Apache-2.0
//! Processes that end, and numbers that are used again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use meshmedic_agent::engine::Expectation;
use meshmedic_agent::node::{NetnsIndex, PodName, ProcessTable, ReadJob};
use meshmedic_agent::time::Time;
use meshmedic_agent::watch::{Declared, Options, PodSource, Watch};
use meshmedic_common::report::TriggerMode;
use meshmedic_common::verdict::{Reason, State};
use meshmedic_lab::{Lab, Pod, ProcessNetns, ZtunnelSpec, need};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Bench, Composed, QUICK, in_both_modes, spec, uid};

in_both_modes!(a_zombie_proves_nothing, another_process_takes_over_from_a_zombie);

/// Long enough for a process to count as known for good.
const LATER: Duration = Duration::from_secs(60);

/// Fails where a known number is not looked at again although another process has it.
#[test]
fn a_reused_number_is_learned_anew() {
    if !need::root("traps: a reused number is learned anew") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let (first, second) = (lab.pod(spec("first")).unwrap(), lab.pod(spec("second")).unwrap());
    let root = Composed::new();
    let number = first.pid();
    root.show(number, first.pid());
    let mut table = ProcessTable::new(root.path());
    let now = Time::now();
    table.refresh(now).unwrap();
    table.refresh(now + LATER).unwrap();
    let read = table.processes_read();
    table.refresh(now + LATER * 2).unwrap();
    assert_eq!(table.processes_read(), read, "a known process is read once");
    assert_eq!(table.get(number).unwrap().pod, uid(&first));
    root.show(number, second.pid());
    table.refresh(now + LATER * 3).unwrap();
    assert_eq!(table.get(number).unwrap().pod, uid(&second));
    let index = NetnsIndex::build(&table, &[].into_iter().collect());
    assert_eq!(index.get(&uid(&first)), Err(Reason::NoProcess));
}

/// Shows a pod's process as it is before the runtime has moved it; returns its file `cgroup`.
fn show_outside_its_cgroup(root: &Composed, pod: &Pod) -> PathBuf {
    root.show_with_own_net(pod.pid());
    let cgroup = root.path().join(pod.pid().to_string()).join("cgroup");
    std::fs::remove_file(&cgroup).unwrap();
    std::fs::write(&cgroup, "0::/\n").unwrap();
    cgroup
}

/// Has it arrived.
fn enter(cgroup: &Path, pod: &Pod) {
    let arrived = std::fs::read(format!("/proc/{}/cgroup", pod.pid())).unwrap();
    std::fs::write(cgroup, arrived).unwrap();
}

/// Fails where a process counts as known that was looked at only while it was on its way to its cgroup.
#[test]
fn a_process_that_reaches_its_cgroup_unseen_is_learned() {
    if !need::root("traps: a process that reaches its cgroup unseen") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("late")).unwrap();
    let root = Composed::new();
    let cgroup = show_outside_its_cgroup(&root, &pod);
    let mut table = ProcessTable::new(root.path());
    let now = Time::now();
    table.refresh(now).unwrap();
    assert!(table.get(pod.pid()).is_none());
    enter(&cgroup, &pod);
    table.refresh(now + LATER).unwrap();
    assert_eq!(table.get(pod.pid()).unwrap().pod, uid(&pod));
}

/// Fails where a process of no pod is taken for known for good although a pod lacks one.
#[test]
fn a_process_that_reaches_its_cgroup_late_is_learned_once_its_pod_misses_it() {
    if !need::root("traps: a process that reaches its cgroup late") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("late")).unwrap();
    let root = Composed::new();
    root.show(1, 1);
    let cgroup = show_outside_its_cgroup(&root, &pod);
    let mut watch = Watch::new(
        Options {
            node: "lab".to_owned(),
            proc_root: root.path().to_owned(),
            pods: PodSource::Api,
            confirm: LATER,
            settle: Duration::ZERO,
            interval: LATER,
            pending_deadline: meshmedic_common::policy::PENDING_DEADLINE,
            use_census: false,
        },
        None,
    )
    .unwrap();
    let now = Time::now();
    let declared = Declared {
        name: PodName {
            namespace: "shop".to_owned(),
            name: "late".to_owned(),
        },
        expectation: Expectation::Expected,
        addresses: Vec::new(),
        ztunnel: false,
    };
    watch.declare(now + LATER, [(uid(&pod), declared)].into());
    let read = watch.counters().processes_read;
    watch.sweep(now + LATER + Duration::from_secs(1));
    assert_eq!(watch.counters().processes_read, read, "it was read a moment ago");
    enter(&cgroup, &pod);
    assert_eq!(watch.mapping(&uid(&pod)), None);
    watch.sweep(now + LATER * 3);
    assert_eq!(
        watch.mapping(&uid(&pod)).map(|mapping| mapping.pid),
        Some(pod.pid())
    );
}

/// Fails where the start time is not compared after the last read: here even the namespace is the same.
#[test]
fn a_number_reused_between_mapping_and_reading_proves_nothing() {
    if !need::root("traps: a number reused between mapping and reading") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("app")).unwrap();
    let root = Composed::new();
    root.show(pod.pid(), pod.pid());
    let mut table = ProcessTable::new(root.path());
    table.refresh(Time::now()).unwrap();
    let index = NetnsIndex::build(&table, &[].into_iter().collect());
    let job = ReadJob {
        root: root.path().to_owned(),
        mapping: index.get(&uid(&pod)).unwrap().clone(),
    };
    assert!(job.run().is_ok());
    let other = started_in_another_tick(&pod, job.mapping.start);
    root.show(pod.pid(), other);
    assert_eq!(job.run().unwrap_err().reason, Reason::Gone);
}

fn started_in_another_tick(pod: &Pod, start: u64) -> u32 {
    loop {
        let pid = pod.extra_process(&ProcessNetns::Own).unwrap().pid();
        if !meshmedic_agent::node::is_running(Path::new("/proc"), pid, start) {
            return pid;
        }
    }
}

/// The table reads a young process again with every refresh; the trap is one that it takes for known.
const KNOWN: Duration = Duration::from_secs(6);

/// Ends a process without reaping it: the lab does that, later.
fn make_zombie(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    let stat = format!("/proc/{pid}/stat");
    meshmedic_lab::wait::until("a zombie", Duration::from_secs(60), || {
        std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "))
    })
    .unwrap();
}

/// Fails where a namespace that cannot be read any more counts as one without listeners.
fn a_zombie_proves_nothing(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("ending")).unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol(&pod).unwrap();
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_captured(&pod);
    bench.go_on_for(KNOWN);
    pod.zombie().unwrap();
    make_zombie(pod.pid());
    ztunnel.unenrol(&pod).unwrap();
    bench.until("the pod to be gone", |report| {
        report.pods.iter().all(|found| found.uid != uid(&pod))
    });
    bench.go_on_for(QUICK.confirm * 3);
    assert!(!bench.knows(&pod));
    bench.assert_no_finding();
}

/// Fails where a pod is given up with the process through which it was read.
fn another_process_takes_over_from_a_zombie(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("lives-on")).unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol(&pod).unwrap();
    let helper = pod.extra_process(&ProcessNetns::Own).unwrap();
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_captured(&pod);
    assert_eq!(bench.pod(&pod).pid, Some(pod.pid()));
    bench.go_on_for(KNOWN);
    make_zombie(pod.pid());
    ztunnel.unenrol(&pod).unwrap();
    bench.until_state(&pod, State::Orphan);
    assert_eq!(bench.pod(&pod).pid, Some(helper.pid()));
}
