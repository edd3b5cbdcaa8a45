// SPDX-License-Identifier: Apache-2.0
//! An access line: one connection, told by the ztunnel of one of its two ends.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::words::Level;

/// From whose end a connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By the ztunnel of the source.
    Outbound,
    /// By the ztunnel of the destination.
    Inbound,
}

/// One end of a connection. Everything but the address is absent where istiod did not tell ztunnel of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Address and port.
    pub address: SocketAddr,
    /// The pod's name.
    pub workload: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its SPIFFE identity, only where mTLS is spoken.
    pub identity: Option<String>,
    /// The cluster it is in.
    pub cluster: Option<String>,
}

impl Peer {
    /// Its address, in the family that it belongs to.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.address.ip().to_canonical()
    }
}

/// Where a connection through HBONE goes in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// To an address.
    Address(SocketAddr),
    /// To a service by its name, which only gateways to other networks are asked for.
    Host(String),
}

/// A connection that ended or was denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// When the line was written.
    pub time: Timestamp,
    /// Whether it was denied before anything but the addresses was known (`connection failed`).
    pub early: bool,
    /// Who tells it.
    pub direction: Direction,
    /// Who asked.
    pub source: Peer,
    /// The next hop: the pod, or what stands before it.
    pub destination: Peer,
    /// What was asked for through the tunnel; `None` if no tunnel was used.
    pub hbone: Option<Tunnel>,
    /// The service that was asked for.
    pub service: Option<String>,
    /// Bytes to the destination.
    pub bytes_sent: Option<u64>,
    /// Bytes back.
    pub bytes_received: Option<u64>,
    /// How long it took.
    pub duration: Option<Duration>,
    /// Why it failed, in ztunnel's words.
    pub error: Option<String>,
}

impl Access {
    /// When the connection was opened: what lasted long is logged when it ends.
    #[must_use]
    pub fn opened(&self) -> Timestamp {
        self.duration
            .and_then(|lasted| SignedDuration::try_from(lasted).ok())
            .and_then(|lasted| self.time.checked_sub(lasted).ok())
            .unwrap_or(self.time)
    }

    /// Why it failed.
    #[must_use]
    pub fn failure(&self) -> Option<Failure<'_>> {
        self.error.as_deref().map(Failure::parse)
    }
}

/// The fields as they stand in the line.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Draft {
    #[serde(rename = "src.addr")]
    src_addr: Option<String>,
    #[serde(rename = "src.workload")]
    src_workload: Option<String>,
    #[serde(rename = "src.namespace")]
    src_namespace: Option<String>,
    #[serde(rename = "src.identity")]
    src_identity: Option<String>,
    #[serde(rename = "src.cluster")]
    src_cluster: Option<String>,
    #[serde(rename = "dst.addr")]
    dst_addr: Option<String>,
    #[serde(rename = "dst.hbone_addr")]
    dst_hbone_addr: Option<String>,
    #[serde(rename = "dst.service")]
    dst_service: Option<String>,
    #[serde(rename = "dst.workload")]
    dst_workload: Option<String>,
    #[serde(rename = "dst.namespace")]
    dst_namespace: Option<String>,
    #[serde(rename = "dst.identity")]
    dst_identity: Option<String>,
    #[serde(rename = "dst.cluster")]
    dst_cluster: Option<String>,
    direction: Option<String>,
    bytes_sent: Option<u64>,
    bytes_recv: Option<u64>,
    duration: Option<String>,
    error: Option<String>,
}

impl Draft {
    /// Takes a field of the plain form; `None` if it is there already, or is not written as ztunnel writes it.
    /// Fields that a later ztunnel may add are passed over.
    pub(super) fn set(&mut self, key: &str, value: Cow<'_, str>, quoted: bool) -> Option<()> {
        let bare = matches!(key, "src.addr" | "dst.addr" | "dst.hbone_addr");
        let place = match key {
            "src.addr" => &mut self.src_addr,
            "src.workload" => &mut self.src_workload,
            "src.namespace" => &mut self.src_namespace,
            "src.identity" => &mut self.src_identity,
            "src.cluster" => &mut self.src_cluster,
            "dst.addr" => &mut self.dst_addr,
            "dst.hbone_addr" => &mut self.dst_hbone_addr,
            "dst.service" => &mut self.dst_service,
            "dst.workload" => &mut self.dst_workload,
            "dst.namespace" => &mut self.dst_namespace,
            "dst.identity" => &mut self.dst_identity,
            "dst.cluster" => &mut self.dst_cluster,
            "direction" => &mut self.direction,
            "duration" => &mut self.duration,
            "error" => &mut self.error,
            "bytes_sent" if !quoted => return set_once(&mut self.bytes_sent, value.parse().ok()?),
            "bytes_recv" if !quoted => return set_once(&mut self.bytes_recv, value.parse().ok()?),
            "bytes_sent" | "bytes_recv" => return None,
            _ => return Some(()),
        };
        if quoted == bare {
            return None;
        }
        set_once(place, value.into_owned())
    }

