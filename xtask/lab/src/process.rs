// SPDX-License-Identifier: Apache-2.0
//! The lab's processes, seen from the library.

mod shared;

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Context as _, Error, Result};
use crate::protocol::{Command, Listen, Reply, Setup, VERSION};

pub(crate) use shared::{Janitor, Shared};

/// How long a helper may take to answer; a machine under load starts hundreds of them at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// Names the helper binary.
const BINARY: &str = "MESHMEDIC_LAB_BIN";

/// Locks, whatever a panicking test left behind: the lab must be cleared up all the same.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Finds the helper binary: named by the environment, or beside the current executable.
pub(crate) fn binary() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(BINARY) {
        return Ok(named.into());
    }
    let own = std::env::current_exe().context(|| "finding the current executable".to_owned())?;
    // A test lies in target/debug/deps, an example in target/debug/examples, the binary one folder up.
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("meshmedic-lab"))
        .find(|path| path.is_file())
        .ok_or(Error::NoBinary { beside: own })
}

/// A command for a program of somebody else's that does not outlive us: it is killed when we end, however, and when
/// the standard input of the child that is started is closed.
///
/// It is in a process group of its own, so that Ctrl-C does not reach it. Standard output and error are the program's.
pub fn leash(program: &Path) -> Result<Program> {
    let mut command = Program::new(binary()?);
    command.arg("leash").arg(program);
    command.stdin(Stdio::piped()).process_group(0);
    Ok(command)
}

/// One helper process.
pub(crate) struct Worker {
    pid: u32,
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
    /// Children of it that the composed `/proc` shows, too.
    children: Mutex<Vec<u32>>,
}

struct Running {
    child: Child,
    stream: BufReader<UnixStream>,
}

impl Worker {
    /// Starts a process without waiting for it; `cgroup` is what `/proc/<pid>/cgroup` shall show.
    pub(crate) fn spawn(shared: &Arc<Shared>, kind: &str, setup: &Setup, cgroup: &str) -> Result<Arc<Self>> {
        let (ours, theirs) = UnixStream::pair().context(|| "making a socket pair".to_owned())?;
        let input = OwnedFd::from(theirs);
        let output = input.try_clone().context(|| "copying a socket".to_owned())?;
        let child = Program::new(shared.binary())
            .arg(kind)
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .context(|| format!("starting {}", shared.binary().display()))?;
        let pid = child.id();
        let worker = Arc::new(Self {
            pid,
            shared: Arc::clone(shared),
            running: Mutex::new(Some(Running {
                child,
                stream: BufReader::new(ours),
            })),
            children: Mutex::new(Vec::new()),
        });
        // From here on the lab ends it.
        shared.adopt(&worker);
        shared.proc_root().add(pid, cgroup)?;
        worker.with(|running| {
            running.stream.get_ref().set_read_timeout(Some(PATIENCE))?;
            send(running, setup)
        })?;
        Ok(worker)
    }

    /// Waits until a process that was started is where it shall be.
    pub(crate) fn ready(&self) -> Result<()> {
        match self.with(receive)? {
            Reply::Ready { version } if version == VERSION => Ok(()),
            Reply::Ready { .. } => Err(Error::StaleBinary {
                binary: self.shared.binary().to_owned(),
            }),
            other => self.expect_done(other),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Running) -> std::io::Result<T>) -> Result<T> {
        match lock(&self.running).as_mut() {
            Some(running) => act(running).map_err(|source| match source.kind() {
                // The answer is JSON that this library does not know.
                ErrorKind::InvalidData => Error::StaleBinary {
                    binary: self.shared.binary().to_owned(),
                },
                _ => Error::Silent {
                    pid: self.pid,
                    source,
                },
            }),
            None => Err(Error::NotRunning {
                what: format!("process {}", self.pid),
            }),
        }
    }

    /// Has a command carried out.
    pub(crate) fn call(&self, command: &Command) -> Result<Reply> {
        self.with(|running| {
            send(running, command)?;
            receive(running)
        })
    }

    /// Has a command carried out that answers with nothing.
    pub(crate) fn act(&self, command: &Command) -> Result<()> {
        let reply = self.call(command)?;
        self.expect_done(reply)
    }

