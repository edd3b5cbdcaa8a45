// SPDX-License-Identifier: Apache-2.0
//! istio-cni's side of ZDS: the ztunnels that are connected, and what they are told.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::{Shutdown, SocketFlags, sockopt};

use crate::cluster::Shared;
use crate::error::{Context as _, Result};
use crate::process::lock;
use crate::zds::{self, Add, Hello, Keep, Payload, Request, Response, SnapshotSent, WorkloadInfo};

/// How long a ztunnel may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a socket was closed under it, the acceptor looks for the next one.
const AGAIN: Duration = Duration::from_millis(5);

/// A pod of the cache: its UID, what is known of it, and its network namespace if that is known.
pub(super) type Entry = (String, Option<WorkloadInfo>, Option<File>);

/// The ztunnels of a node.
pub(super) struct Ztunnels {
    path: PathBuf,
    listener: Mutex<Arc<OwnedFd>>,
    /// The newest comes last.
    connections: Mutex<Vec<OwnedFd>>,
    snapshots: AtomicUsize,
}

impl Ztunnels {
    pub(super) fn listen(path: PathBuf) -> Result<Self> {
        let listener = zds::listen(&path).context(|| format!("listening on {}", path.display()))?;
        Ok(Self {
            path,
            listener: Mutex::new(Arc::new(listener)),
            connections: Mutex::default(),
            snapshots: AtomicUsize::new(0),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn snapshots(&self) -> usize {
        self.snapshots.load(Ordering::Acquire)
    }

    /// Listens anew, and hangs up on everybody.
    pub(super) fn restart(&self) -> Result<()> {
        self.close();
        let listener = zds::listen(&self.path).context(|| format!("listening on {}", self.path.display()))?;
        *lock(&self.listener) = Arc::new(listener);
        Ok(())
    }

    /// Hangs up, and wakes whoever accepts.
    pub(super) fn close(&self) {
        // Fails only where it was closed before.
        let _ = rustix::net::shutdown(&*lock(&self.listener).clone(), Shutdown::Both);
        lock(&self.connections).clear();
    }

    /// Accepts ztunnels, and gives each a snapshot of the cache as it is then.
    pub(super) fn serve(&self, shared: &Shared, cache: impl Fn() -> Vec<Entry>) {
        while !shared.is_stopping() {
            let listener = lock(&self.listener).clone();
            let Ok(connection) = rustix::net::accept_with(&*listener, SocketFlags::CLOEXEC) else {
                thread::sleep(AGAIN);
                continue;
            };
            // Nobody is told anything before the snapshot is complete.
            let mut connections = lock(&self.connections);
            if greet(&connection, cache()).is_ok() {
                connections.push(connection);
                self.snapshots.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Adds a pod to the newest ztunnel.
    pub(super) fn add(&self, payload: Payload, netns: BorrowedFd<'_>) -> io::Result<()> {
        let mut connections = lock(&self.connections);
        while let Some(connection) = connections.last() {
            match ask(connection, payload.clone(), Some(netns)) {
                Ok(refusal) if refusal.is_empty() => return Ok(()),
                Ok(refusal) => return Err(io::Error::other(refusal)),
                Err(_) => drop(connections.pop()),
            }
        }
        Err(io::Error::other("no ztunnel connection"))
    }

    /// Tells every ztunnel.
    pub(super) fn tell_all(&self, payload: &Payload) {
        lock(&self.connections).retain(|connection| ask(connection, payload.clone(), None).is_ok());
    }
}

fn greet(connection: &OwnedFd, cache: Vec<Entry>) -> io::Result<()> {
    sockopt::set_socket_timeout(connection, sockopt::Timeout::Recv, Some(PATIENCE))?;
    let hello = zds::receive::<Hello>(connection)?;
    hello.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    for (uid, workload_info, netns) in cache {
        // What cannot be served is ztunnel's to try again.
        match netns {
            Some(netns) => {
                let add = Payload::Add(Add { uid, workload_info });
                ask(connection, add, Some(netns.as_fd()))?;
            }
            None => {
                ask(connection, Payload::Keep(Keep { uid }), None)?;
            }
        }
    }
    ask(connection, Payload::SnapshotSent(SnapshotSent {}), None)?;
    Ok(())
}

/// Asks, and waits for the answer: what is wrong, or nothing.
fn ask(connection: &OwnedFd, payload: Payload, netns: Option<BorrowedFd<'_>>) -> io::Result<String> {
    let payload = Some(payload);
    zds::send(connection, &Request { payload }, netns)?;
    let answer = zds::receive::<Response>(connection)?;
    let (answer, _) = answer.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    Ok(answer.error().to_owned())
}
