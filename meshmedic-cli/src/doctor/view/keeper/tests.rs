// SPDX-License-Identifier: Apache-2.0
use serde_json::{Value, json};

use super::*;
use crate::doctor::finding::{ObjectRef, Remedy};
use crate::doctor::fixtures::{healthy, object};

const VALUE: ChartValue = ChartValue {
    chart: "istiod",
    set: "profile=ambient",
};

fn advice(metadata: Value) -> (Vec<String>, String) {
    let snapshot = healthy();
    let view = View::new(&snapshot);
    let metadata: ObjectMeta = object(metadata);
    let on = Finding::on(ObjectRef::new("Deployment", "istio-system", "istiod"), "p");
    let finding = view.set_value(on, Some(&metadata), VALUE);
    let by_hand = finding.remedy.iter().find_map(|step| match step {
        Remedy::ByHand(what) => Some(what.clone()),
        _ => None,
    });
    (finding.commands(), by_hand.unwrap_or_default())
}

#[test]
fn a_value_is_set_in_the_way_in_which_istio_was_installed() {
    let release = json!({ "meta.helm.sh/release-name": "pilot", "meta.helm.sh/release-namespace": "mesh" });
    let (commands, _) =
        advice(json!({ "annotations": release, "labels": { "helm.sh/chart": "istiod-1.28.3" } }));
    assert_eq!(
        commands,
        ["helm upgrade pilot istio/istiod -n mesh --version 1.28.3 --reuse-values --set 'profile=ambient'"]
    );
    let cases = [
        // Helm, and nothing tells which version.
        (json!({ "annotations": release }), "--version"),
        (
            json!({ "annotations": release, "labels": { "argocd.argoproj.io/instance": "mesh" } }),
            "Argo CD",
        ),
        (
            json!({ "labels": { "helm.toolkit.fluxcd.io/name": "istiod" } }),
            "Flux",
        ),
        (
            json!({ "ownerReferences": [
                { "apiVersion": "sailoperator.io/v1", "kind": "IstioRevision", "name": "default", "uid": "u" },
            ] }),
            "IstioRevision default",
        ),
        (
            json!({ "labels": { "install.operator.istio.io/owning-resource": "x" } }),
            "with all its settings",
        ),
        (json!({}), "in the way in which Istio was installed"),
    ];
    for (metadata, said) in cases {
        let (commands, by_hand) = advice(metadata.clone());
        assert!(commands.is_empty(), "{metadata} {commands:?}");
        assert!(
            by_hand.contains(said) && by_hand.contains("profile=ambient"),
            "{metadata} {by_hand}"
        );
    }
}

#[test]
fn a_release_with_a_name_that_helm_does_not_give_is_none() {
    let release = json!({ "meta.helm.sh/release-name": "x;id", "meta.helm.sh/release-namespace": "mesh" });
    let metadata: ObjectMeta = object(json!({ "annotations": release }));
    assert_eq!(Keeper::of(&metadata), Keeper::Unknown);
}
