// SPDX-License-Identifier: Apache-2.0
//! ztunnel's connection to istio-cni, as `/proc` shows it.

use std::collections::HashSet;
use std::path::Path;

use super::sockets::socket_inodes;

/// SOCK_SEQPACKET and SS_CONNECTED, as `net/unix` writes them.
const SEQPACKET: &str = "0005";
const CONNECTED: &str = "03";

/// Whether one of a process's own descriptors is an established connection of the kind that ztunnel has to istio-cni
/// alone. What cannot be read shows none.
#[must_use]
pub fn has_connection(root: &Path, pid: u32) -> bool {
    let table = std::fs::read(root.join(pid.to_string()).join("net/unix"));
    let established = table.map(|table| established(&String::from_utf8_lossy(&table)));
    let own = socket_inodes(root, pid);
    matches!((established, own), (Ok(established), Ok(own)) if !established.is_disjoint(&own))
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
}
