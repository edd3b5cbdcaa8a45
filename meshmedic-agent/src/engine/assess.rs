// SPDX-License-Identifier: Apache-2.0
//! What one look means: a reading of /proc beside what is known of ztunnel's own sockets.

use meshmedic_common::abi::{CensusRow, FamilyHooks};
use meshmedic_common::ports::PortSet;
use meshmedic_common::repair::heal::Place;
use meshmedic_common::report::Holder;
use meshmedic_common::rules::PodRules;
use meshmedic_common::sockets::{AddressKind, Reading};
use meshmedic_common::verdict::{Reason, Redirection};

use meshmedic_common::time::Time;

/// The sockets in the file tables of ztunnel's processes. Sorted, since they are made anew by each census and then
/// looked up once for each pod.
#[derive(Clone, Debug, Default)]
pub struct ZtunnelSockets {
    inodes: Vec<u64>,
    /// Wildcard listeners by network namespace; known to the census only.
    by_netns: Vec<(u32, PortSet)>,
    /// The packet filter's hooks by network namespace, IPv4's and IPv6's; known to the census only.
    hooks: Vec<(u32, [FamilyHooks; 2])>,
}

impl ZtunnelSockets {
    /// From a census of ztunnel's processes.
    #[must_use]
    pub fn from_census(rows: &[CensusRow]) -> Self {
        let wildcard = |row: &&CensusRow| AddressKind::from_abi(row.address) == AddressKind::Wildcard;
        let mut by_netns: Vec<_> = rows
            .iter()
            .filter(wildcard)
            .map(|row| (row.netns, PortSet::EMPTY.with(row.port)))
            .collect();
        by_netns.sort_unstable_by_key(|(netns, _)| *netns);
        by_netns.dedup_by(|(netns, port), (kept, ports)| {
            let same = netns == kept;
            if same {
                *ports = ports.union(*port);
            }
            same
        });
        let read = |row: &&CensusRow| row.ipv4 != FamilyHooks::NOT_READ || row.ipv6 != FamilyHooks::NOT_READ;
        let mut hooks: Vec<_> = rows
            .iter()
            .filter(read)
            .map(|row| (row.netns, [row.ipv4, row.ipv6]))
            .collect();
        hooks.sort_unstable_by_key(|(netns, _)| *netns);
        hooks.dedup_by_key(|(netns, _)| *netns);
        Self {
            by_netns,
            hooks,
            ..Self::from_inodes(rows.iter().map(|row| row.inode))
        }
    }

    /// From the file descriptors of ztunnel's processes.
    #[must_use]
    pub fn from_inodes(inodes: impl IntoIterator<Item = u64>) -> Self {
        let mut inodes: Vec<_> = inodes.into_iter().collect();
        inodes.sort_unstable();
        Self {
            inodes,
            by_netns: Vec::new(),
            hooks: Vec::new(),
        }
    }

    /// The packet filter's hooks in a namespace, IPv4's and IPv6's, where the census read them.
    #[must_use]
    pub fn hooks_in(&self, netns_inode: u32) -> Option<[FamilyHooks; 2]> {
        let found = self.hooks.binary_search_by_key(&netns_inode, |(netns, _)| *netns);
        let hooks = found.ok().and_then(|at| self.hooks.get(at));
        hooks.map(|(_, hooks)| *hooks)
    }

    /// Whether ztunnel holds all required listeners in a namespace.
    #[must_use]
    pub fn is_complete_in(&self, netns_inode: u32) -> bool {
        let found = self
            .by_netns
            .binary_search_by_key(&netns_inode, |(netns, _)| *netns);
        let ports = found.ok().and_then(|at| self.by_netns.get(at));
        ports.is_some_and(|(_, ports)| ports.contains_all(PortSet::REQUIRED))
    }

    /// Whether every required listener of a reading is among ztunnel's sockets.
    #[must_use]
    pub fn own_all_of(&self, reading: &Reading) -> bool {
        let wildcard = reading
            .listeners
            .iter()
            .filter(|l| l.address == AddressKind::Wildcard);
        let owned: PortSet = wildcard
            .filter(|l| self.inodes.binary_search(&l.inode).is_ok())
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
    /// Whether Istio's rules are there, where that was read beside it: of a pod that the census does not meet.
    pub rules: Option<PodRules>,
    /// Where it was taken; `None` where nothing was read.
    pub place: Option<Place>,
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
