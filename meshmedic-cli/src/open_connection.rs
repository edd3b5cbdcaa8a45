// SPDX-License-Identifier: Apache-2.0
//! `meshmedic open-connection`: what `prove --active` has a probe run in a pod's network namespace.
//!
//! It opens one connection, looks for the other half that ztunnel has of it where Istio's rules lead there, says what
//! it saw, and ends. Both halves stand in the kernel's own tables, so what is said is of this very connection.

use std::env;
use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use meshmedic_common::abi::{PORT_DNS, PORT_OUTBOUND};
use meshmedic_common::sockets::{Ends, Family, ends};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpSocket, TcpStream};

use crate::{connection, output};

/// Arguments of `meshmedic open-connection`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Whom to connect to [default: the Kubernetes API, of which every container is told]
    #[arg(value_name = "ADDRESS:PORT", value_parser = peer)]
    to: Option<SocketAddr>,
}

/// What a container is told of the Kubernetes API.
const API: [&str; 2] = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];
/// How long an answer is waited for: the kernel asks three times within it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where ztunnel takes what a pod opens. A query of names goes to a port of its own.
const TAKEN: [u16; 2] = [PORT_OUTBOUND, PORT_DNS];
const TABLES: [(&str, Family); 2] = [
    ("/proc/self/net/tcp", Family::Inet),
    ("/proc/self/net/tcp6", Family::Inet6),
];
/// No table is read beyond so many bytes.
const TABLE_MOST: u64 = 128 * 1024 * 1024;

/// What became of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fate {
    /// ztunnel's half of it stands in the same namespace.
    Taken,
    /// It is open, and there is no such half.
    Past,
    /// It was refused at once.
    Refused,
    /// Nobody answered.
    Unanswered,
    /// It had ended before anybody could look.
    Ended,
    /// It could not be opened.
    Failed,
}

/// One connection and its fate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Opened {
    pub(crate) to: SocketAddr,
    /// Its own end, where it got one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<SocketAddr>,
    pub(crate) fate: Fate,
    /// On which port ztunnel took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    /// Why it could not be opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

/// Whom a proof may connect to: what no rule of Istio's redirects would prove nothing.
pub(crate) fn peer(text: &str) -> Result<SocketAddr, String> {
    let peer: SocketAddr = text
        .parse()
        .map_err(|_| "write an IP address and a port, like 10.96.0.1:443 or [fd00::1]:443".to_owned())?;
    let ip = peer.ip().to_canonical();
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || peer.port() == 0 {
        return Err("the mesh redirects no connection to it: write an address outside the pod".to_owned());
    }
    Ok(SocketAddr::new(ip, peer.port()))
}

/// Opens it and says what became of it.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    let to = args.to.map_or_else(api, Ok)?;
    let opened = connection::runtime()?.block_on(open(to))?;
    output::line(&serde_json::to_string(&opened)?)?;
    Ok(0)
}

fn api() -> anyhow::Result<SocketAddr> {
    let told =
        |name: &str| env::var(name).with_context(|| format!("{name} is not set; name an ADDRESS:PORT"));
    let (host, port) = (told(API[0])?, told(API[1])?);
    let host: IpAddr = host.parse().with_context(|| format!("{}={host}", API[0]))?;
    let port: u16 = port.parse().with_context(|| format!("{}={port}", API[1]))?;
    Ok(SocketAddr::new(host, port))
}

async fn open(to: SocketAddr) -> anyhow::Result<Opened> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let mut opened = Opened {
        to,
        from: None,
        fate: Fate::Failed,
        port: None,
        why: None,
    };
    // Held until the tables were read.
    let stream: TcpStream = match tokio::time::timeout(PATIENCE, socket?.connect(to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            if error.kind() == ErrorKind::ConnectionRefused {
                opened.fate = Fate::Refused;
            } else {
                opened.why = Some(error.to_string());
            }
            return Ok(opened);
        }
        Err(_) => {
            opened.fate = Fate::Unanswered;
            return Ok(opened);
        }
    };
    let from = stream.local_addr().context("the connection's own end")?;
    opened.from = Some(from);
    if from.ip() == to.ip() {
        opened.why = Some("it is the pod's own address, to which no connection is redirected".to_owned());
        return Ok(opened);
    }
    let half = find(|row| row.remote == from && TAKEN.contains(&row.local.port()))?;
    opened.port = half.map(|half| half.local.port());
    // That nobody took it is said only of a connection that was open after the search.
    opened.fate = match half {
        Some(_) => Fate::Taken,
        None if find(|row| row.open && (row.local, row.remote) == (from, to))?.is_some() => Fate::Past,
        None => Fate::Ended,
    };
    drop(stream);
    Ok(opened)
}

/// The first connection in the tables that is meant.
fn find(is: impl Fn(&Ends) -> bool) -> anyhow::Result<Option<Ends>> {
    for (path, family) in TABLES {
        let file = match File::open(path) {
            Ok(file) => file,
            // A node without IPv6 has no such table.
            Err(error) if family == Family::Inet6 && error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).context(path),
        };
        for row in BufReader::new(file.take(TABLE_MOST)).split(b'\n') {
            let row = row.context(path)?;
            if let Some(found) = ends(&row, family).filter(&is) {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_what_the_mesh_would_redirect_is_connected_to() {
        for (text, is) in [
            ("10.96.0.1:443", true),
            ("[fd00::1]:443", true),
            ("[::ffff:10.96.0.1]:443", true),
            ("127.0.0.1:80", false),
            ("[::ffff:127.0.0.1]:80", false),
            ("[::1]:80", false),
            ("0.0.0.0:80", false),
            ("224.0.0.1:80", false),
            ("10.96.0.1:0", false),
            ("10.96.0.1", false),
            ("kubernetes:443", false),
            ("", false),
        ] {
            assert_eq!(peer(text).is_ok(), is, "{text}");
        }
    }

    #[test]
    fn both_ends_of_an_own_connection_are_found_and_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let stream = std::net::TcpStream::connect(to).unwrap();
        let from = stream.local_addr().unwrap();
        // The kernel has the other half before anybody accepts it.
        let half = find(|row| row.remote == from && row.local == to)
            .unwrap()
            .unwrap();
        assert!(half.open);
        assert!(
            find(|row| row.open && (row.local, row.remote) == (from, to))
                .unwrap()
                .is_some()
        );
        drop((stream, listener));
        assert_eq!(find(|row| row.open && row.local == from).unwrap(), None);
    }

    #[test]
    fn a_refused_connection_is_told() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let opened = connection::runtime().unwrap().block_on(open(port)).unwrap();
        assert_eq!((opened.fate, opened.from), (Fate::Refused, None));
    }
}
