// SPDX-License-Identifier: Apache-2.0
//! The parser of `/proc/net/tcp` and `/proc/net/tcp6`: which capture ports listen in a network namespace.
//!
//! The text may come from a pod and is not trusted: a row that does not look right is counted and
//! skipped, a line without end is cut, and nothing panics.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::abi::{self, is_capture_port};
use crate::ports::PortSet;

/// Which of the two tables a socket stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// `/proc/net/tcp`.
    Inet,
    /// `/proc/net/tcp6`.
    Inet6,
}

/// What kind of address a listener is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressKind {
    /// `0.0.0.0` or `[::]`: reachable on every address of the pod.
    Wildcard,
    /// `127.0.0.0/8` or `[::1]`.
    Loopback,
    /// One particular address.
    Other,
}

impl AddressKind {
    /// The kind of an address.
    fn of(address: IpAddr) -> Self {
        match address {
            address if address.is_unspecified() => Self::Wildcard,
            address if address.is_loopback() => Self::Loopback,
            _ => Self::Other,
        }
    }

    /// The kind that a kernel program wrote down.
    #[must_use]
    pub const fn from_abi(kind: u8) -> Self {
        match kind {
            abi::ADDRESS_WILDCARD => Self::Wildcard,
            abi::ADDRESS_LOOPBACK => Self::Loopback,
            _ => Self::Other,
        }
    }
}

/// A socket that listens on a capture port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The local port.
    pub port: u16,
    /// The table it stands in.
    pub family: Family,
    /// The kind of its local address.
    pub address: AddressKind,
    /// The socket's inode.
    pub inode: u64,
    /// The socket's owner.
    pub uid: u32,
}

/// What a network namespace showed at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The listeners on capture ports that were met before the reading stopped.
    pub listeners: Vec<Listener>,
    /// Rows that made no sense; with any of them, absence is not proved.
    pub malformed_rows: u32,
    /// Open connections with somebody elsewhere, met before the reading stopped.
    #[serde(default)]
    pub connections: u32,
}

impl Reading {
    /// The capture ports that listen on the wildcard address.
    #[must_use]
    pub fn wildcard_ports(&self) -> PortSet {
        self.listeners
            .iter()
            .filter(|l| l.address == AddressKind::Wildcard)
            .map(|l| l.port)
            .collect()
    }

    /// The capture ports that listen on whichever address: what is shown to people.
    #[must_use]
    pub fn ports(&self) -> PortSet {
        self.listeners.iter().map(|l| l.port).collect()
    }

    /// Whether all required ports listen on the wildcard address.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.wildcard_ports().contains_all(PortSet::REQUIRED)
    }
}

/// Longer than any row that a kernel writes (about 180 bytes); what exceeds it is no row.
const LINE_LIMIT: usize = 512;
/// So many columns end with the inode. It is whole once another one has begun.
const INODE: usize = 10;
/// The state column of a listening socket.
const LISTEN: &[u8] = b"0A";
/// That of an open connection.
const ESTABLISHED: &[u8] = b"01";

/// Takes one table piece by piece, as it is read, and keeps the listeners on capture ports.
#[derive(Debug)]
pub struct TableParser {
    family: Family,
    line: Vec<u8>,
    overlong: bool,
    header_seen: bool,
    listeners_ended: bool,
    malformed_rows: u32,
}

impl TableParser {
    /// A parser for the table of one family.
    #[must_use]
    pub fn new(family: Family) -> Self {
        Self {
            family,
            line: Vec::with_capacity(LINE_LIMIT),
            overlong: false,
            header_seen: false,
            listeners_ended: false,
            malformed_rows: 0,
        }
    }

    /// Takes the next bytes of the table and adds the listeners found to `reading`.
    pub fn feed(&mut self, mut bytes: &[u8], reading: &mut Reading) {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            let (piece, tail) = bytes.split_at(end);
            bytes = &tail[1..];
            if self.line.is_empty() && !self.overlong && piece.len() <= LINE_LIMIT {
                self.take_line(piece, reading);
                continue;
            }
            self.keep(piece);
            let line = std::mem::take(&mut self.line);
            if std::mem::take(&mut self.overlong) {
                self.malformed(reading);
            } else {
                self.take_line(&line, reading);
            }
            self.line = line;
            self.line.clear();
        }
        self.keep(bytes);
    }

    /// Says that the table ended here; a line without its end is counted as malformed.
    pub fn finish(&mut self, reading: &mut Reading) {
        if !self.line.is_empty() || self.overlong {
            self.line.clear();
            self.overlong = false;
            self.malformed(reading);
        }
    }

    /// Whether the table's header was met. A table without one was not written by a kernel.
    #[must_use]
    pub fn header_seen(&self) -> bool {
        self.header_seen
    }

    /// Whether a row that does not listen was met. The kernel lists all listeners first, so no more follow.
    #[must_use]
    pub fn listeners_ended(&self) -> bool {
        self.listeners_ended
    }

    /// The listener of the row that has begun, once all that matters of it is there: what comes behind it was not
    /// read yet.
    #[must_use]
    pub fn begun(&self) -> Option<Listener> {
        if self.overlong
            || self
                .line
                .split(|b| *b == b' ')
                .filter(|column| !column.is_empty())
                .count()
                <= INODE
        {
            return None;
        }
        match parse_row(&self.line, self.family)? {
            Row::Listening(listener) if is_capture_port(listener.port) => Some(listener),
            Row::Listening(_) | Row::Connected { .. } => None,
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.overlong || self.line.len() + piece.len() > LINE_LIMIT {
            self.overlong = true;
            self.line.clear();
        } else {
            self.line.extend_from_slice(piece);
        }
    }

    fn malformed(&mut self, reading: &mut Reading) {
        self.malformed_rows = self.malformed_rows.saturating_add(1);
        reading.malformed_rows = reading.malformed_rows.saturating_add(1);
    }

    fn take_line(&mut self, line: &[u8], reading: &mut Reading) {
        if !self.header_seen && line.trim_ascii_start().starts_with(b"sl ") {
            self.header_seen = true;
            return;
        }
        match parse_row(line, self.family) {
            None => self.malformed(reading),
            Some(Row::Connected { open }) => {
                self.listeners_ended = true;
                reading.connections = reading.connections.saturating_add(open.into());
            }
            Some(Row::Listening(listener)) if is_capture_port(listener.port) => {
                reading.listeners.push(listener);
            }
            Some(Row::Listening(_)) => {}
        }
    }
}

