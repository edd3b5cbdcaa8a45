// SPDX-License-Identifier: Apache-2.0
//! The agent as a process, and what it says.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meshmedic_common::report::{NodeReport, PodReport};
use meshmedic_common::verdict::State;
use meshmedic_lab::wait;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Long enough for whatever a slow machine does, on top of the minute after which what a dead agent held is
/// free. Nothing waits for it where all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Counts the evictions whose successor was proved captured.
pub(crate) const SUCCEEDED: &str = "meshmedic_repairs_total{action=\"evict\",result=\"succeeded\"}";

/// A running agent. It is killed when this is dropped.
pub(crate) struct Agent {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
    metrics: SocketAddr,
    status: SocketAddr,
}

impl Agent {
    /// Starts the agent of a node, in the pod of this UID, and waits until it serves.
    pub(crate) fn start(
        kubeconfig: &Path,
        node: &str,
        proc_root: &Path,
        flags: &[&str],
        pod_uid: &str,
    ) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_meshmedic"))
            .args(["agent", "--log-format", "json", "--node", node])
            .args(["--metrics-addr", "127.0.0.1:0", "--status-addr", "127.0.0.1:0"])
            .arg("--host-proc")
            .arg(proc_root)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(flags)
            .env("POD_NAMESPACE", "meshmedic")
            .env("POD_UID", pod_uid)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built beside this test");
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().expect("it is piped"));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lock(&kept).push(line);
            }
        });
        let mut agent = Self {
            child,
            log,
            metrics: SocketAddr::from(([127, 0, 0, 1], 0)),
            status: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        agent.metrics = agent.address_of("metrics");
        agent.status = agent.address_of("status");
        agent
    }

    fn address_of(&mut self, endpoint: &str) -> SocketAddr {
        self.until(&format!("the {endpoint} endpoint"), |agent| {
            agent
                .find(|line| line["fields"]["endpoint"] == endpoint)
                .is_some()
        });
        let line = self.find(|line| line["fields"]["endpoint"] == endpoint);
        let address = line.and_then(|line| line["fields"]["address"].as_str()?.parse().ok());
        address.expect("the line that names the endpoint gives its address")
    }

    /// Everything that was logged.
    pub(crate) fn log(&self) -> Vec<Value> {
        lock(&self.log).clone()
    }

    /// The first line of the log that is like this.
    pub(crate) fn find(&self, like: impl Fn(&Value) -> bool) -> Option<Value> {
        lock(&self.log).iter().find(|line| like(line)).cloned()
    }

    /// The audit lines of a pod: what was done or withheld, and why.
    pub(crate) fn audit(&self, pod: &str) -> Vec<(String, String)> {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of_pod = |line: &&Value| line["target"] == "meshmedic::audit" && line["fields"]["pod"] == pod;
        let lines = self.log();
        let audit = lines.iter().filter(of_pod).map(|line| &line["fields"]);
        audit
            .map(|fields| (word(&fields["act"]), word(&fields["result"])))
            .collect()
    }

    /// In what call each of its threads is, and the processor time that it took: whether the agent hangs, and where.
    fn calls(&self) -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let read = |task: &Path, file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        let one = |task: std::io::Result<std::fs::DirEntry>| {
            let task = task.ok()?.path();
            let ticks: Vec<String> = read(&task, "stat")
                .split(' ')
                .skip(13)
                .take(2)
                .map(str::to_owned)
                .collect();
            Some(format!(
                "{} {} ticks {}",
                read(&task, "comm").trim(),
                read(&task, "syscall").trim(),
                ticks.join("+")
            ))
        };
        tasks
            .into_iter()
            .flatten()
            .filter_map(one)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Waits for something that the agent shows.
    pub(crate) fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let ended = |agent: &mut Self| agent.child.try_wait().ok().flatten();
        let result = wait::until(what, PATIENCE, || condition(self) || ended(self).is_some());
        if result.is_err() || !condition(self) {
            let log: Vec<String> = self.log().iter().map(Value::to_string).collect();
            panic!(
                "{what} did not come about ({:?}):\n{}\n{}",
                ended(self),
                log.join("\n"),
                self.calls()
            );
        }
    }

    /// So many evictions have brought a captured successor, and the report shows no orphan any more: it is made
    /// anew a moment after the metric.
    pub(crate) fn until_repaired(&mut self, count: u32) {
        self.until("the repairs to succeed and the report to show it", |agent| {
            let healed = |pod: &PodReport| pod.state != State::Orphan;
            agent.metric(SUCCEEDED) == f64::from(count) && agent.report().pods.iter().all(healed)
        });
    }

    /// A metric's value, by its name with labels as it is exposed.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, text) = get(self.metrics, "/metrics");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    }

    /// `/readyz` or `/healthz`: the code and what it says.
    pub(crate) fn health(&self, path: &str) -> (u16, String) {
        get(self.metrics, path)
    }

    /// Where it serves what it reports.
    pub(crate) fn status(&self) -> SocketAddr {
        self.status
    }

    /// What it reports of its node.
    pub(crate) fn report(&self) -> NodeReport {
        let (code, text) = get(self.status, "/v1/node");
        assert_eq!(code, 200, "{text}");
        NodeReport::read(text.as_bytes()).expect("it reports what it can read itself")
    }

    /// Ends it as the kubelet does, and waits.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        kill_process(self.os_pid(), Signal::TERM).expect("it runs");
        self.child.wait().expect("it is ours")
    }

    /// Ends it as the kernel does when memory is short.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is ours");
    }

    /// What the kernel says of each of its threads.
    pub(crate) fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let status = |task: std::io::Result<std::fs::DirEntry>| {
            // A thread that has just ended says nothing.
            std::fs::read_to_string(task.ok()?.path().join("status")).ok()
        };
        tasks.filter_map(status).collect()
    }

    fn os_pid(&self) -> Pid {
        i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a child has a number")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A plain GET.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the endpoint is served");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers with text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.expect("a status line"), body.to_owned())
}
