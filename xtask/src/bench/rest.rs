// SPDX-License-Identifier: Apache-2.0
//! What an agent costs while nothing happens: memory, processor time, and what it asks of the API.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context as _, ensure};
use meshmedic_lab::{Cluster, ClusterSpec, cpu_time, wait};
use serde_json::Value;

use super::figures::{Column, Part, Row, ms};
use crate::manifests::apply_without_agents;
use crate::workspace::{cargo, workspace_root};

/// As many pods as a big node has, in so many Deployments.
const DEPLOYMENTS: usize = 20;
const PODS_EACH: usize = 10;
/// For how long nothing happens.
const REST: Duration = Duration::from_secs(60);
/// Until what is young at the start is no longer looked at again.
pub(super) const COME_TO_REST: Duration = Duration::from_secs(65);
const DEADLINE: Duration = Duration::from_secs(120);
pub(super) const NODE: &str = "node-a";
/// Whom the manifest makes the agent.
pub(super) const USER: &str = "system:serviceaccount:meshmedic:meshmedic";

/// Runs an agent with repairs on, in a cluster at rest.
pub(super) fn measure() -> anyhow::Result<Part> {
    let cluster = cluster()?;
    cluster.namespace("bench", true)?;
    for number in 0..DEPLOYMENTS {
        let name = format!("app-{number}");
        cluster.deployment("bench", &name, PODS_EACH)?;
        cluster.wait_captured("bench", &name, PODS_EACH)?;
    }
    let agent = Agent::start(&cluster, NODE, &["--auto-repair", "--repair-stuck"])?;
    let pods = DEPLOYMENTS * PODS_EACH;
    wait::until("the agent to know all pods", DEADLINE, || {
        agent.captured() == pods
    })?;
    std::thread::sleep(COME_TO_REST);
    cluster.api().forget_requests()?;
    let before = agent.cpu()?;
    std::thread::sleep(REST);
    let spent = agent.cpu()?.saturating_sub(before);
    let requests = cluster.api().requests_of(USER)?;
    let besides = requests.iter().filter(|request| request.verb != "watch").count();
    let what = format!("an agent with repairs on, {pods} pods at rest");
    let an_hour = ms(spent) * 3_600.0 / REST.as_secs_f64();
    Ok(Part {
        rows: vec![
            Row::new(format!("{what}: CPU an hour"), Column::Ebpf, "ms", &[an_hour]),
            Row::new(
                format!("{what}: resident"),
                Column::Ebpf,
                "MiB",
                &[agent.resident_mib()?],
            ),
            Row::new(
                format!("{what}: requests besides watches in {} s", REST.as_secs()),
                Column::Ebpf,
                "requests",
                &[besides as f64],
            )
            .remark("once after its start it looks at each slot's Lease"),
        ],
        plots: Vec::new(),
    })
}

/// A cluster of one node with the rights of an agent, and nothing in it yet.
pub(super) fn cluster() -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(ClusterSpec::default())?;
    apply_without_agents(&cluster)?;
    Ok(cluster)
}

/// Whether the command was built as it is shipped.
static SHIPPED: AtomicBool = AtomicBool::new(false);

/// Builds the command as it is shipped, for what depends on its size.
pub(super) fn build_shipped() -> anyhow::Result<()> {
    if env::var_os("CARGO").is_some() {
        let built = cargo(workspace_root()?)
            .args([
                "build",
                "--quiet",
                "--locked",
                "--release",
                "--package",
                "meshmedic-cli",
            ])
            .status()
            .context("cannot start cargo")?;
        ensure!(built.success(), "the command does not build");
    }
    SHIPPED.store(true, Ordering::Relaxed);
    Ok(())
}

/// The command as it is shipped, if it was built so; else the one beside this program. A test lies one folder
/// further down.
pub(super) fn program() -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("cannot find this program's own file")?;
    let name = if is_shipped() {
        "../release/meshmedic"
    } else {
        "meshmedic"
    };
    let mut known = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    known.find(|program| program.is_file()).with_context(|| {
        format!(
            "no command beside {}: cargo build --package meshmedic-cli",
            own.display()
        )
    })
}

/// Whether [`program`] is what users get.
pub(super) fn is_shipped() -> bool {
    SHIPPED.load(Ordering::Relaxed)
}

/// A running agent.
pub(super) struct Agent {
    child: Child,
    address: SocketAddr,
}

impl Agent {
    pub(super) fn start(cluster: &Cluster, node: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let kubeconfig = cluster
            .api()
            .kubeconfig_for_service_account("meshmedic", "meshmedic")?;
        // Free a moment ago, which is good enough for a benchmark.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(program()?)
            .args(["agent", "--node", node])
            .args(flags)
            .args([
                "--metrics-addr",
                "",
                "--status-addr",
                &address.to_string(),
                "--host-proc",
            ])
            .arg(cluster.node(node)?.lab().proc_root())
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .env("POD_NAMESPACE", "meshmedic")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the agent")?;
        Ok(Self { child, address })
    }

    /// Where it serves its report.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its report; `None` while it has none.
    pub(super) fn report(&self) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream
            .write_all(b"GET /v1/node HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .ok()?;
        let answer = std::io::read_to_string(stream).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    /// How many pods it knows to be captured.
    pub(super) fn captured(&self) -> usize {
        let report = self.report().unwrap_or_default();
        let pods = report["pods"].as_array().map(Vec::as_slice).unwrap_or_default();
        pods.iter().filter(|pod| pod["state"] == "captured").count()
    }

    /// Processor time of all its threads so far.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_time(self.child.id()).context("did the agent end?")
    }

    pub(super) fn resident_mib(&self) -> anyhow::Result<f64> {
        self.memory_mib("VmRSS:")
    }

    /// The most that it ever had.
    pub(super) fn peak_mib(&self) -> anyhow::Result<f64> {
        self.memory_mib("VmHWM:")
    }

    /// Lets the kernel measure the most anew, from here on.
    pub(super) fn forget_peak(&self) -> anyhow::Result<()> {
        let path = format!("/proc/{}/clear_refs", self.child.id());
        fs::write(&path, "5").with_context(|| format!("cannot write {path}: did the agent end?"))
    }

    fn memory_mib(&self, field: &str) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status =
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}: did the agent end?"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib: Option<f64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Ok(kib.context("the kernel does not tell how much memory the agent has")? / 1024.0)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
