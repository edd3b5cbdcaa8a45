// SPDX-License-Identifier: Apache-2.0
//! What the kernel and ztunnel's own processes tell: trigger, census, and whose a socket is.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use meshmedic_common::abi::{CensusRow, FamilyHooks, ListenChange};
use meshmedic_common::identity::Identity;
use meshmedic_common::ports::PortSet;
use meshmedic_common::report::Holder;
use meshmedic_common::rules::{FamilyRules, PodRules, Unfollowed};
use meshmedic_common::sockets::{AddressKind, Reading};
use meshmedic_common::traffic::{Counted, Untold};
use meshmedic_common::uid::PodUid;

use crate::engine::{Seen, Ztunnel, ZtunnelSockets, assess};
use crate::kernel::{Census, Kernel, Traffic, Trigger};
use crate::node::{
    Mapping, PodName, Process, ProcessTable, has_connection, is_running, socket_inodes, started,
};
use crate::time::Time;

/// What ztunnel's process is called, and what the name of its pod begins with.
const ZTUNNEL: &str = "ztunnel";
/// For so long the list of all listeners of the node is good enough: to make it, the kernel walks the descriptors of
/// all processes, of which a pod may hold as many as it likes.
pub(super) const LISTING_LASTS: Duration = Duration::from_secs(1);
/// For so long a connection of ztunnel's that was seen is taken for one that still is.
const CONNECTION_LASTS: Duration = Duration::from_secs(1);
/// A census that failed is tried again after this, then after twice as long, up to the second.
const CENSUS_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10 * 60));

/// Whether a process is ztunnel's, as far as names tell: without the API there is nothing else.
///
/// Any process may call itself ztunnel. The name of its pod is the kubelet's word, so where that is
/// known, a pod of another name, or outside Istio's namespaces, cannot pass.
pub(super) fn is_ztunnel(process: &str, pod: Option<&PodName>, identity: &Identity) -> bool {
    let passes = |pod: &PodName| pod.name.starts_with(ZTUNNEL) && identity.trusts(&pod.namespace);
    is_named_ztunnel(process) && pod.is_none_or(passes)
}

/// Whether a process calls itself ztunnel; its pod holds others, too.
pub(super) fn is_named_ztunnel(process: &str) -> bool {
    process == ZTUNNEL
}

/// A census that failed.
#[derive(Debug)]
struct Lapse {
    cause: String,
    /// How long it is left alone.
    wait: Duration,
    again_at: Time,
}

#[derive(Debug)]
pub(super) struct Sources {
    pub(super) trigger: Option<Trigger>,
    census: Option<Census>,
    traffic: Option<Traffic>,
    /// While the census fails.
    lapse: Option<Lapse>,
    /// ztunnel's processes: number and start time, sorted.
    pub(super) ztunnel: Vec<(u32, u64)>,
    ztunnel_pods: HashSet<PodUid>,
    sockets: ZtunnelSockets,
    rows: Vec<CensusRow>,
    /// Whether ztunnel had a connection to istio-cni, and when that was looked at.
    connected: Option<(Time, bool)>,
    /// Every listener of the node, and when that was.
    listing: Option<(Time, Vec<CensusRow>)>,
}

impl Sources {
    pub(super) fn new(kernel: Option<Kernel>, use_census: bool) -> Self {
        let (trigger, census, traffic) = match kernel {
            Some(kernel) => (Some(kernel.trigger), Some(kernel.census), Some(kernel.traffic)),
            None => (None, None, None),
        };
        Self {
            trigger,
            census: census.filter(|_| use_census),
            traffic,
            lapse: None,
            ztunnel: Vec::new(),
            ztunnel_pods: HashSet::new(),
            sockets: ZtunnelSockets::default(),
            rows: Vec::new(),
            connected: None,
            listing: None,
        }
    }

