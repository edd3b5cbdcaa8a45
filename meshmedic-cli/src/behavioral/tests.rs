// SPDX-License-Identifier: Apache-2.0
//! Logs as an API server gives them, in good order and in bad.

mod server;

use clap::Parser as _;
use jiff::Timestamp;
use meshmedic_common::facts::Enrolment;
use meshmedic_common::verdict::Reason;
use meshmedic_common::ztunnel_log::{Apart, Signature};

use super::show::{evidence, notes};
use super::*;
use crate::connection::{ConnectionArgs, runtime};
use server::{Answer, Server};

const PLAIN: &str = include_str!(
    "../../../meshmedic-common/tests/fixtures/ztunnel-logs/scn.dest-not-captured-refused.plain.log"
);
const JSON: &str = include_str!(
    "../../../meshmedic-common/tests/fixtures/ztunnel-logs/scn.rbac-plaintext-no-identity.json.log"
);
const FINE: &str =
    include_str!("../../../meshmedic-common/tests/fixtures/ztunnel-logs/scn.hbone-ok.plain.log");

#[derive(clap::Parser)]
struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
}

fn pod(name: &str, address: &str) -> PodFacts {
    PodFacts {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        addresses: vec![address.parse().unwrap()],
        enrolment: Enrolment::Enabled,
        created: Some("2026-11-21T09:00:00Z".parse().unwrap()),
        ..PodFacts::default()
    }
}

/// The pods of the recordings.
fn pods() -> Vec<PodFacts> {
    vec![
        pod("pod-1", "10.77.0.11"),
        pod("pod-2", "10.77.0.12"),
        pod("pod-u1", "10.77.0.201"),
    ]
}

fn hear(server: &Server, at_once: usize) -> Heard {
    let index = directory(&pods(), |_| Expectation::Expected);
    let args = Args::parse_from(["x", "--kubeconfig", server.kubeconfig()]);
    runtime().unwrap().block_on(async {
        let connection = args.connection.connect().await.unwrap();
        let since = Duration::from_secs(900);
        listen(&connection, since, at_once, &index).await.unwrap()
    })
}

fn accused(heard: &Heard) -> Vec<(&str, Signature, u64)> {
    let mut all = Vec::new();
    for (id, candidate) in heard.findings.candidates() {
        for (signature, evidence) in &candidate.signatures {
            all.push((id.name.as_str(), *signature, evidence.tally.count));
        }
    }
    all
}

#[test]
fn every_ztunnel_is_heard_and_only_those() {
    let server = Server::start(vec![
        ("zt-a", Answer::Log(PLAIN.into())),
        ("zt-b", Answer::Log(JSON.into())),
        ("zt-c", Answer::Log(PLAIN.into())),
        ("zt-quiet", Answer::Log(String::new())),
        ("stranger", Answer::Log(PLAIN.into())),
    ]);
    let heard = hear(&server, 8);
    assert_eq!(
        accused(&heard),
        [
            ("pod-u1", Signature::HboneRefused, 2),
            ("pod-u1", Signature::PlaintextRejected, 1)
        ]
    );
    assert!(heard.is_complete(), "{heard:?}");
    assert!(heard.candidates().map(|id| id.name.as_str()).eq(["pod-u1"]));
    assert_eq!(
        (heard.logs, heard.strangers.as_slice()),
        (4, ["istio-system/stranger".to_owned()].as_slice())
    );
    let asked = server.asked();
    assert_eq!(asked.len(), 5, "{asked:?}");
    assert!(
        asked
            .iter()
            .any(|path| path.contains("labelSelector=app%3Dztunnel")),
        "{asked:?}"
    );
    for name in ["zt-a", "zt-b", "zt-c", "zt-quiet"] {
        let log = asked
            .iter()
            .find(|path| path.contains(&format!("/pods/{name}/log")))
            .unwrap();
        assert!(
            log.contains("sinceSeconds=900") && log.contains("container=istio-proxy"),
            "{log}"
        );
    }
}

