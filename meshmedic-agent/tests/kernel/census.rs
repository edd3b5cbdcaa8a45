// SPDX-License-Identifier: Apache-2.0
//! Who listens where, by the file tables of processes.

use meshmedic_agent::kernel::{self, Census, Kernel, Options};
use meshmedic_common::abi::{
    ADDRESS_LOOPBACK, ADDRESS_OTHER, ADDRESS_WILDCARD, CensusRow, FAMILY_INET, FAMILY_INET6, FamilyHooks,
};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::{
    load,
    netns::{Holder, inode_in_proc, listen, within},
    options,
};

fn rows(census: &mut Census, tgids: &[u32], netns: u32) -> Vec<CensusRow> {
    let mut rows = Vec::new();
    census.of(tgids, &mut rows).expect("the census");
    rows.retain(|row| row.netns == netns);
    rows.sort_by_key(|row| (row.port, row.family));
    rows
}

fn both(test: &str) -> Option<[Census; 2]> {
    meshmedic_lab::need::ebpf(test).then(|| {
        let unfiltered = kernel::load(&Options {
            unfiltered_census: true,
            ..options()
        })
        .expect("load");
        assert!(!unfiltered.census.is_filtered());
        [load().census, unfiltered.census]
    })
}

#[test]
fn own_listeners_are_seen_as_proc_shows_them() {
    let Some(censuses) = both("kernel: census of own listeners") else {
        return;
    };
    let me = std::process::id();
    for mut census in censuses {
        for _ in 0..2 {
            within(|netns| {
                let _listeners = [
                    listen("0.0.0.0:15001"),
                    listen("[::]:15006"),
                    listen("127.0.0.2:15008"),
                    listen("[::1]:15053"),
                    listen("0.0.0.0:80"),
                ];
                let found = rows(&mut census, &[me], netns);
                // A new namespace has none, and is looked at once.
                let none = FamilyHooks {
                    prerouting: 0,
                    output: 0,
                    found: 0,
                    doubt: 0,
                };
                let hooks = |port| {
                    if port == 15001 {
                        none
                    } else {
                        FamilyHooks::NOT_READ
                    }
                };
                let row = |port, family, address, file| CensusRow {
                    inode: inode_in_proc(file, port),
                    netns,
                    tgid: me,
                    port,
                    family,
                    address,
                    padding: [0; 3],
                    ipv4: hooks(port),
                    ipv6: hooks(port),
                };
                let expected = [
                    row(15001, FAMILY_INET, ADDRESS_WILDCARD, "tcp"),
                    row(15006, FAMILY_INET6, ADDRESS_WILDCARD, "tcp6"),
                    row(15008, FAMILY_INET, ADDRESS_LOOPBACK, "tcp"),
                    row(15053, FAMILY_INET6, ADDRESS_LOOPBACK, "tcp6"),
                ];
                assert_eq!(found, expected, "{census:?}");
            });
        }
    }
}

#[test]
fn mapped_addresses_are_no_wildcard() {
    if !meshmedic_lab::need::ebpf("kernel: mapped addresses") {
        return;
    }
    let mut census = load().census;
    within(|netns| {
        let _listeners = [
            listen("[::ffff:0.0.0.0]:15001"),
            listen("[::ffff:127.0.0.1]:15006"),
        ];
        let found = rows(&mut census, &[std::process::id()], netns);
        let kinds: Vec<u8> = found.iter().map(|row| row.address).collect();
        assert_eq!(kinds, [ADDRESS_OTHER, ADDRESS_LOOPBACK]);
    });
}

#[test]
fn other_processes_are_told_apart() {
    let Some(censuses) = both("kernel: census of other processes") else {
        return;
    };
    for mut census in censuses {
        within(|netns| {
            let mut one = Holder::start("0.0.0.0:15001");
            let two = Holder::start("[::]:15008");
            let owners =
                |rows: Vec<CensusRow>| rows.iter().map(|row| (row.port, row.tgid)).collect::<Vec<_>>();
            let (first, second) = ((15001, one.pid()), (15008, two.pid()));
            assert_eq!(owners(rows(&mut census, &[one.pid()], netns)), [first]);
            assert_eq!(
                owners(rows(&mut census, &[two.pid(), two.pid()], netns)),
                [second]
            );
            assert_eq!(
                owners(rows(&mut census, &[one.pid(), two.pid()], netns)),
                [first, second]
            );
            assert_eq!(owners(rows(&mut census, &[], netns)), []);
            assert_eq!(owners(rows(&mut census, &[0], netns)), []);
            let mut all = Vec::new();
            census.of_all(&mut all).expect("the census of all");
            all.retain(|row| row.netns == netns);
            all.sort_by_key(|row| row.port);
            assert_eq!(owners(all), [first, second]);
            let ended = one.pid();
            one.kill();
            assert_eq!(owners(rows(&mut census, &[ended, two.pid()], netns)), [second]);
        });
    }
}

#[test]
fn many_listeners_fill_more_than_one_read() {
    /// A read takes 1,024 rows.
    const LISTENERS: usize = 3_000;
    let Some(censuses) = both("kernel: census of many listeners") else {
        return;
    };
    let limit = Rlimit {
        current: Some(8_192),
        maximum: Some(8_192),
    };
    setrlimit(Resource::Nofile, limit).expect("room for descriptors");
    within(|netns| {
        let listener = listen("0.0.0.0:15001");
        let copies: Vec<_> = (1..LISTENERS)
            .map(|_| listener.try_clone().expect("a copy"))
            .collect();
        for mut census in censuses {
            assert_eq!(rows(&mut census, &[std::process::id()], netns).len(), LISTENERS);
        }
        drop(copies);
    });
}

#[test]
fn parts_live_on_their_own() {
    if !meshmedic_lab::need::ebpf("kernel: parts live on their own") {
        return;
    }
    let Kernel {
        trigger, mut census, ..
    } = load();
    drop(trigger);
    let census = std::thread::spawn(move || {
        within(|netns| {
            let _listener = listen("0.0.0.0:15001");
            rows(&mut census, &[std::process::id()], netns).len()
        })
    });
    assert_eq!(census.join().expect("the census in another thread"), 1);
}
