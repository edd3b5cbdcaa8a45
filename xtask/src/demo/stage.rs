// SPDX-License-Identifier: Apache-2.0
//! Runs the watch while the lab acts, and writes down what the watch concludes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use meshmedic_agent::engine::{Notice, PodView};
use meshmedic_agent::time::Time;
use meshmedic_agent::watch::{Event, Watch};
use meshmedic_common::abi::CHANGE_OPENED;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Condition, Reason, State};
use meshmedic_lab::Pod;
use tokio::task::JoinHandle;

use super::screen::{Screen, Tone, shown};

/// The user pressed Ctrl-C.
#[derive(Debug)]
pub(super) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// How much of what happens is written down at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Narration {
    Silent,
    /// Every pod's change on a line of its own.
    Pods,
    /// The node's conditions; its pods are counted only.
    Node,
}

/// What happened since the lab last acted.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) closed: usize,
    pub(super) closed_in: BTreeSet<PodUid>,
    pub(super) reached: BTreeMap<(PodUid, State), Duration>,
    pub(super) faults: usize,
    pub(super) fault_over: Option<Duration>,
}

pub(super) struct Stage<'a> {
    pub(super) screen: &'a Screen,
    pub(super) watch: Watch,
    pub(super) narration: Narration,
    pub(super) tally: Tally,
    names: HashMap<PodUid, String>,
    /// What delays are counted from: the kernel's timestamp, or without one the moment of the act.
    zero: Time,
    zero_is_kernels: bool,
    ctrl_c: JoinHandle<std::io::Result<()>>,
    end: Instant,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        screen: &'a Screen,
        watch: Watch,
        pods: &[Pod],
        ctrl_c: JoinHandle<std::io::Result<()>>,
        end: Instant,
    ) -> Self {
        let names = pods
            .iter()
            .filter_map(|pod| Some((uid_of(pod).ok()?, full_name(pod))));
        Self {
            screen,
            watch,
            narration: Narration::Silent,
            tally: Tally::default(),
            names: names.collect(),
            zero: Time::now(),
            zero_is_kernels: false,
            ctrl_c,
            end,
        }
    }

    /// Lets the lab act while the watch goes on; delays count from here, or from the kernel's next stamp.
    pub(super) async fn act(
        &mut self,
        act: impl FnOnce() -> meshmedic_lab::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        self.tally = Tally::default();
        self.zero = Time::now();
        self.zero_is_kernels = false;
        self.further(act).await
    }

    /// Lets the lab act again without a new beginning of the delays.
    pub(super) async fn further(
        &mut self,
        act: impl FnOnce() -> meshmedic_lab::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let mut acting = tokio::task::spawn_blocking(act);
        loop {
            tokio::select! {
                done = &mut acting => return done.context("the lab's task ended early")?.context("the lab"),
                events = self.watch.step() => self.take(events)?,
                _ = &mut self.ctrl_c => return Err(Interrupted.into()),
            }
        }
    }

    /// Goes on until `condition` holds, or says what did not come about.
    pub(super) async fn until(
        &mut self,
        what: &str,
        deadline: Duration,
        condition: impl Fn(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let until = (start + deadline).min(self.end);
        while !condition(self) {
            tokio::select! {
                events = self.watch.step() => self.take(events)?,
                () = tokio::time::sleep_until(until.into()) => {
                    bail!("waited {} in vain for {what}", shown(start.elapsed()));
                }
                _ = &mut self.ctrl_c => return Err(Interrupted.into()),
            }
        }
        Ok(())
    }

    /// Goes on for a while.
    pub(super) async fn pass(&mut self, span: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + span;
        loop {
            tokio::select! {
                events = self.watch.step() => self.take(events)?,
                () = tokio::time::sleep_until(until.into()) => return Ok(()),
                _ = &mut self.ctrl_c => return Err(Interrupted.into()),
            }
        }
    }

    pub(super) fn entry(&self, event: &str, tone: Tone, text: &str) -> anyhow::Result<()> {
        self.screen.entry(self.elapsed(), event, tone, text)
    }

    pub(super) fn elapsed(&self) -> Duration {
        Time::now().since(self.zero)
    }

    pub(super) fn view(&self, uid: &PodUid) -> anyhow::Result<PodView<'_>> {
        self.watch
            .engine()
            .view(uid)
            .with_context(|| format!("the watch does not know {}", self.name(uid)))
    }

    pub(super) fn state(&self, uid: &PodUid) -> Option<State> {
        self.watch.engine().view(uid).map(|view| view.state)
    }

    /// How many of the lab's pods are in a state.
    pub(super) fn count(&self, state: State) -> usize {
        let states = self.names.keys().map(|uid| self.state(uid));
        states.filter(|found| *found == Some(state)).count()
    }

    /// How many of the lab's pods went through a state since the lab last acted.
    pub(super) fn reached(&self, state: State) -> usize {
        self.tally.reached.keys().filter(|(_, to)| *to == state).count()
    }

    pub(super) fn delay(&self, uid: &PodUid, state: State) -> anyhow::Result<Duration> {
        let delay = self.tally.reached.get(&(uid.clone(), state)).copied();
        delay.with_context(|| format!("{} was never {state}", self.name(uid)))
    }

    fn name<'b>(&'b self, uid: &'b PodUid) -> &'b str {
        self.names.get(uid).map_or(uid.as_str(), String::as_str)
    }

    fn take(&mut self, events: Vec<Event>) -> anyhow::Result<()> {
        let mut ports: BTreeMap<(PodUid, bool), BTreeSet<u16>> = BTreeMap::new();
        for event in &events {
            let Event::Kernel { change, uid } = event else {
                continue;
            };
            if !self.names.contains_key(uid) {
                continue;
            }
            let opened = change.change == CHANGE_OPENED;
            if !opened {
                if !self.zero_is_kernels {
                    self.zero = Time::from_nanos(change.at_ns);
                    self.zero_is_kernels = true;
                }
                self.tally.closed += 1;
                self.tally.closed_in.insert(uid.clone());
            }
            ports
                .entry((uid.clone(), opened))
                .or_default()
                .insert(change.port);
        }
        if self.narration == Narration::Pods {
            for ((_, opened), ports) in &ports {
                let list: Vec<String> = ports.iter().map(u16::to_string).collect();
                let verb = if *opened { "listening again" } else { "closed" };
                let text = format!("{} {verb}", list.join(", "));
                self.entry("kernel", Tone::Quiet, &text)?;
            }
        }
        for event in events {
            match event {
                Event::Kernel { .. } => {}
                Event::Notice(notice) => self.note(&notice)?,
                Event::RecordsLost(lost) => {
                    self.entry(
                        "kernel",
                        Tone::Doubt,
                        &format!("{lost} records were lost; looking at every pod"),
                    )?;
                }
                Event::KernelFailed(why) => {
                    self.entry(
                        "kernel",
                        Tone::Bad,
                        &format!("the kernel programs failed ({why}); polling from now on"),
                    )?;
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, notice: &Notice) -> anyhow::Result<()> {
        let after = self.elapsed();
        match notice {
            Notice::Pod(change) => {
                if !self.names.contains_key(&change.uid) {
                    return Ok(());
                }
                self.tally
                    .reached
                    .entry((change.uid.clone(), change.to))
                    .or_insert(after);
                if self.narration == Narration::Pods {
                    let text = match (change.to, change.reason) {
                        (_, Some(reason)) if reason != Reason::Confirming => reason.sentence(),
                        (state, _) => state.sentence(),
                    };
                    self.screen
                        .entry(after, change.to.as_str(), tone(change.to), text)?;
                }
            }
            Notice::Node {
                condition: Condition::NodeFault,
                detail: Some(detail),
                ..
            } => {
                // The same fault with other details is no second one.
                self.tally.faults += usize::from(self.tally.faults == 0 || self.tally.fault_over.is_some());
                self.tally.fault_over = None;
                if self.narration != Narration::Silent {
                    self.screen.entry(after, "node fault", Tone::Bad, detail)?;
                }
            }
            Notice::Node {
                condition, detail, ..
            } => {
                if *condition == Condition::NodeFault {
                    self.tally.fault_over = Some(after);
                }
                if self.narration != Narration::Silent {
                    let (tone, text) = match detail {
                        Some(detail) => (Tone::Bad, detail.as_str()),
                        None => (Tone::Good, "over: ztunnel has settled"),
                    };
                    let name = if *condition == Condition::NodeFault {
                        "node fault"
                    } else {
                        "mass loss"
                    };
                    self.screen.entry(after, name, tone, text)?;
                }
            }
        }
        Ok(())
    }
}

pub(super) const fn tone(state: State) -> Tone {
    match state {
        State::Captured => Tone::Good,
        State::Orphan | State::Partial | State::Imposter => Tone::Bad,
        State::Suspect | State::Unverifiable => Tone::Doubt,
        State::Pending | State::Exempt => Tone::Quiet,
    }
}

pub(super) fn uid_of(pod: &Pod) -> anyhow::Result<PodUid> {
    PodUid::parse(pod.uid()).with_context(|| format!("{} is no UID of a pod", pod.uid()))
}

pub(super) fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace(), pod.name())
}
