// SPDX-License-Identifier: Apache-2.0
//! The system calls for which no safe wrapper exists.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

/// Enters a new network namespace.
pub(crate) fn new_netns() -> io::Result<()> {
    // SAFETY: NEWNET changes nothing that memory safety rests on; of the flags, only FILES does.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}

/// Leaves the mounts of everybody else for a copy of them.
pub(crate) fn new_mount_namespace() -> io::Result<()> {
    // SAFETY: NEWNS changes nothing that memory safety rests on; of the flags, only FILES does.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    Ok(())
}

/// Forks a child that does nothing: it waits until `until_eof`, if given, has no writer left, and exits.
///
/// Only for processes of one thread: the helpers are.
pub(crate) fn fork_idle(until_eof: Option<BorrowedFd<'_>>, close: &[BorrowedFd<'_>]) -> io::Result<u32> {
    // SAFETY: The child calls close, read and _exit alone, which are async-signal-safe, and never
    // returns into Rust code that could expect its descriptors to be open.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                for fd in close {
                    libc::close(fd.as_raw_fd());
                }
                if let Some(fd) = until_eof {
                    let mut byte = 0u8;
                    while libc::read(fd.as_raw_fd(), (&raw mut byte).cast(), 1) > 0 {}
                }
                libc::_exit(0)
            }
            pid => Ok(pid.unsigned_abs()),
        }
    }
}

/// Lets `command` start in user and network namespaces of its own, as their root.
pub(crate) fn enter_userns(command: &mut Command) {
    let uid_map = format!("0 {} 1", rustix::process::geteuid().as_raw());
    let gid_map = format!("0 {} 1", rustix::process::getegid().as_raw());
    let enter = move || {
        // SAFETY: Neither flag touches memory or the file table.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET) }?;
        for (file, text) in [
            (c"/proc/self/setgroups", "deny"),
            (c"/proc/self/uid_map", &uid_map),
            (c"/proc/self/gid_map", &gid_map),
        ] {
            let file = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(&file, text.as_bytes())?;
        }
        Ok(())
    };
    // SAFETY: Between fork and exec the closure makes system calls alone; its strings were made before.
    unsafe { command.pre_exec(enter) };
}

/// Sets a socket's mark.
pub(crate) fn set_mark(socket: &impl std::os::fd::AsFd, mark: u32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<u32>()).map_err(io::Error::other)?;
    // SAFETY: The pointer and the length are those of a live u32, which the call only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            (&raw const mark).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The processor time that a process has used so far, the threads that ended included, to the nanosecond.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: The pointer is that of a live clockid_t, which the call only writes.
    let refused = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if refused != 0 {
        return Err(io::Error::from_raw_os_error(refused));
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: The pointer is that of a live timespec, which the call only writes.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
    let nanoseconds = u32::try_from(time.tv_nsec).map_err(io::Error::other)?;
    Ok(Duration::new(seconds, nanoseconds))
}
