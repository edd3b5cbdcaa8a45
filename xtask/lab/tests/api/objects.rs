// SPDX-License-Identifier: Apache-2.0
//! Objects are created, read, replaced, listed and deleted.

use meshmedic_lab::ApiServer;
use serde_json::{Value, json};

use crate::common::{config_map, name, pod, refusal, space, version};

const PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

pub(crate) fn it_creates_and_gets(api: &ApiServer) {
    let ns = space(api);
    let made = api
        .with_agent("tester/2")
        .create(&config_map(&ns, "a", "1"))
        .unwrap();
    assert_eq!(api.get("configmaps", &ns, "a").unwrap(), made);
    let meta = &made["metadata"];
    assert_eq!(meta["uid"].as_str().unwrap().len(), 36);
    assert!(meta["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(meta["managedFields"][0]["manager"], "tester");
    assert_eq!(meta["managedFields"][0]["operation"], "Update");
    let (code, reason, message) = refusal(api.get("configmaps", &ns, "b"));
    assert_eq!((code, reason.as_str()), (404, "NotFound"));
    assert_eq!(message, "configmaps \"b\" not found");
    let nowhere = refusal(api.create(&config_map("nowhere", "a", "1")));
    assert_eq!(nowhere.2, "namespaces \"nowhere\" not found");
}

pub(crate) fn it_generates_names(api: &ApiServer) {
    let ns = space(api);
    let mut wanted = config_map(&ns, "", "1");
    wanted["metadata"] = json!({ "namespace": ns, "generateName": "cart-" });
    let (one, other) = (api.create(&wanted).unwrap(), api.create(&wanted).unwrap());
    assert_ne!(name(&one), name(&other));
    assert!(name(&one).starts_with("cart-") && name(&one).len() == 10);
}

pub(crate) fn it_refuses_what_is_there(api: &ApiServer) {
    let ns = space(api);
    api.create(&config_map(&ns, "a", "1")).unwrap();
    let (code, reason, message) = refusal(api.create(&config_map(&ns, "a", "2")));
    assert_eq!((code, reason.as_str()), (409, "AlreadyExists"));
    assert_eq!(message, "configmaps \"a\" already exists");
}

pub(crate) fn it_refuses_bad_names(api: &ApiServer) {
    let ns = space(api);
    let (code, reason, message) = refusal(api.create(&config_map(&ns, "Not_A_Name", "1")));
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(
        message.contains("metadata.name: Invalid value: \"Not_A_Name\""),
        "{message}"
    );
    let mut labelled = config_map(&ns, "a", "1");
    labelled["metadata"]["labels"] = json!({ "app": "not a label" });
    assert_eq!(refusal(api.create(&labelled)).0, 422);
    let mut bare = pod(&ns, "a");
    bare["spec"]["containers"] = json!([]);
    assert_eq!(refusal(api.create(&bare)).0, 422);
}

pub(crate) fn it_refuses_an_outdated_update(api: &ApiServer) {
    let ns = space(api);
    let first = api.create(&config_map(&ns, "a", "1")).unwrap();
    let mut second = first.clone();
    second["data"]["key"] = "2".into();
    let second = api.update(&second).unwrap();
    assert_ne!(version(&first), version(&second));
    let mut late = first;
    late["data"]["key"] = "3".into();
    let (code, reason, message) = refusal(api.update(&late));
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
         changes to the latest version and try again"
    );
    api.update(&config_map(&ns, "a", "4")).unwrap();
}

pub(crate) fn it_wants_a_version_in_a_lease(api: &ApiServer) {
    let ns = space(api);
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "namespace": ns, "name": "leader" },
        "spec": { "holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z" },
    });
    let made = api.create(&lease).unwrap();
    lease["spec"]["holderIdentity"] = "b".into();
    assert_eq!(refusal(api.update(&lease)).0, 422);
    lease["metadata"]["resourceVersion"] = version(&made).into();
    let taken = api.update(&lease).unwrap();
    assert_eq!(taken["spec"]["holderIdentity"], "b");
    assert_eq!(refusal(api.update(&lease)).1, "Conflict");
}

pub(crate) fn it_refuses_the_update_of_another_object(api: &ApiServer) {
    let ns = space(api);
    let mut made = api.create(&config_map(&ns, "a", "1")).unwrap();
    made["metadata"]["uid"] = "00000000-0000-4000-a000-000000000000".into();
    made["metadata"]["resourceVersion"] = Value::Null;
    let (code, reason, message) = refusal(api.update(&made));
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert!(
        message.contains("Precondition failed: UID in precondition"),
        "{message}"
    );
}

pub(crate) fn a_write_that_changes_nothing_makes_no_version(api: &ApiServer) {
    let ns = space(api);
    let made = api.create(&config_map(&ns, "a", "1")).unwrap();
    let same = api
        .patch("configmaps", &ns, "a", &json!({ "data": { "key": "1" } }))
        .unwrap();
    assert_eq!(version(&same), version(&made));
}

