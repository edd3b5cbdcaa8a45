// SPDX-License-Identifier: Apache-2.0
//! The self-contained manifest: that it agrees with itself and with the command.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::files::{named, objects, recorded};
use crate::flags::help;

fn manifest() -> Vec<Value> {
    objects("meshmedic-daemonset.yaml")
}

fn daemon_set(objects: &[Value]) -> &Value {
    named(objects, "DaemonSet", "meshmedic")
}

fn container(objects: &[Value]) -> &Value {
    let containers = &daemon_set(objects)["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().map(Vec::len), Some(1));
    &containers[0]
}

fn texts(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no list"))
        .iter()
        .map(|text| text.as_str().expect("it is a list of texts"))
        .collect()
}

#[test]
fn every_flag_and_every_variable_is_one_that_the_agent_takes() {
    let version = format!(":{}", env!("CARGO_PKG_VERSION"));
    for objects in [manifest(), recorded("kustomize-complete"), recorded("helm-other")] {
        let (container, help) = (container(&objects), help());
        let arguments = texts(&container["args"]);
        assert_eq!(arguments[0], "agent");
        for argument in &arguments[1..] {
            let flag = argument.split('=').next().unwrap();
            let taken = help.split_whitespace().any(|word| word == flag);
            assert!(flag.starts_with("--") && taken, "{argument}");
        }
        for variable in container["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            // Those that are no flags.
            let other = ["POD_NAMESPACE", "POD_UID", "MESHMEDIC_LOG"].contains(&name);
            assert!(other || help.contains(&format!("[env: {name}=")), "{name}");
        }
        let image = container["image"].as_str().unwrap();
        assert!(
            image.ends_with(&version) || image.contains("@sha256:"),
            "{image} is of another version"
        );
    }
}

#[test]
fn what_refers_to_something_refers_to_what_is_there() {
    let objects = recorded("kustomize-repair");
    for object in &objects {
        let kind = object["kind"].as_str().unwrap();
        let name = object["metadata"]["name"].as_str().unwrap();
        let cluster_wide =
            kind == "Namespace" || kind.starts_with("Cluster") || kind.starts_with("Validating");
        let namespace = &object["metadata"]["namespace"];
        assert_eq!(namespace.is_null(), cluster_wide, "{kind} {name}");
        assert!(cluster_wide || namespace == "meshmedic", "{kind} {name}");
        if kind == "ValidatingAdmissionPolicyBinding" {
            let policy = object["spec"]["policyName"].as_str().unwrap();
            named(&objects, "ValidatingAdmissionPolicy", policy);
        } else if kind.ends_with("Binding") {
            let role = &object["roleRef"];
            assert_eq!(role["kind"], kind.trim_end_matches("Binding"));
            named(
                &objects,
                role["kind"].as_str().unwrap(),
                role["name"].as_str().unwrap(),
            );
            for subject in object["subjects"].as_array().unwrap() {
                assert_eq!(subject["namespace"], "meshmedic");
                named(&objects, "ServiceAccount", subject["name"].as_str().unwrap());
            }
        }
    }
    let names: BTreeSet<String> = objects
        .iter()
        .map(|object| format!("{}/{}", object["kind"], object["metadata"]["name"]))
        .collect();
    assert_eq!(names.len(), objects.len(), "two have the same name");

    let set = daemon_set(&objects);
    let pod = &set["spec"]["template"]["spec"];
    named(
        &objects,
        "ServiceAccount",
        pod["serviceAccountName"].as_str().unwrap(),
    );
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    let policy = named(&objects, "NetworkPolicy", "meshmedic");
    for selector in [&set["spec"]["selector"], &policy["spec"]["podSelector"]] {
        for (label, value) in selector["matchLabels"].as_object().unwrap() {
            assert_eq!(&labels[label], value);
        }
    }
    let container = container(&objects);
    let volumes = pod["volumes"].as_array().unwrap();
    for mount in container["volumeMounts"].as_array().unwrap() {
        assert!(
            volumes.iter().any(|volume| volume["name"] == mount["name"]),
            "{mount}"
        );
        assert_eq!(mount["readOnly"], true, "{mount}");
    }
    let port = &container["ports"][0];
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], port["name"]);
    }
    assert_eq!(
        policy["spec"]["ingress"][0]["ports"][0]["port"],
        port["containerPort"]
    );
    let annotations = &set["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(
        annotations["prometheus.io/port"],
        port["containerPort"].to_string()
    );
    let host_proc = format!(
        "--host-proc={}",
        container["volumeMounts"][0]["mountPath"].as_str().unwrap()
    );
    assert!(texts(&container["args"]).contains(&host_proc.as_str()));
    assert!(help().contains(&format!("[default: :{}]", port["containerPort"])));
}

/// Whether these objects let anybody evict, delete or change a pod.
fn touches_pods(objects: &[Value]) -> bool {
    let of_pods = |rule: &Value| {
        let resources = texts(&rule["resources"]);
        let writes = |verb: &str| !["get", "list", "watch"].contains(&verb);
        resources.iter().any(|resource| resource.starts_with("pods"))
            && texts(&rule["verbs"]).into_iter().any(writes)
    };
    let rules = objects.iter().filter_map(|object| object["rules"].as_array());
    rules.flatten().any(of_pods)
}

