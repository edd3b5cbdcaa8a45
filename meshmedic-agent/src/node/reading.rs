// SPDX-License-Identifier: Apache-2.0
//! The ground truth: which capture ports listen in a pod's network namespace, read from
//! `/proc/<pid>/net/tcp6` and `tcp` of a process that lives there.

use std::io::{self, ErrorKind, Read as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use meshmedic_common::sockets::{Family, Reading, TableParser};
use meshmedic_common::verdict::{Reason, Redirection};

use super::index::{ADDRESS_FILE, Mapping};
use super::process::{failure, netns_of, open_file, open_process, read_file, read_stat};
use meshmedic_common::addresses::NetAddresses;
use meshmedic_common::time::Time;

/// Why a namespace could not be read. This is never "no listeners".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Unreadable {
    /// The kind of failure.
    pub reason: Reason,
    /// The file and the system's own words.
    pub detail: String,
}

/// What one look at a pod's namespace gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The listeners.
    pub reading: Reading,
    /// Whether Istio's routing table is there.
    pub redirection: Redirection,
}

/// One look at one pod: everything it needs, so that any thread can take it.
#[derive(Clone, Debug)]
pub struct ReadJob {
    /// The /proc root.
    pub root: PathBuf,
    /// Through whom to look.
    pub mapping: Mapping,
}

impl ReadJob {
    /// Looks. Blocks for as long as the kernel takes to walk its socket tables, some milliseconds.
    pub fn run(&self) -> Result<Evidence, Unreadable> {
        let process =
            open_process(&self.root, self.mapping.pid).map_err(|e| unreadable("its directory", &e))?;
        let reading = read_tables(&process)?;
        let redirection = read_redirection(&process);
        self.prove(&process)?;
        if reading.malformed_rows > 0 && !reading.is_complete() {
            let detail = format!("{} rows of net/tcp and net/tcp6", reading.malformed_rows);
            return Err(Unreadable {
                reason: Reason::Malformed,
                detail,
            });
        }
        Ok(Evidence { reading, redirection })
    }

    /// After the last read: the same process, alive, and in the same namespace as when it was mapped.
    /// Otherwise what was read belongs to nobody knows whom.
    fn prove(&self, process: &OwnedFd) -> Result<(), Unreadable> {
        let stat = read_stat(process).map_err(|e| unreadable("stat", &e))?;
        let gone = |detail: &str| {
            Err(Unreadable {
                reason: Reason::Gone,
                detail: detail.to_owned(),
            })
        };
        if !stat.alive {
            return gone("the process has ended");
        }
        if stat.start != self.mapping.start {
            return gone("its number belongs to another process by now");
        }
        let (netns, inode) = netns_of(process).map_err(|e| unreadable("net/tcp", &e))?;
        if netns != self.mapping.netns || inode != self.mapping.netns_inode {
            return gone("the process has moved to another network namespace");
        }
        Ok(())
    }
}

/// tcp6 first: a ztunnel with its default settings listens there even for pods without IPv6.
fn read_tables(process: &OwnedFd) -> Result<Reading, Unreadable> {
    let until = Time::now() + TABLES_TAKE;
    let mut reading = Reading::default();
    match open_file(process, "net/tcp6") {
        Ok(file) => {
            read_table(file, Family::Inet6, until, &mut reading).map_err(|e| unreadable("net/tcp6", &e))?
        }
        // A kernel without IPv6 has no such file. Neither has a zombie, but it has no tcp either.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable("net/tcp6", &error)),
    }
    if reading.is_complete() {
        return Ok(reading);
    }
    let file = open_file(process, "net/tcp").map_err(|e| unreadable("net/tcp", &e))?;
    read_table(file, Family::Inet, until, &mut reading).map_err(|e| unreadable("net/tcp", &e))?;
    Ok(reading)
}

/// The lines of a table, as kernels write them. Were they others, more would be read than need be, no less.
struct Lines {
    header: usize,
    row: usize,
    /// From here on nothing of a row matters.
    enough: usize,
}

