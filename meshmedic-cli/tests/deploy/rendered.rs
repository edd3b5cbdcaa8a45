// SPDX-License-Identifier: Apache-2.0
//! The three ways to install, held against one another.

use std::collections::BTreeMap;

use meshmedic_lab::need;
use serde_json::Value;

use crate::files::{RENDERINGS, assert_same, objects, read, recorded, update};

const MANIFEST: &str = "\
# SPDX-License-Identifier: Apache-2.0
# MeshMedic on every node of a cluster: detects, and changes nothing.
#
#   kubectl apply -f deploy/meshmedic-daemonset.yaml
#
# To let it repair, and for other ways to install it, see README.md beside this file. These are the files of
# kustomize/base, put together by a test with UPDATE_GOLDEN=1: change them there.
";
const SPDX: &str = "# SPDX-License-Identifier: Apache-2.0\n";

#[test]
fn the_manifest_is_the_base_in_one_file() {
    let base: Value = serde_saphyr::from_str(&read("kustomize/base/kustomization.yaml")).unwrap();
    // Nothing but these keys, or putting the files together would not be what kustomize does.
    let keys: Vec<&String> = base.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["apiVersion", "kind", "resources"]);
    let mut text = MANIFEST.to_owned();
    for (at, file) in base["resources"].as_array().unwrap().iter().enumerate() {
        if at > 0 {
            text += "---\n";
        }
        let part = read(&format!("kustomize/base/{}", file.as_str().unwrap()));
        text += part.strip_prefix(SPDX).expect("each file names its licence");
    }
    assert_same("deploy/meshmedic-daemonset.yaml", &text);
}

#[test]
fn what_kustomize_makes_is_what_was_recorded() {
    if need::kubectl("what_kustomize_makes_is_what_was_recorded") {
        rendered_by("kubectl");
    }
}

#[test]
fn what_helm_makes_is_what_was_recorded() {
    if need::helm("what_helm_makes_is_what_was_recorded") {
        rendered_by("helm");
    }
}

fn rendered_by(program: &str) {
    for rendering in RENDERINGS.iter().filter(|rendering| rendering.program == program) {
        let objects = rendering.render();
        if update() {
            rendering.record(&objects);
        }
        assert_eq!(objects, rendering.recorded(), "{}", rendering.name);
    }
}

/// Labels that tell of Helm and not of MeshMedic.
const HELMS: [&str; 4] = [
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
];

/// Objects by what they are, without what tells only how they were made, and without those of `helm test`.
fn plain(objects: &[Value]) -> BTreeMap<String, Value> {
    let mut plain = BTreeMap::new();
    for object in objects {
        if !object["metadata"]["annotations"]["helm.sh/hook"].is_null() {
            continue;
        }
        let mut object = object.clone();
        if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
            for label in HELMS {
                labels.remove(label);
            }
        }
        // The order of variables, of which none refers to another, tells only who added them.
        let containers = object.pointer_mut("/spec/template/spec/containers");
        for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(variables) = container["env"].as_array_mut() {
                variables.sort_by_key(|variable| variable["name"].to_string());
            }
        }
        let name = format!("{}/{}", object["kind"], object["metadata"]["name"]);
        assert!(
            plain.insert(name.clone(), object).is_none(),
            "{name} is there twice"
        );
    }
    plain
}

#[track_caller]
fn assert_equal(one: &[Value], other: &[Value]) {
    let (one, other) = (plain(one), plain(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, object) in &one {
        assert_eq!(object, &other[name], "{name}");
    }
}

#[test]
fn whichever_way_it_is_installed_the_same_comes_out() {
    let manifest = objects("meshmedic-daemonset.yaml");
    assert_equal(&manifest, &recorded("helm-detect"));
    assert_equal(&recorded("kustomize-repair"), &recorded("helm-repair"));
    assert_equal(&recorded("kustomize-complete"), &recorded("helm-complete"));
    // What repairs adds, and what it changes of what was there.
    let (base, repair) = (plain(&manifest), plain(&recorded("kustomize-repair")));
    let changed: Vec<&String> = base.keys().filter(|name| base[*name] != repair[*name]).collect();
    assert_eq!(changed, ["\"DaemonSet\"/\"meshmedic\""]);
    let added: Vec<&String> = repair.keys().filter(|name| !base.contains_key(*name)).collect();
    let of_repairs = [
        "meshmedic-heal",
        "meshmedic-heals",
        "meshmedic-restart",
        "meshmedic-evict",
    ];
    let named = |name: &&&String| of_repairs.iter().any(|of| name.ends_with(&format!("/\"{of}\"")));
    // The roles with their bindings, the policies with theirs, and the Lease of the heals' breaker.
    assert_eq!(
        (added.len(), added.iter().filter(named).count()),
        (15, 15),
        "{added:?}"
    );
}

#[test]
fn the_chart_carries_the_same_files_as_the_kustomization() {
    for (copy, original) in [
        ("cli-roles.yaml", "cli/roles.yaml"),
        ("dashboard.json", "monitoring/dashboard.json"),
        ("flow.yaml", "flow/flow.yaml"),
        ("gate-policy.yaml", "gate-policy/policy.yaml"),
        ("node-condition.yaml", "node-condition/policy.yaml"),
        ("policies.yaml", "repair/policies.yaml"),
        ("prometheus-rule.yaml", "monitoring/prometheus-rule.yaml"),
    ] {
        let copy = format!("deploy/helm/meshmedic/files/{copy}");
        assert_same(&copy, &read(&format!("kustomize/{original}")));
    }
}
