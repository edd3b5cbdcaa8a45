// SPDX-License-Identifier: Apache-2.0
//! What a tenant may try who owns one namespace and nothing elsewhere: to label pods and Services there as Istio's.
//! Agent and command run as processes. No pod of another tenant may fare better or worse for it.

use std::net::{Ipv4Addr, SocketAddr};

use meshmedic_common::identity::Component;
use meshmedic_common::report::NodeReport;
use meshmedic_common::verdict::{Condition, State};
use meshmedic_lab::{ClusterSpec, Pod, need};
use serde_json::{Value, json};

use crate::fleet::{install, run};
use crate::process::Agent;
use crate::repair::repair;
use crate::world::{REPAIR, World};

/// The tenant's namespace.
const EVIL: &str = "evil";
/// A scan that asks no agent.
const SCAN: [&str; 11] = [
    "scan",
    "-n",
    "shop",
    "--via",
    "exec",
    "--confirm",
    "200ms",
    "--settle",
    "0s",
    "-o",
    "json",
];

fn state_of(report: &NodeReport, pod: &Pod) -> Option<State> {
    let found = report.pods.iter().find(|found| found.uid.as_str() == pod.uid());
    found.map(|found| found.state)
}

/// Waits until the agent shows who claims to be this component, in every place where it should be seen.
fn await_conflict(world: &World, agent: &mut Agent, component: Component, claimants: usize) {
    agent.until("the strangers to be reported", |agent| {
        let report = agent.report();
        let of_component = |stranger: &&meshmedic_common::identity::Claimant| {
            stranger.component == component && stranger.namespace == EVIL
        };
        let conflict = report
            .conditions
            .iter()
            .any(|found| found.condition == Condition::IdentityConflict);
        conflict && report.strangers.iter().filter(of_component).count() == claimants
    });
    let metric = format!("meshmedic_identity_conflicts{{component=\"{component}\"}}");
    agent.until("the metric", |agent| agent.metric(&metric) == claimants as f64);
    agent.until("the Event", |_| !conflict_events(world).is_empty());
    for event in conflict_events(world) {
        assert_eq!(event["regarding"]["name"], EVIL, "{event:#}");
        assert!(
            event["note"].as_str().unwrap().contains("claims to be"),
            "{event:#}"
        );
    }
}

fn conflict_events(world: &World) -> Vec<Value> {
    let mut events = world
        .cluster
        .api()
        .list("events.events.k8s.io", "default")
        .unwrap();
    events.retain(|event| event["reason"] == "MeshIdentityConflict");
    events
}

/// How many istio-cnis the tenant makes: one of them has a UID before that of the real one, most likely.
const FALSE_CNIS: usize = 6;

#[test]
fn the_settings_of_a_false_istio_cni_take_nobody_out_of_the_mesh() {
    if !need::root("the_settings_of_a_false_istio_cni_take_nobody_out_of_the_mesh") {
        return;
    }
    let world = World::new(1);
    let cluster = &world.cluster;
    cluster.namespace(EVIL, false).unwrap();
    let nobody = "- podSelector: {matchLabels: {belongs: to-nobody}}";
    let settings = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": EVIL, "name": "istio-cni-config" },
        "data": { "AMBIENT_ENABLEMENT_SELECTOR": nobody },
    });
    cluster.api().apply(&settings).unwrap();
    for number in 0..FALSE_CNIS {
        let name = format!("cni-{number}");
        let labels = json!({ "app": name, "k8s-app": "istio-cni-node" });
        let set = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": { "namespace": EVIL, "name": name, "labels": labels },
            "spec": {
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": { "containers": [{ "name": "app", "image": "registry.example/app:1" }] },
                },
            },
        });
        cluster.api().apply(&set).unwrap();
        cluster.wait_ready(EVIL, &name, 1).unwrap();
    }
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&REPAIR);
    cluster.orphan(&pods[0]).unwrap();
    agent.until_repaired(1);
    await_conflict(&world, &mut agent, Component::Cni, FALSE_CNIS);
    let after = cluster.wait_captured("shop", "cart", 2).unwrap();
    assert!(after.iter().any(|pod| pod.uid() == pods[1].uid()));

    // The command reads the settings by itself.
    assert!(agent.terminate().success());
    cluster.orphan(&pods[1]).unwrap();
    let (_, text) = run(&world, &SCAN);
    let report: Value = serde_json::from_str(text.lines().collect::<String>().as_str()).unwrap();
    assert_eq!(report["states"]["exempt"], Value::Null, "{report:#}");
    assert!(text.contains("claims to be istio-cni, and is ignored"), "{text}");
}

