// SPDX-License-Identifier: Apache-2.0
use std::time::Duration;

use serde_json::json;

use super::super::testing::{answer as http, serve, serve_by_path};
use super::*;
use crate::eligibility::{Enablement, Expectation};
use crate::identity::Identity;
use crate::kube::facts::NamespaceFacts;
use crate::repair::PodRef;
use crate::repair::heal::{Against, Answer, Attempt, Request, Sample};
use crate::uid::PodUid;
use crate::verdict::Reason;

const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

fn target() -> Target {
    Target {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: UID.to_owned(),
    }
}

fn first() -> Ask {
    Ask {
        attempt: Attempt::First,
        at: "2026-11-29T10:00:00Z".parse().unwrap(),
        against: Against::new("7-8", Some("containerd://c"), Some("containerd://z")),
    }
}

async fn answered(answers: Vec<String>) -> (Asked, Vec<String>) {
    let (config, asked) = serve(answers);
    let client = super::super::client::acting(config).unwrap().client;
    (ask(&client, &target(), "41", &first()).await, asked.all())
}

/// The pod with these annotations.
fn the_pod(annotations: &str) -> String {
    format!(
        r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"namespace":"shop","name":"web-0","uid":"{UID}","resourceVersion":"41","annotations":{annotations}}}}}"#
    )
}

fn refusal(code: u16, reason: &str, more: &str) -> String {
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"words","reason":"{reason}","code":{code}{more}}}"#
    );
    http(&format!("{code} x"), "", &body)
}

#[test]
fn an_ask_changes_two_annotations_of_the_very_pod() {
    let body = patch(UID, "41", &first());
    let change = Patch {
        target: target(),
        body: body.clone(),
    };
    let request = change.request(false).unwrap();
    assert_eq!(request.method(), "PATCH");
    let uri = "/api/v1/namespaces/shop/pods/web-0/status?fieldManager=meshmedic";
    assert_eq!(request.uri(), uri);
    assert_eq!(request.headers()["content-type"], "application/merge-patch+json");
    let expected = json!({ "metadata": {
        "uid": UID,
        "resourceVersion": "41",
        "annotations": {
            "ambient.istio.io/redirection": "pending",
            "meshmedic.io/heal": "v1 1 2026-11-29T10:00:00Z 7-8 c z",
        },
    }});
    assert_eq!(body, expected);
}

#[tokio::test]
async fn each_answer_means_one_thing() {
    let pod = r#","details":{"name":"web-0","kind":"pods"}"#;
    let uid =
        r#","details":{"causes":[{"field":"metadata.uid","reason":"FieldValueInvalid","message":"x"}]}"#;
    let wait = r#","details":{"retryAfterSeconds":7}"#;
    let cases = [
        (http("200 OK", "", &the_pod("{}")), Asked::Accepted),
        (refusal(409, "Conflict", ""), Asked::Changed),
        (refusal(404, "NotFound", pod), Asked::Gone),
        (refusal(422, "Invalid", uid), Asked::Gone),
        (
            refusal(403, "Forbidden", ""),
            Asked::NotPermitted("words".to_owned()),
        ),
        (refusal(422, "Invalid", ""), Asked::Refused("words".to_owned())),
        (
            refusal(429, "TooManyRequests", wait),
            Asked::Busy(Some(Duration::from_secs(7))),
        ),
        (refusal(429, "TooManyRequests", ""), Asked::Busy(None)),
    ];
    for (given, expected) in cases {
        let (asked, questions) = answered(vec![given]).await;
        assert_eq!(asked, expected);
        assert_eq!(questions.len(), 1, "nothing is repeated unasked");
    }
    // Whoever hangs up may have done it, and so may whoever answers with something else.
    assert!(matches!(
        answered(vec![http("200 OK", "", "{}")]).await.0,
        Asked::InDoubt(_)
    ));
    assert!(matches!(answered(vec![String::new()]).await.0, Asked::InDoubt(_)));
    assert!(matches!(
        answered(vec![refusal(500, "InternalError", "")]).await.0,
        Asked::InDoubt(_)
    ));
}

#[test]
fn a_policy_that_refuses_is_a_right_that_is_missing() {
    let message = "pods is forbidden: ValidatingAdmissionPolicy 'meshmedic' denied request".to_owned();
    let refused = Acted::Refused {
        code: 422,
        message: message.clone(),
    };
    assert_eq!(answer(refused), Asked::NotPermitted(message));
}

#[tokio::test]
async fn nothing_is_asked_without_a_version() {
    let (config, asked) = serve(Vec::new());
    let client = super::super::client::acting(config).unwrap().client;
    assert!(matches!(
        ask(&client, &target(), "", &first()).await,
        Asked::Refused(_)
    ));
    assert!(asked.all().is_empty());
}

