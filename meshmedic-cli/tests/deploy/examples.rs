// SPDX-License-Identifier: Apache-2.0
//! The examples for Flux and Argo CD: that what they point at is there, and is of the kind that they say.

use serde_json::Value;

use crate::files::{objects, root};

const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");

/// Whether a path of the repository, as an example writes it, leads to a folder with this file.
#[track_caller]
fn assert_leads_to(path: &Value, file: &str) {
    let path = path.as_str().unwrap().trim_start_matches("./");
    assert!(root().join(path).join(file).is_file(), "{path} has no {file}");
}

#[test]
fn what_flux_is_pointed_at_is_there() {
    for (file, kind) in [
        ("kustomize/examples/flux.yaml", "Kustomization"),
        ("helm/examples/flux.yaml", "HelmRelease"),
    ] {
        let objects = objects(file);
        let source = &objects[0];
        assert_eq!(source["apiVersion"], "source.toolkit.fluxcd.io/v1");
        assert_eq!(source["kind"], "GitRepository");
        assert_eq!(source["spec"]["url"], REPOSITORY);
        let what = &objects[1];
        assert_eq!(what["kind"], kind, "{file}");
        if kind == "Kustomization" {
            assert_eq!(what["apiVersion"], "kustomize.toolkit.fluxcd.io/v1");
            assert_leads_to(&what["spec"]["path"], "kustomization.yaml");
            assert_eq!(what["spec"]["sourceRef"]["name"], source["metadata"]["name"]);
        } else {
            assert_eq!(what["apiVersion"], "helm.toolkit.fluxcd.io/v2");
            let chart = &what["spec"]["chart"]["spec"];
            assert_leads_to(&chart["chart"], "Chart.yaml");
            assert_eq!(chart["sourceRef"]["name"], source["metadata"]["name"]);
            assert_known(&what["spec"]["values"]);
        }
    }
}

#[test]
fn what_argo_cd_is_pointed_at_is_there() {
    for (file, marker) in [
        ("kustomize/examples/argo-cd.yaml", "kustomization.yaml"),
        ("helm/examples/argo-cd.yaml", "Chart.yaml"),
    ] {
        let application = &objects(file)[0];
        assert_eq!(application["apiVersion"], "argoproj.io/v1alpha1");
        assert_eq!(application["kind"], "Application");
        let source = &application["spec"]["source"];
        assert_eq!(source["repoURL"], REPOSITORY);
        assert_leads_to(&source["path"], marker);
        if marker == "Chart.yaml" {
            assert_known(&source["helm"]["valuesObject"]);
        }
    }
}

/// Whether the chart knows these values.
#[track_caller]
fn assert_known(values: &Value) {
    let schema: Value =
        serde_json::from_str(&crate::files::read("helm/meshmedic/values.schema.json")).unwrap();
    for (name, value) in values.as_object().unwrap() {
        let of = &schema["properties"][name]["properties"];
        for key in value.as_object().unwrap().keys() {
            assert!(of[key].is_object(), "{name}.{key}");
        }
    }
}
