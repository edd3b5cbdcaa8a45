// SPDX-License-Identifier: Apache-2.0
//! Spreads what would otherwise happen all at once: each name has its share, the same on every run and on every node.

/// Which of so many shares is a name's. A likelihood, no promise, that two names have different ones.
#[must_use]
pub fn share(name: &str, of: u64) -> u64 {
    let hash = name.bytes().fold(0_u64, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    });
    hash.checked_rem(of).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_name_has_one_share_and_many_names_have_all() {
        let shares: std::collections::BTreeSet<u64> =
            (0..100).map(|n| share(&format!("pod-{n}"), 7)).collect();
        assert_eq!(shares.len(), 7);
        assert_eq!(share("pod-1", 7), share("pod-1", 7));
        assert_eq!(share("pod-1", 0), 0);
    }
}
