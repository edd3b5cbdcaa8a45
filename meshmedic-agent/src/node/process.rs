// SPDX-License-Identifier: Apache-2.0
//! The processes of the node, learned incrementally.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meshmedic_common::text::clean;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::Reason;
use rustix::fs::{AtFlags, Mode, OFlags};

use super::cgroup::parse_cgroup;
use meshmedic_common::time::{Time, Uptime};

/// A network namespace, told apart from the others by the inode of its `net/tcp`.
///
/// This needs no capability. It is not the number that the kernel programs see: that is
/// [`Process::netns_inode`], which needs `CAP_SYS_PTRACE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsKey(pub u64);

/// A process of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot: with the number, its identity.
    pub start: u64,
    /// Its pod.
    pub pod: PodUid,
    /// Its network namespace.
    pub netns: NetnsKey,
    /// The namespace's inode as the kernel programs see it, where it may be read.
    pub netns_inode: Option<u32>,
    /// Its name: the process's own word.
    pub name: String,
}

/// No kernel keeps a longer name of a process, and no terminal needs one.
const NAME_MOST: usize = 64;

/// A process that is still young may not have reached its cgroup and namespace: a container's runtime
/// moves it there within milliseconds of its start. Until it was read when it had been known this long, it is read again.
const SETTLING: Duration = Duration::from_secs(5);

/// What a number in /proc turned out to be.
#[derive(Debug)]
enum What {
    /// A process of no pod, or one that ended while it was read: nobody's evidence.
    Nothing,
    /// A process of a pod.
    Pod(Process),
    /// A process of a pod whose network namespace the system does not show us.
    Refused(PodUid, Reason),
}

#[derive(Debug)]
struct Known {
    /// Inode of the directory `/proc/<pid>`: it changes when the number is used again.
    directory: u64,
    first_seen: Time,
    /// When `what` was read.
    read_at: Time,
    what: What,
}

impl Known {
    fn process(&self) -> Option<&Process> {
        match &self.what {
            What::Pod(process) => Some(process),
            What::Nothing | What::Refused(..) => None,
        }
    }

    /// Nothing new is to be learned of it: it was no longer young when it was last read. What was refused may be
    /// allowed later.
    fn is_settled(&self) -> bool {
        self.read_at.since(self.first_seen) >= SETTLING && !matches!(self.what, What::Refused(..))
    }
}

/// All processes that belong to pods.
#[derive(Debug)]
pub struct ProcessTable {
    root: PathBuf,
    known: HashMap<u32, Known>,
    host: Option<NetnsKey>,
    files_read: u64,
}