#[test]
fn a_log_that_cannot_be_read_leaves_the_result_open() {
    let server = Server::start(vec![
        ("zt-a", Answer::Log(PLAIN.into())),
        ("zt-forbidden", Answer::Forbidden),
        ("zt-broken", Answer::Breaks(FINE.into())),
        (
            "zt-words",
            Answer::Log("unable to retrieve container logs for containerd://abc".into()),
        ),
    ]);
    let heard = hear(&server, 2);
    assert_eq!(accused(&heard), [("pod-u1", Signature::HboneRefused, 1)]);
    assert!(!heard.is_complete());
    let unheard: Vec<&str> = heard.unheard.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        unheard,
        [
            "istio-system/zt-broken",
            "istio-system/zt-forbidden",
            "istio-system/zt-words"
        ]
    );
    // What came before it broke off was read.
    assert_eq!(heard.findings.access_lines, 3);
    let notes = notes(&heard);
    for part in [
        "zt-forbidden could not be read to the end",
        "zt-broken",
        "no log of a ztunnel",
        "leaves no trace",
    ] {
        assert!(notes.iter().any(|note| note.contains(part)), "{part}: {notes:#?}");
    }
}

#[test]
fn without_a_ztunnel_nothing_is_complete() {
    let heard = hear(&Server::start(vec![("stranger", Answer::Log(PLAIN.into()))]), 2);
    assert!(!heard.is_complete() && heard.findings.candidates().is_empty());
    assert!(heard.is_nobody());
}

#[test]
fn logs_are_read_side_by_side_but_not_all_at_once() {
    let many: Vec<(String, Answer)> = (0..12)
        .map(|number| (format!("zt-{number:02}"), Answer::Slow(PLAIN.into())))
        .collect();
    let server = Server::start(
        many.iter()
            .map(|(name, answer)| (name.as_str(), answer.clone()))
            .collect(),
    );
    let heard = hear(&server, 4);
    assert_eq!(accused(&heard), [("pod-u1", Signature::HboneRefused, 12)]);
    assert_eq!(server.most_at_once(), 4);
}

#[test]
fn a_pod_is_what_its_labels_and_its_network_make_it() {
    let mut waypoint = pod("waypoint", "10.0.0.1");
    waypoint.labels.insert(
        "gateway.istio.io/managed".to_owned(),
        "istio.io-mesh-controller".to_owned(),
    );
    let mut on_host = pod("on-host", "10.0.0.2");
    on_host.host_network = true;
    let mut finished = pod("finished", "10.0.0.3");
    finished.finished = true;
    let plain = pod("plain", "10.0.0.3");
    let pods = [waypoint, on_host, plain, finished];
    let found = |expectation: Expectation| {
        let index = directory(&pods, |_| expectation);
        let role = |ip: &str| {
            index
                .pod_by_ip(ip.parse().unwrap())
                .map(|pod| (pod.id.name.clone(), pod.role))
        };
        ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|ip| role(ip).unwrap())
    };
    let named = |names: [(&str, Role); 3]| names.map(|(name, role)| (name.to_owned(), role));
    assert_eq!(
        found(Expectation::Exempt(Reason::OptedOut)),
        named([
            ("waypoint", Role::Waypoint),
            ("on-host", Role::HostNetwork),
            ("plain", Role::Exempt)
        ])
    );
    // A gateway can opt in.
    assert_eq!(
        found(Expectation::Expected),
        named([
            ("waypoint", Role::Expected),
            ("on-host", Role::HostNetwork),
            ("plain", Role::Expected)
        ])
    );
}

#[test]
fn the_evidence_reads_well() {
    let mut log = PLAIN.replace("src.cluster=\"Kubernetes\"", "src.cluster=\"\u{202e}\u{1b}[31m\"");
    log.push_str(PLAIN);
    let heard = hear(&Server::start(vec![("zt-a", Answer::Log(log))]), 1);
    let candidate = heard.findings.candidates().values().next().unwrap();
    let now: Timestamp = "2026-11-21T09:18:51Z".parse().unwrap();
    let lines = evidence(candidate, now);
    assert_eq!(
        lines[0],
        "hbone-refused 2 times (it refused HBONE connections, which a captured pod takes), last 4m59s ago, said by \
         istio-system/zt-a"
    );
    assert!(lines[1].contains("NetworkPolicy"));
    assert!(lines[2].starts_with("  2026-11-21T09:13:51.166879Z error access connection complete src.addr="));
    assert!(lines.iter().all(|line| !line.contains(['\u{1b}', '\u{202e}'])));
    assert!(!heard.findings.apart().contains_key(&Apart::OtherFailure));
}
