// SPDX-License-Identifier: Apache-2.0
//! Settings of proxies where no proxy reads them.

use super::{reads, under};
use crate::doctor::checks::security::authorization::has_target;
use crate::doctor::checks::traffic::service_of;
use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::kind::{DESTINATION_RULE, ENVOY_FILTER, SIDECAR, WASM_PLUGIN};
use crate::doctor::snapshot::Custom;
use crate::doctor::view::gateways::{Binding, of_service, reference};
use crate::doctor::view::{View, endpoints};

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for kind in [SIDECAR, ENVOY_FILTER, WASM_PLUGIN] {
        // With a target it is a waypoint's.
        for object in view.custom(kind).iter().filter(|object| !has_target(object)) {
            let (captured, read) = under(view, object);
            if captured > 0 && !read {
                findings.push(of_proxies(object, captured));
            }
        }
    }
    let callers = view.pods().iter().any(reads);
    if !callers {
        findings.extend(
            view.custom(DESTINATION_RULE)
                .iter()
                .filter_map(|rule| of_callers(view, rule)),
        );
    }
    findings
}

fn of_proxies(object: &Custom, captured: usize) -> Finding {
    let (effect, help) = match object.kind.as_str() {
        "Sidecar" => (
            "It limits nothing: ztunnel knows the whole mesh and reads no Sidecar.",
            "Delete it once no pod of the namespace has a sidecar. What it kept callers from, an AuthorizationPolicy at \
             the destination has to keep them from.",
        ),
        "EnvoyFilter" => (
            "What it does to requests is done to none: waypoints read no EnvoyFilter that selects pods, and ztunnel reads \
             none at all.",
            "Do the same with what a waypoint reads (HTTPRoute, Telemetry, a WasmPlugin with spec.targetRefs), or delete it.",
        ),
        _ => (
            "What it does to requests is done to none.",
            "Name in spec.targetRefs the waypoint's Gateway or the Services that it is for, instead of spec.selector.",
        ),
    };
    Finding::on(reference(object), "no proxy reads it")
        .because(format!(
            "{captured} pods that ztunnel captures are under it, and no sidecar or gateway"
        ))
        .so(effect)
        .by_hand(help)
}

/// A DestinationRule is read by those who call: sidecars and gateways, or the waypoint before its host.
fn of_callers(view: &View<'_>, rule: &Custom) -> Option<Finding> {
    let service = service_of(view, rule.text("/host")?, rule.namespace())?;
    let captured = view
        .pods_of(service)
        .filter(|pod| pod.is_live() && endpoints::is_captured(pod))
        .count();
    if captured == 0 || of_service(view, service) != Binding::None {
        return None;
    }
    let of = service.metadata.namespace.as_deref().unwrap_or_default();
    Some(
        Finding::on(reference(rule), "no proxy reads it")
            .because(format!(
                "its host has {captured} pods that ztunnel captures, and no waypoint"
            ))
            .because("no pod of the cluster has a sidecar or is a gateway that would read it as a caller")
            .so("Its limits, its subsets and its load balancing apply to no traffic.")
            .run(Command::new("istioctl waypoint apply --enroll-namespace --wait").namespace(of))
            .by_hand("Without need for what it sets, delete it instead."),
    )
}
