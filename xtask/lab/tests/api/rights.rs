// SPDX-License-Identifier: Apache-2.0
//! Who may do what.

use meshmedic_lab::{ApiServer, api::Client};
use serde_json::{Value, json};

use crate::common::{pod, refusal, running, space};

fn account(api: &ApiServer, ns: &str) -> Client {
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "namespace": ns, "name": "agent" },
    });
    api.create(&account).unwrap();
    api.client_of(ns, "agent").unwrap()
}

/// Lets the account do what one rule says: in its namespace or everywhere.
fn grant(api: &ApiServer, ns: &str, everywhere: bool, rule: &Value) {
    let prefix = if everywhere { "Cluster" } else { "" };
    let name = format!("agent-{ns}");
    api.apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": format!("{prefix}Role"),
        "metadata": { "namespace": ns, "name": name },
        "rules": [rule],
    }))
    .unwrap();
    api.apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": format!("{prefix}RoleBinding"),
        "metadata": { "namespace": ns, "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": format!("{prefix}Role"), "name": name },
        "subjects": [{ "kind": "ServiceAccount", "namespace": ns, "name": "agent" }],
    }))
    .unwrap();
}

pub(crate) fn it_denies_in_the_real_words(api: &ApiServer) {
    let ns = space(api);
    let agent = account(api, &ns);
    let user = format!("system:serviceaccount:{ns}:agent");
    let (code, reason, message) = refusal(agent.list("pods", ""));
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        message,
        format!(
            "pods is forbidden: User \"{user}\" cannot list resource \"pods\" in API group \"\" at the cluster scope"
        )
    );
    let (_, _, message) = refusal(agent.get("leases", &ns, "leader"));
    assert_eq!(
        message,
        format!(
            "leases.coordination.k8s.io \"leader\" is forbidden: User \"{user}\" cannot get resource \"leases\" in \
             API group \"coordination.k8s.io\" in the namespace \"{ns}\""
        )
    );
    let (_, _, message) = refusal(agent.evict(&ns, "a", &Value::Null));
    assert!(
        message.contains("cannot create resource \"pods/eviction\" in API group \"\""),
        "{message}"
    );
}

pub(crate) fn it_grants_what_roles_say(api: &ApiServer) {
    let ns = space(api);
    let agent = account(api, &ns);
    api.create(&pod(&ns, "a")).unwrap();
    let rule =
        json!({ "apiGroups": [""], "resources": ["pods"], "verbs": ["list", "get"], "resourceNames": ["a"] });
    grant(api, &ns, false, &rule);
    let granted = || agent.get("pods", &ns, "a").is_ok();
    meshmedic_lab::wait::until("the role to be seen", crate::watches::SOON, granted).unwrap();
    assert_eq!(refusal(agent.get("pods", &ns, "b")).0, 403);
    assert_eq!(refusal(agent.list("pods", &ns)).0, 403);
    assert_eq!(
        agent
            .list_where("pods", &ns, "fieldSelector=metadata.name%3Da")
            .unwrap()
            .len(),
        1
    );
    running(api, &ns, "b", true);
    let rule = json!({ "apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"] });
    grant(api, &ns, true, &rule);
    let granted = || agent.evict(&ns, "b", &Value::Null).is_ok();
    meshmedic_lab::wait::until("the role to be seen", crate::watches::SOON, granted).unwrap();
    assert_eq!(refusal(agent.delete("pods", &ns, "a")).0, 403);
}

pub(crate) fn it_answers_reviews(api: &ApiServer) {
    let ns = space(api);
    let agent = account(api, &ns);
    grant(
        api,
        &ns,
        true,
        &json!({ "apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"] }),
    );
    let allowed = |verb: &str, below: &str| {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": { "verb": verb, "resource": "pods", "subresource": below } },
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer = agent.send("POST", path, "application/json", &review).unwrap();
        assert_eq!(answer.code, 201);
        answer.body["status"]["allowed"] == true
    };
    let granted = || allowed("create", "eviction");
    meshmedic_lab::wait::until("the role to be seen", crate::watches::SOON, granted).unwrap();
    assert!(!allowed("create", ""));
    assert!(!allowed("get", "eviction"));
}

pub(crate) fn it_knows_no_strangers(api: &ApiServer) {
    let (code, reason, _) = refusal(api.with_token("nobody").list("pods", ""));
    assert_eq!((code, reason.as_str()), (401, "Unauthorized"));
}
