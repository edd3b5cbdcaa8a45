// SPDX-License-Identifier: Apache-2.0
//! A whole node of pods: one loss, flaps, and what befalls ztunnel itself.

use std::time::{Duration, Instant};

use meshmedic_agent::watch::Event;
use meshmedic_common::report::TriggerMode;
use meshmedic_common::verdict::{Condition, Reason, State};
use meshmedic_lab::{Lab, ZtunnelSpec};

use crate::common::{Bench, Patience, QUICK, find, holds, in_both_modes, is_captured, many, spec, uid};

in_both_modes!(
    one_of_200_pods_is_lost,
    flaps_are_counted_and_never_an_orphan,
    the_end_of_ztunnel_is_the_nodes_fault,
    all_pods_lost_under_a_healthy_ztunnel,
    a_ztunnel_that_returns_is_seen_between_two_sweeps,
    two_ztunnels_at_once,
    a_ztunnel_that_hangs_still_captures,
);

const PODS: usize = 200;

/// With the kernel's events nothing is gained by looking often; without them, nothing is seen otherwise.
fn whole_node(mode: TriggerMode) -> Patience {
    Patience {
        confirm: Duration::from_secs(2),
        settle: Duration::ZERO,
        interval: match mode {
            TriggerMode::Ebpf => Duration::from_secs(3600),
            TriggerMode::Poll => Duration::from_millis(500),
        },
        ..QUICK
    }
}

/// Fails where the trigger is not heard.
fn one_of_200_pods_is_lost(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pods = many(&lab, PODS);
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol_many(&pods).unwrap();
    let mut bench = Bench::new(&lab, mode, whole_node(mode));
    bench.until_all_captured(&pods);
    bench.forget();
    let lost = &pods[77];
    ztunnel.unenrol(lost).unwrap();
    if mode == TriggerMode::Ebpf {
        // The census would find the loss too, only later.
        bench.until_told(
            "the kernel's event",
            |event| matches!(event, Event::Kernel { uid: told, .. } if *told == uid(lost)),
        );
    }
    bench.until_state(lost, State::Orphan);
    let path: Vec<_> = bench.transitions().map(|t| (t.uid.clone(), t.to)).collect();
    assert_eq!(path, [(uid(lost), State::Suspect), (uid(lost), State::Orphan)]);
    let orphan = bench.transitions().last().unwrap();
    assert!(orphan.at.since(orphan.since) >= whole_node(mode).confirm);
    assert!(bench.told_of(Condition::MassLoss).is_empty());
    ztunnel.enrol(lost).unwrap();
    bench.until_all_captured(&pods);
    assert_eq!(bench.pod(lost).flaps, 0);
}

/// Fails where nobody looks after ztunnel between two sweeps, or after its pods while it settles.
fn a_ztunnel_that_returns_is_seen_between_two_sweeps(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pods = many(&lab, 3);
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol_many(&pods).unwrap();
    let patience = Patience {
        settle: Duration::from_secs(600),
        interval: Duration::from_secs(3600),
        ..QUICK
    };
    let mut bench = Bench::new(&lab, mode, patience);
    bench.until_all_captured(&pods);
    ztunnel.start_empty().unwrap();
    for pod in &pods {
        bench.until_state(pod, State::Suspect);
    }
    ztunnel.enrol_many(&pods).unwrap();
    bench.until_all_captured(&pods);
    assert!(bench.has(Condition::NodeFault), "it still settles");
    bench.assert_no_finding();
}

/// Fails where the readings of several short losses add up to one long one.
fn flaps_are_counted_and_never_an_orphan(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("flapping")).unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol(&pod).unwrap();
    let patience = Patience {
        confirm: Duration::from_secs(3),
        ..QUICK
    };
    let mut bench = Bench::new(&lab, mode, patience);
    bench.until_captured(&pod);
    let start = Instant::now();
    let mut flaps = 0;
    // Together they last longer than a confirmation.
    while start.elapsed() < patience.confirm * 2 {
        ztunnel.unenrol(&pod).unwrap();
        bench.until_state(&pod, State::Suspect);
        // A loss without a reading would confirm nothing anyway.
        bench.until("a reading", |report| {
            find(report, &pod).is_some_and(|pod| pod.ports.is_empty())
        });
        ztunnel.enrol(&pod).unwrap();
        bench.until_captured(&pod);
        flaps += 1;
    }
    assert_eq!(bench.pod(&pod).flaps, flaps);
    bench.assert_no_finding();
}

