// SPDX-License-Identifier: Apache-2.0
//! The stand-in ztunnel.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::cgroup;
use crate::error::{Context as _, Error, Result};
use crate::pod::{Pod, PodSpec, hex, uid};
use crate::process::{Process, Shared, Worker, lock, netns_inode, netns_path};
use crate::protocol::{Command, Enrolment, Listen, Netns, Setup, Socket};
use crate::wait;

const DNS: u16 = 15053;
const SOCKS5: u16 = 15080;
/// The ports without which a pod is not captured, in the order in which the real one binds them.
const REQUIRED: [u16; 3] = [15008, 15006, 15001];
/// Its administration, metrics and readiness, in its own network namespace.
pub(crate) const OWN: [SocketAddr; 3] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 15020),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 15021),
];
/// How long the kernel may take to stop a process.
const STOPPING: Duration = Duration::from_secs(10);

/// How the stand-in ztunnel is configured; the default is the real one's.
#[derive(Clone, Debug)]
pub struct ZtunnelSpec {
    /// The pod's name, in `istio-system`.
    pub name: String,
    /// The pod's UID. By default it follows from the lab and the name.
    pub uid: Option<String>,
    /// Whether it shares the node's network namespace; it opens no listener of its own there.
    pub host_network: bool,
    /// `IPV6_ENABLED`
    pub ipv6: bool,
    /// Whether DNS capture is on.
    pub dns: bool,
    /// Whether the SOCKS5 listener is on.
    pub socks5: bool,
    /// Where istio-cni's node agent listens for it: the lab's or a real one. It then says which pods are served.
    pub zds: Option<PathBuf>,
}

impl Default for ZtunnelSpec {
    fn default() -> Self {
        Self {
            name: "ztunnel-8k2qv".to_owned(),
            uid: None,
            host_network: false,
            ipv6: true,
            dns: true,
            socks5: false,
            zds: None,
        }
    }
}

impl ZtunnelSpec {
    /// What it binds in a pod, in the order of the real one.
    pub(crate) fn sockets(&self) -> Vec<Socket> {
        let mut sockets = Vec::new();
        let local = |port, udp| {
            let mut hosts = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
            if self.ipv6 && port == DNS {
                hosts.push(Ipv6Addr::LOCALHOST.into());
            }
            hosts
                .into_iter()
                .map(|host| Socket {
                    address: SocketAddr::new(host, port),
                    udp,
                })
                .collect()
        };
        let wildcard = if self.ipv6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            IpAddr::from(Ipv4Addr::UNSPECIFIED)
        };
        if self.dns {
            let (tcp, udp): (Vec<_>, Vec<_>) = (local(DNS, false), local(DNS, true));
            sockets.extend(udp);
            sockets.extend(tcp);
        }
        sockets.extend(REQUIRED.map(|port| Socket {
            address: SocketAddr::new(wildcard, port),
            udp: false,
        }));
        if self.socks5 {
            let socks: Vec<_> = local(SOCKS5, false);
            sockets.extend(socks);
        }
        sockets
    }
}

/// A stand-in ztunnel. Every method returns when what it names has happened.
pub struct Ztunnel {
    shared: Arc<Shared>,
    spec: ZtunnelSpec,
    uid: String,
    cgroup: String,
    state: Mutex<State>,
}

struct State {
    worker: Arc<Worker>,
    /// By UID, with the ports if not all.
    enrolled: BTreeMap<String, (Pod, Option<Vec<u16>>)>,
}

impl Ztunnel {
    pub(crate) fn start(shared: &Arc<Shared>, spec: ZtunnelSpec) -> Result<Self> {
        let seed = format!("{}/istio-system/{}", shared.name(), spec.name);
        let uid = spec.uid.clone().unwrap_or_else(|| uid(&seed));
        let pod = PodSpec::new("istio-system", &spec.name);
        let cgroup = cgroup::path(&pod, &uid, &hex(&format!("container {seed}"), 64));
        let log = shared
            .log_root()
            .join(format!("istio-system_{}_{uid}/istio-proxy", spec.name));
        fs::create_dir_all(&log).context(|| format!("making {}", log.display()))?;
        let worker = run(shared, &spec, &cgroup)?;
        let state = Mutex::new(State {
            worker,
            enrolled: BTreeMap::new(),
        });
        Ok(Self {
            shared: Arc::clone(shared),
            spec,
            uid,
            cgroup,
            state,
        })
    }

