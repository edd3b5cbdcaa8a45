// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The trigger: a capture port began to listen, or went from LISTEN to CLOSE. Connections that come about are counted
//! on the way.

use aya_ebpf::{
    helpers::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{btf_tracepoint, map},
    maps::{PerCpuArray, RingBuf},
    programs::BtfTracePointContext,
};
use aya_log_ebpf::debug;
use meshmedic_common::abi::{CHANGE_CLOSED, CHANGE_OPENED, ListenChange, is_capture_port};

use crate::{
    offsets::{
        CONNECTIONS_COUNTED, IPPROTO_TCP, NET_INUM, SOCK_FAMILY, SOCK_NET, SOCK_NUM, SOCK_PROTOCOL, field,
    },
    traffic,
};

/// `TCP_ESTABLISHED` in the kernel's `tcp_states.h`.
const TCP_ESTABLISHED: i32 = 1;

/// `TCP_CLOSE` in the kernel's `tcp_states.h`.
const TCP_CLOSE: i32 = 7;
/// `TCP_LISTEN` in the kernel's `tcp_states.h`.
pub const TCP_LISTEN: i32 = 10;

/// Room for 6,500 records: 1,000 pods that lose and regain three listeners while nobody reads.
const RING_BYTES: u32 = 256 * 1024;

/// The records, for user space.
#[map]
static LISTEN_CHANGES: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// How many records found the ring full.
#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[btf_tracepoint(function = "inet_sock_set_state")]
fn trigger(ctx: BtfTracePointContext) -> i32 {
    // Every TCP connection of the node passes here several times: decide by the arguments alone first.
    let newstate: i32 = ctx.arg(2);
    let change = if newstate == TCP_LISTEN {
        CHANGE_OPENED
    } else if newstate == TCP_CLOSE && ctx.arg::<i32>(1) == TCP_LISTEN {
        CHANGE_CLOSED
    } else if newstate == TCP_ESTABLISHED && CONNECTIONS_COUNTED.load() == 1 {
        // SAFETY: the tracepoint's first argument is a `struct sock`.
        unsafe { traffic::count(ctx.arg(0), ctx.arg(1)) };
        return 0;
    } else {
        // LISTEN → SYN_RECV among them: a connection's birth, reported under its listener's state.
        return 0;
    };
    let sk: *const u8 = ctx.arg(0);
    // SAFETY: the tracepoint's first argument is a `struct sock`, and the offsets are the kernel's own.
    let (port, protocol) = unsafe {
        (
            field::<u16, _>(sk, &SOCK_NUM),
            field::<u16, _>(sk, &SOCK_PROTOCOL),
        )
    };
    if !is_capture_port(port) || protocol != IPPROTO_TCP {
        return 0;
    }
    // SAFETY: as above. The netns is the socket's own: at close the current task may be in another one.
    let (family, netns) = unsafe {
        let net: *const u8 = field(sk, &SOCK_NET);
        (field::<u16, _>(sk, &SOCK_FAMILY), field::<u32, _>(net, &NET_INUM))
    };
    // SAFETY: these helpers have no preconditions.
    let (at_ns, cgroup_id) = unsafe { (bpf_ktime_get_ns(), bpf_get_current_cgroup_id()) };
    let record = ListenChange {
        at_ns,
        cgroup_id,
        netns,
        tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        port,
        family,
        change,
        padding: [0; 3],
    };
    if let Some(mut entry) = LISTEN_CHANGES.reserve::<ListenChange>(0) {
        entry.write(record);
        entry.submit(0);
    } else if let Some(lost) = LOST.get_ptr_mut(0) {
        // SAFETY: the pointer is into this processor's own slot, and the program is not preempted by itself.
        unsafe { *lost += 1 };
    }
    debug!(
        &ctx,
        "port {} family {} netns {} change {}", port, family, netns, change
    );
    0
}
