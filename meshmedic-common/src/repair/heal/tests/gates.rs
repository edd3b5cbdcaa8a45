// SPDX-License-Identifier: Apache-2.0
//! What must be so of the node and of the pod, each with its defence taken out once.

use super::super::*;
use super::bench::{Bench, Pod};
use super::without;
use crate::facts::Controller;
use crate::ports::PortSet;
use crate::repair::sabotage::Defence;

/// Asks nothing while this holds of the node, and asks once it does not.
#[track_caller]
fn holds_back(why: Withheld, change: impl Fn(&mut NodeView)) {
    let run = || {
        let mut bench = Bench::new(&[("shop", "cart")]);
        change(&mut bench.view);
        bench.run(30);
        (bench.asked.len(), bench.withheld().contains(&why))
    };
    assert_eq!(run(), (0, true), "{why}");
    assert_eq!(
        without(Defence::Reason(why), run).0,
        1,
        "{why} is what holds it back"
    );
}

#[test]
fn nothing_is_asked_while_the_node_or_the_mesh_is_not_proved() {
    holds_back(Withheld::ZtunnelUnproven, |view| view.serving = Serving::Unproven);
    holds_back(Withheld::NodeFault, |view| {
        view.gates.node_fault = Some("x".to_owned())
    });
    holds_back(Withheld::MeshFault, |view| {
        view.gates.mesh_fault = Some("x".to_owned())
    });
    holds_back(Withheld::Paused, |view| view.gates.paused = Some(String::new()));
    holds_back(Withheld::HealUnsupported, |view| view.support = Support::Unknown);
    holds_back(Withheld::HealUnsupported, |view| {
        view.support = Support::TooOld("1.24.0".to_owned())
    });
    holds_back(Withheld::Superseded, |view| view.watches_only = true);
    // A cordoned node keeps its pods for now, and nothing of them restarts.
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.view.gates.cordoned = true;
    bench.run(30);
    assert_eq!(bench.healed(), 1);
}

#[test]
fn the_version_must_be_known_and_young_enough() {
    let of = |version| Support::of(Some(version));
    for version in ["1.25.0", "1.32-dev", "1.30.3-distroless", "2.0.0", "1.100.1"] {
        assert_eq!(of(version), Support::Yes, "{version}");
    }
    for version in ["1.24.9", "0.99.0", "1.9.1"] {
        assert_eq!(of(version), Support::TooOld(version.to_owned()));
    }
    for version in ["latest", "", "1", "v1.30.3", "master-deadbeef"] {
        assert_eq!(of(version), Support::Unknown, "{version}");
    }
    assert_eq!(Support::of(None), Support::Unknown);
}

#[test]
fn a_connection_to_istio_cni_proves_ztunnel_after_a_while() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.view.serving = Serving::Unproven;
    bench.run(30);
    bench.view.serving = Serving::Connected;
    bench.run(4);
    assert!(bench.asked.is_empty());
    bench.run(10);
    assert_eq!(bench.healed(), 1);
}

/// Asks nothing while this holds of the pod.
#[track_caller]
fn spares(why: Withheld, change: impl Fn(&mut Pod)) {
    let run = || {
        let mut bench = Bench::new(&[("shop", "cart")]);
        change(bench.pod(0));
        bench.run(30);
        (bench.asked.len(), bench.withheld().contains(&why))
    };
    assert_eq!(run(), (0, true), "{why}");
    assert_eq!(without(Defence::Reason(why), run).0, 1, "{why} is what spares it");
}

#[test]
fn pods_that_forbid_it_are_spared() {
    let controller = |kind: &str| Controller {
        kind: kind.to_owned(),
        name: "x".to_owned(),
        uid: "x".to_owned(),
    };
    spares(Withheld::OptedOutPod, |pod| {
        pod.standing.facts.repair = Some("disabled".to_owned())
    });
    spares(Withheld::OptedOutNamespace, |pod| {
        pod.standing.namespace_repair = Some("disabled".to_owned())
    });
    spares(Withheld::Strategy, |pod| {
        pod.standing.facts.strategy = Some("restart".to_owned())
    });
    spares(Withheld::Strategy, |pod| {
        pod.standing.namespace_strategy = Some("toggle".to_owned())
    });
    spares(Withheld::StaticPod, |pod| pod.standing.facts.mirror = true);
    spares(Withheld::JobPod, |pod| {
        pod.standing.facts.controller = Some(controller("Job"))
    });
    spares(Withheld::Toggling, |pod| {
        pod.standing.facts.toggle_restore = Some("{}".to_owned())
    });
    spares(Withheld::Guessed, |pod| pod.standing.certain = false);
    spares(Withheld::NoAddress, |pod| pod.standing.facts.addresses.clear());
    spares(Withheld::NoAddress, |pod| {
        pod.standing.facts.sandbox_ready = Some(false)
    });
    spares(Withheld::PortHeld, |pod| pod.ports = PortSet::EMPTY.with(15053));
    // A bare pod gains most.
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.pod(0).standing.facts.controller = None;
    bench.run(30);
    assert_eq!(bench.healed(), 1);
}
