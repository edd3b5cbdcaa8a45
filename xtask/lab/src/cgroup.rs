// SPDX-License-Identifier: Apache-2.0
//! The cgroups of pods: their paths in every shape, and their directories where they can be made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::pod::spec::{Driver, PodSpec, Qos, Shape};
use crate::wait;

/// How the name of every lab's cgroup begins.
const PREFIX: &str = "meshmedic-lab-";
/// How long processes that were killed may take to leave their cgroups.
const LEAVE: Duration = Duration::from_secs(10);

/// The path of a pod's cgroup for one container, as the node's root cgroup sees it.
pub(crate) fn path(spec: &PodSpec, cgroup_uid: &str, container: &str) -> String {
    let class = match spec.qos {
        Qos::Guaranteed => None,
        Qos::Burstable => Some("burstable"),
        Qos::BestEffort => Some("besteffort"),
    };
    let node = match spec.shape {
        Shape::Node => String::new(),
        Shape::Docker => format!("/docker/{}", "d0c".repeat(22).split_at(64).0),
        Shape::Kind => format!("/system.slice/docker-{}.scope", "d0c".repeat(22).split_at(64).0),
    };
    match spec.driver {
        Driver::Cgroupfs => {
            let class = class.map(|class| format!("/{class}")).unwrap_or_default();
            let nest = if spec.shape == Shape::Kind { "/kubelet" } else { "" };
            format!("{node}{nest}/kubepods{class}/pod{cgroup_uid}/{container}")
        }
        Driver::Systemd => {
            // systemd reads a dash as a step down, so the UID's own become underscores.
            let uid = cgroup_uid.replace('-', "_");
            let (nest, stem) = match spec.shape {
                Shape::Kind => ("/kubelet.slice", "kubelet-kubepods"),
                Shape::Node | Shape::Docker => ("", "kubepods"),
            };
            let (class_slice, pod) = match class {
                Some(class) => (
                    format!("/{stem}-{class}.slice"),
                    format!("{stem}-{class}-pod{uid}.slice"),
                ),
                None => (String::new(), format!("{stem}-pod{uid}.slice")),
            };
            format!("{node}{nest}/{stem}.slice{class_slice}/{pod}/cri-containerd-{container}.scope")
        }
    }
}

/// Makes a cgroup for a lab, or `None` where none can be made.
pub(crate) fn make(lab: &str) -> Option<PathBuf> {
    mounts().into_iter().find_map(|mount| {
        sweep(&mount);
        let group = mount.join(format!("{PREFIX}{lab}"));
        fs::create_dir(&group).ok()?;
        // A directory that cannot be entered is no use; entering needs write access to this file.
        if fs::OpenOptions::new()
            .write(true)
            .open(group.join("cgroup.procs"))
            .is_err()
        {
            let _ = fs::remove_dir(&group);
            return None;
        }
        Some(group)
    })
}

/// Whether a lab could make cgroups here.
pub(crate) fn writable() -> bool {
    mounts().iter().any(|mount| {
        rustix::fs::access(mount.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).is_ok()
            && rustix::fs::access(mount, rustix::fs::Access::WRITE_OK).is_ok()
    })
}

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or below it where v1 rules.
fn mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (path, kind) = (fields.nth(1)?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })
        .collect()
}

/// Removes what labs left behind whose process is gone, as far as it is empty.
fn sweep(mount: &Path) {
    let Ok(entries) = fs::read_dir(mount) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if let Some(owner) = owner.and_then(|pid| pid.parse::<u32>().ok())
            && !Path::new("/proc").join(owner.to_string()).exists()
        {
            let _ = remove(&entry.path());
        }
    }
}

/// Ends every process in a lab's cgroup and removes it.
pub(crate) fn end(group: &Path) {
    if !group.exists() {
        return;
    }
    // Absent before Linux 5.14; the helpers end by themselves then.
    let _ = fs::write(group.join("cgroup.kill"), "1");
    let _ = wait::until("the lab's cgroups to be empty", LEAVE, || remove(group).is_ok());
}

/// Removes a cgroup with everything below it.
fn remove(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
