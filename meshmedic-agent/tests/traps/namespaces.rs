// SPDX-License-Identifier: Apache-2.0
//! Which network namespace is a pod's.

use std::collections::HashMap;
use std::time::Duration;

use meshmedic_agent::node::{NetnsIndex, ProcessTable};
use meshmedic_agent::time::Time;
use meshmedic_common::report::TriggerMode;
use meshmedic_common::verdict::{Reason, State};
use meshmedic_lab::{Lab, ProcessNetns, ZtunnelSpec, need};

use crate::common::{Bench, Patience, QUICK, find, in_both_modes, is_captured, spec, uid};

in_both_modes!(
    a_sandbox_that_is_replaced_is_judged_at_once,
    a_nested_namespace_speaks_for_nobody,
    a_helper_on_the_hosts_network_speaks_for_nobody,
    a_pod_of_which_only_a_host_helper_is_left_is_never_an_orphan,
    a_foreign_process_takes_no_namespace_over,
    a_namespace_replaced_under_the_same_uid,
);

const CAPTURE: [&str; 3] = ["[::]:15001", "[::]:15006", "[::]:15008"];

/// Fails where another process than the oldest tells the pod's namespace.
fn a_nested_namespace_speaks_for_nobody(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let (captured, lost) = (lab.pod(spec("captured")).unwrap(), lab.pod(spec("lost")).unwrap());
    captured.extra_process(&ProcessNetns::Nested).unwrap();
    let nested = lost.extra_process(&ProcessNetns::Nested).unwrap();
    for address in CAPTURE {
        nested.listen(address.parse().unwrap()).unwrap();
    }
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol_many(&[captured.clone(), lost.clone()]).unwrap();
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_all_captured(&[captured.clone(), lost.clone()]);
    assert_eq!(bench.pod(&lost).pid, Some(lost.pid()));
    ztunnel.unenrol(&lost).unwrap();
    bench.until_state(&lost, State::Orphan);
    assert!(is_captured(&bench.pod(&captured)));
    assert!(!bench.was(&captured, State::Suspect));
}

/// Fails where the host's namespace counts as a pod's: here its process is the pod's oldest.
fn a_helper_on_the_hosts_network_speaks_for_nobody(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("app")).unwrap();
    let helper = pod.extra_process(&ProcessNetns::Host).unwrap();
    let own = pod.extra_process(&ProcessNetns::Own).unwrap();
    assert_ne!(helper.netns().unwrap(), own.netns().unwrap());
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol(&pod).unwrap();
    pod.process().kill();
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_captured(&pod);
    assert_eq!(bench.pod(&pod).pid, Some(own.pid()));
    ztunnel.unenrol(&pod).unwrap();
    bench.until_state(&pod, State::Orphan);
}

/// Fails where the host's namespace counts as a pod's: nobody captures it, so the pod would be an orphan.
fn a_pod_of_which_only_a_host_helper_is_left_is_never_an_orphan(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("app")).unwrap();
    pod.extra_process(&ProcessNetns::Host).unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol(&pod).unwrap();
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_captured(&pod);
    pod.process().kill();
    ztunnel.unenrol(&pod).unwrap();
    bench.until("the pod to be known for the host's", |report| {
        find(report, &pod).is_some_and(|found| found.reason == Some(Reason::HostNetwork))
    });
    bench.go_on_for(QUICK.confirm * 3);
    bench.assert_no_finding();
    assert_eq!(bench.pod(&pod).state, State::Exempt);
}

/// Fails where who merely is in a namespace counts as its owner.
fn a_foreign_process_takes_no_namespace_over(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let app = lab.pod(spec("app")).unwrap();
    let mut agent = spec("node-agent");
    agent.host_network = true;
    let agent = lab.pod(agent).unwrap();
    let neighbour = lab.pod(spec("neighbour")).unwrap();
    for visitor in [&agent, &neighbour] {
        visitor.extra_process(&ProcessNetns::Of(app.clone())).unwrap();
    }
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol_many(&[app.clone(), neighbour.clone()]).unwrap();
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_all_captured(&[app.clone(), neighbour.clone()]);
    assert_eq!(bench.pod(&agent).reason, Some(Reason::HostNetwork));
    assert_eq!(bench.pod(&neighbour).pid, Some(neighbour.pid()));
    ztunnel.unenrol(&app).unwrap();
    bench.until_state(&app, State::Orphan);
    assert!(is_captured(&bench.pod(&neighbour)));
    assert_eq!(bench.pod(&agent).state, State::Exempt);
}

/// Fails where a pod keeps the namespace that it was first seen in: there ztunnel still listens.
fn a_namespace_replaced_under_the_same_uid(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("app")).unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol(&pod).unwrap();
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_captured(&pod);
    let before = bench.pod(&pod).netns;
    pod.replace_netns().unwrap();
    bench.until_state(&pod, State::Orphan);
    let after = bench.pod(&pod).netns;
    assert!(after.is_some() && after != before);
    assert_eq!(after.map(u64::from), pod.netns().ok());
    ztunnel.enrol(&pod).unwrap();
    bench.until_captured(&pod);
}

/// Fails where age alone decides although the pod's addresses are known.
#[test]
fn an_address_of_the_pod_decides_before_age() {
    if !need::root("traps: an address decides before age") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let (first, second) = (lab.pod(spec("first")).unwrap(), lab.pod(spec("second")).unwrap());
    let younger = first.extra_process(&ProcessNetns::Of(second.clone())).unwrap();
    let mut table = ProcessTable::new(lab.proc_root());
    table.refresh(Time::now()).unwrap();
    let mapped = |addresses: &[std::net::IpAddr]| {
        let known = HashMap::from([(uid(&first), addresses.to_vec())]);
        let index = NetnsIndex::build(&table, &known);
        index.get(&uid(&first)).map(|mapping| mapping.pid)
    };
    assert_eq!(
        mapped(&[]),
        Ok(first.pid()),
        "without addresses the oldest process counts"
    );
    assert_eq!(mapped(first.addresses()), Ok(first.pid()));
    assert_eq!(
        mapped(second.addresses()),
        Ok(younger.pid()),
        "the holder of the address counts"
    );
    assert_eq!(
        mapped(&["203.0.113.7".parse().unwrap()]),
        Err(Reason::NoAddressMatch)
    );
}

/// Fails where the end of a pod's process is found by the next sweep only: ztunnel still listens in the old namespace,
/// and the census goes on to see all that it expects.
fn a_sandbox_that_is_replaced_is_judged_at_once(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pods = [
        lab.pod(spec("replaced")).unwrap(),
        lab.pod(spec("stays")).unwrap(),
    ];
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol_many(&pods).unwrap();
    let patience = Patience {
        interval: Duration::from_secs(3600),
        ..QUICK
    };
    let mut bench = Bench::new(&lab, mode, patience);
    bench.until_all_captured(&pods);
    let sweeps = bench.sweeps();
    pods[0].replace_netns().unwrap();
    bench.until_state(&pods[0], State::Orphan);
    assert_eq!(bench.sweeps(), sweeps, "nobody waited for the clock");
    assert_eq!(bench.pod(&pods[1]).state, State::Captured);
}