enum Row {
    Listening(Listener),
    /// `open` with somebody who is not in the same namespace.
    Connected {
        open: bool,
    },
}

/// `sl local rem st tx:rx tr:when retrnsmt uid timeout inode …`
fn parse_row(line: &[u8], family: Family) -> Option<Row> {
    let ([local, remote, state], mut columns) = columns(line)?;
    if state != LISTEN {
        let known = state.len() == 2 && hex(state)? <= 0x0D;
        let elsewhere = || !end(remote, family).is_some_and(|remote| remote.ip().is_loopback());
        let open = state == ESTABLISHED && elsewhere();
        return known.then_some(Row::Connected { open });
    }
    let (_queues, _timer, _retransmits) = (columns.next()?, columns.next()?, columns.next()?);
    let uid = decimal(columns.next()?)?.try_into().ok()?;
    let _timeout = columns.next()?;
    let inode = decimal(columns.next()?)?;
    let local = end(local, family)?;
    Some(Row::Listening(Listener {
        port: local.port(),
        family,
        address: AddressKind::of(local.ip()),
        inode,
        uid,
    }))
}

/// The local address, the remote one and the state of a row, and the columns behind them.
fn columns(row: &[u8]) -> Option<([&[u8]; 3], impl Iterator<Item = &[u8]>)> {
    let mut columns = row.split(|b| *b == b' ').filter(|column| !column.is_empty());
    decimal(columns.next()?.strip_suffix(b":")?)?;
    let first = [columns.next()?, columns.next()?, columns.next()?];
    Some((first, columns))
}

/// Both ends of a connection, as a row shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Its end in this namespace.
    pub local: SocketAddr,
    /// The other one.
    pub remote: SocketAddr,
    /// Whether it is open, and not being made or ended.
    pub open: bool,
}

/// The ends of the connection in a row; `None` for a listener, for the header and for what makes no sense.
#[must_use]
pub fn ends(row: &[u8], family: Family) -> Option<Ends> {
    let ([local, remote, state], _) = columns(row)?;
    (state != LISTEN).then_some(Ends {
        local: end(local, family)?,
        remote: end(remote, family)?,
        open: state == ESTABLISHED,
    })
}

/// `0100007F:1F90`
fn end(text: &[u8], family: Family) -> Option<SocketAddr> {
    let colon = text.iter().position(|b| *b == b':')?;
    let port = &text[colon + 1..];
    let port = (port.len() == 4).then(|| hex(port))??;
    Some(SocketAddr::new(
        address(&text[..colon], family)?,
        port.try_into().ok()?,
    ))
}

/// The kernel prints an address as 32-bit words in the machine's own byte order. One of IPv4 is told as such in either
/// table.
fn address(text: &[u8], family: Family) -> Option<IpAddr> {
    let mut bytes = [0_u8; 16];
    let words = match family {
        Family::Inet => 1,
        Family::Inet6 => 4,
    };
    if text.len() != words * 8 {
        return None;
    }
    for (word, out) in text.chunks_exact(8).zip(bytes.chunks_exact_mut(4)) {
        out.copy_from_slice(&u32::try_from(hex(word)?).ok()?.to_ne_bytes());
    }
    Some(match family {
        Family::Inet => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
        Family::Inet6 => IpAddr::from(bytes).to_canonical(),
    })
}

fn hex(digits: &[u8]) -> Option<u64> {
    radix(digits, 16)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    radix(digits, 10)
}

/// Digits only: `from_str_radix` alone would take a sign.
fn radix(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.first() == Some(&b'+') {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

/// Reads a whole table that is at hand: what an exec in a pod or a recording gives.
#[must_use]
pub fn parse_table(text: &[u8], family: Family) -> Reading {
    let mut reading = Reading::default();
    let mut parser = TableParser::new(family);
    parser.feed(text, &mut reading);
    parser.finish(&mut reading);
    reading
}

#[cfg(test)]
mod tests;
