// SPDX-License-Identifier: Apache-2.0
//! Faults on demand, which only the lab's server has.

use std::time::Duration;

use meshmedic_lab::{ApiServer, Fault, Outage, wait};
use serde_json::{Value, json};

use crate::common::{config_map, details, name, refusal, running, space, version};
use crate::watches::{SOON, assert_next};

fn start() -> (ApiServer, String) {
    let api = ApiServer::start().unwrap();
    let ns = space(&api);
    (api, ns)
}

#[test]
fn it_answers_with_what_it_is_told() {
    let (api, ns) = start();
    let fault = Fault::retry_after(429, 7)
        .verb("create")
        .resource("configmaps")
        .times(1);
    let fault = api.fault(fault).unwrap();
    let path = format!("/api/v1/namespaces/{ns}/configmaps");
    let answer = api.send("POST", &path, "application/json", &config_map(&ns, "a", "1"));
    let answer = answer.unwrap();
    assert_eq!((answer.code, answer.header("Retry-After")), (429, Some("7")));
    assert_eq!(answer.body["details"]["retryAfterSeconds"], 7);
    api.create(&config_map(&ns, "a", "1")).unwrap();
    assert_eq!(fault.hits().unwrap(), 1);
}

#[test]
fn it_drops_before_and_after_the_work() {
    let (api, ns) = start();
    {
        let _fault = api.fault(Fault::drop_before().verb("create")).unwrap();
        api.create(&config_map(&ns, "a", "1")).unwrap_err();
        assert!(api.find("configmaps", &ns, "a").unwrap().is_none());
    }
    running(&api, &ns, "pod", true);
    let _fault = api
        .fault(Fault::drop_after().resource("pods/eviction").name("pod").times(1))
        .unwrap();
    api.evict(&ns, "pod", &Value::Null).unwrap_err();
    // In doubt to whoever asked: it was done.
    assert!(api.get("pods", &ns, "pod").unwrap()["metadata"]["deletionTimestamp"].is_string());
    let requests = api.requests().unwrap();
    let evictions: Vec<_> = requests
        .iter()
        .filter(|request| request.full_resource() == "pods/eviction")
        .collect();
    assert_eq!(evictions.len(), 1);
    assert_eq!(evictions[0].code, None);
}

#[test]
fn it_is_slow_for_one_user_agent() {
    let (api, ns) = start();
    let fault = api.fault(Fault::latency(Duration::from_secs(3600)).user_agent("slow"));
    let fault = fault.unwrap();
    let slow = api.with_agent("the slow one");
    let waiting = std::thread::spawn(move || slow.list("configmaps", ""));
    wait::until("the slow request", SOON, || fault.hits().unwrap() == 1).unwrap();
    // Nobody else waits.
    api.list("configmaps", &ns).unwrap();
    let requests = api.requests().unwrap();
    let slow = requests
        .iter()
        .find(|request| request.user_agent == "the slow one");
    assert_eq!(slow.unwrap().code, None);
    drop(fault);
    drop(api);
    assert!(waiting.join().unwrap().is_err());
}

#[test]
fn watches_that_run_survive_the_forgetting() {
    let (api, ns) = start();
    api.create(&config_map(&ns, "a", "1")).unwrap();
    let mut watch = api.watch("configmaps", &ns, "").unwrap();
    assert_next(&mut watch, "ADDED", "a");
    let silence = api.fault(Fault::silence()).unwrap();
    api.create(&config_map(&ns, "b", "1")).unwrap();
    api.compact().unwrap();
    drop(silence);
    assert_next(&mut watch, "ADDED", "b");
    // Until there is really nothing left from which they could go on.
    let silence = api.fault(Fault::silence()).unwrap();
    api.create(&config_map(&ns, "c", "1")).unwrap();
    api.remember(0).unwrap();
    drop(silence);
    let event = watch.next_event().unwrap().unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
}

#[test]
fn it_shows_what_was() {
    let (api, ns) = start();
    api.create(&config_map(&ns, "a", "1")).unwrap();
    let then = api.version().unwrap();
    api.update(&config_map(&ns, "a", "2")).unwrap();
    api.create(&config_map(&ns, "b", "2")).unwrap();
    let stale = api.fault(Fault::stale(then).resource("configmaps")).unwrap();
    assert_eq!(api.get("configmaps", &ns, "a").unwrap()["data"]["key"], "1");
    let list = api.list_answer("configmaps", &ns, "").unwrap();
    assert_eq!(version(&list), then.to_string());
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    drop(stale);
    assert_eq!(api.list("configmaps", &ns).unwrap().len(), 2);
}

