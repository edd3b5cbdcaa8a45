// SPDX-License-Identifier: Apache-2.0
//! The metrics, each with a method that takes what is known and nothing that could be mistaken.
//!
//! Labels come from `as_str()` of closed sets, never from what a pod or a user wrote, so that their
//! number is bounded. `docs/metrics.md` describes every one, which a test holds.

mod catalogue;
mod register;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use meshmedic_common::identity::Component;
use meshmedic_common::policy::{Means, Withheld};
use meshmedic_common::repair::heal;
use meshmedic_common::report::{BreakerScope, Expected, NodeReport, PodReport, RepairResult, TriggerMode};
use meshmedic_common::rules::Rules;
use meshmedic_common::traffic::{Connections, Passage, Untold};
use meshmedic_common::verdict::{Condition, Reason, Redirection, State};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::exposition;
use crate::engine::{Notice, Transition};
use crate::watch::{Counters, Event};
use catalogue::Catalogue;
pub use catalogue::{Described, Kind};
use meshmedic_common::repair::{Outcome, RepairNotice};
use meshmedic_common::time::Time;

/// One label, and the name that a closed set gives its value.
type Label = [(&'static str, &'static str); 1];
/// Several of them.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// What the API is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Pods of this node.
    Pods,
    /// Namespaces and their labels.
    Namespaces,
    /// This node.
    Nodes,
    /// istiod's endpoints.
    EndpointSlices,
    /// The ConfigMap `meshmedic-control`.
    ConfigMaps,
    /// The records of repairs.
    Leases,
}

impl Resource {
    /// Every one.
    pub const ALL: &[Self] = &[
        Self::Pods,
        Self::Namespaces,
        Self::Nodes,
        Self::EndpointSlices,
        Self::ConfigMaps,
        Self::Leases,
    ];

    /// The stable name: the resource's as the API has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::Nodes => "nodes",
            Self::EndpointSlices => "endpointslices",
            Self::ConfigMaps => "configmaps",
            Self::Leases => "leases",
        }
    }
}

/// All metrics of an agent. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    catalogue: Catalogue,
    orphans: Gauge,
    orphans_ready: Gauge,
    orphans_not_ready: Gauge,
    orphans_stuck: Gauge,
    orphans_repaired: Family<Label, Counter>,
    sweeps: Counter,
    sweep_errors: Counter,
    detection_delay: Family<Label, Histogram, fn() -> Histogram>,
    trigger_mode: Family<Label, Gauge>,
    events_seen: Counter,
    events_lost: Counter,
    kernel_failures: Counter,
    readings: Family<Label, Counter>,
    looking: Counter<f64, std::sync::atomic::AtomicU64>,
    pods: Family<Label, Gauge>,
    suspects: Gauge,
    flaps: Counter,
    node_fault: Gauge,
    condition: Family<Label, Gauge>,
    unverifiable: Family<Label, Gauge>,
    unredirected: Gauge,
    rules: Family<Label, Gauge>,
    connections: Family<Label, Gauge>,
    uncounted: Gauge,
    expected: Gauge,
    identity_conflicts: Family<Label, Gauge>,
    repairs: Family<Labels<2>, Counter>,
    heals: Family<Labels<2>, Counter>,
    outside: Histogram,
    withheld: Family<Labels<3>, Counter>,
    would: Counter,
    in_flight: Gauge,
    breakers: Family<Label, Gauge>,
    watch_age: Family<Label, Gauge<f64, std::sync::atomic::AtomicU64>>,
    events_suppressed: Counter,
    memory: Mutex<Memory>,
}

/// What must be remembered between two calls.
#[derive(Debug, Default)]
struct Memory {
    /// Repairs under way, by the pod's UID, and how they were begun.
    begun: BTreeMap<String, Means>,
    /// When each watch was last heard.
    heard: BTreeMap<Resource, Time>,
    /// What the watch had done.
    counted: Counters,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics that count from zero.
    #[must_use]
    pub fn new() -> Self {
        let inner = Inner::register();
        inner.begin();
        Self(Arc::new(inner))
    }

