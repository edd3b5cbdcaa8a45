// SPDX-License-Identifier: Apache-2.0
//! The registry, and a description of everything in it.

use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Metric, Registry};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It sorts what it is given into buckets.
    Histogram,
}

impl Kind {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its name, as it is exposed.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it tells, for people.
    pub help: &'static str,
}

/// The metrics of an agent.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    pub(super) registry: Registry,
    all: Vec<Described>,
}

/// What the library appends to a counter's name by itself.
const TOTAL: &str = "_total";

impl Catalogue {
    /// Registers a metric under the name by which it is to be exposed.
    pub(super) fn add<M>(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
        metric: M,
    ) -> M
    where
        M: Metric + TypedMetric + Clone,
    {
        let kind = match M::TYPE {
            MetricType::Counter => Kind::Counter,
            MetricType::Histogram => Kind::Histogram,
            _ => Kind::Gauge,
        };
        self.all.push(Described {
            name,
            kind,
            labels,
            help,
        });
        let family = match kind {
            Kind::Counter => name.strip_suffix(TOTAL).unwrap_or(name),
            Kind::Gauge | Kind::Histogram => name,
        };
        self.registry.register(family, help, metric.clone());
        metric
    }

    /// Registers one without labels that counts from zero.
    pub(super) fn plain<M>(&mut self, name: &'static str, help: &'static str) -> M
    where
        M: Metric + TypedMetric + Clone + Default,
    {
        self.add(name, &[], help, M::default())
    }

    /// Everything, in the order of registration.
    pub(super) fn all(&self) -> &[Described] {
        &self.all
    }

    /// Whether this is the name of a counter, without what the library appends.
    pub(super) fn is_counter(&self, family: &str) -> bool {
        let is = |metric: &Described| metric.name.strip_suffix(TOTAL) == Some(family);
        self.all
            .iter()
            .any(|metric| metric.kind == Kind::Counter && is(metric))
    }
}
