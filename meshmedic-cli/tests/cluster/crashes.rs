// SPDX-License-Identifier: Apache-2.0
//! An agent that is killed in the middle of a repair.

use std::thread;
use std::time::Duration;

use meshmedic_lab::{Fault, need, wait};

use crate::process::PATIENCE;
use crate::world::{REPAIR, USER, World};

/// A repair is so many requests long, from the first claim to the last Lease that is freed, and some more.
const POINTS: usize = 26;
/// Slow enough to be killed in the middle of a request, quick enough for the claims to last.
const SLOW: Duration = Duration::from_millis(150);

fn asked(world: &World) -> usize {
    let requests = world.cluster.api().requests_of(USER).unwrap();
    requests
        .iter()
        .filter(|request| request.verb != "watch" && request.resource != "events")
        .count()
}

fn accepted(world: &World) -> usize {
    let requests = world.cluster.api().requests_of(USER).unwrap();
    requests
        .iter()
        .filter(|request| {
            let eviction = request.full_resource() == "pods/eviction" && !request.is_dry_run();
            eviction && request.code == Some(201)
        })
        .count()
}

/// Kills the agent once it has asked for so many things, starts it again, and looks at what becomes of it.
fn killed_at(point: usize) {
    let world = World::new(1);
    let pods = world.deployment("cart", 1);
    let agent = world.ready_agent(&REPAIR);
    world.cluster.api().forget_requests().unwrap();
    let slow = world
        .cluster
        .api()
        .fault(Fault::latency(SLOW).user(USER))
        .unwrap();
    world.cluster.orphan(&pods[0]).unwrap();
    // The last points lie behind the end of the repair: then it was over.
    let over = || accepted(&world) == 1 && world.leases_are_free();
    wait::until("the point", PATIENCE, || asked(&world) >= point || over()).unwrap();
    agent.kill();
    drop(slow);

    let _second = world.agent("node-a", &REPAIR);
    let healed = || {
        let pods = world.cluster.pods_of("shop", "cart").unwrap();
        pods.len() == 1 && world.cluster.is_captured(&pods[0])
    };
    wait::until(
        &format!("the repair killed at {point} to be over"),
        PATIENCE,
        || healed() && accepted(&world) == 1 && world.leases_are_free(),
    )
    .unwrap_or_else(|error| panic!("{error}: {} evictions accepted", accepted(&world)));
    let objects = world.cluster.api().list("pods", "shop").unwrap();
    for object in objects {
        assert!(object["metadata"]["annotations"]["meshmedic.io/toggle-restore"].is_null());
        assert!(object["metadata"]["labels"]["istio.io/dataplane-mode"].is_null());
    }
}

#[test]
fn nothing_is_repaired_twice_and_no_lease_is_leaked_wherever_it_is_killed() {
    if !need::root("nothing_is_repaired_twice_and_no_lease_is_leaked_wherever_it_is_killed") {
        return;
    }
    // Side by side, since each waits for a minute.
    let points: Vec<_> = (1..=POINTS)
        .map(|point| {
            thread::Builder::new()
                .name(format!("killed at {point}"))
                .spawn(move || killed_at(point))
        })
        .collect();
    for point in points {
        point.unwrap().join().unwrap();
    }
}

#[test]
fn killed_at_every_start_it_spends_no_more_than_its_budget() {
    if !need::root("killed_at_every_start_it_spends_no_more_than_its_budget") {
        return;
    }
    let world = World::new(1);
    let pods: Vec<_> = ["cart", "stock", "mail"]
        .iter()
        .flat_map(|name| world.deployment(name, 1))
        .collect();
    let ztunnel = world.cluster.node("node-a").unwrap().ztunnel().unwrap();
    ztunnel.unenrol_many(&pods).unwrap();
    let flags = [&REPAIR[..], &["--max-repairs-per-hour", "1"]].concat();
    for _ in 0..5 {
        let mut agent = world.agent("node-a", &flags);
        agent.until("something to be done or withheld", |agent| {
            agent
                .log()
                .iter()
                .any(|line| line["target"] == "meshmedic::audit")
        });
        agent.kill();
    }
    let mut agent = world.agent("node-a", &flags);
    agent.until("the budget to be spent", |agent| {
        let withheld = ("withheld".to_owned(), "budget-node".to_owned());
        pods.iter().any(|pod| agent.audit(pod.name()).contains(&withheld))
    });
    // What was spent and not done, because it was killed in between, stays spent.
    assert!(accepted(&world) <= 1);
}

#[test]
fn told_to_end_it_frees_what_it_holds() {
    if !need::root("told_to_end_it_frees_what_it_holds") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 1);
    // Its successor does not come up, so that the agent waits for it.
    world.cluster.hold_terminations(true);
    let mut agent = world.ready_agent(&REPAIR);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("the eviction", |_| accepted(&world) == 1);
    assert!(agent.terminate().success());
    let leases = world.cluster.api().list("leases", "meshmedic").unwrap();
    let held: Vec<_> = leases
        .iter()
        .filter(|lease| lease["metadata"]["labels"]["meshmedic.io/lease"] == "slot")
        .filter(|lease| {
            !lease["spec"]["holderIdentity"]
                .as_str()
                .unwrap_or_default()
                .is_empty()
        })
        .collect();
    assert!(held.is_empty(), "{held:?}");

    // The next one takes over what the first had begun, and does not begin anew.
    let mut next = world.agent("node-a", &REPAIR);
    next.until("the Leases to be held again", |_| !world.leases_are_free());
    world.cluster.hold_terminations(false);
    next.until("the repair to succeed", |agent| {
        agent.metric("meshmedic_repairs_total{action=\"unknown\",result=\"succeeded\"}") == 1.0
    });
    assert_eq!(accepted(&world), 1);
    next.until("the Leases to be free", |_| world.leases_are_free());
}
