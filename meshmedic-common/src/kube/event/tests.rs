// SPDX-License-Identifier: Apache-2.0
use serde_json::{Value, json};

use super::super::testing::{answer, serve};
use super::*;

fn pod() -> Subject {
    Subject::Pod(Target {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: "0a1b2c3d-1111-2222-3333-444455556666".to_owned(),
    })
}

fn now() -> Timestamp {
    "2026-08-01T10:00:00.123456789Z".parse().unwrap()
}

fn sent(subject: &Subject, reason: EventReason) -> Value {
    let event = event(
        subject,
        reason,
        "why".to_owned(),
        now(),
        "meshmedic.io/agent",
        "agent-x",
    );
    serde_json::to_value(event).unwrap()
}

#[test]
fn an_event_of_a_pod_lives_with_the_pod() {
    assert_eq!(
        sent(&pod(), EventReason::CaptureLost),
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"namespace": "shop", "name": format!("web-0.{:x}", now().as_nanosecond())},
            "eventTime": "2026-08-01T10:00:00.123456Z",
            "regarding": {
                "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web-0",
                "uid": "0a1b2c3d-1111-2222-3333-444455556666"
            },
            "reason": "MeshCaptureLost",
            "action": "Detect",
            "type": "Warning",
            "note": "why",
            "reportingController": "meshmedic.io/agent",
            "reportingInstance": "agent-x"
        })
    );
}

#[test]
fn an_event_of_a_node_is_found_by_kubectl() {
    let sent = sent(&Subject::Node("worker-1".to_owned()), EventReason::NodeFault);
    assert_eq!(sent["metadata"]["namespace"], "default");
    assert_eq!(
        sent["regarding"],
        json!({"apiVersion": "v1", "kind": "Node", "name": "worker-1", "uid": "worker-1"})
    );
}

#[test]
fn what_every_agent_says_of_a_namespace_is_one_event() {
    let tenant = Subject::Namespace("shop".to_owned());
    let named = |subject: &Subject, note: &str, now: Timestamp| {
        let event = event(
            subject,
            EventReason::IdentityConflict,
            note.to_owned(),
            now,
            "meshmedic.io/agent",
            "agent-x",
        );
        (event.metadata.name.unwrap(), event.metadata.namespace.unwrap())
    };
    let first = named(&tenant, "why", now());
    assert_eq!(
        first,
        named(&tenant, "why", now() + std::time::Duration::from_secs(9))
    );
    assert_eq!(
        first.1, "default",
        "where the namespace's own people write nothing"
    );
    assert_ne!(first, named(&tenant, "why else", now()));
    let other = Subject::Namespace("pay".to_owned());
    assert_ne!(first, named(&other, "why", now()));
}

#[test]
fn reasons_have_types_actions_and_names_that_stay() {
    let all: Vec<(&str, &str, &str)> = EventReason::ALL
        .iter()
        .map(|reason| (reason.as_str(), reason.event_type(), reason.action()))
        .collect();
    assert_eq!(
        all,
        [
            ("MeshCaptureLost", "Warning", "Detect"),
            ("MeshCaptureRecovered", "Normal", "Detect"),
            ("MeshRepairStarted", "Normal", "Repair"),
            ("MeshRepairBlocked", "Warning", "Repair"),
            ("MeshRepairSucceeded", "Normal", "Repair"),
            ("MeshRepairFailed", "Warning", "Repair"),
            ("MeshRepairOver", "Normal", "Repair"),
            ("MeshNodeFault", "Warning", "Detect"),
            ("MeshIdentityConflict", "Warning", "Detect"),
        ]
    );
}

#[test]
fn the_longest_name_still_makes_an_event() {
    for object in [
        "a".repeat(253),
        format!("{}-{}", "a".repeat(235), "b".repeat(17)),
        "ž".repeat(200),
        String::new(),
    ] {
        let name = event_name(&object, 7);
        assert!(name.len() <= MAX_NAME, "{name}");
        assert!(!name.contains("-."), "{name}");
    }
    assert!(event_name(&"a".repeat(253), u128::MAX).len() > 250);
}

#[tokio::test]
async fn a_note_is_cleaned_and_cut_and_said_once() {
    let (mut config, asked) = serve(vec![answer(
        "201 Created",
        "",
        &sent(&pod(), EventReason::CaptureLost).to_string(),
    )]);
    config.default_retry = false;
    let reporter = Reporter::new(
        Client::try_from(config).unwrap(),
        "meshmedic.io/agent",
        &"x".repeat(500),
    );
    let note = format!("\u{1b}[2J{}", "ž".repeat(2000));
    for expected in [Decision::Publish, Decision::Duplicate] {
        let decision = reporter.publish(&pod(), EventReason::CaptureLost, &note).await;
        assert_eq!(decision.unwrap(), expected);
    }
    assert_eq!(reporter.suppressed().duplicates, 1);
    let asked = asked.all();
    assert_eq!(asked.len(), 1);
    let (head, body) = asked[0].split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("POST /apis/events.k8s.io/v1/namespaces/shop/events"),
        "{head}"
    );
    let body: Value = serde_json::from_str(body).unwrap();
    let note = body["note"].as_str().unwrap();
    assert!(note.len() <= MAX_NOTE && note.len() > MAX_NOTE - 8);
    assert!(note.starts_with("[2Jž") && note.ends_with('…'), "{note}");
    assert!(body["reportingInstance"].as_str().unwrap().len() <= MAX_INSTANCE);
}

#[tokio::test]
async fn what_the_api_refused_is_said_again() {
    let refused = r#"{"kind":"Status","status":"Failure","code":403,"reason":"Forbidden","message":"no"}"#;
    let (mut config, asked) = serve(vec![
        answer("403 Forbidden", "", refused),
        answer(
            "201 Created",
            "",
            &sent(&pod(), EventReason::CaptureLost).to_string(),
        ),
    ]);
    config.default_retry = false;
    let reporter = Reporter::new(Client::try_from(config).unwrap(), "meshmedic.io/agent", "");
    let pod = pod();
    let publish = || reporter.publish(&pod, EventReason::CaptureLost, "note");
    assert!(publish().await.is_err());
    assert_eq!(publish().await.unwrap(), Decision::Publish);
    assert_eq!(publish().await.unwrap(), Decision::Duplicate);
    assert!(asked.all()[1].contains(r#""reportingInstance":"meshmedic.io/agent""#));
}