    /// Everything in Prometheus' text format; [`Self::CONTENT_TYPE`] is its type.
    #[must_use]
    pub fn text(&self) -> String {
        self.text_at(Time::now())
    }

    /// The type of [`Self::text`].
    pub const CONTENT_TYPE: &str = exposition::CONTENT_TYPE;

    fn text_at(&self, now: Time) -> String {
        let inner = &*self.0;
        for (resource, at) in &inner.memory().heard {
            let age = now.since(*at).as_secs_f64();
            inner
                .watch_age
                .get_or_create(&[("resource", resource.as_str())])
                .set(age);
        }
        let mut openmetrics = String::new();
        if let Err(error) =
            prometheus_client::encoding::text::encode(&mut openmetrics, &inner.catalogue.registry)
        {
            tracing::warn!(%error, "the metrics could not be written down");
        }
        exposition::text(&openmetrics, |family| inner.catalogue.is_counter(family))
    }

    /// What there is, in the order of its registration.
    #[must_use]
    pub fn described(&self) -> &[Described] {
        self.0.catalogue.all()
    }

    /// Takes what the watch has done since the start.
    pub fn counters(&self, now: &Counters) {
        let inner = &*self.0;
        let before = std::mem::replace(&mut inner.memory().counted, *now);
        inner.sweeps.inc_by(now.sweeps.saturating_sub(before.sweeps));
        inner
            .sweep_errors
            .inc_by(now.sweep_errors.saturating_sub(before.sweep_errors));
        inner
            .events_seen
            .inc_by(now.records.saturating_sub(before.records));
        inner
            .events_lost
            .inc_by(now.records_lost.saturating_sub(before.records_lost));
        inner
            .looking
            .inc_by(now.looking.saturating_sub(before.looking).as_secs_f64());
        for (result, read, before) in [
            ("complete", now.complete, before.complete),
            ("partial", now.partial, before.partial),
            ("none", now.none, before.none),
            ("unreadable", now.unreadable, before.unreadable),
        ] {
            let label = [("result", result)];
            inner
                .readings
                .get_or_create(&label)
                .inc_by(read.saturating_sub(before));
        }
    }

