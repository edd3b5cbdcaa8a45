// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The packet filter of a process's own network namespace: how a namespace is reached in which ztunnel holds no socket.

use core::ffi::c_void;

use aya_ebpf::bindings::task_struct;
use meshmedic_common::abi::CensusRow;

use crate::{
    census::{is_asked_for, write},
    offsets::{NET_INUM, NSPROXY_NET, RULES_READ, TASK_NSPROXY, TASK_TGID, field},
    rules,
};

/// `struct bpf_iter__task`, compared with the kernel's by the loader, as that of the census is.
#[repr(C)]
struct Task {
    meta: *const u8,
    task: *const task_struct,
}

/// Called by the kernel once for every task, and once without one at the end.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn filters(ctx: *mut c_void) -> i32 {
    // SAFETY: the kernel hands a `struct bpf_iter__task`, whose layout the loader compared with ours.
    unsafe { visit(ctx) };
    // Anything else would end the iteration.
    0
}

#[inline(always)]
unsafe fn visit(ctx: *mut c_void) {
    let at = ctx.cast::<Task>();
    // SAFETY: as the caller promises.
    let (meta, task) = unsafe { ((*at).meta, (*at).task) };
    if task.is_null() || RULES_READ.load() != 1 || TASK_NSPROXY.load() == 0 || NSPROXY_NET.load() == 0 {
        return;
    }
    // SAFETY: here and below, the offsets are the kernel's own for the types named in `offsets`.
    let tgid: u32 = unsafe { field(task, &TASK_TGID) };
    if !is_asked_for(tgid) {
        return;
    }
    // Of a task that ends there are none: what is read through a null pointer is zero.
    // SAFETY: see above.
    let net: *const u8 = unsafe {
        let namespaces: *const u8 = field(task, &TASK_NSPROXY);
        field(namespaces, &NSPROXY_NET)
    };
    // SAFETY: see above.
    let netns: u32 = unsafe { field(net, &NET_INUM) };
    if netns == 0 {
        return;
    }
    // SAFETY: see above.
    let [ipv4, ipv6] = unsafe { rules::hooks(net, netns) };
    let row = CensusRow {
        netns,
        tgid,
        ipv4,
        ipv6,
        ..CensusRow::NO_SOCKET
    };
    // SAFETY: see above.
    unsafe { write(meta, &row) };
}
