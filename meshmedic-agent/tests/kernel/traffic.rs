// SPDX-License-Identifier: Apache-2.0
//! Which connections are counted in a namespace, and as whose.
//!
//! Two addresses of one namespace stand for a pod and for whom it speaks to: such a connection has both ends here. One
//! that Istio's rules redirect needs a way out, which is a device that leads nowhere.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use meshmedic_agent::kernel::{self, Options, Traffic};
use meshmedic_common::abi::TrafficCounts;
use meshmedic_common::time::Time;
use meshmedic_common::traffic::{Counted, LEAST_TIME, Passage, Tally};
use meshmedic_lab::rules::{Filter, IstioRules, run};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};

use crate::netns::{listen, within};
use crate::{load, options, until};

const POD: &str = "10.0.0.7";
const OTHER: &str = "10.0.0.8";
/// Whom nobody answers for.
const BEYOND: &str = "10.0.0.99";
const ZTUNNEL: u32 = 0x539;
const IPV6: [&str; 3] = ["fd00::7", "fd00::8", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"];

fn add(address: &str, device: &str) {
    let words = ["ip", "address", "add", address, "dev", device, "nodad"];
    let words = if address.contains(':') {
        &words[..]
    } else {
        &words[..6]
    };
    run(None, words, "").expect("an address");
}

/// Opens a connection from an address, with a mark.
fn open(from: &str, to: &str, port: u16, mark: u32) -> OwnedFd {
    let (from, to): (IpAddr, IpAddr) = (from.parse().expect("from"), to.parse().expect("to"));
    let family = if from.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let fd = socket(family, SocketType::STREAM, None).expect("a socket");
    if mark != 0 {
        crate::calls::mark(&fd, mark).expect("SO_MARK");
    }
    sockopt::set_socket_linger(fd.as_fd(), Some(Duration::ZERO)).expect("linger");
    bind(&fd, &SocketAddr::new(from, 0)).expect("bind");
    let opened = until("a route to the address", || {
        let opened = connect(&fd, &SocketAddr::new(to, port));
        // The kernel makes the route to an address a moment after the address.
        (opened != Err(Errno::NETUNREACH)).then_some(opened)
    });
    opened.unwrap_or_else(|error| panic!("{from} to {to}:{port}: {error}"));
    fd
}

/// Opens it and has it accepted, so many times.
fn connections(listener: &TcpListener, times: u64, from: &str, to: &str, port: u16, mark: u32) {
    for _ in 0..times {
        let _opened = open(from, to, port, mark);
        let (accepted, _): (TcpStream, _) = listener.accept().expect("accept");
        sockopt::set_socket_linger(&accepted, Some(Duration::ZERO)).expect("linger");
    }
}

/// What one connection of each kind counts for, in a namespace that is watched.
fn counted(act: impl FnOnce() + Send) -> TrafficCounts {
    let mut kernel = load();
    let traffic = &mut kernel.traffic;
    within(|netns| {
        for address in ["10.0.0.7/32", "10.0.0.8/32", "169.254.7.127/32"] {
            add(address, "lo");
        }
        for address in IPV6 {
            add(&format!("{address}/128"), "lo");
        }
        traffic.watch(&BTreeSet::from([netns]));
        act();
        traffic.of(netns).expect("it is watched")
    })
}

const NOTHING: TrafficCounts = TrafficCounts {
    opened_ipv4: 0,
    opened_ipv6: 0,
    accepted: 0,
    taken_outbound: 0,
    taken_inbound: 0,
    upstream: 0,
};
const OPENED: TrafficCounts = TrafficCounts {
    opened_ipv4: 3,
    accepted: 3,
    ..NOTHING
};

#[test]
fn what_an_application_opens_and_accepts_is_counted_by_family() {
    if !meshmedic_lab::need::ebpf("kernel: connections of an application") {
        return;
    }
    let counts = counted(|| connections(&listen("0.0.0.0:8080"), 3, POD, OTHER, 8080, 0));
    assert_eq!(counts, OPENED);
    // A socket of IPv6 that speaks IPv4.
    let counts = counted(|| {
        connections(
            &listen("[::]:8080"),
            3,
            "::ffff:10.0.0.7",
            "::ffff:10.0.0.8",
            8080,
            0,
        );
    });
    assert_eq!(counts, OPENED);
    let counts = counted(|| connections(&listen("[::]:8080"), 3, "fd00::7", "fd00::8", 8080, 0));
    let ipv6 = TrafficCounts {
        opened_ipv6: 3,
        accepted: 3,
        ..NOTHING
    };
    assert_eq!(counts, ipv6);
}

#[test]
fn a_namespace_that_is_not_watched_is_not_counted_and_one_that_was_begins_anew() {
    if !meshmedic_lab::need::ebpf("kernel: connections of others") {
        return;
    }
    let mut kernel = load();
    let traffic = &mut kernel.traffic;
    within(|netns| {
        add("10.0.0.7/32", "lo");
        add("10.0.0.8/32", "lo");
        let listener = listen("0.0.0.0:8080");
        let three = || connections(&listener, 3, POD, OTHER, 8080, 0);
        three();
        assert_eq!(traffic.of(netns), None);
        traffic.watch(&BTreeSet::from([netns]));
        assert_eq!(traffic.of(netns), Some(NOTHING));
        three();
        // To be watched once more changes nothing.
        traffic.watch(&BTreeSet::from([1, netns]));
        assert_eq!(traffic.of(netns), Some(OPENED));
        traffic.watch(&BTreeSet::new());
        three();
        traffic.watch(&BTreeSet::from([netns]));
        assert_eq!(traffic.of(netns), Some(NOTHING));
        three();
        assert_eq!(traffic.of(netns), Some(OPENED));
    });
}

#[test]
fn namespaces_beyond_the_limit_are_told() {
    if !meshmedic_lab::need::ebpf("kernel: more namespaces than are counted") {
        return;
    }
    let few = Options {
        traffic_namespaces: 2,
        ..options()
    };
    let mut kernel = kernel::load(&few).expect("load");
    let traffic = &mut kernel.traffic;
    traffic.watch(&BTreeSet::from([11, 12, 13, 14]));
    assert_eq!((traffic.left_out(), traffic.of(14)), (2, None));
    traffic.watch(&BTreeSet::from([13, 14]));
    assert_eq!((traffic.left_out(), traffic.of(14)), (0, Some(NOTHING)));
}

/// Fails where connections to loopback are counted.
#[test]
fn loopback_is_left_out() {
    if !meshmedic_lab::need::ebpf("kernel: connections to loopback") {
        return;
    }
    let counts = counted(|| {
        connections(&listen("0.0.0.0:8080"), 3, "127.0.0.1", "127.0.0.2", 8080, 0);
        connections(&listen("[::]:8081"), 3, "::1", "::1", 8081, 0);
        connections(&listen("0.0.0.0:15001"), 3, "127.0.0.1", "127.0.0.2", 15001, 0);
    });
    assert_eq!(counts, NOTHING);
}

/// Fails where the pod's own address is not compared.
#[test]
fn the_own_address_is_left_out() {
    if !meshmedic_lab::need::ebpf("kernel: connections to the own address") {
        return;
    }
    let counts = counted(|| {
        connections(&listen("0.0.0.0:8080"), 3, POD, POD, 8080, 0);
        connections(&listen("[::]:8081"), 3, "fd00::7", "fd00::7", 8081, 0);
    });
    assert_eq!(counts, NOTHING);
}

/// Fails where the address is not known under which istio-cni lets probes come in.
#[test]
fn probes_are_left_out() {
    if !meshmedic_lab::need::ebpf("kernel: probes") {
        return;
    }
    for (probe, other) in [
        ("169.254.7.127", OTHER),
        ("fd16:9254:7127:1337:ffff:ffff:ffff:ffff", "fd00::8"),
    ] {
        let from = counted(|| connections(&listen("[::]:8080"), 3, probe, other, 8080, 0));
        assert_eq!(from.accepted, 0, "{from:?}");
        let to = counted(|| connections(&listen("[::]:8080"), 3, other, probe, 8080, 0));
        assert_eq!((to.opened_ipv4, to.opened_ipv6, to.accepted), (0, 0, 3), "{to:?}");
    }
}

/// Fails where port 53 is like any other.
#[test]
fn names_are_left_out() {
    if !meshmedic_lab::need::ebpf("kernel: names") {
        return;
    }
    let counts = counted(|| connections(&listen("0.0.0.0:53"), 3, POD, OTHER, 53, 0));
    assert_eq!(counts.opened_ipv4, 0, "{counts:?}");
    let counts = counted(|| connections(&listen("0.0.0.0:15053"), 3, POD, OTHER, 15053, 0));
    assert_eq!(counts.accepted, 0, "{counts:?}");
}

/// Fails where the mark is not looked at.
#[test]
fn what_ztunnel_opens_is_no_applications() {
    if !meshmedic_lab::need::ebpf("kernel: ztunnel's upstream") {
        return;
    }
    for mark in [ZTUNNEL, 0x1000 | ZTUNNEL] {
        let counts = counted(|| connections(&listen("0.0.0.0:8080"), 3, POD, OTHER, 8080, mark));
        let upstream = TrafficCounts {
            upstream: 3,
            accepted: 3,
            ..NOTHING
        };
        assert_eq!(counts, upstream);
    }
    // Somebody else's mark says nothing of the mesh.
    let counts = counted(|| connections(&listen("0.0.0.0:8080"), 3, POD, OTHER, 8080, 0x8));
    assert_eq!(counts.opened_ipv4 + counts.opened_ipv6 + counts.upstream, 0);
}

#[test]
fn what_ztunnel_accepts_is_its_half() {
    if !meshmedic_lab::need::ebpf("kernel: ztunnel's halves") {
        return;
    }
    for (port, outbound, inbound) in [(15001, 3, 0), (15006, 0, 3), (15008, 0, 3)] {
        let counts = counted(|| connections(&listen(&format!("[::]:{port}")), 3, POD, OTHER, port, 0));
        assert_eq!(
            (counts.taken_outbound, counts.taken_inbound, counts.accepted),
            (outbound, inbound, 0)
        );
    }
}

/// How many connections tell which way they go.
const MANY: u64 = 10_000;

/// What so many connections come to, that are all opened between two looks.
fn verdict(traffic: &Traffic, netns: u32, act: impl FnOnce()) -> Passage {
    let counted = || {
        let addresses = [POD.parse().expect("an address")];
        Counted::of(traffic.of(netns).expect("it is watched"), &addresses)
    };
    let start = Time::default();
    let mut tally = Tally::begin(start, counted());
    act();
    tally.take(start + LEAST_TIME, counted());
    tally.connections().verdict
}

#[test]
fn ten_thousand_connections_past_ztunnel_are_told_from_as_many_through_it() {
    if !meshmedic_lab::need::packet_filters("kernel: ten thousand connections") {
        return;
    }
    let mut kernel = load();
    let traffic = &mut kernel.traffic;
    for filter in Filter::ALL {
        within(|netns| {
            run(
                None,
                &["ip", "link", "add", "out", "type", "veth", "peer", "name", "in"],
                "",
            )
            .expect("a way out");
            add("10.0.0.7/24", "out");
            add("10.0.0.8/32", "lo");
            for device in ["out", "in"] {
                run(None, &["ip", "link", "set", device, "up"], "").expect("up");
            }
            let istio = IstioRules {
                filter,
                dns: true,
                ipv6: false,
            };
            let (ztunnel, other) = (listen("[::]:15001"), listen("0.0.0.0:8080"));
            traffic.watch(&BTreeSet::from([netns]));
            let past = |times| connections(&other, times, POD, OTHER, 8080, 0);

            istio.write(None).expect("Istio's rules");
            let through = |times| connections(&ztunnel, times, POD, BEYOND, 8080, 0);
            assert_eq!(
                verdict(traffic, netns, || through(MANY)),
                Passage::Through,
                "{filter:?}"
            );
            let counts = traffic.of(netns).expect("it is watched");
            assert_eq!(
                (counts.opened_ipv4, counts.taken_outbound),
                (MANY, MANY),
                "{filter:?}"
            );
            assert_eq!(
                verdict(traffic, netns, || past(MANY)),
                Passage::Past,
                "{filter:?}"
            );
            let counts = traffic.of(netns).expect("it is watched");
            assert_eq!(
                (counts.opened_ipv4, counts.taken_outbound),
                (MANY * 2, MANY),
                "{filter:?}"
            );
            assert_eq!(verdict(traffic, netns, || ()), Passage::Unknown, "{filter:?}");
        });
    }
}
