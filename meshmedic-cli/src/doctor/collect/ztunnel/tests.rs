// SPDX-License-Identifier: Apache-2.0
use serde_json::json;

use super::*;
use crate::doctor::snapshot::ZtunnelDump;

fn parsed(body: &[u8], node: &str) -> Result<ZtunnelDump, String> {
    dump::read(body, node, &Budget::default())
}

/// As a real ztunnel wrote them.
const DUMP: &[u8] = include_bytes!("recorded/config_dump.json");
const METRICS: &str = include_str!("recorded/metrics.txt");

#[test]
fn the_dump_of_a_real_ztunnel_is_read() {
    let dump = parsed(DUMP, "local").unwrap();
    assert_eq!(dump.workloads_known, dump.workloads.len());
    assert!(
        dump.workloads
            .iter()
            .any(|one| one.name == "pod-1" && one.protocol == "HBONE"),
        "{dump:?}"
    );
    assert_eq!(dump.proxies.len(), 3);
    assert!(dump.proxies.values().all(|state| state == "Up"));
    assert_eq!(dump.certificates, []);
    let elsewhere = parsed(DUMP, "another").unwrap();
    assert!(elsewhere.workloads.is_empty() && elsewhere.workloads_known > 0);
}

#[test]
fn the_metrics_of_a_real_ztunnel_are_read() {
    let metrics = parse_metrics(METRICS.as_bytes(), &Budget::default()).unwrap();
    assert_eq!(
        (metrics.active_proxies, metrics.pending_proxies),
        (Some(3.0), Some(0.0))
    );
    assert_eq!(metrics.version.as_deref(), Some("unknown"));
}

#[test]
fn the_roots_that_a_ztunnel_trusts_are_read() {
    let roots = json!([
        { "pem": "", "serialNumber": "1", "validFrom": "2025-01-01T00:00:00Z", "expirationTime": "2035-01-01T00:00:00Z" },
        { "pem": "", "serialNumber": "2", "validFrom": "2025-01-01T00:00:00Z", "expirationTime": "soon" },
    ]);
    let dump = json!({ "certificates": [{ "identity": "a", "state": "Available", "certChain": [], "rootCerts": roots }] });
    let read = parsed(dump.to_string().as_bytes(), "").unwrap();
    let roots = &read.certificates[0].roots;
    assert_eq!(
        roots.iter().map(|root| root.serial.as_str()).collect::<Vec<_>>(),
        ["1", "2"]
    );
    assert_eq!(roots[0].expires, Some("2035-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(roots[1].expires, None);
    // They are not of its own chain.
    assert_eq!(read.certificates[0].expires, None);
}

#[test]
fn of_a_chain_the_certificate_that_ends_first_counts() {
    let chain = json!([
        { "validFrom": "2026-01-01T00:00:00Z", "expirationTime": "2026-01-02T00:00:00Z" },
        { "validFrom": "2025-01-01T00:00:00Z", "expirationTime": "2035-01-01T00:00:00Z" },
    ]);
    let new = json!({ "certificates": [{ "identity": "a", "state": "Available", "certChain": chain }] });
    let old = json!({ "certificates": [{
        "identity": "a", "state": "Available", "ca_cert": [chain[1]],
        "cert_chain": [{ "valid_from": "2026-01-01T00:00:00Z", "expiration_time": "2026-01-02T00:00:00Z" }],
    }] });
    for dump in [new, old] {
        let mut dump = dump;
        if let Some(old) = dump["certificates"][0].get_mut("ca_cert") {
            *old =
                json!([{ "valid_from": "2025-01-01T00:00:00Z", "expiration_time": "2035-01-01T00:00:00Z" }]);
        }
        let read = parsed(dump.to_string().as_bytes(), "").unwrap();
        assert_eq!(
            read.certificates[0].expires,
            Some("2026-01-02T00:00:00Z".parse().unwrap()),
            "{dump}"
        );
        assert_eq!(
            read.certificates[0].begins,
            Some("2026-01-01T00:00:00Z".parse().unwrap()),
            "{dump}"
        );
    }
}

#[test]
fn workloads_may_be_a_map_and_anything_may_be_missing() {
    let dump =
        json!({ "workloads": { "u": { "name": "a", "namespace": "b", "node": "n", "protocol": "TCP" } } });
    let read = parsed(dump.to_string().as_bytes(), "n").unwrap();
    assert_eq!(
        (read.workloads_known, read.workloads[0].protocol.as_str()),
        (1, "TCP")
    );
    for text in ["{}", r#"{"workloads": 7, "services": "x", "certificates": null}"#] {
        assert_eq!(
            parsed(text.as_bytes(), "").unwrap(),
            ZtunnelDump::default(),
            "{text}"
        );
    }
    for text in ["", "[", "[]", "not ready", r#"{"certificates": [7]}"#, "{} {}"] {
        assert!(parsed(text.as_bytes(), "").is_err(), "{text}");
    }
}

#[test]
fn plaintext_is_what_came_in_without_mtls() {
    let line = |reporter: &str, policy: &str, count: u32| {
        format!(
            "istio_tcp_connections_opened_total{{reporter=\"{reporter}\",connection_security_policy=\"{policy}\",\
             destination_workload=\"cart\",destination_workload_namespace=\"shop\"}} {count}\n"
        )
    };
    let page = [
        line("destination", "unknown", 3),
        line("destination", "mutual_tls", 5),
        line("source", "unknown", 7),
        "istio_tcp_connections_failed_total{response_flags=\"CONNECT\"} 2\n".to_owned(),
        "istio_tcp_connections_failed_total{response_flags=\"CONNECT\",reporter=\"x\"} 1\n".to_owned(),
    ];
    let metrics = parse_metrics(page.concat().as_bytes(), &Budget::default()).unwrap();
    assert_eq!(metrics.plaintext, [("shop/cart".to_owned(), 3.0)].into());
    assert_eq!(metrics.failed_connections, [("CONNECT".to_owned(), 3.0)].into());
}

/// A body that goes on, made while it is read: its beginning, and then the same again and again, so many bytes.
fn endless(begin: &'static str, again: &'static str, bytes: u64) -> impl Read {
    let again = std::iter::repeat(again.as_bytes()).flatten().copied();
    let mut bytes_of = begin.bytes().chain(again);
    struct Made<F>(F);
    impl<F: FnMut() -> u8> Read for Made<F> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            into.iter_mut().for_each(|byte| *byte = (self.0)());
            Ok(into.len())
        }
    }
    Made(move || bytes_of.next().unwrap_or_default()).take(bytes)
}

