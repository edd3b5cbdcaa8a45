// SPDX-License-Identifier: Apache-2.0
//! PeerAuthentications that change nothing.

use super::mtls::{Mode, in_force, mode, of_namespace, reference, selected};
use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::kind::PEER;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::{View, endpoints};

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let policies = view.custom(PEER).iter();
    policies
        .filter_map(|policy| second(view, policy).or_else(|| disabled(view, policy)))
        .collect()
}

/// Of two that are for a whole namespace the older one holds.
fn second(view: &View<'_>, policy: &Custom) -> Option<Finding> {
    if selected(policy).is_some() {
        return None;
    }
    let first = of_namespace(view, policy.namespace())?;
    if std::ptr::eq(first, policy) {
        return None;
    }
    let finding = Finding::on(
        reference(policy),
        "it is not in force: an older one is for the whole namespace too",
    )
    .because(format!(
        "{} has no selector either, and came first",
        reference(first)
    ))
    .so(format!(
        "The namespace has the mode of {}, whatever this one says.",
        first.name()
    ))
    .by_hand("Put what is meant into one of the two, and delete the other:")
    .run(
        Command::new("kubectl delete peerauthentication")
            .namespace(policy.namespace())
            .name(policy.name()),
    );
    Some(finding)
}

/// ztunnel cannot turn mTLS off.
fn disabled(view: &View<'_>, policy: &Custom) -> Option<Finding> {
    if mode(policy.spec.get("mtls")) != Some(Mode::Disable) {
        return None;
    }
    let captured = view
        .pods()
        .iter()
        .filter(|pod| pod.is_live() && endpoints::is_captured(pod));
    let count = captured
        .filter(|pod| in_force(view, pod).by.is_some_and(|by| std::ptr::eq(by, policy)))
        .count();
    if count == 0 {
        return None;
    }
    let finding = Finding::on(reference(policy), "it says DISABLE for pods that ztunnel captures")
        .because(format!(
            "spec.mtls.mode is DISABLE, and {count} captured {} under it",
            if count == 1 { "pod stands" } else { "pods stand" }
        ))
        .so(
            "Between captured pods mTLS stays on, and plaintext is taken as well: for ztunnel DISABLE is the same \
             as PERMISSIVE.",
        )
        .by_hand(
            "Say PERMISSIVE if that is meant. Pods that must not speak mTLS at all have to leave the mesh: label \
             istio.io/dataplane-mode=none.",
        );
    Some(finding)
}