    /// Takes how the node and its pods stand now.
    pub fn node(&self, report: &NodeReport) {
        let inner = &*self.0;
        let count = |of: &dyn Fn(&PodReport) -> bool| {
            i64::try_from(report.pods.iter().filter(|pod| of(pod)).count()).unwrap_or(i64::MAX)
        };
        let finding = |state: State| state.is_finding();
        inner.orphans.set(count(&|pod| finding(pod.state)));
        inner
            .orphans_ready
            .set(count(&|pod| finding(pod.state) && pod.ready == Some(true)));
        inner
            .orphans_not_ready
            .set(count(&|pod| finding(pod.state) && pod.ready == Some(false)));
        inner
            .orphans_stuck
            .set(count(&|pod| finding(pod.state) && pod.stuck));
        for state in State::ALL {
            let pods = count(&|pod| pod.state == *state);
            inner.pods.get_or_create(&[("state", state.as_str())]).set(pods);
        }
        inner.suspects.set(count(&|pod| pod.state == State::Suspect));
        for reason in Reason::ALL {
            let label = [("reason", reason.as_str())];
            let pods = count(&|pod| pod.state == State::Unverifiable && pod.reason == Some(*reason));
            // A reason that never came up has no series; one that went away stays, at zero.
            if pods > 0 || inner.unverifiable.get(&label).is_some() {
                inner.unverifiable.get_or_create(&label).set(pods);
            }
        }
        inner.unredirected.set(count(&|pod| {
            pod.state == State::Captured && pod.redirection == Redirection::Absent
        }));
        for verdict in Rules::ALL {
            let of_it = |pod: &PodReport| pod.rules.is_some_and(|rules| rules.verdict == *verdict);
            let pods = count(&|pod| pod.state.is_held() && of_it(pod));
            inner
                .rules
                .get_or_create(&[("verdict", verdict.as_str())])
                .set(pods);
        }
        for verdict in Passage::ALL {
            let goes = |found: Connections| found.verdict == *verdict;
            inner
                .connections
                .get_or_create(&[("verdict", verdict.as_str())])
                .set(count(&|pod| pod.connections.is_some_and(goes)));
        }
        let left_out = |found: Connections| found.reason == Some(Untold::TooManyPods);
        inner
            .uncounted
            .set(count(&|pod| pod.connections.is_some_and(left_out)));
        inner.expected.set(count(&|pod| {
            matches!(pod.expectation, Some(Expected::Yes | Expected::Unverifiable))
        }));
        for component in Component::ALL {
            let strangers = report
                .strangers
                .iter()
                .filter(|stranger| stranger.component == *component);
            inner
                .identity_conflicts
                .get_or_create(&[("component", component.as_str())])
                .set(i64::try_from(strangers.count()).unwrap_or(i64::MAX));
        }
        for condition in Condition::ALL {
            let holds = report.conditions.iter().any(|c| c.condition == *condition);
            inner
                .condition
                .get_or_create(&[("condition", condition.as_str())])
                .set(i64::from(holds));
            if *condition == Condition::NodeFault {
                inner.node_fault.set(i64::from(holds));
            }
        }
        for scope in BreakerScope::ALL {
            let open = report.breakers.iter().filter(|breaker| breaker.scope == *scope);
            inner
                .breakers
                .get_or_create(&[("scope", scope.as_str())])
                .set(i64::try_from(open.count()).unwrap_or(i64::MAX));
        }
        for mode in TriggerMode::ALL {
            let is = i64::from(report.trigger == *mode);
            inner
                .trigger_mode
                .get_or_create(&[("mode", mode.as_str())])
                .set(is);
        }
    }

    /// Takes what a step of the watch found out.
    pub fn event(&self, event: &Event) {
        let inner = &*self.0;
        match event {
            Event::KernelFailed(_) => {
                inner.kernel_failures.inc();
            }
            Event::Notice(Notice::Pod(transition)) => self.transition(transition),
            // The counters and the report that follow show it.
            Event::Kernel { .. }
            | Event::RecordsLost(_)
            | Event::Census(_)
            | Event::Notice(Notice::Node { .. }) => {}
        }
    }

    fn transition(&self, transition: &Transition) {
        let Transition {
            from, to, at, since, ..
        } = transition;
        if from.is_none() || *from == Some(*to) {
            return;
        }
        if (*from, *to) == (Some(State::Suspect), State::Captured) {
            self.0.flaps.inc();
        }
        let lost = matches!(from, Some(from) if *from == State::Suspect || from.is_finding());
        if lost && *to == State::Captured {
            self.0.outside.observe(at.since(*since).as_secs_f64());
        }
        if *to == State::Suspect || to.is_finding() {
            let delay = at.since(*since).as_secs_f64();
            self.0
                .detection_delay
                .get_or_create(&[("state", to.as_str())])
                .observe(delay);
        }
    }

    /// Takes what the planner has to tell.
    pub fn repair(&self, notice: &RepairNotice) {
        let inner = &*self.0;
        match notice {
            RepairNotice::Withheld { pod, why, shadow, .. } => {
                // The API may have refused what had been begun.
                inner.memory().begun.remove(&pod.uid);
                let labels = [
                    ("rule", rule_name(*why)),
                    ("reason", why.as_str()),
                    ("shadow", if *shadow { "true" } else { "false" }),
                ];
                inner.withheld.get_or_create(&labels).inc();
            }
            RepairNotice::Would { .. } => {
                inner.would.inc();
            }
            RepairNotice::Started { pod, means, .. } => {
                inner.memory().begun.insert(pod.uid.clone(), *means);
            }
            RepairNotice::Ended {
                pod, outcome, stuck, ..
            } => {
                let begun = inner.memory().begun.remove(&pod.uid);
                let result = result_of(outcome);
                let labels = [
                    // An agent that ended since began it.
                    ("action", begun.map_or("unknown", Means::as_str)),
                    ("result", result.as_str()),
                ];
                inner.repairs.get_or_create(&labels).inc();
                if result != RepairResult::InDoubt {
                    let class = if *stuck { "stuck" } else { "ready" };
                    inner.orphans_repaired.get_or_create(&[("class", class)]).inc();
                }
            }
        }
    }

