// SPDX-License-Identifier: Apache-2.0
use serde_json::{Value, json};

use super::super::testing::{answer, serve};
use super::*;

const SUCCESS: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","code":201}"#;

fn target() -> Target {
    Target {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: "0a1b2c3d-1111-2222-3333-444455556666".to_owned(),
    }
}

fn body(request: &Request<Vec<u8>>) -> Value {
    serde_json::from_slice(request.body()).unwrap()
}

/// A client without retries of its own.
fn client(answers: Vec<String>) -> (Client, super::super::testing::Asked) {
    let (mut config, asked) = serve(answers);
    config.default_retry = false;
    (Client::try_from(config).unwrap(), asked)
}

#[test]
fn an_eviction_is_what_the_api_server_reads() {
    let request = eviction(&target(), false).unwrap();
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri(), "/api/v1/namespaces/shop/pods/web-0/eviction");
    assert_eq!(request.headers()[CONTENT_TYPE], "application/json");
    assert_eq!(
        body(&request),
        json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": "web-0", "namespace": "shop"},
            "deleteOptions": {"preconditions": {"uid": "0a1b2c3d-1111-2222-3333-444455556666"}}
        })
    );
}

#[test]
fn a_dry_run_says_so_twice() {
    let request = eviction(&target(), true).unwrap();
    assert_eq!(
        request.uri(),
        "/api/v1/namespaces/shop/pods/web-0/eviction?dryRun=All"
    );
    assert_eq!(body(&request)["deleteOptions"]["dryRun"], json!(["All"]));
    assert_eq!(
        body(&request)["deleteOptions"]["preconditions"]["uid"],
        target().uid
    );
}

#[test]
fn a_deletion_is_what_the_api_server_reads() {
    let request = deletion(&target(), false).unwrap();
    assert_eq!(request.method(), "DELETE");
    assert_eq!(request.uri().path(), "/api/v1/namespaces/shop/pods/web-0");
    assert_eq!(
        body(&request),
        json!({"preconditions": {"uid": "0a1b2c3d-1111-2222-3333-444455556666"}})
    );
    let dry = deletion(&target(), true).unwrap();
    assert_eq!(body(&dry)["dryRun"], json!(["All"]));
    assert_eq!(body(&dry)["preconditions"]["uid"], target().uid);
}

#[test]
fn no_name_makes_another_request_of_it() {
    for name in [
        "", ".", "..", "a/b", "a?x=y", "a#b", "a%2fb", "A", "a b", "a\r\nb", "ž",
    ] {
        let bad_name = Target {
            name: name.to_owned(),
            ..target()
        };
        let bad_namespace = Target {
            namespace: name.to_owned(),
            ..target()
        };
        for bad in [bad_name, bad_namespace] {
            assert!(eviction(&bad, false).is_err(), "{bad:?}");
            assert!(deletion(&bad, false).is_err(), "{bad:?}");
        }
    }
}

#[tokio::test]
async fn without_a_uid_nothing_is_sent() {
    let (client, asked) = client(vec![]);
    let nobody = Target {
        uid: String::new(),
        ..target()
    };
    for acted in [
        evict(&client, &nobody, true, false).await,
        delete(&client, &nobody, false).await,
    ] {
        assert!(matches!(acted, Acted::Refused { code: 0, .. }), "{acted:?}");
    }
    assert!(asked.all().is_empty());
}

#[tokio::test]
async fn an_accepted_eviction_and_deletion() {
    let pod = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web-0"},"status":{"phase":"Running"}}"#;
    let (client, asked) = client(vec![
        answer("201 Created", "", SUCCESS),
        answer("200 OK", "", pod),
    ]);
    assert_eq!(evict(&client, &target(), true, false).await, Acted::Accepted);
    assert_eq!(delete(&client, &target(), false).await, Acted::Accepted);
    let asked = asked.all();
    assert!(asked[0].starts_with("POST /api/v1/namespaces/shop/pods/web-0/eviction HTTP/1.1"));
    assert!(asked[0].contains(r#""deleteOptions":{"preconditions":{"uid":"0a1b2c3d-"#));
    assert!(asked[1].starts_with("DELETE /api/v1/namespaces/shop/pods/web-0"));
    assert!(asked[1].contains(r#"{"preconditions":{"uid":"0a1b2c3d-"#));
}

#[tokio::test]
async fn a_refusal_that_comes_as_a_success_is_a_refusal() {
    let two = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.","code":500}"#;
    let (client, _) = client(vec![answer("201 Created", "", two)]);
    let acted = evict(&client, &target(), true, false).await;
    assert!(matches!(acted, Acted::Blocked(_)), "{acted:?}");
}

#[tokio::test]
async fn a_page_of_a_proxy_is_no_success() {
    let pages = ["<html>please log in</html>", "{}", "", "{\"kind\":\"Page\"}"];
    let (client, _) = client(pages.map(|page| answer("200 OK", "", page)).to_vec());
    for _ in pages {
        let acted = evict(&client, &target(), true, false).await;
        assert!(matches!(acted, Acted::InDoubt { .. }), "{acted:?}");
    }
}

#[tokio::test]
async fn an_overrun_api_server_is_heard_when_it_asks_for_patience() {
    let busy = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-type: text/plain\r\ncontent-length: 19\r\nconnection: close\r\n\r\nToo many requests.\n";
    let (client, asked) = client(vec![busy.to_owned()]);
    let acted = evict(&client, &target(), true, false).await;
    assert_eq!(
        acted,
        Acted::Busy {
            retry_after: Some(std::time::Duration::from_secs(7)),
            message: "Too many requests.".to_owned()
        }
    );
    assert_eq!(asked.all().len(), 1);
}

#[tokio::test]
async fn a_lost_answer_is_in_doubt() {
    let cut = "HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{".to_owned();
    let (client, asked) = client(vec![String::new(), cut]);
    for _ in 0..3 {
        // At the third time nobody listens any more.
        let acted = evict(&client, &target(), true, false).await;
        assert!(matches!(acted, Acted::InDoubt { .. }), "{acted:?}");
    }
    assert_eq!(asked.all().len(), 2);
}
