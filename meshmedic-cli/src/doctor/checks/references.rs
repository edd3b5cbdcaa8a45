// SPDX-License-Identifier: Apache-2.0
//! Names in objects of Istio and the Gateway API of which nothing is called so.

mod backends;
mod destinations;
mod exports;
mod identities;
mod overlap;
mod parents;
mod selectors;

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::kind::{
    AUTHORIZATION, DESTINATION_RULE, GATEWAY, ISTIO_GATEWAY, REFERENCE_GRANT, ROUTES, SERVICE_ENTRY,
    VIRTUAL_SERVICE,
};
use crate::doctor::need::Need;

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM1301",
        category: Category::References,
        title: "VirtualServices lead to hosts that exist",
        severity: Severity::Error,
        needs: DESTINATIONS,
        run: destinations::hosts,
    },
    Check {
        code: "MM1302",
        category: Category::References,
        title: "VirtualServices lead to ports that their hosts have",
        severity: Severity::Error,
        needs: DESTINATIONS,
        run: destinations::ports,
    },
    Check {
        code: "MM1303",
        category: Category::References,
        title: "routes lead to Services that exist, have the port and may be used",
        severity: Severity::Error,
        needs: &[Need::Services, Need::AnyOf(ROUTES), Need::Custom(REFERENCE_GRANT)],
        run: backends::run,
    },
    Check {
        code: "MM1304",
        category: Category::References,
        title: "routes are attached to what exists",
        severity: Severity::Error,
        needs: &[
            Need::Services,
            Need::AnyOf(&[
                VIRTUAL_SERVICE,
                "grpcroutes.gateway.networking.k8s.io",
                "httproutes.gateway.networking.k8s.io",
                "tcproutes.gateway.networking.k8s.io",
                "tlsroutes.gateway.networking.k8s.io",
            ]),
            Need::AnyOf(&[GATEWAY, ISTIO_GATEWAY]),
        ],
        run: parents::run,
    },
    Check {
        code: "MM1305",
        category: Category::References,
        title: "objects are exported to namespaces that exist",
        severity: Severity::Warning,
        needs: &[
            Need::Namespaces,
            Need::AnyOf(&[VIRTUAL_SERVICE, DESTINATION_RULE, SERVICE_ENTRY]),
        ],
        run: exports::run,
    },
    Check {
        code: "MM1306",
        category: Category::References,
        title: "each host has one VirtualService for callers within the mesh",
        severity: Severity::Error,
        needs: &[Need::Custom(VIRTUAL_SERVICE)],
        run: overlap::run,
    },
    Check {
        code: "MM1307",
        category: Category::References,
        title: "Services in the mesh select something",
        severity: Severity::Info,
        needs: &[
            Need::Pods,
            Need::Namespaces,
            Need::Services,
            Need::Deployments,
            Need::DaemonSets,
            Need::StatefulSets,
            Need::CronJobs,
            Need::Ambient,
        ],
        run: selectors::run,
    },
    Check {
        code: "MM1308",
        category: Category::References,
        title: "AuthorizationPolicies name identities that exist",
        severity: Severity::Warning,
        needs: &[
            Need::Namespaces,
            Need::ServiceAccounts,
            Need::MeshConfig,
            Need::Custom(AUTHORIZATION),
        ],
        run: identities::run,
    },
];

const DESTINATIONS: &[Need] = &[
    Need::Services,
    Need::Custom(VIRTUAL_SERVICE),
    Need::Custom(SERVICE_ENTRY),
];

#[cfg(test)]
mod tests;
