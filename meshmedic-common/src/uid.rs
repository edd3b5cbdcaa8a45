// SPDX-License-Identifier: Apache-2.0
//! The identity of a pod on its node.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A pod's UID as its cgroup shows it: `8-4-4-4-12` hexadecimal digits in lower case, or for a static
/// pod the 32 digits of its config hash (which the API shows as annotation `kubernetes.io/config.hash`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodUid(Arc<str>);

impl PodUid {
    /// Reads a UID with `-` or `_` between its groups, or a config hash of 32 digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match Self::split_from(text) {
            Some((uid, "")) => Some(uid),
            _ => None,
        }
    }

    /// Reads the UID with which `text` begins, and gives what follows it.
    #[must_use]
    pub fn split_from(text: &str) -> Option<(Self, &str)> {
        const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
        let is_hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some((digits, rest)) = text.split_at_checked(32)
            && is_hex(digits)
        {
            return Some((Self(digits.to_ascii_lowercase().into()), rest));
        }
        let (dashed, rest) = text.split_at_checked(36)?;
        let dashed = dashed.replace('_', "-").to_ascii_lowercase();
        let mut groups = dashed.split('-');
        let well_formed = GROUPS
            .iter()
            .all(|&n| groups.next().is_some_and(|g| g.len() == n && is_hex(g)));
        (well_formed && groups.next().is_none()).then(|| (Self(dashed.into()), rest))
    }

    /// The UID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_spelling() {
        let dashed = "0a1b2c3d-1111-2222-3333-444455556666";
        assert_eq!(PodUid::parse(dashed).unwrap().as_str(), dashed);
        assert_eq!(PodUid::parse(&dashed.replace('-', "_")).unwrap().as_str(), dashed);
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(PodUid::parse(hash).unwrap().as_str(), hash);
        let slice = format!("{dashed}.slice");
        let (uid, rest) = PodUid::split_from(&slice).unwrap();
        assert_eq!((uid.as_str(), rest), (dashed, ".slice"));
    }

    #[test]
    fn refuses_what_is_none() {
        for text in [
            "",
            "0a1b2c3d",
            "0a1b2c3d-1111-2222-3333-44445555666",
            "za1b2c3d-1111-2222-3333-444455556666",
            "0a1b2c3d-1111-2222-33334-44455556666",
            "äöüäöüäöüäöüäöüäöüäöüäöüäöü",
        ] {
            assert_eq!(PodUid::parse(text), None, "{text}");
        }
    }
}