/// Fails where readings are believed while there is no ztunnel, or one that only just started.
fn the_end_of_ztunnel_is_the_nodes_fault(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pods = many(&lab, PODS);
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol_many(&pods).unwrap();
    let patience = Patience {
        confirm: Duration::from_secs(1),
        settle: Duration::from_secs(5),
        interval: Duration::from_millis(500),
        ..QUICK
    };
    let mut bench = Bench::new(&lab, mode, patience);
    bench.until_all_captured(&pods);
    bench.until("ztunnel to settle", |report| !holds(report, Condition::NodeFault));
    bench.forget();
    ztunnel.kill();
    bench.until("the node's fault", |report| holds(report, Condition::NodeFault));
    bench.until("all pods to be suspects", |report| {
        let suspect = |pod| find(report, pod).is_some_and(|found| found.state == State::Suspect);
        pods.iter().all(suspect)
    });
    // Also when the change itself has settled.
    bench.go_on_for(patience.settle + patience.confirm * 3);
    let told = bench.told_of(Condition::NodeFault);
    assert!(matches!(&told[..], [Some(_)]), "{told:?}");
    for pod in &pods {
        assert_eq!(bench.pod(pod).reason, Some(Reason::NodeFault));
    }
    ztunnel.start_empty().unwrap();
    let restarted = ztunnel.pid();
    bench.until("the new ztunnel", |report| report.ztunnel == [restarted]);
    // It runs, and nothing is enrolled yet.
    bench.go_on_for(patience.confirm * 3);
    assert!(bench.has(Condition::NodeFault));
    ztunnel.start_again().unwrap();
    bench.until_all_captured(&pods);
    bench.until("ztunnel to settle", |report| !holds(report, Condition::NodeFault));
    bench.go_on_for(patience.confirm * 2);
    bench.assert_no_finding();
    assert!(pods.iter().all(|pod| is_captured(&bench.pod(pod))));
    assert!(bench.told_of(Condition::MassLoss).is_empty());
}

/// Fails where most orphans of a node are told one by one only.
fn all_pods_lost_under_a_healthy_ztunnel(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pods = many(&lab, PODS);
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol_many(&pods).unwrap();
    let mut bench = Bench::new(&lab, mode, whole_node(mode));
    bench.until_all_captured(&pods);
    bench.forget();
    ztunnel.unenrol_many(&pods).unwrap();
    bench.until("the mass loss", |report| holds(report, Condition::MassLoss));
    bench.until("all orphans", |report| {
        let orphan = |pod| find(report, pod).is_some_and(|found| found.state == State::Orphan);
        pods.iter().all(orphan)
    });
    let told = bench.told_of(Condition::MassLoss);
    assert!(matches!(&told[..], [Some(_)]), "{told:?}");
    assert!(bench.told_of(Condition::NodeFault).is_empty());
    ztunnel.enrol_many(&pods).unwrap();
    bench.until_all_captured(&pods);
    assert!(!bench.has(Condition::MassLoss));
}

/// Fails where one of two ztunnels is taken for all there is: what the other holds would be an imposter's.
fn two_ztunnels_at_once(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pods = many(&lab, 5);
    let old = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    old.enrol_many(&pods).unwrap();
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_all_captured(&pods);
    let young = ZtunnelSpec {
        name: "ztunnel-upgrade".to_owned(),
        ..ZtunnelSpec::default()
    };
    let young = lab.ztunnel(young).unwrap();
    bench.until("both", |report| report.ztunnel.len() == 2);
    young.enrol_many(&pods).unwrap();
    bench.go_on_for(QUICK.confirm * 3);
    bench.until_all_captured(&pods);
    // Its listeners close, and it lives on for a while.
    old.stop(QUICK.confirm * 3).unwrap();
    bench.go_on_for(QUICK.confirm * 2);
    bench.until_all_captured(&pods);
    old.wait_ended();
    bench.until("the young one alone", |report| report.ztunnel == [young.pid()]);
    bench.go_on_for(QUICK.confirm * 3);
    bench.until_all_captured(&pods);
    bench.assert_no_finding();
}

/// Fails where ztunnel's answers are asked for, or a stopped process counts as none.
fn a_ztunnel_that_hangs_still_captures(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pods = many(&lab, 5);
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol_many(&pods).unwrap();
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_all_captured(&pods);
    bench.forget();
    ztunnel.hang().unwrap();
    bench.go_on_for(QUICK.confirm * 4);
    assert_eq!(bench.transitions().count(), 0);
    assert!(bench.told_of(Condition::NodeFault).is_empty());
    ztunnel.resume().unwrap();
    bench.until_all_captured(&pods);
}
