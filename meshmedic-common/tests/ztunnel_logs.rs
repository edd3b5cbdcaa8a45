// SPDX-License-Identifier: Apache-2.0
//! Every recorded log of a real ztunnel names exactly the pods that it should, and no other.

use std::path::PathBuf;

use meshmedic_common::ztunnel_log::{
    Apart, EventKind, Findings, Limits, LogReader, Pod, PodId, PodIndex, Role, Signature,
};

struct Scenario {
    /// The file's name without `scn.` and `.log`.
    file: &'static str,
    accused: &'static [(&'static str, Signature, u64)],
    apart: &'static [(Apart, u64)],
    events: &'static [(EventKind, u64)],
    start_failures: &'static [(&'static str, u64)],
}

const NOTHING: Scenario = Scenario {
    file: "",
    accused: &[],
    apart: &[],
    events: &[],
    start_failures: &[],
};

const SCENARIOS: &[Scenario] = &[
    Scenario {
        file: "after-enrol.plain",
        ..NOTHING
    },
    Scenario {
        file: "app-port-closed.plain",
        apart: &[(Apart::AppPortClosed, 2)],
        ..NOTHING
    },
    // Listeners without rules: ztunnel takes what comes through HBONE, and cannot hand it on.
    Scenario {
        file: "captured-but-no-rules.inbound-hbone.plain",
        accused: &[("default/pod-3", Signature::InboundHangs, 1)],
        apart: &[(Apart::AppPortClosed, 1)],
        ..NOTHING
    },
    Scenario {
        file: "captured-but-no-rules.outbound-to-policied.plain",
        accused: &[("default/pod-3", Signature::PlaintextRejected, 1)],
        ..NOTHING
    },
    Scenario {
        file: "captured-but-no-rules.outbound.plain",
        accused: &[("default/pod-3", Signature::PlaintextAdmitted, 1)],
        ..NOTHING
    },
    Scenario {
        file: "dest-address-gone.plain",
        apart: &[(Apart::AddressGone, 1)],
        ..NOTHING
    },
    Scenario {
        file: "dest-not-captured-refused.json",
        accused: &[("default/pod-u1", Signature::HboneRefused, 1)],
        ..NOTHING
    },
    Scenario {
        file: "dest-not-captured-refused.plain",
        accused: &[("default/pod-u1", Signature::HboneRefused, 1)],
        ..NOTHING
    },
    Scenario {
        file: "enrol-port-conflict-retry.plain",
        events: &[(EventKind::StartFailed, 1), (EventKind::ListenerEstablished, 1)],
        start_failures: &[("uid-u1", 1)],
        ..NOTHING
    },
    Scenario {
        file: "enrol-port-conflict.plain",
        events: &[
            (EventKind::PodReceived, 1),
            (EventKind::StartFailed, 1),
            (EventKind::ListenerEstablished, 1),
        ],
        start_failures: &[("uid-u1", 1)],
        ..NOTHING
    },
    Scenario {
        file: "enrol.json",
        events: &[(EventKind::PodReceived, 1), (EventKind::ListenerEstablished, 3)],
        ..NOTHING
    },
    Scenario {
        file: "enrol.plain",
        events: &[(EventKind::PodReceived, 1), (EventKind::ListenerEstablished, 3)],
        ..NOTHING
    },
    Scenario {
        file: "hbone-ok.json",
        ..NOTHING
    },
    Scenario {
        file: "hbone-ok.plain",
        ..NOTHING
    },
    Scenario {
        file: "networkpolicy-timeout.json",
        apart: &[(Apart::NetworkPolicyTimeout, 1)],
        ..NOTHING
    },
    Scenario {
        file: "networkpolicy-timeout.plain",
        apart: &[(Apart::NetworkPolicyTimeout, 1)],
        ..NOTHING
    },
    Scenario {
        file: "passthrough-unknown-dst-refused.json",
        apart: &[(Apart::OutsideRefused, 1)],
        ..NOTHING
    },
    Scenario {
        file: "passthrough-unknown-dst-refused.plain",
        apart: &[(Apart::OutsideRefused, 1)],
        ..NOTHING
    },
    Scenario {
        file: "plaintext-unknown-source-ok.plain",
        apart: &[(Apart::UnmeshedClient, 1)],
        ..NOTHING
    },
    Scenario {
        file: "rbac-plaintext-no-identity.json",
        accused: &[("default/pod-u1", Signature::PlaintextRejected, 1)],
        ..NOTHING
    },
    Scenario {
        file: "rbac-plaintext-no-identity.plain",
        accused: &[("default/pod-u1", Signature::PlaintextRejected, 1)],
        ..NOTHING
    },
    Scenario {
        file: "rbac-wrong-identity.plain",
        apart: &[(Apart::PolicyByIdentity, 2)],
        ..NOTHING
    },
    Scenario {
        file: "snapshot-lost-pods.json",
        events: &LOST,
        ..NOTHING
    },
    Scenario {
        file: "snapshot-lost-pods.plain",
        events: &LOST,
        ..NOTHING
    },
    Scenario {
        file: "unenrol.json",
        events: &[(EventKind::PodDeleted, 1), (EventKind::ProxyEnded, 3)],
        ..NOTHING
    },
    Scenario {
        file: "unenrol.plain",
        events: &[(EventKind::PodDeleted, 1), (EventKind::ProxyEnded, 3)],
        ..NOTHING
    },
    Scenario {
        file: "unenrolled-rules-left.inbound-hbone.plain",
        accused: &[("default/pod-3", Signature::HboneRefused, 1)],
        ..NOTHING
    },
];

