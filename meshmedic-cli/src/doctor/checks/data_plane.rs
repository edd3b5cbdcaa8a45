// SPDX-License-Identifier: Apache-2.0
//! ztunnel and istio-cni on each node, and what ztunnel knows.

mod nodes;
mod ztunnel;

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::need::Need;

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM0201",
        category: Category::DataPlane,
        title: "ztunnel is ready on every node that runs ambient pods",
        severity: Severity::Error,
        needs: &[Need::Pods, Need::Namespaces, Need::Ambient],
        run: nodes::ztunnel_ready,
    },
    Check {
        code: "MM0202",
        category: Category::DataPlane,
        title: "istio-cni is ready on every node that runs ambient pods",
        severity: Severity::Error,
        needs: &[Need::Pods, Need::Namespaces, Need::Ambient],
        run: nodes::cni_ready,
    },
    Check {
        code: "MM0203",
        category: Category::DataPlane,
        title: "no ztunnel or istio-cni ran out of memory",
        severity: Severity::Error,
        needs: &[Need::Pods, Need::Ambient],
        run: nodes::out_of_memory,
    },
    Check {
        code: "MM0204",
        category: Category::DataPlane,
        title: "no ztunnel or istio-cni restarts again and again",
        severity: Severity::Warning,
        needs: &[Need::Pods, Need::Ambient],
        run: nodes::restarts,
    },
    Check {
        code: "MM0205",
        category: Category::DataPlane,
        title: "every ztunnel reaches istiod",
        severity: Severity::Error,
        needs: &[Need::Ambient, Need::Logs],
        run: ztunnel::reaches_istiod,
    },
    Check {
        code: "MM0206",
        category: Category::DataPlane,
        title: "ztunnels hold certificates that are valid for long enough",
        severity: Severity::Error,
        needs: &[Need::Ambient, Need::Dumps],
        run: ztunnel::certificates,
    },
    Check {
        code: "MM0207",
        category: Category::DataPlane,
        title: "ztunnels know the workloads of the mesh",
        severity: Severity::Error,
        needs: &[Need::Ambient, Need::Dumps],
        run: ztunnel::knows_workloads,
    },
    Check {
        code: "MM0208",
        category: Category::DataPlane,
        title: "no proxy of a pod is pending in its ztunnel",
        severity: Severity::Warning,
        needs: &[Need::Ambient, Need::Pods, Need::Dumps],
        run: ztunnel::pending,
    },
    Check {
        code: "MM0209",
        category: Category::DataPlane,
        title: "each ztunnel serves every pod that is enrolled on its node",
        severity: Severity::Error,
        needs: &[Need::Ambient, Need::Pods, Need::Namespaces, Need::Dumps],
        run: ztunnel::serves_enrolled,
    },
];

#[cfg(test)]
mod tests;
