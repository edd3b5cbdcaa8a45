// SPDX-License-Identifier: Apache-2.0
//! Waypoints that do not work, and wishes for one that nobody can meet.
//!
//! Where istiod denies an object its waypoint by a condition, [`super::status`] tells; here is what it cannot tell or
//! has not told: it says nothing of namespaces and pods, and never takes back that a waypoint was once Ready.

mod asked;
mod down;
mod ingress;

pub(super) use asked::remedy;

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::kind::{AUTHORIZATION, GATEWAY, REQUEST, ROUTES, VIRTUAL_SERVICE};
use crate::doctor::need::Need;

/// Who asks, and what is there to be asked for.
const BINDINGS: &[Need] = &[
    Need::Pods,
    Need::Namespaces,
    Need::Services,
    Need::Custom(GATEWAY),
    Need::Istio,
];

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM1101",
        category: Category::Waypoints,
        title: "waypoints that are asked for have a Ready pod",
        severity: Severity::Error,
        needs: BINDINGS,
        run: down::run,
    },
    Check {
        code: "MM1102",
        category: Category::Waypoints,
        title: "every waypoint that is asked for exists",
        severity: Severity::Error,
        needs: BINDINGS,
        run: asked::missing,
    },
    Check {
        code: "MM1103",
        category: Category::Waypoints,
        title: "waypoints are for the traffic of those who ask for them",
        severity: Severity::Error,
        needs: BINDINGS,
        run: asked::other_traffic,
    },
    Check {
        code: "MM1104",
        category: Category::Waypoints,
        title: "waypoints take the namespaces that ask for them",
        severity: Severity::Error,
        needs: BINDINGS,
        run: asked::refused,
    },
    Check {
        code: "MM1105",
        category: Category::Waypoints,
        title: "what ingress gateways forward does not go past a waypoint with policies",
        severity: Severity::Warning,
        needs: &[
            Need::Namespaces,
            Need::Services,
            Need::Custom(GATEWAY),
            Need::Custom(AUTHORIZATION),
            Need::Custom(REQUEST),
            Need::AnyOf(ROUTES),
            Need::Custom(VIRTUAL_SERVICE),
            Need::Ambient,
        ],
        run: ingress::run,
    },
];

#[cfg(test)]
mod tests;
