// SPDX-License-Identifier: Apache-2.0
//! Files of /proc that are missing or cannot be read.

use std::path::Path;

use meshmedic_common::report::TriggerMode;
use meshmedic_common::verdict::{Reason, State};
use meshmedic_lab::{Lab, Pod, Ztunnel, ZtunnelSpec, need};

use crate::common::{Bench, Composed, QUICK, find, spec};

fn node(ipv6: bool) -> (Lab, Pod, Ztunnel) {
    let lab = Lab::isolated().unwrap();
    let pod = lab.pod(spec("app")).unwrap();
    let ztunnel = lab
        .ztunnel(ZtunnelSpec {
            ipv6,
            ..ZtunnelSpec::default()
        })
        .unwrap();
    ztunnel.enrol(&pod).unwrap();
    (lab, pod, ztunnel)
}

/// Opens like a file, and then refuses to be read.
fn make_unreadable(file: &Path) {
    std::fs::remove_file(file).unwrap();
    std::fs::create_dir(file).unwrap();
}

/// Fails where a table that cannot be read counts as an empty one.
#[test]
fn an_unreadable_file_is_no_answer() {
    if !need::root("traps: an unreadable file") {
        return;
    }
    for file in ["tcp6", "tcp"] {
        let (lab, pod, ztunnel) = node(true);
        let root = Composed::new();
        root.show(ztunnel.pid(), ztunnel.pid());
        let net = root.show_with_own_net(pod.pid());
        make_unreadable(&net.join(file));
        ztunnel.unenrol(&pod).unwrap();
        let mut bench = Bench::over(root.path(), lab.log_root(), TriggerMode::Poll, QUICK);
        bench.until("the failure to be told", |report| {
            find(report, &pod).is_some_and(|pod| pod.reason == Some(Reason::ReadFailed))
        });
        bench.go_on_for(QUICK.confirm * 3);
        bench.assert_no_finding();
        assert_eq!(bench.pod(&pod).state, State::Unverifiable, "{file}");
    }
}

/// Fails where a process that hides its namespace is passed over: its pod would vanish from the report.
#[test]
fn a_namespace_that_is_not_shown_leaves_the_pod_unverifiable() {
    if !need::root("traps: a namespace that is not shown") {
        return;
    }
    let (lab, pod, ztunnel) = node(true);
    let root = Composed::new();
    root.show(ztunnel.pid(), ztunnel.pid());
    let net = root.show_with_own_net(pod.pid());
    // A link to itself: even its number cannot be had.
    std::fs::remove_dir_all(&net).unwrap();
    std::os::unix::fs::symlink(&net, &net).unwrap();
    let mut bench = Bench::over(root.path(), lab.log_root(), TriggerMode::Poll, QUICK);
    bench.until("the failure to be told", |report| {
        find(report, &pod).is_some_and(|pod| pod.reason == Some(Reason::ReadFailed))
    });
    assert_eq!(bench.pod(&pod).state, State::Unverifiable);
    bench.assert_no_finding();
}

/// Fails where a kernel without IPv6 counts as a failure to read.
#[test]
fn a_missing_tcp6_is_a_kernel_without_ipv6() {
    if !need::root("traps: a missing tcp6") {
        return;
    }
    let (lab, pod, ztunnel) = node(false);
    let root = Composed::new();
    root.show(ztunnel.pid(), ztunnel.pid());
    let net = root.show_with_own_net(pod.pid());
    std::fs::remove_file(net.join("tcp6")).unwrap();
    let mut bench = Bench::over(root.path(), lab.log_root(), TriggerMode::Poll, QUICK);
    bench.until_captured(&pod);
    ztunnel.unenrol(&pod).unwrap();
    bench.until_state(&pod, State::Orphan);
}
