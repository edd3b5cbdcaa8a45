// SPDX-License-Identifier: Apache-2.0
//! What the library and its helper processes say to one another: one JSON value a line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Raised whenever the types below change, so that an outdated binary is recognised.
pub(crate) const VERSION: u32 = 3;

/// The first line that a helper reads.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// What `/proc/<pid>/comm` shall show.
    pub(crate) comm: String,
    /// The `cgroup.procs` to enter.
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) netns: Netns,
    pub(crate) listeners: Vec<Listen>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Netns {
    /// Stay in the lab's own: the host's, as far as the lab's pods are concerned.
    Inherit,
    /// Make one.
    New {
        addresses: Vec<IpAddr>,
        ipv6: bool,
        redirected: bool,
    },
    /// Enter an existing one.
    Enter { path: PathBuf },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Listen {
    pub(crate) address: SocketAddr,
    pub(crate) reuse_port: bool,
}

/// Sockets that are opened and closed one after the other.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Churn {
    /// What is listened on each time; without it, connections over loopback are opened and closed.
    pub listen: Option<SocketAddr>,
    /// How often.
    pub times: u32,
    /// How often in a second; without it, as fast as can be.
    pub per_second: Option<u32>,
}

/// What the stand-in ztunnel holds in one pod.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Enrolment {
    pub(crate) uid: String,
    pub(crate) netns: PathBuf,
    pub(crate) sockets: Vec<Socket>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Socket {
    pub(crate) address: SocketAddr,
    pub(crate) udp: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Listen(Listen),
    Close(SocketAddr),
    /// Open a connection and hold it.
    Connect(SocketAddr),
    /// Establish that many sockets over loopback, and hold them.
    Connections(usize),
    /// Open and close sockets one after the other.
    Churn(Churn),
    /// Leave an exited child unreaped.
    Zombie,
    Redirect {
        on: bool,
        ipv6: bool,
    },
    /// Fork that many idle children.
    Bystanders(usize),
    Enrol(Vec<Enrolment>),
    Unenrol(Vec<String>),
    /// Close every socket in a pod, and go on believing that it is served.
    CloseAll(String),
    /// Let istio-cni, which listens there, say which pods are served, and with what.
    Zds {
        path: PathBuf,
        sockets: Vec<Socket>,
    },
    /// Close the sockets of one port in one pod.
    ClosePort {
        uid: String,
        port: u16,
    },
    /// Close every listener, then end after a while.
    Terminate {
        linger_ms: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Ready { version: u32 },
    Done,
    Bound(SocketAddr),
    Pids(Vec<u32>),
    PortTaken(SocketAddr),
    Failed(String),
}
