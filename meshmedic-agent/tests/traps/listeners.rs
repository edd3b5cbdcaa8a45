// SPDX-License-Identifier: Apache-2.0
//! What listens, on which address, and whose it is.

use meshmedic_agent::kernel;
use meshmedic_agent::node::{NetnsIndex, ProcessTable, ReadJob};
use meshmedic_agent::time::Time;
use meshmedic_common::ports::PortSet;
use meshmedic_common::report::TriggerMode;
use meshmedic_common::verdict::{Condition, Redirection, State, Traffic};
use meshmedic_lab::{Lab, ZtunnelSpec, need};

use crate::common::{Bench, QUICK, find, holds, in_both_modes, is_captured, many, spec, uid};

in_both_modes!(
    ipv4_only_and_ipv6_only_listeners,
    an_app_on_loopback_captures_nothing,
    an_app_on_the_wildcard_makes_a_pod_partial_and_not_captured,
    ports_that_ztunnel_closed_make_a_pod_partial,
    an_imposter_is_named,
    sixteen_thousand_connections_change_nothing,
    what_the_traffic_of_an_orphan_does,
);

/// Fails where one of `tcp6` and `tcp` is not read: a ztunnel shows in one of them alone.
fn ipv4_only_and_ipv6_only_listeners(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let (both, four) = (lab.pod(spec("both")).unwrap(), lab.pod(spec("four")).unwrap());
    let mut without_ipv6 = spec("without-ipv6");
    without_ipv6.ipv6 = false;
    let without_ipv6 = lab.pod(without_ipv6).unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    let ipv4_only = ZtunnelSpec {
        name: "ztunnel-ipv4".to_owned(),
        ipv6: false,
        ..ZtunnelSpec::default()
    };
    let ipv4_only = lab.ztunnel(ipv4_only).unwrap();
    ztunnel.enrol(&both).unwrap();
    ipv4_only
        .enrol_many(&[four.clone(), without_ipv6.clone()])
        .unwrap();
    let mut bench = Bench::new(&lab, mode, QUICK);
    let pods = [both, four, without_ipv6];
    bench.until_all_captured(&pods);
    // The census vouches for these pods, so the reading itself must be seen to find them too.
    for pod in &pods {
        assert!(read(&lab, pod).is_complete(), "{pod:?}");
    }
    bench.go_on_for(QUICK.confirm * 2);
    bench.assert_no_finding();
    ipv4_only.unenrol(&pods[1]).unwrap();
    bench.until_state(&pods[1], State::Orphan);
}

/// Reads a pod as the watch does.
fn read(lab: &Lab, pod: &meshmedic_lab::Pod) -> meshmedic_common::sockets::Reading {
    job(lab, pod).run().unwrap().reading
}

fn job(lab: &Lab, pod: &meshmedic_lab::Pod) -> ReadJob {
    let mut table = ProcessTable::new(lab.proc_root());
    table.refresh(Time::now()).unwrap();
    let index = NetnsIndex::build(&table, &[].into_iter().collect());
    let mapping = index.get(&uid(pod)).unwrap().clone();
    ReadJob {
        root: lab.proc_root().to_owned(),
        mapping,
    }
}

/// Fails where a listener's address is not looked at.
fn an_app_on_loopback_captures_nothing(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("app")).unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol(&pod).unwrap();
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_captured(&pod);
    ztunnel.unenrol(&pod).unwrap();
    for address in ["127.0.0.1:15001", "127.0.0.1:15006", "[::1]:15008"] {
        pod.listen(address.parse().unwrap()).unwrap();
    }
    bench.until_state(&pod, State::Orphan);
    assert!(!bench.was(&pod, State::Partial) && !bench.was(&pod, State::Imposter));
    assert_eq!(bench.pod(&pod).ports, PortSet::REQUIRED);
}

/// Fails where one of the ports passes for the three.
fn an_app_on_the_wildcard_makes_a_pod_partial_and_not_captured(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("app")).unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol(&pod).unwrap();
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_captured(&pod);
    bench.forget();
    ztunnel.unenrol(&pod).unwrap();
    pod.listen("0.0.0.0:15001".parse().unwrap()).unwrap();
    bench.until_state(&pod, State::Partial);
    assert_eq!(bench.pod(&pod).ports.to_string(), "15001");
    // It holds the port that ztunnel would need, and still captures nothing.
    pod.listen("[::]:15006".parse().unwrap()).unwrap();
    bench.go_on_for(QUICK.confirm * 2);
    assert_eq!(bench.pod(&pod).state, State::Partial);
    assert!(
        !bench.was(&pod, State::Captured) && !bench.was(&pod, State::Orphan),
        "{:#?}",
        bench.transitions().collect::<Vec<_>>()
    );
}

