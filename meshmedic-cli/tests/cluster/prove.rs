// SPDX-License-Identifier: Apache-2.0
//! One pod, leg by leg.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;

use meshmedic_common::rules::Rules;
use meshmedic_common::verdict::State;
use meshmedic_lab::rules::{Filter, IstioRules, run as filter};
use meshmedic_lab::{Pod, need};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::fleet::{an_orphan_of_two, assert_says, await_orphan, install, run};
use crate::world::World;

/// Each leg has its verdict, and what nobody could see is said. Nothing listens as ztunnel's admin here.
#[test]
fn a_pod_is_proved_leg_by_leg() {
    if !need::root("a_pod_is_proved_leg_by_leg") {
        return;
    }
    let (world, pods, _agent) = an_orphan_of_two();
    let verdicts = |pod: &Pod, more: &[&str]| {
        let (code, proof) = prove(&world, pod, more);
        assert_eq!(proof["kind"], "PodProof", "{proof:#}");
        let legs = proof["legs"].as_array().unwrap().iter();
        let legs: Vec<(String, String)> = legs
            .map(|leg| {
                let word = |key: &str| leg[key].as_str().unwrap().to_owned();
                (word("leg"), word("verdict"))
            })
            .collect();
        (code, legs)
    };
    let leg = |legs: &[(String, String)], name: &str| {
        let found = legs.iter().find(|(leg, _)| leg == name);
        found
            .unwrap_or_else(|| panic!("{name} is no leg of {legs:?}"))
            .1
            .clone()
    };
    let (code, legs) = verdicts(&pods[0], &[]);
    assert_eq!(code, Some(1), "{legs:?}");
    assert_eq!(leg(&legs, "listeners"), "disproved");
    assert_eq!(leg(&legs, "api"), "believed", "the API knows nothing of it");
    let (code, legs) = verdicts(&pods[1], &[]);
    assert_eq!(code, Some(0), "{legs:?}");
    assert_eq!(leg(&legs, "listeners"), "proved");
    assert_ne!(leg(&legs, "traffic"), "disproved", "it has none");
    // The pod's own word proves nothing, and of rules and traffic it says none.
    let (code, legs) = verdicts(&pods[1], &["--via", "exec"]);
    assert_eq!(code, Some(0), "{legs:?}");
    assert_eq!(leg(&legs, "listeners"), "believed");
    assert_eq!(
        (leg(&legs, "rules"), leg(&legs, "traffic")),
        ("unknown".into(), "unknown".into())
    );
    let name = format!("shop/{}", pods[1].name());
    let (code, text) = run(&world, &["prove", &name, "--confirm", "200ms", "--settle", "0s"]);
    assert_eq!(code, Some(0), "{text}");
    assert_says(
        &text,
        &[
            "Does ztunnel listen in it? proved.",
            "Not seen: Whether ztunnel answers on them.",
            "Does the API say that it is enrolled? believed.",
            "ReplicaSet cart-",
        ],
    );
}

/// The legs of a pod by their names, and the code.
fn prove(world: &World, pod: &Pod, more: &[&str]) -> (Option<i32>, Value) {
    let name = format!("shop/{}", pod.name());
    let words = [
        "prove",
        &name,
        "--confirm",
        "200ms",
        "--settle",
        "0s",
        "-o",
        "json",
    ];
    let (code, text) = run(world, &[&words[..], more].concat());
    let proof: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (code, proof)
}

/// The leg of the connection that was opened.
fn connection(proof: &Value) -> (&str, String) {
    let mut legs = proof["legs"].as_array().unwrap().iter();
    let leg = legs.find(|leg| leg["leg"] == "connection");
    let leg = leg.unwrap_or_else(|| panic!("no connection was opened: {proof:#}"));
    let words = |field: &str| {
        leg[field]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap().to_owned())
    };
    let told: Vec<String> = words("evidence").chain(words("unseen")).collect();
    (leg["verdict"].as_str().unwrap(), told.join(" "))
}

