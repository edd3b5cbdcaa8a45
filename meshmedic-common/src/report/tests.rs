// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::policy::{Means, Withheld};

/// As `meshmedic node` wrote it before there was an agent.
const OLD: &str = r#"{"apiVersion":"meshmedic.io/v1","kind":"NodeReport","node":"n","version":"0.1.0","trigger":"poll",
    "conditions":[],"ztunnel":[7],"pods":[{"namespace":"shop","name":"cart","uid":"5a9c2f4e-3e5f-4c58-8f5b-0a6b1e1b7c11",
    "state":"exempt","reason":"not-enrolled","ports":[],"redirection":"absent","flaps":0}]}"#;

fn old() -> NodeReport {
    NodeReport::read(OLD.as_bytes()).unwrap()
}

fn transition(second: i64) -> TransitionReport {
    TransitionReport {
        at: Timestamp::from_second(second).unwrap(),
        from: Some(State::Captured),
        to: State::Suspect,
        reason: Some(Reason::Confirming),
        outside_ms: None,
    }
}

#[test]
fn an_older_report_is_read_and_written_as_it_was() {
    let report = old();
    assert_eq!(report.pods[0].reason, Some(Reason::NotEnrolled));
    let written = serde_json::to_value(&report).unwrap();
    assert_eq!(
        written,
        serde_json::from_str::<serde_json::Value>(OLD).unwrap(),
        "what is not known is not written"
    );
}

#[test]
fn a_newer_report_is_read_without_what_is_not_known() {
    let mut value: serde_json::Value = serde_json::from_str(OLD).unwrap();
    value["weather"] = "fine".into();
    let pod = &mut value["pods"][0];
    pod["reason"] = "of-tomorrow".into();
    pod["expectation"] = "of-tomorrow".into();
    pod["repair"] = serde_json::json!({"state": "of-tomorrow", "by": "magic"});
    value["repairs"] = serde_json::json!([{"at": "2026-01-01T00:00:00Z", "pod": "shop/cart", "uid": "u", "result": "of-tomorrow"}]);
    let report = NodeReport::read(value.to_string().as_bytes()).unwrap();
    assert_eq!(report.pods[0].reason, None);
    assert_eq!(report.pods[0].expectation, None);
    assert_eq!(report.pods[0].repair, Some(RepairStanding::Other));
    assert_eq!(report.repairs.iter().next().unwrap().result, None);
    value["pods"][0]["repair"] =
        serde_json::json!({"state": "withheld", "reason": "of-tomorrow", "rule": 4, "sentence": "says who"});
    let report = NodeReport::read(value.to_string().as_bytes()).unwrap();
    assert!(
        matches!(&report.pods[0].repair, Some(RepairStanding::Withheld { reason: None, rule: 4, sentence, .. }) if sentence == "says who")
    );
}

#[test]
fn a_state_of_a_newer_agent_leaves_its_pod_open_and_refuses_nothing() {
    let mut value: serde_json::Value = serde_json::from_str(OLD).unwrap();
    let mut pod = value["pods"][0].clone();
    pod["name"] = "pay".into();
    pod["state"] = "lost\u{1b}-tomorrow".into();
    pod["transitions"] = serde_json::json!([
        {"at": "2026-01-01T00:00:00Z", "from": "captured", "to": "lost-tomorrow"},
        {"at": "2026-01-01T00:00:01Z", "from": "lost-tomorrow", "to": "captured"},
        {"at": "2026-01-01T00:00:02Z", "to": "captured"},
    ]);
    value["pods"].as_array_mut().unwrap().push(pod);
    let report = NodeReport::read(value.to_string().as_bytes()).unwrap();
    assert_eq!(report.pods[0], old().pods[0], "what is known stays as it is");
    let newer = &report.pods[1];
    assert_eq!(
        (newer.state, newer.reason),
        (State::Unverifiable, Some(Reason::NewerAgent))
    );
    assert_eq!(newer.detail.as_deref(), Some("its agent says lost -tomorrow"));
    assert_eq!(newer.transitions.iter().count(), 1);
    assert_eq!(
        crate::verdict::exit_code([newer.state]),
        3,
        "no finding, and not well either"
    );
    // What is no state at all is still refused.
    value["pods"][1]["state"] = 7.into();
    assert!(NodeReport::read(value.to_string().as_bytes()).is_err());
}

