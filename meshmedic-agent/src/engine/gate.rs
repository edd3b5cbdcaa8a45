// SPDX-License-Identifier: Apache-2.0
//! Whether this node's ztunnel is in a condition in which a missing listener means anything.

use std::time::Duration;

use meshmedic_common::duration;
use meshmedic_common::identity::NodeFault;

use super::sabotage::{Defence, is_out};
use crate::time::Time;

/// What is wrong with a node of which nothing is known.
const UNSEEN: &str = "ztunnel was not looked for yet";

/// What is known of ztunnel on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ztunnel {
    /// Its processes as number and start time, sorted. Several during an upgrade.
    pub processes: Vec<(u32, u64)>,
    /// When the youngest of them started, where that is known.
    pub youngest: Option<Time>,
}

/// What the API says of the data plane on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Since when a ztunnel is Ready, and every ztunnel is; `None` while that is not so.
    pub ztunnel_ready: Option<Time>,
    /// Since when an istio-cni is Ready; `None` while none is.
    pub cni_ready: Option<Time>,
    /// What is wrong with ztunnel or istio-cni.
    pub fault: Option<NodeFault>,
}

/// Judges the node by its ztunnel.
#[derive(Debug)]
pub struct NodeGate {
    settle: Duration,
    seen: Option<Ztunnel>,
    /// Since when the processes are the ones they are.
    since: Time,
    /// Since when nothing is wrong with istio-cni, nor with ztunnel.
    cni_since: Option<Time>,
    health: Option<Health>,
    fault: Option<String>,
    judged: Time,
}

impl NodeGate {
    /// A gate that has seen no ztunnel yet.
    #[must_use]
    pub fn new(settle: Duration) -> Self {
        let fault = Some(UNSEEN.to_owned());
        Self {
            settle,
            seen: None,
            since: Time::default(),
            cni_since: None,
            health: None,
            fault,
            judged: Time::default(),
        }
    }

    /// Takes what the API says.
    pub fn observe_health(&mut self, now: Time, health: Health) {
        let before = self.health.as_ref().and_then(|health| health.ztunnel_ready);
        if let Some(since) = health.ztunnel_ready {
            // Ready again: what it is now began when we heard so, whatever the API says of the past.
            let again = self.health.is_some() && before.is_none();
            self.since = self.since.max(if again { now } else { since });
        }
        let well = health.cni_ready.filter(|_| health.fault.is_none());
        self.cni_since = well.map(|since| match self.cni_since {
            Some(known) => known.max(since),
            // As of ztunnel: what the API says of the past counts at the start alone.
            None if self.health.is_some() => now,
            None => since,
        });
        self.health = Some(health);
    }

    /// Takes what ztunnel is like now.
    pub fn observe(&mut self, now: Time, ztunnel: Ztunnel) {
        match &self.seen {
            Some(seen) if seen.processes == ztunnel.processes => {}
            // Met at the start: it has been there for as long as its processes have.
            None => self.since = ztunnel.youngest.unwrap_or(now),
            Some(_) => self.since = now,
        }
        self.seen = Some(ztunnel);
    }

    /// Judges, and remembers the judgement.
    pub fn judge(&mut self, now: Time) -> Option<&str> {
        self.judged = now;
        let young = now.since(self.since) < self.settle && !is_out(Defence::Settling);
        let settles = || {
            format!(
                "ztunnel has been seen to run unchanged for less than {}",
                duration::show(self.settle)
            )
        };
        self.fault = self.hard_fault().or_else(|| young.then(settles));
        self.fault.as_deref()
    }

    /// What is wrong now, whatever has yet to settle.
    #[must_use]
    pub fn hard_fault(&self) -> Option<String> {
        let told = self.health.as_ref().and_then(|health| health.fault.as_ref());
        match &self.seen {
            None => Some(UNSEEN.to_owned()),
            // The API knows why: a process counts only while its pod is Ready.
            Some(_) if told.is_some() => told.map(NodeFault::to_string),
            Some(seen) if seen.processes.is_empty() => Some("no ztunnel process runs on the node".to_owned()),
            Some(_) => None,
        }
    }

    /// Since when ztunnel is Ready and its processes are the ones they are.
    #[must_use]
    pub fn ztunnel_since(&self) -> Option<Time> {
        let ready = self
            .health
            .as_ref()
            .is_some_and(|health| health.ztunnel_ready.is_some());
        let runs = self.seen.as_ref().is_some_and(|seen| !seen.processes.is_empty());
        (ready && runs).then_some(self.since)
    }

    /// Since when istio-cni is Ready and nothing is wrong with ztunnel, as far as the API told.
    #[must_use]
    pub const fn cni_since(&self) -> Option<Time> {
        self.cni_since
    }

    /// What was wrong when last judged, if anything was.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// When a fault ends by time alone.
    #[must_use]
    pub fn settles_at(&self) -> Option<Time> {
        let runs = self.seen.as_ref().is_some_and(|seen| !seen.processes.is_empty());
        // A fault that outlasts this ends by what is heard, not by time.
        let settles = (self.fault.is_some() && runs).then(|| self.since + self.settle);
        settles.filter(|settles| *settles > self.judged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_nanos(1_000_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_istio_cni_that_was_there_before_the_agent_has_settled_before_it() {
        let mut gate = NodeGate::new(SECOND * 5);
        let health = |since: Option<Time>| Health {
            ztunnel_ready: Some(START),
            cni_ready: since,
            fault: None,
        };
        gate.observe_health(START + SECOND * 60, health(Some(START)));
        assert_eq!(gate.cni_since(), Some(START));
        // A return that was missed shows by the time of its condition.
        gate.observe_health(START + SECOND * 70, health(Some(START + SECOND * 65)));
        assert_eq!(gate.cni_since(), Some(START + SECOND * 65));
        gate.observe_health(START + SECOND * 80, health(None));
        assert_eq!(gate.cni_since(), None);
        // One that is seen to return begins when we hear of it, whatever its node's clock says.
        gate.observe_health(START + SECOND * 90, health(Some(START)));
        assert_eq!(gate.cni_since(), Some(START + SECOND * 90));
    }
}
