// SPDX-License-Identifier: Apache-2.0
//! Real nodes without Docker: the programs of Kubernetes and Debian in namespaces of their own.

#![expect(clippy::print_stdout, reason = "a task tells on stdout what it does")]

mod images;
mod istio;
#[cfg(test)]
mod tests;

use std::env;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use meshmedic_lab::Room;
use rustix::process::{Pid, Signal, kill_process};

use super::parts::folder;
use super::store::{Store, clear};
use crate::workspace::{cargo, workspace_root};

/// What the node reads, and where it is for the node.
const CONFIGURATION: &str = "node";
const INSIDE: &str = "/cluster";
const PROGRAMS: &str = "/cluster-bin";
/// Istio's charts and this project's manifests.
const CHARTS: &str = "/cluster-charts";
const DEPLOY: &str = "/cluster-deploy";
/// The first process, as its command line names it.
const INIT: &str = "/cluster/conf/init";
/// The nodes that there can be. The first has the control plane, and what the others read of it.
pub(super) const NAMES: [&str; 2] = ["node-a", "node-b"];
const KUBECONFIG: &str = "/cluster/pki/admin.kubeconfig";
/// Folders of the node, and where it has them. What is written elsewhere vanishes with it.
const FOLDERS: [(&str, &str); 7] = [
    ("cni-bin", "/opt/cni/bin"),
    ("cni-net.d", "/etc/cni/net.d"),
    ("containerd", "/var/lib/containerd"),
    ("containers", "/var/log/containers"),
    ("kubelet", "/var/lib/kubelet"),
    ("kubernetes", "/etc/kubernetes"),
    ("pods", "/var/log/pods"),
];
/// Folders that are only below [`INSIDE`].
const OWN: [&str; 5] = ["etcd", "images", "logs", "pki", "run"];
/// The capability without which runc has to ask for less, as a bit of what `/proc` tells.
const SYS_RESOURCE: u64 = 1 << 24;
/// How long a step of the start may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often something is asked for that is awaited.
const STEP: Duration = Duration::from_millis(200);

/// What is to run on it.
pub(super) struct Wanted {
    /// On so many nodes.
    pub(super) nodes: usize,
    /// Istio, an application in its mesh, and MeshMedic.
    pub(super) mesh: bool,
    /// A real ztunnel for the lab's.
    pub(super) ztunnel: Option<PathBuf>,
}

/// A node of this machine.
pub(super) struct Node {
    name: &'static str,
    folder: PathBuf,
    /// That of the first node.
    first: PathBuf,
}

impl Node {
    /// All that there can be, whether they run or not; the first one first.
    pub(super) fn all(store: &Store) -> Result<[Self; 2]> {
        let versions = store.folder().parent().and_then(Path::parent);
        let cache = versions.context("the folder of the programs lies nowhere")?;
        Ok(NAMES.map(|name| Self {
            name,
            folder: cache.join(name),
            first: cache.join(NAMES[0]),
        }))
    }

    /// The one of this name, whether it runs or not.
    pub(super) fn named(store: &Store, name: &str) -> Result<Self> {
        let mut all = Self::all(store)?.into_iter();
        all.find(|node| node.name == name)
            .with_context(|| format!("there is no node {name}, but {}", NAMES.join(" and ")))
    }
}

/// The nodes of this machine, as one cluster.
pub(super) struct Nodes {
    all: [Node; 2],
}

impl Nodes {
    /// Whether they run or not.
    pub(super) fn of_machine(store: &Store) -> Result<Self> {
        Ok(Self {
            all: Node::all(store)?,
        })
    }

    /// The one with the control plane.
    pub(super) const fn first(&self) -> &Node {
        let [first, _] = &self.all;
        first
    }

    /// Fails where one runs.
    pub(super) fn are_down(&self) -> Result<()> {
        match self.all.iter().find_map(|node| Some((node.name, node.init()?))) {
            Some((name, init)) => {
                bail!("{name} is up, as process {init}: `cargo xtask cluster down` ends it")
            }
            None => Ok(()),
        }
    }