/// Three pods, three parts each.
const LOST: [(EventKind, u64); 4] = [
    (EventKind::ProxyEnded, 9),
    (EventKind::NodeAgentConnected, 1),
    (EventKind::SnapshotReceived, 1),
    (EventKind::Ready, 1),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ztunnel-logs")
}

fn recorded(file: &str) -> Vec<u8> {
    std::fs::read(folder().join(format!("scn.{file}.log"))).expect("a recording")
}

/// The pods of the recordings; 10.77.0.1 is the node, and 10.77.0.250 is nobody's any more.
fn pods(role: Role) -> PodIndex {
    let mut index = PodIndex::default();
    for (name, ip) in [
        ("pod-1", "10.77.0.11"),
        ("pod-2", "10.77.0.12"),
        ("pod-3", "10.77.0.13"),
        ("pod-u1", "10.77.0.201"),
    ] {
        let pod = Pod {
            id: PodId {
                namespace: "default".to_owned(),
                name: name.to_owned(),
                uid: name.replace("pod", "uid"),
            },
            role,
            created: Some("2026-11-21T09:00:00Z".parse().expect("a time")),
        };
        index.insert(pod, [ip.parse().expect("an address")]);
    }
    index
}

/// Reads a log as it may come from a network, in pieces of this size.
fn read(log: &[u8], piece: usize, pods: &PodIndex) -> Findings {
    let mut reader = LogReader::new("ztunnel-a", pods, Limits::default());
    log.chunks(piece).for_each(|piece| reader.feed(piece));
    reader.finish()
}

fn accused(findings: &Findings) -> Vec<(String, Signature, u64)> {
    let mut all = Vec::new();
    for (id, candidate) in findings.candidates() {
        for (signature, evidence) in &candidate.signatures {
            let pod = format!("{}/{}", id.namespace, id.name);
            all.push((pod, *signature, evidence.tally.count));
        }
    }
    all
}

#[test]
fn every_recording_accuses_exactly_whom_it_should() {
    let pods = pods(Role::Expected);
    for scenario in SCENARIOS {
        let (name, log) = (scenario.file, recorded(scenario.file));
        for piece in [1, 7, 4096] {
            let findings = read(&log, piece, &pods);
            let want: Vec<_> = scenario
                .accused
                .iter()
                .map(|&(pod, s, n)| (pod.to_owned(), s, n))
                .collect();
            assert_eq!(accused(&findings), want, "{name}");
            let apart: Vec<_> = findings
                .apart()
                .iter()
                .map(|(apart, tally)| (*apart, tally.count))
                .collect();
            assert_eq!(apart, scenario.apart, "{name}");
            let mut events: Vec<_> = findings
                .events()
                .iter()
                .map(|(kind, tally)| (*kind, tally.count))
                .collect();
            let mut want = scenario.events.to_vec();
            events.sort();
            want.sort();
            assert_eq!(events, want, "{name}");
            let failures: Vec<_> = findings
                .start_failures()
                .iter()
                .map(|(uid, tally)| (uid.as_str(), tally.count))
                .collect();
            assert_eq!(failures, scenario.start_failures, "{name}");
            assert_eq!(
                (findings.malformed, findings.overlong, findings.dropped()),
                (0, 0, 0),
                "{name}"
            );
            let lines = log.iter().filter(|b| **b == b'\n').count();
            assert_eq!(findings.lines, lines as u64, "{name}");
        }
    }
}

#[test]
fn no_recording_is_left_out() {
    for entry in std::fs::read_dir(folder()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            SCENARIOS
                .iter()
                .any(|known| format!("scn.{}.log", known.file) == file),
            "{file} has no expectation"
        );
    }
}

#[test]
fn plain_and_json_agree() {
    let mut pairs = 0;
    for json in SCENARIOS {
        let Some(name) = json.file.strip_suffix(".json") else {
            continue;
        };
        let plain = SCENARIOS
            .iter()
            .find(|other| other.file == format!("{name}.plain"))
            .unwrap();
        assert_eq!(json.accused, plain.accused, "{name}");
        assert_eq!(json.apart, plain.apart, "{name}");
        assert_eq!(json.events, plain.events, "{name}");
        pairs += 1;
    }
    assert_eq!(pairs, 8);
}

#[test]
fn pods_that_nobody_expects_in_the_mesh_are_never_accused() {
    for role in [Role::Exempt, Role::Waypoint, Role::HostNetwork] {
        let pods = pods(role);
        for scenario in SCENARIOS {
            assert_eq!(
                accused(&read(&recorded(scenario.file), 4096, &pods)),
                [],
                "{}",
                scenario.file
            );
        }
    }
    for scenario in SCENARIOS {
        let nobody = PodIndex::default();
        assert_eq!(
            accused(&read(&recorded(scenario.file), 4096, &nobody)),
            [],
            "{}",
            scenario.file
        );
    }
}

#[test]
fn the_evidence_shows_the_line_and_who_said_it() {
    let log = recorded("dest-not-captured-refused.plain");
    let findings = read(&log, 4096, &pods(Role::Expected));
    let (id, candidate) = findings.candidates().iter().next().unwrap();
    assert_eq!(id.uid, "uid-u1");
    let evidence = &candidate.signatures[&Signature::HboneRefused];
    assert_eq!(evidence.tally.first.to_string(), "2026-11-21T09:13:51.166879Z");
    assert_eq!(evidence.tally.first, evidence.tally.last);
    assert_eq!(evidence.ztunnels.iter().collect::<Vec<_>>(), ["ztunnel-a"]);
    let line = String::from_utf8(log).unwrap();
    assert_eq!(evidence.tally.sample, line.trim_end().replace('\t', " "));
}
