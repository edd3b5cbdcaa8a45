// SPDX-License-Identifier: Apache-2.0
//! Nothing outlives a lab, however it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use meshmedic_lab::{Lab, PodSpec, ZtunnelSpec, need, wait};

use crate::common::{Node, cgroup_folder};

const SOON: Duration = Duration::from_secs(20);

/// Whether a process is there; a zombie is not: its parent may be one that never reaps.
fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Makes a lab with everything in it, and returns its processes, its cgroup and its folder.
fn furnish(lab: &Lab) -> (Vec<u32>, PathBuf, PathBuf) {
    let pods = lab
        .pods((0..5).map(|n| PodSpec::new("shop", &n.to_string())))
        .unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol_many(&pods).unwrap();
    ztunnel.hang().unwrap();
    let mut pids: Vec<_> = pods.iter().map(|pod| pod.pid()).collect();
    pids.extend(lab.bystanders(10).unwrap());
    pids.push(pods[0].zombie().unwrap());
    pids.push(
        pods[1]
            .extra_process(&meshmedic_lab::ProcessNetns::Nested)
            .unwrap()
            .pid(),
    );
    pids.push(ztunnel.pid());
    (pids, cgroup_folder(pods[0].pid()), lab.folder().to_owned())
}

fn assert_gone(pids: &[u32], cgroup: &Path, folder: &Path) {
    for pid in pids {
        assert!(!lives(*pid), "process {pid} is left");
    }
    assert!(!cgroup.exists(), "{} is left", cgroup.display());
    assert!(!folder.exists(), "{} is left", folder.display());
}

#[test]
fn a_dropped_lab_leaves_nothing() {
    if !need::root("a_dropped_lab_leaves_nothing") {
        return;
    }
    let lab = Lab::new().unwrap();
    let (pids, cgroup, folder) = furnish(&lab);
    assert!(cgroup.exists() && folder.exists() && pids.len() == 18);
    drop(lab);
    assert_gone(&pids, &cgroup, &folder);
}

#[test]
fn a_panic_leaves_nothing() {
    if !need::root("a_panic_leaves_nothing") {
        return;
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let lab = Lab::new().unwrap();
        sender.send(furnish(&lab)).unwrap();
        panic!("as a failing test does");
    });
    assert!(panicked.join().is_err());
    let (pids, cgroup, folder) = receiver.recv().unwrap();
    assert_gone(&pids, &cgroup, &folder);
}

#[test]
fn a_killed_lab_leaves_nothing() {
    if !need::root("a_killed_lab_leaves_nothing") {
        return;
    }
    for signal in ["-KILL", "-INT", "-TERM"] {
        let mut node = Node::start(
            &mut Command::new(env!("CARGO_BIN_EXE_meshmedic-lab")),
            &["node", "5", "10"],
        );
        node.command("hang");
        let pids = node.pids();
        let cgroup = cgroup_folder(pids[0]);
        let folder = node.folder();
        assert!(cgroup.exists() && folder.exists() && pids.iter().all(|pid| lives(*pid)));
        let killed = Command::new("kill")
            .args([signal, &node.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        node.wait();
        wait::until("everything to be gone", SOON, || {
            !pids.iter().any(|pid| lives(*pid)) && !cgroup.exists() && !folder.exists()
        })
        .unwrap();
    }
}

#[test]
fn leftovers_of_dead_labs_are_swept() {
    if !need::root("leftovers_of_dead_labs_are_swept") {
        return;
    }
    let lab = Lab::new().unwrap();
    let pod = lab.pod(PodSpec::new("shop", "a")).unwrap();
    let mount = cgroup_folder(pod.pid()).parent().unwrap().to_owned();
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let left = mount.join(format!("meshmedic-lab-{}-0", ended.id()));
    fs::create_dir_all(left.join("kubepods/burstable")).unwrap();
    let other = Lab::new().unwrap();
    assert!(!left.exists());
    drop(other);
    assert!(cgroup_folder(pod.pid()).exists(), "a living lab was swept");
}
