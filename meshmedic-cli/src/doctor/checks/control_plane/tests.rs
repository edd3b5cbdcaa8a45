// SPDX-License-Identifier: Apache-2.0
use serde_json::json;

use crate::doctor::fixtures::{
    assert_finds, assert_passes, assert_skipped, findings, had, healthy, object, pod, sidecar_pod,
};
use crate::doctor::snapshot::{Part, Snapshot, Unknown};

const ISTIOD: &str = "Deployment istio-system/istiod";

fn istiods_down(snapshot: &mut Snapshot, ready: i32) {
    let mut left = ready;
    for pod in had(&mut snapshot.pods) {
        if pod
            .metadata
            .name
            .as_deref()
            .is_some_and(|name| name.starts_with("istiod"))
        {
            let conditions = pod.status.as_mut().unwrap().conditions.as_mut().unwrap();
            conditions[0].status = if left > 0 { "True" } else { "False" }.to_owned();
            left -= 1;
        }
    }
    let deployment = &mut had(&mut snapshot.deployments)[0];
    deployment.status.as_mut().unwrap().ready_replicas = Some(ready);
}

mod revisions;

#[test]
fn an_istiod_that_is_down_is_found_once() {
    let mut snapshot = healthy();
    istiods_down(&mut snapshot, 0);
    let finding = assert_finds("MM0101", &snapshot, ISTIOD);
    assert!(finding.evidence[0].contains("0 of 2"), "{finding:?}");
    for other in ["MM0102", "MM0103", "MM0205"] {
        assert_passes(other, &snapshot);
    }
}

#[test]
fn one_istiod_of_two_is_a_warning_only() {
    let mut snapshot = healthy();
    istiods_down(&mut snapshot, 1);
    assert_passes("MM0101", &snapshot);
    assert_finds("MM0102", &snapshot, ISTIOD);
}

#[test]
fn an_istiod_that_is_scaled_away_is_scaled_back() {
    let mut snapshot = healthy();
    istiods_down(&mut snapshot, 0);
    snapshot.drop_pods(|pod| {
        pod.metadata
            .name
            .as_deref()
            .is_some_and(|name| name.starts_with("istiod"))
    });
    had(&mut snapshot.deployments)[0].spec.as_mut().unwrap().replicas = Some(0);
    let finding = assert_finds("MM0101", &snapshot, ISTIOD);
    assert!(finding.commands().concat().contains("--replicas 1"));
}

#[test]
fn an_istiod_elsewhere_is_no_absence() {
    let mut snapshot = healthy();
    snapshot.drop_pods(|pod| {
        pod.metadata
            .name
            .as_deref()
            .is_some_and(|name| name.starts_with("istiod"))
    });
    had(&mut snapshot.deployments).remove(0);
    assert_finds("MM0101", &snapshot, "Namespace istio-system");
    let service = &mut had(&mut snapshot.services)[0];
    service.spec.as_mut().unwrap().selector = None;
    assert_passes("MM0101", &snapshot);
}

#[test]
fn without_istio_nothing_is_asked_of_it() {
    let mut snapshot = healthy();
    snapshot.drop_pods(|pod| pod.metadata.namespace.as_deref() == Some("istio-system"));
    had(&mut snapshot.deployments).remove(0);
    had(&mut snapshot.daemon_sets).clear();
    assert!(assert_skipped("MM0101", &snapshot).contains("not installed"));
}

#[test]
fn a_service_without_the_port_is_found_and_gets_it_back() {
    let mut snapshot = healthy();
    let ports = had(&mut snapshot.services)[0]
        .spec
        .as_mut()
        .unwrap()
        .ports
        .as_mut()
        .unwrap();
    ports.retain(|port| port.port != 15012);
    let finding = assert_finds("MM0103", &snapshot, "Service istio-system/istiod");
    assert!(finding.problem.contains("no port 15012"));
    assert!(finding.evidence[0].contains("15010, 443, 15014"), "{finding:?}");
}

#[test]
fn a_service_that_selects_nobody_is_found() {
    let mut snapshot = healthy();
    had(&mut snapshot.endpoint_slices)[0].endpoints = Some(Vec::new());
    assert_finds("MM0103", &snapshot, "Service istio-system/istiod");
}

