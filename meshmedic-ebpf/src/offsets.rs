// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Where the running kernel keeps the fields that the programs read.
//!
//! Rust has no CO-RE, so the loader resolves each offset from the kernel's BTF and writes it in here before the
//! programs are loaded. The map that holds them is frozen by then: the verifier sees constants, checks every
//! access against the kernel's own types, and turns the accesses into plain loads.

use aya_ebpf::Global;

/// Stands in until the loader has written the real offset: no structure is this big, so a program whose offset
/// was forgotten does not load.
const UNRESOLVED: u32 = 0x7fff;

/// What `SOCK_PROTOCOL` says of a socket of TCP.
pub const IPPROTO_TCP: u16 = 6;

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub static $name: Global<u32> = Global::new(UNRESOLVED);)*
    };
}

offsets! {
    /// `sock.__sk_common.skc_num`: the local port in host order.
    SOCK_NUM;
    /// `sock.__sk_common.skc_family`.
    SOCK_FAMILY;
    /// `sock.__sk_common.skc_state`.
    SOCK_STATE;
    /// `sock.__sk_common.skc_net.net`.
    SOCK_NET;
    /// `sock.__sk_common.skc_rcv_saddr`: the local IPv4 address.
    SOCK_RCV_SADDR;
    /// `sock.__sk_common.skc_v6_rcv_saddr`: the local IPv6 address; 0 in a kernel that has no IPv6.
    SOCK_V6_RCV_SADDR;
    /// `sock.__sk_common.skc_daddr`: the peer's IPv4 address.
    SOCK_DADDR;
    /// `sock.__sk_common.skc_v6_daddr`: the peer's IPv6 address; 0 in a kernel that has no IPv6.
    SOCK_V6_DADDR;
    /// `sock.__sk_common.skc_dport`: the peer's port in network order.
    SOCK_DPORT;
    /// `sock.sk_mark`.
    SOCK_MARK;
    /// `sock.sk_protocol`.
    SOCK_PROTOCOL;
    /// `socket.sk`.
    SOCKET_SK;
    /// `net.ns.inum`.
    NET_INUM;
    /// `net.nf.hooks_ipv4`; 0 where it is not known.
    NET_HOOKS_IPV4;
    /// `net.nf.hooks_ipv6`; 0 in a kernel that has no IPv6.
    NET_HOOKS_IPV6;
    /// `net.net_cookie`: a number that no other namespace ever gets; 0 where it is not known.
    NET_COOKIE;
    /// `net.nft.base_seq`: the generation of nf_tables' rules; 0 before 6.17, where a module keeps it.
    NET_NFT_GENERATION;
    /// No offset: 1 if connections are counted.
    CONNECTIONS_COUNTED;
    /// No offset: 1 if the census is to read the packet filter's hooks, too.
    RULES_READ;
    /// `task_struct.tgid`.
    TASK_TGID;
    /// `task_struct.nsproxy`; 0 where it is not known.
    TASK_NSPROXY;
    /// `nsproxy.net_ns`; 0 where it is not known.
    NSPROXY_NET;
    /// `file.f_inode`.
    FILE_INODE;
    /// `inode.i_ino`.
    INODE_INO;
    /// `bpf_iter_meta.seq`.
    META_SEQ;
}

/// Reads the field at `offset` of the kernel structure at `base`.
///
/// # Safety
/// `base` must be a pointer that the verifier knows the kernel type of, and `offset` that of a field of type `T`.
#[inline(always)]
pub unsafe fn field<T: Copy, S>(base: *const S, offset: &Global<u32>) -> T {
    // SAFETY: as the caller promises; a pointer that turned stale reads as zero, which the kernel sees to.
    unsafe {
        base.cast::<u8>()
            .add(offset.load() as usize)
            .cast::<T>()
            .read_volatile()
    }
}
