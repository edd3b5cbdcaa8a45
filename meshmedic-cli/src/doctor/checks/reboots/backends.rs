// SPDX-License-Identifier: Apache-2.0
//! Pods that have Istio's rules twice.

use meshmedic_common::rules::Backend;

use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::View;

/// istio-cni chooses between the packet filters at each start, and the pods that it enrolled before keep what they have.
pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for seen in view.snapshot.scan.all() {
        // Of a pod that ztunnel does not serve, that is the lesser news.
        let served = seen.rules.filter(|_| seen.state.is_held());
        let twice = served.filter(|rules| {
            let families = [rules.ipv4, rules.ipv6];
            families
                .iter()
                .any(|family| family.backend == Some(Backend::Both))
        });
        let Some(rules) = twice else { continue };
        let object = ObjectRef::new("Pod", &seen.namespace, &seen.name);
        let finding = Finding::on(object, "Istio's redirection rules are in it twice, in both packet filters")
            .because(rules.told())
            .so(
                "It is captured all the same. When it leaves the mesh, istio-cni takes one set away, and the other leads \
                 its connections to a port on which nothing listens.",
            );
        let known = view.pod(&seen.namespace, &seen.name);
        findings.push(match known.filter(|pod| pod.facts.uid == seen.uid) {
            Some(pod) => pod.made_anew(finding.of(pod.workload.clone())),
            None => finding.by_hand("make the pod anew"),
        });
    }
    findings
}
