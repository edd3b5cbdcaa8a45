// SPDX-License-Identifier: Apache-2.0
//! Watches show what changes.

use std::time::Duration;

use meshmedic_lab::ApiServer;
use meshmedic_lab::api::Watch;
use serde_json::{Value, json};

use crate::common::{config_map, name, pod, space, version};

/// How long what must happen may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The type and name of the next event.
#[track_caller]
pub(crate) fn next(watch: &mut Watch) -> (String, String) {
    let event = watch.next_event().unwrap().unwrap();
    (event["type"].as_str().unwrap().to_owned(), name(&event["object"]))
}

#[track_caller]
pub(crate) fn assert_next(watch: &mut Watch, kind: &str, object: &str) {
    assert_eq!(next(watch), (kind.to_owned(), object.to_owned()));
}

pub(crate) fn a_watch_goes_on_where_a_list_ended(api: &ApiServer) {
    let ns = space(api);
    api.create(&config_map(&ns, "before", "1")).unwrap();
    let list = api.list_answer("configmaps", &ns, "").unwrap();
    api.create(&config_map(&ns, "a", "1")).unwrap();
    let query = format!("resourceVersion={}", version(&list));
    let mut watch = api.watch("configmaps", &ns, &query).unwrap();
    assert_next(&mut watch, "ADDED", "a");
    let patched = api.patch("configmaps", &ns, "a", &json!({ "data": { "key": "2" } }));
    let event = watch.next_event().unwrap().unwrap();
    assert_eq!(event, json!({ "type": "MODIFIED", "object": patched.unwrap() }));
    api.delete("configmaps", &ns, "a").unwrap();
    let gone = watch.next_event().unwrap().unwrap();
    assert_eq!(gone["type"], "DELETED");
    let number = |object: &Value| version(object).parse::<u64>().unwrap();
    assert!(number(&gone["object"]) > number(&event["object"]));
}

pub(crate) fn a_watch_without_a_version_begins_with_what_is_there(api: &ApiServer) {
    let ns = space(api);
    api.create(&config_map(&ns, "a", "1")).unwrap();
    for query in ["", "resourceVersion=0"] {
        let mut watch = api.watch("configmaps", &ns, query).unwrap();
        assert_next(&mut watch, "ADDED", "a");
    }
}

pub(crate) fn what_leaves_a_selection_is_deleted_from_it(api: &ApiServer) {
    let ns = space(api);
    let list = api.list_answer("pods", &ns, "").unwrap();
    let query = format!(
        "resourceVersion={}&labelSelector=app%3Dcart&fieldSelector=spec.nodeName%3D",
        version(&list)
    );
    let mut watch = api.watch("pods", &ns, &query).unwrap();
    api.create(&pod(&ns, "a")).unwrap();
    assert_next(&mut watch, "ADDED", "a");
    let relabel = |app: &str| {
        let patch = json!({ "metadata": { "labels": { "app": app } } });
        api.patch("pods", &ns, "a", &patch).unwrap()
    };
    let left = relabel("other");
    let event = watch.next_event().unwrap().unwrap();
    assert_eq!(event["type"], "DELETED");
    // As it was when it still belonged, with the version at which it left.
    assert_eq!(event["object"]["metadata"]["labels"]["app"], "cart");
    assert_eq!(version(&event["object"]), version(&left));
    relabel("another");
    relabel("cart");
    assert_next(&mut watch, "ADDED", "a");
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": { "name": "a" },
        "target": { "kind": "Node", "name": "node-a" },
    });
    api.post("pods/binding", &ns, "a", &binding).unwrap();
    assert_next(&mut watch, "DELETED", "a");
}

pub(crate) fn a_watch_can_begin_with_a_list(api: &ApiServer) {
    let ns = space(api);
    api.create(&config_map(&ns, "a", "1")).unwrap();
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = api.watch("configmaps", &ns, query).unwrap();
    assert_next(&mut watch, "ADDED", "a");
    let mark = watch.next_event().unwrap().unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    let annotations = &mark["object"]["metadata"]["annotations"];
    assert_eq!(annotations["k8s.io/initial-events-end"], "true");
    api.create(&config_map(&ns, "b", "1")).unwrap();
    assert_next(&mut watch, "ADDED", "b");
}

pub(crate) fn a_watch_shows_metadata_only(api: &ApiServer) {
    let ns = space(api);
    api.create(&pod(&ns, "a")).unwrap();
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let mut watch = api.watch_accepting("pods", &ns, "", accept).unwrap();
    let event = watch.next_event().unwrap().unwrap();
    assert_eq!(event["object"]["kind"], "PartialObjectMetadata");
    assert!(event["object"]["spec"].is_null());
}

pub(crate) fn a_watch_ends_when_it_was_told_to(api: &ApiServer) {
    let ns = space(api);
    let mut watch = api.watch("configmaps", &ns, "timeoutSeconds=1").unwrap();
    assert_eq!(watch.next_event().unwrap(), None);
}
