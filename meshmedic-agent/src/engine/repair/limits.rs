// SPDX-License-Identifier: Apache-2.0
//! What the settings make of the limits of each Lease.

use meshmedic_common::policy::Withheld;

use super::ledger::Limits;
use super::{LeaseKey, Settings};

/// What the record in a Lease allows.
pub(super) fn limits(settings: &Settings, lease: &LeaseKey) -> Limits {
    let open = settings.breaker_open;
    match lease {
        LeaseKey::Owner(_) => Limits {
            in_flight: Some((settings.in_flight_owner, Withheld::InFlightOwner)),
            breaker: Some((settings.breaker_failures, open, Withheld::BreakerOwner)),
            cooldown: Some(settings.cooldown),
            keeps_outcomes: true,
            ..Limits::default()
        },
        LeaseKey::Node(_) => Limits {
            in_flight: Some((settings.in_flight_node, Withheld::InFlightNode)),
            per_hour: Some((settings.per_hour_node, Withheld::BudgetNode)),
            breaker: Some((settings.breaker_failures, open, Withheld::BreakerNode)),
            ..Limits::default()
        },
        LeaseKey::Slot(_) => Limits {
            in_flight: Some((1, Withheld::NoSlot)),
            frees_at_once: true,
            ..Limits::default()
        },
        LeaseKey::Cluster => Limits {
            per_hour: Some((settings.per_hour_cluster, Withheld::BudgetCluster)),
            breaker: Some((settings.breaker_failures_cluster, open, Withheld::BreakerCluster)),
            ..Limits::default()
        },
    }
}
