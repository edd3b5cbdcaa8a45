// SPDX-License-Identifier: Apache-2.0
//! How pods go.

use meshmedic_lab::ApiServer;
use serde_json::{Value, json};

use crate::common::{details, pod, refusal, running, space, version};

const STRANGER: &str = "00000000-0000-4000-a000-000000000000";

pub(crate) fn an_unscheduled_pod_goes_at_once(api: &ApiServer) {
    let ns = space(api);
    api.create(&pod(&ns, "a")).unwrap();
    api.delete("pods", &ns, "a").unwrap();
    assert!(api.find("pods", &ns, "a").unwrap().is_none());
}

pub(crate) fn a_running_pod_goes_in_two_steps(api: &ApiServer) {
    let ns = space(api);
    running(api, &ns, "a", true);
    let answer = api.delete("pods", &ns, "a").unwrap();
    assert_eq!(answer["kind"], "Pod");
    let going = api.get("pods", &ns, "a").unwrap();
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let longer = json!({ "gracePeriodSeconds": 60 });
    let again = api.delete_with("pods", &ns, "a", &longer).unwrap();
    assert_eq!(again["metadata"]["deletionGracePeriodSeconds"], 30);
    let now = json!({ "gracePeriodSeconds": 0 });
    api.delete_with("pods", &ns, "a", &now).unwrap();
    assert!(api.find("pods", &ns, "a").unwrap().is_none());
}

pub(crate) fn it_binds_once(api: &ApiServer) {
    let ns = space(api);
    api.create(&pod(&ns, "a")).unwrap();
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": { "name": "a" },
        "target": { "kind": "Node", "name": "node-a" },
    });
    api.post("pods/binding", &ns, "a", &binding).unwrap();
    let bound = api.get("pods", &ns, "a").unwrap();
    assert_eq!(bound["spec"]["nodeName"], "node-a");
    assert_eq!(refusal(api.post("pods/binding", &ns, "a", &binding)).0, 409);
}

pub(crate) fn an_eviction_keeps_its_preconditions(api: &ApiServer) {
    let ns = space(api);
    let pod = running(api, &ns, "a", true);
    let stranger = json!({ "preconditions": { "uid": STRANGER } });
    let (code, reason, _) = refusal(api.evict(&ns, "a", &stranger));
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    let outdated = json!({ "preconditions": { "resourceVersion": "1" } });
    assert_eq!(refusal(api.evict(&ns, "a", &outdated)).0, 409);
    assert!(api.get("pods", &ns, "a").unwrap()["metadata"]["deletionTimestamp"].is_null());
    let right =
        json!({ "preconditions": { "uid": pod["metadata"]["uid"], "resourceVersion": version(&pod) } });
    let status = api.evict(&ns, "a", &right).unwrap();
    assert_eq!(
        (&status["status"], &status["code"]),
        (&json!("Success"), &json!(201))
    );
    assert!(api.get("pods", &ns, "a").unwrap()["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(refusal(api.evict(&ns, "b", &Value::Null)).0, 404);
}

pub(crate) fn an_eviction_ignores_what_it_does_not_know(api: &ApiServer) {
    let ns = space(api);
    running(api, &ns, "a", true);
    let eviction = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": { "namespace": ns, "name": "a" },
        "delete_options": { "preconditions": { "uid": STRANGER } },
    });
    api.post("pods/eviction", &ns, "a", &eviction).unwrap();
    assert!(api.get("pods", &ns, "a").unwrap()["metadata"]["deletionTimestamp"].is_string());
}

/// Makes a budget over `app=cart`, and waits for no controller: on the real server its status is written here.
fn budget(api: &ApiServer, ns: &str, name: &str, spec: Value, [healthy, desired, allowed]: [i64; 3]) {
    let mut made = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": { "namespace": ns, "name": name },
        "spec": spec,
    });
    made["spec"]["selector"] = json!({ "matchLabels": { "app": "cart" } });
    let mut made = api.create(&made).unwrap();
    if api.is_real() {
        made["status"] = json!({
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "disruptionsAllowed": allowed,
            "expectedPods": 2,
            "observedGeneration": 1,
        });
        api.update_status(&made).unwrap();
    }
    let status = api.get("poddisruptionbudgets", ns, name).unwrap()["status"].clone();
    assert_eq!(
        (
            &status["currentHealthy"],
            &status["desiredHealthy"],
            &status["disruptionsAllowed"]
        ),
        (&json!(healthy), &json!(desired), &json!(allowed))
    );
}

pub(crate) fn a_budget_refuses(api: &ApiServer) {
    let ns = space(api);
    running(api, &ns, "a", true);
    running(api, &ns, "b", true);
    budget(api, &ns, "cart", json!({ "minAvailable": 2 }), [2, 2, 0]);
    let (code, reason, message) = refusal(api.evict(&ns, "a", &Value::Null));
    assert_eq!((code, reason.as_str()), (429, "TooManyRequests"));
    assert_eq!(
        message,
        "Cannot evict pod as it would violate the pod's disruption budget."
    );
    assert_eq!(
        details(api.evict(&ns, "a", &Value::Null))["causes"],
        json!([{
            "reason": "DisruptionBudget",
            "message": "The disruption budget cart needs 2 healthy pods and has 2 currently",
        }])
    );
    assert!(api.get("pods", &ns, "a").unwrap()["metadata"]["deletionTimestamp"].is_null());
    api.delete("poddisruptionbudgets", &ns, "cart").unwrap();
    budget(api, &ns, "cart", json!({ "minAvailable": 1 }), [2, 1, 1]);
    api.evict(&ns, "a", &Value::Null).unwrap();
    // The first one used it up, though its pod is still going.
    assert_eq!(refusal(api.evict(&ns, "b", &Value::Null)).0, 429);
}

pub(crate) fn an_unready_pod_goes_by_its_budget(api: &ApiServer) {
    let ns = space(api);
    running(api, &ns, "a", true);
    running(api, &ns, "b", false);
    budget(api, &ns, "cart", json!({ "minAvailable": 2 }), [1, 2, 0]);
    assert_eq!(refusal(api.evict(&ns, "b", &Value::Null)).0, 429);
    api.delete("poddisruptionbudgets", &ns, "cart").unwrap();
    let always = json!({ "minAvailable": 2, "unhealthyPodEvictionPolicy": "AlwaysAllow" });
    budget(api, &ns, "cart", always, [1, 2, 0]);
    assert_eq!(refusal(api.evict(&ns, "a", &Value::Null)).0, 429);
    api.evict(&ns, "b", &Value::Null).unwrap();
    api.delete("poddisruptionbudgets", &ns, "cart").unwrap();
    running(api, &ns, "c", false);
    budget(api, &ns, "cart", json!({ "minAvailable": 1 }), [1, 1, 0]);
    api.evict(&ns, "c", &Value::Null).unwrap();
}

pub(crate) fn two_budgets_are_one_too_many(api: &ApiServer) {
    let ns = space(api);
    running(api, &ns, "a", true);
    budget(api, &ns, "one", json!({ "minAvailable": 0 }), [1, 0, 1]);
    budget(api, &ns, "two", json!({ "minAvailable": 0 }), [1, 0, 1]);
    let (code, _, message) = refusal(api.evict(&ns, "a", &Value::Null));
    assert_eq!(code, 500);
    assert!(message.contains("more than one PodDisruptionBudget"), "{message}");
}