#[test]
fn another_version_and_another_kind_are_refused_and_named() {
    let refused = |from: &str, to: &str| {
        NodeReport::read(OLD.replace(from, to).as_bytes())
            .unwrap_err()
            .to_string()
    };
    let message = refused("meshmedic.io/v1", "meshmedic.io/v2");
    assert!(
        message.contains("meshmedic.io/v2") && message.contains("0.1.0"),
        "{message}"
    );
    let message = refused("NodeReport", "PodList");
    assert!(message.contains("PodList"), "{message}");
    let message = refused("\"ztunnel\":[7]", "\"ztunnel\":7");
    assert!(message.contains("breaks meshmedic.io/v1"), "{message}");
    let error = br#"{"apiVersion":"meshmedic.io/v1","kind":"Error","message":"no pod shop/cart"}"#;
    let message = NodeReport::read(error).unwrap_err().to_string();
    assert_eq!(message, "the agent says: no pod shop/cart");
    for nonsense in ["", "404 page not found", "[]", "{\"kind\":\"NodeReport\"}"] {
        let error = NodeReport::read(nonsense.as_bytes()).unwrap_err();
        assert!(matches!(error, ReadError::NotAReport(_)), "{nonsense}: {error}");
    }
}

#[test]
fn everything_that_is_written_is_read_again() {
    let mut report = old();
    report.at = Some(Timestamp::from_second(1).unwrap());
    report.budgets = Some(Budgets {
        repairs_ready: true,
        repairs_stuck: false,
        acts_this_hour: 2,
        acts_an_hour: 20,
        in_flight: 1,
        in_flight_most: 1,
    });
    report.breakers.push(BreakerReport {
        scope: BreakerScope::Node,
        name: None,
        failures: 2,
        until: report.at,
    });
    report.repairs.push(RepairReport {
        at: Timestamp::from_second(2).unwrap(),
        pod: "shop/cart".to_owned(),
        uid: "u".to_owned(),
        action: Some(Means::Evict),
        result: Some(RepairResult::InDoubt),
        detail: None,
        took_ms: 5,
    });
    for repair in [
        RepairStanding::UnderWay { acted: true },
        RepairStanding::WouldRepair,
        RepairStanding::withheld(Withheld::Cooldown, Some("until noon".to_owned()), true),
    ] {
        let pod = &mut report.pods[0];
        pod.since = Some(Timestamp::from_second(3).unwrap());
        pod.expectation = Some(Expectation::Exempt(Reason::Sidecar).into());
        pod.ready = Some(false);
        pod.stuck = true;
        pod.transitions.push(transition(4));
        pod.repair = Some(repair);
        let written = serde_json::to_vec(&report).unwrap();
        assert_eq!(NodeReport::read(&written).unwrap(), report);
    }
    let json = serde_json::to_value(&report.pods[0]).unwrap();
    assert_eq!(json["transitions"][0]["at"], "1970-01-01T00:00:04Z");
    assert_eq!(json["repair"]["state"], "withheld");
    assert_eq!(json["repair"]["rule"], 7);
}

#[test]
fn only_the_last_changes_are_kept() {
    let mut recent = Recent::default();
    for second in 0..100 {
        recent.push(transition(second));
    }
    assert_eq!(recent.iter().len(), 16);
    assert_eq!(recent.iter().next_back().unwrap().at.as_second(), 99);
    assert_eq!(recent.iter().next().unwrap().at.as_second(), 84);
}

#[test]
fn a_report_of_one_pod_is_a_report() {
    let report = old();
    assert_eq!(report.of_pod("shop", "cart"), Some(report.clone()));
    assert_eq!(report.of_pod("shop", "car"), None);
    assert_eq!(report.of_pod("sho", "cart"), None);
}
