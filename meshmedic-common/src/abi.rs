// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What crosses from the kernel programs to user space, byte for byte.
//!
//! Fixed-width integers and explicit padding only: no `bool`, `enum` or `Option` crosses the border,
//! because a value that Rust considers impossible would be undefined behaviour on the other side.

/// ztunnel's outbound listener in the pod's network namespace.
pub const PORT_OUTBOUND: u16 = 15001;
/// ztunnel's inbound plaintext listener.
pub const PORT_INBOUND_PLAINTEXT: u16 = 15006;
/// ztunnel's inbound HBONE listener.
pub const PORT_INBOUND_HBONE: u16 = 15008;
/// ztunnel's DNS listener; absent where DNS capture is off.
pub const PORT_DNS: u16 = 15053;
/// ztunnel's SOCKS5 listener; absent unless it is switched on.
pub const PORT_SOCKS5: u16 = 15080;

/// The ports without which a pod is not captured.
pub const REQUIRED_PORTS: [u16; 3] = [PORT_OUTBOUND, PORT_INBOUND_PLAINTEXT, PORT_INBOUND_HBONE];
/// Every port that ztunnel may hold in a pod: what the kernel programs look at.
pub const CAPTURE_PORTS: [u16; 5] = [
    PORT_OUTBOUND,
    PORT_INBOUND_PLAINTEXT,
    PORT_INBOUND_HBONE,
    PORT_DNS,
    PORT_SOCKS5,
];

/// `AF_INET` as the kernel writes it into a record.
pub const FAMILY_INET: u16 = 2;
/// `AF_INET6` as the kernel writes it into a record.
pub const FAMILY_INET6: u16 = 10;

/// The socket began to listen.
pub const CHANGE_OPENED: u8 = 1;
/// The socket went from LISTEN to CLOSE.
pub const CHANGE_CLOSED: u8 = 2;

/// The listener is bound to `0.0.0.0` or `[::]`.
pub const ADDRESS_WILDCARD: u8 = 0;
/// The listener is bound to `127.0.0.0/8` or `[::1]`.
pub const ADDRESS_LOOPBACK: u8 = 1;
/// The listener is bound to any other address.
pub const ADDRESS_OTHER: u8 = 2;

/// A capture port began or ceased to listen: one record in the ring buffer `LISTEN_CHANGES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ListenChange {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub at_ns: u64,
    /// Cgroup id of the task that was current: a diagnostic hint, never evidence.
    pub cgroup_id: u64,
    /// Inode of the socket's network namespace, as `/proc/<pid>/ns/net` shows it.
    pub netns: u32,
    /// Thread group of the task that was current: a diagnostic hint, never evidence.
    pub tgid: u32,
    /// Local port in host order; one of [`CAPTURE_PORTS`].
    pub port: u16,
    /// [`FAMILY_INET`] or [`FAMILY_INET6`].
    pub family: u16,
    /// [`CHANGE_OPENED`] or [`CHANGE_CLOSED`].
    pub change: u8,
    /// Zero.
    pub padding: [u8; 3],
}

/// The hooks of this family were not looked at.
pub const HOOKS_NOT_READ: u8 = 0xff;
/// A rule of the nat table's PREROUTING leads to where Istio's chain for it stands.
pub const FOUND_NAT_PREROUTING: u8 = 1;
/// The same of the nat table's OUTPUT, and Istio's chain has rules.
pub const FOUND_NAT_OUTPUT: u8 = 2;
/// The same of the mangle table's PREROUTING.
pub const FOUND_MANGLE_PREROUTING: u8 = 4;
/// The same of the mangle table's OUTPUT.
pub const FOUND_MANGLE_OUTPUT: u8 = 8;
/// Istio's chains stand in nf_tables.
pub const FOUND_IN_NFT: u8 = 16;
/// Istio's chains stand in a legacy table of iptables.
pub const FOUND_IN_LEGACY: u8 = 32;
/// All of this was read by an earlier census, and since then neither the hooks changed, nor nf_tables' generation, nor
/// a legacy table.
pub const FOUND_BEFORE: u8 = 64;
/// Through so many censuses at most what was read of a namespace counts while nothing shows a change.
pub const CENSUSES_KEPT: u32 = 15;
/// The layout of nf_tables is not known.
pub const DOUBT_NFT: u8 = 1;
/// The layout of the legacy tables is not known.
pub const DOUBT_LEGACY: u8 = 2;
/// A table or a list was longer than is gone through.
pub const DOUBT_LONG: u8 = 4;
/// A hook where Istio's may stand could not be followed.
pub const DOUBT_UNFOLLOWED: u8 = 8;

