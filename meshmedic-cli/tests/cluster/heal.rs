// SPDX-License-Identifier: Apache-2.0
//! From a lost capture to a captured successor.

use meshmedic_common::verdict::State;
use meshmedic_lab::{Pod, need};

use crate::process::{Agent, SUCCEEDED};
use crate::world::{REPAIR, USER, World};

fn state(agent: &Agent, pod: &Pod) -> Option<State> {
    let report = agent.report();
    let found = report.pods.iter().find(|found| found.uid.as_str() == pod.uid());
    found.map(|found| found.state)
}

#[test]
fn an_orphan_is_evicted_and_its_successor_proved_captured() {
    if !need::root("an_orphan_is_evicted_and_its_successor_proved_captured") {
        return;
    }
    let world = World::new(1);
    let agent = heals(&world);
    assert_eq!(world.evictions(), 1);
    assert!(agent.terminate().success());
}

#[test]
fn a_real_api_server_makes_no_difference() {
    if !need::root("a_real_api_server_makes_no_difference")
        || !need::real_apiserver("a_real_api_server_makes_no_difference")
    {
        return;
    }
    let world = World::real();
    assert!(heals(&world).terminate().success());
}

pub(crate) fn heals(world: &World) -> Agent {
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&REPAIR);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until_repaired(1);

    let after = world.cluster.wait_captured("shop", "cart", 2).unwrap();
    assert!(after.iter().all(|pod| pod.uid() != pods[0].uid()));
    assert!(
        after.iter().any(|pod| pod.uid() == pods[1].uid()),
        "the other one was not touched"
    );
    agent.until("the Leases to be free", |_| world.leases_are_free());
    agent.until("the Events", |_| {
        world.events_of(&pods[0]) == ["MeshCaptureLost", "MeshRepairStarted", "MeshRepairSucceeded"]
    });
    assert_eq!(
        agent.metric("meshmedic_orphans_repaired_total{class=\"ready\"}"),
        1.0
    );
    agent.until("no orphan to be counted", |agent| {
        agent.metric("meshmedic_orphans_total") == 0.0
    });
    let acts = agent.audit(pods[0].name());
    let acts: Vec<&str> = acts.iter().map(|(act, _)| act.as_str()).collect();
    assert_eq!(acts, ["evict", "ended"]);
    agent
}

#[test]
fn without_a_flag_it_only_says_what_it_would_do() {
    if !need::root("without_a_flag_it_only_says_what_it_would_do") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&[]);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("what it would do", |agent| {
        agent.metric("meshmedic_repairs_would_total") == 1.0
    });
    agent.until("the Event", |_| world.events_of(&pods[0]) == ["MeshCaptureLost"]);
    agent.until("the report to show it", |agent| {
        state(agent, &pods[0]) == Some(State::Orphan) && agent.metric("meshmedic_orphans_ready") == 1.0
    });
    assert!(world.is_untouched(&pods[0]));
    let audit = agent.audit(pods[0].name());
    assert!(
        audit.iter().any(|(act, _)| act == "would-heal"),
        "the gentlest way: {audit:?}"
    );

    // What comes back is told, too.
    let ztunnel = world.cluster.node("node-a").unwrap().ztunnel().unwrap();
    ztunnel.enrol(&pods[0]).unwrap();
    agent.until("the recovery", |_| {
        world.events_of(&pods[0]) == ["MeshCaptureLost", "MeshCaptureRecovered"]
    });
    assert!(agent.terminate().success());
    let writes = world.cluster.api().requests_of(USER).unwrap();
    let written: Vec<_> = writes
        .iter()
        .filter(|request| request.is_write() && request.resource != "events")
        .collect();
    assert!(written.is_empty(), "{written:?}");
}

