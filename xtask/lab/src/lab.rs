// SPDX-License-Identifier: Apache-2.0
//! The node.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::cgroup;
use crate::error::{Context as _, Result};
use crate::pod::{Pod, PodSpec, ProcessNetns};
use crate::proc_root::ProcRoot;
use crate::process::{Janitor, Process, Shared, binary, netns_path};
use crate::protocol::{Command, Netns};
use crate::userns;
use crate::ztunnel::{Ztunnel, ZtunnelSpec};

/// The cgroup of processes that belong to no pod.
const NODE_CGROUP: &str = "/system.slice/node.service";

/// Numbers the labs of this process.
static LABS: AtomicU32 = AtomicU32::new(0);

/// How real the lab is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real cgroups: root on a machine whose cgroup hierarchy can be written.
    Root,
    /// No cgroup can be made, usually because the lab is in a user namespace: `/proc` is composed.
    UserNamespace,
}

/// A node: everything it made is gone when it is dropped.
pub struct Lab {
    shared: Arc<Shared>,
}

impl Lab {
    /// Makes a node. [`Self::proc_root`] is `/proc` where cgroups can be made, and composed where not.
    pub fn new() -> Result<Self> {
        Self::make(false)
    }

    /// As [`Self::new`], with a `/proc` root that shows the processes of this lab alone: for tests that
    /// count, since other labs may run on the machine.
    pub fn isolated() -> Result<Self> {
        Self::make(true)
    }

    fn make(isolated: bool) -> Result<Self> {
        let binary = binary()?;
        let name = format!("{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new()
            .prefix(&format!("meshmedic-lab-{name}-"))
            .tempdir()
            .context(|| "making a temporary folder".to_owned())?;
        let log_root = folder.path().join("var/log/pods");
        fs::create_dir_all(&log_root).context(|| format!("making {}", log_root.display()))?;
        let cgroup = cgroup::make(&name);
        let janitor = Janitor::start(&binary, &folder, cgroup.as_deref());
        let janitor = match (janitor, &cgroup) {
            (Err(error), Some(group)) => {
                cgroup::end(group);
                return Err(error);
            }
            (other, _) => other?,
        };
        // From here on the janitor answers for both.
        let folder = folder.keep();
        let root = folder.join("proc");
        let proc_root = match (&cgroup, isolated) {
            (Some(_), false) => ProcRoot::Real,
            (Some(_), true) => ProcRoot::own(root)?,
            (None, _) => ProcRoot::composed(root)?,
        };
        if userns::is_inside() {
            // A namespace that was just made has its loopback down; this one stands for the node's.
            crate::net::Netlink::open()
                .and_then(|netlink| netlink.loopback_up())
                .context(|| "bringing the node's loopback up".to_owned())?;
        }
        Ok(Self {
            shared: Arc::new(Shared {
                name,
                binary,
                cgroup,
                folder,
                log_root,
                proc_root,
                pods: AtomicU32::new(0),
                workers: Mutex::default(),
                janitor: Mutex::new(Some(janitor)),
            }),
        })
    }

    /// Where the node's processes are to be read.
    #[must_use]
    pub fn proc_root(&self) -> &Path {
        self.shared.proc_root.path()
    }

    /// How real the lab is.
    #[must_use]
    pub fn mode(&self) -> Mode {
        if self.shared.cgroup.is_some() {
            Mode::Root
        } else {
            Mode::UserNamespace
        }
    }

    /// The kubelet's log folders, `<namespace>_<name>_<uid>/<container>/` each.
    #[must_use]
    pub fn log_root(&self) -> &Path {
        &self.shared.log_root
    }

    /// A folder of the lab's own, removed with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// Starts a pod and waits until its application listens.
    pub fn pod(&self, spec: PodSpec) -> Result<Pod> {
        let pod = Pod::spawn(&self.shared, spec)?;
        pod.ready()?;
        Ok(pod)
    }

    /// Starts many pods side by side.
    pub fn pods(&self, specs: impl IntoIterator<Item = PodSpec>) -> Result<Vec<Pod>> {
        let pods: Vec<_> = specs
            .into_iter()
            .map(|spec| Pod::spawn(&self.shared, spec))
            .collect::<Result<_>>()?;
        pods.iter().try_for_each(Pod::ready)?;
        Ok(pods)
    }

    /// Starts a stand-in ztunnel; a second one beside the first is an upgrade's overlap.
    pub fn ztunnel(&self, spec: ZtunnelSpec) -> Result<Ztunnel> {
        Ztunnel::start(&self.shared, spec)
    }

    /// Starts a process that belongs to no pod, such as a node agent that looks into one.
    ///
    /// `Own` means the node's network namespace here.
    pub fn node_process(&self, netns: &ProcessNetns) -> Result<Process> {
        let netns = match netns {
            ProcessNetns::Own | ProcessNetns::Host => Netns::Inherit,
            ProcessNetns::Nested => Netns::New {
                addresses: Vec::new(),
                ipv6: true,
                redirected: false,
            },
            ProcessNetns::Of(pod) => Netns::Enter {
                path: netns_path(pod.pid()),
            },
        };
        let worker = self.shared.start("pod", "node-helper", NODE_CGROUP, netns)?;
        Ok(Process { worker })
    }

    /// Starts idle processes in no pod's cgroup, as a node has hundreds of, and returns their IDs.
    pub fn bystanders(&self, count: usize) -> Result<Vec<u32>> {
        let worker = self
            .shared
            .start("bystanders", "bystander", NODE_CGROUP, Netns::Inherit)?;
        worker.fork(&Command::Bystanders(count), NODE_CGROUP)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shared.end();
    }
}
