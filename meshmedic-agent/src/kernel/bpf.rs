// SPDX-License-Identifier: Apache-2.0
//! The two commands of bpf(2) that aya has, but without the limit to one process; and what else needs the C library.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// `BPF_LINK_CREATE`.
const LINK_CREATE: libc::c_long = 28;
/// `BPF_ITER_CREATE`.
const ITER_CREATE: libc::c_long = 33;
/// `BPF_TRACE_ITER`, an attach type.
const TRACE_ITER: u32 = 28;

/// `union bpf_iter_link_info`, as its member `task` fills it.
#[repr(C, align(8))]
#[derive(Default)]
struct IterLinkInfo {
    tid: u32,
    pid: u32,
    pid_fd: u32,
}

/// `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    zero: u32,
}

/// `union bpf_attr` for `BPF_ITER_CREATE`.
#[repr(C)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

/// Makes a link for an iterator, limited to the process `tgid` of our own PID namespace where one is given.
///
/// Fails with `E2BIG` or `EINVAL` where the kernel does not know the limit.
pub(super) fn iterator_link(program: BorrowedFd<'_>, tgid: Option<u32>) -> io::Result<OwnedFd> {
    let info = tgid.map(|pid| IterLinkInfo {
        pid,
        ..IterLinkInfo::default()
    });
    let mut attr = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_fd: 0,
        attach_type: TRACE_ITER,
        flags: 0,
        iter_info: info.as_ref().map_or(0, |info| (&raw const *info).addr() as u64),
        iter_info_len: if info.is_some() {
            size_of::<IterLinkInfo>() as u32
        } else {
            0
        },
        zero: 0,
    };
    // SAFETY: `attr` is laid out as the command demands, and `info`, to which it points, outlives the call.
    unsafe { command(LINK_CREATE, &mut attr) }
}

/// Starts one pass of the iterator: a file to be read to its end.
pub(super) fn iterate(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = IterCreate {
        link_fd: link.as_raw_fd().cast_unsigned(),
        flags: 0,
    };
    // SAFETY: `attr` is laid out as the command demands and holds no pointer.
    unsafe { command(ITER_CREATE, &mut attr) }
}

/// Calls bpf(2) with a command that answers with a file descriptor.
///
/// # Safety
/// `A` must be the layout of `union bpf_attr` for this command, and its pointers valid for the call.
unsafe fn command<A>(number: libc::c_long, attr: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises; the size is that of what the pointer points to.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, number, &raw mut *attr, size_of::<A>()) };
    match i32::try_from(answer) {
        // SAFETY: the kernel has just made this descriptor for us, close-on-exec, and nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the system have the memory back that was freed; the GNU C library keeps it otherwise.
pub(super) fn give_memory_back() {
    // SAFETY: the call has no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
