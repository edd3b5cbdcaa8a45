// SPDX-License-Identifier: Apache-2.0
use http::header::CONTENT_TYPE;

use super::super::status::TRIES;
use super::super::testing::{Asked, answer, serve};
use super::*;
use crate::eligibility::Expectation;
use crate::verdict::Reason;

const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

/// A pod of an ambient namespace, with these labels and annotations, as the API shows it.
fn pod(labels: Value, annotations: Value) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "namespace": "shop", "name": "web-0", "uid": UID, "resourceVersion": "7",
            "labels": labels, "annotations": annotations
        }
    })
}

fn facts(labels: Value, annotations: Value) -> PodFacts {
    pod_facts(&serde_json::from_value(pod(labels, annotations)).unwrap())
}

fn ambient() -> Labels {
    [(MODE_LABEL.to_owned(), "ambient".to_owned())].into()
}

fn standing(facts: PodFacts) -> Standing {
    let enablement = Enablement::default();
    Standing {
        expectation: enablement.expectation(&facts, Some(&ambient())),
        certain: enablement.certain,
        namespace_repair: None,
        namespace_strategy: None,
        facts,
    }
}

fn enrolled(labels: Value) -> Standing {
    standing(facts(labels, json!({"ambient.istio.io/redirection": "enabled"})))
}

fn begin(standing: &Standing) -> Result<Patch, Withheld> {
    plan_begin(standing, UID, "7", &Enablement::default(), &ambient())
}

/// A pod that is out, with what is to be restored.
fn out(kept: &str) -> PodFacts {
    facts(json!({MODE_LABEL: "none"}), json!({TOGGLE_RESTORE: kept}))
}

/// What a server that knows merge patches makes of a pod.
fn merged(mut target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    if !target.is_object() {
        target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            target[key] = merged(target[key].take(), value);
        }
    }
    target
}

#[test]
fn it_begins_with_one_patch_of_label_and_annotation() {
    let patch = begin(&enrolled(json!({MODE_LABEL: "ambient", "app": "web"}))).unwrap();
    assert_eq!(
        patch.body,
        json!({"metadata": {
            "uid": UID,
            "resourceVersion": "7",
            "labels": {"istio.io/dataplane-mode": "none"},
            "annotations": {"meshmedic.io/toggle-restore": "{\"label\":\"ambient\"}"}
        }})
    );
    let without = begin(&enrolled(json!({"app": "web"}))).unwrap();
    assert_eq!(
        without.body["metadata"]["annotations"][TOGGLE_RESTORE],
        "{\"label\":null}"
    );
}

#[test]
fn a_patch_is_a_merge_patch_of_that_pod() {
    let patch = begin(&enrolled(json!({}))).unwrap();
    let request = patch.request(false).unwrap();
    assert_eq!(request.method(), "PATCH");
    assert_eq!(
        request.uri(),
        "/api/v1/namespaces/shop/pods/web-0/status?fieldManager=meshmedic"
    );
    assert_eq!(request.headers()[CONTENT_TYPE], "application/merge-patch+json");
    assert!(
        patch
            .request(true)
            .unwrap()
            .uri()
            .to_string()
            .ends_with("&dryRun=All")
    );
}

#[test]
fn there_and_back_leaves_the_labels_as_they_were() {
    for labels in [
        json!({}),
        json!({"app": "web"}),
        json!({MODE_LABEL: "ambient"}),
        json!({MODE_LABEL: ""}),
        json!({MODE_LABEL: "Some_other.value-1"}),
    ] {
        let before = pod(labels.clone(), json!({"ambient.istio.io/redirection": "enabled"}));
        let away = merged(before.clone(), &begin(&enrolled(labels)).unwrap().body);
        assert_eq!(away["metadata"]["labels"][MODE_LABEL], "none");
        let facts = pod_facts(&serde_json::from_value(away.clone()).unwrap());
        let back = plan_restore(&facts, "7").unwrap().unwrap();
        assert_eq!(merged(away, &back.body), before);
    }
}

#[test]
fn what_must_not_be_touched_is_not_toggled() {
    let with = |change: fn(&mut Standing)| {
        let mut standing = enrolled(json!({}));
        change(&mut standing);
        begin(&standing).unwrap_err()
    };
    assert_eq!(with(|it| it.facts.mirror = true), Withheld::StaticPod);
    assert_eq!(with(|it| it.facts.uid = "other".to_owned()), Withheld::OtherPod);
    assert_eq!(with(|it| it.facts.deleting = true), Withheld::Leaving);
    assert_eq!(
        with(|it| it.facts.toggle_restore = Some("{\"label\":null}".to_owned())),
        Withheld::Toggling
    );
    assert_eq!(with(|it| it.certain = false), Withheld::Guessed);
    assert_eq!(
        with(|it| it.namespace_repair = Some("disabled".to_owned())),
        Withheld::OptedOutNamespace
    );
    // Its exemption is wanted.
    let opted_out = enrolled(json!({MODE_LABEL: "none"}));
    assert_eq!(opted_out.expectation, Expectation::Exempt(Reason::OptedOut));
    assert_eq!(begin(&opted_out).unwrap_err(), Withheld::NotProved);
    // Nobody could tell which state of the pod this is.
    let unversioned = plan_begin(&enrolled(json!({})), UID, "", &Enablement::default(), &ambient());
    assert_eq!(unversioned.unwrap_err(), Withheld::NotFetched);
}