    /// Makes sense of the fields; `None` where they make none.
    pub(super) fn finish(self, time: Timestamp, level: Level, early: bool) -> Option<Access> {
        // A line that lost its end would make a success of a failure.
        let failed = early || level == Level::Error;
        if failed != self.error.is_some() {
            return None;
        }
        let hbone = self.dst_hbone_addr.map(|text| match text.parse() {
            Ok(address) => Tunnel::Address(address),
            Err(_) => Tunnel::Host(text),
        });
        Some(Access {
            time,
            early,
            direction: match self.direction?.as_str() {
                "outbound" => Direction::Outbound,
                "inbound" => Direction::Inbound,
                _ => return None,
            },
            source: Peer {
                address: self.src_addr?.parse().ok()?,
                workload: self.src_workload,
                namespace: self.src_namespace,
                identity: self.src_identity,
                cluster: self.src_cluster,
            },
            destination: Peer {
                address: self.dst_addr?.parse().ok()?,
                workload: self.dst_workload,
                namespace: self.dst_namespace,
                identity: self.dst_identity,
                cluster: self.dst_cluster,
            },
            hbone,
            service: self.dst_service,
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_recv,
            duration: match self.duration {
                None => None,
                Some(text) => Some(Duration::from_millis(text.strip_suffix("ms")?.parse().ok()?)),
            },
            error: self.error,
        })
    }
}

fn set_once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    if place.is_some() {
        return None;
    }
    *place = Some(value);
    Some(())
}

/// What ztunnel's words for a failure mean. Only whole phrases count: parts of them may be a pod's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure<'a> {
    /// The next hop refused the connection.
    Refused,
    /// Nobody has the next hop's address.
    NoRoute,
    /// Nothing came back from port 15008 in time.
    NetworkPolicy,
    /// The destination's ztunnel could not reach the app: its port is closed.
    AppRefused,
    /// The destination's ztunnel got no answer from its own pod.
    AppHangs,
    /// The destination's ztunnel could not reach the app for another reason.
    AppUnreachable,
    /// A policy does not let it through.
    Rejected {
        /// The policy that denies it, as `namespace/name`; `None` if no policy allows it.
        by: Option<&'a str>,
    },
    /// The other end of the tunnel said no with this HTTP status.
    Status(u16),
    /// A policy changed while it was open.
    PolicyChange,
    /// ztunnel knows nothing of its own pod.
    LocalUnknown,
    /// No certificate could be had.
    Identity,
    /// The other end showed another identity than istiod told.
    WrongIdentity,
    /// The peer's certificate was revoked.
    Revoked,
    /// It would have come back to ztunnel.
    Recursion,
    /// ztunnel ended, or the pod left it.
    Drain,
    /// A name was not resolved.
    Dns,
    /// TLS could not be agreed on.
    Tls,
    /// It was open, and broke.
    Broke,
    /// Something else.
    Other,
}

impl<'a> Failure<'a> {
    /// Reads ztunnel's words.
    #[must_use]
    pub fn parse(error: &'a str) -> Self {
        match error {
            "io error: Connection refused (os error 111)" => Self::Refused,
            "io error: No route to host (os error 113)" => Self::NoRoute,
            "connection failed: Connection refused (os error 111)" => Self::AppRefused,
            "connection failed: deadline has elapsed" => Self::AppHangs,
            "connection closed due to policy change" => Self::PolicyChange,
            "connection closed: peer certificate revoked by CRL" => Self::Revoked,
            "attempted recursive call to ourselves" => Self::Recursion,
            "connection closed due to connection drain"
            | "connection failed to drain within the timeout"
            | "pool draining" => Self::Drain,
            "dns response had no valid IP addresses" => Self::Dns,
            "destination disconnected before all data was written"
            | "client disconnected before all data was written" => Self::Broke,
            _ => Self::parse_prefix(error),
        }
    }

    fn parse_prefix(error: &'a str) -> Self {
        if let Some(why) = error.strip_prefix("connection closed due to policy rejection: ") {
            return Self::Rejected {
                by: why.strip_prefix("explicitly denied by: "),
            };
        }
        if let Some(status) = error.strip_prefix("http status: ") {
            let code = status.split(' ').next().and_then(|code| code.parse().ok());
            return code.map_or(Self::Other, Self::Status);
        }
        let begins = |with: &[&str]| with.iter().any(|prefix| error.starts_with(prefix));
        if begins(&["connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: "]) {
            Self::NetworkPolicy
        } else if begins(&["connection failed: "]) {
            Self::AppUnreachable
        } else if begins(&["failed to fetch information about local workload: "]) {
            Self::LocalUnknown
        } else if begins(&["identity error: "]) {
            Self::Identity
        } else if begins(&["dns: ", "dns lookup: "]) {
            Self::Dns
        } else if error.contains("identity verification error: ") {
            Self::WrongIdentity
        } else if begins(&[
            "tls handshake error: ",
            "tls error: ",
            "io error: invalid peer certificate",
        ]) {
            Self::Tls
        } else if begins(&[
            "io error: ",
            "receive: ",
            "send: ",
            "while closing connection: ",
            "h2 failed: ",
        ]) {
            Self::Broke
        } else {
            Self::Other
        }
    }
}
