// SPDX-License-Identifier: Apache-2.0
//! The stand-in ztunnel does what a real one was seen to do.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use meshmedic_lab::{Error, Lab, Pod, PodSpec, Ztunnel, ZtunnelSpec, need, wait};

use crate::common::{backlog, listeners, netns, read};

const NONE: [&str; 0] = [];
const TCP6: [&str; 4] = ["[::1]:15053", "[::]:15001", "[::]:15006", "[::]:15008"];
const SOON: Duration = Duration::from_secs(10);

fn setup(spec: ZtunnelSpec, names: &[&str]) -> (Lab, Vec<Pod>, Ztunnel) {
    let lab = Lab::new().unwrap();
    let pods = lab
        .pods(names.iter().map(|name| PodSpec::new("shop", name)))
        .unwrap();
    let ztunnel = lab.ztunnel(spec).unwrap();
    (lab, pods, ztunnel)
}

fn port(port: u16) -> SocketAddr {
    format!("[::]:{port}").parse().unwrap()
}

/// Each configuration's tables: tcp, tcp6, udp, udp6.
#[track_caller]
fn assert_tables(spec: ZtunnelSpec, tables: [&[&str]; 4]) {
    let (lab, pods, ztunnel) = setup(spec, &["a", "b"]);
    ztunnel.enrol_many(&pods).unwrap();
    for pod in &pods {
        for (table, expected) in ["tcp", "tcp6", "udp", "udp6"].into_iter().zip(tables) {
            assert_eq!(listeners(&lab, pod.pid(), table), expected, "{table}");
        }
    }
    ztunnel.unenrol(&pods[0]).unwrap();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        assert_eq!(listeners(&lab, pods[0].pid(), table), NONE);
    }
    assert_eq!(listeners(&lab, pods[1].pid(), "tcp6"), tables[1]);
}

#[test]
fn it_binds_what_the_real_one_binds() {
    if !need::root("it_binds_what_the_real_one_binds") {
        return;
    }
    let default = ZtunnelSpec::default;
    assert_tables(
        default(),
        [
            &["127.0.0.1:15053"],
            &TCP6,
            &["127.0.0.1:15053"],
            &["[::1]:15053"],
        ],
    );
    assert_tables(
        ZtunnelSpec {
            dns: false,
            ..default()
        },
        [&[], &TCP6[1..], &[], &[]],
    );
    assert_tables(
        ZtunnelSpec {
            socks5: true,
            ..default()
        },
        [
            &["127.0.0.1:15053", "127.0.0.1:15080"],
            &TCP6,
            &["127.0.0.1:15053"],
            &["[::1]:15053"],
        ],
    );
    let ipv4 = [
        "0.0.0.0:15001",
        "0.0.0.0:15006",
        "0.0.0.0:15008",
        "127.0.0.1:15053",
    ];
    assert_tables(
        ZtunnelSpec {
            ipv6: false,
            ..default()
        },
        [&ipv4, &[], &["127.0.0.1:15053"], &[]],
    );
}

#[test]
fn it_listens_on_ipv6_even_where_the_pod_has_none() {
    if !need::root("it_listens_on_ipv6_even_where_the_pod_has_none") {
        return;
    }
    let lab = Lab::new().unwrap();
    let pod = lab
        .pod(PodSpec {
            ipv6: false,
            ..PodSpec::new("shop", "a")
        })
        .unwrap();
    let ztunnel = lab.ztunnel(ZtunnelSpec::default()).unwrap();
    ztunnel.enrol(&pod).unwrap();
    assert_eq!(listeners(&lab, pod.pid(), "tcp"), ["127.0.0.1:15053"]);
    assert_eq!(listeners(&lab, pod.pid(), "tcp6"), &TCP6[1..]);
    assert_eq!(listeners(&lab, pod.pid(), "udp6"), NONE);
}

