// SPDX-License-Identifier: Apache-2.0
use serde_json::json;

use super::*;

/// As a real ztunnel wrote them.
const DUMP: &[u8] = include_bytes!("recorded/config_dump.json");
const METRICS: &str = include_str!("recorded/metrics.txt");

#[test]
fn the_dump_of_a_real_ztunnel_is_read() {
    let dump = parse_dump(DUMP, "local").unwrap();
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
    let elsewhere = parse_dump(DUMP, "another").unwrap();
    assert!(elsewhere.workloads.is_empty() && elsewhere.workloads_known > 0);
}

#[test]
fn the_metrics_of_a_real_ztunnel_are_read() {
    let metrics = parse_metrics(METRICS);
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
    let read = parse_dump(dump.to_string().as_bytes(), "").unwrap();
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
        let read = parse_dump(dump.to_string().as_bytes(), "").unwrap();
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
    let read = parse_dump(dump.to_string().as_bytes(), "n").unwrap();
    assert_eq!(
        (read.workloads_known, read.workloads[0].protocol.as_str()),
        (1, "TCP")
    );
    for text in ["{}", r#"{"workloads": 7, "services": "x", "certificates": []}"#] {
        assert_eq!(
            parse_dump(text.as_bytes(), "").unwrap(),
            ZtunnelDump::default(),
            "{text}"
        );
    }
    for text in ["", "[", "not ready", r#"{"certificates": 7}"#] {
        assert!(parse_dump(text.as_bytes(), "").is_err(), "{text}");
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
    let metrics = parse_metrics(&page.concat());
    assert_eq!(metrics.plaintext, [("shop/cart".to_owned(), 3.0)].into());
    assert_eq!(metrics.failed_connections, [("CONNECT".to_owned(), 3.0)].into());
}