#[tokio::test]
async fn what_an_ask_left_is_taken_away_from_the_very_pod() {
    let left = the_pod(r#"{"meshmedic.io/heal":"v1 1 2026-11-29T10:00:00Z 7-8 c z"}"#);
    let ok = |body: &str| http("200 OK", "", body);
    let (config, asked) = serve(vec![
        ok(&left),
        refusal(409, "Conflict", ""),
        ok(&left),
        ok(&the_pod("{}")),
    ]);
    let client = super::super::client::acting(config).unwrap().client;
    assert_eq!(forget(&client, &target()).await, Ok(true));
    let expected = json!({ "metadata": {
        "uid": UID, "resourceVersion": "41", "annotations": { "meshmedic.io/heal": null },
    }});
    let questions = asked.all();
    assert_eq!(questions.len(), 4, "{questions:?}");
    assert!(questions[3].ends_with(&expected.to_string()), "{questions:?}");

    let (config, asked) = serve(vec![ok(&the_pod("{}"))]);
    let client = super::super::client::acting(config).unwrap().client;
    assert_eq!(forget(&client, &target()).await, Ok(false));
    assert_eq!(asked.all().len(), 1, "nothing is written where nothing is left");

    let other = left.replace(UID, "0a1b2c3d-1111-2222-3333-444455557777");
    let (config, _) = serve(vec![ok(&other)]);
    let client = super::super::client::acting(config).unwrap().client;
    assert_eq!(forget(&client, &target()).await, Err(Acted::OtherPod));
}

/// What a fetch makes of the pod while istio-cni's settings answer so; `None` if no settings are to be had.
async fn fetched(settings: Option<String>) -> (Expectation, bool) {
    let pod = the_pod(r#"{"ambient.istio.io/redirection":"enabled"}"#).replace(
        r#""uid""#,
        r#""labels":{"istio.io/dataplane-mode":"ambient"},"uid""#,
    );
    // The two are asked for at once, in whichever order: each answers to its path.
    let config = serve_by_path(move |path| match path {
        path if path.contains("istio-cni-config") => settings
            .clone()
            .unwrap_or_else(|| refusal(500, "InternalError", "")),
        _ => http("200 OK", "", &pod),
    });
    let heals = Heals::new(super::super::client::acting(config).unwrap().client);
    let around = Around {
        enablement: Enablement::default(),
        cnis: ["istio-system".to_owned()].into(),
        namespace: Some(NamespaceFacts::default()),
    };
    let pod = PodRef {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: UID.to_owned(),
        cgroup_uid: PodUid::parse(UID).unwrap(),
    };
    let Answer::Fetched(Ok(Some(fetched))) = heals.perform(Request::Fetch(pod), &around).await else {
        panic!("the pod is there")
    };
    (fetched.standing.expectation, fetched.standing.certain)
}

#[tokio::test]
async fn istio_cnis_settings_are_read_again_before_an_ask() {
    let config = |data: &str| {
        let body = format!(
            r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"istio-cni-config"}},"data":{data}}}"#
        );
        Some(http("200 OK", "", &body))
    };
    assert_eq!(fetched(config("{}")).await, (Expectation::Expected, true));
    let excluded = Expectation::Exempt(Reason::ExcludedNamespace);
    assert_eq!(
        fetched(config(r#"{"EXCLUDE_NAMESPACES":"shop"}"#)).await,
        (excluded, true),
        "it leaves the namespace alone by now"
    );
    assert_eq!(
        fetched(None).await,
        (Expectation::Expected, false),
        "what cannot be read is a guess, by which nothing is asked"
    );
}

/// A ztunnel as the API has it, Ready since then or not Ready.
fn ztunnel(name: &str, owner: &str, ready: Option<&str>) -> serde_json::Value {
    let status = if ready.is_some() { "True" } else { "False" };
    json!({
        "metadata": {
            "namespace": "istio-system", "name": name, "uid": format!("uid-{name}"),
            "labels": { "app": "ztunnel" },
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": owner, "name": "ztunnel", "uid": "1", "controller": true,
            }],
        },
        "status": { "conditions": [{
            "type": "Ready", "status": status, "lastTransitionTime": ready.unwrap_or("2026-11-29T08:00:00Z"),
        }] },
    })
}

#[tokio::test]
async fn a_few_ztunnels_show_how_many_nodes_came_back() {
    let now = "2026-11-29T10:00:00Z".parse().unwrap();
    let identity = Identity::new(vec!["istio-system".to_owned()], false);
    let config = serve_by_path(|path| {
        let list = if path.starts_with("/api/v1/nodes?") {
            assert!(path.contains("limit=1"), "{path}");
            json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": { "remainingItemCount": 4999, "continue": "more" },
                "items": [{ "metadata": { "name": "node-a" } }],
            })
        } else {
            assert!(
                path.starts_with("/api/v1/namespaces/istio-system/pods?"),
                "{path}"
            );
            assert!(path.contains("limit=20") && path.contains("ztunnel"), "{path}");
            json!({
                "kind": "PodList", "apiVersion": "v1", "metadata": {},
                "items": [
                    ztunnel("old", "DaemonSet", Some("2026-11-29T09:00:00Z")),
                    ztunnel("new", "DaemonSet", Some("2026-11-29T09:59:00Z")),
                    ztunnel("away", "DaemonSet", None),
                    ztunnel("strange", "ReplicaSet", None),
                ],
            })
        };
        http("200 OK", "", &list.to_string())
    });
    let client = super::super::client::acting(config).unwrap().client;
    let sample = Heals::new(client).sample("istio-system", &identity, now).await;
    let expected = Sample {
        nodes: 5000,
        seen: 3,
        young: 2,
    };
    assert_eq!(sample, Some(expected));
}

#[tokio::test]
async fn an_api_that_lists_nothing_says_nothing_of_other_nodes() {
    let identity = Identity::new(vec!["istio-system".to_owned()], false);
    let config = serve_by_path(|_| refusal(403, "Forbidden", ""));
    let client = super::super::client::acting(config).unwrap().client;
    let now = "2026-11-29T10:00:00Z".parse().unwrap();
    let sample = Heals::new(client).sample("istio-system", &identity, now).await;
    assert_eq!(sample, None);
}
