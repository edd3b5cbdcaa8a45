// SPDX-License-Identifier: Apache-2.0
//! The manifests in `deploy/`: that they can be read, agree with themselves, and with the command.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn documents(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
    let text = std::fs::read_to_string(&path).expect("the manifest is there");
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn all() -> Vec<Value> {
    [documents("manifest.yaml"), documents("repair.yaml")].concat()
}

fn named<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    documents
        .iter()
        .find(|document| document["kind"] == kind && document["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn daemon_set(documents: &[Value]) -> &Value {
    named(documents, "DaemonSet", "meshmedic")
}

fn container(documents: &[Value]) -> &Value {
    let containers = &daemon_set(documents)["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().map(Vec::len), Some(1));
    &containers[0]
}

fn help() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_meshmedic"))
        .args(["agent", "--help"])
        .output()
        .expect("the binary was built beside this test");
    String::from_utf8(output.stdout).expect("what we write is text")
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
    let documents = documents("manifest.yaml");
    let (container, help) = (container(&documents), help());
    let arguments = texts(&container["args"]);
    assert_eq!(arguments[0], "agent");
    for argument in &arguments[1..] {
        let flag = argument.split('=').next().unwrap();
        let taken = help.split_whitespace().any(|word| word == flag);
        assert!(flag.starts_with("--") && taken, "{argument}");
    }
    for variable in container["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        // The one that is no flag.
        assert!(
            name == "POD_NAMESPACE" || help.contains(&format!("[env: {name}=")),
            "{name}"
        );
    }
    let image = container["image"].as_str().unwrap();
    let version = format!(":{}", env!("CARGO_PKG_VERSION"));
    assert!(image.ends_with(&version), "{image} is of another version");
}

#[test]
fn what_refers_to_something_refers_to_what_is_there() {
    let documents = all();
    for document in &documents {
        let kind = document["kind"].as_str().unwrap();
        let name = document["metadata"]["name"].as_str().unwrap();
        let cluster_wide = ["Namespace", "ClusterRole", "ClusterRoleBinding"].contains(&kind);
        let namespace = &document["metadata"]["namespace"];
        assert_eq!(namespace.is_null(), cluster_wide, "{kind} {name}");
        assert!(cluster_wide || namespace == "meshmedic", "{kind} {name}");
        if kind.ends_with("Binding") {
            let role = &document["roleRef"];
            assert_eq!(role["kind"], kind.trim_end_matches("Binding"));
            named(
                &documents,
                role["kind"].as_str().unwrap(),
                role["name"].as_str().unwrap(),
            );
            for subject in document["subjects"].as_array().unwrap() {
                assert_eq!(subject["namespace"], "meshmedic");
                named(&documents, "ServiceAccount", subject["name"].as_str().unwrap());
            }
        }
    }
    let names: BTreeSet<String> = documents
        .iter()
        .map(|document| format!("{}/{}", document["kind"], document["metadata"]["name"]))
        .collect();
    assert_eq!(names.len(), documents.len(), "two have the same name");

    let set = daemon_set(&documents);
    let pod = &set["spec"]["template"]["spec"];
    named(
        &documents,
        "ServiceAccount",
        pod["serviceAccountName"].as_str().unwrap(),
    );
    for (label, value) in set["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&set["spec"]["template"]["metadata"]["labels"][label], value);
    }
    let container = container(&documents);
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

/// What a ClusterRole or Role allows, as `verb group/resource/name`.
fn rights(role: &Value) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().expect("a role has rules") {
        let names = if rule["resourceNames"].is_null() {
            vec!["*"]
        } else {
            texts(&rule["resourceNames"])
        };
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    for name in &names {
                        rights.insert(format!("{verb} {group}/{resource} {name}"));
                    }
                }
            }
        }
    }
    rights
}

fn expected(rules: &[(&str, &str)]) -> BTreeSet<String> {
    rules
        .iter()
        .flat_map(|(verbs, what)| verbs.split(' ').map(move |verb| format!("{verb} {what}")))
        .collect()
}

#[test]
fn detecting_gives_no_right_to_change_anything_but_events() {
    let documents = documents("manifest.yaml");
    assert_eq!(
        rights(named(&documents, "ClusterRole", "meshmedic-detect")),
        expected(&[
            ("get list watch", "/pods *"),
            ("get list watch", "/namespaces *"),
            ("get list watch", "/nodes *"),
            ("get list watch", "discovery.k8s.io/endpointslices *"),
            ("get", "/configmaps istio-cni-config"),
            ("create", "events.k8s.io/events *"),
        ])
    );
    assert_eq!(
        rights(named(&documents, "Role", "meshmedic-detect")),
        expected(&[("get list watch", "/configmaps meshmedic-control")])
    );
    assert_eq!(
        rights(named(&documents, "ClusterRole", "meshmedic-repair")),
        expected(&[("create", "/pods/eviction *")])
    );
    assert_eq!(
        rights(named(&documents, "Role", "meshmedic-repair")),
        expected(&[(
            "get list watch create update delete",
            "coordination.k8s.io/leases *"
        )])
    );
    for document in &documents {
        let repairs = document["roleRef"]["name"] == "meshmedic-repair";
        assert!(!repairs, "the default deployment detects only");
    }
}

#[test]
fn the_agent_has_what_it_needs_of_its_node_and_no_more() {
    let documents = documents("manifest.yaml");
    let template = &daemon_set(&documents)["spec"]["template"];
    let (pod, container) = (&template["spec"], container(&documents));
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
