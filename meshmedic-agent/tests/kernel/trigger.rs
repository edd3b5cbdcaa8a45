// SPDX-License-Identifier: Apache-2.0
//! What begins and ceases to listen, and what must not be told.

use std::{
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use meshmedic_agent::kernel::{self, Kernel, Options, Trigger};
use meshmedic_common::abi::{
    CHANGE_CLOSED, CHANGE_OPENED, FAMILY_INET, FAMILY_INET6, ListenChange, PORT_INBOUND_HBONE,
};

use crate::{
    alone, load,
    netns::{Holder, listen, within},
    options, together, until,
};

/// The kernel writes the record before the system call that caused it returns: no waiting is needed.
fn of(trigger: &mut Trigger, netns: u32) -> Vec<ListenChange> {
    let mut batch = Vec::new();
    trigger.drain(&mut batch);
    batch.retain(|record| record.netns == netns);
    batch
}

fn what(records: &[ListenChange]) -> Vec<(u16, u16, u8)> {
    records
        .iter()
        .map(|record| (record.port, record.family, record.change))
        .collect()
}

#[test]
fn opening_and_closing_is_told_with_netns_and_family() {
    if !meshmedic_lab::need::ebpf("kernel: opening and closing") {
        return;
    }
    let _quiet = together();
    let mut trigger = load().trigger;
    let (netns, before) = within(|netns| {
        for address in [
            "0.0.0.0:15001",
            "[::]:15008",
            "127.0.0.1:15053",
            "0.0.0.0:80",
            "[::]:15002",
        ] {
            drop(listen(address));
        }
        drop(UdpSocket::bind("0.0.0.0:15001"));
        (netns, std::process::id())
    });
    let records = of(&mut trigger, netns);
    assert_eq!(
        what(&records),
        [
            (15001, FAMILY_INET, CHANGE_OPENED),
            (15001, FAMILY_INET, CHANGE_CLOSED),
            (15008, FAMILY_INET6, CHANGE_OPENED),
            (15008, FAMILY_INET6, CHANGE_CLOSED),
            (15053, FAMILY_INET, CHANGE_OPENED),
            (15053, FAMILY_INET, CHANGE_CLOSED),
        ]
    );
    assert!(
        records
            .iter()
            .all(|record| record.tgid == before && record.cgroup_id != 0)
    );
    assert!(records.is_sorted_by_key(|record| record.at_ns) && records[0].at_ns > 0);
    assert_eq!(trigger.lost().expect("the counter"), 0);
}

#[test]
fn connections_to_a_capture_port_are_not_told() {
    if !meshmedic_lab::need::ebpf("kernel: connections are not told") {
        return;
    }
    let _quiet = together();
    let mut trigger = load().trigger;
    let netns = within(|netns| {
        let listener = listen("127.0.0.1:15008");
        for _ in 0..10_000 {
            let client = TcpStream::connect("127.0.0.1:15008").expect("connect");
            let (server, _) = listener.accept().expect("accept");
            // A reset at the end leaves no port in TIME_WAIT.
            for socket in [&client, &server] {
                rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)).expect("linger");
            }
        }
        netns
    });
    let changes: Vec<u8> = of(&mut trigger, netns)
        .iter()
        .map(|record| record.change)
        .collect();
    assert_eq!(changes, [CHANGE_OPENED, CHANGE_CLOSED]);
}

#[test]
fn a_killed_holder_closes() {
    if !meshmedic_lab::need::ebpf("kernel: a killed holder closes") {
        return;
    }
    let _quiet = together();
    let mut trigger = load().trigger;
    within(|netns| {
        let mut holder = Holder::start("[::]:15006");
        assert_eq!(
            what(&of(&mut trigger, netns)),
            [(15006, FAMILY_INET6, CHANGE_OPENED)]
        );
        holder.kill();
        let closed = until("the closing of a killed process", || {
            of(&mut trigger, netns).pop()
        });
        assert_eq!((closed.port, closed.change), (15006, CHANGE_CLOSED));
    });
}

#[test]
fn a_full_ring_is_counted_and_recovers() {
    /// More than 256 KiB hold.
    const PAIRS: usize = 5_000;
    if !meshmedic_lab::need::ebpf("kernel: a full ring is counted") {
        return;
    }
    let _quiet = alone();
    let mut trigger = load().trigger;
    let netns = within(|netns| {
        for _ in 0..PAIRS {
            drop(listen("127.0.0.1:15001"));
        }
        netns
    });
    let told = of(&mut trigger, netns).len() as u64;
    let lost = trigger.lost().expect("the counter");
    assert!(lost > 0 && told < 2 * PAIRS as u64, "told {told}, lost {lost}");
    assert!(told + lost >= 2 * PAIRS as u64, "told {told}, lost {lost}");
    let netns = within(|netns| {
        drop(listen("0.0.0.0:15008"));
        netns
    });
    let after: Vec<u16> = of(&mut trigger, netns).iter().map(|record| record.port).collect();
    assert_eq!(after, [PORT_INBOUND_HBONE; 2]);
}

#[test]
fn next_wakes_for_what_comes_later() {
    if !meshmedic_lab::need::ebpf("kernel: next wakes") {
        return;
    }
    let _quiet = together();
    let mut trigger = load().trigger;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        for _ in 0..20 {
            let (told, where_it_opens) = std::sync::mpsc::channel();
            let opener = std::thread::spawn(move || {
                within(|netns| {
                    told.send(netns).expect("somebody listens");
                    drop(listen("0.0.0.0:15001"));
                });
            });
            let netns = where_it_opens.recv().expect("the opener's namespace");
            // Others on this machine open and close as well.
            let closed = |record: &ListenChange| record.netns == netns && record.change == CHANGE_CLOSED;
            let mut batch = Vec::new();
            while !batch.iter().any(closed) {
                let woken = tokio::time::timeout(crate::DEADLINE, trigger.next(&mut batch)).await;
                woken.expect("a change that wakes").expect("wait");
            }
            opener.join().expect("the opener");
        }
    });
}

#[test]
fn with_logging_on_the_programs_load_and_tell_the_same() {
    if !meshmedic_lab::need::ebpf("kernel: logging on") {
        return;
    }
    let _quiet = together();
    let options = Options {
        log: Some(tracing::Level::DEBUG),
        ..options()
    };
    let Kernel {
        mut trigger,
        mut census,
        traffic: _,
    } = kernel::load(&options).expect("the programs with their logging");
    let netns = within(|netns| {
        let _listener = listen("0.0.0.0:15001");
        census
            .of(&[std::process::id()], &mut Vec::new())
            .expect("the census");
        netns
    });
    assert_eq!(of(&mut trigger, netns).len(), 2);
}
