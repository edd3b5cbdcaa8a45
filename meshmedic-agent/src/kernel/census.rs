// SPDX-License-Identifier: Apache-2.0
//! The listeners that processes hold on capture ports, in whatever network namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::PathBuf,
};

use aya::{
    maps::{HashMap, Map, MapData, MapError},
    programs::ProgramFd,
};
use meshmedic_common::abi::{CensusRow, FamilyHooks};
use meshmedic_common::rules::Unfollowed;

use super::{
    KernelError, Options,
    bpf::{self, Limit},
    layout::Layout,
};

/// Inode of the initial PID namespace: `PROC_PID_INIT_INO`, part of the kernel's ABI.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// Stands for every process in `CENSUS_TGIDS`: no process has this number.
const EVERYBODY: u32 = 0;
/// Bytes read at once, a multiple of a row, so that no row is cut: the kernel's own buffer is as big.
const READ_BYTES: usize = 1_024 * size_of::<CensusRow>();
/// More listeners than a node of 1,000 pods has two hundred times over: a process that holds so many is an attack.
pub(super) const ROWS_MAX: usize = 1 << 20;

/// Lists listeners by process; see [`Census::of`].
pub struct Census {
    program: ProgramFd,
    /// What reads the packet filter where no listener is; `None` where the kernel does not take it.
    filters: Option<ProgramFd>,
    tgids: HashMap<MapData, u32, u8>,
    /// What stands in `tgids`.
    listed: BTreeSet<u32>,
    /// Whether the kernel limits an iterator to one process, as far as is known.
    filter: bool,
    /// Whether the kernel counts processes as we do.
    initial_pid_namespace: bool,
    /// Links by process, in the filtered way.
    links: BTreeMap<u32, OwnedFd>,
    /// The link over all processes.
    everybody: Option<OwnedFd>,
    buffer: Box<[u8]>,
    /// More rows than this are not taken.
    rows_max: usize,
    layout: Layout,
    /// The kernel's own BTF.
    btf: PathBuf,
}

impl fmt::Debug for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Census")
            .field("filter", &self.filter)
            .field("links", &self.links.len())
            .finish_non_exhaustive()
    }
}

impl Census {
    pub(super) fn new(
        program: ProgramFd,
        filters: Option<ProgramFd>,
        tgids: Map,
        layout: Layout,
        options: &Options,
        filter: bool,
    ) -> Result<Self, KernelError> {
        let tgids = HashMap::try_from(tgids)
            .map_err(|error| KernelError::from_load("use the census's list of processes", &error))?;
        let initial_pid_namespace =
            fs::metadata("/proc/self/ns/pid").is_ok_and(|status| status.ino() == INITIAL_PID_NAMESPACE);
        Ok(Self {
            program,
            filters,
            tgids,
            listed: BTreeSet::new(),
            filter,
            initial_pid_namespace,
            links: BTreeMap::new(),
            everybody: None,
            buffer: vec![0; READ_BYTES].into(),
            rows_max: options.census_rows,
            layout,
            btf: options.btf.clone(),
        })
    }

    /// Whether the kernel limits the census to the processes asked for; otherwise it walks all of the node's.
    #[must_use]
    pub fn is_filtered(&self) -> bool {
        self.filter
    }

    /// Why rows may lack what their namespace's packet filter holds.
    #[must_use]
    pub const fn rules_lacking(&self) -> Unfollowed {
        self.layout.reason()
    }

    /// Why nothing is known of the rules of a pod in which no listener is.
    #[must_use]
    pub const fn unmet(&self) -> Unfollowed {
        match self.filters {
            Some(_) => Unfollowed::NotMet,
            None => Unfollowed::Refused,
        }
    }

