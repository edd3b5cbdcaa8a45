// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How many connections come about in the namespaces of pods, and which of them are ztunnel's half of one.
//!
//! Both halves of a redirected connection lie in the pod's own namespace. The application's socket knows nothing of the
//! redirection: its peer is whom it asked for. ztunnel's socket is a child of its listener, and knows the application
//! by its address. A connection past ztunnel has the first half only.

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap},
};
use meshmedic_common::abi::{
    FAMILY_INET6, MARK_WORDS, PORT_INBOUND_HBONE, PORT_INBOUND_PLAINTEXT, PORT_NAMES, PORT_OUTBOUND,
    PROBE_IPV4, PROBE_IPV6, TrafficCounts, ZTUNNEL_MARK, ZTUNNEL_MARK_MASK, is_capture_port, mark_of,
};

use crate::offsets::{
    IPPROTO_TCP, NET_INUM, SOCK_DADDR, SOCK_DPORT, SOCK_FAMILY, SOCK_MARK, SOCK_NET, SOCK_NUM, SOCK_PROTOCOL,
    SOCK_RCV_SADDR, SOCK_V6_DADDR, SOCK_V6_RCV_SADDR, field,
};

/// The loader makes both maps as big as it is told.
const NAMESPACES: u32 = 2048;

/// Where in `TRAFFIC` a namespace that is watched is counted, by its inode. User space alone adds and removes.
#[map]
static TRAFFIC_SLOTS: HashMap<u32, u32> = HashMap::with_max_entries(NAMESPACES, BPF_F_NO_PREALLOC);

/// One bit for each namespace that may be watched, see [`mark_of`].
#[map]
static TRAFFIC_MARKS: Array<u64> = Array::with_max_entries(MARK_WORDS, 0);

/// The counts. User space reads them without asking the kernel.
#[map]
static TRAFFIC: Array<TrafficCounts> = Array::with_max_entries(NAMESPACES, BPF_F_MMAPABLE);

/// `TCP_SYN_SENT` and `TCP_SYN_RECV` in the kernel's `tcp_states.h`: who asked, and who was asked.
const TCP_SYN_SENT: i32 = 2;
const TCP_SYN_RECV: i32 = 3;

/// The middle of an IPv6 address that stands for one of IPv4, in network order.
const MAPPED: u32 = 0xffff_u32.to_be();
const PROBE_4: u32 = u32::from_ne_bytes(PROBE_IPV4);
const PROBE_6: Address = probe_6();

/// An IPv6 address, word by word in network order. One of IPv4 stands in the last, behind [`MAPPED`].
type Address = [u32; 4];

const fn probe_6() -> Address {
    let mut words = [0; 4];
    let mut at = 0;
    while at < 4 {
        words[at] = (((PROBE_IPV6[at * 2] as u32) << 16) | PROBE_IPV6[at * 2 + 1] as u32).to_be();
        at += 1;
    }
    words
}