const INET: Lines = Lines {
    header: 150,
    row: 150,
    enough: 120,
};
const INET6: Lines = Lines {
    header: 145,
    row: 179,
    enough: 165,
};
/// So many rows are read one by one.
const SINGLE_ROWS: usize = 16;
/// No table is read beyond so many bytes, some hundred thousand listeners, nor both for longer than so. What is not
/// done by then was made to be endless: it is no answer, and a pod harms nobody but itself by it.
const TABLE_MOST: usize = 64 * 1024 * 1024;
const TABLES_TAKE: Duration = Duration::from_secs(10);
/// What is left over when a page is as full as whole rows can fill it is shorter than this.
const LONGEST_ROW: usize = 256;

/// Reads one table until the answer is certain: all required ports were met, or no listener can follow.
///
/// The kernel fills a page at most for each read, and looks for the next row before it sees that the reader's
/// buffer is full; behind the last listener this makes it walk its whole table of connections. So the first read
/// ends within the third row, which is the first that may make a pod captured, and each further one within the
/// next. If the last of them is not one that matters, the walk is never paid for.
fn read_table(mut file: std::fs::File, family: Family, until: Time, reading: &mut Reading) -> io::Result<()> {
    let lines = match family {
        Family::Inet => INET,
        Family::Inet6 => INET6,
    };
    let page = rustix::param::page_size();
    let mut buffer = vec![0; page];
    let mut parser = TableParser::new(family);
    let mut want = lines.header + 2 * lines.row + lines.enough;
    let mut taken = 0;
    for turn in 1.. {
        if taken > TABLE_MOST {
            return Err(io::Error::other("its listeners fill more than any table should"));
        }
        if Time::now() > until {
            return Err(io::Error::other("reading it takes too long"));
        }
        let got = match file.read(&mut buffer[..want]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            got => got?,
        };
        taken += got;
        parser.feed(&buffer[..got], reading);
        // A read that fills neither the reader's buffer nor the kernel's page met the end of the table.
        let ended = got == 0 || (got < want && got + LONGEST_ROW < page);
        if ended {
            parser.finish(reading);
        } else if let Some(listener) = parser.begun() {
            reading.listeners.push(listener);
            if reading.is_complete() {
                break;
            }
            // It comes again with the rest of its row.
            reading.listeners.pop();
        }
        if ended || reading.is_complete() || parser.listeners_ended() {
            break;
        }
        want = if turn < SINGLE_ROWS { lines.row } else { page };
    }
    if parser.header_seen() {
        Ok(())
    } else {
        Err(io::Error::other("not a socket table: its header is missing"))
    }
}

fn read_redirection(process: &OwnedFd) -> Redirection {
    match read_file(process, "net/fib_trie", ADDRESS_FILE) {
        Ok(fib_trie) => NetAddresses::parse(&fib_trie, "").redirection(),
        Err(_) => Redirection::Unknown,
    }
}