#[test]
fn detecting_gives_no_right_to_change_anything_but_events() {
    for objects in [manifest(), recorded("helm-detect")] {
        let agents = objects
            .iter()
            .filter(|object| object["metadata"]["name"] == "meshmedic-detect");
        for role in agents.filter(|object| object["rules"].is_array()) {
            for rule in role["rules"].as_array().unwrap() {
                let writes = texts(&rule["verbs"])
                    .iter()
                    .any(|verb| !["get", "list", "watch"].contains(verb));
                assert!(!writes || texts(&rule["resources"]) == ["events"], "{rule}");
            }
        }
        let agents: Vec<Value> = objects
            .into_iter()
            .filter(|object| object["metadata"]["name"] != "meshmedic-test")
            .collect();
        assert!(!touches_pods(&agents), "the default deployment detects only");
    }
    assert!(touches_pods(&recorded("kustomize-repair")));
}

/// Each right that a flag needs comes with that flag and with no other.
#[test]
fn the_chart_grants_what_the_flags_need() {
    let rights = |name: &str| -> Vec<String> {
        let objects = recorded(name);
        let of_repairs = |object: &&Value| {
            let name = object["metadata"]["name"].as_str().unwrap();
            object["kind"] == "ClusterRole"
                && ["meshmedic-heal", "meshmedic-restart", "meshmedic-evict"].contains(&name)
        };
        let rules = objects
            .iter()
            .filter(of_repairs)
            .flat_map(|role| role["rules"].as_array().unwrap());
        let rights = rules.flat_map(|rule| {
            let verbs = texts(&rule["verbs"]).join(" ");
            let of = |resource: &str| format!("{resource}: {verbs}");
            texts(&rule["resources"]).into_iter().map(of).collect::<Vec<_>>()
        });
        let mut rights: Vec<String> = rights.collect();
        rights.sort();
        rights
    };
    let repair = [
        "daemonsets: get",
        "endpointslices: get",
        "namespaces: get",
        "nodes: get",
        "pods/eviction: create",
        "pods/status: patch",
        "replicasets: get",
        "statefulsets: get",
    ];
    assert_eq!(rights("helm-repair"), repair);
    let other = [
        "daemonsets: get",
        "endpointslices: get",
        "jobs: get",
        "namespaces: get",
        "nodes: get",
        "pods: delete",
        "replicasets: get",
        "statefulsets: get",
    ];
    assert_eq!(rights("helm-other"), other);
    assert_eq!(rights("helm-detect"), [] as [String; 0]);
}

/// What changes pods is bound in the namespaces that were named, and nowhere else.
#[test]
fn the_chart_can_be_told_where_pods_may_be_changed() {
    let objects = recorded("helm-other");
    let bound = |kind: &str| -> Vec<&Value> {
        let of_kind = objects.iter().filter(|object| object["kind"] == kind);
        of_kind
            .filter(|binding| binding["roleRef"]["name"] == "meshmedic-evict")
            .collect()
    };
    assert!(bound("ClusterRoleBinding").is_empty());
    let namespaces: Vec<&Value> = bound("RoleBinding")
        .iter()
        .map(|binding| &binding["metadata"]["namespace"])
        .collect();
    assert_eq!(namespaces, ["shop"]);
}

#[test]
fn the_agent_has_what_it_needs_of_its_node_and_no_more() {
    let objects = manifest();
    let template = &daemon_set(&objects)["spec"]["template"];
    let (pod, container) = (&template["spec"], container(&objects));
    assert_eq!(pod["hostPID"], true);
    assert!(pod["hostNetwork"].is_null() && container["securityContext"]["privileged"].is_null());
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"][0]["operator"], "Exists");
    assert!(pod["tolerations"][0]["key"].is_null(), "every taint");
    assert_eq!(template["metadata"]["labels"]["istio.io/dataplane-mode"], "none");
    let context = &container["securityContext"];
    assert_eq!(texts(&context["capabilities"]["drop"]), ["ALL"]);
    assert_eq!(
        texts(&context["capabilities"]["add"]),
        ["BPF", "PERFMON", "SYS_PTRACE"]
    );
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let resources = &container["resources"];
    assert_eq!(resources["requests"]["cpu"], "10m");
    assert_eq!(resources["requests"]["memory"], "32Mi");
    assert_eq!(resources["limits"]["memory"], "128Mi");
}

/// The switches that a kernel, a runtime or a security module may ask for.
#[test]
fn the_chart_can_be_told_what_a_node_asks_for() {
    let objects = recorded("helm-other");
    let pod = &daemon_set(&objects)["spec"]["template"]["spec"];
    let added = &container(&objects)["securityContext"]["capabilities"]["add"];
    assert_eq!(texts(added), ["BPF", "PERFMON", "SYS_PTRACE", "SYS_ADMIN"]);
    let context = &pod["securityContext"];
    assert_eq!(context["appArmorProfile"]["type"], "Unconfined");
    assert_eq!(context["seLinuxOptions"]["type"], "spc_t");
    assert_eq!(context["seccompProfile"]["type"], "Localhost");
    assert_eq!(pod["serviceAccountName"], "healer");
    let binding = named(&objects, "ClusterRoleBinding", "meshmedic-restart");
    assert_eq!(binding["subjects"][0]["name"], "healer");
}
