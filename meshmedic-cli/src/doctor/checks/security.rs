// SPDX-License-Identifier: Apache-2.0
//! mTLS as it is in force, and AuthorizationPolicies that do other than they say.

pub(super) mod authorization;
pub(crate) mod health;
mod identity;
pub(crate) mod mtls;
mod peer_authentication;
pub(crate) mod plaintext;
mod selecting;

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::kind::{AUTHORIZATION, PEER};
use crate::doctor::need::Need;

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM0601",
        category: Category::Security,
        title: "no pod that takes plaintext is sent any",
        severity: Severity::Warning,
        needs: &[Need::Pods, Need::Namespaces, Need::Custom(PEER), Need::Logs],
        run: plaintext::run,
    },
    Check {
        code: "MM0602",
        category: Category::Security,
        title: "AuthorizationPolicies ask ztunnel for nothing that it cannot see",
        severity: Severity::Error,
        needs: &[Need::Pods, Need::Namespaces, Need::Custom(AUTHORIZATION)],
        run: authorization::run,
    },
    Check {
        code: "MM0603",
        category: Category::Security,
        title: "policies of Istio select something",
        severity: Severity::Warning,
        needs: &[
            Need::Pods,
            Need::Services,
            Need::Deployments,
            Need::DaemonSets,
            Need::StatefulSets,
            Need::Jobs,
            Need::CronJobs,
            Need::Custom(AUTHORIZATION),
            Need::Custom(PEER),
        ],
        run: selecting::run,
    },
    Check {
        code: "MM0604",
        category: Category::Security,
        title: "AuthorizationPolicies let the kubelet's probes in to pods with a sidecar",
        severity: Severity::Error,
        needs: &[Need::Pods, Need::Custom(AUTHORIZATION)],
        run: health::run,
    },
    Check {
        code: "MM0605",
        category: Category::Security,
        title: "every PeerAuthentication is in force as it stands",
        severity: Severity::Warning,
        needs: &[Need::Pods, Need::Custom(PEER)],
        run: peer_authentication::run,
    },
    Check {
        code: "MM0606",
        category: Category::Security,
        title: "pods of the mesh take nothing but mTLS",
        severity: Severity::Info,
        needs: &[Need::Pods, Need::Namespaces, Need::Custom(PEER)],
        run: mtls::run,
    },
    Check {
        code: "MM0607",
        category: Category::Security,
        title: "only Istio claims to be a part of Istio",
        severity: Severity::Warning,
        needs: &[Need::Pods],
        run: identity::run,
    },
];

#[cfg(test)]
mod tests;
