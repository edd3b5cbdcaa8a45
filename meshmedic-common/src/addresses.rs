// SPDX-License-Identifier: Apache-2.0
//! Which addresses a network namespace holds and whether Istio's routing table is in it, from
//! `net/fib_trie` and `net/if_inet6`, which need no capability.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::verdict::Redirection;

/// The addresses of a network namespace, loopback left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetAddresses {
    addresses: BTreeSet<IpAddr>,
    has_inet: bool,
    istio_table: bool,
}

/// The routing table into which istio-cni puts `local default dev lo`.
const ISTIO_TABLE: &str = "Id 100:";

impl NetAddresses {
    /// Reads both files; either may be empty where the kernel has no such family.
    #[must_use]
    pub fn parse(fib_trie: &str, if_inet6: &str) -> Self {
        let mut found = Self::default();
        found.parse_fib_trie(fib_trie);
        found.parse_if_inet6(if_inet6);
        found
    }

    /// Whether one of these addresses lives here.
    #[must_use]
    pub fn holds_any(&self, wanted: &[IpAddr]) -> bool {
        wanted
            .iter()
            .any(|address| self.addresses.contains(&address.to_canonical()))
    }

    /// Whether Istio's redirection is routed here.
    #[must_use]
    pub fn redirection(&self) -> Redirection {
        match (self.istio_table, self.has_inet) {
            (true, _) => Redirection::Routed,
            (false, true) => Redirection::Absent,
            (false, false) => Redirection::Unknown,
        }
    }

    /// A leaf is `|-- <address>` and below it a line for each prefix: `/32 host LOCAL` is an address of
    /// this namespace; in Istio's table `/0 host LOCAL` sends everything to ztunnel.
    fn parse_fib_trie(&mut self, text: &str) {
        let mut in_istio_table = false;
        let mut leaf = None;
        for line in text.lines() {
            let line = line.trim();
            if line.starts_with("Id ") || line.ends_with(':') {
                in_istio_table = line == ISTIO_TABLE;
                leaf = None;
            } else if let Some(address) = line.strip_prefix("|-- ") {
                leaf = address.parse::<Ipv4Addr>().ok();
            } else if line == "/32 host LOCAL"
                && !in_istio_table
                && let Some(address) = leaf
                && !address.is_loopback()
            {
                self.has_inet = true;
                self.addresses.insert(address.into());
            } else if in_istio_table && line == "/0 host LOCAL" && leaf == Some(Ipv4Addr::UNSPECIFIED) {
                self.istio_table = true;
            }
        }
    }

    /// `<32 digits> <index> <prefix> <scope> <flags> <device>`
    fn parse_if_inet6(&mut self, text: &str) {
        for line in text.lines() {
            let Some(digits) = line.split_whitespace().next() else {
                continue;
            };
            if digits.len() != 32 {
                continue;
            }
            let Ok(bits) = u128::from_str_radix(digits, 16) else {
                continue;
            };
            let address = Ipv6Addr::from(bits);
            if !address.is_loopback() {
                self.addresses.insert(address.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.77.0.0/24 2 0 2
        |-- 10.77.0.11
           /32 host LOCAL
     |-- 10.77.0.255
        /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
Local:
     |-- 10.77.0.11
        /32 host LOCAL
";
    const ISTIO: &str = "Id 100:
  +-- 0.0.0.0/0 0 0 1
     |-- 0.0.0.0
        /0 host LOCAL
";
    const INET6: &str = "00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000011 02 40 00 80     eth0
";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn finds_the_addresses_of_both_families_but_loopback() {
        let found = NetAddresses::parse(MAIN, INET6);
        for (address, here) in [
            ("10.77.0.11", true),
            ("::ffff:10.77.0.11", true),
            ("fd00::11", true),
            ("10.77.0.255", false),
            ("127.0.0.1", false),
            ("::1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(found.holds_any(&[ip(address)]), here, "{address}");
        }
        assert!(!found.holds_any(&[]));
    }

    #[test]
    fn the_istio_table_tells_routed_from_absent() {
        let redirection = |fib: &str| NetAddresses::parse(fib, "").redirection();
        assert_eq!(redirection(&format!("{ISTIO}{MAIN}")), Redirection::Routed);
        assert_eq!(redirection(MAIN), Redirection::Absent);
        assert_eq!(redirection(""), Redirection::Unknown);
        let other_table = ISTIO.replace("100", "101");
        assert_eq!(redirection(&format!("{other_table}{MAIN}")), Redirection::Absent);
        let not_local = ISTIO.replace("host LOCAL", "universe UNICAST");
        assert_eq!(redirection(&format!("{not_local}{MAIN}")), Redirection::Absent);
    }

    #[test]
    fn garbage_gives_nothing() {
        let found = NetAddresses::parse("|-- x\n/32 host LOCAL\n\u{1b}[2J:\n", "zz 1\nff\n");
        assert_eq!(found, NetAddresses::default());
    }
}
