// SPDX-License-Identifier: Apache-2.0
//! What an agent costs while nothing happens: memory, processor time, and what it asks of the API.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use meshmedic_lab::api::documents;
use meshmedic_lab::{Cluster, ClusterSpec, wait};

/// As many pods as a big node has, in so many Deployments.
const DEPLOYMENTS: usize = 20;
const PODS_EACH: usize = 10;
/// For how long nothing happens.
const REST: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(120);
const NODE: &str = "node-a";
/// Whom the manifest makes the agent.
const USER: &str = "system:serviceaccount:meshmedic:meshmedic";
pub(super) const MANIFESTS: [&str; 2] = [
    include_str!("../../../deploy/meshmedic-daemonset.yaml"),
    include_str!("../../../deploy/kustomize/repair/rights.yaml"),
];
/// The kernel counts processor time in so many ticks a second, whatever its own clock does.
const TICKS: f64 = 100.0;

/// What was measured.
pub(super) struct Steady {
    pub(super) pods: usize,
    pub(super) seconds: f64,
    pub(super) resident_mib: f64,
    pub(super) cpu_ms_an_hour: f64,
    pub(super) requests: usize,
}

/// Runs an agent with repairs on, in a cluster at rest.
pub(super) fn measure() -> anyhow::Result<Steady> {
    let cluster = Cluster::start(ClusterSpec::default())?;
    for manifest in MANIFESTS {
        for object in documents(manifest)? {
            if object["kind"] != "DaemonSet" {
                cluster.api().apply(&object)?;
            }
        }
    }
    cluster.namespace("bench", true)?;
    for number in 0..DEPLOYMENTS {
        let name = format!("app-{number}");
        cluster.deployment("bench", &name, PODS_EACH)?;
        cluster.wait_captured("bench", &name, PODS_EACH)?;
    }
    let kubeconfig = cluster
        .api()
        .kubeconfig_for_service_account("meshmedic", "meshmedic")?;
    let agent = Agent::start(&cluster, NODE, &kubeconfig)?;
    let watches = || cluster.api().requests_of(USER).map(|requests| requests.len());
    // Every watch has begun once it has listed and watches: six of them.
    wait::until("the agent's watches to begin", DEADLINE, || {
        watches().is_ok_and(|requests| requests >= 12)
    })?;
    std::thread::sleep(REST / 4);
    cluster.api().forget_requests()?;
    let before = agent.ticks()?;
    std::thread::sleep(REST);
    let ticks = agent.ticks()? - before;
    let requests = cluster.api().requests_of(USER)?;
    Ok(Steady {
        pods: DEPLOYMENTS * PODS_EACH,
        seconds: REST.as_secs_f64(),
        resident_mib: agent.resident_kib()? / 1024.0,
        cpu_ms_an_hour: ticks / TICKS * 1e3 * 3_600.0 / REST.as_secs_f64(),
        requests: requests.iter().filter(|request| request.verb != "watch").count(),
    })
}

/// The command, which is built beside this program.
pub(super) fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let program = own.with_file_name("meshmedic");
    ensure!(
        program.exists(),
        "{} is missing: cargo build --package meshmedic-cli",
        program.display()
    );
    Ok(program)
}

/// A running agent.
pub(super) struct Agent {
    child: Child,
    address: SocketAddr,
}

impl Agent {
    pub(super) fn start(cluster: &Cluster, node: &str, kubeconfig: &Path) -> anyhow::Result<Self> {
        // Free a moment ago, which is good enough for a benchmark.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(program()?)
            .args(["agent", "--node", node, "--auto-repair", "--repair-stuck"])
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

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}: did the agent end?"))
    }

    /// Processor time of all its threads so far.
    fn ticks(&self) -> anyhow::Result<f64> {
        let stat = self.proc("stat")?;
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        // utime and stime are the 14th and 15th field, the name being the second.
        let spent = after_name.split_whitespace().skip(11).take(2);
        Ok(spent.filter_map(|ticks| ticks.parse::<f64>().ok()).sum())
    }

    fn resident_kib(&self) -> anyhow::Result<f64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .context("the kernel does not tell how much memory the agent has")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