#[test]
fn its_sockets_are_its_own() {
    if !need::root("its_sockets_are_its_own") {
        return;
    }
    let (lab, pods, ztunnel) = setup(ZtunnelSpec::default(), &["a"]);
    ztunnel.enrol(&pods[0]).unwrap();
    assert_eq!(read(&lab, ztunnel.pid(), "comm"), "ztunnel\n");
    assert_eq!(
        read(&lab, ztunnel.pid(), "status")
            .lines()
            .filter(|l| *l == "Threads:\t1")
            .count(),
        1
    );
    assert!(read(&lab, ztunnel.pid(), "cgroup").contains(&ztunnel.uid().replace('-', "_")));
    // It came home from the pod.
    assert_eq!(netns(ztunnel.pid()), ztunnel.netns().unwrap());
    assert_ne!(ztunnel.netns().unwrap(), pods[0].netns().unwrap());
    assert_ne!(ztunnel.netns().unwrap(), netns(std::process::id()));
    assert_eq!(
        listeners(&lab, ztunnel.pid(), "tcp6"),
        ["[::]:15020", "[::]:15021"]
    );

    let fds = |pid: u32| -> Vec<String> {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let links = fds.map(|fd| fs::read_link(fd.unwrap().path()));
        links
            .filter_map(|link| Some(link.ok()?.to_str()?.to_owned()))
            .collect()
    };
    let table = read(&lab, pods[0].pid(), "net/tcp6");
    for row in table.lines().skip(1) {
        let socket = format!("socket:[{}]", row.split_whitespace().nth(9).unwrap());
        assert!(fds(ztunnel.pid()).contains(&socket) && !fds(pods[0].pid()).contains(&socket));
    }
    assert!(fds(ztunnel.pid()).contains(&format!("net:[{}]", pods[0].netns().unwrap())));
}

#[test]
fn a_pod_can_be_captured_in_part() {
    if !need::root("a_pod_can_be_captured_in_part") {
        return;
    }
    let (lab, pods, ztunnel) = setup(ZtunnelSpec::default(), &["a"]);
    let pod = &pods[0];
    ztunnel.enrol_ports(pod, &[15001, 15006]).unwrap();
    assert_eq!(listeners(&lab, pod.pid(), "tcp6"), ["[::]:15001", "[::]:15006"]);
    ztunnel.enrol(pod).unwrap();
    assert_eq!(listeners(&lab, pod.pid(), "tcp6"), TCP6);
    ztunnel.close_port(pod, 15008).unwrap();
    assert_eq!(listeners(&lab, pod.pid(), "tcp6"), &TCP6[..3]);
    ztunnel.open_port(pod, 15008).unwrap();
    assert_eq!(listeners(&lab, pod.pid(), "tcp6"), TCP6);
}

#[test]
fn a_conflict_names_the_port_and_leaves_nothing() {
    if !need::root("a_conflict_names_the_port_and_leaves_nothing") {
        return;
    }
    let (lab, pods, ztunnel) = setup(ZtunnelSpec::default(), &["a", "b"]);
    pods[0].listen(port(15006)).unwrap();
    let error = ztunnel.enrol_many(&pods).unwrap_err();
    assert!(error.to_string().contains("15006"), "{error}");
    assert!(matches!(error, Error::PortTaken { address } if address.port() == 15006));
    assert_eq!(listeners(&lab, pods[0].pid(), "tcp6"), ["[::]:15006"]);
    assert_eq!(listeners(&lab, pods[1].pid(), "tcp6"), TCP6);
    // The other way round: the port is the application's, too, if both share it.
    pods[0].close(port(15006)).unwrap();
    ztunnel.enrol(&pods[0]).unwrap();
    pods[0].listen_reuse_port(port(15006)).unwrap();
    assert_eq!(listeners(&lab, pods[0].pid(), "tcp6").len(), 5);
    // An imposter in a pod that ztunnel lost.
    ztunnel.unenrol(&pods[0]).unwrap();
    assert_eq!(listeners(&lab, pods[0].pid(), "tcp6"), ["[::]:15006"]);
}

