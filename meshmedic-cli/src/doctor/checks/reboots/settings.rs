// SPDX-License-Identifier: Apache-2.0
//! The settings of Istio that decide what a reboot leaves behind, each with the version that has it.

use crate::doctor::checks::version::Release;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::{View, endpoints};

/// A setting of istio-cni's chart.
struct Setting {
    /// As istio-cni's ConfigMap has it.
    key: &'static str,
    /// As the chart has it.
    value: &'static str,
    /// The first release that has it.
    since: Release,
}

const OWNED: Setting = Setting {
    key: "ISTIO_OWNED_CNI_CONFIG",
    value: "istioOwnedCNIConfig",
    since: Release(1, 27, 0),
};
const RETRY: Setting = Setting {
    key: "ENABLE_AMBIENT_DETECTION_RETRY",
    value: "ambient.enableAmbientDetectionRetry",
    since: Release(1, 28, 4),
};
const RECONCILE: Setting = Setting {
    key: "AMBIENT_RECONCILE_POD_RULES_ON_STARTUP",
    value: "ambient.reconcileIptablesOnStartup",
    since: Release(1, 25, 0),
};
/// From this release on istio-cni's scan at its start passes over pods that have no address yet.
const WANTS_ADDRESSES: Release = Release(1, 31, 0);
/// istiod's switch for taking the taint off nodes whose istio-cni is ready.
const UNTAINT: &str = "PILOT_ENABLE_NODE_UNTAINT_CONTROLLERS";
const UNTAINT_SINCE: Release = Release(1, 22, 0);

impl Setting {
    fn is_on(&self, view: &View<'_>) -> bool {
        let config = view.snapshot.cni_config.had();
        config
            .and_then(|config| config.get(self.key))
            .is_some_and(|value| value == "true")
    }

    /// On istio-cni, where it is off: what it is, where it stands, and how it is turned on, or that it needs an upgrade.
    fn off(&self, view: &View<'_>, problem: &str) -> Option<(Finding, Option<Release>)> {
        if self.is_on(view) {
            return None;
        }
        let set = view.cni_sets().next();
        let of = set
            .and_then(|set| set.metadata.namespace.as_deref())
            .unwrap_or(&view.istio);
        let said = view
            .snapshot
            .cni_config
            .had()
            .and_then(|config| config.get(self.key));
        let said = match said {
            Some(value) => format!("{} is {value} in ConfigMap {of}/istio-cni-config", self.key),
            None => format!("ConfigMap {of}/istio-cni-config has no {}", self.key),
        };
        let release = view.cnis().find_map(|pod| Release::of_pod(pod, "/install-cni"));
        let mut finding =
            Finding::on(ObjectRef::new("DaemonSet", of, "istio-cni-node"), problem).because(said);
        if let Some(release) = release {
            finding = finding.because(format!("istio-cni is {release}, and has it since {}", self.since));
        }
        Some((finding, release))
    }

    fn remedy(&self, finding: Finding, release: Option<Release>) -> Finding {
        match release {
            Some(release) if release < self.since => finding.by_hand(format!(
                "Bring Istio to {} or later, and set {}: true in the values of istio-cni's chart (cni.{} where istioctl or \
                 an operator installs it).",
                self.since, self.value, self.value
            )),
            _ => finding.by_hand(format!(
                "Set {}: true in the values of istio-cni's chart, where they are kept: Helm's values file, the GitOps \
                 repository, or cni.{} of the IstioOperator. Its pods then restart, one node after the other.",
                self.value, self.value
            )),
        }
    }
}

/// A standalone plugin, as under Multus, has a file of its own anyway.
pub(super) fn owned(view: &View<'_>) -> Vec<Finding> {
    let config = view.snapshot.cni_config.had();
    let chained = config.and_then(|config| config.get("CHAINED_CNI_PLUGIN"));
    if chained.is_some_and(|value| value == "false") {
        return Vec::new();
    }
    let off = OWNED.off(view, "after a reboot pods can start without it");
    let found = off.map(|(finding, release)| {
        let mut finding = finding;
        if release.is_some_and(|release| release >= WANTS_ADDRESSES) {
            finding = finding.because(format!(
                "since {WANTS_ADDRESSES} its one scan at its start passes over pods that have no address yet, as after a \
                 reboot"
            ));
        }
        let finding = finding.so(
            "Where the network's own plugin writes its configuration anew at boot, the node's pods start before istio-cni is \
             in it again: they are Ready, marked as enrolled, and speak plaintext past the mesh until they are healed or restarted.",
        );
        OWNED.remedy(finding, release)
    });
    found.into_iter().collect()
}

pub(super) fn retry(view: &View<'_>) -> Vec<Finding> {
    let off = RETRY.off(
        view,
        "a pod for which the API server does not answer starts outside the mesh",
    );
    let found = off.map(|(finding, release)| {
        let finding = finding.so(
            "When the API server is slow, as when many nodes start at once, the plugin takes such a pod for one that is not \
             to be enrolled, and lets it start.",
        );
        RETRY.remedy(finding, release)
    });
    found.into_iter().collect()
}

pub(super) fn reconcile(view: &View<'_>) -> Vec<Finding> {
    let off = RECONCILE.off(view, "pods keep the rules that an earlier istio-cni gave them");
    let found = off.map(|(finding, release)| {
        let finding = finding.so(
            "When it starts again, after an upgrade too, rules that are missing or of another version stay as they are until \
             the pod is made anew.",
        );
        RECONCILE.remedy(finding, release)
    });
    found.into_iter().collect()
}

pub(super) fn taint(view: &View<'_>) -> Vec<Finding> {
    let istiods: Vec<_> = view.istiods().collect();
    let on = istiods.iter().any(|pod| {
        let variables = endpoints::containers(pod.pod).flat_map(|container| container.env.iter().flatten());
        let mut variables = variables.filter(|variable| variable.name == UNTAINT);
        variables.any(|variable| variable.value.as_deref() == Some("true"))
    });
    let Some(istiod) = istiods.first().filter(|_| !on) else {
        return Vec::new();
    };
    let object = istiod.workload.clone().unwrap_or_else(|| istiod.object());
    vec![
        Finding::on(object, "nothing keeps pods off a node until istio-cni is ready there")
            .because(format!("no istiod has {UNTAINT}=true; istiod has it since {UNTAINT_SINCE}"))
            .so(
                "On a node that is new, pods of the mesh can start before istio-cni: they wait, or start outside the mesh. A \
                 node that reboots is not tainted again, so this alone does not help there.",
            )
            .by_hand(
                "Let whatever makes nodes give them the taint cni.istio.io/not-ready:NoSchedule, and set taint.enabled: true in \
                 the values of istiod's chart, which takes it off once istio-cni is ready.",
            ),
    ]
}
