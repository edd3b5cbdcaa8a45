// SPDX-License-Identifier: Apache-2.0
//! RequestAuthentications for pods whose requests nobody looks into.

use super::{under, waypoint_at_hand};
use crate::doctor::checks::security::authorization::has_target;
use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::kind::REQUEST;
use crate::doctor::view::View;
use crate::doctor::view::gateways::reference;

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for policy in view.custom(REQUEST).iter().filter(|policy| !has_target(policy)) {
        let (captured, read) = under(view, policy);
        if captured == 0 || read {
            continue;
        }
        let of = policy.namespace();
        let finding = Finding::on(reference(policy), "nothing checks the tokens of the pods that it selects")
            .because(format!("{captured} pods that ztunnel captures are under it, and no sidecar or gateway"))
            .because("it has no spec.targetRefs, and a waypoint enforces only what targets it")
            .so("Requests with a forged or expired token get through as those without any do.")
            .run(
                Command::new("istioctl waypoint apply --enroll-namespace --wait --name")
                    .name(&waypoint_at_hand(view, of))
                    .namespace(of),
            )
            .by_hand(
                "Then name in spec.targetRefs the Services (kind: Service, group: \"\") whose requests it is for, in the \
                 place of spec.selector, and do the same with the AuthorizationPolicies that ask for requestPrincipals.",
            );
        findings.push(finding);
    }
    findings
}
