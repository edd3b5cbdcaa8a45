// SPDX-License-Identifier: Apache-2.0
//! Agents: which are asked, which are believed, and what happens where there is none.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use meshmedic_lab::Exec;
use serde_json::{Value, json};

use crate::world::{NODE, Ran, World, assert_says};

const PORT: u16 = 9101;

/// Serves this answer to whoever asks, until the test ends.
fn serve(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = Vec::new();
            let mut byte = [0];
            while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) > 0 {
                asked.push(byte[0]);
            }
            let _ = stream.write_all(&answer);
        }
    });
    address
}

fn http(body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

fn report(node: &str, pods: &[Value]) -> Value {
    json!({
        "apiVersion": "meshmedic.io/v1", "kind": "NodeReport", "node": node, "version": "0.1.0", "trigger": "ebpf",
        "conditions": [], "ztunnel": [7], "pods": pods, "fromTheFuture": true,
    })
}

fn judged(pod: &Value, state: &str) -> Value {
    json!({
        "namespace": "shop", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"], "state": state,
        "ports": if state == "captured" { json!([15001, 15006, 15008]) } else { json!([]) },
        "owner": if state == "captured" { json!("ztunnel") } else { Value::Null },
        "redirection": "routed", "traffic": if state == "orphan" { json!("fail-closed") } else { Value::Null },
        "flaps": 0, "since": "2026-01-01T00:00:00Z",
    })
}

impl World {
    /// Makes MeshMedic's DaemonSet; gives its UID.
    fn daemon_set(&self) -> String {
        self.namespace("meshmedic", false);
        let labels = json!({ "app.kubernetes.io/name": "meshmedic" });
        let set = self.api.create(&json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": { "namespace": "meshmedic", "name": "meshmedic", "labels": labels },
            "spec": {
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": { "containers": [{ "name": "meshmedic", "image": "meshmedic:1" }] },
                },
            },
        }));
        set.unwrap()["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Makes an agent's pod that is owned by this UID and serves this answer.
    fn agent(&self, name: &str, owner: &str, answer: Vec<u8>) {
        let mut pod = self.template(
            "meshmedic",
            name,
            json!({ "app.kubernetes.io/name": "meshmedic" }),
        );
        pod["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "meshmedic", "uid": owner, "controller": true,
        }]);
        self.api
            .set_forward(("meshmedic", name), PORT, serve(answer))
            .unwrap();
        self.create(pod, "2026-01-01T00:00:00Z");
    }

    fn requests_for(&self, resource: &str) -> usize {
        let requests = self.api.requests().unwrap();
        requests
            .iter()
            .filter(|request| request.full_resource() == resource)
            .count()
    }
}

fn via(ran: &Ran, name: &str) -> String {
    let report = ran.json();
    let pod = report["pods"]
        .as_array()
        .unwrap()
        .iter()
        .find(|pod| pod["name"] == name)
        .unwrap()
        .clone();
    format!(
        "{} {}",
        pod["state"].as_str().unwrap(),
        pod["via"].as_str().unwrap_or("-")
    )
}

