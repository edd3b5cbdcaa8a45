// SPDX-License-Identifier: Apache-2.0
//! Services, ServiceEntries and WorkloadEntries that ask for a waypoint and do not get it.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meshmedic_common::text::clean;

use super::{SERVICE_ENTRY, WORKLOAD_ENTRY};
use crate::doctor::checks::waypoints::remedy;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::snapshot::{Condition, Custom};
use crate::doctor::view::View;
use crate::doctor::view::gateways::{Level, Traffic, asked, of_metadata, reference, service_ref};

/// Whether the waypoint that something asks for is in force for it.
const BOUND: &str = "istio.io/WaypointBound";
/// Set on a ServiceEntry that does nothing without a waypoint.
const MISSING: &str = "istio.io/WaypointMissing";
/// What is kept of a message.
const MAX_WORDS: usize = 300;

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in view.snapshot.services.all() {
        if let Some(condition) = of_service(service)
            && is_of_interest(view, &service.metadata, &condition)
        {
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
            if let Some(condition) = of_custom(entry)
                && is_of_interest(view, &entry.metadata, condition)
            {
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

/// Whether istiod denies a Service its waypoint.
pub(in crate::doctor::checks) fn is_denied(view: &View<'_>, service: &Service) -> bool {
    of_service(service).is_some_and(|condition| is_of_interest(view, &service.metadata, &condition))
}

fn of_service(service: &Service) -> Option<Condition> {
    let conditions = service.status.as_ref()?.conditions.as_ref()?;
    let found = conditions
        .iter()
        .find(|one| one.type_ == BOUND && one.status == "False")?;
    Some(Condition {
        kind: found.type_.clone(),
        status: found.status.clone(),
        reason: clean(&found.reason, MAX_WORDS),
        message: clean(&found.message, MAX_WORDS),
        observed_generation: found.observed_generation,
        since: Some(found.last_transition_time.0),
    })
}

fn of_custom(entry: &Custom) -> Option<&Condition> {
    let mut conditions = entry.status.conditions.iter();
    conditions.find(|one| one.kind == BOUND && one.is_false(entry.metadata.generation))
}

fn without(entry: &Custom) -> Option<&Condition> {
    let mut conditions = entry.status.conditions.iter();
    conditions.find(|one| one.kind == MISSING && one.status == "True")
}

/// A namespace may ask for a waypoint that is for workloads alone: istiod then says so of each of its Services, and
/// nothing is wrong.
fn is_of_interest(view: &View<'_>, metadata: &ObjectMeta, condition: &Condition) -> bool {
    let labels = metadata.labels.clone().unwrap_or_default();
    let of = metadata.namespace.as_deref().unwrap_or_default();
    let inherited = asked(view, &labels, of).is_some_and(|asked| asked.level == Level::Namespace);
    !(inherited && condition.reason == "UnsupportedTrafficType")
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
        "AttachmentDenied" => "istiod does not bind it to its waypoint, which takes nobody of this namespace",
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
