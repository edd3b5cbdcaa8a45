// SPDX-License-Identifier: Apache-2.0
//! Proxies that are two where one should be, or that are known to have holes.

mod holes;
mod injected;

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::need::Need;

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM1701",
        category: Category::Proxies,
        title: "no pod has two proxies of a mesh",
        severity: Severity::Error,
        needs: &[Need::Pods],
        run: injected::twice,
    },
    Check {
        code: "MM1702",
        category: Category::Proxies,
        title: "no pod is injected by two of Istio's webhooks",
        severity: Severity::Error,
        needs: &[Need::Pods, Need::Namespaces, Need::MutatingWebhooks, Need::Istio],
        run: injected::by_two,
    },
    Check {
        code: "MM1703",
        category: Category::Proxies,
        title: "no part of Istio has holes that a later patch closes",
        severity: Severity::Warning,
        needs: &[Need::Pods, Need::Istio],
        run: holes::run,
    },
];

#[cfg(test)]
mod tests;