impl ProcessTable {
    /// A table over a /proc root, still empty.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            known: HashMap::new(),
            host: None,
            files_read: 0,
        }
    }

    /// The /proc root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Learns of processes that came and went. Of a known process no file is read again.
    ///
    /// Fails only where the root itself cannot be read or shows no process 1: then nothing can be told
    /// apart from the host's own network.
    pub fn refresh(&mut self, now: Time) -> io::Result<()> {
        self.host = Some(netns_of(&open_process(&self.root, 1)?)?.0);
        let mut seen = HashMap::with_capacity(self.known.len() + 16);
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            let Some(pid) = parse_pid(&entry.file_name()) else {
                continue;
            };
            let directory = entry.ino();
            let known = self
                .known
                .remove(&pid)
                .filter(|known| known.directory == directory);
            let known = match known {
                Some(known) if known.is_settled() => known,
                young => {
                    self.files_read += 1;
                    let first_seen = young.map_or(now, |known| known.first_seen);
                    Known {
                        directory,
                        first_seen,
                        read_at: now,
                        what: read_process(&self.root, pid),
                    }
                }
            };
            seen.insert(pid, known);
        }
        self.known = seen;
        Ok(())
    }

    /// Reads a pod's known processes anew: for a mapping that proved stale, because its process ended
    /// or moved to another network namespace.
    pub fn reread(&mut self, pod: &PodUid) {
        for (&pid, known) in &mut self.known {
            if matches!(&known.what, What::Pod(process) if process.pod == *pod) {
                self.files_read += 1;
                known.what = read_process(&self.root, pid);
            }
        }
    }

    /// Reads the processes of no pod once more, each when it is twice as old as when it was last read: on a node that
    /// is busy, one may enter its pod's cgroup long after it began. True if one of them turned out to be a pod's.
    ///
    /// For when a pod is known to lack a process.
    pub fn reread_strangers(&mut self, now: Time) -> bool {
        let mut found = false;
        for (&pid, known) in &mut self.known {
            let age_when_read = known.read_at.since(known.first_seen);
            // Of those that are young each refresh reads anyway.
            let stranger = matches!(known.what, What::Nothing) && known.is_settled();
            if !stranger || now.since(known.first_seen) < age_when_read * 2 {
                continue;
            }
            self.files_read += 1;
            known.read_at = now;
            known.what = read_process(&self.root, pid);
            found |= !matches!(known.what, What::Nothing);
        }
        found
    }

    /// The host's network namespace, once [`Self::refresh`] succeeded.
    #[must_use]
    pub fn host_netns(&self) -> Option<NetnsKey> {
        self.host
    }

    /// Whether nothing new is to be learned of any known process of a pod.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let mut known = self.known.values();
        known.all(|known| matches!(known.what, What::Nothing) || known.is_settled())
    }

    /// Every process of a pod.
    pub fn iter(&self) -> impl Iterator<Item = &Process> {
        self.known.values().filter_map(Known::process)
    }

    /// The pods of processes whose network namespace the system does not show us, and why.
    pub fn refused(&self) -> impl Iterator<Item = (&PodUid, Reason)> {
        self.known.values().filter_map(|known| match &known.what {
            What::Refused(pod, reason) => Some((pod, *reason)),
            What::Nothing | What::Pod(_) => None,
        })
    }

    /// A process of a pod by its number.
    #[must_use]
    pub fn get(&self, pid: u32) -> Option<&Process> {
        self.known.get(&pid)?.process()
    }

    /// What a process calls itself, cleaned for a terminal; of a process outside all pods too.
    #[must_use]
    pub fn name_of(&self, pid: u32) -> String {
        let read = || read_stat(open_process(&self.root, pid)?).map(|stat| stat.name);
        let name = read().unwrap_or_else(|_| "unknown".to_owned());
        clean(&name, NAME_MOST)
    }

    /// How many processes were read so far: what shows that known ones cost nothing.
    #[must_use]
    pub fn processes_read(&self) -> u64 {
        self.files_read
    }
}

fn parse_pid(name: &OsStr) -> Option<u32> {
    let name = name.to_str()?;
    if name.starts_with('+') {
        None
    } else {
        name.parse().ok()
    }
}

