// SPDX-License-Identifier: Apache-2.0
//! Pods.

pub(crate) mod spec;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::cgroup;
use crate::error::{Context as _, Result};
use crate::process::{Process, Shared, Worker, lock, netns_inode, netns_path};
pub use crate::protocol::Churn;
use crate::protocol::{Command, Listen, Netns, Setup};
pub use spec::{Driver, PodSpec, Qos, Shape};

/// How many descriptors a process needs besides the connections that it holds.
const SPARE_FILES: u64 = 64;
/// How many sockets one process holds where the limit allows more.
const SOCKETS_A_PROCESS: usize = 20_000;

/// The network namespace of a further process.
#[derive(Clone, Debug, Default)]
pub enum ProcessNetns {
    /// The pod's own.
    #[default]
    Own,
    /// The node's.
    Host,
    /// A new one, without addresses but loopback's.
    Nested,
    /// Another pod's.
    Of(Pod),
}

/// A pod that runs. A cheap handle: dropping it ends nothing, the lab does.
#[derive(Clone)]
pub struct Pod(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    spec: PodSpec,
    uid: String,
    cgroup_uid: String,
    cgroup: String,
    log_folder: PathBuf,
    processes: Mutex<Processes>,
}

struct Processes {
    main: Arc<Worker>,
    further: Vec<Arc<Worker>>,
    redirected: bool,
}

impl Pod {
    pub(crate) fn spawn(shared: &Arc<Shared>, mut spec: PodSpec) -> Result<Self> {
        let seed = format!("{}/{}/{}", shared.name(), spec.namespace, spec.name);
        let uid = spec.uid.clone().unwrap_or_else(|| uid(&seed));
        let cgroup_uid = spec.config_hash.clone().unwrap_or_else(|| uid.clone());
        if spec.addresses.is_empty() && !spec.host_network {
            spec.addresses.push(shared.address());
        }
        let cgroup = cgroup::path(&spec, &cgroup_uid, &hex(&format!("container {seed}"), 64));
        let log_folder = shared
            .log_root()
            .join(format!("{}_{}_{cgroup_uid}", spec.namespace, spec.name))
            .join("app");
        fs::create_dir_all(&log_folder).context(|| format!("making {}", log_folder.display()))?;
        let main = start(shared, &spec, &cgroup, spec.redirected)?;
        let redirected = spec.redirected;
        let processes = Mutex::new(Processes {
            main,
            further: Vec::new(),
            redirected,
        });
        let shared = Arc::clone(shared);
        Ok(Self(Arc::new(Inner {
            shared,
            spec,
            uid,
            cgroup_uid,
            cgroup,
            log_folder,
            processes,
        })))
    }

    pub(crate) fn ready(&self) -> Result<()> {
        self.main().ready()
    }

    fn main(&self) -> Arc<Worker> {
        Arc::clone(&lock(&self.0.processes).main)
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.spec.namespace
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// Its UID, as the API would have it.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.0.uid
    }

    /// Its UID as cgroup and log folder have it: the config hash of a static pod.
    #[must_use]
    pub fn cgroup_uid(&self) -> &str {
        &self.0.cgroup_uid
    }

