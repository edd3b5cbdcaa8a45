// SPDX-License-Identifier: Apache-2.0
//! Spreads what would otherwise happen all at once: each name has its share, the same on every run and on every node.

use std::net::IpAddr;

/// Which of so many shares is a name's. A likelihood, no promise, that two names have different ones.
#[must_use]
pub fn share(name: &str, of: u64) -> u64 {
    let hash = name.bytes().fold(0_u64, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    });
    hash.checked_rem(of).unwrap_or(0)
}

/// Which of so many shares is an address's. Addresses that follow one another, as those of nodes mostly do, are spread
/// more evenly than by chance: each falls into the widest gap that those before it left.
#[must_use]
pub fn place(address: IpAddr, of: u64) -> u64 {
    /// 2 to the power of 64, over the golden ratio.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let number = match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        // The lower half: nodes of one network share the upper one.
        IpAddr::V6(address) => {
            let [.., a, b, c, d, e, f, g, h] = address.octets();
            u64::from_be_bytes([a, b, c, d, e, f, g, h])
        }
    };
    let fraction = u128::from(number.wrapping_mul(GOLDEN));
    u64::try_from((fraction * u128::from(of)) >> u64::BITS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::{place, share};

    /// The most and the fewest of so many neighbours that share one of a hundred places.
    fn extremes(addresses: impl Iterator<Item = IpAddr>) -> (usize, usize) {
        let mut places = [0_usize; 100];
        for address in addresses {
            places[usize::try_from(place(address, 100)).unwrap()] += 1;
        }
        (*places.iter().max().unwrap(), *places.iter().min().unwrap())
    }

    #[test]
    fn neighbours_are_spread_more_evenly_than_by_chance() {
        let first = Ipv4Addr::new(10, 20, 0, 0).to_bits();
        let neighbours = (first..first + 1000).map(|bits| Ipv4Addr::from_bits(bits).into());
        let (most, fewest) = extremes(neighbours);
        assert!(most <= 12 && fewest >= 8, "{most} and {fewest} of 10");
        let first = Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 0, 1).to_bits();
        let neighbours = (first..first + 1000).map(|bits| Ipv6Addr::from_bits(bits).into());
        let (most, fewest) = extremes(neighbours);
        assert!(most <= 12 && fewest >= 8, "{most} and {fewest} of 10");
        assert_eq!(place(Ipv4Addr::LOCALHOST.into(), 0), 0);
    }

    #[test]
    fn a_name_has_one_share_and_many_names_have_all() {
        let shares: std::collections::BTreeSet<u64> =
            (0..100).map(|n| share(&format!("pod-{n}"), 7)).collect();
        assert_eq!(shares.len(), 7);
        assert_eq!(share("pod-1", 7), share("pod-1", 7));
        assert_eq!(share("pod-1", 0), 0);
    }
}
