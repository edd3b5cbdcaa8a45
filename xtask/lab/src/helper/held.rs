// SPDX-License-Identifier: Apache-2.0
//! The sockets that a helper holds, each on behalf of a pod or of itself.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::event::epoll;

#[derive(Default)]
pub(super) struct Held {
    sockets: BTreeMap<u64, Socket>,
    last: u64,
    /// A descriptor of each pod's network namespace, as the real ztunnel keeps one.
    netns: HashMap<String, File>,
}

struct Socket {
    owner: String,
    address: SocketAddr,
    socket: OwnedFd,
}

impl Held {
    /// The epoll datum of standard input, which no socket is given.
    pub(super) const INPUT: u64 = 0;
    /// That of the connection to istio-cni.
    pub(super) const ISTIO_CNI: u64 = u64::MAX;

    /// Holds a socket until it is released.
    pub(super) fn hold(
        &mut self,
        epoll: &OwnedFd,
        owner: &str,
        address: SocketAddr,
        socket: OwnedFd,
    ) -> io::Result<()> {
        self.last += 1;
        epoll::add(
            epoll,
            &socket,
            epoll::EventData::new_u64(self.last),
            epoll::EventFlags::IN,
        )?;
        self.sockets.insert(
            self.last,
            Socket {
                owner: owner.to_owned(),
                address,
                socket,
            },
        );
        Ok(())
    }

    /// Closes those that `which` names, in the order in which they were opened, and counts them.
    pub(super) fn release(&mut self, which: impl Fn(&str, SocketAddr) -> bool) -> usize {
        let before = self.sockets.len();
        self.sockets.retain(|_, held| !which(&held.owner, held.address));
        before - self.sockets.len()
    }

    /// Takes whatever arrived and lets it go, so that no backlog builds up unless the process hangs.
    pub(super) fn accept(&self, id: u64) {
        let Some(held) = self.sockets.get(&id) else { return };
        if rustix::net::accept(&held.socket).is_err() {
            // A datagram socket, then: nobody wants what it received.
            let _ = rustix::io::read(&held.socket, &mut [0; 512][..]);
        }
    }

    pub(super) fn stay(&mut self, uid: &str, netns: File) {
        self.netns.insert(uid.to_owned(), netns);
    }

    /// The pods that are served, as far as this process believes, and the namespaces in which.
    pub(super) fn served(&self) -> impl Iterator<Item = (&String, &File)> {
        self.netns.iter()
    }

    pub(super) fn leave(&mut self, uids: &[String]) {
        for uid in uids {
            self.netns.remove(uid);
        }
    }
}
