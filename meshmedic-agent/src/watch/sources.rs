// SPDX-License-Identifier: Apache-2.0
//! What the kernel and ztunnel's own processes tell: trigger, census, and whose a socket is.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use meshmedic_common::abi::{CensusRow, ListenChange};
use meshmedic_common::ports::PortSet;
use meshmedic_common::report::Holder;
use meshmedic_common::sockets::{AddressKind, Reading};
use meshmedic_common::uid::PodUid;

use crate::engine::{Seen, Ztunnel, ZtunnelSockets, assess};
use crate::kernel::{Census, Kernel, Trigger};
use crate::node::{PodName, Process, ProcessTable, is_running, socket_inodes, uptime};
use crate::time::Time;

/// What ztunnel's process is called, and what the name of its pod begins with.
const ZTUNNEL: &str = "ztunnel";

/// Whether a process is ztunnel's, as far as names tell: without the API there is nothing else.
///
/// Any process may call itself ztunnel. The name of its pod is the kubelet's word, so where that is
/// known, a pod of another name cannot pass.
pub(super) fn is_ztunnel(process: &str, pod: Option<&PodName>) -> bool {
    is_named_ztunnel(process) && pod.is_none_or(|pod| pod.name.starts_with(ZTUNNEL))
}

/// Whether a process calls itself ztunnel; its pod holds others, too.
pub(super) fn is_named_ztunnel(process: &str) -> bool {
    process == ZTUNNEL
}

#[derive(Debug)]
pub(super) struct Sources {
    pub(super) trigger: Option<Trigger>,
    census: Option<Census>,
    /// ztunnel's processes: number and start time, sorted.
    pub(super) ztunnel: Vec<(u32, u64)>,
    ztunnel_pods: HashSet<PodUid>,
    sockets: ZtunnelSockets,
    rows: Vec<CensusRow>,
    /// Whether ztunnel had a connection to istio-cni, and when that was looked at.
    connected: Option<(Time, bool)>,
}