#[test]
fn its_watches_fall_silent_and_speak_again() {
    let (api, ns) = start();
    api.set_bookmarks(Duration::from_millis(5)).unwrap();
    let mut watch = api.watch("configmaps", &ns, "resourceVersion=0").unwrap();
    let silence = api.fault(Fault::silence().resource("configmaps")).unwrap();
    api.create(&config_map(&ns, "a", "1")).unwrap();
    let mut marked = api
        .watch("configmaps", &ns, "allowWatchBookmarks=true&resourceVersion=0")
        .unwrap();
    drop(silence);
    assert_next(&mut watch, "ADDED", "a");
    // Had it not been silent, a bookmark would have come before.
    assert_next(&mut marked, "ADDED", "a");
    assert_eq!(marked.next_event().unwrap().unwrap()["type"], "BOOKMARK");
}

#[test]
fn it_ends_watches_and_forgets() {
    let (api, ns) = start();
    let first = api.create(&config_map(&ns, "a", "1")).unwrap();
    let mut watch = api
        .watch("configmaps", &ns, &format!("resourceVersion={}", version(&first)))
        .unwrap();
    wait::until("the watch", SOON, || api.watches().unwrap() == 1).unwrap();
    api.break_watches().unwrap();
    assert_eq!(watch.next_event().unwrap(), None);
    wait::until("its end", SOON, || api.watches().unwrap() == 0).unwrap();
    let page = api.list_answer("namespaces", "", "limit=1").unwrap();
    api.update(&config_map(&ns, "a", "2")).unwrap();
    api.compact().unwrap();
    let mut watch = api
        .watch("configmaps", &ns, &format!("resourceVersion={}", version(&first)))
        .unwrap();
    let event = watch.next_event().unwrap().unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!(
        (&event["object"]["code"], &event["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    assert_eq!(watch.next_event().unwrap(), None);
    let query = format!(
        "limit=1&continue={}",
        page["metadata"]["continue"].as_str().unwrap()
    );
    assert_eq!(refusal(api.list_answer("namespaces", "", &query)).0, 410);
}

#[test]
fn it_goes_out_and_comes_back_on_its_port() {
    let (api, ns) = start();
    let mut watch = api.watch("configmaps", &ns, "").unwrap();
    wait::until("the watch", SOON, || api.watches().unwrap() == 1).unwrap();
    api.outage(Outage::Reset).unwrap();
    assert!(!matches!(watch.next_event(), Ok(Some(_))));
    api.list("configmaps", &ns).unwrap_err();
    api.recover().unwrap();
    api.list("configmaps", &ns).unwrap();
    api.outage(Outage::Hang).unwrap();
    let client = api.with_agent("patient");
    let asking = std::thread::spawn(move || client.list("configmaps", "").map(drop));
    api.recover().unwrap();
    // Answered or dropped, according to when it came; but not waiting for ever.
    let _ = asking.join().unwrap();
}

#[test]
fn its_clock_is_its_own() {
    let (api, ns) = start();
    api.set_clock(-3_600_000 * 24 * 365 * 20).unwrap();
    let made = api.create(&config_map(&ns, "a", "1")).unwrap();
    let year = |text: &str| {
        text.split(['-', ' '])
            .find_map(|word| word.parse::<i64>().ok().filter(|n| *n > 31))
    };
    let stamped = year(made["metadata"]["creationTimestamp"].as_str().unwrap()).unwrap();
    let answer = api
        .send("GET", "/version", "application/json", &Value::Null)
        .unwrap();
    assert!(stamped < 2020, "{stamped}");
    assert!(year(answer.header("date").unwrap()).unwrap() < 2020);
}

#[test]
fn a_version_from_the_future_is_refused() {
    let (api, ns) = start();
    let (code, _, message) = refusal(api.list_answer("configmaps", &ns, "resourceVersion=999999"));
    assert_eq!(code, 504);
    assert!(message.starts_with("Too large resource version"), "{message}");
    let cause = details(api.list_answer("configmaps", &ns, "resourceVersion=999999"));
    assert_eq!(cause["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[test]
fn it_remembers_who_asked_what() {
    let (api, ns) = start();
    api.forget_requests().unwrap();
    let mut watch = api
        .with_agent("watcher")
        .watch("configmaps", &ns, "resourceVersion=0")
        .unwrap();
    api.create(&config_map(&ns, "a", "1")).unwrap();
    assert_next(&mut watch, "ADDED", "a");
    let requests = api.requests().unwrap();
    let verbs: Vec<_> = requests.iter().map(|request| request.verb.as_str()).collect();
    assert_eq!(verbs, ["watch", "create"]);
    assert_eq!(requests[0].user_agent, "watcher");
    assert_eq!(requests[0].query, "watch=true&resourceVersion=0");
    let create = &requests[1];
    assert_eq!(
        (create.code, create.user.as_str()),
        (Some(201), "kubernetes-admin")
    );
    assert_eq!((&create.namespace, create.resource.as_str()), (&ns, "configmaps"));
    assert!(create.is_write());
    assert_eq!(name(&api.get("configmaps", &ns, "a").unwrap()), "a");
}
