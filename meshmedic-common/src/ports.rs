// SPDX-License-Identifier: Apache-2.0
//! A set of capture ports.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::abi::{CAPTURE_PORTS, REQUIRED_PORTS};

/// A set of capture ports: one bit for each of [`CAPTURE_PORTS`].
///
/// Shown and serialised as its ports in ascending order. Other ports cannot be members.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct PortSet(u8);

impl PortSet {
    /// No port.
    pub const EMPTY: Self = Self(0);
    /// The ports without which a pod is not captured.
    pub const REQUIRED: Self = {
        let mut set = Self::EMPTY;
        let mut i = 0;
        while i < REQUIRED_PORTS.len() {
            set = set.with(REQUIRED_PORTS[i]);
            i += 1;
        }
        set
    };

    /// This set and the port; a port that is no capture port changes nothing.
    #[must_use]
    pub const fn with(self, port: u16) -> Self {
        let mut i = 0;
        while i < CAPTURE_PORTS.len() {
            if CAPTURE_PORTS[i] == port {
                return Self(self.0 | 1 << i);
            }
            i += 1;
        }
        self
    }

    /// Whether the port is a member.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        let single = Self::EMPTY.with(port).0;
        single != 0 && self.0 & single == single
    }

    /// Whether every member of `other` is a member.
    #[must_use]
    pub const fn contains_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The members that either set has.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The members that both sets have.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The members of this set that `other` lacks.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is no member.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, ascending.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        CAPTURE_PORTS.into_iter().filter(move |&port| self.contains(port))
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        ports.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for port in self.iter() {
            write!(f, "{separator}{port}")?;
            separator = ",";
        }
        if self.is_empty() {
            f.write_str("none")
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

impl Serialize for PortSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for PortSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<u16>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_capture_ports_become_members() {
        let set: PortSet = [15008, 8080, 15001].into_iter().collect();
        assert_eq!(set.to_string(), "15001,15008");
        assert!(!set.contains(8080));
        assert!(!set.contains_all(PortSet::REQUIRED));
        assert!(set.with(15006).contains_all(PortSet::REQUIRED));
        assert_eq!(PortSet::REQUIRED.difference(set).to_string(), "15006");
        assert_eq!(PortSet::EMPTY.to_string(), "none");
    }

    #[test]
    fn serialises_as_a_list_of_ports() {
        let set: PortSet = [15053, 15001].into_iter().collect();
        let json = serde_json::to_string(&set).unwrap();
        assert_eq!(json, "[15001,15053]");
        assert_eq!(serde_json::from_str::<PortSet>(&json).unwrap(), set);
    }
}
