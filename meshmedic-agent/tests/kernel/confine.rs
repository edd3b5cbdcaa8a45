// SPDX-License-Identifier: Apache-2.0
//! What a process can no longer do once it is confined. Each test is a process of its own: nothing of this is undone.

use std::process::Command;

use meshmedic_agent::confine::{Needs, confine};
use meshmedic_agent::kernel::{self, Kernel, Options};
use meshmedic_common::abi::CensusRow;
use rustix::thread::{CapabilitySet, capabilities};

use crate::calls::{self, Answer, Call};
use crate::netns::{listen, within};
use crate::options;

/// Tells a test that it is the process that its twin started.
const INSIDE: &str = "MESHMEDIC_TEST_CONFINED";

/// Whether this is the process that may be confined; otherwise starts it and sees it succeed.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if meshmedic_lab::need::ebpf(test) {
        let output = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", &format!("confine::{test}"), "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .expect("start the same test");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{}: {said}", output.status);
        assert!(said.contains("1 passed"), "{said}");
    }
    false
}

fn refused(calls: &[Call], with: i32) -> Vec<&'static str> {
    let others = calls
        .iter()
        .filter(|call| calls::make(call) != Answer::Refused(with));
    others.map(|(name, ..)| *name).collect()
}

/// The filter is applied by another thread than the one that tries. This one keeps all its capabilities, so whatever it
/// is denied, the filter denies it.
#[test]
fn every_call_that_an_agent_never_makes_is_denied_to_all_threads() {
    if !inside("every_call_that_an_agent_never_makes_is_denied_to_all_threads") {
        return;
    }
    for calls in [calls::DENIED, calls::DENIED_HERE, calls::UNKNOWN] {
        for call in calls {
            let before = calls::make(call);
            assert_ne!(
                before,
                Answer::Refused(libc::EPERM),
                "{call:?}: this says nothing"
            );
        }
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut kernel = kernel::load(&options()).expect("the kernel programs load");
    let confine = || confine(Some(&mut kernel), Needs::default());
    let confinement = std::thread::scope(|scope| scope.spawn(confine).join()).expect("it is confined");
    assert!(confinement.seccomp && confinement.no_new_privs, "{confinement:?}");
    assert_eq!(confinement.kept, [""; 0]);
    let held = capabilities(None).expect("own capabilities");
    assert!(held.effective.contains(CapabilitySet::SYS_ADMIN), "{held:?}");

    let none: [&str; 0] = [];
    assert_eq!(refused(calls::DENIED, libc::EPERM), none, "these are not denied");
    assert_eq!(
        refused(calls::DENIED_HERE, libc::EPERM),
        none,
        "these are not denied"
    );
    if cfg!(target_arch = "x86_64") {
        assert_eq!(refused(calls::FORKS, libc::EPERM), none);
    }
    assert_eq!(refused(calls::UNKNOWN, libc::ENOSYS), none);
    for call in calls::ALLOWED {
        assert_ne!(calls::make(call), Answer::Refused(libc::EPERM), "{call:?}");
    }
    // The same through the standard library, and by the way that leads into every container, and out of one's own.
    let path = file.path().strip_prefix("/").expect("an absolute path");
    let parent = std::os::unix::process::parent_id();
    let outside = std::path::Path::new("/proc")
        .join(parent.to_string())
        .join("root")
        .join(path);
    assert!(std::fs::read(&outside).is_ok(), "reading is what an agent does");
    assert!(
        std::fs::write(&outside, "x").is_err(),
        "a file of the node was written"
    );
    assert!(std::fs::write("/proc/self/mem", "x").is_err());
    assert!(
        Command::new("/bin/true").spawn().is_err(),
        "a program was started"
    );
    assert!(
        std::thread::spawn(|| 1).join().is_ok(),
        "threads are an agent's own"
    );
}

#[test]
fn a_census_is_dropped_and_made_anew_with_what_is_left() {
    if !inside("a_census_is_dropped_and_made_anew_with_what_is_left") {
        return;
    }
    for unfiltered_census in [false, true] {
        within(|netns| {
            let mut kernel: Kernel = kernel::load(&Options {
                unfiltered_census,
                census_rows: 1,
                ..options()
            })
            .expect("the kernel programs load");
            // The second time round the process is filtered already, and this thread still has its capabilities.
            let confinement = confine(
                Some(&mut kernel),
                Needs {
                    programs: !unfiltered_census,
                },
            );
            let held = capabilities(None).expect("own capabilities");
            let most = CapabilitySet::SYS_PTRACE
                | CapabilitySet::BPF
                | CapabilitySet::PERFMON
                | CapabilitySet::SYS_ADMIN;
            assert!(
                most.contains(held.permitted) && held.effective == held.permitted,
                "{held:?}"
            );
            assert!(held.inheritable.is_empty(), "{held:?}");
            assert_eq!(confinement.capabilities.len(), held.permitted.iter().count());

            let me = [std::process::id()];
            let count = |census: &mut kernel::Census| {
                let mut rows: Vec<CensusRow> = Vec::new();
                let answer = census.of(&me, &mut rows);
                rows.retain(|row| row.netns == netns);
                answer.map(|()| rows.len())
            };
            let _one = listen("0.0.0.0:15001");
            let two = listen("0.0.0.0:15006");
            count(&mut kernel.census).expect_err("two listeners are too many");
            drop(two);
            kernel
                .census
                .of(&[], &mut Vec::new())
                .expect("a census of nobody, which drops all links");
            assert_eq!(count(&mut kernel.census).expect("the census is back"), 1);
            kernel.trigger.lost().expect("the counter of lost records");
        });
    }
}

#[test]
fn where_programs_must_be_started_nothing_is_filtered_and_the_capabilities_go() {
    if !inside("where_programs_must_be_started_nothing_is_filtered_and_the_capabilities_go") {
        return;
    }
    let confinement = confine(None, Needs { programs: true });
    assert!(!confinement.seccomp, "{confinement:?}");
    assert!(confinement.kept[0].contains("kubeconfig"), "{confinement:?}");
    assert!(
        Command::new("/bin/true")
            .status()
            .is_ok_and(|status| status.success())
    );
    assert_eq!(confinement.capabilities, ["CAP_SYS_PTRACE"]);
}

/// Polling, an agent has no business with bpf(2) at all.
#[test]
fn without_kernel_programs_all_of_bpf_is_denied() {
    if !inside("without_kernel_programs_all_of_bpf_is_denied") {
        return;
    }
    let confinement = confine(None, Needs::default());
    assert_eq!(confinement.capabilities, ["CAP_SYS_PTRACE"]);
    let bpf: Vec<&Call> = calls::ALLOWED
        .iter()
        .filter(|(name, ..)| name.starts_with("bpf"))
        .collect();
    assert!(!bpf.is_empty());
    for call in bpf {
        assert_eq!(calls::make(call), Answer::Refused(libc::EPERM), "{call:?}");
    }
}
