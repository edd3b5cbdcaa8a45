// SPDX-License-Identifier: Apache-2.0
//! What the handles of a lab share: where it is on disk, its processes, and who clears up after it.

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::{Worker, lock};
use crate::error::{Context as _, Result};
use crate::proc_root::ProcRoot;
use crate::protocol::{Netns, Setup};

/// Pod addresses are counted from here.
const POD_NETWORK: u32 = Ipv4Addr::new(10, 244, 0, 1).to_bits();

/// What the lab's handles share.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) binary: PathBuf,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) folder: PathBuf,
    pub(crate) log_root: PathBuf,
    pub(crate) proc_root: ProcRoot,
    pub(crate) pods: AtomicU32,
    pub(crate) workers: Mutex<Vec<Arc<Worker>>>,
    pub(crate) janitor: Mutex<Option<Janitor>>,
}

/// Clears up after the lab, also where that is killed.
pub(crate) struct Janitor {
    child: Child,
    stream: UnixStream,
}

impl Shared {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    pub(crate) fn log_root(&self) -> &Path {
        &self.log_root
    }

    pub(crate) fn proc_root(&self) -> &ProcRoot {
        &self.proc_root
    }

    pub(crate) fn adopt(&self, worker: &Arc<Worker>) {
        lock(&self.workers).push(Arc::clone(worker));
    }

    /// The next address of the pod network.
    pub(crate) fn address(&self) -> IpAddr {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        Ipv4Addr::from_bits(POD_NETWORK + number).into()
    }

    /// Makes a cgroup, where that can be done, and returns its `cgroup.procs`.
    pub(crate) fn enterable(&self, cgroup: &str) -> Result<Option<PathBuf>> {
        let Some(root) = &self.cgroup else { return Ok(None) };
        let folder = root.join(cgroup.trim_start_matches('/'));
        fs::create_dir_all(&folder).context(|| format!("making the cgroup {}", folder.display()))?;
        Ok(Some(folder.join("cgroup.procs")))
    }

    /// Starts a process without listeners and waits for it.
    pub(crate) fn start(
        self: &Arc<Self>,
        kind: &str,
        comm: &str,
        cgroup: &str,
        netns: Netns,
    ) -> Result<Arc<Worker>> {
        let setup = Setup {
            comm: comm.to_owned(),
            cgroup: self.enterable(cgroup)?,
            netns,
            listeners: Vec::new(),
        };
        let worker = Worker::spawn(self, kind, &setup, cgroup)?;
        worker.ready()?;
        Ok(worker)
    }

    /// Tells the janitor of a process that is about to be stopped.
    pub(crate) fn mark_stopped(&self, pid: u32) -> io::Result<()> {
        match lock(&self.janitor).as_mut() {
            Some(janitor) => writeln!(janitor.stream, "{pid}"),
            None => Ok(()),
        }
    }

    /// Ends every process, and has the janitor do the rest.
    pub(crate) fn end(&self) {
        let workers = std::mem::take(&mut *lock(&self.workers));
        workers.iter().for_each(|worker| worker.signal_kill());
        workers.iter().for_each(|worker| worker.reap());
        // The janitor does the rest at the end of its input; and it does so without us, too.
        if let Some(janitor) = lock(&self.janitor).take() {
            let Janitor { mut child, stream } = janitor;
            drop(stream);
            let _ = child.wait();
        }
    }
}

impl Janitor {
    pub(crate) fn start(binary: &Path, folder: &TempDir, cgroup: Option<&Path>) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context(|| "making a socket pair".to_owned())?;
        let child = Program::new(binary)
            .arg("janitor")
            .arg(folder.path())
            .args(cgroup)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context(|| format!("starting {}", binary.display()))?;
        Ok(Self { child, stream: ours })
    }
}
