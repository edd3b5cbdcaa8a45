// SPDX-License-Identifier: Apache-2.0
//! What one look means: a reading of /proc beside what is known of ztunnel's own sockets.

use std::collections::{HashMap, HashSet};

use meshmedic_common::abi::CensusRow;
use meshmedic_common::ports::PortSet;
use meshmedic_common::report::Holder;
use meshmedic_common::sockets::{AddressKind, Reading};
use meshmedic_common::verdict::{Reason, Redirection};

use crate::time::Time;

/// The sockets in the file tables of ztunnel's processes.
#[derive(Clone, Debug, Default)]
pub struct ZtunnelSockets {
    inodes: HashSet<u64>,
    /// Wildcard listeners by network namespace; known to the census only.
    by_netns: HashMap<u32, PortSet>,
}

impl ZtunnelSockets {
    /// From a census of ztunnel's processes.
    #[must_use]
    pub fn from_census(rows: &[CensusRow]) -> Self {
        let mut sockets = Self::default();
        for row in rows {
            sockets.inodes.insert(row.inode);
            if AddressKind::from_abi(row.address) == AddressKind::Wildcard {
                let ports = sockets.by_netns.entry(row.netns).or_default();
                *ports = ports.with(row.port);
            }
        }
        sockets
    }

    /// From the file descriptors of ztunnel's processes.
    #[must_use]
    pub fn from_inodes(inodes: HashSet<u64>) -> Self {
        Self {
            inodes,
            by_netns: HashMap::new(),
        }
    }

    /// Whether ztunnel holds all required listeners in a namespace.
    #[must_use]
    pub fn is_complete_in(&self, netns_inode: u32) -> bool {
        self.by_netns
            .get(&netns_inode)
            .is_some_and(|ports| ports.contains_all(PortSet::REQUIRED))
    }

    /// Whether every required listener of a reading is among ztunnel's sockets.
    #[must_use]
    pub fn own_all_of(&self, reading: &Reading) -> bool {
        let wildcard = reading
            .listeners
            .iter()
            .filter(|l| l.address == AddressKind::Wildcard);
        let owned: PortSet = wildcard
            .filter(|l| self.inodes.contains(&l.inode))
            .map(|l| l.port)
            .collect();
        owned.contains_all(PortSet::REQUIRED)
    }
}

/// What a look showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All required ports listen; `proved` if they are known to be ztunnel's.
    Complete {
        /// Whether the sockets are ztunnel's.
        proved: bool,
    },
    /// All required ports listen, and these processes, none of them ztunnel, hold some of them.
    Imposter(Vec<Holder>),
    /// These of the required ports listen on the wildcard address: some, or none.
    Incomplete(PortSet),
    /// There was no answer.
    Unreadable(Reason, String),
}

/// A look at a pod and when it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// When it began.
    pub started: Time,
    /// When it ended.
    pub finished: Time,
    /// What it showed.
    pub seen: Seen,
    /// The capture ports that listen, on whichever address.
    pub ports: PortSet,
    /// Whether Istio's routing table is there.
    pub redirection: Redirection,
}

/// Concludes from a reading.
///
/// `ztunnel` are ztunnel's sockets as they were *after* the reading, `None` where nobody could look;
/// `holders` are the processes other than ztunnel that hold the reading's listeners. Somebody must be
/// named before a pod is said to have an imposter.
#[must_use]
pub fn assess(reading: &Reading, ztunnel: Option<&ZtunnelSockets>, holders: Vec<Holder>) -> Seen {
    if !reading.is_complete() {
        return Seen::Incomplete(reading.wildcard_ports().intersection(PortSet::REQUIRED));
    }
    let proved = ztunnel.is_some_and(|ztunnel| ztunnel.own_all_of(reading));
    if ztunnel.is_some() && !proved && !holders.is_empty() {
        return Seen::Imposter(holders);
    }
    Seen::Complete { proved }
}
