// SPDX-License-Identifier: Apache-2.0
//! Thousands of pods.

use meshmedic_lab::{Exec, Fault, PodRef};

use crate::world::World;

const MANY: usize = 5_000;
const AT_ONCE: u64 = 16;

#[test]
fn five_thousand_pods_come_page_by_page() {
    let world = World::new();
    let mut pod = world.enrolled("cart");
    pod["spec"]["nodeName"] = crate::world::NODE.into();
    world.api.populate(&pod, MANY).unwrap();
    world
        .api
        .set_exec(PodRef::all_in("shop"), Exec::captured())
        .unwrap();
    world
        .api
        .set_exec(("shop", "cart-03333"), Exec::orphan())
        .unwrap();
    world.api.forget_requests().unwrap();
    let expired = Fault::status(410).verb("list").resource("pods").times(1);
    let expired = world.api.fault(expired).unwrap();
    let ran = world.scan(&["-o", "json", "--concurrency", &AT_ONCE.to_string()]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let report = ran.json();
    assert_eq!(
        (report["checked"].as_u64(), report["healthy"].as_u64()),
        (Some(5_000), Some(4_999))
    );
    assert_eq!(report["orphans"][0]["name"], "cart-03333");
    assert_eq!(expired.hits().unwrap(), 1);
    // The server notices a little later than we do that a session is over.
    let peak = world.api.peak_sessions().unwrap();
    assert!(peak <= 4 * AT_ONCE, "{peak} at once");
    let requests = world.api.requests().unwrap();
    let pages = requests
        .iter()
        .filter(|request| request.full_resource() == "pods" && request.verb == "list");
    assert!(pages.count() >= MANY / 500, "pods come in pages");
}
