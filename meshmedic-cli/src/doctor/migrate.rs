// SPDX-License-Identifier: Apache-2.0
//! What would stop working if a namespace moved from sidecars to ambient mode, object by object.
//!
//! The move is made in the snapshot, and every check judges what comes of it: what is found there and not before is what
//! would stop working.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meshmedic_common::facts::Labels;
use meshmedic_common::facts::{REDIRECTION, SIDECAR};

use super::check::Check;
use super::report::{DoctorReport, Suppression};
use super::snapshot::{Part, Scope, Snapshot};
use super::view::View;

/// The kind of the report.
const KIND: &str = "AmbientMigration";
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// Labels by which a namespace or a pod asks for sidecars.
const FOR_SIDECARS: [&str; 3] = ["istio-injection", "istio.io/rev", "sidecar.istio.io/inject"];
/// What the injector adds to a pod.
const INJECTED: [&str; 3] = ["istio-proxy", "istio-init", "istio-validation"];

/// Judges the move of a namespace.
pub(crate) fn judge<'c>(
    snapshot: &Snapshot,
    namespace: &str,
    checks: impl Iterator<Item = &'c Check> + Clone,
    suppressions: &[Suppression],
) -> DoctorReport {
    let scope = Scope {
        namespace: Some(namespace.to_owned()),
        pods: Vec::new(),
    };
    let mut now = snapshot.clone();
    now.scope = scope.clone();
    let mut then = moved(snapshot, namespace);
    then.scope = scope;
    let before = DoctorReport::judge(&now, checks.clone(), &[]);
    DoctorReport::judge(&then, checks, suppressions)
        .without(&before)
        .called(KIND)
}

/// The cluster as it would be, as far as that can be foretold.
fn moved(snapshot: &Snapshot, namespace: &str) -> Snapshot {
    let mut moved = snapshot.clone();
    let ztunnel = View::new(snapshot).ztunnel_sets().next().is_none();
    if let Part::Had(all) = &mut moved.namespaces {
        for of in all
            .iter_mut()
            .filter(|of| of.metadata.name.as_deref() == Some(namespace))
        {
            let labels = of.metadata.labels.get_or_insert_default();
            without_sidecars(labels);
            labels.insert(DATAPLANE_MODE.to_owned(), "ambient".to_owned());
        }
    }
    if let Part::Had(all) = &mut moved.pods {
        let here = all
            .iter_mut()
            .filter(|pod| pod.metadata.namespace.as_deref() == Some(namespace));
        here.for_each(capture);
    }
    // What is judged is what ambient mode would do, whether it is installed already or not.
    if ztunnel && let Part::Had(sets) = &mut moved.daemon_sets {
        sets.push(expected_ztunnel(&View::new(snapshot).istio));
    }
    // What has not happened nobody has seen.
    let why = format!("namespace {namespace} has not moved yet");
    moved.ztunnels = Part::not_asked(why.clone());
    moved.scan = Part::not_asked(why.clone());
    moved.agents = Part::not_asked(why.clone());
    moved.reach = Part::not_asked(why.clone());
    moved.events = Part::not_asked(why);
    moved
}

fn without_sidecars(labels: &mut Labels) {
    labels.retain(|key, _| !FOR_SIDECARS.contains(&key.as_str()));
}

/// A pod with a sidecar, as it is made anew without one. Whatever had none, such as a Job, is captured as well.
fn capture(pod: &mut Pod) {
    let Some(spec) = pod.spec.as_mut() else {
        return;
    };
    if let Some(labels) = pod.metadata.labels.as_mut() {
        // A gateway keeps its proxy: it is not injected because of the namespace.
        if labels
            .get("sidecar.istio.io/inject")
            .is_some_and(|value| value == "true")
            && spec.containers.len() == 1
        {
            return;
        }
        without_sidecars(labels);
        if labels.get(DATAPLANE_MODE).is_some_and(|mode| mode == "none") {
            return;
        }
    }
    if spec.host_network == Some(true) {
        return;
    }
    let injected = |name: &str| INJECTED.contains(&name);
    // A proxy alone is a gateway's.
    if spec.containers.iter().any(|container| !injected(&container.name)) {
        spec.containers.retain(|container| !injected(&container.name));
        if let Some(containers) = spec.init_containers.as_mut() {
            containers.retain(|container| !injected(&container.name));
        }
    }
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.remove(SIDECAR);
    annotations.insert(REDIRECTION.to_owned(), "enabled".to_owned());
}

