// SPDX-License-Identifier: Apache-2.0
//! Reading what the kernel shows of a lab.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use meshmedic_lab::Lab;

/// A file of a process, below the lab's `/proc` root.
pub(crate) fn read(lab: &Lab, pid: u32, file: &str) -> String {
    let path = lab.proc_root().join(pid.to_string()).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The inode of a process's network namespace.
pub(crate) fn netns(pid: u32) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().ino()
}

/// The processes that a `/proc` root shows.
pub(crate) fn pids(root: &Path) -> Vec<u32> {
    let names = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).collect()
}

/// The sorted addresses that listen (tcp) or are bound (udp) in a process's namespace.
pub(crate) fn listeners(lab: &Lab, pid: u32, table: &str) -> Vec<String> {
    let state = if table.starts_with("tcp") { "0A" } else { "07" };
    let text = read(lab, pid, &format!("net/{table}"));
    let rows = text
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut found: Vec<_> = rows
        .filter(|row| row[3] == state)
        .map(|row| address(row[1]).to_string())
        .collect();
    found.sort();
    found
}

/// How many connections wait at a listener of a port.
pub(crate) fn backlog(lab: &Lab, pid: u32, table: &str, port: u16) -> u32 {
    let text = read(lab, pid, &format!("net/{table}"));
    let row = text
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = row
        .into_iter()
        .find(|row| row[3] == "0A" && address(row[1]).port() == port)
        .unwrap();
    u32::from_str_radix(row[4].split_once(':').unwrap().1, 16).unwrap()
}

/// `0100007F:3ACD`, each group of four bytes in the machine's order.
fn address(text: &str) -> SocketAddr {
    let (host, port) = text.split_once(':').unwrap();
    let words = host
        .as_bytes()
        .chunks(8)
        .map(|word| str::from_utf8(word).unwrap());
    let bytes: Vec<u8> = words
        .flat_map(|word| u32::from_str_radix(word, 16).unwrap().to_ne_bytes())
        .collect();
    let host: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap()).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap()).into(),
    };
    SocketAddr::new(host, u16::from_str_radix(port, 16).unwrap())
}

/// The lab's own cgroup, of which a pod's process is somewhere below.
pub(crate) fn cgroup_folder(pid: u32) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    let lab = path.split('/').next().unwrap();
    assert!(lab.starts_with("meshmedic-lab-"), "{path}");
    let folders = mounts
        .filter(|mount| mount[2] == "cgroup2")
        .map(|mount| Path::new(mount[1]).join(lab));
    folders.into_iter().find(|folder| folder.exists()).unwrap()
}

/// A lab in a process of its own.
pub(crate) struct Node {
    child: Child,
    output: BufReader<ChildStdout>,
    /// What it says of itself.
    pub(crate) made: serde_json::Value,
}

impl Node {
    pub(crate) fn start(command: &mut Command, arguments: &[&str]) -> Self {
        let command = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // A copy made a moment ago is busy while a child that another thread forked meanwhile still has it open.
        let mut child = loop {
            match command.spawn() {
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                spawned => break spawned.unwrap(),
            }
        };
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let made = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Self { child, output, made }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Has a command carried out.
    pub(crate) fn command(&mut self, command: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "{command}");
    }

    /// Its first processes of pods, and ztunnel.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let pods = self.made["pods"].as_array().unwrap().iter();
        let pids = pods
            .chain([&self.made["ztunnel"]])
            .map(|process| process["pid"].as_u64().unwrap());
        pids.map(|pid| u32::try_from(pid).unwrap()).collect()
    }

    pub(crate) fn proc_root(&self) -> PathBuf {
        PathBuf::from(self.made["procRoot"].as_str().unwrap())
    }

    /// The folder that is to be removed with it.
    pub(crate) fn folder(&self) -> PathBuf {
        let logs = Path::new(self.made["logRoot"].as_str().unwrap());
        logs.ancestors().nth(3).unwrap().to_owned()
    }

    pub(crate) fn wait(&mut self) {
        self.child.wait().unwrap();
    }

    /// Ends it in good order.
    pub(crate) fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}
