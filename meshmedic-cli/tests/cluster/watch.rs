// SPDX-License-Identifier: Apache-2.0
//! `meshmedic watch`: a line a transition, and the screen in a real terminal.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use meshmedic_lab::{need, wait};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};

use crate::fleet::{an_orphan_of_two, install, run};
use crate::process::PATIENCE;
use crate::world::{HEAL, World};

/// `meshmedic watch`, ended when this is dropped.
struct Watch {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Watch {
    fn start(world: &World, flags: &[&str], set: impl FnOnce(&mut Command) -> Option<File>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshmedic"));
        command
            .args(["watch", "--interval", "1s"])
            .args(flags)
            .arg("--kubeconfig")
            .arg(world.cluster.api().kubeconfig());
        let from = set(&mut command);
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&said);
        let keep = move |text: &str| kept.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        match (child.stdout.take(), from) {
            (Some(out), _) => std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    keep(&format!("{line}\n"));
                }
            }),
            (None, Some(mut terminal)) => std::thread::spawn(move || {
                let mut chunk = [0; 4096];
                // A terminal that nobody holds any more fails to be read.
                while let Ok(count @ 1..) = terminal.read(&mut chunk) {
                    keep(&String::from_utf8_lossy(&chunk[..count]));
                }
            }),
            (None, None) => panic!("nothing to listen to"),
        };
        Self { child, said }
    }

    /// Draws on the program's side of a terminal.
    fn on_terminal(world: &World, person: &File, program: &File) -> Self {
        let side = || program.try_clone().unwrap();
        Self::start(world, &[], |command| {
            command
                .env("TERM", "xterm")
                .stdin(side())
                .stdout(side())
                .stderr(side());
            Some(person.try_clone().unwrap())
        })
    }

    fn following(world: &World, flags: &[&str]) -> Self {
        let flags = [&["--follow", "-o", "json"], flags].concat();
        let mut watch = Self::start(world, &flags, |command| {
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            None
        });
        // What was before it began is no news to it.
        let mut first = String::new();
        let mut begun = BufReader::new(watch.child.stderr.take().unwrap());
        begun.read_line(&mut first).unwrap();
        assert!(first.contains("following 1 agent;"), "{first}");
        watch
    }

    fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn until_said(&self, words: &str) {
        let said = || self.said().contains(words);
        wait::until(words, PATIENCE, said).unwrap_or_else(|error| panic!("{error}: {}", self.said()));
    }

    fn lines(&self) -> Vec<Value> {
        let said = self.said();
        said.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn until_state(&self, state: &str) {
        let came = || self.lines().iter().any(|line| line["to"] == state);
        wait::until(state, PATIENCE, came).unwrap_or_else(|error| panic!("{error}: {}", self.said()));
    }

    fn end(&mut self, signal: Signal) -> Option<i32> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn each_transition_is_a_line_and_a_broken_pipe_goes_on_where_it_broke() {
    if !need::root("each_transition_is_a_line_and_a_broken_pipe_goes_on_where_it_broke") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let agent = world.ready_agent(&HEAL);
    install(&world, &agent);
    let mut first = Watch::following(&world, &["-n", pods[0].namespace()]);
    world.cluster.set_cni(false);
    let lost = &pods[0];
    world.cluster.orphan(lost).unwrap();
    first.until_state("orphan");
    let lines = first.lines();
    assert!(lines.iter().all(|line| line["uid"] == lost.uid()), "{lines:#?}");
    let orphan = lines.iter().find(|line| line["to"] == "orphan").unwrap();
    assert_eq!(orphan["pod"], lost.name());
    assert_eq!(orphan["from"], "suspect");
    assert!(orphan["afterMs"].as_u64().is_some_and(|ms| ms > 0), "{orphan}");
    assert_eq!(first.end(Signal::TERM), Some(0));
    // It comes back while nobody listens.
    world.cluster.set_cni(true);
    world.cluster.wait_captured(lost.namespace(), "cart", 2).unwrap();
    let last = lines.last().unwrap()["at"].as_str().unwrap();
    let mut second = Watch::following(&world, &["--since", last]);
    second.until_state("captured");
    let rest = second.lines();
    let states: Vec<_> = rest.iter().map(|line| line["to"].as_str().unwrap()).collect();
    assert!(!states.contains(&"orphan"), "{rest:#?}");
    let back = rest.iter().find(|line| line["to"] == "captured").unwrap();
    assert!(back["outsideMs"].as_u64().is_some_and(|ms| ms > 0), "{back}");
    assert_eq!(second.end(Signal::INT), Some(0));
}

/// A terminal: the side of the person, and that of the program.
fn terminal(columns: u16, lines: u16) -> (File, File) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let name = ptsname(&person, Vec::new()).unwrap();
    let program: OwnedFd =
        rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let size = Winsize {
        ws_row: lines,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&program, size).unwrap();
    (person.into(), program.into())
}