    /// Makes a link anew and counts by it, as after all that ztunnel was has ended.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn begin_anew(&mut self) -> io::Result<()> {
        self.links.clear();
        self.everybody = None;
        self.list(BTreeSet::new())?;
        let mut rows = Vec::new();
        if self.filter {
            self.of(&[std::process::id()], &mut rows)?;
        } else {
            self.of_all(&mut rows)?;
        }
        self.links.clear();
        Ok(())
    }

    /// Appends the listeners of these processes, by their numbers in our own PID namespace.
    ///
    /// A process that ended has none. A number that was given to another process tells of that one:
    /// whoever asks proves afterwards that it is still the same. A socket that several file descriptors
    /// share is told of once for each.
    ///
    /// # Errors
    /// Where the kernel refuses, and, as `Unsupported`, in a nested PID namespace on a kernel before 6.1.
    /// What was appended until then is to be forgotten.
    pub fn of(&mut self, tgids: &[u32], rows: &mut Vec<CensusRow>) -> io::Result<()> {
        self.layout.renew(&self.btf);
        let asked: BTreeSet<u32> = tgids.iter().copied().filter(|tgid| *tgid != EVERYBODY).collect();
        if self.filter {
            self.links.retain(|tgid, _| asked.contains(tgid));
            match self.filtered(&asked, rows) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::EINVAL)) => {
                    tracing::info!(%error, "this kernel cannot limit the census to a process: it walks all of them");
                    self.filter = false;
                    self.links.clear();
                }
                answer => return answer,
            }
        }
        if !self.initial_pid_namespace {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the census by process needs kernel 6.1 in a nested PID namespace, where processes have other numbers",
            ));
        }
        if asked.is_empty() {
            return Ok(());
        }
        self.list(asked)?;
        self.read_everybody(rows)
    }

    /// Appends every listener of the node with its owner; the owner is 0, unknown, in a nested PID namespace.
    ///
    /// # Errors
    /// Where the kernel refuses. What was appended until then is to be forgotten.
    pub fn of_all(&mut self, rows: &mut Vec<CensusRow>) -> io::Result<()> {
        self.list(BTreeSet::from([EVERYBODY]))?;
        let first = rows.len();
        self.read_everybody(rows)?;
        if !self.initial_pid_namespace {
            for row in rows.iter_mut().skip(first) {
                row.tgid = 0;
            }
        }
        Ok(())
    }

    /// The packet filter's hooks, IPv4's and IPv6's, of the network namespace in which a process is, with the
    /// namespace's inode. `None` where the process ended, and where the kernel does not show them.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn hooks_of(&mut self, pid: u32) -> io::Result<Option<(u32, [FamilyHooks; 2])>> {
        self.layout.renew(&self.btf);
        if pid == EVERYBODY || (!self.filter && !self.initial_pid_namespace) {
            return Ok(None);
        }
        // The link limits already, as that of the census does.
        let (listed, limit) = if self.filter {
            (EVERYBODY, Some(Limit::Thread(pid)))
        } else {
            (pid, None)
        };
        let Some(program) = self.filters.as_ref().map(|program| program.as_fd()) else {
            return Ok(None);
        };
        let link = match bpf::iterator_link(program, limit) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            link => link?,
        };
        self.list(BTreeSet::from([listed]))?;
        let mut rows = Vec::new();
        match read(&link, &mut self.buffer, self.rows_max, &mut rows) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            done => done?,
        }
        Ok(rows.first().map(|row| (row.netns, [row.ipv4, row.ipv6])))
    }

    /// One link a process. `EINVAL` and `E2BIG` come from making the first link only, before any row.
    fn filtered(&mut self, asked: &BTreeSet<u32>, rows: &mut Vec<CensusRow>) -> io::Result<()> {
        for &tgid in asked {
            if !self.links.contains_key(&tgid) {
                match bpf::iterator_link(self.program.as_fd(), Some(Limit::Process(tgid))) {
                    Ok(link) => drop(self.links.insert(tgid, link)),
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        // The link limits already; the program's own list would be in the kernel's numbers, which we may not know.
        self.list(BTreeSet::from([EVERYBODY]))?;
        let first_of_all = rows.len();
        for (&tgid, link) in &self.links {
            let first = rows.len();
            match read(link, &mut self.buffer, first_of_all + self.rows_max, rows) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => rows.truncate(first),
                Err(error) => return Err(error),
            }
            for row in rows.iter_mut().skip(first) {
                row.tgid = tgid;
            }
        }
        Ok(())
    }

    fn read_everybody(&mut self, rows: &mut Vec<CensusRow>) -> io::Result<()> {
        let link = match self.everybody.take() {
            Some(link) => link,
            None => bpf::iterator_link(self.program.as_fd(), None)?,
        };
        let link = self.everybody.insert(link);
        read(link, &mut self.buffer, rows.len() + self.rows_max, rows)
    }

    /// Makes the program's list of processes this one.
    fn list(&mut self, wanted: BTreeSet<u32>) -> io::Result<()> {
        for gone in self.listed.difference(&wanted) {
            match self.tgids.remove(gone) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        // What fails from here on leaves more listed than there is, which the next call removes again.
        let new: Vec<u32> = wanted.difference(&self.listed).copied().collect();
        self.listed = wanted;
        for tgid in new {
            if let Err(error) = self.tgids.insert(tgid, 1, 0) {
                // So that the next call writes all of them again.
                for listed in std::mem::take(&mut self.listed) {
                    let _ = self.tgids.remove(&listed);
                }
                return Err(io::Error::other(error));
            }
        }
        Ok(())
    }
}

/// One pass of the iterator, after which there are so many rows at most.
fn read(link: &OwnedFd, buffer: &mut [u8], most: usize, rows: &mut Vec<CensusRow>) -> io::Result<()> {
    let mut pass = File::from(bpf::iterate(link.as_fd())?);
    loop {
        let length = match pass.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            // The kernel pauses a long walk without a result this way.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        let (whole, cut) = buffer[..length].as_chunks::<{ size_of::<CensusRow>() }>();
        if !cut.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the census ended within a row",
            ));
        }
        rows.extend(whole.iter().filter_map(|row| CensusRow::from_bytes(row)));
        if rows.len() > most {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the census found more listeners than any mesh has",
            ));
        }
    }
}