#[test]
fn an_orphan_that_is_not_ready_is_repaired_after_its_grace_period() {
    if !need::root("an_orphan_that_is_not_ready_is_repaired_after_its_grace_period") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&["--repair-stuck", "--grace-period", "3s", "--strategy", "restart"]);
    world.cluster.set_ready(&pods[0], false).unwrap();
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("it to wait for the grace period", |agent| {
        agent
            .audit(pods[0].name())
            .contains(&("withheld".into(), "grace-period".into()))
    });
    agent.until_repaired(1);
    assert_eq!(
        agent.metric("meshmedic_orphans_repaired_total{class=\"stuck\"}"),
        1.0
    );
}

#[test]
fn the_agent_of_the_successors_node_proves_it() {
    if !need::root("the_agent_of_the_successors_node_proves_it") {
        return;
    }
    let world = World::new(2);
    world.cluster.schedule_on(Some("node-a"));
    let pods = world.deployment("cart", 2);
    world.cluster.schedule_on(Some("node-b"));
    let mut agent = world.ready_agent(&REPAIR);
    let mut other = world.agent("node-b", &REPAIR);
    other.until("the other agent to be ready", |agent| {
        agent.health("/readyz").0 == 200
    });
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until_repaired(1);
    agent.until("the report to name the successor's node", |agent| {
        let repairs = agent.report().repairs;
        let details = repairs.iter().filter_map(|repair| repair.detail.as_deref());
        details.into_iter().any(|detail| detail.contains("node-b"))
    });
    assert_eq!(other.metric(SUCCEEDED), 0.0);
}

#[test]
fn after_a_reboot_one_canary_goes_first_and_the_rest_follow() {
    if !need::root("after_a_reboot_one_canary_goes_first_and_the_rest_follow") {
        return;
    }
    let world = World::new(1);
    let pods: Vec<Pod> = ["cart", "stock", "mail"]
        .iter()
        .flat_map(|name| world.deployment(name, 2))
        .collect();
    let mut agent = world.ready_agent(&REPAIR);
    let ztunnel = world.cluster.node("node-a").unwrap().ztunnel().unwrap();
    ztunnel.unenrol_many(&pods).unwrap();
    agent.until_repaired(6);
    let lines = agent.log();
    let of = |act: &str| {
        lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line["target"] == "meshmedic::audit" && line["fields"]["act"] == act)
            .map(|(number, _)| number)
            .collect::<Vec<_>>()
    };
    let (acts, ends) = (of("evict"), of("ended"));
    assert_eq!((acts.len(), ends.len()), (6, 6));
    assert!(
        ends[0] < acts[1],
        "the second act came only after the canary's proof"
    );
    assert_eq!(world.evictions(), 6);
    // One Event on the node, and none on each pod.
    let told = |pod: &&Pod| world.events_of(pod).contains(&"MeshCaptureLost".to_owned());
    let told = pods.iter().filter(told).count();
    assert!(told < pods.len(), "{told} pods have an Event of their loss");
    let events = world
        .cluster
        .api()
        .list("events.events.k8s.io", "default")
        .unwrap();
    let of_node = |event: &serde_json::Value| {
        event["regarding"]["kind"] == "Node" && event["note"].as_str().unwrap_or_default().contains("most")
    };
    assert!(events.iter().any(of_node), "{events:#?}");
    agent.until("the Leases to be free", |_| world.leases_are_free());
}

#[test]
fn a_dead_ztunnel_costs_no_pod() {
    if !need::root("a_dead_ztunnel_costs_no_pod") {
        return;
    }
    let world = World::new(1);
    let pods: Vec<Pod> = ["cart", "stock"]
        .iter()
        .flat_map(|name| world.deployment(name, 10))
        .collect();
    let mut agent = world.ready_agent(&REPAIR);
    world.cluster.kill_ztunnel("node-a").unwrap();
    agent.until("the node's fault", |agent| {
        agent.metric("meshmedic_node_fault") == 1.0
    });
    let all = |agent: &Agent, wanted| pods.iter().all(|pod| state(agent, pod) == Some(wanted));
    agent.until("every pod to be suspect", |agent| all(agent, State::Suspect));
    // Ten times as long as it takes to confirm a loss.
    let sweeps = agent.metric("meshmedic_sweeps_total");
    agent.until("some time to pass", |agent| {
        agent.metric("meshmedic_sweeps_total") >= sweeps + 3.0
    });
    let states: Vec<_> = pods.iter().map(|pod| state(&agent, pod)).collect();
    assert!(all(&agent, State::Suspect), "{states:?}");
    world.cluster.start_ztunnel("node-a").unwrap();
    agent.until("every pod to be captured", |agent| all(agent, State::Captured));
    agent.until("the fault to be over", |agent| {
        agent.metric("meshmedic_node_fault") == 0.0
    });
    assert_eq!(world.evictions(), 0);
    assert!(pods.iter().all(|pod| world.is_untouched(pod)));
}

