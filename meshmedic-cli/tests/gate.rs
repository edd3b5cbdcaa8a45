// SPDX-License-Identifier: Apache-2.0
//! `meshmedic gate` in real network namespaces. Needs root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};

use meshmedic_lab::{Lab, Pod, PodSpec, ZtunnelSpec, need};

/// A gate in a pod's namespace, as nobody in particular and with no capability.
struct Gate {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    folder: tempfile::TempDir,
}

impl Gate {
    fn start(pod: &Pod, timeout: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("termination-log");
        std::fs::write(&log, "").unwrap();
        // The folder and the file are for whoever the gate runs as.
        for path in [folder.path(), &log] {
            std::os::unix::fs::chown(path, Some(65532), Some(65532)).unwrap();
        }
        let mut child = Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", pod.pid()))
            .args([
                "--",
                "setpriv",
                "--reuid=65532",
                "--regid=65532",
                "--clear-groups",
                "--bounding-set=-all",
            ])
            .args([
                "--inh-caps=-all",
                "--no-new-privs",
                env!("CARGO_BIN_EXE_meshmedic"),
                "gate",
                "--timeout",
                timeout,
            ])
            .arg("--termination-log")
            .arg(&log)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, folder }
    }

    fn says(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        (
            status,
            std::fs::read_to_string(self.folder.path().join("termination-log")).unwrap(),
        )
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_gate_opens_when_ztunnel_listens_and_not_before() {
    if !need::root("gate: it opens") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(PodSpec::new("shop", "gated")).unwrap();
    // What listens elsewhere or otherwise opens nothing.
    pod.listen("127.0.0.1:15001".parse().unwrap()).unwrap();
    pod.listen("0.0.0.0:15006".parse().unwrap()).unwrap();
    let other = lab.pod(PodSpec::new("shop", "other")).unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol(&other).unwrap();
    let mut gate = Gate::start(&pod, "1h");
    assert_eq!(gate.says(), "waiting for ztunnel to listen on 15001,15008");
    assert!(gate.child.try_wait().unwrap().is_none());
    pod.close("127.0.0.1:15001".parse().unwrap()).unwrap();
    pod.close("0.0.0.0:15006".parse().unwrap()).unwrap();
    ztunnel.enrol(&pod).unwrap();
    // It may have seen the moment between.
    while gate.says() != "ztunnel listens: the pod is captured" {}
    let (status, message) = gate.end();
    assert_eq!((status.code(), message.as_str()), (Some(0), ""));
    // Where ztunnel listens already, it opens at once.
    let mut gate = Gate::start(&other, "1h");
    assert_eq!(gate.says(), "ztunnel listens: the pod is captured");
    assert_eq!(gate.end().0.code(), Some(0));
}

#[test]
fn a_gate_that_waited_in_vain_fails_and_says_why() {
    if !need::root("gate: it fails") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(PodSpec::new("shop", "forgotten")).unwrap();
    let (status, message) = Gate::start(&pod, "1s").end();
    assert_eq!(status.code(), Some(1));
    assert!(
        message.contains("15001,15006,15008") && message.contains("after 1s"),
        "{message}"
    );
}

#[test]
fn a_gate_that_is_told_to_end_does() {
    if !need::root("gate: it ends") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(PodSpec::new("shop", "leaving")).unwrap();
    let mut gate = Gate::start(&pod, "1h");
    assert!(gate.says().starts_with("waiting"));
    let pid = rustix::process::Pid::from_child(&gate.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let (status, message) = gate.end();
    assert_eq!(status.code(), Some(1), "{message}");
    assert!(message.contains("told to end"), "{message}");
}
