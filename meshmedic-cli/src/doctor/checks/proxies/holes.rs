// SPDX-License-Identifier: Apache-2.0
//! Releases with holes that Istio's own bulletins name.

use std::collections::BTreeMap;

use crate::doctor::checks::version::Release;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::View;

/// Of each minor release the patch that closes the last holes that were known when this was written, and the bulletin.
const CLOSED: [(Release, &str); 6] = [
    (Release(1, 25, 5), "ISTIO-SECURITY-2025-001"),
    (Release(1, 26, 4), "ISTIO-SECURITY-2025-001"),
    (Release(1, 27, 1), "ISTIO-SECURITY-2025-001"),
    (Release(1, 28, 10), "ISTIO-SECURITY-2026-005"),
    (Release(1, 29, 9), "ISTIO-SECURITY-2026-007"),
    (Release(1, 30, 4), "ISTIO-SECURITY-2026-006"),
];
/// The parts that take what others send, by their images, and what people call them.
const PARTS: [(&str, &str); 3] = [
    ("/pilot", "istiod"),
    ("/proxyv2", "a proxy"),
    ("/ztunnel", "ztunnel"),
];

/// One finding for each workload and release, not for each pod.
pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut findings: BTreeMap<(ObjectRef, Release), Finding> = BTreeMap::new();
    for pod in view.pods().iter().filter(|pod| pod.is_live()) {
        for (image, part) in PARTS {
            let Some(release) = Release::of_pod(pod, image) else {
                continue;
            };
            let newer = CLOSED
                .iter()
                .find(|(closed, _)| (closed.0, closed.1) == (release.0, release.1));
            let Some((closed, bulletin)) = newer.filter(|(closed, _)| release < *closed) else {
                continue;
            };
            let key = pod.workload.clone().unwrap_or_else(|| pod.object());
            findings.entry((key, release)).or_insert_with(|| {
                let finding = Finding::on(pod.object(), format!("{part} of a release with known holes"))
                    .of(pod.workload.clone())
                    .because(format!(
                        "its image is of {release}; {bulletin} is closed in {closed}"
                    ))
                    .so("What the bulletin describes can be done to it: see istio.io/latest/news/security.");
                if image == "/proxyv2" && pod.facts.sidecar {
                    let finding =
                        finding.by_hand(format!("Bring Istio to {closed} or later, and then its proxies:"));
                    pod.made_anew(finding)
                } else {
                    finding.by_hand(format!("Bring Istio to {closed} or a later minor release."))
                }
            });
        }
    }
    findings.into_values().collect()
}