#[test]
fn an_endpoint_is_ready_unless_it_says_otherwise() {
    let mut snapshot = healthy();
    let slice = &mut had(&mut snapshot.endpoint_slices)[0];
    slice.endpoints = Some(vec![object(json!({ "addresses": ["10.244.0.30"] }))]);
    assert_passes("MM0103", &snapshot);
    let slice = &mut had(&mut snapshot.endpoint_slices)[0];
    slice.endpoints = Some(vec![object(
        json!({ "addresses": ["10.244.0.30"], "conditions": { "ready": false } }),
    )]);
    assert_finds("MM0103", &snapshot, "Service istio-system/istiod");
}

#[test]
fn a_webhook_without_a_bundle_or_a_service_is_found() {
    let mut snapshot = healthy();
    let hook = &mut had(&mut snapshot.validating_webhooks)[0]
        .webhooks
        .as_mut()
        .unwrap()[0];
    hook.client_config.ca_bundle = None;
    let on = "ValidatingWebhookConfiguration istio-validator-istio-system";
    assert!(
        assert_finds("MM0104", &snapshot, on)
            .problem
            .contains("CA bundle")
    );
    let mut snapshot = healthy();
    let hook = &mut had(&mut snapshot.mutating_webhooks)[0].webhooks.as_mut().unwrap()[0];
    hook.client_config.service.as_mut().unwrap().name = "istiod-old".to_owned();
    let on = "MutatingWebhookConfiguration istio-sidecar-injector";
    assert!(assert_finds("MM0104", &snapshot, on).problem.contains("gone"));
    let mut snapshot = healthy();
    let hook = &mut had(&mut snapshot.mutating_webhooks)[0].webhooks.as_mut().unwrap()[0];
    hook.client_config.service.as_mut().unwrap().port = Some(444);
    assert!(assert_finds("MM0104", &snapshot, on).problem.contains("port"));
}

#[test]
fn webhooks_of_others_are_none_of_ours() {
    let mut snapshot = healthy();
    // cert-manager serves such a path too, and its Service may be gone.
    let hook = |name: &str, path: &str| {
        json!({
            "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": { "service": { "namespace": "cert-manager", "name": "gone", "path": path } },
        })
    };
    had(&mut snapshot.validating_webhooks).push(object(json!({
        "metadata": { "name": "cert-manager-webhook", "labels": { "app": "webhook" } },
        "webhooks": [hook("webhook.cert-manager.io", "/validate")],
    })));
    // Each of the three marks alone is anybody's.
    had(&mut snapshot.validating_webhooks).push(object(json!({
        "metadata": { "name": "labelled", "labels": { "app": "istiod", "istio.io/rev": "default" } },
        "webhooks": [hook("check.example.org", "/validate")],
    })));
    had(&mut snapshot.mutating_webhooks).push(object(json!({
        "metadata": { "name": "named" }, "webhooks": [hook("namespace.sidecar-injector.istio.io", "/inject")],
    })));
    had(&mut snapshot.validating_webhooks).push(object(json!({
        "metadata": { "name": "gatekeeper" },
        "webhooks": [{
            "name": "check", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": { "service": { "namespace": "gate", "name": "keeper", "path": "/admit" } },
        }],
    })));
    assert_passes("MM0104", &snapshot);
}

#[test]
fn a_namespace_that_asks_for_sidecars_needs_a_webhook() {
    let mut snapshot = healthy();
    had(&mut snapshot.mutating_webhooks).clear();
    assert_finds("MM0105", &snapshot, "Namespace legacy");
    let of_legacy = |namespace: &mut k8s_openapi::api::core::v1::Namespace| {
        let labels = namespace.metadata.labels.as_mut().unwrap();
        labels.insert("istio-injection".to_owned(), "disabled".to_owned());
    };
    snapshot.with_namespace("legacy", of_legacy);
    assert_passes("MM0105", &snapshot);
}

#[test]
fn what_proxies_rejected_is_found_on_the_istiod_that_pushed_it() {
    let mut snapshot = healthy();
    let metrics = had(&mut had(&mut snapshot.istiods)[1].metrics);
    metrics.insert("pilot_total_xds_rejects{type=lds}".to_owned(), 3.0);
    // A proxy that went away in the midst of a push is no trouble.
    metrics.insert("pilot_xds_pushes{type=cds_senderr}".to_owned(), 9.0);
    let finding = assert_finds("MM0106", &snapshot, "Pod istio-system/istiod-5f6c-b");
    assert_eq!(
        finding.evidence,
        ["pilot_total_xds_rejects{type=lds}: 3 since it started"]
    );
    let metrics = had(&mut had(&mut snapshot.istiods)[1].metrics);
    metrics.remove("pilot_total_xds_rejects{type=lds}");
    assert_passes("MM0106", &snapshot);
}

