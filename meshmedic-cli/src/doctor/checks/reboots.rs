// SPDX-License-Identifier: Apache-2.0
//! Will your mesh survive a reboot?
//!
//! A node that starts again makes new sandboxes for its old pods. Whether istio-cni enrols them depends on settings
//! whose defaults do not see to it, and on luck. Whether the kubelet shuts pods down gracefully stands in its own
//! configuration, which nobody reads by the API without the right to run anything in every pod: it is not asked.

mod backends;
mod gates;
mod settings;
mod started;

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::need::Need;

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM1601",
        category: Category::Reboots,
        title: "istio-cni owns the CNI configuration that the nodes start with",
        severity: Severity::Warning,
        needs: SETTINGS,
        run: settings::owned,
    },
    Check {
        code: "MM1602",
        category: Category::Reboots,
        title: "istio-cni asks again when it cannot find out whether to enrol a pod",
        severity: Severity::Info,
        needs: SETTINGS,
        run: settings::retry,
    },
    Check {
        code: "MM1603",
        category: Category::Reboots,
        title: "istio-cni renews the rules of the pods that it finds at its start",
        severity: Severity::Info,
        needs: SETTINGS,
        run: settings::reconcile,
    },
    Check {
        code: "MM1604",
        category: Category::Reboots,
        title: "new nodes take no pods before istio-cni is ready",
        severity: Severity::Info,
        needs: &[Need::Pods, Need::Istio, Need::Ambient],
        run: settings::taint,
    },
    Check {
        code: "MM1605",
        category: Category::Reboots,
        title: "no pod started before istio-cni after its node's reboot, unseen",
        severity: Severity::Warning,
        needs: &[Need::Pods, Need::Namespaces, Need::Ambient],
        run: started::run,
    },
    Check {
        code: "MM1606",
        category: Category::Reboots,
        title: "no pod has Istio's rules in both packet filters",
        severity: Severity::Warning,
        needs: &[Need::Ambient, Need::Scan],
        run: backends::run,
    },
    Check {
        code: "MM1607",
        category: Category::Reboots,
        title: "gates come first, and let their pods start",
        severity: Severity::Warning,
        needs: &[Need::Pods, Need::Ambient],
        run: gates::run,
    },
];

const SETTINGS: &[Need] = &[Need::Pods, Need::CniConfig, Need::Ambient];

#[cfg(test)]
pub(super) mod tests;
