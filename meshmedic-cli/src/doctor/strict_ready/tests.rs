// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::doctor::fixtures::{NOW, had, healthy, object, pod, uid};
use crate::doctor::kind::{DESTINATION_RULE, PEER};
use crate::doctor::snapshot::{Link, LinkKind, Part, Sighting};

fn judged(snapshot: &Snapshot, namespace: &str) -> StrictReadiness {
    StrictReadiness::judge(snapshot, namespace)
}

/// The one step that is not ready, and its first reason.
#[track_caller]
fn only(readiness: &StrictReadiness, ready: Ready) -> (&'static str, &str) {
    let steps: Vec<&Step> = readiness
        .steps
        .iter()
        .filter(|step| step.ready != Ready::Yes)
        .collect();
    assert_eq!(steps.len(), 1, "{readiness:#?}");
    assert_eq!(steps[0].ready, ready, "{readiness:#?}");
    (steps[0].title, &steps[0].reasons[0])
}

#[test]
fn an_ambient_namespace_in_which_all_is_well_may_go() {
    let ready = judged(&healthy(), "shop");
    assert_eq!((ready.verdict, ready.code()), (Verdict::Go, 0), "{ready:#?}");
    assert_eq!(
        ready.steps[4].reasons,
        ["now STRICT by PeerAuthentication istio-system/default"]
    );
    let policy: Custom = serde_saphyr::from_str(ready.apply.as_ref().unwrap()).unwrap();
    assert_eq!((policy.namespace(), policy.name()), ("shop", "default"));
    assert_eq!(policy.text("/mtls/mode"), Some("STRICT"));
}

#[test]
fn the_policy_that_is_there_is_changed_and_not_doubled() {
    let mut snapshot = healthy();
    snapshot.add_custom(PEER, "shop", "whole", json!({ "mtls": { "mode": "PERMISSIVE" } }));
    let selector = json!({ "matchLabels": { "app": "cart" } });
    snapshot.add_custom(
        PEER,
        "shop",
        "cart",
        json!({ "selector": selector, "mtls": { "mode": "DISABLE" } }),
    );
    let ready = judged(&snapshot, "shop");
    assert_eq!(ready.verdict, Verdict::Go);
    assert!(ready.apply.unwrap().contains("name: whole"));
    assert!(
        ready.steps[4]
            .reasons
            .contains(&"PeerAuthentication cart goes on as an exception".to_owned())
    );
}

#[test]
fn a_pod_outside_the_mesh_is_a_no_go() {
    let mut snapshot = healthy();
    let labels = json!({ "istio.io/dataplane-mode": "none" });
    snapshot.add_pod(pod(
        "shop",
        "batch-0",
        "node-a",
        "10.244.0.60",
        labels,
        ("StatefulSet", "batch"),
    ));
    let ready = judged(&snapshot, "shop");
    assert_eq!((ready.verdict, ready.code()), (Verdict::NoGo, 1));
    assert_eq!(
        only(&ready, Ready::No).1,
        "batch-0 is neither captured nor has it a sidecar"
    );
    assert_eq!(ready.apply, None);
    // In its node's network no policy of the mesh reaches it.
    snapshot.with_pod("shop", "batch-0", |pod| {
        pod.spec.as_mut().unwrap().host_network = Some(true)
    });
    assert_eq!(judged(&snapshot, "shop").verdict, Verdict::Go);
    assert_eq!(judged(&snapshot, "nowhere").verdict, Verdict::NoGo);
}

#[test]
fn an_orphan_is_a_no_go_and_a_pod_at_which_nobody_looked_leaves_it_open() {
    let mut snapshot = healthy();
    let cart = uid("shop", "cart-7d4b-a");
    let states = had(&mut snapshot.scan);
    states.iter_mut().find(|state| state.uid == cart).unwrap().state = State::Orphan;
    assert!(
        only(&judged(&snapshot, "shop"), Ready::No)
            .1
            .contains("cart-7d4b-a fell out of the mesh")
    );
    had(&mut snapshot.scan).retain(|state| state.uid != cart);
    let ready = judged(&snapshot, "shop");
    assert_eq!((ready.verdict, ready.code()), (Verdict::Open, 3));
    assert!(ready.apply.is_some());
    assert!(only(&ready, Ready::Unknown).1.contains("has not been checked"));
}

