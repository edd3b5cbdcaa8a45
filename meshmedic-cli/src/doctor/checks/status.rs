// SPDX-License-Identifier: Apache-2.0
//! What istiod itself says about objects, in the conditions of their status.
//!
//! istiod's word goes before anything that other checks conclude from labels and specs: where it denies something,
//! the finding is here, with what it follows from.

mod bindings;
mod gateways;
mod policies;
mod routes;

pub(super) use policies::is_unbound;
pub(super) use routes::is_denied as route_is_denied;

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::kind::{AUTHORIZATION, GATEWAY, ROUTES};
use crate::doctor::need::Need;

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM1001",
        category: Category::Status,
        title: "istiod binds whatever asks for a waypoint to it",
        severity: Severity::Error,
        needs: &[Need::Services, Need::Namespaces, Need::Istio],
        run: bindings::run,
    },
    Check {
        code: "MM1002",
        category: Category::Status,
        title: "istiod binds AuthorizationPolicies to all their targets",
        severity: Severity::Error,
        needs: &[Need::Custom(AUTHORIZATION)],
        run: policies::waypoints,
    },
    Check {
        code: "MM1003",
        category: Category::Status,
        title: "istiod gives AuthorizationPolicies to ztunnel as they stand",
        severity: Severity::Warning,
        needs: &[Need::Pods, Need::Namespaces, Need::Custom(AUTHORIZATION)],
        run: policies::ztunnels,
    },
    Check {
        code: "MM1004",
        category: Category::Status,
        title: "istiod accepts and programs every Gateway of its own",
        severity: Severity::Error,
        needs: &[Need::Custom(GATEWAY)],
        run: gateways::programmed,
    },
    Check {
        code: "MM1005",
        category: Category::Status,
        title: "istiod accepts every route and finds what it refers to",
        severity: Severity::Error,
        needs: &[Need::AnyOf(ROUTES)],
        run: routes::run,
    },
    Check {
        code: "MM1006",
        category: Category::Status,
        title: "Gateways of Istio have an address",
        severity: Severity::Warning,
        needs: &[Need::Custom(GATEWAY)],
        run: gateways::addressed,
    },
];

#[cfg(test)]
mod tests;
