// SPDX-License-Identifier: Apache-2.0
//! What keeps the pods of istio-cni and ztunnel from being made at all.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::ResourceQuota;

use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::{View, name, namespace};

/// The class that GKE gives out by quota alone.
const CRITICAL: &str = "system-node-critical";
/// The label of a node of GKE.
const GKE: &str = "cloud.google.com/gke-nodepool";
/// What a namespace says of how its pods may be.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// Room for as many nodes as Istio's own chart leaves.
const ROOM: &str = "5000";

/// The DaemonSets of the mesh that have fewer pods than nodes, with what is missing.
fn short<'s>(view: &View<'s>) -> Vec<(&'s DaemonSet, i32)> {
    let sets = view.cni_sets().chain(view.ztunnel_sets());
    sets.filter_map(|set| {
        let status = set.status.as_ref()?;
        let missing = status.desired_number_scheduled - status.current_number_scheduled;
        (missing > 0).then_some((set, missing))
    })
    .collect()
}

fn on(set: &DaemonSet, problem: &str, missing: i32) -> Finding {
    Finding::on(
        ObjectRef::new("DaemonSet", namespace(&set.metadata), name(&set.metadata)),
        problem,
    )
    .because(format!("{missing} of its pods are not made"))
}

/// Whether a quota is for pods of this class; one without a scope is for all.
fn is_for(quota: &ResourceQuota, class: &str) -> bool {
    let Some(spec) = &quota.spec else {
        return false;
    };
    let scopes = spec
        .scope_selector
        .iter()
        .flat_map(|selector| selector.match_expressions.iter().flatten());
    let mut scopes = scopes.filter(|scope| scope.scope_name == "PriorityClass");
    let limits =
        |scope: &k8s_openapi::api::core::v1::ScopedResourceSelectorRequirement| match scope.operator.as_str()
        {
            "In" => scope.values.iter().flatten().any(|value| value == class),
            "NotIn" => !scope.values.iter().flatten().any(|value| value == class),
            _ => scope.operator == "Exists",
        };
    let unscoped = spec.scope_selector.is_none() && spec.scopes.as_ref().is_none_or(Vec::is_empty);
    unscoped || scopes.any(limits)
}

/// Whether a quota is used up, and by what.
fn used_up(quota: &ResourceQuota) -> Option<String> {
    let status = quota.status.as_ref()?;
    let hard = status.hard.iter().flatten();
    hard.into_iter().find_map(|(what, hard)| {
        let used = status.used.as_ref()?.get(what)?;
        (used.0 == hard.0 && what.contains("pods"))
            .then(|| format!("{what}: {} of {} are used", used.0, hard.0))
    })
}

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let on_gke = view.snapshot.nodes.all().iter().any(|node| {
        let labels = node.metadata.labels.iter().flatten();
        labels.into_iter().any(|(key, _)| key == GKE)
    });
    let found = short(view).into_iter().filter_map(|(set, missing)| {
        let of = namespace(&set.metadata);
        let class = set.spec.as_ref()?.template.spec.as_ref()?.priority_class_name.as_deref().unwrap_or_default();
        let quotas: Vec<_> = view
            .snapshot
            .resource_quotas
            .all()
            .iter()
            .filter(|quota| namespace(&quota.metadata) == of && is_for(quota, class))
            .collect();
        let full = quotas.iter().find_map(|quota| Some((name(&quota.metadata), used_up(quota)?)));
        if let Some((quota, used)) = full {
            return Some(
                on(set, "a quota keeps its pods from being made", missing)
                    .because(format!("ResourceQuota {of}/{quota}: {used}"))
                    .so("On nodes without them no pod of the mesh starts, or none is captured.")
                    .run(Command::new("kubectl describe resourcequota").namespace(of).name(quota))
                    .by_hand("Raise its number of pods above the number of nodes, twice: both DaemonSets have a pod on each."),
            );
        }
        // GKE gives the class out to kube-system and to namespaces that have a quota for it.
        if !on_gke || class != CRITICAL || of == "kube-system" || !quotas.is_empty() {
            return None;
        }
        let quota = serde_json::json!({
            "apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": { "name": "gcp-critical-pods", "namespace": of },
            "spec": {
                "hard": { "pods": ROOM },
                "scopeSelector": { "matchExpressions": [
                    { "operator": "In", "scopeName": "PriorityClass", "values": [CRITICAL] },
                ] },
            },
        });
        let finding = on(set, "its namespace has no quota for critical pods, which GKE asks for", missing)
            .because(format!("its pods have priorityClassName {class}, and no ResourceQuota of namespace {of} is for that"))
            .so("GKE refuses to make its pods: on nodes without them no pod of the mesh starts, or none is captured.");
        Some(match serde_saphyr::to_string(&quota) {
            Ok(yaml) => finding.apply(&yaml),
            Err(_) => finding,
        })
    });
    found.collect()
}

/// Talos and hardened clusters hold every namespace to the baseline, by default or by a label.
pub(super) fn pod_security(view: &View<'_>) -> Vec<Finding> {
    let talos = view.snapshot.nodes.all().iter().any(|node| {
        let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        info.is_some_and(|info| info.os_image.starts_with("Talos"))
    });
    let found = short(view).into_iter().filter_map(|(set, missing)| {
        let of = namespace(&set.metadata);
        let said = view.namespace_labels(of).get(ENFORCE).map(String::as_str);
        let evidence = match said {
            Some(level @ ("baseline" | "restricted")) => format!("namespace {of} has {ENFORCE}: {level}"),
            None if talos && of != "kube-system" => {
                format!("namespace {of} has no label {ENFORCE}, and Talos holds such to the baseline")
            }
            _ => return None,
        };
        Some(
            on(set, "pod security keeps its pods from being made", missing)
                .because(evidence)
                .so("On nodes without them no pod of the mesh starts, or none is captured.")
                .run(
                    Command::new("kubectl label namespace --overwrite")
                        .name(of)
                        .label(ENFORCE, Some("privileged")),
                ),
        )
    });
    found.collect()
}
