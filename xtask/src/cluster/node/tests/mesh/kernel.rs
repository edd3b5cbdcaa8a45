// SPDX-License-Identifier: Apache-2.0
//! What the kernel shows of a node's processes.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::Pid;

/// Where a pod's traffic goes.
const CAPTURE: [u16; 3] = [15001, 15006, 15008];

pub(super) fn all_processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

/// The processes of every pod, by its UID.
pub(super) fn processes() -> BTreeMap<String, Vec<Pid>> {
    let mut found: BTreeMap<String, Vec<Pid>> = BTreeMap::new();
    for process in all_processes() {
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", process.as_raw_nonzero()));
        let groups = groups.unwrap_or_default();
        let Some((_, rest)) = groups.split_once("/pod") else {
            continue;
        };
        if let Some((uid, _)) = rest.split_once('/') {
            found.entry(uid.to_owned()).or_default().push(process);
        }
    }
    found
}

/// Whether all capture ports listen where a process is, by the kernel's own tables and no code of the agent's.
pub(super) fn listens(process: Pid) -> bool {
    let process = process.as_raw_nonzero();
    let table = |name: &str| fs::read_to_string(format!("/proc/{process}/net/{name}")).unwrap_or_default();
    let tables = [table("tcp"), table("tcp6")].concat();
    CAPTURE.iter().all(|port| {
        let port = format!(":{port:04X}");
        tables.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, _, state) = (words.next(), words.next(), words.next());
            local.is_some_and(|local| local.ends_with(&port)) && state == Some("0A")
        })
    })
}
