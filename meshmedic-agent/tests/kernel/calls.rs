// SPDX-License-Identifier: Apache-2.0
//! System calls by their numbers, with arguments that the kernel can do nothing with.

use std::io;

/// What came of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Refused(i32),
}

/// A name for people, the number, and arguments that let nothing happen even where the call is allowed.
pub(crate) type Call = (&'static str, i64, &'static [i64]);

const NONE: i64 = -1;
const NOBODY: i64 = i32::MAX as i64;
const NONSENSE: i64 = 0xFFFF;

/// Gives a socket a mark.
pub(crate) fn mark(socket: impl std::os::fd::AsFd, mark: u32) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let size = libc::socklen_t::try_from(size_of::<u32>()).expect("four fits");
    let value = (&raw const mark).cast();
    // SAFETY: the option's value is four bytes, which outlive the call.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            value,
            size,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes the call.
pub(crate) fn make(&(name, number, arguments): &Call) -> Answer {
    let mut six = [0; 6];
    six[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = six;
    // SAFETY: no argument of a call in `DENIED` or `ALLOWED` is a valid pointer, so the kernel writes nowhere. The one
    // that could make another process is followed by the check below.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    let error = io::Error::last_os_error();
    if answer == 0 && number == FORK {
        // SAFETY: the new process, which should not be there, ends at once.
        unsafe { libc::_exit(1) };
    }
    match answer {
        -1 => Answer::Refused(error.raw_os_error().unwrap_or_default()),
        fd if name.starts_with("socket(") => {
            // SAFETY: the call has just made this descriptor, and nobody else knows it.
            unsafe { libc::close(i32::try_from(fd).unwrap_or(-1)) };
            Answer::Done
        }
        _ => Answer::Done,
    }
}

#[cfg(target_arch = "x86_64")]
const FORK: i64 = libc::SYS_fork;
#[cfg(not(target_arch = "x86_64"))]
const FORK: i64 = i64::MAX;

/// What must be denied. Without the filter each of them fails for another reason, or does nothing.
pub(crate) const DENIED: &[Call] = &[
    ("ptrace", libc::SYS_ptrace, &[16]),
    (
        "process_vm_readv",
        libc::SYS_process_vm_readv,
        &[0, 0, 0, 0, 0, 1],
    ),
    (
        "process_vm_writev",
        libc::SYS_process_vm_writev,
        &[0, 0, 0, 0, 0, 1],
    ),
    ("process_madvise", libc::SYS_process_madvise, &[NONE]),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, &[NONE]),
    ("kill", libc::SYS_kill, &[NOBODY]),
    ("tkill", libc::SYS_tkill, &[NOBODY]),
    ("tgkill", libc::SYS_tgkill, &[NOBODY, NOBODY]),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal, &[NONE]),
    ("execve", libc::SYS_execve, &[]),
    ("execveat", libc::SYS_execveat, &[NONE]),
    (
        "clone of a process",
        libc::SYS_clone,
        &[(libc::CLONE_NEWNS | libc::CLONE_FS) as i64],
    ),
    ("setns", libc::SYS_setns, &[NONE]),
    ("unshare", libc::SYS_unshare, &[1]),
    ("chroot", libc::SYS_chroot, &[]),
    ("pivot_root", libc::SYS_pivot_root, &[]),
    ("mount", libc::SYS_mount, &[]),
    ("umount2", libc::SYS_umount2, &[0, NONSENSE]),
    ("open_tree", libc::SYS_open_tree, &[NONE, 0, NONSENSE]),
    ("move_mount", libc::SYS_move_mount, &[NONE, 0, NONE]),
    ("fsopen", libc::SYS_fsopen, &[0, NONSENSE]),
    ("fsconfig", libc::SYS_fsconfig, &[NONE]),
    ("fsmount", libc::SYS_fsmount, &[NONE, NONSENSE]),
    ("fspick", libc::SYS_fspick, &[NONE, 0, NONSENSE]),
    ("mount_setattr", libc::SYS_mount_setattr, &[NONE, 0, NONSENSE]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, &[NONE]),
    ("init_module", libc::SYS_init_module, &[]),
    ("finit_module", libc::SYS_finit_module, &[NONE]),
    ("delete_module", libc::SYS_delete_module, &[]),
    ("kexec_load", libc::SYS_kexec_load, &[0, 17, 0, NONSENSE]),
    ("reboot", libc::SYS_reboot, &[]),
    ("perf_event_open", libc::SYS_perf_event_open, &[]),
    ("swapon", libc::SYS_swapon, &[]),
    ("clock_settime", libc::SYS_clock_settime, &[]),
    ("io_uring_setup", libc::SYS_io_uring_setup, &[]),
    ("userfaultfd", libc::SYS_userfaultfd, &[NONSENSE]),
    ("keyctl", libc::SYS_keyctl, &[NONSENSE]),
    ("capset", libc::SYS_capset, &[]),
    ("bpf(BPF_PROG_LOAD)", libc::SYS_bpf, &[5]),
    ("bpf(BPF_OBJ_GET)", libc::SYS_bpf, &[7]),
    (
        "openat for writing",
        libc::SYS_openat,
        &[NONE, 0, libc::O_WRONLY as i64],
    ),
    (
        "openat for both",
        libc::SYS_openat,
        &[NONE, 0, libc::O_RDWR as i64],
    ),
    (
        "openat to make",
        libc::SYS_openat,
        &[NONE, 0, libc::O_CREAT as i64],
    ),
    (
        "openat to empty",
        libc::SYS_openat,
        &[NONE, 0, libc::O_TRUNC as i64],
    ),
    ("truncate", libc::SYS_truncate, &[]),
    ("unlinkat", libc::SYS_unlinkat, &[NONE]),
    ("renameat2", libc::SYS_renameat2, &[NONE, 0, NONE]),
    ("linkat", libc::SYS_linkat, &[NONE, 0, NONE]),
    ("symlinkat", libc::SYS_symlinkat, &[]),
    ("mkdirat", libc::SYS_mkdirat, &[NONE]),
    ("mknodat", libc::SYS_mknodat, &[NONE]),
    ("fchmodat", libc::SYS_fchmodat, &[NONE]),
    ("fchownat", libc::SYS_fchownat, &[NONE]),
    ("setxattr", libc::SYS_setxattr, &[]),
    (
        "socket(AF_UNIX)",
        libc::SYS_socket,
        &[libc::AF_UNIX as i64, libc::SOCK_STREAM as i64],
    ),
    (
        "socket(AF_PACKET)",
        libc::SYS_socket,
        &[libc::AF_PACKET as i64, libc::SOCK_DGRAM as i64],
    ),
    (
        "socketpair of datagrams",
        libc::SYS_socketpair,
        &[libc::AF_UNIX as i64, libc::SOCK_DGRAM as i64],
    ),
];