#[test]
fn a_label_that_nobody_heeds_is_not_toggled() {
    let all = [("AMBIENT_ENABLEMENT_SELECTOR".to_owned(), "[{}]".to_owned())];
    let all = Enablement::from_config(&all.into()).unwrap();
    let pod = enrolled(json!({}));
    assert_eq!(
        plan_begin(&pod, UID, "7", &all, &ambient()).unwrap_err(),
        Withheld::NoToggle
    );
}

#[test]
fn a_bare_pod_can_be_toggled() {
    assert_eq!(enrolled(json!({})).facts.controller, None);
    assert!(begin(&enrolled(json!({}))).is_ok());
}

#[test]
fn it_is_cleared_when_istio_cni_says_nothing_any_more() {
    let said = |value: &str| facts(json!({}), json!({"ambient.istio.io/redirection": value}));
    assert!(!is_cleared(&said("enabled")));
    assert!(!is_cleared(&said("pending")));
    assert!(is_cleared(&facts(json!({}), json!({}))));
}

#[test]
fn restoring_puts_back_exactly_what_was_there() {
    let labels = |kept: &str| {
        let patch = plan_restore(&out(kept), "8").unwrap().unwrap();
        assert_eq!(
            patch.body["metadata"]["annotations"],
            json!({TOGGLE_RESTORE: null})
        );
        assert_eq!(patch.body["metadata"]["uid"], UID);
        assert_eq!(patch.body["metadata"]["resourceVersion"], "8");
        patch.body["metadata"]["labels"].clone()
    };
    assert_eq!(labels("{\"label\":null}"), json!({MODE_LABEL: null}));
    assert_eq!(labels("{\"label\":\"ambient\"}"), json!({MODE_LABEL: "ambient"}));
    assert_eq!(labels(" { \"label\" : \"\" } "), json!({MODE_LABEL: ""}));
}

#[test]
fn a_label_that_somebody_changed_meanwhile_is_theirs() {
    for labels in [
        json!({}),
        json!({MODE_LABEL: "ambient"}),
        json!({MODE_LABEL: "x"}),
    ] {
        let facts = facts(labels, json!({TOGGLE_RESTORE: "{\"label\":\"old\"}"}));
        let patch = plan_restore(&facts, "7").unwrap().unwrap();
        assert_eq!(patch.body["metadata"]["labels"], Value::Null);
        assert_eq!(
            patch.body["metadata"]["annotations"],
            json!({TOGGLE_RESTORE: null})
        );
    }
}

#[test]
fn where_nothing_is_left_nothing_is_done() {
    assert_eq!(
        plan_restore(&facts(json!({MODE_LABEL: "none"}), json!({})), "7"),
        Ok(None)
    );
    let mut leaving = out("{\"label\":null}");
    leaving.deleting = true;
    assert_eq!(plan_restore(&leaving, "7"), Ok(None));
    leaving.deleting = false;
    leaving.finished = true;
    assert_eq!(plan_restore(&leaving, "7"), Ok(None));
}

#[test]
fn what_we_would_never_have_written_is_not_restored() {
    let long = format!("{{\"label\":\"{}\"}}", "a".repeat(64));
    let padded = format!("{{\"label\":null{}}}", " ".repeat(200));
    for kept in [
        "",
        "null",
        "ambient",
        "{}",
        "{\"label\":1}",
        "{\"label\":\"none\"}",
        "{\"label\":\"a b\"}",
        "{\"label\":\"-a\"}",
        "{\"label\":\"a-\"}",
        "{\"label\":\"\\u001b[2J\"}",
        "{\"label\":\"ž\"}",
        "{\"label\":null,\"more\":1}",
        "{\"label\":null,\"label\":\"x\"}",
        "{\"label\":null} x",
        "[null]",
        &long,
        &padded,
    ] {
        assert_eq!(plan_restore(&out(kept), "7"), Err(Untrusted::NotOurs), "{kept}");
    }
    let longest = format!("{{\"label\":\"{}\"}}", "a".repeat(63));
    assert!(plan_restore(&out(&longest), "7").is_ok());
    let mut mirror = out("{\"label\":null}");
    mirror.mirror = true;
    assert_eq!(plan_restore(&mirror, "7"), Err(Untrusted::Static));
    assert_eq!(
        plan_restore(&out("{\"label\":null}"), ""),
        Err(Untrusted::NoVersion)
    );
}

fn client(answers: Vec<String>) -> (Client, Asked) {
    let (mut config, asked) = serve(answers);
    config.default_retry = false;
    (Client::try_from(config).unwrap(), asked)
}

fn target() -> Target {
    Target {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: UID.to_owned(),
    }
}

