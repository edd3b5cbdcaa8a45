// SPDX-License-Identifier: Apache-2.0
//! Where to listen, in Go's words and in the usual ones.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::str::FromStr;

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// This port on all addresses of both families, written `:9100`.
    All(u16),
    /// This address.
    One(SocketAddr),
}

/// Something is no address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no address to listen on; write for example :9100, 127.0.0.1:9100 or [::1]:9100")]
pub struct ListenAddrError(String);

impl FromStr for ListenAddr {
    type Err = ListenAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ListenAddrError(text.to_owned());
        if let Ok(address) = text.parse() {
            return Ok(Self::One(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        // Rust would take `+9100` for a number.
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        let port = port.parse().map_err(|_| error())?;
        match host {
            "" => Ok(Self::All(port)),
            "localhost" => Ok(Self::One((Ipv4Addr::LOCALHOST, port).into())),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(port) => write!(f, ":{port}"),
            Self::One(address) => address.fmt(f),
        }
    }
}

impl ListenAddr {
    /// Whether nobody outside the network namespace can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::All(_) => false,
            Self::One(address) => address.ip().to_canonical().is_loopback(),
        }
    }

    /// Whether both cannot be listened on at once.
    #[must_use]
    pub fn collides_with(&self, other: &Self) -> bool {
        let parts = |address: &Self| match address {
            Self::All(port) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), *port),
            Self::One(address) => (address.ip(), address.port()),
        };
        let ((one, port), (two, other_port)) = (parts(self), parts(other));
        // Port 0 asks for whichever is free.
        port != 0 && port == other_port && (one == two || one.is_unspecified() || two.is_unspecified())
    }

    /// Listens. Where there is no IPv6, all addresses are those of IPv4.
    pub fn bind(&self) -> io::Result<TcpListener> {
        match self {
            Self::One(address) => TcpListener::bind(address),
            Self::All(port) => match TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)) {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port))
                }
                bound => bound,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_as_they_are_written() {
        for text in [":9100", "127.0.0.1:9101", "[::1]:9101", "[::]:0", "0.0.0.0:9100"] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
        assert_eq!(
            "localhost:9101".parse::<ListenAddr>().unwrap().to_string(),
            "127.0.0.1:9101"
        );
        for text in [
            "9100",
            ":",
            ":http",
            ":+1",
            ":65536",
            "example.com:80",
            "::1:9100",
            "1.2.3:80",
        ] {
            let error = text.parse::<ListenAddr>().unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }

    #[test]
    fn loopback_is_told_from_the_rest() {
        let loopback = |text: &str| text.parse::<ListenAddr>().unwrap().is_loopback();
        assert!(
            ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"]
                .into_iter()
                .all(loopback)
        );
        assert!(
            !["0.0.0.0:1", ":1", "10.0.0.1:1", "[::]:1", "[fe80::1]:1"]
                .into_iter()
                .any(loopback)
        );
    }

    #[test]
    fn collisions_are_seen() {
        let collide = |one: &str, two: &str| {
            let address = |text: &str| text.parse::<ListenAddr>().unwrap();
            address(one).collides_with(&address(two))
        };
        assert!(collide(":9100", "127.0.0.1:9100"));
        assert!(collide("127.0.0.1:9100", "0.0.0.0:9100"));
        assert!(collide("[::1]:9100", "[::1]:9100"));
        assert!(!collide(":9100", "127.0.0.1:9101"));
        assert!(!collide("10.0.0.1:9100", "127.0.0.1:9100"));
        assert!(!collide(":0", "127.0.0.1:0"));
    }

    #[test]
    fn all_addresses_are_those_of_both_families() {
        let listener = ListenAddr::All(0).bind().unwrap();
        let port = listener.local_addr().unwrap().port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if listener.local_addr().unwrap().is_ipv6() {
            std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        }
    }
}
