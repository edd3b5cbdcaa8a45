// SPDX-License-Identifier: Apache-2.0
//! Listeners whose redirection rules are gone: everything looks well, and nothing goes through ztunnel.

use std::time::Duration;

use meshmedic_common::report::{NodeReport, TriggerMode};
use meshmedic_common::rules::{Rules, Unfollowed};
use meshmedic_common::verdict::{Owner, State, Traffic};
use meshmedic_lab::rules::{Filter, IstioRules};
use meshmedic_lab::{Lab, Pod, ZtunnelSpec, need};

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