#[test]
fn a_pod_that_says_more_than_is_kept_is_left_off_and_costs_no_more_than_the_budget() {
    let ours = r#"{"namespace":"shop","name":"a","node":"n","protocol":"HBONE"},"#;
    let budget = Budget::of(1024 * 1024);
    let error = dump::read(endless(r#"{"workloads":["#, ours, 64 << 20), "n", &budget).unwrap_err();
    assert!(error.contains("the answers of all pods together"), "{error}");
    // The next pod has what is left.
    let another = dump::read(ours.trim_end_matches(',').as_bytes(), "n", &budget);
    assert_eq!(another.unwrap().workloads, []);
    let line = "istio_tcp_connections_failed_total{response_flags=\"X\"} 1\n";
    let spent = Budget::of(100);
    let error = parse_metrics(line.as_bytes(), &spent).unwrap_err();
    assert!(error.contains("the answers of all pods together"), "{error}");
    // What is on other nodes costs nothing, however much it is.
    let theirs = r#"{"namespace":"shop","name":"a","node":"m"},"#;
    let error = dump::read(
        endless(r#"{"workloads":["#, theirs, 2 << 20),
        "n",
        &Budget::of(1024),
    )
    .unwrap_err();
    assert!(error.contains("EOF"), "{error}");
}

#[test]
fn no_word_of_a_dump_is_held_however_long_it_is() {
    for (begin, again) in [
        (r#"{"workloads":[{"name":""#, "x"),
        (r#"{""#, "\\\\"),
        (r#"{"workloads":["#, "1"),
        (r#"{"config":""#, "y"),
    ] {
        let error = dump::read(endless(begin, again, 64 << 20), "n", &Budget::default()).unwrap_err();
        assert!(error.contains("longer than 256 KiB"), "{begin}: {error}");
    }
}
