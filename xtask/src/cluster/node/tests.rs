// SPDX-License-Identifier: Apache-2.0
//! The whole node. It takes programs that a change's own tests do not wait for, so it runs by itself.

mod broken;
mod faults;
mod heal;
mod mesh;
mod reboot;
mod two;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::ops::Deref;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{KUBECONFIG, NAMES, Node, Nodes, Wanted, cgroup, hierarchies, own};
use crate::cluster::parts::Parts;
use crate::cluster::store::Store;

/// What of this machine a node might change, as it is now.
fn machine() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    found.insert("mounts".to_owned(), mounts);
    for setting in [
        "kernel/keys/root_maxkeys",
        "kernel/panic",
        "kernel/panic_on_oops",
        "net/ipv4/ip_forward",
        "net/netfilter/nf_conntrack_max",
        "vm/overcommit_memory",
        "vm/panic_on_oom",
    ] {
        let value = fs::read_to_string(Path::new("/proc/sys").join(setting)).unwrap_or_default();
        found.insert(setting.to_owned(), value);
    }
    for place in [
        "/etc/cni",
        "/etc/kubernetes",
        "/opt/cni",
        "/run/containerd",
        "/run/netns",
        "/sys/class/net",
        "/var/lib/cni",
        "/var/lib/containerd",
        "/var/lib/kubelet",
        "/var/log/pods",
    ] {
        let mut names: Vec<String> = fs::read_dir(place)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let there = Path::new(place).exists();
        found.insert(place.to_owned(), format!("{there} {}", names.join(" ")));
    }
    let hosts = fs::read_to_string("/etc/hosts").unwrap();
    found.insert("hosts".to_owned(), hosts);
    let host = Command::new("hostname").output();
    found.insert(
        "hostname".to_owned(),
        host.map(|host| String::from_utf8_lossy(&host.stdout).into_owned())
            .unwrap_or_default(),
    );
    for hierarchy in hierarchies().unwrap() {
        for name in NAMES {
            let group = hierarchy.join(cgroup(name));
            found.insert(group.display().to_string(), group.exists().to_string());
        }
    }
    found
}

/// The first node, which is ended with the others also where an assertion fails.
struct Up(Nodes);

impl Deref for Up {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.0.first()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // What could not be ended is seen in what the machine then has.
        let _ = self.0.down();
    }
}

/// Starts so many nodes, which must not be up.
fn up(nodes: usize, mesh: bool) -> (Up, Wanted, Store) {
    let store = Store::open(&Parts::read().unwrap()).unwrap();
    let up = Up(Nodes::of_machine(&store).unwrap());
    let wanted = Wanted {
        nodes,
        mesh,
        ztunnel: None,
    };
    up.0.up(&store, &wanted).unwrap();
    (up, wanted, store)
}

#[test]
#[ignore = "a whole node: `cargo xtask cluster build`, then `cargo xtask test --real`"]
fn a_node_runs_pods_and_leaves_the_machine_as_it_was() {
    let before = machine();
    let (node, wanted, store) = up(1, false);
    let again = node.0.up(&store, &wanted).unwrap_err().to_string();
    assert!(again.contains("cargo xtask cluster down"), "{again}");
    let shop = "/cluster/conf/shop.yaml";
    node.run(&["kubectl", "apply", "--filename", shop]).unwrap();
    let status = ["rollout", "status", "deployment/cart", "--timeout", "300s"];
    let status = [&["kubectl", "--namespace", "shop"][..], &status].concat();
    node.run(&status).unwrap();
    // A name of a Service, from within a pod.
    let pod = ["exec", "deployment/cart", "--", "/bin/busybox", "nslookup"];
    let name = ["kubernetes.default.svc.cluster.local"];
    let asked = [&["kubectl", "--namespace", "shop"][..], &pod, &name].concat();
    node.until("the names of Services", || {
        node.output(&asked).is_some_and(|said| said.contains("10.96.0.1"))
    })
    .unwrap();

    node.reboot(&store).unwrap();
    node.until("the pods to run again", || {
        let count = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
        let pods = ["kubectl", "--namespace", "shop", "get", "pods", "--output", count];
        node.output(&pods).is_some_and(|counts| counts.trim() == "1 1")
    })
    .unwrap();

    node.0.down().unwrap();
    let after = machine();
    for (what, value) in &before {
        assert_eq!(after.get(what), Some(value), "{what} is not as it was");
    }
    assert!(!node.folder.exists(), "{} is left", node.folder.display());
    let none = node.command(&["true"]).unwrap_err().to_string();
    assert!(none.contains("cargo xtask cluster up"), "{none}");
}

