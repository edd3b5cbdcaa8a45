// SPDX-License-Identifier: Apache-2.0
//! Who keeps an object as it is, and so where a change of it has to be made.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::View;
use crate::doctor::command::{Command, is_name};
use crate::doctor::finding::Finding;

const RELEASE: &str = "meta.helm.sh/release-name";
const RELEASE_NAMESPACE: &str = "meta.helm.sh/release-namespace";
const CHART: &str = "helm.sh/chart";
/// Marks of tools that undo what is changed in the cluster alone: the key of a label or an annotation, and the tool.
const TOOLS: [(&str, &str); 5] = [
    ("argocd.argoproj.io/tracking-id", "Argo CD"),
    ("argocd.argoproj.io/instance", "Argo CD"),
    ("helm.toolkit.fluxcd.io/name", "Flux"),
    ("kustomize.toolkit.fluxcd.io/name", "Flux"),
    ("fleet.cattle.io/bundle-id", "Fleet"),
];
/// Operators of Istio: kinds that own its parts, and groups of those kinds.
const OPERATOR_GROUPS: [&str; 2] = ["sailoperator.io", "install.istio.io"];
/// What istioctl writes on what it installs.
const ISTIOCTL: &str = "install.operator.istio.io/owning-resource";

/// Who keeps an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// A tool that syncs it from elsewhere, by its name.
    Synced(&'static str),
    /// An operator, by the object that owns this one.
    Operator(String),
    /// A release of Helm.
    Helm {
        release: String,
        namespace: String,
    },
    Istioctl,
    Unknown,
}

impl Keeper {
    /// By the marks that they leave.
    pub(crate) fn of(metadata: &ObjectMeta) -> Self {
        let mark = |key: &str| {
            let maps = [metadata.annotations.as_ref(), metadata.labels.as_ref()];
            maps.into_iter().flatten().find_map(|map| map.get(key))
        };
        if let Some((_, tool)) = TOOLS.iter().find(|(key, _)| mark(key).is_some()) {
            return Self::Synced(tool);
        }
        let mut owners = metadata.owner_references.iter().flatten();
        let operator = |group: &str| OPERATOR_GROUPS.iter().any(|of| group.starts_with(of));
        if let Some(owner) = owners.find(|owner| operator(&owner.api_version)) {
            return Self::Operator(format!("{} {}", owner.kind, owner.name));
        }
        match (mark(RELEASE), mark(RELEASE_NAMESPACE)) {
            (Some(release), Some(namespace)) if is_name(release) && is_name(namespace) => Self::Helm {
                release: release.clone(),
                namespace: namespace.clone(),
            },
            _ if mark(ISTIOCTL).is_some() => Self::Istioctl,
            _ => Self::Unknown,
        }
    }

    /// Where a change has to be made, if not in the object itself.
    pub(crate) fn elsewhere(&self) -> Option<String> {
        match self {
            Self::Synced(tool) => Some(format!(
                "{tool} keeps this object: make the change where {tool} takes it from, or it is undone."
            )),
            Self::Operator(owner) => Some(format!(
                "An operator keeps this object for {owner}: make the change there, or it is undone."
            )),
            Self::Helm { release, .. } => Some(format!(
                "Helm's release {release} made this object: make the change in its chart or values too, or the next \
                 upgrade undoes it."
            )),
            Self::Istioctl | Self::Unknown => None,
        }
    }
}

/// A value of one of Istio's charts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChartValue {
    /// The chart as Istio publishes it: `istiod`, `cni` or `ztunnel`.
    pub(crate) chart: &'static str,
    /// `key=value`.
    pub(crate) set: &'static str,
}

impl View<'_> {
    /// What sets a value of the chart from which this object of Istio's comes, in the way in which it was installed.
    pub(crate) fn set_value(
        &self,
        finding: Finding,
        metadata: Option<&ObjectMeta>,
        value: ChartValue,
    ) -> Finding {
        let ChartValue { chart, set } = value;
        let keeper = metadata.map_or(Keeper::Unknown, Keeper::of);
        let version = metadata.and_then(|metadata| chart_version(metadata, chart));
        let chart_name = match chart {
            "istiod" => "istio/istiod",
            "cni" => "istio/cni",
            _ => "istio/ztunnel",
        };
        match (&keeper, version) {
            (Keeper::Helm { release, namespace }, Some(version)) => finding
                .run(
                    Command::new("helm upgrade")
                        .name(release)
                        .words(chart_name)
                        .namespace(namespace)
                        .option("--version", version)
                        .words("--reuse-values")
                        .option("--set", set),
                )
                .by_hand("Where your copy of the chart goes by another name than that of Istio's own repository, say that name."),
            (Keeper::Helm { release, .. }, None) => finding.by_hand(format!(
                "Upgrade Helm's release {release} with {set} added to its values, and with --version of the chart that is \
                 installed (`helm list` shows it): without it Helm takes the newest."
            )),
            (Keeper::Synced(tool), _) => finding.by_hand(format!(
                "Set {set} for the chart {chart} where {tool} takes it from: what is changed in the cluster alone is undone."
            )),
            (Keeper::Operator(owner), _) => finding.by_hand(format!(
                "Set {set} in the values of {owner}: the operator undoes what is changed elsewhere."
            )),
            (Keeper::Istioctl, _) => finding.by_hand(format!(
                "Run the `istioctl install` with which Istio was installed once more, with all its settings and --set {} \
                 added: what it is not told again goes back to the default.",
                of_istioctl(value)
            )),
            (Keeper::Unknown, _) => finding.by_hand(format!(
                "Set {set} for the chart {chart}, in the way in which Istio was installed here (Helm with --version, \
                 istioctl with all its settings, or what keeps it)."
            )),
        }
    }
}

/// The same for istioctl, which knows all charts as one.
fn of_istioctl(value: ChartValue) -> String {
    match value.chart {
        _ if value.set == "profile=ambient" => value.set.to_owned(),
        "cni" => format!("values.cni.{}", value.set),
        "ztunnel" => format!("values.ztunnel.{}", value.set),
        _ => format!("values.pilot.{}", value.set),
    }
}

/// `istiod-1.28.3` in the label that charts write.
fn chart_version<'m>(metadata: &'m ObjectMeta, chart: &str) -> Option<&'m str> {
    let label = metadata.labels.as_ref()?.get(CHART)?;
    let version = label.strip_prefix(chart)?.strip_prefix('-')?;
    let fit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+' | b'_');
    (!version.is_empty() && version.bytes().all(fit)).then_some(version)
}

#[cfg(test)]
mod tests;