/// The packet filter's hooks of a network namespace, for IPv4 or for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FamilyHooks {
    /// How many hooks there are at PREROUTING, or [`HOOKS_NOT_READ`].
    pub prerouting: u8,
    /// How many hooks there are at OUTPUT, or [`HOOKS_NOT_READ`].
    pub output: u8,
    /// What is Istio's of them: bits of `FOUND_…`.
    pub found: u8,
    /// What could not be followed: bits of `DOUBT_…`.
    pub doubt: u8,
}

impl FamilyHooks {
    /// Nobody looked.
    pub const NOT_READ: Self = Self {
        prerouting: HOOKS_NOT_READ,
        output: HOOKS_NOT_READ,
        found: 0,
        doubt: 0,
    };

    const fn from_array([prerouting, output, found, doubt]: [u8; 4]) -> Self {
        Self {
            prerouting,
            output,
            found,
            doubt,
        }
    }
}

/// Where the running kernel keeps what the census follows from a hook to Istio's chains: offsets in bytes.
///
/// They stand in a map and are no constants of the program: the modules that they are of may be loaded later than it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RulesLayout {
    /// Whether the fields of hooks are known, and those of nat.
    pub hooks: u32,
    /// Whether the fields of nf_tables are known.
    pub nft: u32,
    /// Whether the fields of the legacy tables are known.
    pub legacy: u32,
    /// `nf_hook_entries.num_hook_entries`.
    pub entries_count: u32,
    /// `nf_hook_entries.hooks`.
    pub entries_hooks: u32,
    /// `nf_hook_entry.priv`.
    pub entry_private: u32,
    /// `nf_hook_ops.hook_ops_type`.
    pub ops_kind: u32,
    /// `nf_hook_ops.priority`.
    pub ops_priority: u32,
    /// `nf_nat_lookup_hook_priv.entries`.
    pub nat_entries: u32,
    /// `nft_chain.rules`.
    pub chain_rules: u32,
    /// `nft_chain.list`.
    pub chain_list: u32,
    /// `nft_chain.table`.
    pub chain_table: u32,
    /// `nft_chain.name`.
    pub chain_name: u32,
    /// `nft_table.chains`.
    pub table_chains: u32,
    /// `nft_table.name`.
    pub table_name: u32,
    /// `xt_table.private`.
    pub legacy_private: u32,
    /// `xt_table.name`.
    pub legacy_name: u32,
    /// `xt_table_info.size`.
    pub info_size: u32,
    /// `xt_table_info.number`.
    pub info_number: u32,
    /// `xt_table_info.initial_entries`.
    pub info_initial: u32,
    /// `xt_table_info.hook_entry`.
    pub info_hook_entry: u32,
    /// `xt_table_info.underflow`.
    pub info_underflow: u32,
    /// `xt_table_info.entries`.
    pub info_entries: u32,
}

/// The mark of ztunnel's own sockets, and the bits of a mark that hold it: Istio's rules let these pass.
pub const ZTUNNEL_MARK: u32 = 0x539;
/// See [`ZTUNNEL_MARK`].
pub const ZTUNNEL_MARK_MASK: u32 = 0xfff;
/// As whom istio-cni lets the kubelet's probes come to a pod, past ztunnel.
pub const PROBE_IPV4: [u8; 4] = [169, 254, 7, 127];
/// The same for IPv6.
pub const PROBE_IPV6: [u16; 8] = [0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff];
/// Names are asked for here; ztunnel answers them elsewhere, or not at all.
pub const PORT_NAMES: u16 = 53;

/// So many words of bits say which namespaces may be watched.
pub const MARK_WORDS: u32 = 256;

/// The word and the bit of a namespace, by its inode. A few share one: a bit that is not set proves that none of them is
/// watched, and costs less to find out than to look for each.
#[must_use]
#[inline(always)]
pub const fn mark_of(netns: u32) -> (u32, u64) {
    (netns / 64 % MARK_WORDS, 1 << (netns % 64))
}

