// SPDX-License-Identifier: Apache-2.0
//! The process that runs a program of somebody else's, and ends it when the lab is gone.

use std::ffi::OsString;
use std::io;
use std::process::{Command, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal};

/// Runs a program until it ends or our input does. `arguments`: the program and its own.
pub(super) fn run(arguments: &[OsString]) -> io::Result<()> {
    let Some((program, arguments)) = arguments.split_first() else {
        return Err(io::Error::other("no program to run"));
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let pid = pid.ok_or_else(|| io::Error::other("a child without a number"))?;
    // By descriptor, so that the number may be reused without harm.
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    std::thread::spawn(move || {
        // However its input ends: nobody is left who wants the program.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
    });
    child.wait().map(drop)
}