#[test]
fn the_endpoints_of_a_false_istiod_let_nothing_be_repaired() {
    if !need::root("the_endpoints_of_a_false_istiod_let_nothing_be_repaired") {
        return;
    }
    let world = World::new(1);
    let cluster = &world.cluster;
    cluster.namespace(EVIL, false).unwrap();
    // A Deployment stands behind his endpoint, too.
    let istiod = cluster.deployment(EVIL, "istiod", 1).unwrap().remove(0);
    let labels = json!({ "app": "istiod", "kubernetes.io/service-name": "istiod" });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "namespace": EVIL, "name": "istiod-abcde", "labels": labels },
        "addressType": "IPv4",
        "ports": [{ "name": "https-dns", "port": 15012, "protocol": "TCP" }],
        "endpoints": [{
            "addresses": ["10.244.0.99"],
            "conditions": { "ready": true },
            "targetRef": { "kind": "Pod", "namespace": EVIL, "name": istiod.name(), "uid": istiod.uid() },
        }],
    });
    cluster.api().apply(&slice).unwrap();
    cluster.set_istiod_ready(false).unwrap();
    let pods = world.deployment("cart", 1);
    let mut agent = world.ready_agent(&REPAIR);
    cluster.orphan(&pods[0]).unwrap();
    agent.until("it to be withheld", |agent| {
        let audit = agent.audit(pods[0].name());
        audit.contains(&("withheld".to_owned(), "mesh-fault".to_owned()))
    });
    let (code, items) = repair(&world, &["-n", "shop", "--yes"]);
    assert_eq!(
        (code, items[0]["reason"].as_str()),
        (Some(1), Some("mesh-fault")),
        "{items:#}"
    );
    assert!(world.is_untouched(&pods[0]));
    assert_eq!(world.evictions(), 0);
    // The pod of the tenant's Deployment claims it. His slice is seen by nobody but `meshmedic doctor`.
    await_conflict(&world, &mut agent, Component::Istiod, 1);
    cluster.set_istiod_ready(true).unwrap();
    agent.until_repaired(1);
}

#[test]
fn a_false_ztunnel_captures_nobody_and_hides_nobody() {
    if !need::root("a_false_ztunnel_captures_nobody_and_hides_nobody") {
        return;
    }
    let world = World::new(1);
    let cluster = &world.cluster;
    cluster.namespace(EVIL, true).unwrap();
    // Its process is called ztunnel, and it belongs to the mesh.
    let fake = cluster.daemon_set(EVIL, "ztunnel").unwrap().remove(0);
    cluster.wait_captured(EVIL, "ztunnel", 1).unwrap();
    cluster.set_ready(&fake, false).unwrap();
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&[]);
    let real = cluster.node("node-a").unwrap().ztunnel().unwrap();
    agent.until("ztunnel's process", |agent| !agent.report().ztunnel.is_empty());
    assert_eq!(agent.report().ztunnel, [real.pid()], "not {}", fake.pid());

    // The NotReady one does not hide the orphan of another.
    cluster.orphan(&pods[0]).unwrap();
    agent.until("the orphan", |agent| {
        state_of(&agent.report(), &pods[0]) == Some(State::Orphan)
    });
    await_conflict(&world, &mut agent, Component::Ztunnel, 1);
    // Nor are listeners that it opens, Ready again, those of ztunnel.
    cluster.set_ready(&fake, true).unwrap();
    cluster.orphan(&fake).unwrap();
    for port in [15001, 15006, 15008] {
        fake.listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
            .unwrap();
    }
    agent.until("the imposter", |agent| {
        state_of(&agent.report(), &fake) == Some(State::Imposter)
    });
    assert_eq!(agent.report().ztunnel, [real.pid()]);
    assert_eq!(state_of(&agent.report(), &pods[1]), Some(State::Captured));
}

