// SPDX-License-Identifier: Apache-2.0
//! Ways from outside that lead past a waypoint.

use crate::doctor::kind::{AUTHORIZATION, REQUEST, ROUTES, VIRTUAL_SERVICE};
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

use crate::doctor::checks::traffic::service_of;
use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::snapshot::Custom;
use crate::doctor::view::gateways::{
    Binding, INGRESS_USE_WAYPOINT, find, is_ingress, of_service, reference, service_ref,
};
use crate::doctor::view::{View, name, namespace};

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut findings: BTreeMap<ObjectRef, Finding> = BTreeMap::new();
    for (route, service) in from_outside(view) {
        let object = service_ref(service);
        let Binding::Bound(wish, waypoint) = of_service(view, service) else {
            continue;
        };
        if goes_through(view, service) || findings.contains_key(&object) {
            continue;
        }
        let Some(policy) = guarding(view, service, waypoint) else {
            continue;
        };
        let finding = Finding::on(object.clone(), "what gateways forward to it goes past its waypoint")
            .because(format!("{} leads from a gateway to it", reference(route)))
            .because(format!("{} is in force at its waypoint, Gateway {}", reference(policy), wish.path()))
            .because(format!("neither it nor its namespace has the label {INGRESS_USE_WAYPOINT}: \"true\""))
            .so("Requests from outside are not checked by the policies of its waypoint: the gateway sends them straight to \
                 the pods.")
            .run(
                Command::new("kubectl label service --overwrite")
                    .namespace(namespace(&service.metadata))
                    .name(name(&service.metadata))
                    .label(INGRESS_USE_WAYPOINT, Some("true")),
            )
            .by_hand("If the gateway is to check for itself, attach the policy to it as well, by spec.targetRefs.");
        findings.insert(object, finding);
    }
    findings.into_values().collect()
}

fn goes_through(view: &View<'_>, service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    let own = labels.and_then(|labels| labels.get(INGRESS_USE_WAYPOINT));
    let of = view
        .namespace_labels(namespace(&service.metadata))
        .get(INGRESS_USE_WAYPOINT);
    own.or(of).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// Routes by which gateways of Istio forward to Services.
fn from_outside<'s>(view: &View<'s>) -> Vec<(&'s Custom, &'s Service)> {
    let mut all = Vec::new();
    for route in ROUTES.iter().flat_map(|kind| view.custom(kind)) {
        let of_gateway = route.list("/parentRefs").iter().any(|parent| {
            let text = |field: &str| parent.get(field).and_then(Value::as_str);
            let of = text("namespace").unwrap_or_else(|| route.namespace());
            text("kind").is_none_or(|kind| kind == "Gateway")
                && text("name")
                    .and_then(|name| find(view, of, name))
                    .is_some_and(|gateway| is_ingress(view, gateway))
        });
        if of_gateway {
            let backends = route.list("/rules").iter();
            let backends = backends
                .filter_map(|rule| rule.get("backendRefs")?.as_array())
                .flatten();
            all.extend(backends.filter_map(|backend| {
                let text = |field: &str| backend.get(field).and_then(Value::as_str);
                let of = text("namespace").unwrap_or_else(|| route.namespace());
                text("kind").is_none_or(|kind| kind == "Service").then_some(())?;
                Some((route, view.service(of, text("name")?)?))
            }));
        }
    }
    for route in view.custom(VIRTUAL_SERVICE) {
        if route.list("/gateways").iter().any(|gateway| gateway != "mesh") {
            for list in ["http", "tls", "tcp"] {
                let rules = route.list(&format!("/{list}")).iter();
                let shares = rules.filter_map(|rule| rule.get("route")?.as_array()).flatten();
                all.extend(shares.filter_map(|share| {
                    let host = share.pointer("/destination/host")?.as_str()?;
                    Some((route, service_of(view, host, route.namespace())?))
                }));
            }
        }
    }
    all
}

/// A policy that the waypoint is to enforce for a Service.
fn guarding<'s>(view: &View<'s>, service: &Service, waypoint: &Custom) -> Option<&'s Custom> {
    let targets = |policy: &&Custom| {
        let one = policy.spec.get("targetRef").into_iter();
        let mut all = one.chain(policy.list("/targetRefs"));
        all.any(|target| {
            let text = |field: &str| target.get(field).and_then(Value::as_str);
            match text("kind") {
                Some("Service") => {
                    policy.namespace() == namespace(&service.metadata)
                        && text("name") == Some(name(&service.metadata))
                }
                Some("Gateway") => {
                    policy.namespace() == waypoint.namespace() && text("name") == Some(waypoint.name())
                }
                _ => false,
            }
        })
    };
    let mut all = view.custom(AUTHORIZATION).iter().chain(view.custom(REQUEST));
    all.find(targets)
}
