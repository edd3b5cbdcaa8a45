// SPDX-License-Identifier: Apache-2.0
//! Whether a pod should be captured, judged as istio-cni judges it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::facts::{Enrolment, Labels, PodFacts};
use crate::verdict::Reason;

/// The label that takes a pod or a namespace into the mesh or out of it.
pub const MODE_LABEL: &str = "istio.io/dataplane-mode";
const AMBIENT: &str = "ambient";
/// The value of [`MODE_LABEL`] that takes a pod out.
pub const NONE: &str = "none";
/// What istio-cni leaves alone unless it is told otherwise.
const EXCLUDED_BY_DEFAULT: &str = "kube-system";

/// Runtime classes whose pods have a kernel of their own, by how their names begin.
const OTHER_KERNELS: [&str; 3] = ["gvisor", "runsc", "kata"];

/// Whether a pod should be captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// It should.
    Expected,
    /// istio-cni is still trying.
    Pending,
    /// It should not, and why.
    Exempt(Reason),
    /// It should, but nothing that can be read would show it.
    Unverifiable(Reason),
    /// Nobody said so: a pod counts as expected once it was seen captured, or shows Istio's routing.
    Undeclared,
}

/// Which pods istio-cni enrols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enablement {
    selectors: Vec<Pair>,
    excluded: Vec<String>,
    /// Whether these are istio-cni's own words. Where they could not be read the defaults stand in.
    pub certain: bool,
}

/// A pod is enrolled if both select it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Pair {
    #[serde(deserialize_with = "null_is_default")]
    pod_selector: Selector,
    #[serde(deserialize_with = "null_is_default")]
    namespace_selector: Selector,
}

/// A label selector as Kubernetes has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Selector {
    #[serde(deserialize_with = "null_is_default")]
    match_labels: Labels,
    #[serde(deserialize_with = "null_is_default")]
    match_expressions: Vec<Requirement>,
}

/// istio-cni's parser takes `null` for nothing said.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Requirement {
    key: String,
    operator: Operator,
    #[serde(default, deserialize_with = "null_is_default")]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// istio-cni's settings say something that is not a list of selectors.
#[derive(Debug, thiserror::Error)]
pub enum BadSelectors {
    /// It is not even shaped like one.
    #[error("AMBIENT_ENABLEMENT_SELECTOR is no list of podSelector and namespaceSelector: {0}")]
    Shape(serde_saphyr::Error),
    /// An operator has values that it cannot have, or lacks those that it needs.
    #[error("AMBIENT_ENABLEMENT_SELECTOR: operator {operator} on label {key:?} {problem}")]
    Operator {
        /// The label.
        key: String,
        /// The operator, as it is written.
        operator: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
}

impl Default for Enablement {
    /// What the charts of Istio set.
    fn default() -> Self {
        let ambient = || Selector {
            match_labels: [(MODE_LABEL.to_owned(), AMBIENT.to_owned())].into(),
            match_expressions: Vec::new(),
        };
        let not_opted_out = Selector {
            match_labels: Labels::new(),
            match_expressions: vec![Requirement {
                key: MODE_LABEL.to_owned(),
                operator: Operator::NotIn,
                values: vec![NONE.to_owned()],
            }],
        };
        Self {
            selectors: vec![
                Pair {
                    pod_selector: ambient(),
                    namespace_selector: Selector::default(),
                },
                Pair {
                    pod_selector: not_opted_out,
                    namespace_selector: ambient(),
                },
            ],
            excluded: vec![EXCLUDED_BY_DEFAULT.to_owned()],
            certain: true,
        }
    }
}

impl Enablement {
    /// From istio-cni's ConfigMap. What it does not mention is as the charts have it.
    pub fn from_config(config: &BTreeMap<String, String>) -> Result<Self, BadSelectors> {
        let mut enablement = Self::default();
        if let Some(text) = config
            .get("AMBIENT_ENABLEMENT_SELECTOR")
            .filter(|text| !text.trim().is_empty())
        {
            enablement.selectors = serde_saphyr::from_str(text).map_err(BadSelectors::Shape)?;
            for pair in &enablement.selectors {
                pair.pod_selector.check()?;
                pair.namespace_selector.check()?;
            }
        }
        if let Some(list) = config.get("EXCLUDE_NAMESPACES") {
            let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
            enablement.excluded = names.map(str::to_owned).collect();
        }
        Ok(enablement)
    }