#[test]
fn a_false_ztunnel_does_not_stand_in_for_a_dead_one() {
    if !need::root("a_false_ztunnel_does_not_stand_in_for_a_dead_one") {
        return;
    }
    let world = World::new(1);
    let cluster = &world.cluster;
    cluster.namespace(EVIL, false).unwrap();
    let pods = world.deployment("cart", 2);
    cluster.bare_pod(EVIL, "ztunnel", "node-a").unwrap();
    cluster.kill_ztunnel("node-a").unwrap();
    let (_, items) = repair(&world, &["-n", "shop", "--yes"]);
    let would = |item: &&Value| item["action"] != "withheld";
    let planned: Vec<&Value> = items.as_array().unwrap().iter().filter(would).collect();
    assert!(planned.is_empty(), "{planned:#?}");
    let (_, text) = run(&world, &SCAN);
    assert!(text.contains("ztunnel is not Ready on the node"), "{text}");
    assert!(
        text.contains("Pod evil/ztunnel claims to be ztunnel, and is ignored"),
        "{text}"
    );
    assert!(pods.iter().all(|pod| world.is_untouched(pod)));
}

/// A repair, by an agent that is told where Istio is, and a command that finds it out from the agent.
fn works_in(namespace: &'static str, flags: &[&str]) {
    let spec = ClusterSpec {
        istio_namespace: namespace,
        ..ClusterSpec::default()
    };
    let world = World::with(spec);
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&[&REPAIR[..], flags].concat());
    install(&world, &agent);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until_repaired(1);
    let report = agent.report();
    assert_eq!(report.conditions, [], "{report:#?}");
    assert!(report.strangers.is_empty(), "{report:#?}");
    let arguments = ["scan", "-n", "shop", "--confirm", "200ms", "--settle", "0s"];
    let (code, text) = run(&world, &arguments);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = run(&world, &["status"]);
    assert_eq!(code, Some(0), "{text}");
    // Whoever says otherwise than the agents is warned.
    let other = [
        &arguments[..],
        &["--istio-namespace", namespace, "--istio-namespace", "elsewhere"],
    ]
    .concat();
    let (code, text) = run(&world, &other);
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(code, Some(0), "{text}");
    assert!(flat.contains("the agents look for Istio in"), "{text}");
}

#[test]
fn istio_may_be_in_istio_system() {
    if need::root("istio_may_be_in_istio_system") {
        works_in("istio-system", &[]);
    }
}

#[test]
fn istio_may_be_in_kube_system() {
    if need::root("istio_may_be_in_kube_system") {
        works_in("kube-system", &[]);
    }
}

#[test]
fn istio_may_be_where_a_flag_says() {
    if need::root("istio_may_be_where_a_flag_says") {
        works_in("mesh", &["--istio-namespace", "mesh"]);
    }
}

#[test]
fn without_the_flag_one_line_names_it() {
    if !need::root("without_the_flag_one_line_names_it") {
        return;
    }
    let world = World::with(ClusterSpec {
        istio_namespace: "mesh",
        ..ClusterSpec::default()
    });
    let pods = world.deployment("cart", 1);
    world.cluster.orphan(&pods[0]).unwrap();
    let hint = "pass --istio-namespace mesh";
    let (code, text) = run(&world, &["scan", "-n", "shop", "--via", "exec"]);
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(code, Some(3), "{text}");
    assert!(flat.contains(hint), "{text}");
    let mut agent = world.agent("node-a", &REPAIR);
    agent.until("the line", |agent| {
        let says = |line: &Value| {
            line["fields"]["message"]
                .as_str()
                .is_some_and(|words| words.contains(hint))
        };
        agent.find(says).is_some()
    });
    assert!(
        world.is_untouched(&pods[0]),
        "nobody is trusted, so nothing is judged"
    );
}
