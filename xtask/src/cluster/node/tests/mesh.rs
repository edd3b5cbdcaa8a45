// SPDX-License-Identifier: Apache-2.0
//! A node with a mesh, as the scenes see it: what the API says, what the kernel shows, what the agents wrote.

mod kernel;

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{Node, cgroup, own};
use super::{Up, up};
use crate::cluster::store::Store;
use kernel::{all_processes, listens, processes};

pub(super) const REDIRECTION: &str = "ambient.istio.io/redirection";
const AGENTS: &str = "meshmedic";
const ISTIO: &str = "istio-system";
/// The user of the agents at the API server.
const AGENT: &str = "system:serviceaccount:meshmedic:meshmedic";
/// What reads and writes the kernel's rules, by either way.
const RULES: [&str; 4] = [
    "iptables-nft",
    "ip6tables-nft",
    "iptables-legacy",
    "ip6tables-legacy",
];
/// The configuration without istio-cni, and the one that the container runtime reads.
const WITHOUT_ISTIO: &str = "conf/cni.conflist";
const CONFLIST: &str = "cni-net.d/10-node.conflist";

/// A node on which agents may repair.
pub(super) struct Mesh {
    node: Up,
    store: Store,
    clock: Cell<Instant>,
}

/// A pod as the API shows it.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) node: String,
    pub(super) address: String,
    pub(super) restarts: u64,
    pub(super) redirection: String,
    pub(super) ready: bool,
}

/// A request of an agent's that changes something, from the API server's own log.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Write {
    pub(super) object_ref: Object,
    #[serde(rename = "requestURI")]
    uri: String,
    user: User,
    verb: String,
    #[serde(rename = "stageTimestamp")]
    at: String,
    #[serde(default)]
    response_status: Answer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Object {
    pub(super) resource: String,
    pub(super) subresource: String,
    pub(super) name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct User {
    username: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    code: u16,
}

impl Write {
    /// Whether it asks istio-cni for a pod.
    pub(super) fn is_ask(&self) -> bool {
        self.object_ref.subresource == "status" && self.is_done()
    }

    pub(super) fn is_eviction(&self) -> bool {
        self.object_ref.subresource == "eviction" && !self.uri.contains("dryRun")
    }

    /// Whether it writes what only a restart writes.
    pub(super) fn is_of_a_restart(&self) -> bool {
        let lease = self.object_ref.resource == "leases" && self.object_ref.name != "meshmedic-heals";
        self.object_ref.subresource == "eviction" || lease
    }

    /// Whether the API server did it.
    pub(super) fn is_done(&self) -> bool {
        (200..300).contains(&self.response_status.code)
    }
}

/// Who starts a service again, stopped.
pub(super) struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        // If it is gone, so is the node.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

impl Drop for Mesh {
    /// Says what the parts said, where a scene failed: the node and its logs go.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let of = |namespace: &str, what: &str| {
            let words = ["kubectl", "--namespace", namespace, "logs", what, "--tail", "60"];
            self.node.output(&words).unwrap_or_default()
        };
        println!("the agent says:\n{}", of(AGENTS, "daemonset/meshmedic"));
        println!("istio-cni says:\n{}", of(ISTIO, "daemonset/istio-cni-node"));
        println!("the agents wrote:");
        for write in self.writes() {
            let Object {
                resource,
                subresource,
                name,
            } = &write.object_ref;
            let code = write.response_status.code;
            println!(
                "  {} {} {resource}/{subresource} {name}: {code}",
                write.at, write.verb
            );
        }
    }
}

impl Mesh {
    /// Starts the node, and lets the agents repair as the manifests have it.
    pub(super) fn start() -> Self {
        Self::start_on(1)
    }

    /// The same on so many nodes.
    pub(super) fn start_on(nodes: usize) -> Self {
        let (node, _, store) = up(nodes, true);
        let mesh = Self {
            node,
            store,
            clock: Cell::new(Instant::now()),
        };
        mesh.say("the node is up");
        mesh.kubectl(&["apply", "--kustomize", "/cluster-deploy/kustomize/repair"]);
        mesh.agents_ready();
        mesh.say("agents may repair");
        mesh
    }