/// A way out of a pod, which leads to another one; gives the other's address there.
fn way_out(pod: &Pod, other: &Pod) -> &'static str {
    let (here, there) = (Some(pod.pid()), Some(other.pid()));
    let netns = other.pid().to_string();
    filter(
        here,
        &[
            "ip", "link", "add", "out", "type", "veth", "peer", "name", "in", "netns", &netns,
        ],
        "",
    )
    .unwrap();
    for (pid, device, address) in [(here, "out", "10.0.0.7/24"), (there, "in", "10.0.0.8/24")] {
        filter(pid, &["ip", "address", "add", address, "dev", device], "").unwrap();
        filter(pid, &["ip", "link", "set", device, "up"], "").unwrap();
    }
    "10.0.0.8"
}

/// An application in a pod that holds what it is asked for. What is closed at once could not be followed.
fn answers(pod: &Pod) -> TcpListener {
    let netns = File::open(format!("/proc/{}/ns/net", pod.pid())).unwrap();
    let listen = move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        TcpListener::bind("0.0.0.0:8080").unwrap()
    };
    thread::spawn(listen).join().unwrap()
}

/// The connection is one that the kernel itself would let through: only the rules decide where it ends.
#[test]
fn a_connection_that_is_opened_in_a_pod_is_followed() {
    if !need::packet_filters("a_connection_that_is_opened_in_a_pod_is_followed") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let api = world.cluster.api();
    api.set_program("meshmedic", Path::new(env!("CARGO_BIN_EXE_meshmedic")))
        .unwrap();
    let to = format!("{}:8080", way_out(&pods[0], &pods[1]));
    let _applications = [answers(&pods[0]), answers(&pods[1])];
    let rules = IstioRules {
        filter: Filter::IptablesNft,
        dns: true,
        ipv6: true,
    };
    let mut agent = world.ready_agent(&[]);
    install(&world, &agent);
    let active = |more: &[&str]| prove(&world, &pods[0], &[&["--active"], more].concat());

    // The lab's own rules let everything through; these are Istio's.
    pods[0].set_redirected(false).unwrap();
    rules.write(Some(pods[0].pid())).unwrap();
    agent.until("Istio's rules to be read", |agent| {
        let mut found = agent.report().pods.into_iter();
        found.any(|found| {
            let rules = found.rules.map(|rules| rules.verdict);
            found.uid.as_str() == pods[0].uid()
                && (found.state, rules) == (State::Captured, Some(Rules::Present))
        })
    });
    let (code, proof) = active(&["--to", &to]);
    let (verdict, told) = connection(&proof);
    assert_eq!((code, verdict), (Some(0), "proved"), "{proof:#}");
    assert!(told.contains("on port 15001"), "{told}");

    // Nothing names the Kubernetes API there, so nothing is opened; what was asked is open then.
    let (code, proof) = active(&[]);
    let (verdict, told) = connection(&proof);
    assert_eq!((code, verdict), (Some(3), "unknown"), "{proof:#}");
    assert!(told.contains("KUBERNETES_SERVICE_HOST is not set"), "{told}");
    let own = format!("{}:8080", pods[0].addresses()[0]);
    assert_eq!(
        connection(&active(&["--to", &own]).1).0,
        "unknown",
        "no rule redirects that"
    );

    // Without a listener the rules lead nowhere.
    world.cluster.orphan(&pods[0]).unwrap();
    await_orphan(&mut agent, &pods[0]);
    let (code, proof) = active(&["--to", &to]);
    let (verdict, told) = connection(&proof);
    assert_eq!((code, verdict), (Some(1), "unknown"), "{proof:#}");
    assert!(told.contains("It was refused"), "{told}");

    // And without rules it goes past ztunnel.
    rules.remove(Some(pods[0].pid())).unwrap();
    let (code, proof) = active(&["--to", &to]);
    let (verdict, told) = connection(&proof);
    assert_eq!((code, verdict), (Some(1), "disproved"), "{proof:#}");
    assert!(told.contains("it went past ztunnel"), "{told}");

    // ztunnel listens in the other pod, whose rules let everything through: nothing but this shows it.
    let other = ["--active", "--via", "exec", "--to", "10.0.0.7:8080"];
    let (code, proof) = prove(&world, &pods[1], &other);
    assert_eq!((code, connection(&proof).0), (Some(1), "disproved"), "{proof:#}");
    assert_eq!(proof["state"], "captured");
}