#[test]
fn in_a_steady_state_it_asks_the_api_for_nothing() {
    if !need::root("in_a_steady_state_it_asks_the_api_for_nothing") {
        return;
    }
    let world = World::new(1);
    world.deployment("cart", 5);
    let mut agent = world.ready_agent(&REPAIR);
    world.cluster.api().forget_requests().unwrap();
    let sweeps = agent.metric("meshmedic_sweeps_total");
    agent.until("some time to pass", |agent| {
        agent.metric("meshmedic_sweeps_total") >= sweeps + 3.0
    });
    let requests = world.cluster.api().requests_of(USER).unwrap();
    let asked: Vec<_> = requests
        .iter()
        .filter(|request| request.verb != "watch")
        .collect();
    assert!(asked.is_empty(), "{asked:?}");
}

#[test]
fn a_lease_that_was_idle_for_a_day_is_deleted() {
    if !need::root("a_lease_that_was_idle_for_a_day_is_deleted") {
        return;
    }
    let world = World::new(1);
    let mut agent = heals(&world);
    let named = |part: &str| {
        let leases = world.cluster.api().list("leases", "meshmedic").unwrap();
        let name = |lease: &serde_json::Value| {
            lease["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .contains(part)
        };
        leases.iter().any(name)
    };
    assert!(named("-owner-") && named("-node-"));
    // The agent hears of the new time with the next answers.
    world.cluster.api().set_clock(2 * 24 * 60 * 60 * 1000).unwrap();
    world.cluster.api().break_watches().unwrap();
    agent.until("the idle Leases to be gone", |_| {
        !named("-owner-") && !named("-node-")
    });
    assert!(named("-slot-"), "there are only as many slots as there may be");
}

#[test]
fn an_agents_lists_are_served_from_memory_and_a_check_lists_nothing_of_the_cluster() {
    if !need::root("an_agents_lists_are_served_from_memory_and_a_check_lists_nothing_of_the_cluster") {
        return;
    }
    let world = World::new(1);
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&REPAIR);
    let lists = || {
        let mut requests = world.cluster.api().requests_of(USER).unwrap();
        requests.retain(|request| request.verb == "list");
        requests
    };
    let at_start = lists();
    assert!(!at_start.is_empty());
    for list in &at_start {
        let has = |parameter: &str| list.query.split('&').any(|found| found == parameter);
        assert!(
            has("resourceVersion=0") && !list.query.contains("limit="),
            "this list is no API server's to serve from memory: {}?{}",
            list.path,
            list.query
        );
        assert!(
            list.resource != "endpointslices" || !list.namespace.is_empty(),
            "{}",
            list.path
        );
    }
    world.cluster.api().forget_requests().unwrap();
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("the orphan's repair", |_| !world.is_untouched(&pods[0]));
    let requests = world.cluster.api().requests_of(USER).unwrap();
    let gets = |resource: &str| {
        let of_istio = |request: &&meshmedic_lab::api::Request| {
            request.verb == "get" && request.resource == resource && request.namespace == "istio-system"
        };
        requests.iter().filter(of_istio).count()
    };
    assert!(gets("pods") >= 2, "ztunnel and istio-cni are looked at by name");
    assert!(gets("endpointslices") >= 1);
    for list in lists() {
        assert!(
            !list.namespace.is_empty(),
            "a check listed the cluster: {}?{}",
            list.path,
            list.query
        );
    }
}
