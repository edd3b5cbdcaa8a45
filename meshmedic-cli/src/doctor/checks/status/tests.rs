// SPDX-License-Identifier: Apache-2.0
use crate::doctor::kind::{AUTHORIZATION, GATEWAY, HTTP_ROUTE};
use serde_json::{Value, json};

use crate::doctor::fixtures::{assert_finds, assert_passes, had, healthy, object};
use crate::doctor::snapshot::Snapshot;

/// The cart asks for a waypoint, and istiod says this of it.
fn cart(said: Value) -> Snapshot {
    let mut snapshot = healthy();
    snapshot.add_classes().add_waypoint("shop", "wp").label_service(
        "shop",
        "cart",
        "istio.io/use-waypoint",
        "wp",
    );
    let mut services = had(&mut snapshot.services).iter_mut();
    let cart = services
        .find(|service| service.metadata.name.as_deref() == Some("cart"))
        .unwrap();
    let mut condition = json!({
        "type": "istio.io/WaypointBound", "message": "of istiod", "lastTransitionTime": "2026-01-01T01:00:00Z",
    });
    for (key, value) in said.as_object().unwrap() {
        condition[key] = value.clone();
    }
    cart.status = Some(object(json!({ "conditions": [condition] })));
    snapshot
}

#[test]
fn each_reason_of_a_binding_that_is_denied_has_its_remedy() {
    for (reason, problem) in [
        ("WaypointIsNotReady", "not ready"),
        ("AttachmentDenied", "takes no workload"),
        ("UnsupportedTrafficType", "other traffic"),
        ("CrossNamespaceWaypointForbidden", "does not bind"),
    ] {
        let snapshot = cart(json!({ "status": "False", "reason": reason }));
        let found = assert_finds("MM1001", &snapshot, "Service shop/cart");
        assert!(found.problem.contains(problem), "{found:#?}");
        assert!(found.evidence[0].contains(reason) && found.evidence[0].ends_with("of istiod"));
    }
    assert_passes(
        "MM1001",
        &cart(json!({ "status": "True", "reason": "WaypointAccepted" })),
    );
}

#[test]
fn a_waypoint_for_workloads_that_a_namespace_asks_for_is_no_fault_of_its_services() {
    let mut snapshot = cart(json!({ "status": "False", "reason": "UnsupportedTrafficType" }));
    snapshot.with_namespace("shop", |of| {
        of.metadata
            .labels
            .get_or_insert_default()
            .insert("istio.io/use-waypoint".to_owned(), "wp".to_owned());
    });
    for service in had(&mut snapshot.services) {
        service.metadata.labels = None;
    }
    assert_passes("MM1001", &snapshot);
}

#[test]
fn a_service_entry_that_does_nothing_without_a_waypoint_is_found() {
    let key = "serviceentries.networking.istio.io";
    let mut snapshot = healthy();
    snapshot.add_custom(key, "shop", "all", json!({ "hosts": ["*.example.com"] }));
    snapshot.say(
        key,
        "shop",
        "all",
        json!({ "conditions": [{
        "type": "istio.io/WaypointMissing", "status": "True", "reason": "NoWaypointForWildcardService",
    }] }),
    );
    let found = assert_finds("MM1001", &snapshot, "ServiceEntry shop/all");
    assert_eq!(found.problem, "it does nothing until a waypoint serves it");
    snapshot.say(
        key,
        "shop",
        "all",
        json!({ "conditions": [
        { "type": "istio.io/WaypointBound", "status": "True", "reason": "WaypointAccepted" },
        { "type": "istio.io/VisibilityApplied", "status": "True", "reason": "Public" },
    ] }),
    );
    assert_passes("MM1001", &snapshot);
}

/// A policy of which istiod says this; the second generation of it.
fn policy(said: Value) -> Snapshot {
    let mut snapshot = healthy();
    let targets = json!([{ "kind": "Service", "name": "cart" }, { "kind": "Service", "name": "catalog" }]);
    snapshot.add_custom(AUTHORIZATION, "shop", "read", json!({ "targetRefs": targets }));
    snapshot.say(AUTHORIZATION, "shop", "read", json!({ "conditions": [said] }));
    had(snapshot.custom.get_mut(AUTHORIZATION).unwrap())[0]
        .metadata
        .generation = Some(2);
    snapshot
}

#[test]
fn a_policy_that_is_bound_to_some_of_its_targets_alone_is_found_though_it_is_accepted() {
    let partly = |generation: i64| {
        json!({
            "type": "WaypointAccepted", "status": "True", "reason": "PartiallyInvalid", "observedGeneration": generation,
            "message": "Invalid targetRefs: Service.core:shop/cart",
        })
    };
    let found = assert_finds("MM1002", &policy(partly(2)), "AuthorizationPolicy shop/read");
    assert_eq!(
        found.problem,
        "istiod binds it to some of its targets, and not to others"
    );
    assert_passes("MM1002", &policy(partly(1)));
    let denied = json!({ "type": "WaypointAccepted", "status": "False", "reason": "TargetNotFound" });
    assert_finds("MM1002", &policy(denied), "AuthorizationPolicy shop/read");
    let well = json!({ "type": "WaypointAccepted", "status": "True", "reason": "Accepted" });
    assert_passes("MM1002", &policy(well));
}

