// SPDX-License-Identifier: Apache-2.0
//! Jobs that are done, but for their sidecar.

use super::PROXY;
use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::view::{PodView, View};

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let pods = view.pods().iter().filter(|pod| pod.is_live());
    pods.filter_map(finding).collect()
}

fn finding(pod: &PodView<'_>) -> Option<Finding> {
    let owner = pod.facts.controller.as_ref()?;
    // A native sidecar is no hindrance, and is not among the containers.
    let spec = pod.pod.spec.as_ref()?;
    if owner.kind != "Job" || !spec.containers.iter().any(|container| container.name == PROXY) {
        return None;
    }
    let statuses = pod.pod.status.as_ref()?.container_statuses.as_deref()?;
    let (proxies, apps): (Vec<_>, Vec<_>) = statuses.iter().partition(|status| status.name == PROXY);
    let runs = proxies
        .iter()
        .any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()));
    let ended = |status: &&k8s_openapi::api::core::v1::ContainerStatus| {
        status
            .state
            .as_ref()
            .is_some_and(|state| state.terminated.is_some())
    };
    if apps.is_empty() || !runs || !apps.iter().all(ended) {
        return None;
    }
    let names: Vec<&str> = apps.iter().map(|status| status.name.as_str()).collect();
    let (namespace, name) = (&pod.facts.namespace, &pod.facts.name);
    Some(
        Finding::on(pod.object(), "its work is done, and its sidecar keeps it from ending")
            .of(pod.workload.clone())
            .because(format!("{} ended, and {PROXY} runs", names.join(", ")))
            .so("The Job never completes: what waits for it waits for ever, and a CronJob may not start again.")
            .run(
                Command::new("kubectl exec -c istio-proxy")
                    .namespace(namespace)
                    .name(name)
                    .words("-- pilot-agent request POST quitquitquit"),
            )
            .by_hand(
                "That ends this one. For the next: have sidecars run natively (annotation \
                 sidecar.istio.io/nativeSidecar: \"true\", or ENABLE_NATIVE_SIDECARS on istiod), or leave the Job out \
                 of the mesh with the label sidecar.istio.io/inject: \"false\", or move its namespace to ambient.",
            ),
    )
}
