// SPDX-License-Identifier: Apache-2.0
//! The lab of an ordinary user.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use meshmedic_lab::{need, wait};

use crate::common::Node;

/// The user that has nothing.
const NOBODY: u32 = 65534;
const SOON: Duration = Duration::from_secs(20);

#[test]
fn an_ordinary_user_has_a_lab_in_a_user_namespace() {
    if !need::userns("an_ordinary_user_has_a_lab_in_a_user_namespace") {
        return;
    }
    // A copy, since an ordinary user may not be able to reach the build's folder.
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("meshmedic-lab");
    fs::copy(env!("CARGO_BIN_EXE_meshmedic-lab"), &binary).unwrap();
    let mut command = Command::new(&binary);
    command
        .env("TMPDIR", folder.path())
        .env_remove("MESHMEDIC_LAB_BIN")
        .current_dir("/");
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut node = Node::start(&mut command, &["node", "--user", "5", "10"]);
    assert_eq!(node.made["mode"], "UserNamespace");
    assert_eq!(node.made["bystanders"], 10);
    let root = node.proc_root();
    let read = |pid: u32, file: &str| fs::read_to_string(root.join(pid.to_string()).join(file));
    let inode = |pid: u32| {
        fs::metadata(root.join(pid.to_string()).join("ns/net"))
            .unwrap()
            .ino()
    };
    let pods = node.made["pods"].as_array().unwrap().clone();
    assert_eq!(pods.len(), 5);
    let host = inode(1);
    assert_ne!(host, fs::metadata("/proc/self/ns/net").unwrap().ino());
    for pod in &pods {
        let pid = u32::try_from(pod["pid"].as_u64().unwrap()).unwrap();
        assert_eq!(pod["netns"], inode(pid));
        assert_ne!(inode(pid), host);
        assert_eq!(
            read(pid, "cgroup").unwrap(),
            format!("0::{}\n", pod["cgroup"].as_str().unwrap())
        );
        assert!(pod["cgroup"].as_str().unwrap().starts_with("/kubepods.slice/"));
        let trie = read(pid, "net/fib_trie").unwrap();
        assert!(trie.contains("Id 100:") && trie.contains(pod["addresses"][0].as_str().unwrap()));
        assert_eq!(read(pid, "net/tcp6").unwrap().lines().count(), 1 + 4);
        assert!(read(pid, "stat").unwrap().starts_with(&pid.to_string()));
    }
    assert_eq!(read(1, "cgroup").unwrap(), "0::/init.scope\n");
    let ztunnel = u32::try_from(node.made["ztunnel"]["pid"].as_u64().unwrap()).unwrap();
    assert_eq!(read(ztunnel, "comm").unwrap(), "ztunnel\n");

    let first = u32::try_from(pods[0]["pid"].as_u64().unwrap()).unwrap();
    for (command, rows) in [
        ("unenrol cart-0", 0),
        ("enrol cart-0", 4),
        ("kill", 0),
        ("start", 4),
        ("hang", 4),
    ] {
        node.command(command);
        assert_eq!(
            read(first, "net/tcp6").unwrap().lines().count(),
            1 + rows,
            "{command}"
        );
    }
    let mut pids = node.pids();
    pids.retain(|pid| *pid != ztunnel);
    let made = node.folder();
    let lives =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(pids.iter().all(lives));
    node.end();
    assert!(!made.exists());
    wait::until("every process to be gone", SOON, || !pids.iter().any(lives)).unwrap();
}
