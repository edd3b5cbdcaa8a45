// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The census: every socket that listens on a capture port, out of a process's file table.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::{file, seq_file, task_struct},
    helpers::generated::{bpf_seq_write, bpf_sock_from_file},
    macros::map,
    maps::HashMap,
};
use aya_log_ebpf::debug;
use meshmedic_common::abi::{
    ADDRESS_LOOPBACK, ADDRESS_OTHER, ADDRESS_WILDCARD, CensusRow, FAMILY_INET, FAMILY_INET6, FamilyHooks,
    PORT_OUTBOUND, is_capture_port,
};

use crate::{
    offsets::{
        FILE_INODE, INODE_INO, IPPROTO_TCP, META_SEQ, NET_INUM, RULES_READ, SOCK_FAMILY, SOCK_NET, SOCK_NUM,
        SOCK_PROTOCOL, SOCK_RCV_SADDR, SOCK_STATE, SOCK_V6_RCV_SADDR, SOCKET_SK, TASK_TGID, field,
    },
    rules,
    trigger::TCP_LISTEN,
};

/// As many processes as one census may be limited to.
const TGIDS_MAX: u32 = 1024;

/// The thread groups asked for, where the kernel cannot limit the iterator to one; key 0 stands for all.
#[map]
static CENSUS_TGIDS: HashMap<u32, u8> = HashMap::with_max_entries(TGIDS_MAX, 0);

/// `struct bpf_iter__task_file`: the verifier demands constant offsets into it, so the loader compares this
/// layout with the kernel's instead of writing it in.
#[repr(C)]
struct TaskFile {
    meta: *const u8,
    task: *const task_struct,
    fd: u32,
    file: *const file,
}

struct Context(*mut c_void);

impl EbpfContext for Context {
    fn as_ptr(&self) -> *mut c_void {
        self.0
    }
}

/// Called by the kernel once for every open file, and once without one at the end.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn census(ctx: *mut c_void) -> i32 {
    // SAFETY: the kernel hands a `struct bpf_iter__task_file`, whose layout the loader compared with ours.
    unsafe { visit(ctx) };
    // Anything else would end the iteration.
    0
}

#[inline(always)]
unsafe fn visit(ctx: *mut c_void) {
    let at = ctx.cast::<TaskFile>();
    // SAFETY: as the caller promises.
    let (meta, task, file) = unsafe { ((*at).meta, (*at).task, (*at).file) };
    if task.is_null() || file.is_null() {
        return;
    }
    // SAFETY: `file` is not null, and the verifier knows its type.
    let socket = unsafe { bpf_sock_from_file(file.cast_mut()) };
    if socket.is_null() {
        return;
    }
    // SAFETY: here and below, the offsets are the kernel's own for the types named in `offsets`.
    let sk: *const u8 = unsafe { field(socket.cast_const(), &SOCKET_SK) };
    // SAFETY: see above.
    if i32::from(unsafe { field::<u8, _>(sk, &SOCK_STATE) }) != TCP_LISTEN {
        return;
    }
    // SAFETY: see above.
    let (port, protocol) = unsafe {
        (
            field::<u16, _>(sk, &SOCK_NUM),
            field::<u16, _>(sk, &SOCK_PROTOCOL),
        )
    };
    if !is_capture_port(port) || protocol != IPPROTO_TCP {
        return;
    }
    // SAFETY: see above.
    let tgid: u32 = unsafe { field(task, &TASK_TGID) };
    if !is_asked_for(tgid) {
        return;
    }
    // SAFETY: see above.
    let (family, net, inode) = unsafe {
        (
            field::<u16, _>(sk, &SOCK_FAMILY),
            field::<*const u8, _>(sk, &SOCK_NET),
            field::<*const u8, _>(file, &FILE_INODE),
        )
    };
    // SAFETY: see above.
    let netns: u32 = unsafe { field(net, &NET_INUM) };
    // Once for a namespace. Where the helper that reads them is forbidden, no trace of it may be left in the program.
    let [ipv4, ipv6] = if port == PORT_OUTBOUND && RULES_READ.load() == 1 {
        // SAFETY: see above.
        unsafe { rules::hooks(net, netns) }
    } else {
        [FamilyHooks::NOT_READ; 2]
    };
    let row = CensusRow {
        // SAFETY: see above.
        inode: unsafe { field(inode, &INODE_INO) },
        netns,
        tgid,
        port,
        family,
        // SAFETY: see above.
        address: unsafe { address(sk, family) },
        padding: [0; 3],
        ipv4,
        ipv6,
    };
    // SAFETY: see above.
    unsafe { write(meta, &row) };
    debug!(
        &Context(ctx),
        "census: port {} family {} netns {} tgid {}", port, family, row.netns, tgid
    );
}

/// Hands a row to whoever reads. A full buffer is the kernel's to handle: it visits the same object again in the next
/// read.
///
/// # Safety
/// `meta` must be the iterator's own, which the verifier knows, and the offsets the kernel's own.
#[inline(always)]
pub unsafe fn write(meta: *const u8, row: &CensusRow) {
    // SAFETY: as the caller promises.
    let seq: *mut seq_file = unsafe { field(meta, &META_SEQ) };
    // SAFETY: `row` has no uninitialised byte, since its padding is explicit, and it outlives the call.
    unsafe {
        bpf_seq_write(
            seq,
            (&raw const *row).cast_mut().cast(),
            size_of::<CensusRow>() as u32,
        )
    };
}

/// Whether a thread group is one of those that are looked for.
#[inline(always)]
pub fn is_asked_for(tgid: u32) -> bool {
    CENSUS_TGIDS.get_ptr(0u32).is_some() || CENSUS_TGIDS.get_ptr(tgid).is_some()
}

/// What kind of address the socket is bound to.
///
/// # Safety
/// `sk` must be a socket that the verifier knows, and the offsets the kernel's own.
#[inline(always)]
unsafe fn address(sk: *const u8, family: u16) -> u8 {
    if family == FAMILY_INET {
        // SAFETY: as the caller promises.
        return v4_address(unsafe { field(sk, &SOCK_RCV_SADDR) });
    }
    if family != FAMILY_INET6 || SOCK_V6_RCV_SADDR.load() == 0 {
        return ADDRESS_OTHER;
    }
    // SAFETY: as the caller promises.
    let (head, middle, tail) = unsafe {
        let at = sk.add(SOCK_V6_RCV_SADDR.load() as usize).cast::<u32>();
        let head = at.read_volatile() | at.add(1).read_volatile();
        (head, at.add(2).read_volatile(), at.add(3).read_volatile())
    };
    if head != 0 {
        return ADDRESS_OTHER;
    }
    match (u32::from_be(middle), u32::from_be(tail)) {
        (0, 0) => ADDRESS_WILDCARD,
        (0, 1) => ADDRESS_LOOPBACK,
        // ::ffff:127.0.0.1 is IPv4's loopback. ::ffff:0.0.0.0 is no `[::]`.
        (0xffff, _) if v4_address(tail) == ADDRESS_LOOPBACK => ADDRESS_LOOPBACK,
        _ => ADDRESS_OTHER,
    }
}

#[inline(always)]
fn v4_address(network_order: u32) -> u8 {
    match u32::from_be(network_order) {
        0 => ADDRESS_WILDCARD,
        address if address >> 24 == 127 => ADDRESS_LOOPBACK,
        _ => ADDRESS_OTHER,
    }
}
