// SPDX-License-Identifier: Apache-2.0
//! Sidecars that are missing, starve, start late or never end.

mod containers;
mod cost;
mod injection;
mod jobs;
mod quantity;
mod start;

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::need::Need;

/// The name of a sidecar's container.
pub(super) const PROXY: &str = "istio-proxy";

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM0801",
        category: Category::Sidecars,
        title: "pods that are to have a sidecar have one",
        severity: Severity::Warning,
        needs: &[Need::Pods, Need::Namespaces, Need::MutatingWebhooks],
        run: injection::run,
    },
    Check {
        code: "MM0802",
        category: Category::Sidecars,
        title: "no sidecar was killed because it ran out of memory",
        severity: Severity::Warning,
        needs: &[Need::Pods],
        run: containers::killed,
    },
    Check {
        code: "MM0803",
        category: Category::Sidecars,
        title: "sidecars may use what one needs at rest",
        severity: Severity::Info,
        needs: &[Need::Pods],
        run: containers::tight,
    },
    Check {
        code: "MM0804",
        category: Category::Sidecars,
        title: "no app failed because it started before its sidecar",
        severity: Severity::Warning,
        needs: &[Need::Pods, Need::MeshConfig],
        run: start::run,
    },
    Check {
        code: "MM0805",
        category: Category::Sidecars,
        title: "no Job waits for its sidecar to end",
        severity: Severity::Warning,
        needs: &[Need::Pods],
        run: jobs::run,
    },
    Check {
        code: "MM0806",
        category: Category::Sidecars,
        title: "sidecars ask for no more than the ambient mesh would",
        severity: Severity::Info,
        needs: &[Need::Pods, Need::Nodes],
        run: cost::run,
    },
];

#[cfg(test)]
mod tests;