    pub(crate) fn listen(&self, address: SocketAddr, reuse_port: bool) -> Result<SocketAddr> {
        match self.call(&Command::Listen(Listen { address, reuse_port }))? {
            Reply::Bound(address) => Ok(address),
            other => self.expect_done(other).map(|()| address),
        }
    }

    /// Has it make children, and shows them.
    pub(crate) fn fork(&self, command: &Command, cgroup: &str) -> Result<Vec<u32>> {
        match self.call(command)? {
            Reply::Pids(pids) => {
                lock(&self.children).extend(&pids);
                pids.iter()
                    .try_for_each(|pid| self.shared.proc_root().add(*pid, cgroup))?;
                Ok(pids)
            }
            other => self.expect_done(other).map(|()| Vec::new()),
        }
    }

    fn expect_done(&self, reply: Reply) -> Result<()> {
        match reply {
            Reply::Done => Ok(()),
            Reply::PortTaken(address) => Err(Error::PortTaken { address }),
            Reply::Failed(message) => Err(Error::Helper {
                pid: self.pid,
                message,
            }),
            other => Err(Error::Helper {
                pid: self.pid,
                message: format!("unexpected answer {other:?}"),
            }),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it was neither killed nor has it ended.
    pub(crate) fn is_running(&self) -> bool {
        lock(&self.running)
            .as_mut()
            .is_some_and(|running| matches!(running.child.try_wait(), Ok(None)))
    }

    /// Ends it with SIGKILL and reaps it: when this returns, its sockets are closed.
    pub(crate) fn kill(&self) {
        self.signal_kill();
        self.reap();
    }

    /// The first half of [`Self::kill`], so that many can be ended at once.
    pub(crate) fn signal_kill(&self) {
        if let Some(running) = lock(&self.running).as_mut() {
            // Fails only where it has ended already.
            let _ = running.child.kill();
        }
    }

    /// Waits for its end.
    pub(crate) fn reap(&self) {
        if let Some(mut running) = lock(&self.running).take() {
            let _ = running.child.wait();
            self.shared.proc_root().remove(self.pid);
            for child in lock(&self.children).drain(..) {
                self.shared.proc_root().remove(child);
            }
        }
    }
}

fn send(running: &mut Running, message: &impl serde::Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    running.stream.get_mut().write_all(&line)
}

fn receive(running: &mut Running) -> std::io::Result<Reply> {
    let mut line = String::new();
    if running.stream.read_line(&mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_str(&line).map_err(|error| std::io::Error::new(ErrorKind::InvalidData, error))
}

/// The inode of a process's network namespace.
pub(crate) fn netns_inode(pid: u32) -> Result<u64> {
    let path = netns_path(pid);
    Ok(fs::metadata(&path)
        .context(|| format!("reading {}", path.display()))?
        .ino())
}

pub(crate) fn netns_path(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("ns/net")
}

/// A further process, of a pod or of the node. A cheap handle: dropping it ends nothing.
#[derive(Clone)]
pub struct Process {
    pub(crate) worker: Arc<Worker>,
}

impl Process {
    /// Its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.worker.pid()
    }

    /// The inode of its network namespace.
    pub fn netns(&self) -> Result<u64> {
        netns_inode(self.pid())
    }

    /// Listens on an address, and returns it with the port that was chosen if it was 0.
    pub fn listen(&self, address: SocketAddr) -> Result<SocketAddr> {
        self.worker.listen(address, false)
    }

    /// Listens with `SO_REUSEPORT`, beside others of the same user that do so.
    pub fn listen_reuse_port(&self, address: SocketAddr) -> Result<SocketAddr> {
        self.worker.listen(address, true)
    }

    /// Closes every listener that it opened on an address.
    pub fn close(&self, address: SocketAddr) -> Result<()> {
        self.worker.act(&Command::Close(address))
    }

    /// Opens a connection and holds it.
    pub fn connect(&self, address: SocketAddr) -> Result<()> {
        self.worker.act(&Command::Connect(address))
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.worker.is_running()
    }

    /// Ends it with SIGKILL.
    pub fn kill(&self) {
        self.worker.kill();
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("pid", &self.pid()).finish()
    }
}