fn unreadable(file: &str, error: &io::Error) -> Unreadable {
    Unreadable {
        reason: failure(error),
        detail: format!("{file}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::node::process::NetnsKey;

    const HEADER: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn row(local: &str, state: &str) -> String {
        format!("   0: {local} 0:0 {state} 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n")
    }

    /// A process that is a folder of plain files.
    fn process(root: &Path, state: &str) -> ReadJob {
        let folder = root.join("42");
        fs::create_dir_all(folder.join("net")).unwrap();
        fs::create_dir_all(folder.join("ns")).unwrap();
        let stat = format!("42 (app) {state} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20");
        fs::write(folder.join("stat"), stat).unwrap();
        fs::write(folder.join("net/tcp"), HEADER).unwrap();
        fs::write(folder.join("net/tcp6"), HEADER).unwrap();
        fs::write(folder.join("ns/net"), "").unwrap();
        let (netns, netns_inode) = netns_of(open_process(root, 42).unwrap()).unwrap();
        let mapping = Mapping {
            pid: 42,
            start: 777,
            netns,
            netns_inode,
        };
        ReadJob {
            root: root.to_owned(),
            mapping,
        }
    }

    fn reason(job: &ReadJob) -> Reason {
        job.run().unwrap_err().reason
    }

    #[test]
    fn a_process_that_is_not_the_mapped_one_proves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let job = process(root.path(), "S");
        assert!(job.run().is_ok());
        let other = |change: fn(&mut Mapping)| {
            let mut job = job.clone();
            change(&mut job.mapping);
            reason(&job)
        };
        assert_eq!(other(|m| m.start = 778), Reason::Gone);
        assert_eq!(other(|m| m.netns = NetnsKey(1)), Reason::Gone);
        assert_eq!(other(|m| m.netns_inode = Some(1)), Reason::Gone);
        assert_eq!(other(|m| m.pid = 43), Reason::Gone);
        process(root.path(), "Z");
        assert_eq!(reason(&job), Reason::Gone);
    }

    #[test]
    fn a_missing_tcp6_is_no_ipv6_and_a_missing_tcp_is_no_answer() {
        let root = tempfile::tempdir().unwrap();
        let job = process(root.path(), "S");
        let net = root.path().join("42/net");
        fs::remove_file(net.join("tcp6")).unwrap();
        let listening = ["3A99", "3A9E", "3AA0"]
            .map(|port| row(&format!("00000000:{port}"), "0A"))
            .concat();
        fs::write(net.join("tcp"), format!("{HEADER}{listening}")).unwrap();
        assert!(job.run().unwrap().reading.is_complete());
        fs::remove_file(net.join("tcp")).unwrap();
        assert_eq!(reason(&job), Reason::Gone);
    }

    #[test]
    fn an_empty_or_foreign_file_is_no_answer() {
        let root = tempfile::tempdir().unwrap();
        let job = process(root.path(), "S");
        for text in ["", "no such table\n"] {
            fs::write(root.path().join("42/net/tcp6"), text).unwrap();
            assert_eq!(reason(&job), Reason::ReadFailed, "{text:?}");
        }
        fs::write(root.path().join("42/net/tcp6"), format!("{HEADER}garbage\n")).unwrap();
        assert_eq!(reason(&job), Reason::Malformed);
    }

    #[test]
    fn a_table_without_end_is_no_answer() {
        let root = tempfile::tempdir().unwrap();
        let job = process(root.path(), "S");
        let listeners = row("00000000:0001", "0A").repeat(1_000);
        let mut table = HEADER.to_owned();
        while table.len() <= TABLE_MOST {
            table += &listeners;
        }
        let listening = ["3A99", "3A9E", "3AA0"].map(|port| row(&format!("00000000:{port}"), "0A"));
        fs::write(root.path().join("42/net/tcp"), table + &listening.concat()).unwrap();
        let unreadable = job.run().unwrap_err();
        assert_eq!(unreadable.reason, Reason::ReadFailed);
        assert!(unreadable.detail.contains("more than any table"), "{unreadable}");
    }

    #[test]
    fn a_table_that_takes_too_long_is_no_answer() {
        let root = tempfile::tempdir().unwrap();
        process(root.path(), "S");
        let read = |until| {
            let file = fs::File::open(root.path().join("42/net/tcp")).unwrap();
            read_table(file, Family::Inet, until, &mut Reading::default())
        };
        assert!(read(Time::now() + TABLES_TAKE).is_ok());
        assert!(
            read(Time::default())
                .unwrap_err()
                .to_string()
                .contains("too long")
        );
    }

    #[test]
    fn a_table_of_many_pages_is_read_to_its_last_listener_and_no_further() {
        let root = tempfile::tempdir().unwrap();
        let job = process(root.path(), "S");
        let mut table = HEADER.to_owned();
        for port in 1..200 {
            table += &row(&format!("00000000:{port:04X}"), "0A");
        }
        table += &row("00000000:3A99", "0A");
        table += &row("00000000:0001", "01").repeat(100);
        // Were it read on behind the first page of connections, this would count as malformed.
        table += &"x\n".repeat(10_000);
        fs::write(root.path().join("42/net/tcp"), table).unwrap();
        let reading = job.run().unwrap().reading;
        assert_eq!(
            (reading.ports().to_string().as_str(), reading.malformed_rows),
            ("15001", 0)
        );
    }
}