    /// Takes what the healer has to tell.
    pub fn heal(&self, notice: &heal::Notice) {
        let ended = |result: &'static str, reason: &'static str| {
            let labels = [("result", result), ("reason", reason)];
            self.0.heals.get_or_create(&labels).inc();
        };
        let toggled = |result: RepairResult| {
            let labels = [("action", Means::Toggle.as_str()), ("result", result.as_str())];
            self.0.repairs.get_or_create(&labels).inc();
        };
        match notice {
            heal::Notice::Withheld { why, shadow, .. } => {
                let labels = [
                    ("rule", rule_name(*why)),
                    ("reason", why.as_str()),
                    ("shadow", if *shadow { "true" } else { "false" }),
                ];
                self.0.withheld.get_or_create(&labels).inc();
            }
            heal::Notice::Would { .. } => {
                self.0.would.inc();
            }
            heal::Notice::Asked { attempt, .. } => ended(
                "asked",
                match attempt {
                    heal::Attempt::First => "first",
                    heal::Attempt::Second => "second",
                },
            ),
            heal::Notice::Healed { .. } => ended("healed", ""),
            heal::Notice::Failed { why, .. } => ended("failed", why.as_str()),
            heal::Notice::Toggled { .. } => toggled(RepairResult::Succeeded),
            heal::Notice::ToggleFailed { .. } => toggled(RepairResult::Failed),
            heal::Notice::Undone { .. } => ended("undone", ""),
            heal::Notice::MadeUnreachable { .. } => ended("made-unreachable", ""),
            heal::Notice::Stopped => ended("stopped", ""),
            heal::Notice::Permitted { .. } | heal::Notice::Toggling { .. } => {}
        }
    }

    /// So many repairs are under way.
    pub fn repairs_in_flight(&self, count: usize) {
        self.0.in_flight.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A watch of the API was heard: an event, a bookmark, or a list. Its age counts from here.
    pub fn watch_heard(&self, resource: Resource, at: Time) {
        self.0.memory().heard.insert(resource, at);
    }

    /// An Event of Kubernetes was held back, so as not to flood its API.
    pub fn kube_event_suppressed(&self) {
        self.0.events_suppressed.inc();
    }
}

impl Inner {
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        // Whoever panicked in between left nothing half done that matters to a count.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a reading can show, by name.
const READINGS: [&str; 4] = ["complete", "partial", "none", "unreadable"];

const fn rule_name(why: Withheld) -> &'static str {
    match why.rule() {
        1 => "1",
        2 => "2",
        3 => "3",
        4 => "4",
        5 => "5",
        6 => "6",
        7 => "7",
        8 => "8",
        9 => "9",
        10 => "10",
        _ => "11",
    }
}

/// How a repair ended, in the words that are shared.
#[must_use]
pub const fn result_of(outcome: &Outcome) -> RepairResult {
    match outcome {
        Outcome::Succeeded(_) => RepairResult::Succeeded,
        Outcome::Failed(_) => RepairResult::Failed,
        Outcome::Unproven => RepairResult::Unproven,
        Outcome::Waiting(_) => RepairResult::Waiting,
        Outcome::Unwanted => RepairResult::Unwanted,
        Outcome::InDoubt(_) => RepairResult::InDoubt,
    }
}

#[cfg(test)]
mod tests;
