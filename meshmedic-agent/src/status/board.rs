// SPDX-License-Identifier: Apache-2.0
//! What the loop last said, for whoever asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use meshmedic_common::duration;
use meshmedic_common::report::NodeReport;

use super::metrics::Metrics;
use crate::node::Underneath;
use meshmedic_common::time::Time;

/// What is known of the agent by those outside its loop. Clones share it.
#[derive(Clone, Debug)]
pub struct Status {
    metrics: Metrics,
    stalled_after: Duration,
    underneath: Option<Arc<Underneath>>,
    said: Arc<Mutex<Said>>,
}

#[derive(Debug)]
struct Said {
    report: Option<Arc<NodeReport>>,
    beat: Time,
    /// What the agent still waits for, and how many wait for it.
    pending: BTreeMap<&'static str, usize>,
}

impl Status {
    /// Nothing is known yet. The loop counts as stalled once it has not beaten for `stalled_after`.
    #[must_use]
    pub fn new(metrics: Metrics, stalled_after: Duration) -> Self {
        let said = Said {
            report: None,
            beat: Time::now(),
            pending: BTreeMap::new(),
        };
        Self {
            metrics,
            stalled_after,
            underneath: None,
            said: Arc::new(Mutex::new(said)),
        }
    }

    /// Whoever asks for the node is also told what the mesh stands on.
    #[must_use]
    pub fn over(mut self, underneath: Arc<Underneath>) -> Self {
        self.underneath = Some(underneath);
        self
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Shows a report from now on, and sets the gauges by it.
    pub fn publish(&self, report: Arc<NodeReport>) {
        self.metrics.node(&report);
        self.said().report = Some(report);
    }

    /// The report that was published last.
    #[must_use]
    pub fn report(&self) -> Option<Arc<NodeReport>> {
        self.said().report.clone()
    }

    /// The same with what the mesh stands on, as it is now.
    #[must_use]
    pub fn whole_report(&self) -> Option<NodeReport> {
        let mut report = Arc::unwrap_or_clone(self.report()?);
        if let Some(underneath) = &self.underneath {
            underneath.describe(&mut report);
        }
        Some(report)
    }

    /// The loop has gone round once more.
    pub fn beat(&self, now: Time) {
        self.said().beat = now;
    }

    /// Whether the loop goes round, or since when it does not.
    pub fn health(&self, now: Time) -> Result<(), String> {
        let silent = now.since(self.said().beat);
        if silent <= self.stalled_after {
            return Ok(());
        }
        let ago = SignedDuration::try_from(silent).unwrap_or(SignedDuration::MAX);
        let since = Timestamp::now()
            .checked_sub(ago)
            .map_or_else(|_| "unknown".to_owned(), |at| format!("{at:.0}"));
        Err(format!(
            "the agent's loop has been standing still since {since}, for {}; at most {} is normal",
            duration::show(silent),
            duration::show(self.stalled_after)
        ))
    }

    /// Something that must be done before the agent is ready; it counts as done when the task is dropped.
    #[must_use = "the agent is ready as soon as the task is dropped"]
    pub fn task(&self, name: &'static str) -> Task {
        *self.said().pending.entry(name).or_default() += 1;
        Task {
            name,
            said: Arc::clone(&self.said),
        }
    }

    /// What the agent still waits for.
    #[must_use]
    pub fn pending(&self) -> Vec<&'static str> {
        self.said().pending.keys().copied().collect()
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        // What is kept here is replaced as a whole, so a panic elsewhere leaves nothing half written.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that the agent waits for, until it is dropped.
#[derive(Debug)]
pub struct Task {
    name: &'static str,
    said: Arc<Mutex<Said>>,
}

impl Drop for Task {
    fn drop(&mut self) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = said.pending.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                said.pending.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stands_still_is_told_with_its_time() {
        let status = Status::new(Metrics::new(), Duration::from_secs(60));
        let start = Time::now();
        status.beat(start);
        assert_eq!(status.health(start + Duration::from_secs(60)), Ok(()));
        let message = status.health(start + Duration::from_secs(90)).unwrap_err();
        assert!(message.contains("for 1m30s; at most 1m is normal"), "{message}");
        assert!(message.contains("since 20"), "{message}");
        status.beat(start + Duration::from_secs(90));
        assert_eq!(status.health(start + Duration::from_secs(91)), Ok(()));
    }

    #[test]
    fn a_task_is_pending_until_the_last_of_its_name_is_dropped() {
        let status = Status::new(Metrics::new(), Duration::from_secs(60));
        let pods = status.task("pods");
        let others = [status.task("namespaces"), status.task("namespaces")];
        assert_eq!(status.pending(), ["namespaces", "pods"]);
        drop(pods);
        let [first, second] = others;
        drop(first);
        assert_eq!(status.pending(), ["namespaces"]);
        drop(second);
        assert!(status.pending().is_empty());
    }
}
