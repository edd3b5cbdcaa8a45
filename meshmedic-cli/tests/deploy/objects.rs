// SPDX-License-Identifier: Apache-2.0
//! Every object, held against the types of its API: a field that is misspelt or in the wrong place is lost there.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use meshmedic_lab::{ApiServer, need};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{RENDERINGS, objects, recorded};

/// What the Prometheus operator's API has of what is used here.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Custom<S> {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    spec: S,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodMonitorSpec {
    selector: LabelSelector,
    pod_metrics_endpoints: Vec<Endpoint>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Endpoint {
    port: String,
    interval: String,
    relabelings: Vec<Relabeling>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Relabeling {
    source_labels: Vec<String>,
    target_label: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleSpec {
    groups: Vec<Group>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Alert>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Alert {
    alert: String,
    expr: String,
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    lasting: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// Everything that anybody may install.
fn all() -> Vec<Value> {
    let mut all = objects("meshmedic-daemonset.yaml");
    for file in ["rights-heal", "rights-restart", "policies"] {
        all.extend(objects(&format!("kustomize/repair/{file}.yaml")));
    }
    all.extend(objects("kustomize/cli/roles.yaml"));
    all.extend(RENDERINGS.iter().flat_map(|rendering| recorded(rendering.name)));
    all
}

fn round<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, serde_json::Error> {
    serde_json::from_value::<T>(object.clone()).and_then(serde_json::to_value)
}

fn through_its_type(object: &Value) -> Result<Value, serde_json::Error> {
    match object["kind"].as_str().unwrap() {
        "ClusterRole" => round::<ClusterRole>(object),
        "ClusterRoleBinding" => round::<ClusterRoleBinding>(object),
        "ConfigMap" => round::<ConfigMap>(object),
        "DaemonSet" => round::<DaemonSet>(object),
        "FlowSchema" => round::<FlowSchema>(object),
        "Lease" => round::<Lease>(object),
        "Namespace" => round::<Namespace>(object),
        "NetworkPolicy" => round::<NetworkPolicy>(object),
        "Pod" => round::<Pod>(object),
        "PodMonitor" => round::<Custom<PodMonitorSpec>>(object),
        "PriorityLevelConfiguration" => round::<PriorityLevelConfiguration>(object),
        "PrometheusRule" => round::<Custom<RuleSpec>>(object),
        "Role" => round::<Role>(object),
        "RoleBinding" => round::<RoleBinding>(object),
        "ServiceAccount" => round::<ServiceAccount>(object),
        "ValidatingAdmissionPolicy" => round::<ValidatingAdmissionPolicy>(object),
        "ValidatingAdmissionPolicyBinding" => round::<ValidatingAdmissionPolicyBinding>(object),
        kind => panic!("nothing is known here of a {kind}"),
    }
}

#[test]
fn every_object_comes_through_its_type_unchanged() {
    for object in all() {
        let found = through_its_type(&object).unwrap_or_else(|error| panic!("{error}: {object:#}"));
        assert_eq!(found, object);
    }
}

#[test]
fn a_field_that_does_not_exist_is_noticed() {
    let mut manifest = objects("meshmedic-daemonset.yaml");
    let set = manifest
        .iter_mut()
        .find(|object| object["kind"] == "DaemonSet")
        .unwrap();
    set["spec"]["template"]["spec"]["hostPid"] = true.into();
    assert_ne!(&through_its_type(set).unwrap(), set);
    let mut complete = recorded("helm-complete");
    let rule = complete
        .iter_mut()
        .find(|object| object["kind"] == "PrometheusRule")
        .unwrap();
    rule["spec"]["groups"][0]["rules"][0]["forr"] = "5m".into();
    assert!(through_its_type(rule).is_err());
}

fn applied_to(api: &ApiServer, what: impl Debug) {
    // Where pods may be changed, as the values of one recording say.
    api.apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")
        .unwrap();
    for object in all() {
        // Of the operator's kinds no server here knows anything, nor of namespaces of other releases.
        if object["apiVersion"] == "monitoring.coreos.com/v1" {
            continue;
        }
        let applied = api.apply(&object);
        applied.unwrap_or_else(|error| panic!("{what:?}: {error}: {object:#}"));
    }
}

#[test]
fn the_labs_api_server_takes_every_object() {
    applied_to(&ApiServer::start().unwrap(), "the lab's");
}

#[test]
fn the_real_api_server_takes_every_object() {
    if !need::real_apiserver("the_real_api_server_takes_every_object") {
        return;
    }
    let api = ApiServer::real().unwrap();
    applied_to(&api, "the real one");
    // It would not take just anything.
    let mut set = objects("meshmedic-daemonset.yaml").pop().unwrap();
    assert_eq!(set["kind"], "DaemonSet");
    set["spec"]["template"]["spec"]["hostPid"] = true.into();
    let refused = api.apply(&set).unwrap_err().to_string();
    assert!(refused.contains("hostPid"), "{refused}");
}