/// Counts a connection that came about, if its namespace is watched.
///
/// # Safety
/// `sk` must be a `struct sock` that the verifier knows.
#[inline(always)]
pub unsafe fn count(sk: *const u8, before: i32) {
    if before != TCP_SYN_SENT && before != TCP_SYN_RECV {
        return;
    }
    let opened = before == TCP_SYN_SENT;
    // SAFETY: as the caller promises; the offsets are the kernel's own.
    let netns: u32 = unsafe { field(field::<*const u8, _>(sk, &SOCK_NET), &NET_INUM) };
    // Most connections of a node are not in pods, and this is all that they pay.
    let (word, bit) = mark_of(netns);
    let Some(marks) = TRAFFIC_MARKS.get_ptr(word) else {
        return;
    };
    // SAFETY: the value of a map lives as long as the map.
    if unsafe { *marks } & bit == 0 {
        return;
    }
    // SAFETY: as the caller promises.
    if unsafe { field::<u16, _>(sk, &SOCK_PROTOCOL) } != IPPROTO_TCP {
        return;
    }
    let Some(slot) = TRAFFIC_SLOTS.get_ptr(netns) else {
        return;
    };
    // SAFETY: the value of a map, which user space may have taken away: then it is one that was.
    let Some(counts) = TRAFFIC.get_ptr_mut(unsafe { *slot }) else {
        return;
    };
    // SAFETY: as the caller promises.
    let (local, peer) = unsafe { addresses(sk) };
    if is_within(&local, &peer) || is_probe(&peer) {
        return;
    }
    // SAFETY: as the caller promises.
    let (port, to, mark) = unsafe {
        (
            field::<u16, _>(sk, &SOCK_NUM),
            u16::from_be(field(sk, &SOCK_DPORT)),
            field::<u32, _>(sk, &SOCK_MARK),
        )
    };
    let of_ztunnel = mark & ZTUNNEL_MARK_MASK == ZTUNNEL_MARK;
    // SAFETY: the value of a map lives as long as the map.
    let counts = unsafe { &mut *counts };
    let counter = if opened && to == PORT_NAMES {
        return;
    } else if !opened && port == PORT_OUTBOUND {
        &mut counts.taken_outbound
    } else if !opened && (port == PORT_INBOUND_PLAINTEXT || port == PORT_INBOUND_HBONE) {
        &mut counts.taken_inbound
    } else if is_capture_port(port) {
        return;
    } else if of_ztunnel && opened {
        &mut counts.upstream
    } else if of_ztunnel {
        // By the rules of Istio 1.22 and 1.23 it has the port that was asked for.
        &mut counts.taken_inbound
    } else if mark != 0 {
        // Somebody routes it on purpose.
        return;
    } else if !opened {
        &mut counts.accepted
    } else if local[2] == MAPPED && local[0] | local[1] == 0 {
        &mut counts.opened_ipv4
    } else {
        &mut counts.opened_ipv6
    };
    add_one(counter);
}

/// Adds one, whatever other processors add meanwhile: core has no such atomics for this target.
#[inline(always)]
fn add_one(counter: &mut u64) {
    // SAFETY: eight aligned bytes that are ours to write.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {one}",
            counter = in(reg) counter,
            one = in(reg) 1_u64,
            options(nostack),
        );
    }
}

/// The socket's own address and its peer's.
///
/// # Safety
/// `sk` must be a `struct sock` that the verifier knows.
#[inline(always)]
unsafe fn addresses(sk: *const u8) -> (Address, Address) {
    // SAFETY: as the caller promises; the offsets are the kernel's own.
    let family: u16 = unsafe { field(sk, &SOCK_FAMILY) };
    if family == FAMILY_INET6 && SOCK_V6_DADDR.load() != 0 && SOCK_V6_RCV_SADDR.load() != 0 {
        // SAFETY: as above.
        let word =
            |offset: u32, at: usize| unsafe { sk.add(offset as usize).cast::<u32>().add(at).read_volatile() };
        let of = |offset: u32| [word(offset, 0), word(offset, 1), word(offset, 2), word(offset, 3)];
        return (of(SOCK_V6_RCV_SADDR.load()), of(SOCK_V6_DADDR.load()));
    }
    // SAFETY: as above.
    let (local, peer) = unsafe { (field(sk, &SOCK_RCV_SADDR), field(sk, &SOCK_DADDR)) };
    ([0, 0, MAPPED, local], [0, 0, MAPPED, peer])
}

/// Whether a connection never leaves the namespace.
#[inline(always)]
fn is_within(local: &Address, peer: &Address) -> bool {
    let same = local[0] == peer[0] && local[1] == peer[1] && local[2] == peer[2] && local[3] == peer[3];
    same || is_loopback(peer)
}

#[inline(always)]
fn is_loopback(address: &Address) -> bool {
    let last = u32::from_be(address[3]);
    address[0] | address[1] == 0
        && ((address[2] == MAPPED && last >> 24 == 127) || (address[2] == 0 && last == 1))
}

#[inline(always)]
fn is_probe(peer: &Address) -> bool {
    let v4 = peer[0] | peer[1] == 0 && peer[2] == MAPPED && peer[3] == PROBE_4;
    let v6 = peer[0] == PROBE_6[0] && peer[1] == PROBE_6[1] && peer[2] == PROBE_6[2] && peer[3] == PROBE_6[3];
    v4 || v6
}
