// SPDX-License-Identifier: Apache-2.0
//! What MeshMedic is measured against: the algorithm of the original, as plainly as it can be written.
//!
//! Each interval it reads every `/proc/<pid>/cgroup`, takes the first process of each pod, and reads that
//! process's `net/tcp` and `net/tcp6` to their ends, one pod after the other.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

/// As much as a buffered reader takes at once.
const BUFFER: usize = 4096;
const LISTEN: &str = "0A";
/// 15001 and 15008, as the tables have them.
const OUTBOUND: &str = "3A99";
const HBONE: &str = "3AA0";

/// One sweep: how many of these pods, by their UIDs, are captured.
pub(super) fn sweep(root: &Path, pods: &[String]) -> io::Result<usize> {
    let mut processes: HashMap<String, u32> = HashMap::new();
    for entry in fs::read_dir(root)? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(cgroup) = fs::read_to_string(root.join(format!("{pid}/cgroup"))) else {
            continue;
        };
        if let Some(uid) = pod_of(&cgroup) {
            processes.entry(uid).or_insert(pid);
        }
    }
    let mut captured = 0;
    for uid in pods {
        let Some(pid) = processes.get(uid) else { continue };
        let mut ports = (false, false);
        for table in ["tcp", "tcp6"] {
            read_table(&root.join(format!("{pid}/net/{table}")), &mut ports)?;
        }
        captured += usize::from(ports == (true, true));
    }
    Ok(captured)
}

/// `pod<uid>` in a path, whichever way its dashes are written.
fn pod_of(cgroup: &str) -> Option<String> {
    let (_, rest) = cgroup.rsplit_once("pod")?;
    let uid = rest.get(..36)?.replace('_', "-");
    (uid.matches('-').count() == 4).then_some(uid)
}

fn read_table(path: &Path, (outbound, hbone): &mut (bool, bool)) -> io::Result<()> {
    for line in BufReader::with_capacity(BUFFER, File::open(path)?).lines() {
        let line = line?;
        let mut columns = line.split_whitespace().skip(1);
        let (local, state) = (columns.next(), columns.nth(1));
        if state != Some(LISTEN) {
            continue;
        }
        if let Some((_, port)) = local.and_then(|local| local.rsplit_once(':')) {
            *outbound |= port == OUTBOUND;
            *hbone |= port == HBONE;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_of_a_process_is_read_from_both_kinds_of_paths() {
        let uid = "6f3d2b1a-0c4e-4a8b-9d7f-5e2c1b0a9f8e";
        for path in [
            format!("0::/kubepods/burstable/pod{uid}/0123\n"),
            format!(
                "0::/kubepods.slice/kubepods-pod{}.slice/x.scope\n",
                uid.replace('-', "_")
            ),
        ] {
            assert_eq!(pod_of(&path).as_deref(), Some(uid), "{path}");
        }
        assert_eq!(pod_of("0::/system.slice/pod.service\n"), None);
    }

    #[test]
    fn only_both_ports_count() {
        let root = tempfile::tempdir().unwrap();
        let uid = "6f3d2b1a-0c4e-4a8b-9d7f-5e2c1b0a9f8e".to_owned();
        let process = root.path().join("42");
        fs::create_dir_all(process.join("net")).unwrap();
        fs::write(process.join("cgroup"), format!("0::/kubepods/pod{uid}/x\n")).unwrap();
        let row = |port: &str, state: &str| format!("   0: 00000000:{port} 00000000:0000 {state} 0\n");
        let write = |rows: &str| fs::write(process.join("net/tcp6"), format!("  sl  local\n{rows}"));
        fs::write(process.join("net/tcp"), "  sl  local\n").unwrap();
        for (rows, captured) in [
            (row(OUTBOUND, "0A") + &row(HBONE, "0A"), 1),
            (row(OUTBOUND, "0A") + &row(HBONE, "01"), 0),
            (String::new(), 0),
        ] {
            write(&rows).unwrap();
            assert_eq!(
                sweep(root.path(), std::slice::from_ref(&uid)).unwrap(),
                captured,
                "{rows}"
            );
        }
    }
}