#[test]
fn it_dies_starts_again_and_overlaps() {
    if !need::root("it_dies_starts_again_and_overlaps") {
        return;
    }
    let (lab, pods, ztunnel) = setup(ZtunnelSpec::default(), &["a", "b", "c"]);
    let seen = |pod: &Pod| listeners(&lab, pod.pid(), "tcp6");
    ztunnel.enrol_many(&pods).unwrap();
    let pid = ztunnel.pid();
    ztunnel.kill();
    assert!(!ztunnel.is_running() && !fs::exists(format!("/proc/{pid}")).unwrap());
    assert!(pods.iter().all(|pod| seen(pod).is_empty()));
    ztunnel.start_again().unwrap();
    assert!(pods.iter().all(|pod| seen(pod) == TCP6));
    assert_eq!(ztunnel.enrolled().len(), 3);

    let second = lab
        .ztunnel(ZtunnelSpec {
            name: "ztunnel-zzzzz".to_owned(),
            ..Default::default()
        })
        .unwrap();
    second.enrol_many(&pods).unwrap();
    assert!(pods.iter().all(|pod| seen(pod).len() == 2 * TCP6.len()));
    ztunnel.stop(Duration::from_secs(60)).unwrap();
    assert!(ztunnel.is_running());
    assert!(pods.iter().all(|pod| seen(pod) == TCP6));
    ztunnel.kill();

    second.stop(Duration::from_millis(1)).unwrap();
    second.wait_ended();
    assert!(!second.is_running());
    second.start_empty().unwrap();
    assert!(pods.iter().all(|pod| seen(pod).is_empty()));
}

#[test]
fn its_backlog_grows_only_while_it_hangs() {
    if !need::root("its_backlog_grows_only_while_it_hangs") {
        return;
    }
    let (lab, pods, ztunnel) = setup(ZtunnelSpec::default(), &["a"]);
    let pod = &pods[0];
    ztunnel.enrol(pod).unwrap();
    let waiting = || backlog(&lab, pod.pid(), "tcp6", 15008);
    let knock = || pod.connect("127.0.0.1:15008".parse().unwrap()).unwrap();
    knock();
    wait::until("the connection to be accepted", SOON, || waiting() == 0).unwrap();
    ztunnel.hang().unwrap();
    (0..3).for_each(|_| knock());
    assert_eq!(waiting(), 3);
    assert_eq!(listeners(&lab, pod.pid(), "tcp6"), TCP6);
    ztunnel.resume().unwrap();
    wait::until("the backlog to be empty", SOON, || waiting() == 0).unwrap();
}

#[test]
fn it_follows_a_pod_into_its_new_namespace() {
    if !need::root("it_follows_a_pod_into_its_new_namespace") {
        return;
    }
    let (lab, pods, ztunnel) = setup(ZtunnelSpec::default(), &["a"]);
    ztunnel.enrol(&pods[0]).unwrap();
    pods[0].replace_netns().unwrap();
    assert_eq!(listeners(&lab, pods[0].pid(), "tcp6"), NONE);
    ztunnel.enrol(&pods[0]).unwrap();
    assert_eq!(listeners(&lab, pods[0].pid(), "tcp6"), TCP6);
}

#[test]
fn it_holds_200_pods() {
    if !need::root("it_holds_200_pods") {
        return;
    }
    let lab = Lab::new().unwrap();
    let pods = lab
        .pods((0..200).map(|n| PodSpec::new("shop", &format!("cart-{n}"))))
        .unwrap();
    let ztunnel = lab
        .ztunnel(ZtunnelSpec {
            host_network: true,
            ..Default::default()
        })
        .unwrap();
    assert_eq!(
        ztunnel.netns().unwrap(),
        fs::metadata("/proc/self/ns/net").unwrap().ino()
    );
    ztunnel.enrol_many(&pods).unwrap();
    assert!(pods.iter().all(|pod| listeners(&lab, pod.pid(), "tcp6") == TCP6));
    ztunnel.unenrol_many(&pods).unwrap();
    assert!(pods.iter().all(|pod| listeners(&lab, pod.pid(), "tcp6") == NONE));
}