/// The same, by numbers that only x86_64 has.
#[cfg(target_arch = "x86_64")]
pub(crate) const DENIED_HERE: &[Call] = &[
    ("open for writing", libc::SYS_open, &[0, libc::O_WRONLY as i64]),
    ("creat", libc::SYS_creat, &[]),
    ("unlink", libc::SYS_unlink, &[]),
    ("rename", libc::SYS_rename, &[]),
    ("chmod", libc::SYS_chmod, &[]),
    ("iopl", libc::SYS_iopl, &[NONSENSE]),
    (
        "getpid, by its number of x32",
        0x4000_0000 | libc::SYS_getpid,
        &[],
    ),
];
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const DENIED_HERE: &[Call] = &[];

/// Only tried where it must fail: otherwise there would be another process.
pub(crate) const FORKS: &[Call] = &[("fork", FORK, &[])];

/// What a C library then does without.
pub(crate) const UNKNOWN: &[Call] = &[
    ("clone3", libc::SYS_clone3, &[]),
    ("openat2", libc::SYS_openat2, &[NONE]),
];

/// What the filter must let through: each fails because its arguments are nonsense.
pub(crate) const ALLOWED: &[Call] = &[
    ("openat for reading", libc::SYS_openat, &[NONE]),
    ("bpf(BPF_LINK_CREATE)", libc::SYS_bpf, &[28]),
    ("bpf(BPF_MAP_LOOKUP_ELEM)", libc::SYS_bpf, &[1]),
    (
        "socket(AF_INET)",
        libc::SYS_socket,
        &[libc::AF_INET as i64, libc::SOCK_STREAM as i64],
    ),
    (
        "socket(AF_NETLINK)",
        libc::SYS_socket,
        &[libc::AF_NETLINK as i64, libc::SOCK_RAW as i64],
    ),
    (
        "socketpair of streams",
        libc::SYS_socketpair,
        &[libc::AF_UNIX as i64, libc::SOCK_STREAM as i64],
    ),
];