fn away() -> String {
    pod(
        json!({MODE_LABEL: "none"}),
        json!({TOGGLE_RESTORE: "{\"label\":null}"}),
    )
    .to_string()
}

fn back() -> String {
    pod(json!({}), json!({})).to_string()
}

const CONFLICT: &str = r#"{"kind":"Status","status":"Failure","code":409,"reason":"Conflict","message":"the object has been modified"}"#;

#[tokio::test]
async fn a_leftover_is_restored_although_the_pod_changes_meanwhile() {
    let (client, asked) = client(vec![
        answer("200 OK", "", &away()),
        answer("409 Conflict", "", CONFLICT),
        answer("200 OK", "", &away()),
        answer("200 OK", "", &back()),
        answer("200 OK", "", &back()),
    ]);
    assert_eq!(restore(&client, &target()).await, Ok(Restored::Done));
    assert_eq!(restore(&client, &target()).await, Ok(Restored::Nothing));
    let asked = asked.all();
    let methods: Vec<&str> = asked.iter().map(|it| it.split_once(' ').unwrap().0).collect();
    assert_eq!(methods, ["GET", "PATCH", "GET", "PATCH", "GET"]);
    assert!(asked[3].contains(r#""resourceVersion":"7""#) && asked[3].contains(UID));
}

#[tokio::test]
async fn a_lost_answer_is_looked_up() {
    let (client, asked) = client(vec![
        answer("200 OK", "", &away()),
        String::new(),
        answer("200 OK", "", &back()),
    ]);
    // It was done: the next look shows nothing left.
    assert_eq!(restore(&client, &target()).await, Ok(Restored::Nothing));
    assert_eq!(asked.all().len(), 3);
}

#[tokio::test]
async fn a_restore_ends_where_it_must() {
    let refused = r#"{"kind":"Status","status":"Failure","code":403,"reason":"Forbidden","message":"no"}"#;
    let (client, asked) = client(vec![
        answer("200 OK", "", &away().replace(UID, "other")),
        answer("200 OK", "", &away()),
        answer("403 Forbidden", "", refused),
        answer("200 OK", "", &away().replace("null", "nil")),
    ]);
    assert_eq!(
        restore(&client, &target()).await,
        Err(RestoreError::Api(Acted::OtherPod))
    );
    let refused = restore(&client, &target()).await.unwrap_err();
    assert!(
        matches!(refused, RestoreError::Api(Acted::Refused { code: 403, .. })),
        "{refused}"
    );
    assert_eq!(
        restore(&client, &target()).await,
        Err(RestoreError::Untrusted(Untrusted::NotOurs))
    );
    assert_eq!(asked.all().len(), 4);
}

#[tokio::test]
async fn a_pod_that_cannot_be_fetched_is_left_alone() {
    let gone = r#"{"kind":"Status","status":"Failure","code":404,"reason":"NotFound","message":"no","details":{"kind":"pods","name":"web-0"}}"#;
    let (client, asked) = client(vec![
        answer("404 Not Found", "", gone),
        answer("503 Service Unavailable", "", "{}"),
    ]);
    assert_eq!(
        restore(&client, &target()).await,
        Err(RestoreError::Api(Acted::Gone))
    );
    let error = restore(&client, &target()).await.unwrap_err();
    assert!(matches!(error, RestoreError::Fetch(_)), "{error}");
    assert_eq!(asked.all().len(), 2);
}

#[tokio::test]
async fn a_toggle_is_sent_once_and_tells_what_came_of_it() {
    let (client, asked) = client(vec![
        answer("200 OK", "", &away()),
        answer("409 Conflict", "", CONFLICT),
        answer("200 OK", "", "<html>"),
        answer("200 OK", "", "{}"),
    ]);
    let patch = begin(&enrolled(json!({}))).unwrap();
    let pod = apply(&client, &patch, false).await.unwrap();
    assert_eq!(pod_facts(&pod).labels[MODE_LABEL], "none");
    assert_eq!(apply(&client, &patch, true).await.unwrap_err(), Acted::Changed);
    for _ in 0..2 {
        let page = apply(&client, &patch, false).await.unwrap_err();
        assert!(matches!(page, Acted::InDoubt { .. }), "{page:?}");
    }
    let asked = asked.all();
    assert!(asked[0].contains("\r\ncontent-type: application/merge-patch+json\r\n"));
    assert!(asked[0].ends_with(&patch.body.to_string()));
    assert!(
        asked[1].starts_with(
            "PATCH /api/v1/namespaces/shop/pods/web-0/status?fieldManager=meshmedic&dryRun=All "
        )
    );
}

#[tokio::test]
async fn a_pod_that_changes_all_the_time_is_given_up() {
    let round = [
        answer("200 OK", "", &away()),
        answer("409 Conflict", "", CONFLICT),
    ];
    let rounds = usize::try_from(TRIES).unwrap();
    let (client, asked) = client(round.iter().cycle().take(2 * rounds).cloned().collect());
    assert_eq!(
        restore(&client, &target()).await,
        Err(RestoreError::Api(Acted::Changed))
    );
    assert_eq!(asked.all().len(), 2 * rounds);
}
