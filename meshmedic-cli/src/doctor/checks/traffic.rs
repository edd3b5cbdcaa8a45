// SPDX-License-Identifier: Apache-2.0
//! Routes that nobody follows, or that lead nowhere.

mod ports;
mod routes;
mod subsets;
mod waypoints;
mod weights;

pub(super) use routes::{service_of, split};
pub(crate) use subsets::reaches;

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::kind::{DESTINATION_RULE, VIRTUAL_SERVICE};
use crate::doctor::need::Need;

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM0701",
        category: Category::Traffic,
        title: "Services with routes of HTTP have a port that speaks it",
        severity: Severity::Warning,
        needs: &[Need::Services, Need::Custom(VIRTUAL_SERVICE)],
        run: ports::not_http,
    },
    Check {
        code: "MM0702",
        category: Category::Traffic,
        title: "Services with routes of HTTP say which port speaks it",
        severity: Severity::Info,
        needs: &[Need::Services, Need::Custom(VIRTUAL_SERVICE)],
        run: ports::undeclared,
    },
    Check {
        code: "MM0703",
        category: Category::Traffic,
        title: "routes to ambient pods have the waypoint that follows them",
        severity: Severity::Warning,
        needs: &[
            Need::Pods,
            Need::Namespaces,
            Need::Services,
            Need::Custom(VIRTUAL_SERVICE),
        ],
        run: waypoints::run,
    },
    Check {
        code: "MM0704",
        category: Category::Traffic,
        title: "the weights of a route add up to more than nothing",
        severity: Severity::Error,
        needs: &[Need::Custom(VIRTUAL_SERVICE)],
        run: weights::run,
    },
    Check {
        code: "MM0705",
        category: Category::Traffic,
        title: "subsets that routes lead to exist and have pods",
        severity: Severity::Error,
        needs: &[
            Need::Pods,
            Need::Services,
            Need::Custom(VIRTUAL_SERVICE),
            Need::Custom(DESTINATION_RULE),
        ],
        run: subsets::run,
    },
];

#[cfg(test)]
mod tests;