    /// Starts them and waits until they are Ready.
    pub(super) fn up(&self, store: &Store, wanted: &Wanted) -> Result<()> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a node needs root: `sudo -E env \"PATH=$PATH\" cargo xtask cluster up`"
        );
        self.are_down()?;
        let begun = Instant::now();
        let say = |what: &str| println!("{:>5.1} s  {what}", begun.elapsed().as_secs_f32());
        // What a node that broke off has left.
        self.down()?;
        let nodes = || self.all.iter().take(wanted.nodes);
        for node in nodes() {
            node.prepare(store)?;
        }
        let first = self.first();
        first.make_keys()?;
        say("keys and configuration");
        let folder = first.folder.join("images");
        let mut images = images::of_kubernetes(store, &folder)?;
        if wanted.mesh {
            images.extend(images::of_istio(store, &folder, wanted.ztunnel.as_deref())?);
            images.extend(images::of_meshmedic(&folder)?);
        }
        say("images");
        first.lay_wires()?;
        for node in nodes() {
            node.start(store)?;
        }
        for node in nodes() {
            node.take_images(&images)?;
        }
        say("containerd has the images");
        first.until("the API server", || {
            first.succeeds(&["kubectl", "get", "--raw", "/readyz"])
        })?;
        say("the API server is ready");
        first.until("the namespaces that Kubernetes makes", || {
            first.succeeds(&["kubectl", "get", "namespace", "kube-system"])
                && first.succeeds(&["kubectl", "get", "serviceaccount", "default"])
        })?;
        first.run(&["kubectl", "apply", "--filename", "/cluster/conf/dns.yaml"])?;
        for node in nodes() {
            let name = node.name;
            first.until("the node to be Ready", || {
                first
                    .output(&["kubectl", "get", "node", name, "--no-headers"])
                    .is_some_and(|line| line.split_whitespace().nth(1) == Some("Ready"))
            })?;
            say(&format!("{name} is Ready"));
        }
        if wanted.mesh {
            istio::install(first, wanted.ztunnel.is_some(), &say)?;
        }
        println!("\nLook around:     cargo xtask cluster kubectl get pods --all-namespaces");
        if wanted.mesh {
            println!(
                "Who is lost?     cargo xtask cluster enter target/debug/meshmedic scan\n\
                 Lose some:       cargo xtask cluster reboot\n\
                 Let it repair:   cargo xtask cluster kubectl apply -k deploy/kustomize/repair"
            );
        }
        Ok(())
    }

    /// Ends them, and removes all that they had.
    pub(super) fn down(&self) -> Result<()> {
        // The first one last: it has what the others read.
        for node in self.all.iter().rev() {
            node.end()?;
        }
        self.first().take_wires_up()?;
        for node in self.all.iter().rev() {
            clear(&node.folder)?;
        }
        Ok(())
    }
}

impl Node {
    fn take_images(&self, images: &[String]) -> Result<()> {
        self.until("containerd", || {
            self.succeeds(&["ctr", "--namespace", "k8s.io", "version"])
        })?;
        for image in images {
            let path = format!("{INSIDE}/images/{image}");
            self.run(&["ctr", "--namespace", "k8s.io", "images", "import", &path])?;
        }
        Ok(())
    }

    /// As if its power had failed and come back: disks and etcd stay, each process and namespace is new.
    pub(super) fn reboot(&self, store: &Store) -> Result<()> {
        if self.init().is_none() {
            bail!("there is no {} to reboot: `cargo xtask cluster up`", self.name);
        }
        let begun = Instant::now();
        self.end()?;
        for name in ["room", "run"] {
            clear(&self.folder.join(name))?;
        }
        make(&self.folder.join("room"))?;
        make(&self.folder.join("run/dns"))?;
        self.start(store)?;
        self.until("the API server", || {
            self.succeeds(&["kubectl", "get", "--raw", "/readyz"])
        })?;
        // What the API says of node and pods is from before.
        self.until("the kubelet", || {
            let health = format!("/api/v1/nodes/{}/proxy/healthz", self.name);
            self.succeeds(&["kubectl", "get", "--raw", &health])
        })?;
        println!(
            "{:>5.1} s  {} is back; its pods follow",
            begun.elapsed().as_secs_f32(),
            self.name
        );
        Ok(())
    }

    /// Ends it at once, with all that runs in it.
    fn end(&self) -> Result<()> {
        if let Some(init) = self.init() {
            kill_process(init, Signal::KILL).with_context(|| format!("cannot end process {init}"))?;
            self.until("the node to end", || self.init().is_none())?;
        }
        for hierarchy in hierarchies()? {
            let group = hierarchy.join(cgroup(self.name));
            self.until("the control groups to be empty", || remove_groups(&group))?;
        }
        Ok(())
    }