    /// Waits for records of the kernel; for ever where nothing reports any.
    pub(super) async fn next_records(&mut self, batch: &mut Vec<ListenChange>) -> io::Result<()> {
        match &mut self.trigger {
            Some(trigger) => trigger.next(batch).await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn records_lost(&self) -> u64 {
        self.trigger
            .as_ref()
            .and_then(|trigger| trigger.lost().ok())
            .unwrap_or(0)
    }

    /// Whether the census can be had, as far as is known.
    pub(super) fn has_census(&self) -> bool {
        self.census.is_some() && self.lapse.is_none()
    }

    /// Goes on without the census for a while: what made it fail may pass.
    fn lapse(&mut self, now: Time, cause: String) {
        let (first, most) = CENSUS_AGAIN;
        let wait = self
            .lapse
            .as_ref()
            .map_or(first, |lapse| (lapse.wait * 2).min(most));
        let again_at = now + wait;
        self.lapse = Some(Lapse {
            cause,
            wait,
            again_at,
        });
    }

    /// Why the census cannot be had, while that is so.
    pub(super) fn census_failure(&self) -> Option<&str> {
        self.lapse.as_ref().map(|lapse| lapse.cause.as_str())
    }

    /// When the census is tried again. While there is no ztunnel it has nothing to list.
    pub(super) fn tries_again_at(&self) -> Option<Time> {
        let lapse = self.lapse.as_ref().filter(|_| !self.ztunnel.is_empty())?;
        Some(lapse.again_at)
    }

    /// Goes on without the kernel programs.
    pub(super) fn disarm(&mut self) {
        self.trigger = None;
        self.census = None;
        self.traffic = None;
        self.lapse = None;
    }

    /// Counts connections in these namespaces from now on, and in no other.
    pub(super) fn count_in(&mut self, netns_inodes: &BTreeSet<u32>) {
        if let Some(traffic) = &mut self.traffic {
            traffic.watch(netns_inodes);
        }
    }

    /// The connections in a namespace, as far as they count for a pod with these addresses.
    pub(super) fn counted_in(&self, netns_inode: u32, addresses: &[IpAddr]) -> Option<Counted> {
        let counts = self.traffic.as_ref()?.of(netns_inode)?;
        Some(Counted::of(counts, addresses))
    }

    /// Why the connections of a pod are not counted.
    pub(super) fn uncounted(&self) -> Untold {
        match &self.traffic {
            Some(traffic) if traffic.left_out() > 0 => Untold::TooManyPods,
            Some(_) => Untold::NoTraffic,
            None => Untold::NotCounted,
        }
    }

    /// ztunnel's sockets as last looked at.
    pub(super) fn sockets(&self) -> &ZtunnelSockets {
        &self.sockets
    }

    /// Whether Istio's redirection rules are in a namespace, by the last census; `None` where it met no listener.
    pub(super) fn rules_in(&self, netns_inode: u32, addresses: &[IpAddr]) -> Option<PodRules> {
        self.judged(self.sockets.hooks_in(netns_inode)?, addresses)
    }

    /// The same of a namespace in which ztunnel holds no socket, through the process by which the pod is read.
    pub(super) fn rules_of(&mut self, mapping: &Mapping, addresses: &[IpAddr]) -> Option<PodRules> {
        let inode = mapping.netns_inode?;
        let census = self.census.as_mut().filter(|_| self.lapse.is_none())?;
        let (netns, hooks) = match census.hooks_of(mapping.pid) {
            Ok(found) => found?,
            Err(error) => {
                tracing::debug!(%error, pid = mapping.pid, "its redirection rules cannot be read");
                return None;
            }
        };
        // It may have moved, or ended and left its number to another.
        self.judged(hooks, addresses).filter(|_| netns == inode)
    }

    /// Why nothing is known of the rules of a pod of which they were not read.
    pub(super) fn unread(&self) -> Unfollowed {
        let census = self.census.as_ref().filter(|_| self.lapse.is_none());
        census.map_or(Unfollowed::NoCensus, Census::unmet)
    }

    /// What hooks say of a pod with these addresses.
    fn judged(&self, hooks: [FamilyHooks; 2], addresses: &[IpAddr]) -> Option<PodRules> {
        let lacking = self.census.as_ref()?.rules_lacking();
        let [ipv4, ipv6] = hooks.map(|hooks| FamilyRules::of(hooks, lacking));
        Some(PodRules::of(ipv4, ipv6, addresses))
    }

    /// Takes a census of ztunnel's processes. False where there is no census, or no ztunnel to ask:
    /// then it says nothing of any pod.
    pub(super) fn census(&mut self, now: Time) -> io::Result<bool> {
        let Some(census) = &mut self.census else {
            return Ok(false);
        };
        if self.lapse.as_ref().is_some_and(|lapse| now < lapse.again_at) {
            return Ok(false);
        }
        if self.ztunnel.is_empty() {
            self.sockets = ZtunnelSockets::default();
            return Ok(false);
        }
        let processes: Vec<u32> = self.ztunnel.iter().map(|&(pid, _)| pid).collect();
        self.rows.clear();
        if let Err(error) = census.of(&processes, &mut self.rows) {
            self.lapse(now, error.to_string());
            return Err(error);
        }
        self.lapse = None;
        self.sockets = ZtunnelSockets::from_census(&self.rows);
        Ok(true)
    }

    /// Finds ztunnel among the processes of pods.
    pub(super) fn find_ztunnel(
        &mut self,
        table: &ProcessTable,
        now: Time,
        is_one: impl Fn(&Process) -> bool,
    ) -> Ztunnel {
        self.ztunnel.clear();
        self.ztunnel_pods.clear();
        for process in table.iter().filter(|process| is_one(process)) {
            self.ztunnel.push((process.pid, process.start));
            self.ztunnel_pods.insert(process.pod.clone());
        }
        self.ztunnel.sort_unstable();
        let youngest = self.ztunnel.iter().map(|&(_, start)| start).max();
        Ztunnel {
            processes: self.ztunnel.clone(),
            youngest: youngest.and_then(|start| started(now, start)),
        }
    }

    /// Whether a pod is ztunnel's own.
    pub(super) fn is_ztunnel_pod(&self, uid: &PodUid) -> bool {
        self.ztunnel_pods.contains(uid)
    }

    /// Whether ztunnel's processes are all still the same and alive.
    pub(super) fn ztunnel_alive(&self, root: &Path) -> bool {
        self.ztunnel
            .iter()
            .all(|&(pid, start)| is_running(root, pid, start))
    }

    /// Whether one of ztunnel's own descriptors is an established connection of the kind that it has to istio-cni alone.
    pub(super) fn is_connected(&mut self, root: &Path, now: Time) -> bool {
        if let Some((at, connected)) = self.connected
            && now.since(at) < CONNECTION_LASTS
        {
            return connected;
        }
        let connected = self.ztunnel.iter().any(|&(pid, _)| has_connection(root, pid));
        self.connected = Some((now, connected));
        connected
    }

    /// Concludes from a reading, after asking whose the listeners are. `None` while that was asked too lately to ask
    /// again.
    pub(super) fn assess(
        &mut self,
        now: Time,
        table: &ProcessTable,
        uid: &PodUid,
        reading: &Reading,
    ) -> Option<Seen> {
        if !reading.is_complete() || self.ztunnel.is_empty() {
            return Some(assess(reading, None, Vec::new()));
        }
        // The last look at ztunnel's sockets may do; if it does not, they may have changed since.
        if !self.sockets.own_all_of(reading) && !self.look_at_ztunnel(now, table) {
            return Some(assess(reading, None, Vec::new()));
        }
        let foreign = !self.sockets.own_all_of(reading);
        let holders = if foreign {
            self.holders(now, table, uid, reading)?
        } else {
            Vec::new()
        };
        Some(assess(reading, Some(&self.sockets), holders))
    }

    /// Looks at ztunnel's sockets, by census or by its file descriptors. False if that is refused.
    fn look_at_ztunnel(&mut self, now: Time, table: &ProcessTable) -> bool {
        if matches!(self.census(now), Ok(true)) {
            return true;
        }
        let tables = self
            .ztunnel
            .iter()
            .map(|&(pid, _)| socket_inodes(table.root(), pid));
        match tables.collect::<io::Result<Vec<_>>>() {
            Ok(tables) => {
                self.sockets = ZtunnelSockets::from_inodes(tables.into_iter().flatten());
                true
            }
            Err(error) => {
                tracing::debug!(%error, "ztunnel's file descriptors cannot be read; whose the listeners are stays unproven");
                false
            }
        }
    }

    /// Who but ztunnel holds the required listeners of a reading. `None` where the list of listeners is older than the
    /// reading, and too young to be made again.
    fn holders(
        &mut self,
        now: Time,
        table: &ProcessTable,
        uid: &PodUid,
        reading: &Reading,
    ) -> Option<Vec<Holder>> {
        let wanted = |inode: u64| {
            let mut listeners = reading.listeners.iter();
            listeners
                .find(|l| l.inode == inode && l.address == AddressKind::Wildcard)
                .map(|l| l.port)
        };
        let mut held: BTreeMap<u32, PortSet> = BTreeMap::new();
        let mut add = |pid: u32, port: u16| {
            let ports = held.entry(pid).or_default();
            *ports = ports.with(port);
        };
        let fresh = self.list_all(now);
        if let Some((_, rows)) = &self.listing {
            for row in rows {
                if let Some(port) = wanted(row.inode) {
                    add(row.tgid, port);
                }
            }
        } else {
            for process in table.iter().filter(|process| process.pod == *uid) {
                for inode in socket_inodes(table.root(), process.pid).unwrap_or_default() {
                    if let Some(port) = wanted(inode) {
                        add(process.pid, port);
                    }
                }
            }
        }
        if held.is_empty() && !fresh {
            return None;
        }
        let is_ztunnel = |pid: u32| self.ztunnel.iter().any(|&(known, _)| known == pid);
        let others = held.into_iter().filter(|&(pid, _)| pid != 0 && !is_ztunnel(pid));
        let others = others.map(|(pid, ports)| Holder {
            pid,
            name: table.name_of(pid),
            ports,
        });
        Some(others.collect())
    }

    /// Lists every listener of the node, unless that was done a moment ago. True if the list is new, or cannot be had.
    fn list_all(&mut self, now: Time) -> bool {
        let lasts = |(at, _): &(Time, _)| now.since(*at) < LISTING_LASTS;
        if self.listing.as_ref().is_some_and(lasts) {
            return false;
        }
        let mut rows = self.listing.take().map(|(_, rows)| rows).unwrap_or_default();
        rows.clear();
        let census = self.census.as_mut().filter(|_| self.lapse.is_none());
        if census.is_some_and(|census| census.of_all(&mut rows).is_ok()) {
            self.listing = Some((now, rows));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_only_calls_itself_ztunnel_does_not_pass() {
        let passes = |process: &str, pod: Option<(&str, &str)>| {
            let pod = pod.map(|(namespace, name)| PodName {
                namespace: namespace.into(),
                name: name.into(),
            });
            is_ztunnel(process, pod.as_ref(), &Identity::default())
        };
        assert!(passes("ztunnel", Some(("istio-system", "ztunnel-8k2qv"))));
        assert!(passes("ztunnel", None));
        assert!(!passes("ztunnel", Some(("shop", "ztunnel-8k2qv"))));
        assert!(!passes(
            "ztunnel",
            Some(("istio-system", "istiod-6d5f7c9b8-x2x4z"))
        ));
        assert!(!passes("envoy", Some(("istio-system", "ztunnel-8k2qv"))));
    }
}