    fn worker(&self) -> Arc<Worker> {
        Arc::clone(&lock(&self.state).worker)
    }

    /// Its pod's UID.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Its pod's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its process, now.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.worker().pid()
    }

    /// The inode of its own network namespace.
    pub fn netns(&self) -> Result<u64> {
        netns_inode(self.pid())
    }

    /// Its process, for listeners in its own network namespace.
    #[must_use]
    pub fn process(&self) -> Process {
        Process {
            worker: self.worker(),
        }
    }

    /// Whether its process runs; it does until the end of [`Self::stop`]'s drain.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.worker().is_running()
    }

    /// Binds everything in a pod. A port that is taken is an error that names it, and then nothing remains.
    pub fn enrol(&self, pod: &Pod) -> Result<()> {
        self.enrol_all([(pod.clone(), None)])
    }

    /// Binds in many pods at once.
    pub fn enrol_many(&self, pods: &[Pod]) -> Result<()> {
        self.enrol_all(pods.iter().map(|pod| (pod.clone(), None)))
    }

    /// Binds some of the ports only.
    pub fn enrol_ports(&self, pod: &Pod, ports: &[u16]) -> Result<()> {
        self.enrol_all([(pod.clone(), Some(ports.to_vec()))])
    }

    fn enrol_all(&self, pods: impl IntoIterator<Item = (Pod, Option<Vec<u16>>)>) -> Result<()> {
        let pods: Vec<_> = pods.into_iter().collect();
        let mut state = lock(&self.state);
        // A pod that is enrolled already is enrolled anew, as the real one does when its netns changed.
        let known = pods
            .iter()
            .map(|(pod, _)| pod.uid().to_owned())
            .filter(|uid| state.enrolled.contains_key(uid));
        let known: Vec<_> = known.collect();
        if !known.is_empty() {
            state.worker.act(&Command::Unenrol(known))?;
        }
        let enrolments = pods
            .iter()
            .map(|(pod, ports)| self.enrolment(pod, |port| ports.as_ref().is_none_or(|p| p.contains(&port))));
        let command = Command::Enrol(enrolments.collect());
        for (pod, ports) in pods {
            state.enrolled.insert(pod.uid().to_owned(), (pod, ports));
        }
        state.worker.act(&command)
    }

    fn enrolment(&self, pod: &Pod, wanted: impl Fn(u16) -> bool) -> Enrolment {
        let mut sockets = self.spec.sockets();
        sockets.retain(|socket| wanted(socket.address.port()));
        Enrolment {
            uid: pod.uid().to_owned(),
            netns: netns_path(pod.pid()),
            sockets,
        }
    }

    /// Closes everything in a pod.
    pub fn unenrol(&self, pod: &Pod) -> Result<()> {
        self.unenrol_many(std::slice::from_ref(pod))
    }

    /// Closes everything in many pods.
    pub fn unenrol_many(&self, pods: &[Pod]) -> Result<()> {
        let mut state = lock(&self.state);
        let uids: Vec<_> = pods.iter().map(|pod| pod.uid().to_owned()).collect();
        for uid in &uids {
            state.enrolled.remove(uid);
        }
        state.worker.act(&Command::Unenrol(uids))
    }

    /// Closes everything in a pod, and goes on believing that it is served: another Add of istio-cni does nothing.
    pub fn lose_listeners(&self, pod: &Pod) -> Result<()> {
        self.worker().act(&Command::CloseAll(pod.uid().to_owned()))
    }

    /// Closes one port in a pod.
    pub fn close_port(&self, pod: &Pod, port: u16) -> Result<()> {
        self.worker().act(&Command::ClosePort {
            uid: pod.uid().to_owned(),
            port,
        })
    }

    /// Binds one port in a pod, in which the others stay as they are.
    pub fn open_port(&self, pod: &Pod, port: u16) -> Result<()> {
        self.worker()
            .act(&Command::Enrol(vec![self.enrolment(pod, |other| other == port)]))
    }

    /// The pods that it enrolled, and enrols again after a restart.
    #[must_use]
    pub fn enrolled(&self) -> Vec<Pod> {
        lock(&self.state)
            .enrolled
            .values()
            .map(|(pod, _)| pod.clone())
            .collect()
    }

    /// What SIGTERM does to the real one: the listeners close at once, the process drains for a while.
    pub fn stop(&self, drain: Duration) -> Result<()> {
        let linger_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
        self.worker().act(&Command::Terminate { linger_ms })
    }

    /// Waits for the end of the process after [`Self::stop`].
    pub fn wait_ended(&self) {
        self.worker().reap();
    }

    /// Ends it with SIGKILL; when this returns, its sockets are closed.
    pub fn kill(&self) {
        self.worker().kill();
    }

    /// Starts it again with nothing enrolled, as the real one before the node agent speaks to it. Ends
    /// whatever is left of the process before.
    pub fn start_empty(&self) -> Result<()> {
        let mut state = lock(&self.state);
        state.worker.kill();
        state.worker = run(&self.shared, &self.spec, &self.cgroup)?;
        Ok(())
    }

    /// Starts it again and enrols the pods that it had, as far as they still run.
    pub fn start_again(&self) -> Result<()> {
        self.start_empty()?;
        let pods = std::mem::take(&mut lock(&self.state).enrolled);
        self.enrol_all(pods.into_values().filter(|(pod, _)| pod.process().is_running()))
    }

    /// Stops the process with SIGSTOP: its listeners stay, and nobody accepts.
    pub fn hang(&self) -> Result<()> {
        // A stopped process does not notice that the lab is gone.
        self.shared
            .mark_stopped(self.pid())
            .context(|| "telling the janitor".to_owned())?;
        self.signal(Signal::STOP)?;
        let stat = format!("/proc/{}/stat", self.pid());
        let stopped = wait::until("ztunnel to stop", STOPPING, || {
            fs::read_to_string(&stat)
                .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|s| s.starts_with('T')))
        });
        stopped
            .map_err(std::io::Error::other)
            .context(|| format!("reading {stat}"))
    }

    /// Lets a process that hangs go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let gone = || Error::NotRunning {
            what: "ztunnel".to_owned(),
        };
        if !self.is_running() {
            return Err(gone());
        }
        let pid = Pid::from_raw(self.pid().cast_signed()).ok_or_else(gone)?;
        rustix::process::kill_process(pid, signal).context(|| format!("sending {signal:?} to ztunnel"))
    }
}

impl std::fmt::Debug for Ztunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ztunnel")
            .field("spec", &self.spec)
            .field("pid", &self.pid())
            .finish()
    }
}

fn run(shared: &Arc<Shared>, spec: &ZtunnelSpec, cgroup: &str) -> Result<Arc<Worker>> {
    let (netns, own): (_, &[SocketAddr]) = if spec.host_network {
        (Netns::Inherit, &[])
    } else {
        (
            Netns::New {
                addresses: vec![shared.address()],
                ipv6: true,
                redirected: false,
            },
            &OWN,
        )
    };
    let listeners = own
        .iter()
        .map(|address| Listen {
            address: *address,
            reuse_port: false,
        })
        .collect();
    let setup = Setup {
        comm: "ztunnel".to_owned(),
        cgroup: shared.enterable(cgroup)?,
        netns,
        listeners,
    };
    let worker = Worker::spawn(shared, "ztunnel", &setup, cgroup)?;
    worker.ready()?;
    if let Some(path) = &spec.zds {
        let (path, sockets) = (path.clone(), spec.sockets());
        worker.act(&Command::Zds { path, sockets })?;
    }
    Ok(worker)
}
