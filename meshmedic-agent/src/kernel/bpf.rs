// SPDX-License-Identifier: Apache-2.0
//! The two commands of bpf(2) that aya has, but without the limit to one process; and what else needs the C library.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use meshmedic_common::abi::TrafficCounts;

/// The array of [`TrafficCounts`] that the kernel shares with us: it is read without asking.
pub(super) struct SharedCounts {
    first: NonNull<TrafficCounts>,
    count: u32,
}

// SAFETY: memory that belongs to no thread; what is in it is read as atomics only.
unsafe impl Send for SharedCounts {}
// SAFETY: see above.
unsafe impl Sync for SharedCounts {}

impl SharedCounts {
    /// Maps an array of so many counts.
    pub(super) fn new(map: BorrowedFd<'_>, count: u32) -> io::Result<Self> {
        // SAFETY: the kernel chooses the place, and nothing else is touched.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::bytes(count),
                libc::PROT_READ,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        Ok(Self { first, count })
    }

    const fn bytes(count: u32) -> usize {
        count as usize * size_of::<TrafficCounts>()
    }

    /// One of them, nothing where there are not so many.
    pub(super) fn get(&self, at: u32) -> TrafficCounts {
        if at >= self.count {
            return TrafficCounts::default();
        }
        // SAFETY: within what is mapped, and aligned, as the array's values are.
        let counts = unsafe { self.first.add(at as usize) }.as_ptr();
        // SAFETY: as above; the kernel adds to them meanwhile, as atomics do.
        let read = |field: *mut u64| unsafe { AtomicU64::from_ptr(field) }.load(Ordering::Relaxed);
        // SAFETY: places within what is mapped, of which no reference is made.
        unsafe {
            TrafficCounts {
                opened_ipv4: read(&raw mut (*counts).opened_ipv4),
                opened_ipv6: read(&raw mut (*counts).opened_ipv6),
                accepted: read(&raw mut (*counts).accepted),
                taken_outbound: read(&raw mut (*counts).taken_outbound),
                taken_inbound: read(&raw mut (*counts).taken_inbound),
                upstream: read(&raw mut (*counts).upstream),
            }
        }
    }
}

impl Drop for SharedCounts {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped, and nobody refers to it any more.
        unsafe { libc::munmap(self.first.as_ptr().cast(), Self::bytes(self.count)) };
    }
}

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

/// What an iterator is limited to, by the numbers of our own PID namespace.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    /// All threads of a process.
    Process(u32),
    /// One thread.
    Thread(u32),
}

/// Makes a link for an iterator, limited where that is asked for.
///
/// Fails with `E2BIG` or `EINVAL` where the kernel does not know the limit.
pub(super) fn iterator_link(program: BorrowedFd<'_>, limit: Option<Limit>) -> io::Result<OwnedFd> {
    let info = limit.map(|limit| match limit {
        Limit::Process(pid) => IterLinkInfo {
            pid,
            ..IterLinkInfo::default()
        },
        Limit::Thread(tid) => IterLinkInfo {
            tid,
            ..IterLinkInfo::default()
        },
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