#[test]
fn what_istiod_says_of_policies_for_sidecars_is_no_fault() {
    let said = json!({ "conditions": [{
        "type": "ZtunnelAccepted", "status": "True", "reason": "UnsupportedValue",
        "message": "ztunnel does not support HTTP attributes (found: paths).",
    }] });
    let rules = json!([{ "to": [{ "operation": { "paths": ["/admin/*"] } }] }]);
    for (of, app) in [("legacy", "orders"), ("shop", "cart")] {
        let mut snapshot = healthy();
        let spec = json!({ "selector": { "matchLabels": { "app": app } }, "action": "DENY", "rules": rules });
        snapshot.add_custom(AUTHORIZATION, of, "paths", spec);
        snapshot.say(AUTHORIZATION, of, "paths", said.clone());
        // Of captured pods the check that looks at the rules tells more.
        assert_passes("MM1003", &snapshot);
    }
}

#[test]
fn a_policy_that_ztunnel_gets_as_it_stands_is_no_fault() {
    let said = |reason: &str| {
        let rules = json!([{ "from": [{ "source": { "namespaces": ["till"] } }] }]);
        let mut snapshot = healthy();
        snapshot.add_custom(
            AUTHORIZATION,
            "shop",
            "callers",
            json!({ "action": "DENY", "rules": rules }),
        );
        let condition = json!({ "type": "ZtunnelAccepted", "status": "True", "reason": reason });
        snapshot.say(
            AUTHORIZATION,
            "shop",
            "callers",
            json!({ "conditions": [condition] }),
        );
        snapshot
    };
    assert_passes("MM1003", &said("Accepted"));
    assert_finds(
        "MM1003",
        &said("UnsupportedValue"),
        "AuthorizationPolicy shop/callers",
    );
}

/// A gateway of a class, of which its controller says this.
fn gateway(class: &str, said: Value) -> Snapshot {
    let mut snapshot = healthy();
    snapshot.add_classes();
    snapshot.add_custom(
        GATEWAY,
        "shop",
        "in",
        json!({ "gatewayClassName": class, "listeners": [] }),
    );
    snapshot.say(GATEWAY, "shop", "in", said);
    snapshot
}

#[test]
fn gateways_of_istio_are_judged_by_their_listeners_too_and_those_of_others_are_not() {
    let no = |kind: &str, reason: &str| json!({ "type": kind, "status": "False", "reason": reason });
    let conflicted = json!({ "parts": [{ "of": "http", "conditions": [
        { "type": "Conflicted", "status": "True", "reason": "HostnameConflict" },
    ] }] });
    for said in [json!({ "conditions": [no("Accepted", "Invalid")] }), conflicted] {
        assert_finds("MM1004", &gateway("istio", said.clone()), "Gateway shop/in");
        assert_passes("MM1004", &gateway("nginx", said));
    }
    let pending = json!({ "conditions": [no("Programmed", "AddressNotAssigned")] });
    assert_passes("MM1004", &gateway("istio", pending.clone()));
    assert_finds("MM1006", &gateway("istio", pending.clone()), "Gateway shop/in");
    assert_passes("MM1006", &gateway("gke-l7", pending.clone()));
    // Of an address it is said only where the reason is one.
    let invalid = json!({ "conditions": [no("Programmed", "Invalid")] });
    assert_finds("MM1004", &gateway("istio", invalid.clone()), "Gateway shop/in");
    assert_passes("MM1006", &gateway("istio", invalid));
    let mut young = gateway("istio", pending);
    let one = &mut had(young.custom.get_mut(GATEWAY).unwrap())[0];
    one.metadata.creation_timestamp = Some(object(json!("2026-01-01T23:58:00Z")));
    assert_passes("MM1006", &young);
}

#[test]
fn routes_are_judged_at_the_parents_that_istio_answers_for() {
    let route = |controller: &str, kind: &str| {
        let mut snapshot = healthy();
        snapshot.add_custom(HTTP_ROUTE, "shop", "way", json!({ "parentRefs": [] }));
        snapshot.say(
            HTTP_ROUTE,
            "shop",
            "way",
            json!({ "parts": [{
            "of": "Gateway shop/in", "controller": controller,
            "conditions": [{ "type": kind, "status": "False", "reason": "NotAllowedByListeners" }],
        }] }),
        );
        snapshot
    };
    let found = assert_finds(
        "MM1005",
        &route("istio.io/gateway-controller", "Accepted"),
        "HTTPRoute shop/way",
    );
    assert_eq!(found.problem, "istiod does not accept it");
    assert_finds(
        "MM1005",
        &route("istio.io/gateway-controller", "ResolvedRefs"),
        "HTTPRoute shop/way",
    );
    assert_passes("MM1005", &route("edge.example/gateway", "Accepted"));
}
