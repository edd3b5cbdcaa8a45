// SPDX-License-Identifier: Apache-2.0
//! What istiod says, in conditions, of the waypoint that something asks for.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meshmedic_common::text::clean;

use super::View;
use super::gateways::{Level, asked};
use crate::doctor::snapshot::{Condition, Custom};

/// Whether the waypoint that something asks for is in force for it.
const BOUND: &str = "istio.io/WaypointBound";
/// What is kept of a message.
const MAX_WORDS: usize = 300;

/// The condition by which istiod denies a Service its waypoint.
pub(crate) fn denied_service(view: &View<'_>, service: &Service) -> Option<Condition> {
    of_service(service).filter(|condition| is_of_interest(view, &service.metadata, condition))
}

/// The condition by which istiod denies a ServiceEntry or WorkloadEntry its waypoint.
pub(crate) fn denied_entry<'e>(view: &View<'_>, entry: &'e Custom) -> Option<&'e Condition> {
    of_custom(entry).filter(|condition| is_of_interest(view, &entry.metadata, condition))
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

/// A namespace may ask for a waypoint that is for workloads alone: istiod then says so of each of its Services, and
/// nothing is wrong.
fn is_of_interest(view: &View<'_>, metadata: &ObjectMeta, condition: &Condition) -> bool {
    let labels = metadata.labels.clone().unwrap_or_default();
    let of = metadata.namespace.as_deref().unwrap_or_default();
    let inherited = asked(view, &labels, of).is_some_and(|asked| asked.level == Level::Namespace);
    !(inherited && condition.reason == "UnsupportedTrafficType")
}