#[test]
fn plaintext_is_a_no_go_and_an_unread_log_leaves_it_open() {
    let mut snapshot = healthy();
    let link = Link {
        kind: LinkKind::Plaintext,
        source: "192.0.2.1".to_owned(),
        destination: "shop/cart-7d4b-a".to_owned(),
        seen: Sighting {
            count: 3,
            last: NOW.parse().unwrap(),
            sample: String::new(),
        },
    };
    let ztunnels = had(&mut snapshot.ztunnels);
    had(&mut ztunnels[0].log).links.push(link);
    let reason = "192.0.2.1 sent shop/cart-7d4b-a plaintext, 3 times, the last at 2026-01-02T00:00:00Z";
    assert_eq!(
        only(&judged(&snapshot, "shop"), Ready::No),
        ("no caller speaks plaintext", reason)
    );
    assert_eq!(judged(&snapshot, "till").verdict, Verdict::Go);
    let mut unread = healthy();
    had(&mut unread.ztunnels)[1].log = Part::failed("it ended");
    assert!(
        only(&judged(&unread, "shop"), Ready::Unknown)
            .1
            .contains("node-b was not read: it ended")
    );
}

#[test]
fn plaintext_that_was_only_counted_leaves_it_open() {
    let mut snapshot = healthy();
    let ztunnels = had(&mut snapshot.ztunnels);
    had(&mut ztunnels[0].metrics)
        .plaintext
        .insert("shop/cart".to_owned(), 12.0);
    had(&mut ztunnels[1].metrics)
        .plaintext
        .insert("shop/cart".to_owned(), 3.0);
    let reason = only(&judged(&snapshot, "shop"), Ready::Unknown).1.to_owned();
    assert!(
        reason.starts_with("shop/cart was sent 15 connections without mTLS"),
        "{reason}"
    );
    assert_eq!(judged(&snapshot, "till").verdict, Verdict::Go);
}

#[test]
fn what_sidecars_are_sent_is_not_seen_and_their_plain_probes_are_a_no_go() {
    let mut snapshot = healthy();
    let ready = judged(&snapshot, "legacy");
    assert_eq!(ready.verdict, Verdict::Open, "{ready:#?}");
    snapshot.with_pod("legacy", "orders-7d4b-a", |pod| {
        let app = &mut pod.spec.as_mut().unwrap().containers[0];
        app.liveness_probe = Some(object(json!({ "httpGet": { "port": 8080 } })));
    });
    let ready = judged(&snapshot, "legacy");
    assert_eq!(ready.verdict, Verdict::NoGo);
    assert!(ready.steps[2].reasons[0].contains("orders-7d4b-a is asked for / on port 8080"));
}

#[test]
fn callers_that_are_told_of_other_tls_are_a_no_go() {
    let policy = |mode: &str| json!({ "tls": { "mode": mode } });
    let of_port = json!({ "portLevelSettings": [{ "port": { "number": 80 }, "tls": { "mode": "SIMPLE" } }] });
    let cases = [
        (
            "legacy",
            json!({ "host": "cart.shop.svc.cluster.local", "trafficPolicy": policy("DISABLE") }),
            false,
        ),
        ("shop", json!({ "host": "cart", "trafficPolicy": of_port }), false),
        (
            "shop",
            json!({ "host": "*.shop.svc.cluster.local", "subsets": [{ "trafficPolicy": policy("DISABLE") }] }),
            false,
        ),
        (
            "istio-system",
            json!({ "host": "*.local", "trafficPolicy": policy("DISABLE") }),
            false,
        ),
        (
            "shop",
            json!({ "host": "cart", "trafficPolicy": policy("ISTIO_MUTUAL") }),
            true,
        ),
        ("shop", json!({ "host": "cart" }), true),
        (
            "legacy",
            json!({ "host": "cart", "trafficPolicy": policy("DISABLE") }),
            true,
        ),
        (
            "shop",
            json!({ "host": "api.example.com", "trafficPolicy": policy("SIMPLE") }),
            true,
        ),
    ];
    for (namespace, spec, go) in cases {
        let mut snapshot = healthy();
        snapshot.add_custom(DESTINATION_RULE, namespace, "tls", spec.clone());
        assert_eq!(judged(&snapshot, "shop").verdict == Verdict::Go, go, "{spec}");
    }
}

#[test]
fn where_nothing_is_known_it_stays_open() {
    let nothing = Snapshot::new(NOW.parse().unwrap(), crate::doctor::snapshot::Scope::default());
    let ready = judged(&nothing, "shop");
    assert_eq!(ready.verdict, Verdict::Open, "{ready:#?}");
}
