// SPDX-License-Identifier: Apache-2.0
//! Apps that started, and failed, before their sidecar was ready.

use jiff::SignedDuration;

use super::{PROXY, containers};
use crate::doctor::finding::Finding;
use crate::doctor::view::{PodView, View};

/// How long after the pod's start a failure may still be one of the start.
const START: SignedDuration = SignedDuration::from_mins(1);
/// Whoever fails more often has another fault.
const TRIES: i32 = 3;

/// Only of apps that failed at once and run since: many never ask for anything when they start.
pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let config = view.snapshot.mesh_config.had();
    if config.and_then(|config| config.hold_application_until_proxy_starts) == Some(true) {
        return Vec::new();
    }
    let pods = view
        .pods()
        .iter()
        .filter(|pod| pod.is_live() && pod.facts.sidecar);
    pods.filter_map(finding).collect()
}

fn finding(pod: &PodView<'_>) -> Option<Finding> {
    let spec = pod.pod.spec.as_ref()?;
    // A native sidecar is among the init containers, and one that is waited for is the first.
    let place = spec
        .containers
        .iter()
        .position(|container| container.name == PROXY)?;
    let annotations = pod.pod.metadata.annotations.as_ref();
    let held = annotations.and_then(|annotations| annotations.get("proxy.istio.io/config"));
    if place == 0 || held.is_some_and(|config| config.ends_with("true}")) {
        return None;
    }
    let status = pod.pod.status.as_ref()?;
    let started = status.start_time.as_ref()?.0;
    let proxy = containers::status(pod)?;
    if proxy.restart_count > 0 {
        return None;
    }
    let failed = status.container_statuses.iter().flatten().find_map(|container| {
        let ended = container.last_state.as_ref()?.terminated.as_ref()?;
        let finished = ended.finished_at.as_ref()?.0;
        let at_start = finished.duration_since(started) <= START;
        let runs =
            container.state.as_ref()?.running.is_some() && (1..=TRIES).contains(&container.restart_count);
        (ended.exit_code != 0 && at_start && runs && container.name != PROXY).then_some((container, ended))
    });
    let (container, ended) = failed?;
    Some(
        Finding::on(pod.object(), "its app failed when it started, and nothing makes it wait for its sidecar")
            .of(pod.workload.clone())
            .because(format!(
                "container {} ended with code {} within a minute of the pod's start, and has run since its restart",
                container.name, ended.exit_code
            ))
            .because(format!("container {PROXY} is not native, and holdApplicationUntilProxyStarts is not set"))
            .so(
                "The app's first connections go out before the sidecar can take them, and are refused. The restart \
                 hides it, and each new pod stumbles again.",
            )
            .by_hand(
                "Have sidecars run natively (ENABLE_NATIVE_SIDECARS on istiod, the default from Istio 1.27 on \
                 Kubernetes 1.33), or set meshConfig.defaultConfig.holdApplicationUntilProxyStarts, or the same \
                 in the pods' annotation proxy.istio.io/config; then restart the pods.",
            ),
    )
}
