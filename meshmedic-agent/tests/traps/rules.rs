// SPDX-License-Identifier: Apache-2.0
//! Listeners whose redirection rules are gone: everything looks well, and nothing goes through ztunnel.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use meshmedic_common::report::{NodeReport, TriggerMode};
use meshmedic_common::rules::{Rules, Unfollowed};
use meshmedic_common::traffic::{LEAST_CONNECTIONS, Passage, Untold};
use meshmedic_common::verdict::{Owner, Redirection, State, Traffic};
use meshmedic_lab::rules::{Filter, IstioRules, run};
use meshmedic_lab::{Lab, Pod, ZtunnelSpec, need};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::thread::LinkNameSpaceType;

use crate::common::{Bench, Patience, QUICK, find, spec};

fn has_rules(pod: &Pod, wanted: Rules) -> impl Fn(&NodeReport) -> bool {
    move |report| {
        let rules = find(report, pod).and_then(|found| found.rules);
        rules.is_some_and(|rules| rules.verdict == wanted)
    }
}

#[test]
fn listeners_without_rules_are_bypassing_until_the_rules_are_back() {
    if !need::ebpf("traps, eBPF: listeners without rules") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let (pod, other) = (lab.pod(spec("bare")).unwrap(), lab.pod(spec("other")).unwrap());
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol_many(&[pod.clone(), other.clone()]).unwrap();
    let mut bench = Bench::new(&lab, TriggerMode::Ebpf, QUICK);
    bench.until_all_captured(&[pod.clone(), other.clone()]);
    bench.until("the rules to be read", has_rules(&pod, Rules::Present));

    pod.set_redirected(false).unwrap();
    bench.until_state(&pod, State::Bypassing);
    let found = bench.pod(&pod);
    assert_eq!(
        (found.traffic, found.owner),
        (Some(Traffic::Bypassing), Some(Owner::Ztunnel))
    );
    assert_eq!(found.rules.unwrap().verdict, Rules::Absent);
    assert!(!bench.was(&other, State::Bypassing), "the other pod is well");
    // Its listeners are read again and again, and are no reason to call it captured.
    bench.forget();
    bench.go_on_for(QUICK.confirm * 3);
    assert_eq!(bench.pod(&pod).state, State::Bypassing);
    assert!(!bench.was(&pod, State::Captured));

    pod.set_redirected(true).unwrap();
    bench.until_captured(&pod);
    assert_eq!(bench.pod(&pod).rules.unwrap().verdict, Rules::Present);

    // Without listeners it is an orphan, whatever it was before.
    pod.set_redirected(false).unwrap();
    bench.until_state(&pod, State::Bypassing);
    ztunnel.unenrol(&pod).unwrap();
    bench.until_state(&pod, State::Orphan);
}

/// Fails where one census is enough.
#[test]
fn rules_that_are_back_within_the_confirmation_were_never_gone() {
    if !need::ebpf("traps, eBPF: rules that come back") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("rewritten")).unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol(&pod).unwrap();
    let patient = Patience {
        confirm: Duration::from_secs(3600),
        ..QUICK
    };
    let mut bench = Bench::new(&lab, TriggerMode::Ebpf, patient);
    bench.until_captured(&pod);
    pod.set_redirected(false).unwrap();
    bench.until("the absence to be read", has_rules(&pod, Rules::Absent));
    assert_eq!(bench.pod(&pod).state, State::Captured, "it is not confirmed yet");
    pod.set_redirected(true).unwrap();
    bench.until("the rules to be read", has_rules(&pod, Rules::Present));
    bench.assert_no_finding();
}

#[test]
fn every_set_of_istios_rules_keeps_a_pod_captured() {
    if !need::packet_filters("traps, eBPF: every set of Istio's rules") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    let mut pods = Vec::new();
    for filter in Filter::ALL {
        let mut bare = spec(&format!("{filter:?}").to_lowercase());
        bare.redirected = false;
        let pod = lab.pod(bare).unwrap();
        let rules = IstioRules {
            filter,
            dns: true,
            ipv6: true,
        };
        rules.write(Some(pod.pid())).unwrap();
        pods.push((pod, rules));
    }
    for (pod, _) in &pods {
        ztunnel.enrol(pod).unwrap();
    }
    let mut bench = Bench::new(&lab, TriggerMode::Ebpf, QUICK);
    for (pod, _) in &pods {
        bench.until_captured(pod);
        bench.until("the rules to be read", has_rules(pod, Rules::Present));
    }
    bench.go_on_for(QUICK.confirm * 3);
    bench.assert_no_finding();
    for (pod, rules) in &pods {
        rules.remove(Some(pod.pid())).unwrap();
        bench.until_state(pod, State::Bypassing);
        rules.write(Some(pod.pid())).unwrap();
        bench.until_captured(pod);
    }
}