    /// Its container's cgroup; where cgroups are real, the lab's own comes before it.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.0.cgroup
    }

    /// Its container's log folder.
    #[must_use]
    pub fn log_folder(&self) -> &std::path::Path {
        &self.0.log_folder
    }

    /// Its addresses; none on the node's network.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.0.spec.addresses
    }

    /// What it was made from.
    #[must_use]
    pub fn spec(&self) -> &PodSpec {
        &self.0.spec
    }

    /// Its first process, now.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.main().pid()
    }

    /// The inode of its network namespace, now; an error once it was killed.
    pub fn netns(&self) -> Result<u64> {
        netns_inode(self.pid())
    }

    /// Its first process.
    #[must_use]
    pub fn process(&self) -> Process {
        Process { worker: self.main() }
    }

    /// Lets the application listen on an address, and returns it with the port that was chosen if it was 0.
    pub fn listen(&self, address: SocketAddr) -> Result<SocketAddr> {
        self.main().listen(address, false)
    }

    /// The same with `SO_REUSEPORT`, so that ztunnel can bind it as well.
    pub fn listen_reuse_port(&self, address: SocketAddr) -> Result<SocketAddr> {
        self.main().listen(address, true)
    }

    /// Lets the application close what it listens on at an address.
    pub fn close(&self, address: SocketAddr) -> Result<()> {
        self.main().act(&Command::Close(address))
    }

    /// Lets the application open a connection and hold it.
    pub fn connect(&self, address: SocketAddr) -> Result<()> {
        self.main().act(&Command::Connect(address))
    }

    /// Starts a further process in the pod's cgroup.
    pub fn extra_process(&self, netns: &ProcessNetns) -> Result<Process> {
        let netns = match netns {
            ProcessNetns::Own => Netns::Enter {
                path: netns_path(self.pid()),
            },
            ProcessNetns::Host => Netns::Inherit,
            ProcessNetns::Nested => Netns::New {
                addresses: Vec::new(),
                ipv6: true,
                redirected: false,
            },
            ProcessNetns::Of(pod) => Netns::Enter {
                path: netns_path(pod.pid()),
            },
        };
        let worker = self.0.shared.start("pod", "helper", &self.0.cgroup, netns)?;
        lock(&self.0.processes).further.push(Arc::clone(&worker));
        Ok(Process { worker })
    }

    /// Puts that many established sockets into the pod's network namespace, held by further processes.
    pub fn connections(&self, count: usize) -> Result<Vec<Process>> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let limit = limit.and_then(|limit| usize::try_from(limit.saturating_sub(SPARE_FILES)).ok());
        // Two sockets a connection.
        let each = (limit.unwrap_or(SOCKETS_A_PROCESS).min(SOCKETS_A_PROCESS) & !1).max(2);
        let mut left = count;
        let mut holders = Vec::new();
        while left > 0 {
            let holder = self.extra_process(&ProcessNetns::Own)?;
            holder.worker.act(&Command::Connections(left.min(each)))?;
            left -= left.min(each);
            holders.push(holder);
        }
        Ok(holders)
    }

    /// Lets the application open and close sockets one after the other, and returns when that is done. It must not
    /// take a minute.
    pub fn churn(&self, churn: Churn) -> Result<()> {
        self.main().act(&Command::Churn(churn))
    }

    /// Leaves an exited process in the pod's cgroup that nobody reaps, and returns its ID.
    pub fn zombie(&self) -> Result<u32> {
        let pids = self.main().fork(&Command::Zombie, &self.0.cgroup)?;
        pids.first().copied().ok_or_else(|| crate::Error::NotRunning {
            what: "the zombie".to_owned(),
        })
    }

    /// Adds or removes Istio's route and rule.
    pub fn set_redirected(&self, on: bool) -> Result<()> {
        let mut processes = lock(&self.0.processes);
        if processes.redirected != on {
            processes.main.act(&Command::Redirect {
                on,
                ipv6: self.0.spec.ipv6,
            })?;
            processes.redirected = on;
        }
        Ok(())
    }

    /// Ends all its processes with SIGKILL.
    pub fn kill(&self) {
        lock(&self.0.processes).kill();
    }

    /// Ends all its processes and starts the first one anew, in a new network namespace: the same pod,
    /// cgroup and addresses, as after a restart of its sandbox.
    pub fn replace_netns(&self) -> Result<()> {
        let redirected = lock(&self.0.processes).redirected;
        self.start_anew(redirected)
    }

    /// The same with nothing of Istio in the new network namespace.
    pub fn renew_sandbox(&self) -> Result<()> {
        self.start_anew(false)
    }

    fn start_anew(&self, redirected: bool) -> Result<()> {
        let mut processes = lock(&self.0.processes);
        processes.kill();
        processes.redirected = redirected;
        let main = start(&self.0.shared, &self.0.spec, &self.0.cgroup, processes.redirected)?;
        processes.main = main;
        processes.main.ready()
    }
}

impl Processes {
    fn kill(&mut self) {
        let all = self.further.drain(..).chain([Arc::clone(&self.main)]);
        all.for_each(|worker| worker.kill());
    }
}

impl std::fmt::Debug for Pod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} ({})", self.namespace(), self.name(), self.uid())
    }
}

/// Starts a pod's first process.
fn start(shared: &Arc<Shared>, spec: &PodSpec, cgroup: &str, redirected: bool) -> Result<Arc<Worker>> {
    let netns = if spec.host_network {
        Netns::Inherit
    } else {
        Netns::New {
            addresses: spec.addresses.clone(),
            ipv6: spec.ipv6,
            redirected,
        }
    };
    let listeners = spec.listeners.iter().map(|address| Listen {
        address: *address,
        reuse_port: false,
    });
    let setup = Setup {
        comm: spec.process_name.clone(),
        cgroup: shared.enterable(cgroup)?,
        netns,
        listeners: listeners.collect(),
    };
    Worker::spawn(shared, "pod", &setup, cgroup)
}

/// A version 4 UUID that follows from `seed`.
pub(crate) fn uid(seed: &str) -> String {
    let hex = hex(seed, 32);
    format!(
        "{}-{}-4{}-a{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}

/// Hexadecimal digits that follow from `seed`: FNV-1a, once for every 16 of them.
pub(crate) fn hex(seed: &str, digits: usize) -> String {
    let mut text = String::with_capacity(digits + 16);
    for round in 0u8.. {
        if text.len() >= digits {
            break;
        }
        let bytes = seed.bytes().chain([round]);
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        // FNV alone leaves the last byte's mark in the low digits; mix it upwards.
        text += &format!(
            "{:016x}",
            (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        );
    }
    text.truncate(digits);
    text
}
