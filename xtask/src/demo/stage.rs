// SPDX-License-Identifier: Apache-2.0
//! What the scenes have in common: they act on the lab, wait for what the agent says, and write it down.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use jiff::Timestamp;
use meshmedic_common::report::{NodeReport, TriggerMode};
use meshmedic_lab::api::Request;
use meshmedic_lab::{Cluster, Pod};

use super::agent::{Agent, Line};
use super::api::{self, Arrivals};
use super::scenery::Who;
use super::screen::{Screen, Tone, shown};
use crate::interrupt::Interrupt;

/// How long something may take on a busy machine: twice as long as the longest that the agent itself waits.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether something has come about.
const STEP: Duration = Duration::from_millis(20);

pub(super) struct Stage<'a> {
    pub(super) screen: &'a Screen,
    pub(super) cluster: &'a Cluster,
    pub(super) agent: Agent,
    pub(super) arrivals: Arrivals,
    pub(super) trigger: TriggerMode,
    interrupt: &'a Interrupt,
    /// What delays are counted from.
    zero: Timestamp,
    /// How much was in the agent's log when the scene began.
    mark: usize,
    /// How many evictions it had asked for by then.
    asked: usize,
}

impl<'a> Stage<'a> {
    /// Waits until the agent serves.
    pub(super) fn new(
        screen: &'a Screen,
        cluster: &'a Cluster,
        agent: Agent,
        interrupt: &'a Interrupt,
    ) -> anyhow::Result<Self> {
        let mut stage = Self {
            screen,
            cluster,
            agent,
            arrivals: Arrivals::watch(cluster.api())?,
            trigger: TriggerMode::Poll,
            interrupt,
            zero: Timestamp::now(),
            mark: 0,
            asked: 0,
        };
        let begun = stage.line("the agent to start", |line| !line.text("trigger").is_empty());
        let begun = match begun {
            Ok(line) => line,
            Err(error) => return Err(stage.with_last_lines(error)),
        };
        if begun.text("trigger") == TriggerMode::Ebpf.as_str() {
            stage.trigger = TriggerMode::Ebpf;
        }
        Ok(stage)
    }

    /// Says what the agent wrote last, so that somebody can find out what went wrong.
    pub(super) fn with_last_lines(&self, error: anyhow::Error) -> anyhow::Error {
        /// Enough for what led there.
        const LINES: usize = 12;
        let told = self.screen.heading("The agent's last lines:").and_then(|()| {
            let last = self.agent.last(LINES);
            last.iter().try_for_each(|line| self.screen.text(3, line))
        });
        match told {
            Ok(()) => error,
            Err(other) => other,
        }
    }

    /// Begins a scene: delays count from now, and what was logged before is of no concern.
    pub(super) fn begin(&mut self) -> anyhow::Result<()> {
        self.asked = api::evictions(self.cluster)?.len();
        self.mark = self.agent.logged();
        self.zero = Timestamp::now();
        Ok(())
    }

    /// The evictions that the agent asked for since the scene began.
    pub(super) fn evictions(&self) -> anyhow::Result<Vec<Request>> {
        Ok(api::evictions(self.cluster)?.split_off(self.asked))
    }

    /// Begins a scene with a loss. Delays count from the kernel's own timestamp of it, where there is one.
    pub(super) fn lose(
        &mut self,
        who: &Who,
        fault: impl Fn(&Cluster, &Pod) -> meshmedic_lab::Result<()>,
    ) -> anyhow::Result<Line> {
        let pod = super::scenery::pod(self.cluster, who)?;
        self.begin()?;
        fault(self.cluster, &pod)?;
        let suspect = self.line(&format!("{} to be suspect", who.name), |line| {
            line.is_change(&who.uid, "suspect")
        })?;
        if self.trigger == TriggerMode::Ebpf {
            let delay = suspect
                .number("delay_ms")
                .context("a suspicion without its delay")?;
            self.zero = suspect.at.checked_sub(Duration::from_secs_f64(delay / 1e3))?;
        }
        Ok(suspect)
    }

    /// Where delays are counted from.
    pub(super) fn zero(&self) -> Timestamp {
        self.zero
    }

    /// How long after the scene's beginning a moment is.
    pub(super) fn after(&self, moment: Timestamp) -> Duration {
        moment
            .duration_since(self.zero)
            .try_into()
            .unwrap_or(Duration::ZERO)
    }

    /// Goes on until something is there, or says what did not come about.
    pub(super) fn until<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let start = Instant::now();
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            self.interrupt.check()?;
            ensure!(self.agent.is_running(), "the agent ended; waited for {what}");
            if start.elapsed() >= PATIENCE {
                bail!("waited {} in vain for {what}", shown(start.elapsed()));
            }
            thread::sleep(STEP);
        }
    }

    /// Goes on until the agent has logged a line like this since the scene began.
    pub(super) fn line(&mut self, what: &str, like: impl Fn(&Line) -> bool) -> anyhow::Result<Line> {
        self.until(what, |stage| Ok(stage.agent.find(stage.mark, &like)))
    }

    /// The lines like this since the scene began.
    pub(super) fn lines(&self, like: impl Fn(&Line) -> bool) -> Vec<Line> {
        self.agent.all(self.mark, like)
    }

    /// Goes on until the agent reports what is wanted.
    pub(super) fn report(
        &mut self,
        what: &str,
        wanted: impl Fn(&NodeReport) -> bool,
    ) -> anyhow::Result<NodeReport> {
        self.until(what, |stage| Ok(Some(stage.agent.report()?).filter(&wanted)))
    }

    /// Gives time to read what was said.
    pub(super) fn pause(&mut self, span: Duration) -> anyhow::Result<()> {
        let over = Instant::now() + span;
        self.until("a pause", |_| Ok((Instant::now() >= over).then_some(())))
    }

    /// Writes an entry of the timeline.
    pub(super) fn entry(&self, at: Timestamp, event: &str, tone: Tone, text: &str) -> anyhow::Result<()> {
        self.screen.entry(self.after(at), event, tone, text)
    }

    /// Writes down what Kubernetes shows of a pod now.
    pub(super) fn kubernetes(&self, who: &Who) -> anyhow::Result<()> {
        let pod = self.cluster.api().get("pods", &who.namespace, &who.name)?;
        let (phase, ready, enrolled) = api::shown(&pod);
        ensure!(
            ready && enrolled,
            "Kubernetes does not take {} for a healthy pod of the mesh",
            who.full_name()
        );
        self.entry(
            Timestamp::now(),
            "kubernetes",
            Tone::Plain,
            &format!("still says: {phase}, Ready, enrolled (istio-cni's annotation)"),
        )
    }
}