fn expected_ztunnel(istio: &str) -> DaemonSet {
    let labels: Labels = [("app".to_owned(), "ztunnel".to_owned())].into();
    let mut set = DaemonSet {
        metadata: ObjectMeta {
            namespace: Some(istio.to_owned()),
            name: Some("ztunnel".to_owned()),
            ..ObjectMeta::default()
        },
        ..DaemonSet::default()
    };
    let spec = set.spec.get_or_insert_default();
    spec.template.metadata.get_or_insert_default().labels = Some(labels);
    set
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{DoctorReport, judge};
    use crate::doctor::check::Severity;
    use crate::doctor::checks;
    use crate::doctor::fixtures::{annotate, had, healthy};
    use crate::doctor::snapshot::Snapshot;

    fn migrate(snapshot: &Snapshot) -> DoctorReport {
        judge(
            snapshot,
            "legacy",
            checks::all().collect::<Vec<_>>().into_iter(),
            &[],
        )
    }

    /// What would stop working, as `MM1202 RequestAuthentication legacy/tokens`.
    fn stops(report: &DoctorReport) -> Vec<String> {
        let found = report.checks.iter().flat_map(|check| {
            check
                .findings
                .iter()
                .map(move |finding| format!("{} {}", check.code, finding.object))
        });
        found.collect()
    }

    #[test]
    fn a_namespace_that_needs_nothing_of_sidecars_may_go() {
        let report = migrate(&healthy());
        assert_eq!(stops(&report), Vec::<String>::new());
        assert_eq!(report.code(Severity::Info), 0);
        assert_eq!(serde_json::to_value(&report).unwrap()["kind"], "AmbientMigration");
    }

    #[test]
    fn what_only_a_sidecar_does_is_named_object_by_object() {
        let mut snapshot = healthy();
        let selector = json!({ "matchLabels": { "app": "orders" } });
        snapshot.add_custom(
            "authorizationpolicies.security.istio.io",
            "legacy",
            "paths",
            json!({
                "selector": selector, "rules": [{ "to": [{ "operation": { "paths": ["/orders/*"] } }] }],
            }),
        );
        snapshot.add_custom(
            "requestauthentications.security.istio.io",
            "legacy",
            "tokens",
            json!({ "selector": selector }),
        );
        snapshot.add_custom(
            "envoyfilters.networking.istio.io",
            "legacy",
            "lua",
            json!({ "workloadSelector": { "labels": { "app": "orders" } } }),
        );
        snapshot.add_custom("sidecars.networking.istio.io", "legacy", "default", json!({}));
        snapshot.add_custom("virtualservices.networking.istio.io", "legacy", "retries", json!({
            "hosts": ["orders"], "http": [{ "retries": { "attempts": 3 }, "route": [{ "destination": { "host": "orders" } }] }],
        }));
        had(&mut snapshot.network_policies).push(crate::doctor::fixtures::object(json!({
            "metadata": { "namespace": "legacy", "name": "web" },
            "spec": { "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{ "ports": [{ "port": 8080 }] }] },
        })));
        for letter in ["a", "b", "c"] {
            snapshot.with_pod("legacy", &format!("orders-7d4b-{letter}"), |pod| {
                annotate(pod, "traffic.sidecar.istio.io/excludeInboundPorts", "9000");
            });
        }
        let stops = stops(&migrate(&snapshot));
        for expected in [
            "MM0501 NetworkPolicy legacy/web",
            "MM0602 AuthorizationPolicy legacy/paths",
            "MM0703 VirtualService legacy/retries",
            "MM1202 RequestAuthentication legacy/tokens",
            "MM1203 EnvoyFilter legacy/lua",
            "MM1203 Sidecar legacy/default",
            "MM1206 Pod legacy/orders-7d4b-a",
        ] {
            assert!(
                stops.iter().any(|one| one == expected),
                "{expected} is not among {stops:#?}"
            );
        }
    }

    #[test]
    fn what_is_wrong_already_is_no_matter_of_the_move() {
        let mut snapshot = healthy();
        snapshot.add_custom("virtualservices.networking.istio.io", "legacy", "away", json!({
            "hosts": ["away.example.com"], "http": [{ "route": [{ "destination": { "host": "ordrs" } }] }],
        }));
        assert_eq!(stops(&migrate(&snapshot)), Vec::<String>::new());
    }

    #[test]
    fn a_mesh_without_ztunnel_is_judged_as_if_it_had_one() {
        let mut snapshot = healthy();
        had(&mut snapshot.daemon_sets).retain(|set| set.metadata.name.as_deref() != Some("ztunnel"));
        snapshot.drop_pods(|pod| {
            pod.metadata
                .name
                .as_deref()
                .is_some_and(|name| name.starts_with("ztunnel"))
        });
        snapshot.add_custom(
            "requestauthentications.security.istio.io",
            "legacy",
            "tokens",
            json!({}),
        );
        let stops = stops(&migrate(&snapshot));
        assert!(
            stops.contains(&"MM1202 RequestAuthentication legacy/tokens".to_owned()),
            "{stops:#?}"
        );
        assert!(
            stops.iter().any(|one| one.starts_with("MM0201")),
            "that there is none is found: {stops:#?}"
        );
    }
}
