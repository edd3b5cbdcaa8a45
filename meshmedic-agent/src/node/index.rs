// SPDX-License-Identifier: Apache-2.0
//! Which network namespace is a pod's, and which pod a network namespace belongs to.
//!
//! A cgroup ties a process to a pod; nothing ties a process to the pod's network namespace. A pod may
//! hold helpers in the host's namespace and namespaces nested in its own, and processes of one pod
//! pass through the namespace of another.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::Reason;

use super::process::{NetnsKey, Process, ProcessTable, open_process, read_file};
use meshmedic_common::addresses::NetAddresses;

/// The process through which a pod's network namespace is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its number.
    pub pid: u32,
    /// When it started: with the number, its identity.
    pub start: u64,
    /// The pod's network namespace.
    pub netns: NetnsKey,
    /// The namespace's inode as the kernel programs see it, where it may be read.
    pub netns_inode: Option<u32>,
}

impl From<&Process> for Mapping {
    fn from(process: &Process) -> Self {
        Self {
            pid: process.pid,
            start: process.start,
            netns: process.netns,
            netns_inode: process.netns_inode,
        }
    }
}

/// The namespaces of all pods at one moment.
#[derive(Debug, Default)]
pub struct NetnsIndex {
    pods: BTreeMap<PodUid, Result<Mapping, Reason>>,
    by_inode: HashMap<u32, PodUid>,
}

/// What a pod lays claim to.
struct Claim<'a> {
    process: &'a Process,
    /// The namespace holds an address of the pod.
    proved: bool,
    /// The pod's very first process lives there, none of its processes lives in the host's namespace.
    at_home: bool,
}

impl NetnsIndex {
    /// Maps every pod that has processes; `addresses` are those that the API knows, by pod.
    #[must_use]
    pub fn build(table: &ProcessTable, addresses: &HashMap<PodUid, Vec<IpAddr>>) -> Self {
        let mut processes: BTreeMap<&PodUid, Vec<&Process>> = BTreeMap::new();
        for process in table.iter() {
            processes.entry(&process.pod).or_default().push(process);
        }
        let mut claims = BTreeMap::new();
        for (pod, mut own) in processes {
            own.sort_unstable_by_key(|process| (process.start, process.pid));
            let known = addresses.get(pod).map_or(&[][..], Vec::as_slice);
            claims.insert(pod.clone(), claim(table, &own, known));
        }
        for (pod, reason) in table.refused() {
            // Where something is hidden from us, what is left may not be the pod itself.
            let claim = claims.entry(pod.clone()).or_insert(Err(reason));
            if claim.is_err() {
                *claim = Err(reason);
            }
        }
        Self::settle(&claims)
    }

    /// A namespace is one pod's only. Where two claim it, an address decides, then who has no process
    /// in the host's namespace; where nothing decides, neither is believed.
    fn settle(claims: &BTreeMap<PodUid, Result<Claim<'_>, Reason>>) -> Self {
        let rank = |claim: &Claim<'_>| (claim.proved, claim.at_home);
        let mut best: HashMap<NetnsKey, ((bool, bool), u32)> = HashMap::new();
        for claim in claims.values().flatten() {
            let (top, count) = best.entry(claim.process.netns).or_insert((rank(claim), 0));
            if rank(claim) > *top {
                (*top, *count) = (rank(claim), 1);
            } else if rank(claim) == *top {
                *count += 1;
            }
        }
        let mut index = Self::default();
        for (pod, claim) in claims {
            let mapping = match claim {
                Err(reason) => Err(*reason),
                Ok(claim) => match best[&claim.process.netns] {
                    (top, 1) if rank(claim) == top => Ok(Mapping::from(claim.process)),
                    (top, _) if rank(claim) == top => Err(Reason::AmbiguousNetns),
                    // Beaten: its process only passes through. What remains of it lives with the host.
                    _ if !claim.at_home => Err(Reason::HostNetwork),
                    _ => Err(Reason::AmbiguousNetns),
                },
            };
            if let Ok(Mapping {
                netns_inode: Some(inode),
                ..
            }) = mapping
            {
                index.by_inode.insert(inode, pod.clone());
            }
            index.pods.insert(pod.clone(), mapping);
        }
        index
    }

    /// Every pod that has processes here.
    pub fn pods(&self) -> impl Iterator<Item = (&PodUid, &Result<Mapping, Reason>)> {
        self.pods.iter()
    }

    /// A pod's namespace, or why it cannot be told.
    pub fn get(&self, pod: &PodUid) -> Result<&Mapping, Reason> {
        self.pods.get(pod).map_or(Err(Reason::NoProcess), |mapping| {
            mapping.as_ref().map_err(|reason| *reason)
        })
    }

    /// The pod whose namespace has this inode.
    #[must_use]
    pub fn pod_of(&self, netns_inode: u32) -> Option<&PodUid> {
        self.by_inode.get(&netns_inode)
    }
}

/// Chooses among a pod's processes, oldest first.
fn claim<'a>(table: &ProcessTable, own: &[&'a Process], known: &[IpAddr]) -> Result<Claim<'a>, Reason> {
    let host = table.host_netns();
    let outside = |process: &&&Process| Some(process.netns) != host;
    let helpers = own.iter().any(|process| Some(process.netns) == host);
    let oldest = own.iter().find(outside).ok_or(Reason::HostNetwork)?;
    if known.is_empty() {
        return Ok(Claim {
            process: oldest,
            proved: false,
            at_home: !helpers,
        });
    }
    let mut looked_at: HashMap<NetnsKey, bool> = HashMap::new();
    let holder = own.iter().filter(outside).find(|process| {
        *looked_at
            .entry(process.netns)
            .or_insert_with(|| holds(table, process, known))
    });
    let process = *holder.ok_or(Reason::NoAddressMatch)?;
    Ok(Claim {
        process,
        proved: true,
        at_home: !helpers,
    })
}

/// More than the routes of any pod; a longer table is cut, and then proves no address behind the cut.
pub(super) const ADDRESS_FILE: u64 = 1024 * 1024;

fn holds(table: &ProcessTable, process: &Process, known: &[IpAddr]) -> bool {
    let Ok(directory) = open_process(table.root(), process.pid) else {
        return false;
    };
    let fib_trie = read_file(&directory, "net/fib_trie", ADDRESS_FILE).unwrap_or_default();
    let if_inet6 = read_file(&directory, "net/if_inet6", ADDRESS_FILE).unwrap_or_default();
    NetAddresses::parse(&fib_trie, &if_inet6).holds_any(known)
}