/// How many connections were established in a network namespace: one value of the map `TRAFFIC`. Those within the
/// namespace, of the kubelet's probes and for names are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TrafficCounts {
    /// What applications opened over IPv4.
    pub opened_ipv4: u64,
    /// What applications opened over IPv6.
    pub opened_ipv6: u64,
    /// What applications accepted, from ztunnel or from elsewhere.
    pub accepted: u64,
    /// What ztunnel accepted at [`PORT_OUTBOUND`]: its half of what an application opened.
    pub taken_outbound: u64,
    /// What ztunnel accepted of what comes in: plain text, or HBONE, of which one carries many.
    pub taken_inbound: u64,
    /// What ztunnel opened in the namespace, to applications and to others.
    pub upstream: u64,
}

/// A listening socket on a capture port, found in a process's file table: one row of the census. One without a port is
/// of a process that was asked for the packet filter of its own network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CensusRow {
    /// The socket's inode, as the last but one column of `/proc/<pid>/net/tcp` shows it.
    pub inode: u64,
    /// Inode of the socket's network namespace, as `/proc/<pid>/ns/net` shows it.
    pub netns: u32,
    /// Thread group that holds the socket, counted in the initial PID namespace.
    pub tgid: u32,
    /// Local port in host order; one of [`CAPTURE_PORTS`].
    pub port: u16,
    /// [`FAMILY_INET`] or [`FAMILY_INET6`].
    pub family: u16,
    /// [`ADDRESS_WILDCARD`], [`ADDRESS_LOOPBACK`] or [`ADDRESS_OTHER`].
    pub address: u8,
    /// Zero.
    pub padding: [u8; 3],
    /// The namespace's hooks for IPv4; a row of [`PORT_OUTBOUND`] has them, and one without a port.
    pub ipv4: FamilyHooks,
    /// The same for IPv6.
    pub ipv6: FamilyHooks,
}

const _: () = assert!(size_of::<ListenChange>() == 32 && align_of::<ListenChange>() == 8);
const _: () = assert!(size_of::<TrafficCounts>() == 48 && align_of::<TrafficCounts>() == 8);
const _: () = assert!(size_of::<CensusRow>() == 32 && align_of::<CensusRow>() == 8);

/// Splits off the first `N` bytes; `None` if there are fewer.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk::<N>()?;
    *bytes = tail;
    Some(*head)
}

impl ListenChange {
    /// Reads one record, or nothing if the bytes are too few.
    #[must_use]
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        Some(Self {
            at_ns: u64::from_ne_bytes(take(bytes)?),
            cgroup_id: u64::from_ne_bytes(take(bytes)?),
            netns: u32::from_ne_bytes(take(bytes)?),
            tgid: u32::from_ne_bytes(take(bytes)?),
            port: u16::from_ne_bytes(take(bytes)?),
            family: u16::from_ne_bytes(take(bytes)?),
            change: u8::from_ne_bytes(take(bytes)?),
            padding: take(bytes)?,
        })
    }
}

impl CensusRow {
    /// Of no socket.
    pub const NO_SOCKET: Self = Self {
        inode: 0,
        netns: 0,
        tgid: 0,
        port: 0,
        family: 0,
        address: ADDRESS_OTHER,
        padding: [0; 3],
        ipv4: FamilyHooks::NOT_READ,
        ipv6: FamilyHooks::NOT_READ,
    };

    /// Reads one row, or nothing if the bytes are too few.
    #[must_use]
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        Some(Self {
            inode: u64::from_ne_bytes(take(bytes)?),
            netns: u32::from_ne_bytes(take(bytes)?),
            tgid: u32::from_ne_bytes(take(bytes)?),
            port: u16::from_ne_bytes(take(bytes)?),
            family: u16::from_ne_bytes(take(bytes)?),
            address: u8::from_ne_bytes(take(bytes)?),
            padding: take(bytes)?,
            ipv4: FamilyHooks::from_array(take(bytes)?),
            ipv6: FamilyHooks::from_array(take(bytes)?),
        })
    }
}

/// Whether the kernel programs look at this port.
#[must_use]
#[inline]
pub const fn is_capture_port(port: u16) -> bool {
    matches!(
        port,
        PORT_OUTBOUND | PORT_INBOUND_PLAINTEXT | PORT_INBOUND_HBONE | PORT_DNS | PORT_SOCKS5
    )
}
