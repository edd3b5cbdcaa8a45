// SPDX-License-Identifier: Apache-2.0
//! Routes that only a waypoint would follow, where there is none.

use crate::doctor::kind::GATEWAY;
use std::collections::BTreeMap;

use super::routes::{in_mesh, reference};
use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::{View, endpoints, name, namespace};

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut findings: BTreeMap<(ObjectRef, String), Finding> = BTreeMap::new();
    let sidecars = view.pods().iter().any(|pod| pod.is_live() && pod.facts.sidecar);
    for route in in_mesh(view) {
        let metadata = &route.service.metadata;
        let (of, called) = (namespace(metadata), name(metadata));
        let captured = view
            .pods_of(route.service)
            .filter(|pod| pod.is_live() && endpoints::is_captured(pod));
        let captured = captured.count();
        let problem = match waypoint(view, route.service) {
            _ if captured == 0 => continue,
            Waypoint::None => "it routes to ambient pods without a waypoint",
            Waypoint::Missing(_) => "it routes to ambient pods whose waypoint does not exist",
            Waypoint::There => continue,
        };
        let mut finding = Finding::on(reference(route.route), problem).because(format!(
            "it is for Service {of}/{called}, with {captured} captured pods"
        ));
        finding = match waypoint(view, route.service) {
            Waypoint::Missing(gateway) => finding.because(format!(
                "istio.io/use-waypoint names Gateway {gateway}, which is not there"
            )),
            _ => finding.because("neither the Service nor its namespace has the label istio.io/use-waypoint"),
        };
        finding = finding.so(if sidecars {
            "Callers with a sidecar follow it. For callers that ztunnel captures it is not followed: their traffic goes \
             straight to the pods."
        } else {
            "ztunnel does not look into HTTP, and no other proxy is on the way: the route changes nothing."
        });
        finding = finding
            .run(view.with_revision(
                Command::new("istioctl waypoint apply --name waypoint --wait").namespace(of),
                of,
            ))
            .run(
                Command::new("kubectl label service --overwrite")
                    .namespace(of)
                    .name(called)
                    .label(endpoints::USE_WAYPOINT, Some("waypoint")),
            );
        findings
            .entry((reference(route.route), format!("{of}/{called}")))
            .or_insert(finding);
    }
    findings.into_values().collect()
}

enum Waypoint {
    None,
    /// Named, and not there.
    Missing(String),
    There,
}

/// The waypoint before a Service, by its own label or its namespace's.
fn waypoint(view: &View<'_>, service: &k8s_openapi::api::core::v1::Service) -> Waypoint {
    let metadata = &service.metadata;
    let own = metadata
        .labels
        .as_ref()
        .filter(|labels| labels.contains_key(endpoints::USE_WAYPOINT));
    let labels = own.unwrap_or_else(|| view.namespace_labels(namespace(metadata)));
    let Some(called) = labels.get(endpoints::USE_WAYPOINT).filter(|name| *name != "none") else {
        return Waypoint::None;
    };
    let of = labels
        .get("istio.io/use-waypoint-namespace")
        .map_or(namespace(metadata), String::as_str);
    let known = view.snapshot.custom.get(GATEWAY).and_then(|part| part.had());
    let there =
        |gateway: &crate::doctor::snapshot::Custom| gateway.namespace() == of && gateway.name() == called;
    match known {
        Some(gateways) if !gateways.iter().any(there) => Waypoint::Missing(format!("{of}/{called}")),
        _ => Waypoint::There,
    }
}