    /// A command in the node; nothing of it happens if the node is not up.
    pub(super) fn command(&self, words: &[&str]) -> Result<Command> {
        let Some(init) = self.init() else {
            bail!("there is no {}: `cargo xtask cluster up`", self.name);
        };
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &init.as_raw_nonzero().to_string()])
            .args(["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--"])
            // Files that are named from here lie there as well, but for what is mounted by itself.
            .args(["sh", "-c", "cd \"$0\" 2> /dev/null; exec \"$@\""])
            .arg(env::current_dir().context("there is no current folder")?)
            .args(words)
            .env("KUBECONFIG", KUBECONFIG)
            .env(
                "CONTAINER_RUNTIME_ENDPOINT",
                "unix:///run/containerd/containerd.sock",
            )
            .env("HOME", format!("{INSIDE}/run"))
            .env("PATH", format!("{PROGRAMS}:/usr/sbin:/usr/bin:/sbin:/bin"));
        Ok(command)
    }

    /// The node's first process, if it lives.
    fn init(&self) -> Option<Pid> {
        let starter = number(&self.folder.join("starter"))?;
        let children = fs::read_to_string(format!("/proc/{starter}/task/{starter}/children")).ok()?;
        children
            .split_whitespace()
            .filter_map(|child| Pid::from_raw(child.parse().ok()?))
            .find(|child| words(*child).iter().any(|word| word == INIT.as_bytes()))
    }

    fn prepare(&self, store: &Store) -> Result<()> {
        for name in OWN.iter().chain(FOLDERS.iter().map(|(name, _)| name)) {
            make(&self.folder.join(name))?;
        }
        make(&self.folder.join("run/dns"))?;
        make(&self.folder.join("room"))?;
        let target = self.folder.join("conf");
        make(&target)?;
        let source = folder()?.join(CONFIGURATION);
        let entries = fs::read_dir(&source).with_context(|| format!("cannot list {}", source.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", source.display()))?;
            let file = target.join(entry.file_name());
            fs::copy(entry.path(), &file).with_context(|| format!("cannot write {}", file.display()))?;
        }
        if capabilities()? & SYS_RESOURCE == 0 {
            let file = target.join("containerd.toml");
            let text = fs::read_to_string(&file).context("cannot read containerd.toml")?;
            let text = text.replace("\"/usr/sbin/runc\"", "\"/cluster/conf/runc\"");
            fs::write(&file, text).context("cannot write containerd.toml")?;
        }
        ensure!(
            store.bin().is_dir(),
            "there are no programs in {}",
            store.bin().display()
        );
        Ok(())
    }

    /// Makes the keys of all nodes.
    fn make_keys(&self) -> Result<()> {
        let keys = Command::new(self.folder.join("conf/pki"))
            .current_dir(self.folder.join("pki"))
            .output()
            .context("cannot run the script that makes keys")?;
        ensure!(
            keys.status.success(),
            "openssl cannot make the keys of a cluster: {}",
            String::from_utf8_lossy(&keys.stderr).trim()
        );
        Ok(())
    }

    /// Makes the network namespace in which the wires of all nodes end. It outlives a node's power.
    fn lay_wires(&self) -> Result<()> {
        let wires = Command::new(self.folder.join("conf/wires"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start what holds the wires")?;
        let file = self.folder.join("wires");
        fs::write(&file, wires.id().to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
        self.until("what holds the wires", || self.wires().is_some())
    }

    fn take_wires_up(&self) -> Result<()> {
        if let Some(wires) = self.wires() {
            kill_process(wires, Signal::KILL).context("cannot end what holds the wires")?;
            self.until("the wires to be gone", || self.wires().is_none())?;
        }
        Ok(())
    }

    /// The process that holds the wires, if it lives and has them.
    fn wires(&self) -> Option<Pid> {
        let wires = Pid::from_raw(number(&self.first.join("wires"))?)?;
        // It takes this name when it has made its namespace.
        let name = self
            .first
            .join("conf/wires")
            .into_os_string()
            .into_encoded_bytes();
        (words(wires).first() == Some(&name)).then_some(wires)
    }

    fn start(&self, store: &Store) -> Result<()> {
        let mut shared = vec![
            (self.folder.clone(), PathBuf::from(INSIDE)),
            (self.first.join("pki"), Path::new(INSIDE).join("pki")),
            (self.first.join("images"), Path::new(INSIDE).join("images")),
            (store.bin(), PathBuf::from(PROGRAMS)),
            (store.charts(), PathBuf::from(CHARTS)),
            (workspace_root()?.join("deploy"), PathBuf::from(DEPLOY)),
            (self.folder.join("conf/hosts"), "/etc/hosts".into()),
            (self.folder.join("conf/resolv.conf"), "/etc/resolv.conf".into()),
        ];
        shared.extend(FOLDERS.map(|(name, inside)| (self.folder.join(name), inside.into())));
        let room = Room {
            scratch: self.folder.join("room"),
            over: vec![store.debian()],
            shared,
            netns: None,
        };
        let room = room.command(Path::new("/bin/bash"))?;
        let log = self.folder.join("logs/start.log");
        let log = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = log.try_clone().context("cannot share a file")?;
        let wires = self.wires().context("nothing holds the wires of the nodes")?;
        let starter = Command::new(self.folder.join("conf/start"))
            .arg(cgroup(self.name))
            .arg(wires.as_raw_nonzero().to_string())
            .arg(room.get_program())
            .args(room.get_args())
            .arg(INIT)
            .arg(self.name)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // It stays when this command ends, and Ctrl-C is not for it.
            .process_group(0)
            .spawn()
            .context("cannot start the node")?;
        let file = self.folder.join("starter");
        fs::write(&file, starter.id().to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
        self.until("the node's first process", || self.init().is_some())
    }

    /// Asks again and again, and fails with where to look.
    fn until(&self, what: &str, condition: impl Fn() -> bool) -> Result<()> {
        let begun = Instant::now();
        while !condition() {
            ensure!(
                begun.elapsed() < PATIENCE,
                "waited {} s in vain for {what}: see {}, then `cargo xtask cluster down`",
                PATIENCE.as_secs(),
                self.folder.join("logs").display()
            );
            thread::sleep(STEP);
        }
        Ok(())
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let output = self.command(words)?.output();
        let output = output.with_context(|| format!("cannot run {}", words.join(" ")))?;
        ensure!(
            output.status.success(),
            "{} failed: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    fn output(&self, words: &[&str]) -> Option<String> {
        let output = self.command(words).ok()?.output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    }

    fn succeeds(&self, words: &[&str]) -> bool {
        self.output(words).is_some()
    }
}

/// Builds what of this project runs in a node.
pub(super) fn build_own() -> Result<()> {
    let built = cargo(workspace_root()?)
        .args([
            "build",
            "--locked",
            "--workspace",
            "--bin",
            "meshmedic",
            "--bin",
            "meshmedic-lab",
        ])
        .status();
    ensure!(
        built.context("cannot start cargo")?.success(),
        "lab and command do not build, and a node needs them"
    );
    Ok(())
}

/// A program of this project that was built beside this one.
fn own(name: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find this program")?;
    // Tests lie one folder further down.
    let mut places = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    places
        .find(|path| path.is_file())
        .with_context(|| format!("there is no {name} beside {}", own.display()))
}

/// The control group below which everything of a node is.
fn cgroup(node: &str) -> String {
    format!("meshmedic-{node}")
}

/// A process's number, as it was written into a file.
fn number(file: &Path) -> Option<i32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// A process's command line. Numbers are used again, by others.
fn words(process: Pid) -> Vec<Vec<u8>> {
    let line = fs::read(format!("/proc/{}/cmdline", process.as_raw_nonzero())).unwrap_or_default();
    line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Where control groups are: one place, or one for each controller, or both.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new("/sys/fs/cgroup");
    let entries = fs::read_dir(root).context("cannot list the control groups")?;
    let below = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let all = std::iter::once(root.to_owned()).chain(below);
    Ok(all
        .filter(|folder| folder.join("cgroup.procs").is_file())
        .collect())
}

/// Removes a group and those below it; false where a process is in one of them yet.
fn remove_groups(group: &Path) -> bool {
    let Ok(entries) = fs::read_dir(group) else {
        return true;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok()
}

/// What this process may do, as `/proc` tells it.
fn capabilities() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let line = line.context("/proc/self/status tells no capabilities")?;
    u64::from_str_radix(line.trim(), 16).context("/proc/self/status tells no capabilities")
}