#[test]
fn the_screen_shows_an_orphan_and_its_story_and_gives_the_terminal_back() {
    if !need::root("the_screen_shows_an_orphan_and_its_story_and_gives_the_terminal_back") {
        return;
    }
    let (world, pods, _agent) = an_orphan_of_two();
    for ends in ["a key", "a signal"] {
        let (mut person, program) = terminal(80, 24);
        let modes = tcgetattr(&program).unwrap().local_modes;
        let mut watch = Watch::on_terminal(&world, &person, &program);
        watch.until_said(&format!("> shop/{}", pods[0].name()));
        watch.until_said("1 of 1 agents answer");
        person.write_all(b"\r").unwrap();
        watch.until_said("Esc back");
        watch.until_said("fell out of the mesh");
        let code = if ends == "a key" {
            person.write_all(b"q").unwrap();
            watch.until_said("Enter story");
            person.write_all(b"q").unwrap();
            watch.child.wait().unwrap().code()
        } else {
            watch.end(Signal::TERM)
        };
        assert_eq!(code, Some(0), "ended by {ends}: {}", watch.said());
        watch.until_said("\u{1b}[?1049l");
        let after = tcgetattr(&program).unwrap().local_modes;
        assert_eq!(
            after & LocalModes::ECHO,
            modes & LocalModes::ECHO,
            "ended by {ends}"
        );
        assert_eq!(
            after & LocalModes::ICANON,
            modes & LocalModes::ICANON,
            "ended by {ends}"
        );
    }
}

/// So many agents run beside the one of the lab's node. What answers for them is that one, so they count as silent.
const OTHERS: usize = 999;

/// A pod of the agents' DaemonSet on each of so many other nodes.
fn other_nodes(world: &World) {
    let api = world.cluster.api();
    let agents = api.list("pods", "meshmedic").unwrap();
    let owners = &agents[0]["metadata"]["ownerReferences"];
    for number in 0..OTHERS {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": "meshmedic", "name": format!("agent-{number}"), "ownerReferences": owners,
                "labels": agents[0]["metadata"]["labels"],
            },
            "spec": {
                "nodeName": format!("worker-{number}"),
                "containers": [{ "name": "agent", "image": "ghcr.io/meshmedic/meshmedic" }],
            },
        });
        let mut made = api.apply(&pod).unwrap();
        made["status"] = json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] });
        api.update_status(&made).unwrap();
    }
}

#[test]
fn the_screen_of_a_thousand_nodes_fits_terminals_of_any_size() {
    if !need::root("the_screen_of_a_thousand_nodes_fits_terminals_of_any_size") {
        return;
    }
    let (world, pods, _agent) = an_orphan_of_two();
    other_nodes(&world);
    for (columns, lines) in [(80, 24), (200, 50)] {
        let (mut person, program) = terminal(columns, lines);
        let mut watch = Watch::on_terminal(&world, &person, &program);
        watch.until_said("1 of 1000 agents answer");
        watch.until_said(&format!("> shop/{}", pods[0].name()));
        person.write_all(b"q").unwrap();
        assert_eq!(watch.child.wait().unwrap().code(), Some(0), "{}", watch.said());
    }
}

#[test]
fn without_a_terminal_or_an_agent_it_says_what_to_do() {
    if !need::root("without_a_terminal_or_an_agent_it_says_what_to_do") {
        return;
    }
    let world = World::new(1);
    let (code, text) = run(&world, &["watch"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--follow writes one line a transition"), "{text}");
    let (code, text) = run(&world, &["watch", "--follow"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("no agent runs here"), "{text}");
    assert!(text.contains("`meshmedic scan --watch`"), "{text}");
}

/// To watch nothing looks as if all were well.
#[test]
fn a_namespace_that_no_agent_knows_is_told() {
    if !need::root("a_namespace_that_no_agent_knows_is_told") {
        return;
    }
    let (world, _pods, _agent) = an_orphan_of_two();
    let mut watch = Command::new(env!("CARGO_BIN_EXE_meshmedic"))
        .args(["watch", "--follow", "-n", "shop", "-n", "nowhere", "--kubeconfig"])
        .arg(world.cluster.api().kubeconfig())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(watch.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let said: Vec<String> = said.take(2).collect();
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert!(said[0].contains("following 1 agent;"), "{said:?}");
    assert_eq!(said[1], "no agent knows a pod of namespace nowhere");
}
