// SPDX-License-Identifier: Apache-2.0
//! NetworkPolicies that cut the mesh, each with a patch that was tried out.

mod hbone;
mod mesh;
mod plugins;
mod probes;
mod remedy;
mod timeouts;
mod waypoints;

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::need::Need;
use crate::doctor::view::View;
use remedy::Fault;

/// What evaluating policies takes.
const EVALUATION: &[Need] = &[
    Need::Pods,
    Need::Namespaces,
    Need::Services,
    Need::NetworkPolicies,
];

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM0501",
        category: Category::NetworkPolicy,
        title: "NetworkPolicies let pods of the mesh in on port 15008 too",
        severity: Severity::Error,
        needs: EVALUATION,
        run: |view| remedy::findings(view, hbone::ingress(view)),
    },
    Check {
        code: "MM0502",
        category: Category::NetworkPolicy,
        title: "NetworkPolicies let pods out to the mesh on port 15008 too",
        severity: Severity::Error,
        needs: EVALUATION,
        run: |view| remedy::findings(view, hbone::egress(view)),
    },
    Check {
        code: "MM0503",
        category: Category::NetworkPolicy,
        title: "NetworkPolicies let the kubelet's probes in from the address that istio-cni gives them",
        severity: Severity::Warning,
        needs: EVALUATION,
        run: |view| remedy::findings(view, probes::faults(view)),
    },
    Check {
        code: "MM0504",
        category: Category::NetworkPolicy,
        title: "NetworkPolicies let proxies and the API server reach istiod",
        severity: Severity::Error,
        needs: EVALUATION,
        run: |view| remedy::findings(view, mesh::istiod(view)),
    },
    Check {
        code: "MM0505",
        category: Category::NetworkPolicy,
        title: "NetworkPolicies let waypoints reach the pods behind them",
        severity: Severity::Error,
        needs: EVALUATION,
        run: |view| remedy::findings(view, waypoints::faults(view)),
    },
    Check {
        code: "MM0506",
        category: Category::NetworkPolicy,
        title: "no HBONE connection times out because a NetworkPolicy forbids it",
        severity: Severity::Warning,
        needs: &[
            Need::Pods,
            Need::Namespaces,
            Need::Services,
            Need::NetworkPolicies,
            Need::Logs,
        ],
        run: timeouts::run,
    },
    Check {
        code: "MM0507",
        category: Category::NetworkPolicy,
        title: "no policies are in force that only the network plugin understands",
        severity: Severity::Info,
        needs: &[Need::NetworkPolicies],
        run: plugins::run,
    },
];

/// Everything that is wrong with policies, whichever of the checks were asked for: what helps is one patch a policy.
/// Those come first that change a rule that is there, for they may make a rule more needless.
fn faults<'v>(view: &'v View<'_>) -> Vec<Fault<'v>> {
    let mut all = hbone::ingress(view);
    all.extend(hbone::egress(view));
    all.extend(probes::faults(view));
    all.extend(mesh::istiod(view));
    all.extend(waypoints::faults(view));
    all
}

#[cfg(test)]
mod tests;
