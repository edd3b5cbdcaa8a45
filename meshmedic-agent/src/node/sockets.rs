// SPDX-License-Identifier: Apache-2.0
//! Which sockets a process holds, from its file descriptors: the census for a node without eBPF.

use std::collections::HashSet;
use std::io;
use std::path::Path;

/// The inodes of the sockets in a process's file table. Needs `CAP_SYS_PTRACE` for another user's.
pub fn socket_inodes(root: &Path, pid: u32) -> io::Result<HashSet<u64>> {
    let mut inodes = HashSet::new();
    for entry in std::fs::read_dir(root.join(pid.to_string()).join("fd"))? {
        let target = match std::fs::read_link(entry?.path()) {
            Ok(target) => target,
            // A descriptor that was closed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let target = target
            .to_str()
            .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
        inodes.extend(target.and_then(|inode| inode.parse::<u64>().ok()));
    }
    Ok(inodes)
}
