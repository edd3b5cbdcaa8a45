// SPDX-License-Identifier: Apache-2.0
//! Who is accused, and who is not.

use super::*;

const REFUSED: &str = "io error: Connection refused (os error 111)";
const REJECTED: &str = "connection closed due to policy rejection: allow policies exist, but none allowed";

fn denied(policy: &str) -> String {
    format!("connection closed due to policy rejection: explicitly denied by: {policy}")
}

#[track_caller]
fn accuses(line: &Written, name: &str, signature: Signature) {
    let pods = pods();
    match verdict(line, &pods) {
        Verdict::Accuses(pod, found) => assert_eq!((pod.id.name.as_str(), found), (name, signature)),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn apart(line: &Written, name: Apart) {
    assert_eq!(verdict(line, &pods()), Verdict::Apart(name), "{}", line.plain());
}

#[test]
fn who_refuses_hbone_is_accused() {
    accuses(&hbone().failed(REFUSED), "db", Signature::HboneRefused);
    let v6 = hbone()
        .set("src.addr", "[fd00::1]:40000")
        .set("dst.addr", "[fd00::2]:15008")
        .set("dst.hbone_addr", "[fd00::2]:8080");
    accuses(&v6.failed(REFUSED), "db", Signature::HboneRefused);
    let mapped = hbone().set("dst.addr", "[::ffff:10.0.0.2]:15008");
    accuses(&mapped.failed(REFUSED), "db", Signature::HboneRefused);
}

#[test]
fn who_speaks_plaintext_to_the_mesh_is_accused() {
    accuses(&plaintext(), "web", Signature::PlaintextAdmitted);
    accuses(
        &plaintext().set("src.addr", "[fd00::1]:1"),
        "web",
        Signature::PlaintextAdmitted,
    );
    accuses(
        &plaintext().failed("send: connection reset"),
        "web",
        Signature::PlaintextAdmitted,
    );
    // istiod may not have told of it yet: the cluster knows whose address it is.
    let unnamed = plaintext().without(&["src.workload", "src.namespace", "src.cluster"]);
    accuses(&unnamed, "web", Signature::PlaintextAdmitted);
    accuses(&plaintext().failed(REJECTED), "web", Signature::PlaintextRejected);
    accuses(
        &plaintext().failed(&denied("shop/deny-all")),
        "web",
        Signature::PlaintextRejected,
    );
    for policy in [
        "istio-system/istio_converted_static_strict",
        "shop/converted_peer_authentication_default",
    ] {
        accuses(
            &plaintext().failed(&denied(policy)),
            "web",
            Signature::PlaintextStrict,
        );
    }
    // A policy can be called like that only by its namespace or in part.
    for policy in [
        "istio_converted_static_strict/x",
        "shop/not-istio_converted_static_strict",
    ] {
        accuses(
            &plaintext().failed(&denied(policy)),
            "web",
            Signature::PlaintextRejected,
        );
    }
}

#[test]
fn an_identity_clears_the_source() {
    let with_identity = hbone().set("direction", "inbound");
    assert_eq!(verdict(&with_identity, &pods()), Verdict::Fine);
    apart(&with_identity.clone().failed(REJECTED), Apart::PolicyByIdentity);
    apart(
        &with_identity
            .clone()
            .failed(&denied("a/istio_converted_static_strict")),
        Apart::PolicyByIdentity,
    );
    // A tunnel without an identity that ztunnel understands is still a tunnel.
    assert_eq!(
        verdict(&with_identity.without(&["src.identity"]), &pods()),
        Verdict::Fine
    );
    assert_eq!(
        verdict(&plaintext().set("src.identity", "x"), &pods()),
        Verdict::Fine
    );
}

#[test]
fn what_stands_before_pods_is_not_taken_for_one() {
    // A waypoint takes HBONE for the addresses of others.
    apart(
        &hbone().set("dst.hbone_addr", "10.0.9.9:80").failed(REFUSED),
        Apart::Waypoint,
    );
    apart(
        &hbone().set("dst.hbone_addr", "db.shop.svc:80").failed(REFUSED),
        Apart::Waypoint,
    );
    let direct = hbone()
        .set("dst.addr", "10.0.0.3:15008")
        .set("dst.hbone_addr", "10.0.0.3:80")
        .set("dst.workload", "waypoint");
    apart(&direct.failed(REFUSED), Apart::Waypoint);
}

#[test]
fn a_refusal_outside_hbone_accuses_nobody() {
    let plain = hbone().without(&["dst.hbone_addr", "src.identity", "dst.identity"]);
    apart(&plain.clone().failed(REFUSED), Apart::OutsideRefused);
    apart(
        &plain.set("dst.addr", "10.0.0.2:9").failed(REFUSED),
        Apart::OutsideRefused,
    );
    for missing in ["src.identity", "dst.identity"] {
        apart(&hbone().without(&[missing]).failed(REFUSED), Apart::OtherFailure);
    }
    apart(
        &hbone().set("dst.addr", "10.0.0.2:8080").failed(REFUSED),
        Apart::OtherFailure,
    );
}

#[test]
fn clients_outside_the_mesh_are_not_accused() {
    let from = |ip: &str, name: &str| plaintext().set("src.addr", ip).set("src.workload", name);
    apart(&from("10.0.0.4:1", "job"), Apart::UnmeshedClient);
    apart(&from("10.0.0.3:1", "waypoint"), Apart::UnmeshedClient);
    apart(&from("10.0.0.5:1", "agent"), Apart::HostNetwork);
    // Whatever else runs on the node has the same address.
    apart(&from("10.0.0.5:1", "web"), Apart::HostNetwork);
    let outside = plaintext().without(&["src.workload", "src.namespace"]);
    apart(
        &outside.clone().set("src.addr", "192.0.2.7:1"),
        Apart::UnmeshedClient,
    );
    // The kubelet's probes, as istio-cni rewrites them.
    apart(&outside.set("src.addr", "169.254.7.127:1"), Apart::UnmeshedClient);
    apart(
        &plaintext()
            .set("src.addr", "10.0.0.2:1")
            .set("src.workload", "db"),
        Apart::Itself,
    );
}

#[test]
fn what_was_said_of_another_pod_accuses_nobody() {
    // The address has a new owner.
    apart(
        &hbone().set("dst.workload", "db-old").failed(REFUSED),
        Apart::AddressReused,
    );
    apart(
        &hbone().set("dst.namespace", "bank").failed(REFUSED),
        Apart::AddressReused,
    );
    apart(&plaintext().set("src.workload", "web-old"), Apart::AddressReused);
    // The name has a new address.
    let moved = hbone()
        .set("dst.addr", "10.0.0.9:15008")
        .set("dst.hbone_addr", "10.0.0.9:80");
    apart(&moved.clone().failed(REFUSED), Apart::StaleAddress);
    apart(
        &moved.set("dst.workload", "gone").failed(REFUSED),
        Apart::UnknownDestination,
    );
    apart(&plaintext().set("src.addr", "10.0.0.9:1"), Apart::StaleAddress);
    let exempt = hbone()
        .set("dst.addr", "10.0.0.4:15008")
        .set("dst.hbone_addr", "10.0.0.4:80");
    apart(
        &exempt.set("dst.workload", "job").failed(REFUSED),
        Apart::DestinationExempt,
    );
}

#[test]
fn what_is_older_than_the_pod_accuses_nobody() {
    let mut pods = PodIndex::default();
    let born = pod("shop", "db", Role::Expected, "2026-11-21T09:00:00Z");
    pods.insert(born.clone(), ["10.0.0.2".parse().unwrap()]);
    let refused = hbone().failed(REFUSED);
    let judge = |line: Written| verdict(&line, &pods);
    let before = Verdict::Apart(Apart::BeforeCreation);
    assert_eq!(judge(refused.clone().at("2026-11-21T08:59:59.999999Z")), before);
    let accused = Verdict::Accuses(&born, Signature::HboneRefused);
    assert_eq!(judge(refused.clone().at("2026-11-21T09:00:00.002Z")), accused);
    // It is logged when it ends; what counts is when it began.
    assert_eq!(
        judge(refused.at("2026-11-21T09:00:01Z").set("duration", "5000ms")),
        before
    );
}

#[test]
fn each_thing_that_looks_alike_has_its_name() {
    for (error, name) in [
        (
            "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: x",
            Apart::NetworkPolicyTimeout,
        ),
        ("http status: 401 Unauthorized", Apart::PolicyByIdentity),
        ("http status: 503 Service Unavailable", Apart::AppPortClosed),
        ("http status: 500 Internal Server Error", Apart::OtherFailure),
        ("io error: No route to host (os error 113)", Apart::AddressGone),
        ("connection closed due to policy change", Apart::PolicyChange),
        ("connection closed due to connection drain", Apart::Drain),
        (
            "connection closed: peer certificate revoked by CRL",
            Apart::Revoked,
        ),
        ("attempted recursive call to ourselves", Apart::Recursion),
        ("identity error: workload is unknown: x", Apart::Identity),
        (
            "tls error: identity verification error: peer did not present the expected SAN (a), got b",
            Apart::WrongIdentity,
        ),
        ("dns: no", Apart::Dns),
        ("dns lookup: no", Apart::Dns),
        ("dns response had no valid IP addresses", Apart::Dns),
        ("http status: x", Apart::OtherFailure),
        ("something new", Apart::OtherFailure),
    ] {
        apart(&hbone().failed(error), name);
    }
    for (error, name) in [
        (
            "connection failed: Connection refused (os error 111)",
            Apart::AppPortClosed,
        ),
        (
            "connection failed: Permission denied (os error 13)",
            Apart::AppUnreachable,
        ),
        ("connection closed due to policy change", Apart::PolicyChange),
        ("connection closed due to connection drain", Apart::Drain),
    ] {
        // With an identity and without: neither tells of a pod that lost its capture.
        apart(&hbone().set("direction", "inbound").failed(error), name);
        apart(&plaintext().failed(error), name);
    }
    for (direction, error, name) in [
        (
            "inbound",
            "tls handshake error: Custom { kind: InvalidData }",
            Apart::TlsHandshake,
        ),
        (
            "outbound",
            "attempted recursive call to ourselves",
            Apart::Recursion,
        ),
        (
            "inbound",
            "attempted recursive call to ourselves",
            Apart::Recursion,
        ),
        (
            "outbound",
            "failed to fetch information about local workload: a.b (c)",
            Apart::LocalUnknown,
        ),
        // Even with the very words: such a line names nobody.
        ("outbound", REFUSED, Apart::OutsideRefused),
        ("inbound", REJECTED, Apart::OtherFailure),
        (
            "inbound",
            "io error: Broken pipe (os error 32)",
            Apart::OtherFailure,
        ),
    ] {
        apart(&early(direction, error), name);
    }
}

#[test]
fn plaintext_to_a_pod_that_should_be_enrolled_is_told_apart() {
    let plain = hbone()
        .without(&["dst.hbone_addr", "src.identity", "dst.identity"])
        .set("dst.addr", "10.0.0.2:8080");
    apart(&plain, Apart::NotEnrolled);
    let exempt = plain
        .clone()
        .set("dst.addr", "10.0.0.4:80")
        .set("dst.workload", "job");
    assert_eq!(verdict(&exempt, &pods()), Verdict::Fine);
    let outside = plain
        .without(&["dst.workload", "dst.namespace"])
        .set("dst.addr", "192.0.2.1:80");
    assert_eq!(verdict(&outside, &pods()), Verdict::Fine);
}

#[test]
fn listeners_without_rules_are_accused_by_their_own_ztunnel_only() {
    let hangs = "connection failed: deadline has elapsed";
    accuses(
        &hbone().set("direction", "inbound").failed(hangs),
        "db",
        Signature::InboundHangs,
    );
    apart(&plaintext().failed(hangs), Apart::AppUnreachable);
}

#[test]
fn a_node_and_a_dying_pod_do_not_hide_who_has_the_address() {
    let ip = "10.0.0.1".parse().unwrap();
    let younger = pod("shop", "new", Role::Expected, "2026-11-20T00:00:00Z");
    let all = [
        pod("shop", "old", Role::Expected, LONG_AGO),
        younger.clone(),
        pod("kube-system", "proxy", Role::HostNetwork, "2026-11-21T00:00:00Z"),
    ];
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
        let mut pods = PodIndex::default();
        for index in order {
            pods.insert(all[index].clone(), [ip]);
        }
        assert_eq!(pods.pod_by_ip(ip), Some(&younger));
    }
}
