// SPDX-License-Identifier: Apache-2.0
//! The stand-in ztunnel's side of ZDS: what it believes to serve, and what istio-cni has it do.
//!
//! As the real one: a pod is known by its UID and by the identity of its network namespace, and one that is known is
//! not looked at again. What could not be served waits and is tried again. A lost connection changes nothing; after
//! the snapshot of the next, whatever it did not name is let go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use crate::protocol::Socket;
use crate::zds::{self, Add, Hello, Payload, Request, Response};

/// A connection that cannot be had is tried again after this.
const RECONNECT: Duration = Duration::from_millis(20);
/// A pod that could not be served is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// What must be done for a message.
pub(super) enum Act {
    /// Bind in a namespace.
    Serve { uid: String, netns: File },
    /// Close what is held in these pods.
    LetGo(Vec<String>),
    /// Nothing.
    Nothing,
}

/// One side of the conversation.
pub(super) struct Zds {
    path: PathBuf,
    /// What is bound in each pod.
    sockets: Vec<Socket>,
    connection: Option<OwnedFd>,
    /// The pods that were named, until the snapshot is complete.
    snapshot: Option<BTreeSet<String>>,
    /// What could not be served.
    pending: BTreeMap<String, File>,
    due: Instant,
}

/// A namespace's identity.
pub(super) fn identity(netns: &File) -> io::Result<(u64, u64)> {
    let metadata = netns.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Zds {
    pub(super) fn new(path: PathBuf, sockets: Vec<Socket>) -> Self {
        Self {
            path,
            sockets,
            connection: None,
            snapshot: None,
            pending: BTreeMap::new(),
            due: Instant::now(),
        }
    }

    /// What is bound in each pod.
    pub(super) fn sockets(&self) -> Vec<Socket> {
        self.sockets.clone()
    }

    /// When there is something to do next, if istio-cni says nothing.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.connection.is_none() || !self.pending.is_empty()).then_some(self.due)
    }

    /// Connects if that is due.
    pub(super) fn connect(&mut self, epoll: &OwnedFd, datum: u64) -> io::Result<()> {
        if self.connection.is_some() || self.due > Instant::now() {
            return Ok(());
        }
        self.due = Instant::now() + RECONNECT;
        let Ok(connection) = zds::connect(&self.path) else {
            return Ok(());
        };
        if zds::send(&connection, &Hello::new(), None).is_err() {
            return Ok(());
        }
        let datum = epoll::EventData::new_u64(datum);
        epoll::add(epoll, &connection, datum, epoll::EventFlags::IN)?;
        self.connection = Some(connection);
        self.snapshot = Some(BTreeSet::new());
        self.pending.clear();
        Ok(())
    }

    /// What could not be served before, and is due for another try.
    pub(super) fn retries(&mut self) -> Vec<(String, File)> {
        if self.connection.is_none() || self.due > Instant::now() {
            return Vec::new();
        }
        std::mem::take(&mut self.pending).into_iter().collect()
    }

    /// Takes istio-cni's next message.
    pub(super) fn receive<'a>(
        &mut self,
        served: impl Iterator<Item = (&'a String, &'a File)>,
    ) -> io::Result<Act> {
        let Some(connection) = &self.connection else {
            return Ok(Act::Nothing);
        };
        let Ok(Some((Request { payload }, netns))) = zds::receive(connection) else {
            // Its listeners stay as they are until istio-cni is back.
            self.connection = None;
            self.due = Instant::now() + RECONNECT;
            return Ok(Act::Nothing);
        };
        match payload {
            Some(Payload::Add(Add { uid, .. })) => {
                if let Some(named) = &mut self.snapshot {
                    named.insert(uid.clone());
                }
                let Some(netns) = netns else {
                    self.acknowledge(Some("an Add without a network namespace".to_owned()));
                    return Ok(Act::Nothing);
                };
                let wanted = identity(&netns)?;
                let mut served = served;
                let known = served.any(|(other, held)| *other == uid && identity(held).ok() == Some(wanted));
                if known {
                    self.acknowledge(None);
                    return Ok(Act::Nothing);
                }
                Ok(Act::Serve { uid, netns })
            }
            Some(Payload::Keep(keep)) => match &mut self.snapshot {
                Some(named) => {
                    named.insert(keep.uid);
                    self.acknowledge(None);
                    Ok(Act::Nothing)
                }
                None => Err(io::Error::other("a Keep after the end of the snapshot")),
            },
            Some(Payload::Del(del)) => {
                self.pending.remove(&del.uid);
                Ok(Act::LetGo(vec![del.uid]))
            }
            Some(Payload::SnapshotSent(_)) => {
                let named = self.snapshot.take().unwrap_or_default();
                let unnamed = served.map(|(uid, _)| uid).filter(|uid| !named.contains(*uid));
                Ok(Act::LetGo(unnamed.cloned().collect()))
            }
            None => Err(io::Error::other("a request that asks nothing")),
        }
    }

    /// A pod that could not be served: it is tried again.
    pub(super) fn postpone(&mut self, uid: String, netns: File) {
        self.pending.insert(uid, netns);
        self.due = Instant::now() + AGAIN;
    }

    /// Answers the request at hand.
    pub(super) fn acknowledge(&mut self, error: Option<String>) {
        let answer = Response::ack(error.unwrap_or_default());
        // A connection that is gone shows itself at the next message.
        if let Some(connection) = &self.connection {
            let _ = zds::send(connection, &answer, None);
        }
    }
}
