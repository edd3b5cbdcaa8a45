// SPDX-License-Identifier: Apache-2.0
//! Pods that istio-cni does not come to an end with.

use std::time::Duration;

use meshmedic_common::policy::PENDING_DEADLINE;

use super::*;

/// A pod that istio-cni is to enrol, beside one that is captured.
fn with_a_pending_one() -> (Sim, PodUid) {
    let mut sim = Sim::new(1);
    let uid = PodUid::parse("00000009-0000-0000-0000-000000000000").unwrap();
    sim.engine.pod(sim.now, &uid, Expectation::Pending);
    sim.pods.push(uid.clone());
    (sim, uid)
}

/// Reads a pod whenever it is due, for so long.
fn read_for(sim: &mut Sim, uid: &PodUid, seen: &Seen, span: Duration) {
    let until = sim.now + span;
    while sim.now < until {
        sim.now = sim.now + Duration::from_secs(1);
        sim.engine.tick(sim.now);
        if sim.engine.due(sim.now, 10, Urgency::Routine).contains(uid) {
            sim.engine.look(sim.now, uid, look(sim.now, seen.clone()));
        }
    }
}

#[test]
fn a_pod_that_stays_pending_without_listeners_is_stalled() {
    let (mut sim, uid) = with_a_pending_one();
    read_for(&mut sim, &uid, &none(), PENDING_DEADLINE - Duration::from_secs(2));
    assert_eq!(sim.state(1), State::Pending, "istio-cni has its time");
    read_for(&mut sim, &uid, &none(), CONFIRM + Duration::from_secs(10));
    assert_eq!(sim.state(1), State::Stalled);
    // What was asked for once more stays so until a listener shows.
    sim.engine.pod(sim.now, &uid, Expectation::Expected);
    assert_eq!(sim.state(1), State::Stalled);
    read_for(&mut sim, &uid, &complete(), Duration::from_secs(120));
    assert_eq!(sim.state(1), State::Captured);
    read_for(&mut sim, &uid, &none(), Duration::from_secs(300));
    sim.engine.hint(sim.now, &uid);
    read_for(&mut sim, &uid, &none(), CONFIRM + Duration::from_secs(10));
    assert_eq!(sim.state(1), State::Orphan, "another loss has its own name");
}

#[test]
fn a_pending_pod_with_listeners_or_that_nobody_can_read_is_not_stalled() {
    let (mut sim, uid) = with_a_pending_one();
    let gone = Seen::Unreadable(Reason::NoProcess, String::new());
    read_for(&mut sim, &uid, &gone, PENDING_DEADLINE + Duration::from_secs(120));
    assert_eq!(sim.state(1), State::Pending);
    let (mut sim, uid) = with_a_pending_one();
    read_for(
        &mut sim,
        &uid,
        &complete(),
        PENDING_DEADLINE + Duration::from_secs(120),
    );
    assert_eq!(sim.state(1), State::Captured);
}

#[test]
fn time_with_a_node_at_fault_is_none_that_istio_cni_had() {
    let (mut sim, uid) = with_a_pending_one();
    sim.engine.ztunnel(sim.now, Ztunnel::default());
    read_for(&mut sim, &uid, &none(), PENDING_DEADLINE * 2);
    assert_eq!(sim.state(1), State::Pending);
    let back = Ztunnel {
        processes: vec![(8, 2)],
        youngest: Some(sim.now),
    };
    sim.engine.ztunnel(sim.now, back);
    read_for(&mut sim, &uid, &none(), PENDING_DEADLINE);
    assert_eq!(sim.state(1), State::Pending, "it begins anew");
    read_for(
        &mut sim,
        &uid,
        &none(),
        SETTLE + CONFIRM + Duration::from_secs(20),
    );
    assert_eq!(sim.state(1), State::Stalled);
}