impl Sources {
    pub(super) fn new(kernel: Option<Kernel>, use_census: bool) -> Self {
        let (trigger, census) =
            kernel.map_or((None, None), |kernel| (Some(kernel.trigger), Some(kernel.census)));
        Self {
            trigger,
            census: census.filter(|_| use_census),
            ztunnel: Vec::new(),
            ztunnel_pods: HashSet::new(),
            sockets: ZtunnelSockets::default(),
            rows: Vec::new(),
            connected: None,
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

    pub(super) fn has_census(&self) -> bool {
        self.census.is_some()
    }

    /// Goes on without the census.
    pub(super) fn drop_census(&mut self) {
        self.census = None;
    }

    /// Goes on without the kernel programs.
    pub(super) fn disarm(&mut self) {
        self.trigger = None;
        self.census = None;
    }

    /// ztunnel's sockets as last looked at.
    pub(super) fn sockets(&self) -> &ZtunnelSockets {
        &self.sockets
    }

    /// Takes a census of ztunnel's processes. False where there is no census, or no ztunnel to ask:
    /// then it says nothing of any pod.
    pub(super) fn census(&mut self) -> io::Result<bool> {
        let Some(census) = &mut self.census else {
            return Ok(false);
        };
        if self.ztunnel.is_empty() {
            self.sockets = ZtunnelSockets::default();
            return Ok(false);
        }
        let processes: Vec<u32> = self.ztunnel.iter().map(|&(pid, _)| pid).collect();
        self.rows.clear();
        census.of(&processes, &mut self.rows)?;
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
        let age = youngest.and_then(|start| Some(uptime()?.saturating_sub(start_after_boot(start))));
        Ztunnel {
            processes: self.ztunnel.clone(),
            youngest: age.map(|age| now - age),
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
        let connected = self.ztunnel.iter().any(|&(pid, _)| {
            let established = read_to_string(root, pid, "net/unix").map(|table| established(&table));
            let own = socket_inodes(root, pid);
            matches!((established, own), (Ok(established), Ok(own)) if !established.is_disjoint(&own))
        });
        self.connected = Some((now, connected));
        connected
    }

    /// Concludes from a reading, after asking whose the listeners are.
    pub(super) fn assess(&mut self, table: &ProcessTable, uid: &PodUid, reading: &Reading) -> Seen {
        if !reading.is_complete() || self.ztunnel.is_empty() {
            return assess(reading, None, Vec::new());
        }
        // The last look at ztunnel's sockets may do; if it does not, they may have changed since.
        if !self.sockets.own_all_of(reading) && !self.look_at_ztunnel(table) {
            return assess(reading, None, Vec::new());
        }
        let foreign = !self.sockets.own_all_of(reading);
        let holders = if foreign {
            self.holders(table, uid, reading)
        } else {
            Vec::new()
        };
        assess(reading, Some(&self.sockets), holders)
    }

    /// Looks at ztunnel's sockets, by census or by its file descriptors. False if that is refused.
    fn look_at_ztunnel(&mut self, table: &ProcessTable) -> bool {
        if matches!(self.census(), Ok(true)) {
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

    /// Who but ztunnel holds the required listeners of a reading.
    fn holders(&mut self, table: &ProcessTable, uid: &PodUid, reading: &Reading) -> Vec<Holder> {
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
        self.rows.clear();
        let listed = self
            .census
            .as_mut()
            .is_some_and(|census| census.of_all(&mut self.rows).is_ok());
        if listed {
            for row in &self.rows {
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
        let is_ztunnel = |pid: u32| self.ztunnel.iter().any(|&(known, _)| known == pid);
        let others = held.into_iter().filter(|&(pid, _)| pid != 0 && !is_ztunnel(pid));
        others
            .map(|(pid, ports)| Holder {
                pid,
                name: table.name_of(pid),
                ports,
            })
            .collect()
    }
}

/// For so long a connection that was seen is taken for one that still is.
const CONNECTION_LASTS: Duration = Duration::from_secs(1);
/// SOCK_SEQPACKET and SS_CONNECTED, as `net/unix` writes them.
const SEQPACKET: &str = "0005";
const CONNECTED: &str = "03";

fn read_to_string(root: &Path, pid: u32, file: &str) -> io::Result<String> {
    let bytes = std::fs::read(root.join(pid.to_string()).join(file))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The inodes of established SEQPACKET sockets in `net/unix`.
fn established(table: &str) -> HashSet<u64> {
    let rows = table.lines().skip(1).filter_map(|row| {
        // Num, RefCount, Protocol, Flags, Type, State, Inode, and maybe a path.
        let mut words = row.split_whitespace().skip(4);
        let fits = words.next()? == SEQPACKET && words.next()? == CONNECTED;
        words.next()?.parse().ok().filter(|_| fits)
    });
    rows.collect()
}

/// Start times are counted in ticks of this many a second, whatever the kernel's own clock does.
const TICKS_PER_SECOND: u64 = 100;

fn start_after_boot(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(1_000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_established_seqpacket_sockets_count() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0005 01 11 /run/ztunnel.sock\n\
            0000000000000000: 00000003 00000000 00000000 0005 03 12\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 13\n\
            0000000000000000: 00000003 00000000 00000000 0005 03\n\
            nonsense\n";
        assert_eq!(established(table), [12].into());
    }

    #[test]
    fn a_process_that_only_calls_itself_ztunnel_does_not_pass() {
        let pod = |name: &str| PodName {
            namespace: "shop".into(),
            name: name.into(),
        };
        assert!(is_ztunnel("ztunnel", Some(&pod("ztunnel-8k2qv"))));
        assert!(is_ztunnel("ztunnel", None));
        assert!(!is_ztunnel("ztunnel", Some(&pod("cart-6d5f7c9b8-x2x4z"))));
        assert!(!is_ztunnel("envoy", Some(&pod("ztunnel-8k2qv"))));
    }
}