#[test]
#[ignore = "a whole node: `cargo xtask cluster build`, then `cargo xtask test --real`"]
fn a_node_has_a_mesh_in_which_nobody_is_lost() {
    let (node, ..) = up(1, true);
    let pods = node
        .output(&["kubectl", "get", "pods", "--all-namespaces", "--no-headers"])
        .unwrap();
    for pod in ["istiod", "istio-cni-node", "ztunnel", "meshmedic", "cart"] {
        let running = |line: &str| line.contains(pod) && line.contains("Running");
        assert!(pods.lines().any(running), "no {pod} is running:\n{pods}");
    }
    // The real istio-cni took them in: it says so, and their ports are open.
    let said = "jsonpath={.items[*].metadata.annotations.ambient\\.istio\\.io/redirection}";
    let said = node.output(&["kubectl", "--namespace", "shop", "get", "pods", "--output", said]);
    assert_eq!(said.unwrap().trim(), "enabled enabled");
    let command = own("meshmedic").unwrap();
    let command = command.to_str().unwrap();
    node.run(&[command, "scan", "--namespace", "shop"]).unwrap();
}

#[test]
#[ignore = "a whole node: `cargo xtask cluster build`, then `cargo xtask test --real`"]
fn a_node_is_shown_as_others_clusters_are() {
    let (node, ..) = up(1, true);
    let command = own("meshmedic").unwrap();
    e2e(&node, command.to_str().unwrap());
}

/// What is shown on clusters of others, on this one; also on the node, once the application is gone from it.
fn e2e(node: &Node, command: &str) {
    let task = own("xtask").unwrap();
    let kubeconfig = ["--kubeconfig", KUBECONFIG, "--program", command];
    let image = ["--image", "meshmedic.local/busybox:node"];
    let task_name = task.to_str().unwrap();
    let words = [&[task_name, "e2e"][..], &kubeconfig, &image].concat();
    node.run(&words).unwrap();
    assert!(nothing_is_left(node));

    let words = [&words[..], &["--disruptive", "--node", "node-a"]].concat();
    let refused = node.run(&words).unwrap_err();
    assert!(refused.to_string().contains("shop/cart-"), "{refused:#}");
    assert!(nothing_is_left(node));
    let shop = ["kubectl", "--namespace", "shop"];
    node.run(&[&shop[..], &["delete", "deployment", "cart", "--wait"]].concat())
        .unwrap();
    node.run(&[&shop[..], &["delete", "pods", "--all", "--wait"]].concat())
        .unwrap();

    let (code, said) = typed(node, &words, "node-b", || ());
    assert!(code == Some(1) && nothing_is_left(node), "{said}");
    let (code, said) = typed(node, &words, "node-a", || {
        node.until("ztunnel to be kept away", || is_kept_away(node))
            .unwrap();
        let pressed = Path::new("/proc").read_dir().unwrap().flatten().find(|process| {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
            first == task.as_os_str().as_encoded_bytes()
                && line.windows(12).any(|word| word == b"--disruptive")
        });
        let process = pressed.unwrap().file_name();
        let process = process.to_str().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(process).unwrap(), Signal::INT).unwrap();
    });
    assert!(code == Some(130), "{code:?} {said}");
    assert!(nothing_is_left(node) && !is_kept_away(node), "{said}");
    let (code, said) = typed(node, &words, "node-a", || ());
    assert!(code == Some(0) && nothing_is_left(node), "{said}");
}

/// Runs a command that asks for a word, and gives how it ended and what it said.
fn typed(node: &Node, words: &[&str], word: &str, meanwhile: impl FnOnce()) -> (Option<i32>, String) {
    let mut child = node
        .command(words)
        .unwrap()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{word}").unwrap();
    drop(input);
    meanwhile();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn is_kept_away(node: &Node) -> bool {
    let get = [
        "kubectl",
        "--namespace",
        "istio-system",
        "get",
        "daemonset",
        "ztunnel",
    ];
    let said = node.output(&[&get[..], &["--output", "json"]].concat());
    said.unwrap().contains("meshmedic.io/e2e-affinity-before")
}

fn nothing_is_left(node: &Node) -> bool {
    let namespace = [
        "kubectl",
        "get",
        "namespace",
        "meshmedic-e2e",
        "--ignore-not-found",
    ];
    node.output(&namespace).is_some_and(|said| said.trim().is_empty())
}
