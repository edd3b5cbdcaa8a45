// SPDX-License-Identifier: Apache-2.0
//! A program in the network namespace of a pod, as `exec` would run it in one of its containers.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::Signal;

use super::enter;
use crate::process::netns_path;

/// Becomes the program. `arguments`: whose namespace, how the program is called, where it is, and its own.
pub(super) fn run(arguments: &[OsString]) -> io::Result<()> {
    let [pid, name, program, arguments @ ..] = arguments else {
        return Err(io::Error::other("no program to run"));
    };
    // Whoever asked for it may be killed, too.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let pid = pid.to_str().and_then(|pid| pid.parse().ok());
    let pid = pid.ok_or_else(|| io::Error::other("no process ID"))?;
    enter(&File::open(netns_path(pid))?)?;
    Err(Command::new(program).arg0(name).args(arguments).exec())
}
