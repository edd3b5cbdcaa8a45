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

/// A listening socket on a capture port, found in a process's file table: one row of the census.
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
}

const _: () = assert!(size_of::<ListenChange>() == 32 && align_of::<ListenChange>() == 8);
const _: () = assert!(size_of::<CensusRow>() == 24 && align_of::<CensusRow>() == 8);

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