    /// Says what came about, and how long after the last.
    pub(super) fn say(&self, what: &str) {
        let before = self.clock.replace(Instant::now());
        println!("{:>7.1} s  {what}", before.elapsed().as_secs_f32());
    }

    #[track_caller]
    pub(super) fn run(&self, words: &[&str]) -> String {
        let output = self.node.command(words).unwrap().output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {error}", words.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    pub(super) fn kubectl(&self, words: &[&str]) -> String {
        self.run(&[&["kubectl"], words].concat())
    }

    /// Gives kubectl a document.
    #[track_caller]
    pub(super) fn apply(&self, object: &Value) {
        let file = self.node.folder.join("run/object.json");
        fs::write(&file, object.to_string()).unwrap();
        self.kubectl(&["apply", "--filename", "/cluster/run/object.json"]);
    }

    /// The command of this project, run in the node.
    pub(super) fn meshmedic(&self, words: &[&str]) -> Output {
        let program = own("meshmedic").unwrap();
        let words = [&[program.to_str().unwrap()], words].concat();
        self.node.command(&words).unwrap().output().unwrap()
    }

    #[track_caller]
    pub(super) fn until(&self, what: &str, condition: impl Fn() -> bool) {
        self.node.until(what, condition).unwrap();
    }

    /// The power fails and comes back.
    pub(super) fn reboot(&self) {
        self.node.reboot(&self.store).unwrap();
    }

    /// The same of another node.
    pub(super) fn reboot_other(&self, name: &str) {
        let other = Node::named(&self.store, name).unwrap();
        other.reboot(&self.store).unwrap();
    }

    pub(super) fn agents_ready(&self) {
        let status = ["rollout", "status", "daemonset/meshmedic", "--timeout", "300s"];
        self.kubectl(&[&["--namespace", AGENTS][..], &status].concat());
    }

    /// Sets a flag of the agents by its environment variable.
    pub(super) fn set_agents(&self, variable: &str) {
        self.kubectl(&[
            "--namespace",
            AGENTS,
            "set",
            "env",
            "daemonset/meshmedic",
            variable,
        ]);
        self.agents_ready();
    }