#[test]
fn an_istiod_that_cannot_be_asked_is_not_taken_for_well() {
    let mut snapshot = healthy();
    had(&mut snapshot.istiods)[1].metrics = Part::failed("no answer within 10s");
    let check = crate::doctor::checks::by_code("MM0106").unwrap();
    let judged = check.judge(&crate::doctor::view::View::new(&snapshot));
    let crate::doctor::check::Outcome::Failed { why } = judged.outcome else {
        panic!("{judged:?}")
    };
    assert!(why.contains("istiod-5f6c-b: no answer"), "{why}");
    for istiod in had(&mut snapshot.istiods) {
        istiod.metrics = Part::Unknown(Unknown::Forbidden("ann needs this rule".to_owned()));
    }
    assert_eq!(assert_skipped("MM0106", &snapshot), "ann needs this rule");
}

#[test]
fn versions_may_be_one_apart_and_never_ahead() {
    let with = |image: &str| {
        let mut snapshot = healthy();
        snapshot.with_pod("istio-system", "ztunnel-b", |pod| {
            pod.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
        });
        snapshot
    };
    assert_passes("MM0107", &with("docker.io/istio/ztunnel:1.27.9-distroless"));
    assert_passes("MM0107", &with("registry.example/mirror/ztunnel:latest"));
    let behind = assert_finds(
        "MM0107",
        &with("istio/ztunnel:1.26.0"),
        "Pod istio-system/ztunnel-b",
    );
    assert!(behind.problem.contains("behind"), "{behind:?}");
    let ahead = assert_finds(
        "MM0107",
        &with("istio/ztunnel:1.29.0"),
        "Pod istio-system/ztunnel-b",
    );
    assert!(ahead.problem.contains("newer"), "{ahead:?}");
}

#[test]
fn sidecars_of_an_old_version_are_found_and_restarted() {
    let mut snapshot = healthy();
    let mut old = sidecar_pod("legacy", "old", "node-a", "10.244.0.40");
    old.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[1].image =
        Some("istio/proxyv2:1.20.1".to_owned());
    snapshot.add_pod(old);
    let finding = assert_finds("MM0107", &snapshot, "Pod legacy/old-7d4b-a");
    assert!(
        finding
            .commands()
            .concat()
            .contains("rollout restart -n legacy deployment/old")
    );
}

#[test]
fn ambient_labels_without_ambient_mode_are_found() {
    let mut snapshot = healthy();
    had(&mut snapshot.daemon_sets).retain(|set| set.metadata.name.as_deref() != Some("ztunnel"));
    assert!(assert_finds("MM0108", &snapshot, "Namespace istio-system").evidence[0].contains("shop, till"));
    let mut snapshot = healthy();
    had(&mut snapshot.cni_config).insert("AMBIENT_ENABLED".to_owned(), "false".to_owned());
    assert_finds("MM0108", &snapshot, "Namespace istio-system");
    let mut snapshot = healthy();
    let template = &mut had(&mut snapshot.deployments)[0].spec.as_mut().unwrap().template;
    let switch = |value: &str| object(json!({ "name": "PILOT_ENABLE_AMBIENT", "value": value }));
    template.spec.as_mut().unwrap().containers[0].env = Some(vec![switch("false")]);
    template
        .metadata
        .as_mut()
        .unwrap()
        .labels
        .as_mut()
        .unwrap()
        .insert("app".to_owned(), "istiod".to_owned());
    assert_finds("MM0108", &snapshot, ISTIOD);
}

#[test]
fn a_mesh_of_sidecars_alone_need_not_have_ambient_mode() {
    let mut snapshot = healthy();
    had(&mut snapshot.daemon_sets).retain(|set| set.metadata.name.as_deref() != Some("ztunnel"));
    for namespace in ["shop", "till"] {
        snapshot.with_namespace(namespace, |namespace| {
            namespace
                .metadata
                .labels
                .as_mut()
                .unwrap()
                .remove("istio.io/dataplane-mode");
        });
    }
    assert_passes("MM0108", &snapshot);
    assert!(findings("MM0101", &snapshot).is_empty());
}
