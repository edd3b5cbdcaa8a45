// SPDX-License-Identifier: Apache-2.0
//! The process that clears up after a lab that could not do it itself.

use std::ffi::OsString;
use std::io::{self, BufRead as _};
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::cgroup;

/// Waits until the lab is gone, then ends what it stopped and removes what it made.
///
/// `arguments`: the lab's temporary folder and, where it has one, its cgroup. Each line of the input is
/// the number of a process that the lab stopped, which therefore cannot notice the end of its own input.
pub(super) fn run(arguments: &[OsString]) -> io::Result<()> {
    let mut stopped = Vec::new();
    for line in io::stdin().lock().lines() {
        let Some(pid) = line?.trim().parse().ok().and_then(Pid::from_raw) else {
            continue;
        };
        // By descriptor, so that the number may be reused without harm.
        if let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            stopped.push(process);
        }
    }
    for process in stopped {
        let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
    }
    let mut paths = arguments.iter().map(PathBuf::from);
    let folder = paths.next();
    if let Some(group) = paths.next() {
        cgroup::end(&group);
    }
    if let Some(folder) = folder
        && folder.exists()
    {
        std::fs::remove_dir_all(folder)?;
    }
    Ok(())
}
