// SPDX-License-Identifier: Apache-2.0
//! Every recording of a real network namespace is read to the right answer.

use std::path::Path;

use meshmedic_common::ports::PortSet;
use meshmedic_common::sockets::{Family, parse_table};

/// Name, ports that listen in `tcp`, ports that listen in `tcp6`, captured.
const RECORDINGS: [(&str, &str, &str, bool); 6] = [
    ("default.podns-1", "15053", "15001,15006,15008,15053", true),
    ("default.podns-u1", "none", "none", false),
    ("default.ztunnel-own", "none", "none", false),
    ("dnsoff.podns-1", "none", "15001,15006,15008", true),
    ("ipv6off.podns-1", "15001,15006,15008,15053", "none", true),
    ("noproxy.podns-1", "15053", "15053", false),
];

#[test]
fn every_recording_is_read_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/proc");
    let table = |name: &str, kind: &str| std::fs::read(folder.join(format!("{name}.{kind}"))).unwrap();
    for (name, v4, v6, captured) in RECORDINGS {
        let tcp = parse_table(&table(name, "tcp"), Family::Inet);
        let tcp6 = parse_table(&table(name, "tcp6"), Family::Inet6);
        assert_eq!((tcp.malformed_rows, tcp6.malformed_rows), (0, 0), "{name}");
        assert_eq!(tcp.ports().to_string(), v4, "{name}.tcp");
        assert_eq!(tcp6.ports().to_string(), v6, "{name}.tcp6");
        let seen: PortSet = tcp
            .wildcard_ports()
            .iter()
            .chain(tcp6.wildcard_ports().iter())
            .collect();
        assert_eq!(seen.contains_all(PortSet::REQUIRED), captured, "{name}");
        assert!(
            tcp.listeners
                .iter()
                .chain(&tcp6.listeners)
                .all(|l| l.uid == 0 && l.inode > 0),
            "{name}"
        );
    }
}

#[test]
fn no_recording_is_left_out() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/proc");
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let (name, _kind) = file.rsplit_once('.').unwrap();
        assert!(
            RECORDINGS.iter().any(|(known, ..)| *known == name),
            "{file} has no expectation"
        );
    }
}