/// Fails where the routing table decides though the rules can be read, and where those are told that were read while
/// ztunnel still listened.
#[test]
fn the_rules_of_an_orphan_say_whether_its_traffic_is_refused_or_goes_past() {
    if !need::packet_filters("traps, eBPF: the rules of an orphan") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    let rules = IstioRules {
        filter: Filter::IptablesNft,
        dns: true,
        ipv6: true,
    };
    // One has rules and no routing table, the other the table and, in the end, no rules.
    let mut unrouted = spec("refused");
    unrouted.redirected = false;
    let (refused, leaks) = (lab.pod(unrouted).unwrap(), lab.pod(spec("leaks")).unwrap());
    rules.write(Some(refused.pid())).unwrap();
    let pods = [refused.clone(), leaks.clone()];
    ztunnel.enrol_many(&pods).unwrap();
    let mut bench = Bench::new(&lab, TriggerMode::Ebpf, QUICK);
    bench.until_all_captured(&pods);
    for pod in &pods {
        bench.until("the rules to be read", has_rules(pod, Rules::Present));
    }
    ztunnel.unenrol_many(&pods).unwrap();
    for pod in &pods {
        bench.until_state(pod, State::Orphan);
        let found = bench.pod(pod);
        assert_eq!(
            (found.rules.unwrap().verdict, found.traffic),
            (Rules::Present, Some(Traffic::FailClosed)),
            "{found:?}"
        );
    }
    assert_eq!(bench.pod(&refused).redirection, Redirection::Absent);
    run(Some(leaks.pid()), &["nft", "flush", "ruleset"], "").unwrap();
    bench.until("the missing rules to be read", has_rules(&leaks, Rules::Absent));
    let found = bench.pod(&leaks);
    assert_eq!(
        (found.redirection, found.traffic),
        (Redirection::Routed, Some(Traffic::Bypassing))
    );
    assert_eq!(bench.pod(&refused).traffic, Some(Traffic::FailClosed));
}

/// Opens connections from a pod's first address to its second, which stands for another pod's.
fn open_past_ztunnel(pod: &Pod, count: u64) -> Vec<OwnedFd> {
    let netns = std::fs::File::open(format!("/proc/{}/ns/net", pod.pid())).unwrap();
    let [from, to] = pod.addresses() else {
        panic!("two addresses");
    };
    std::thread::scope(|scope| {
        let opener = scope.spawn(|| {
            rustix::thread::move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                .unwrap();
            let one = |_| {
                let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
                bind(&fd, &SocketAddr::new(*from, 0)).unwrap();
                connect(&fd, &SocketAddr::new(*to, 8080)).unwrap();
                fd
            };
            (0..count).map(one).collect()
        });
        opener.join().unwrap()
    })
}

/// Fails where rules in part prove something by themselves, and where connections past ztunnel do not.
#[test]
fn rules_in_part_are_bypassing_once_connections_go_past_ztunnel() {
    if !need::packet_filters("traps, eBPF: connections past ztunnel") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    let of = |name: &str, n: u8| {
        let mut spec = spec(name);
        spec.redirected = false;
        spec.addresses = vec![[10, 9, n, 1].into(), [10, 9, n, 2].into()];
        spec.listeners = vec!["0.0.0.0:8080".parse().unwrap()];
        lab.pod(spec).unwrap()
    };
    let (speaks, silent) = (of("speaks", 1), of("silent", 2));
    let rules = IstioRules {
        filter: Filter::IptablesNft,
        dns: true,
        ipv6: false,
    };
    for pod in [&speaks, &silent] {
        rules.write(Some(pod.pid())).unwrap();
        ztunnel.enrol(pod).unwrap();
    }
    let mut bench = Bench::new(&lab, TriggerMode::Ebpf, QUICK);
    for pod in [&speaks, &silent] {
        bench.until("the rules to be read", has_rules(pod, Rules::Present));
        let half = "*nat\n-F OUTPUT\nCOMMIT\n";
        run(Some(pod.pid()), &["iptables-nft-restore", "-n"], half).unwrap();
        bench.until("half of them to be read", has_rules(pod, Rules::Differs));
        assert_eq!(
            bench.pod(pod).state,
            State::Captured,
            "by itself it proves nothing"
        );
    }
    let _open = open_past_ztunnel(&speaks, LEAST_CONNECTIONS);
    bench.until_state(&speaks, State::Bypassing);
    let found = bench.pod(&speaks);
    let connections = found.connections.unwrap();
    assert_eq!(
        (connections.verdict, connections.untaken),
        (Passage::Past, LEAST_CONNECTIONS)
    );
    assert_eq!(found.rules.unwrap().verdict, Rules::Differs);
    let found = bench.pod(&silent);
    assert_eq!(
        (found.state, found.connections.unwrap().reason),
        (State::Captured, Some(Untold::NoTraffic))
    );
    rules.write(Some(speaks.pid())).unwrap();
    bench.until_captured(&speaks);
}

#[test]
fn by_polling_rules_are_unknown_and_nothing_is_concluded() {
    if !need::root("traps, polling: rules") {
        return;
    }
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("polled")).unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol(&pod).unwrap();
    let mut bench = Bench::new(&lab, TriggerMode::Poll, QUICK);
    bench.until_captured(&pod);
    pod.set_redirected(false).unwrap();
    bench.go_on_for(QUICK.confirm * 3);
    bench.assert_no_finding();
    let rules = bench.pod(&pod).rules.unwrap();
    assert_eq!(
        (rules.verdict, rules.reason()),
        (Rules::Unknown, Some(Unfollowed::NoCensus))
    );
}