    /// A namespace in the mesh, with an application of so many pods.
    pub(super) fn application(&self, namespace: &str, name: &str, replicas: usize) {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": namespace, "labels": { "istio.io/dataplane-mode": "ambient" } },
        }));
        let labels = json!({ "app": name });
        self.apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": name, "namespace": namespace },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": {
                        "terminationGracePeriodSeconds": 1,
                        "containers": [{
                            "name": name,
                            "image": "meshmedic.local/busybox:node",
                            "imagePullPolicy": "Never",
                            "args": ["sleep", "2147483647"],
                        }],
                    },
                },
            },
        }));
    }

    /// Pods that live; of one namespace, or of all applications if it is empty.
    pub(super) fn pods(&self, namespace: &str) -> Vec<Pod> {
        let mut pods = self.all_pods(namespace);
        let others = [ISTIO, "kube-system", AGENTS];
        pods.retain(|pod| !others.contains(&pod.namespace.as_str()));
        pods
    }

    /// A pod of Istio's, by its DaemonSet or Deployment.
    pub(super) fn component(&self, name: &str) -> Option<Pod> {
        let mut pods = self.all_pods(ISTIO).into_iter();
        pods.find(|pod| pod.name.starts_with(&format!("{name}-")))
    }

    fn all_pods(&self, namespace: &str) -> Vec<Pod> {
        let of = match namespace {
            "" => vec!["--all-namespaces"],
            namespace => vec!["--namespace", namespace],
        };
        let words = [&["kubectl", "get", "pods", "--output", "json"][..], &of].concat();
        let answer = RefCell::new(None);
        // No answer is no sign that there are none.
        self.until("the pods from the API server", || {
            *answer.borrow_mut() = self.node.output(&words);
            answer.borrow().is_some()
        });
        let list: Value = serde_json::from_str(&answer.into_inner().unwrap()).unwrap();
        let pods = list["items"].as_array().unwrap().iter();
        let lives = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        pods.filter(lives).map(Pod::read).collect()
    }

    pub(super) fn succeeds(&self, words: &[&str]) -> bool {
        self.node.succeeds(words)
    }

    /// Ends a service of the node's, and keeps it from being started again until what is returned is dropped.
    pub(super) fn stop_service(&self, program: &str) -> Stopped {
        let process = self.process(program);
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap();
        // After the program's name, which may hold anything: its state, and then who started it.
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        let starter = rest.split(' ').nth(1).unwrap().parse().unwrap();
        let starter = Pid::from_raw(starter).unwrap();
        kill_process(starter, Signal::STOP).unwrap();
        kill_process(process, Signal::KILL).unwrap();
        Stopped(starter)
    }

    /// Waits for pods that the kernel shows captured, and of which istio-cni says so. The kubelet may tell of their
    /// addresses last.
    #[track_caller]
    pub(super) fn captured(&self, namespace: &str, count: usize) -> Vec<Pod> {
        self.until(&format!("{count} captured pods in {namespace:?}"), || {
            let pods = self.pods(namespace);
            let addressed = pods.iter().all(|pod| !pod.address.is_empty());
            pods.len() == count && addressed && self.all_captured(&pods)
        });
        self.pods(namespace)
    }

    pub(super) fn all_captured(&self, pods: &[Pod]) -> bool {
        let processes = processes();
        let captured = |pod: &Pod| {
            let first = processes.get(&pod.uid).and_then(|found| found.first());
            first.is_some_and(|process| listens(*process))
        };
        pods.iter()
            .all(|pod| pod.redirection == "enabled" && captured(pod))
    }

    /// How many of these the kernel shows captured.
    pub(super) fn count_captured(&self, pods: &[Pod]) -> usize {
        let processes = processes();
        let captured = pods.iter().filter(|pod| {
            let first = processes.get(&pod.uid).and_then(|found| found.first());
            first.is_some_and(|process| listens(*process))
        });
        captured.count()
    }

    /// The same pod, as it is now.
    #[track_caller]
    pub(super) fn again(&self, pod: &Pod) -> Pod {
        let pods = self.pods(&pod.namespace);
        let found = pods.into_iter().find(|other| other.uid == pod.uid);
        found.unwrap_or_else(|| panic!("{} with the UID {} is gone", pod.name, pod.uid))
    }

    /// None of these was replaced or started anew.
    #[track_caller]
    pub(super) fn assert_untouched(&self, pods: &[Pod]) {
        for pod in pods {
            let now = self.again(pod);
            assert_eq!(now.restarts, pod.restarts, "{} was started anew", pod.name);
            assert_eq!(now.address, pod.address, "{} has another sandbox", pod.name);
        }
    }

    /// Takes a pod out of the mesh and lets istio-cni believe that it is in.
    pub(super) fn orphan(&self, pod: &Pod) {
        let namespace = ["--namespace", pod.namespace.as_str()];
        let out = ["label", "pod", &pod.name, "istio.io/dataplane-mode=none"];
        self.kubectl(&[&namespace[..], &out].concat());
        self.until("the pod to be let go", || {
            let now = self.again(pod);
            now.redirection.is_empty() && self.count_captured(&[now]) == 0
        });
        let patch = json!({ "metadata": {
            "labels": { "istio.io/dataplane-mode": null },
            "annotations": { REDIRECTION: "enabled" },
        } });
        let patch = patch.to_string();
        let back = ["patch", "pod", &pod.name, "--type", "merge", "--patch", &patch];
        self.kubectl(&[&namespace[..], &back].concat());
    }

    /// Whether this istio-cni leaves a pod outside whose sandbox it was not called for, after a reboot among others. Up
    /// to 1.30 it takes such a pod in as soon as it hears of its new address.
    pub(super) fn forgets(&self) -> bool {
        let label = "jsonpath={.metadata.labels.app\\.kubernetes\\.io/version}";
        let get = ["get", "daemonset", "istio-cni-node", "--output", label];
        let version = self.kubectl(&[&["--namespace", "istio-system"][..], &get].concat());
        let mut numbers = version.trim().split('.').map(str::parse::<u32>);
        let version = (numbers.next().unwrap().unwrap(), numbers.next().unwrap().unwrap());
        version >= (1, 31)
    }

    /// Replaces a pod's sandbox past istio-cni, which goes on to remember the one before.
    pub(super) fn replace_sandbox(&self, pod: &Pod) -> Pod {
        let file = self.node.folder.join(CONFLIST);
        let with_istio = fs::read(&file).unwrap();
        assert!(String::from_utf8_lossy(&with_istio).contains("istio-cni"));
        let agent = self.process("install-cni");
        kill_process(agent, Signal::STOP).unwrap();
        fs::copy(self.node.folder.join(WITHOUT_ISTIO), &file).unwrap();
        // The container runtime reads the folder anew when it is told that it changed, and says nothing of it.
        std::thread::sleep(Duration::from_secs(2));
        for process in &processes()[&pod.uid] {
            kill_process(*process, Signal::KILL).unwrap();
        }
        self.until("the pod in another sandbox", || {
            let now = self.again(pod);
            now.address != pod.address && !now.address.is_empty() && now.ready
        });
        let now = self.again(pod);
        fs::write(&file, with_istio).unwrap();
        kill_process(agent, Signal::CONT).unwrap();
        if self.forgets() {
            assert_eq!(self.rules(&now), 0, "istio-cni was called for the sandbox");
        }
        now
    }

    /// How many rules of Istio's stand in a pod, written by whatever backend.
    pub(super) fn rules(&self, pod: &Pod) -> usize {
        let saved = RULES.map(|program| self.in_pod(pod, &[&format!("{program}-save")]));
        let lines = saved.iter().flat_map(|text| text.lines());
        lines.filter(|line| line.starts_with("-A ISTIO")).count()
    }

    /// Takes all rules out of a pod, and leaves its listeners.
    pub(super) fn flush(&self, pod: &Pod) {
        for program in RULES {
            for table in ["nat", "mangle", "raw"] {
                for act in ["-F", "-X"] {
                    self.in_pod(pod, &[program, "-t", table, act]);
                }
            }
        }
        self.in_pod(pod, &["nft", "flush", "ruleset"]);
        assert_eq!(self.rules(pod), 0);
    }

    /// Runs a program of the node's in a pod's network namespace, and gives what it says.
    fn in_pod(&self, pod: &Pod, words: &[&str]) -> String {
        let init = self.node.init().unwrap().as_raw_nonzero();
        let process = self.process_of(pod);
        let output = Command::new("nsenter")
            .arg(format!("--mount=/proc/{init}/ns/mnt"))
            .arg(format!("--net=/proc/{process}/ns/net"))
            .arg("--")
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A process of a pod. Just after its sandbox was replaced there may be none yet.
    fn process_of(&self, pod: &Pod) -> std::num::NonZeroI32 {
        let first = || Some(processes().get(&pod.uid)?.first()?.as_raw_nonzero());
        self.until("a process of the pod", || first().is_some());
        first().unwrap()
    }

    /// The inode of a pod's network namespace.
    pub(super) fn netns(&self, pod: &Pod) -> u64 {
        let process = self.process_of(pod);
        fs::metadata(format!("/proc/{process}/ns/net")).unwrap().ino()
    }

    /// The one process of the node that this program runs in.
    #[track_caller]
    pub(super) fn process(&self, program: &str) -> Pid {
        self.find_process(program)
            .unwrap_or_else(|| panic!("no {program} runs"))
    }

    pub(super) fn find_process(&self, program: &str) -> Option<Pid> {
        let own = format!("/{}", cgroup(self.node.name));
        let mut found = all_processes().filter(|process| {
            let process = process.as_raw_nonzero();
            let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
            let first = String::from_utf8_lossy(first);
            groups.contains(&own) && first.rsplit('/').next() == Some(program)
        });
        found.next()
    }

    /// What the agents wrote since the cluster is there, in order.
    pub(super) fn writes(&self) -> Vec<Write> {
        let log = self.node.folder.join("logs/audit.log");
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Write>(line).ok());
        lines.filter(|write| write.user.username == AGENT).collect()
    }

    pub(super) fn asks(&self) -> usize {
        self.writes().iter().filter(|write| write.is_ask()).count()
    }

    /// The asks for one pod.
    pub(super) fn asks_for(&self, pod: &Pod) -> usize {
        let writes = self.writes();
        let asks = writes.iter().filter(|write| write.is_ask());
        asks.filter(|write| write.object_ref.name == pod.name).count()
    }

    /// Nothing of a restart was ever written.
    #[track_caller]
    pub(super) fn assert_no_restart(&self) {
        let mut writes = self.writes();
        assert!(
            !writes.is_empty(),
            "the API server's log has nothing of the agents"
        );
        writes.retain(Write::is_of_a_restart);
        assert!(writes.is_empty(), "{writes:#?}");
    }

    /// What the node's agent reports, whether the API server answers or not.
    pub(super) fn report(&self) -> Value {
        serde_json::from_slice(&self.ask_agent("9101/v1/node")).unwrap_or(Value::Null)
    }

    /// One of the agent's metrics, by name and labels as they are shown; zero where it is not.
    pub(super) fn metric(&self, name: &str) -> f64 {
        let shown = self.ask_agent("9100/metrics");
        let shown = String::from_utf8_lossy(&shown);
        let mut values = shown.lines().filter_map(|line| line.strip_prefix(name));
        values.next().map_or(0.0, |value| value.trim().parse().unwrap())
    }

    fn ask_agent(&self, port_and_path: &str) -> Vec<u8> {
        let Some(process) = self.find_process("meshmedic") else {
            return Vec::new();
        };
        let output = Command::new("nsenter")
            .args(["--target", &process.as_raw_nonzero().to_string(), "--net", "--"])
            .args(["curl", "--silent", "--fail"])
            .arg(format!("http://127.0.0.1:{port_and_path}"))
            .output()
            .unwrap();
        output.stdout
    }

    /// The state of a pod, by the node's agent.
    pub(super) fn state(&self, pod: &Pod) -> String {
        let report = self.report();
        let pods = report["pods"].as_array().cloned().unwrap_or_default();
        let found = pods.iter().find(|found| found["uid"] == pod.uid.as_str());
        found.map_or_else(String::new, |found| text(&found["state"]))
    }

    /// The conditions of the node, by its agent.
    pub(super) fn conditions(&self) -> String {
        self.report()["conditions"].to_string()
    }

    /// Waits until the agent has settled: nothing of the node is at fault.
    #[track_caller]
    pub(super) fn settled(&self) {
        self.until("the agent to find the node in order", || {
            let report = self.report();
            report.is_object() && !report["conditions"].to_string().contains("-fault")
        });
    }
}

impl Pod {
    fn read(object: &Value) -> Self {
        let metadata = &object["metadata"];
        let status = &object["status"];
        let of = |list: &Value| list.as_array().cloned().unwrap_or_default();
        let restarts = of(&status["containerStatuses"]);
        let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        Self {
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            node: text(&object["spec"]["nodeName"]),
            address: text(&status["podIP"]),
            restarts: restarts
                .iter()
                .filter_map(|container| container["restartCount"].as_u64())
                .sum(),
            redirection: text(&metadata["annotations"][REDIRECTION]),
            ready: of(&status["conditions"]).iter().any(ready),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