#[test]
fn an_agent_answers_for_its_whole_node_through_one_stream() {
    let world = World::new();
    let (one, two) = (
        world.pod("cart-1", Exec::orphan()),
        world.pod("cart-2", Exec::captured()),
    );
    world.pod("cart-3", Exec::captured());
    let owner = world.daemon_set();
    let pods = [judged(&one, "captured"), judged(&two, "orphan")];
    world.agent("meshmedic-x", &owner, http(&report(NODE, &pods)));
    world.api.forget_requests().unwrap();
    let ran = world.scan(&["-o", "json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(via(&ran, "cart-1"), "captured agent");
    assert_eq!(via(&ran, "cart-2"), "orphan agent");
    // The agent does not know this one.
    assert_eq!(via(&ran, "cart-3"), "captured exec");
    assert_eq!(
        (
            world.requests_for("pods/portforward"),
            world.requests_for("pods/exec")
        ),
        (1, 1)
    );
    let found = &ran.json()["orphans"][0];
    assert_eq!(
        (found["traffic"].as_str(), found["via"].as_str()),
        (Some("fail-closed"), Some("agent"))
    );
    let ran = world.scan(&["-o", "json", "--via", "agent"]);
    assert_eq!(via(&ran, "cart-3"), "unverifiable -");
    assert!(ran.stdout.contains("does not know it"), "{ran:?}");
    assert_eq!(world.requests_for("pods/exec"), 1);
}

#[test]
fn what_an_agent_has_not_made_up_its_mind_about_is_read() {
    let world = World::new();
    let (one, two) = (
        world.pod("cart-1", Exec::orphan()),
        world.pod("cart-2", Exec::captured()),
    );
    let owner = world.daemon_set();
    let (mut confirming, mut unread) = (judged(&one, "suspect"), judged(&two, "unverifiable"));
    confirming["reason"] = "confirming".into();
    unread["reason"] = "not-read".into();
    let mut fault = judged(&world.pod("cart-3", Exec::orphan()), "suspect");
    fault["reason"] = "node-fault".into();
    world.agent(
        "meshmedic-x",
        &owner,
        http(&report(NODE, &[confirming, unread, fault])),
    );
    let ran = world.scan(&["-o", "json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(via(&ran, "cart-1"), "orphan exec");
    assert_eq!(via(&ran, "cart-2"), "captured exec");
    assert_eq!(via(&ran, "cart-3"), "suspect agent");
}

#[test]
fn nobody_is_believed_who_is_not_of_the_daemon_set_or_speaks_of_another_node() {
    let world = World::new();
    let pod = world.pod("cart-1", Exec::orphan());
    let owner = world.daemon_set();
    let lie = [judged(&pod, "captured")];
    world.agent(
        "stranger",
        "11111111-2222-3333-4444-555555555555",
        http(&report(NODE, &lie)),
    );
    let ran = world.scan(&["-o", "json"]);
    assert_eq!(
        (ran.code, via(&ran, "cart-1").as_str()),
        (1, "orphan exec"),
        "{ran:?}"
    );
    assert_eq!(
        world.requests_for("pods/portforward"),
        0,
        "a stranger is not even asked"
    );
    world.agent("elsewhere", &owner, http(&report("node-b", &lie)));
    let ran = world.scan(&["-o", "json"]);
    assert_eq!(
        (ran.code, via(&ran, "cart-1").as_str()),
        (1, "orphan exec"),
        "{ran:?}"
    );
    assert_says(
        &ran.json()["notes"].to_string(),
        &["it reports of node node-b, so it is not believed"],
    );
}

#[test]
fn an_agent_that_talks_nonsense_or_another_version_is_done_without() {
    let world = World::new();
    let pod = world.pod("cart-1", Exec::captured());
    let owner = world.daemon_set();
    let mut newer = report(NODE, &[judged(&pod, "orphan")]);
    newer["apiVersion"] = "meshmedic.io/v9".into();
    for (name, answer, words) in [
        ("newer", http(&newer), "speaks meshmedic.io/v9"),
        ("nonsense", b"\x1b[2J\xff\xff\r\n\r\n".to_vec(), ""),
        ("empty", Vec::new(), ""),
        (
            "cut",
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_vec(),
            "",
        ),
    ] {
        world.agent(name, &owner, answer);
        let ran = world.scan(&["-o", "json", "--timeout", "2s"]);
        assert_eq!(
            (ran.code, via(&ran, "cart-1").as_str()),
            (0, "captured exec"),
            "{name}: {ran:?}"
        );
        let notes = ran.json()["notes"].to_string();
        assert!(
            notes.contains(words) && notes.contains("agent") && !notes.contains("\\u001b"),
            "{name}: {notes}"
        );
        world.api.delete("pods", "meshmedic", name).unwrap();
    }
}

#[test]
fn without_agents_that_way_is_refused_with_the_reason() {
    let world = World::new();
    world.pod("cart-1", Exec::captured());
    let ran = world.scan(&["--via", "agent"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_says(
        &ran.stderr,
        &[
            "--via agent: no agent runs here",
            "namespace meshmedic",
            "--agent-namespace",
        ],
    );
    world.daemon_set();
    let ran = world.scan(&["--via", "agent"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_says(&ran.stdout, &["no agent runs on node node-a"]);
}