/// Fails where some ports pass for all, or for none.
fn ports_that_ztunnel_closed_make_a_pod_partial(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let ports = [15001, 15006, 15008];
    let pods: Vec<_> = ports
        .iter()
        .map(|port| lab.pod(spec(&format!("lost-{port}"))).unwrap())
        .collect();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol_many(&pods).unwrap();
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_all_captured(&pods);
    for (pod, port) in pods.iter().zip(ports) {
        ztunnel.close_port(pod, port).unwrap();
    }
    for (pod, port) in pods.iter().zip(ports) {
        bench.until_state(pod, State::Partial);
        assert!(!bench.was(pod, State::Orphan));
        let missing = PortSet::REQUIRED.difference(bench.pod(pod).ports);
        assert_eq!(missing.to_string(), port.to_string());
        ztunnel.open_port(pod, port).unwrap();
    }
    bench.until_all_captured(&pods);
}

/// Fails where listeners on the right ports pass for ztunnel's without a look at whose they are.
fn an_imposter_is_named(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("imposter")).unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol(&pod).unwrap();
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_captured(&pod);
    bench.until_idle();
    bench.forget();
    ztunnel.unenrol(&pod).unwrap();
    for port in [15001, 15006, 15008] {
        pod.listen(format!("[::]:{port}").parse().unwrap()).unwrap();
    }
    bench.until_state(&pod, State::Imposter);
    let report = bench.pod(&pod);
    let held_by: Vec<_> = report
        .held_by
        .iter()
        .map(|holder| (holder.pid, holder.name.as_str(), holder.ports))
        .collect();
    assert_eq!(held_by, [(pod.pid(), "app", PortSet::REQUIRED)]);
    assert!(
        !bench.was(&pod, State::Captured) && !bench.was(&pod, State::Orphan),
        "{:#?}",
        bench.transitions().collect::<Vec<_>>()
    );
}

/// More than the first page of rows, so that ztunnel's listeners lie among others.
const OWN_LISTENERS: usize = 200;
/// Room for the listeners; the connections would be some megabytes.
const READ_AT_MOST: u64 = 256 * 1024;

/// Fails where only the beginning of a table is read, and where all of it is.
fn sixteen_thousand_connections_change_nothing(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let (stays, lost) = (lab.pod(spec("stays")).unwrap(), lab.pod(spec("lost")).unwrap());
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol_many(&[stays.clone(), lost.clone()]).unwrap();
    for pod in [&stays, &lost] {
        for _ in 0..OWN_LISTENERS {
            pod.listen("[::]:0".parse().unwrap()).unwrap();
        }
        pod.connections(16_000).unwrap();
    }
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_all_captured(&[stays.clone(), lost.clone()]);
    assert!(read(&lab, &stays).is_complete());
    ztunnel.unenrol(&lost).unwrap();
    bench.until_state(&lost, State::Orphan);
    assert!(!bench.was(&stays, State::Orphan));
    let report = bench.report();
    assert!(find(&report, &stays).is_some_and(is_captured));
    for pod in [&stays, &lost] {
        let job = job(&lab, pod);
        let before = bytes_read();
        job.run().unwrap();
        let read = bytes_read() - before;
        assert!(read < READ_AT_MOST, "{read} bytes of {pod:?}");
    }
}

/// What this thread has read so far.
fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let rchar = io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
    rchar.parse().unwrap()
}

/// Fails where the routing table is not looked at, or not looked at again.
fn what_the_traffic_of_an_orphan_does(mode: TriggerMode) {
    let lab = Lab::isolated().unwrap();
    let (closed, bypassing) = (
        lab.pod(spec("closed")).unwrap(),
        lab.pod(spec("bypassing")).unwrap(),
    );
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    let pods = [closed.clone(), bypassing.clone()];
    ztunnel.enrol_many(&pods).unwrap();
    let mut bench = Bench::new(&lab, mode, QUICK);
    bench.until_all_captured(&pods);
    bypassing.set_redirected(false).unwrap();
    ztunnel.unenrol_many(&pods).unwrap();
    bench.until_state(&closed, State::Orphan);
    bench.until_state(&bypassing, State::Orphan);
    let traffic = |pod| (bench.pod(pod).redirection, bench.pod(pod).traffic);
    assert_eq!(traffic(&closed), (Redirection::Routed, Some(Traffic::FailClosed)));
    assert_eq!(
        traffic(&bypassing),
        (Redirection::Absent, Some(Traffic::Bypassing))
    );
    closed.set_redirected(false).unwrap();
    bench.until("the evidence to follow", |report| {
        find(report, &closed).is_some_and(|pod| pod.traffic == Some(Traffic::Bypassing))
    });
}

/// Fails where a census that failed once is never taken again.
#[test]
fn a_census_that_fails_is_taken_again_once_it_can_be() {
    if !need::ebpf("traps: a census that fails") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let pods = many(&lab, 4);
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol_many(&pods).unwrap();
    // Two pods' worth and a little more.
    let options = kernel::Options {
        census_rows: 12,
        ..kernel::Options::default()
    };
    let mut bench = Bench::with(lab.proc_root(), lab.log_root(), Some(&options), QUICK);
    bench.until("the census to fail", |report| {
        holds(report, Condition::CensusDegraded)
    });
    // Readings do without: these four are captured, and a loss is still told.
    bench.until_all_captured(&pods);
    ztunnel.unenrol_many(&pods[1..]).unwrap();
    bench.until_state(&pods[1], State::Orphan);
    bench.until("the census to work", |report| {
        !holds(report, Condition::CensusDegraded)
    });
    bench.until_captured(&pods[0]);
}
