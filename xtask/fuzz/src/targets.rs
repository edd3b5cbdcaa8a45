// SPDX-License-Identifier: Apache-2.0
//! What each target promises.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use meshmedic_agent::node::parse_cgroup;
use meshmedic_common::addresses::NetAddresses;
use meshmedic_common::ask::Ask;
use meshmedic_common::kube::facts::pod_facts;
use meshmedic_common::kube::{leases, toggle};
use meshmedic_common::repair::LeaseKey;
use meshmedic_common::report::NodeReport;
use meshmedic_common::sockets::{Family, Reading, TableParser, parse_table};
use meshmedic_common::text::clean;
use meshmedic_common::ztunnel_log::{Limits, LogReader, PodIndex};
use meshmedic_common::{duration, uid};

/// Every target by its name, which is also that of its folder of inputs.
pub const ALL: &[(&str, fn(&[u8]))] = &[
    ("addresses", addresses),
    ("ask", ask),
    ("cgroup", cgroup),
    ("command", command),
    ("config-dump", config_dump),
    ("record", record),
    ("report", report),
    ("snapshot", snapshot),
    ("sockets", sockets),
    ("toggle", toggled),
    ("words", words),
    ("ztunnel-log", ztunnel_log),
];

/// `/proc/<pid>/net/tcp`: bytes cut anywhere give the same answer as in one piece.
fn sockets(bytes: &[u8]) {
    let (head, tail) = cut(bytes);
    for family in [Family::Inet, Family::Inet6] {
        let mut reading = Reading::default();
        let mut parser = TableParser::new(family);
        parser.feed(head, &mut reading);
        parser.feed(tail, &mut reading);
        parser.finish(&mut reading);
        assert_eq!(reading, parse_table(&[head, tail].concat(), family));
    }
}

/// `/proc/<pid>/cgroup`: what passes for a pod's UID is one.
fn cgroup(bytes: &[u8]) {
    if let Some(pod) = parse_cgroup(&text(bytes)) {
        assert_eq!(uid::PodUid::parse(pod.uid.as_str()), Some(pod.uid));
    }
}

/// `fib_trie` and `if_inet6`: an address that stands in neither is not held.
fn addresses(bytes: &[u8]) {
    let all = text(bytes);
    let (trie, inet6) = all.split_once('\0').unwrap_or((&all, ""));
    let read = NetAddresses::parse(trie, inet6);
    let _ = read.redirection();
    let absent = [
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77)),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    if !trie.contains("203.0.113.77") && inet6.is_empty() {
        assert!(!read.holds_any(&absent[..1]));
    }
    let _ = read.holds_any(&absent);
}

/// A ztunnel's log: bytes cut anywhere say the same as in one piece.
fn ztunnel_log(bytes: &[u8]) {
    let (head, tail) = cut(bytes);
    let index = PodIndex::default();
    let read = |parts: &[&[u8]]| {
        let mut reader = LogReader::new("istio-system/ztunnel-x", &index, Limits::default());
        parts.iter().for_each(|part| reader.feed(part));
        format!("{:?}", reader.finish())
    };
    assert_eq!(read(&[head, tail]), read(&[&[head, tail].concat()]));
}

/// An agent's report: what was read comes back as it was when it is written.
fn report(bytes: &[u8]) {
    if let Ok(read) = NodeReport::read(bytes) {
        let written = serde_json::to_vec(&read).expect("a report can be written");
        let again = NodeReport::read(&written).expect("what we write we can read");
        assert_eq!(
            written,
            serde_json::to_vec(&again).expect("a report can be written")
        );
    }
}

/// The annotation of an ask: only what we would have written to the letter is one.
fn ask(bytes: &[u8]) {
    let text = text(bytes);
    if let Some(ask) = Ask::parse(&text) {
        assert_eq!(Ask::parse(&ask.to_string()), Some(ask));
    }
}

/// The record in a Lease: what was read comes back as it was when it is written.
fn record(bytes: &[u8]) {
    let lease = serde_json::json!({
        "metadata": { "name": "l", "annotations": { "meshmedic.io/record": text(bytes) } },
    });
    let lease: Lease = serde_json::from_value(lease).expect("it is a Lease");
    let _ = leases::seen(&lease);
    if let Ok(read) = leases::record(&lease) {
        let key = LeaseKey::Cluster;
        let written =
            leases::with_record(Some(lease), &key, &read, Timestamp::UNIX_EPOCH).expect("it can be written");
        let again = leases::record(&written).expect("what we write we can read");
        assert_eq!(format!("{read:?}"), format!("{again:?}"));
    }
}

/// The annotation of a toggle that was left: whatever it holds, a plan is made or refused.
fn toggled(bytes: &[u8]) {
    let pod = serde_json::json!({
        "metadata": {
            "namespace": "shop", "name": "a", "uid": "5a9c2f4e-3e5f-4c58-8f5b-0a6b1e1b7c11",
            "annotations": { "meshmedic.io/toggle-restore": text(bytes) },
        },
    });
    let pod: Pod = serde_json::from_value(pod).expect("it is a Pod");
    let _ = toggle::plan_restore(&pod_facts(&pod), "7");
}

/// Small things that people and others write: what is cleaned stays clean.
fn words(bytes: &[u8]) {
    let text = text(bytes);
    let cleaned = clean(&text, 64);
    assert!(!cleaned.chars().any(char::is_control), "{cleaned:?}");
    assert_eq!(clean(&cleaned, 64), cleaned);
    if let Ok(parsed) = duration::parse(&text) {
        assert!(!duration::show(parsed).is_empty());
    }
    if let Some((pod, rest)) = uid::PodUid::split_from(&text) {
        assert!(text.ends_with(rest) && uid::PodUid::parse(pod.as_str()).is_some());
    }
}

/// ztunnel's `config_dump`, read as it comes, within a budget.
fn config_dump(bytes: &[u8]) {
    meshmedic_cli::fuzz::config_dump(bytes);
}

/// A snapshot from a file: every check ends, and every command that it prints says to a shell what we mean.
fn snapshot(bytes: &[u8]) {
    meshmedic_cli::fuzz::snapshot(bytes);
}

/// Names in the commands that help: a shell reads back the very words, or the command is not printed.
fn command(bytes: &[u8]) {
    meshmedic_cli::fuzz::command(bytes);
}

/// The bytes in two pieces; where, their first two say.
fn cut(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((at, bytes)) = bytes.split_first_chunk::<2>() else {
        return (bytes, &[]);
    };
    bytes.split_at(usize::from(u16::from_le_bytes(*at)).min(bytes.len()))
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