    /// The defaults, because istio-cni's own settings could not be read.
    #[must_use]
    pub fn guessed() -> Self {
        Self {
            certain: false,
            ..Self::default()
        }
    }

    /// Whether a pod should be captured. `namespace` are the labels of its namespace, where known.
    #[must_use]
    pub fn expectation(&self, pod: &PodFacts, namespace: Option<&Labels>) -> Expectation {
        use Expectation::{Exempt, Expected, Pending, Unverifiable};
        if pod.host_network {
            return Exempt(Reason::HostNetwork);
        }
        if pod.finished {
            return Exempt(Reason::Finished);
        }
        if pod.deleting {
            return Exempt(Reason::Deleting);
        }
        if pod.enrolment == Enrolment::None {
            return Exempt(Reason::NotAnnotated);
        }
        if pod.sidecar {
            return Exempt(Reason::Sidecar);
        }
        if self.excluded.contains(&pod.namespace) {
            return Exempt(Reason::ExcludedNamespace);
        }
        let Some(namespace) = namespace else {
            return Unverifiable(Reason::NamespaceUnknown);
        };
        if !self.selects(&pod.labels, namespace) {
            let opted_out = pod.labels.get(MODE_LABEL).is_some_and(|mode| mode == NONE);
            return Exempt(if opted_out {
                Reason::OptedOut
            } else {
                Reason::NotSelected
            });
        }
        // What we asked for is as lost as before, until it is proved.
        if pod.enrolment == Enrolment::Pending && !pod.is_asked() {
            return Pending;
        }
        let class = pod.runtime_class.as_deref().unwrap_or_default();
        if OTHER_KERNELS.iter().any(|kernel| class.starts_with(kernel)) {
            return Unverifiable(Reason::OtherKernel);
        }
        Expected
    }

    /// Whether the label value `none` would take the pod out of the mesh, which a toggle depends on. Selectors of
    /// one's own need not heed it.
    #[must_use]
    pub fn heeds_opt_out(&self, pod: &PodFacts, namespace: &Labels) -> bool {
        let mut labels = pod.labels.clone();
        labels.insert(MODE_LABEL.to_owned(), NONE.to_owned());
        self.selects(&pod.labels, namespace) && !self.selects(&labels, namespace)
    }

    fn selects(&self, pod: &Labels, namespace: &Labels) -> bool {
        let mut pairs = self.selectors.iter();
        pairs.any(|pair| pair.pod_selector.matches(pod) && pair.namespace_selector.matches(namespace))
    }
}

impl Selector {
    /// Refuses what Kubernetes refuses: istio-cni does not start with it, so it says nothing about the mesh.
    fn check(&self) -> Result<(), BadSelectors> {
        for requirement in &self.match_expressions {
            let problem = match (requirement.operator, requirement.values.is_empty()) {
                (Operator::In | Operator::NotIn, true) => "needs values",
                (Operator::Exists | Operator::DoesNotExist, false) => "takes no values",
                _ => continue,
            };
            return Err(BadSelectors::Operator {
                key: requirement.key.clone(),
                operator: requirement.operator.as_str(),
                problem,
            });
        }
        Ok(())
    }

    fn matches(&self, labels: &Labels) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self
                .match_expressions
                .iter()
                .all(|requirement| requirement.holds(labels))
    }
}

impl Operator {
    const fn as_str(self) -> &'static str {
        match self {
            Self::In => "In",
            Self::NotIn => "NotIn",
            Self::Exists => "Exists",
            Self::DoesNotExist => "DoesNotExist",
        }
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests;
