// SPDX-License-Identifier: Apache-2.0
//! How much, how often, and when to stop: what agents, command, documents, simulation and benchmarks go by.

use std::time::Duration;

use crate::policy::Withheld;

use super::LeaseKey;
use super::ledger::{Allowance, Breaker, Counts};

/// How much may be under way and done, and when it must rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Repairs under way on a node.
    pub in_flight_node: usize,
    /// Repairs under way of one owner's pods, on any node.
    pub in_flight_owner: usize,
    /// Repairs under way in the cluster.
    pub slots: u32,
    /// Acts an hour on a node.
    pub per_hour_node: usize,
    /// Acts an hour in the cluster.
    pub per_hour_cluster: usize,
    /// The wait after a failure, doubling up to the second.
    pub cooldown: (Duration, Duration),
    /// Failures in a row that open the breaker of an owner or a node.
    pub breaker_failures: u32,
    /// Failures in a row that open the cluster's.
    pub breaker_failures_cluster: u32,
    /// For how long.
    pub breaker_open: Duration,
    /// By when the successor must be proved.
    pub successor_deadline: Duration,
}

/// Heals in place that did not take on so many nodes, of pods of so many namespaces, are no single node's or tenant's.
const HEAL_BREAKER_NODES: u32 = 3;
const HEAL_BREAKER_NAMESPACES: usize = 2;
const MINUTE: Duration = Duration::from_secs(60);

impl Limits {
    /// What holds where nobody chose otherwise.
    pub const DEFAULT: Self = Self {
        in_flight_node: 1,
        in_flight_owner: 1,
        slots: 3,
        per_hour_node: 20,
        per_hour_cluster: 60,
        cooldown: (MINUTE.saturating_mul(5), MINUTE.saturating_mul(60)),
        breaker_failures: 2,
        breaker_failures_cluster: 5,
        breaker_open: MINUTE.saturating_mul(60),
        successor_deadline: MINUTE.saturating_mul(5),
    };

    /// What the record in a Lease allows.
    #[must_use]
    pub fn allowance(&self, lease: &LeaseKey) -> Allowance {
        let breaker = |failures, why| Breaker {
            failures,
            open: self.breaker_open,
            why,
            counts: Counts::All,
        };
        match lease {
            LeaseKey::Owner(_) => Allowance {
                in_flight: Some((self.in_flight_owner, Withheld::InFlightOwner)),
                breaker: Some(breaker(self.breaker_failures, Withheld::BreakerOwner)),
                cooldown: Some(self.cooldown),
                keeps_outcomes: true,
                ..Allowance::default()
            },
            LeaseKey::Node(_) => Allowance {
                in_flight: Some((self.in_flight_node, Withheld::InFlightNode)),
                per_hour: Some((self.per_hour_node, Withheld::BudgetNode)),
                breaker: Some(breaker(self.breaker_failures, Withheld::BreakerNode)),
                ..Allowance::default()
            },
            LeaseKey::Slot(_) => Allowance {
                in_flight: Some((1, Withheld::NoSlot)),
                frees_at_once: true,
                ..Allowance::default()
            },
            LeaseKey::Cluster => Allowance {
                per_hour: Some((self.per_hour_cluster, Withheld::BudgetCluster)),
                breaker: Some(Breaker {
                    counts: Counts::Spread,
                    ..breaker(self.breaker_failures_cluster, Withheld::BreakerCluster)
                }),
                ..Allowance::default()
            },
            LeaseKey::Heals => Allowance {
                breaker: Some(Breaker {
                    counts: Counts::Nodes {
                        namespaces: HEAL_BREAKER_NAMESPACES,
                    },
                    ..breaker(HEAL_BREAKER_NODES, Withheld::HealBreaker)
                }),
                ..Allowance::default()
            },
        }
    }
}
