// SPDX-License-Identifier: Apache-2.0
//! Services, ServiceEntries and WorkloadEntries that ask for a waypoint and do not get it.

use crate::doctor::kind::{SERVICE_ENTRY, WORKLOAD_ENTRY};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::doctor::checks::waypoints::remedy;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::snapshot::{Condition, Custom};
use crate::doctor::view::View;
use crate::doctor::view::bindings::{denied_entry, denied_service};
use crate::doctor::view::gateways::{Traffic, of_metadata, reference, service_ref};

/// Set on a ServiceEntry that does nothing without a waypoint.
const MISSING: &str = "istio.io/WaypointMissing";

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in view.snapshot.services.all() {
        if let Some(condition) = denied_service(view, service) {
            findings.push(unbound(
                view,
                service_ref(service),
                &service.metadata,
                Traffic::Service,
                &condition,
            ));
        }
    }
    for (kind, traffic) in [
        (SERVICE_ENTRY, Traffic::Service),
        (WORKLOAD_ENTRY, Traffic::Workload),
    ] {
        for entry in view.custom(kind) {
            if let Some(condition) = denied_entry(view, entry) {
                findings.push(unbound(
                    view,
                    reference(entry),
                    &entry.metadata,
                    traffic,
                    condition,
                ));
            } else if let Some(condition) = without(entry) {
                findings.push(missing(entry, condition));
            }
        }
    }
    findings
}

fn without(entry: &Custom) -> Option<&Condition> {
    let mut conditions = entry.status.conditions.iter();
    conditions.find(|one| one.kind == MISSING && one.status == "True")
}

fn unbound(
    view: &View<'_>,
    object: ObjectRef,
    metadata: &ObjectMeta,
    traffic: Traffic,
    condition: &Condition,
) -> Finding {
    let problem = match condition.reason.as_str() {
        "WaypointIsNotReady" => "istiod does not bind it to its waypoint, which is not ready",
        "AttachmentDenied" => {
            "istiod does not bind it to its waypoint, which takes no workload of this namespace"
        }
        "UnsupportedTrafficType" => "istiod does not bind it to its waypoint, which is for other traffic",
        _ => "istiod does not bind it to its waypoint",
    };
    let finding = Finding::on(object, problem)
        .because(condition.words())
        .so("What is sent to it goes past the waypoint: no route, no policy and no check of HTTP is in force for it.");
    remedy(
        view,
        finding,
        of_metadata(view, metadata, traffic),
        metadata,
        traffic,
    )
}

fn missing(entry: &Custom, condition: &Condition) -> Finding {
    Finding::on(reference(entry), "it does nothing until a waypoint serves it")
        .because(condition.words())
        .so("For pods of the ambient mesh it is as if it were not there: their traffic takes the way it takes without it.")
        .by_hand(
            "Label it, or its namespace, with istio.io/use-waypoint and the name of a waypoint that is Ready.",
        )
}
