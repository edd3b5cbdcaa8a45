// SPDX-License-Identifier: Apache-2.0
//! What the platform underneath has to be set to for ambient mode, as far as the API shows it.

mod folders;
mod gateway_api;
mod networks;
mod quotas;

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::need::Need;

const FELIX: &str = "felixconfigurations.crd.projectcalico.org";
const SECURITY_GROUPS: &str = "securitygrouppolicies.vpcresources.k8s.aws";

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM1501",
        category: Category::Platform,
        title: "Cilium leaves other plugins' CNI configuration alone",
        severity: Severity::Error,
        needs: &[Need::CiliumConfig, Need::Ambient],
        run: networks::exclusive,
    },
    Check {
        code: "MM1502",
        category: Category::Platform,
        title: "Cilium does not masquerade in BPF",
        severity: Severity::Error,
        needs: &[Need::CiliumConfig, Need::Ambient],
        run: networks::masquerade,
    },
    Check {
        code: "MM1503",
        category: Category::Platform,
        title: "Cilium balances loads at sockets of nodes alone",
        severity: Severity::Error,
        needs: &[Need::CiliumConfig, Need::Ambient],
        run: networks::sockets,
    },
    Check {
        code: "MM1504",
        category: Category::Platform,
        title: "the AWS VPC CNI lets probes in to pods with security groups of their own",
        severity: Severity::Error,
        needs: &[
            Need::Pods,
            Need::Namespaces,
            Need::DaemonSets,
            Need::Custom(SECURITY_GROUPS),
            Need::Ambient,
        ],
        run: networks::security_groups,
    },
    Check {
        code: "MM1505",
        category: Category::Platform,
        title: "Calico's eBPF data plane leaves the choice of a pod to the mesh",
        severity: Severity::Error,
        needs: &[Need::Custom(FELIX), Need::Ambient],
        run: networks::connect_time,
    },
    Check {
        code: "MM1506",
        category: Category::Platform,
        title: "quotas leave room for istio-cni and ztunnel on every node",
        severity: Severity::Error,
        needs: &[Need::Nodes, Need::DaemonSets, Need::ResourceQuotas, Need::Ambient],
        run: quotas::run,
    },
    Check {
        code: "MM1507",
        category: Category::Platform,
        title: "istio-cni writes into the folders that this platform reads",
        severity: Severity::Error,
        needs: &[Need::Nodes, Need::DaemonSets, Need::Ambient],
        run: folders::run,
    },
    Check {
        code: "MM1508",
        category: Category::Platform,
        title: "the Gateway API is installed, in a release that istiod reads",
        severity: Severity::Error,
        needs: &[Need::Namespaces, Need::Services, Need::GatewayApi, Need::Istio],
        run: gateway_api::run,
    },
    Check {
        code: "MM1509",
        category: Category::Platform,
        title: "pod security lets istio-cni and ztunnel be privileged",
        severity: Severity::Error,
        needs: &[Need::Namespaces, Need::DaemonSets, Need::Ambient],
        run: quotas::pod_security,
    },
];

#[cfg(test)]
mod tests;