/// Opens the directory of a process. The descriptor stays with this very process: once it is gone,
/// every access through it fails, whoever has its number by then.
pub(super) fn open_process(root: &Path, pid: u32) -> io::Result<OwnedFd> {
    let path = root.join(pid.to_string());
    Ok(rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Opens a file of a process for reading.
pub(super) fn open_file(process: impl AsFd, name: &str) -> io::Result<std::fs::File> {
    Ok(rustix::fs::openat(process, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Reads a small file of a process; longer ones are cut at `limit`.
pub(super) fn read_file(process: impl AsFd, name: &str, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    open_file(process, name)?.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The network namespace of a process, and its inode where that may be read.
pub(super) fn netns_of(process: impl AsFd) -> io::Result<(NetnsKey, Option<u32>)> {
    let process = process.as_fd();
    let key = NetnsKey(rustix::fs::statat(process, "net/tcp", AtFlags::empty())?.st_ino);
    let inode = rustix::fs::statat(process, "ns/net", AtFlags::empty()).ok();
    Ok((key, inode.and_then(|stat| u32::try_from(stat.st_ino).ok())))
}

/// What `/proc/<pid>/stat` tells of a process.
pub(super) struct Stat {
    pub(super) name: String,
    pub(super) alive: bool,
    pub(super) start: u64,
}

/// A file of /proc is short; this is many times what `stat` and `cgroup` ever hold.
const SMALL_FILE: u64 = 64 * 1024;

pub(super) fn read_stat(process: impl AsFd) -> io::Result<Stat> {
    let text = read_file(process, "stat", SMALL_FILE)?;
    parse_stat(&text).ok_or_else(|| io::Error::other("stat has an unknown form"))
}

/// The name stands in parentheses and may contain any character, parentheses too.
fn parse_stat(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let mut fields = tail.split_ascii_whitespace();
    let state = fields.next()?;
    // State is field 3 and the start time field 22.
    let start = fields.nth(18)?.parse().ok()?;
    Some(Stat {
        name,
        alive: !matches!(state, "Z" | "X" | "x"),
        start,
    })
}

/// Whether this very process lives.
#[must_use]
pub fn is_running(root: &Path, pid: u32, start: u64) -> bool {
    let stat = open_process(root, pid).and_then(read_stat);
    stat.is_ok_and(|stat| stat.alive && stat.start == start)
}

/// Start times are counted in ticks of this many a second, whatever the kernel's own clock does.
const TICKS_PER_SECOND: u64 = 100;

/// When a process began that has this start time.
#[must_use]
pub fn started(now: Time, start: u64) -> Option<Time> {
    let after_boot = Duration::from_millis(start.saturating_mul(1_000 / TICKS_PER_SECOND));
    Some(now - Uptime::now().since_boot().saturating_sub(after_boot))
}

fn read_process(root: &Path, pid: u32) -> What {
    let Ok(directory) = open_process(root, pid) else {
        return What::Nothing;
    };
    let pod = read_file(&directory, "cgroup", SMALL_FILE)
        .ok()
        .and_then(|text| parse_cgroup(&text));
    let stat = read_stat(&directory).ok().filter(|stat| stat.alive);
    let (Some(pod), Some(stat)) = (pod, stat) else {
        return What::Nothing;
    };
    match netns_of(&directory) {
        Ok((netns, netns_inode)) => What::Pod(Process {
            pid,
            start: stat.start,
            pod: pod.uid,
            netns,
            netns_inode,
            name: stat.name,
        }),
        Err(error) => match failure(&error) {
            Reason::Gone => What::Nothing,
            reason => What::Refused(pod.uid, reason),
        },
    }
}

/// Why the system did not let us read something of a process. Root that is refused was refused by a
/// security module.
pub(super) fn failure(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::NotFound => Reason::Gone,
        io::ErrorKind::PermissionDenied if rustix::process::geteuid().is_root() => Reason::DeniedByLsm,
        io::ErrorKind::PermissionDenied => Reason::Denied,
        _ if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Reason::Gone,
        _ => Reason::ReadFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cleaned_as_all_words_of_others_are() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("42");
        std::fs::create_dir_all(&folder).unwrap();
        let named = |name: &str| {
            let stat = format!("42 ({name}) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20");
            std::fs::write(folder.join("stat"), stat).unwrap();
            ProcessTable::new(root.path()).name_of(42)
        };
        assert_eq!(named("app"), "app");
        // What turns the direction of the text, ends a line, or begins an escape.
        for hostile in ["a\u{202e}b", "a\u{2028}b", "a\u{1b}b"] {
            assert_eq!(named(hostile), "a b");
        }
        assert!(named(&"x".repeat(1_000)).len() <= NAME_MOST);
    }

    #[test]
    fn a_name_may_hold_parentheses_and_spaces() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        let stat = parse_stat(&format!("42 (a) b (c)) {rest}")).unwrap();
        assert_eq!(
            (stat.name.as_str(), stat.alive, stat.start),
            ("a) b (c)", true, 4711)
        );
        assert!(
            !parse_stat(&format!("42 (x) {}", rest.replace('S', "Z")))
                .unwrap()
                .alive
        );
        for bad in ["", "42", "42 (x)", "42 (x) S 1 2", "42 x) S"] {
            assert!(parse_stat(bad).is_none(), "{bad}");
        }
    }
}