pub(crate) fn it_lists_in_pages_of_one_moment(api: &ApiServer) {
    let ns = space(api);
    for name in ["a", "b", "c", "d", "e"] {
        api.create(&config_map(&ns, name, "1")).unwrap();
    }
    let first = api.list_answer("configmaps", &ns, "limit=2").unwrap();
    assert_eq!(first["kind"], "ConfigMapList");
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    assert!(first["items"][0]["kind"].is_null());
    // What happens between the pages is in none of them.
    api.delete("configmaps", &ns, "d").unwrap();
    api.create(&config_map(&ns, "cc", "1")).unwrap();
    let mut names: Vec<_> = first["items"].as_array().unwrap().iter().map(name).collect();
    let mut page = first.clone();
    while let Some(token) = page["metadata"]["continue"]
        .as_str()
        .filter(|token| !token.is_empty())
    {
        let query = format!("limit=2&continue={token}");
        page = api.list_answer("configmaps", &ns, &query).unwrap();
        assert_eq!(version(&page), version(&first));
        names.extend(page["items"].as_array().unwrap().iter().map(name));
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
}

pub(crate) fn it_selects(api: &ApiServer) {
    let ns = space(api);
    for (name, app, node) in [("a", "cart", "n1"), ("b", "cart", "n2"), ("c", "shop", "n1")] {
        let mut pod = pod(&ns, name);
        pod["metadata"]["labels"]["app"] = app.into();
        pod["spec"]["nodeName"] = node.into();
        api.create(&pod).unwrap();
    }
    for (query, expected) in [
        ("labelSelector=app%3Dcart", "a b"),
        ("labelSelector=app%3D%3Dcart", "a b"),
        ("labelSelector=app!%3Dcart", "c"),
        ("labelSelector=app+in+(shop,other)", "c"),
        ("labelSelector=app+notin+(shop)", "a b"),
        ("labelSelector=app", "a b c"),
        ("labelSelector=!app", ""),
        ("labelSelector=app%3Dcart,tier", ""),
        ("fieldSelector=spec.nodeName%3Dn1", "a c"),
        ("fieldSelector=spec.nodeName%3Dn1&labelSelector=app%3Dcart", "a"),
        ("fieldSelector=metadata.name!%3Da,status.phase%3DPending", "b c"),
        ("fieldSelector=metadata.name%3Da", "a"),
    ] {
        let found = api.list_where("pods", &ns, query).unwrap();
        let found: Vec<_> = found.iter().map(name).collect();
        assert_eq!(found.join(" "), expected, "{query}");
    }
    let (code, ..) = refusal(api.list_where("pods", &ns, "fieldSelector=spec.nonsense%3D1"));
    assert_eq!(code, 400);
}

pub(crate) fn it_shows_metadata_only(api: &ApiServer) {
    let ns = space(api);
    api.create(&pod(&ns, "a")).unwrap();
    let path = format!("/api/v1/namespaces/{ns}/pods");
    let one = api.send_accepting(&format!("{path}/a"), PARTIAL).unwrap().body;
    assert_eq!(one["kind"], "PartialObjectMetadata");
    assert_eq!(one["metadata"]["labels"]["app"], "cart");
    assert!(one["spec"].is_null());
    let all = api.send_accepting(&path, PARTIAL_LIST).unwrap().body;
    assert_eq!(all["kind"], "PartialObjectMetadataList");
    assert_eq!(all["items"][0]["kind"], "PartialObjectMetadata");
    assert!(all["items"][0]["spec"].is_null());
}

pub(crate) fn it_tries_out(api: &ApiServer) {
    let ns = space(api);
    let path = format!("/api/v1/namespaces/{ns}/configmaps?dryRun=All");
    let answer = api.send("POST", &path, "application/json", &config_map(&ns, "a", "1"));
    assert_eq!(answer.unwrap().code, 201);
    assert!(api.find("configmaps", &ns, "a").unwrap().is_none());
}

pub(crate) fn it_deletes_under_preconditions(api: &ApiServer) {
    let ns = space(api);
    let made = api.create(&config_map(&ns, "a", "1")).unwrap();
    let wrong = json!({ "preconditions": { "uid": "00000000-0000-4000-a000-000000000000" } });
    let (code, reason, message) = refusal(api.delete_with("configmaps", &ns, "a", &wrong));
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert!(message.contains("the UID in the precondition"), "{message}");
    let outdated = json!({ "preconditions": { "resourceVersion": "1" } });
    let (code, _, message) = refusal(api.delete_with("configmaps", &ns, "a", &outdated));
    assert_eq!(code, 409);
    assert!(
        message.contains("the ResourceVersion in the precondition"),
        "{message}"
    );
    let right =
        json!({ "preconditions": { "uid": made["metadata"]["uid"], "resourceVersion": version(&made) } });
    let status = api.delete_with("configmaps", &ns, "a", &right).unwrap();
    assert_eq!(
        (&status["kind"], &status["status"]),
        (&json!("Status"), &json!("Success"))
    );
    assert_eq!(refusal(api.delete("configmaps", &ns, "a")).0, 404);
}
