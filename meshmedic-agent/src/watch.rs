// SPDX-License-Identifier: Apache-2.0
//! Ties trigger, census, readings and engine together on one node.
//!
//! Whatever wakes it (a kernel event, a reading that came back, a timer), one step takes it in, hands
//! it to the engine, and gives back what the engine concluded.

mod pace;
mod pods;
mod readers;
mod report;
mod schedule;
#[cfg(test)]
mod simulation;
mod sources;
mod take;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meshmedic_common::abi::ListenChange;
use meshmedic_common::ports::PortSet;
use meshmedic_common::repair::heal::{Place, Serving};
use meshmedic_common::report::TriggerMode;
use meshmedic_common::spread::share;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Owner, Reason, Redirection, State};

use crate::engine::{Engine, Health, Look, Notice, PodView, RulesRead, Seen, Settings, Urgency};
use crate::kernel::Kernel;
use crate::node::{Lives, Mapping, NetnsIndex, PodName, PodNames, ProcessTable, ReadJob};
use crate::time::Time;
use pace::Pace;
pub use pods::{Declared, PodSource};
use readers::{Finished, Readers};
use schedule::{Chore, Schedule};
use sources::Sources;

/// How to watch a node.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's name, for reports.
    pub node: String,
    /// The /proc root.
    pub proc_root: PathBuf,
    /// Who says which pods there are.
    pub pods: PodSource,
    /// For how long every reading must agree before a loss is believed.
    pub confirm: Duration,
    /// How long ztunnel must have been there before its absence in a pod means anything.
    pub settle: Duration,
    /// How often all pods are looked at. With eBPF the census runs at half of it, 30 seconds at most.
    pub interval: Duration,
    /// For how long istio-cni may go on trying to enrol a pod before it is read all the same.
    pub pending_deadline: Duration,
    /// Whether to use the census; without it every kernel event asks for a reading of /proc.
    pub use_census: bool,
}

/// What a step found out.
#[derive(Clone, Debug)]
pub enum Event {
    /// The kernel reported a change in a namespace that belongs to a pod.
    Kernel {
        /// The record.
        change: ListenChange,
        /// The pod.
        uid: PodUid,
    },
    /// The engine concluded something.
    Notice(Notice),
    /// So many records of the kernel were lost since the start: the census makes up for them.
    RecordsLost(u64),
    /// The kernel's trigger failed while running; from now on a timer has to do.
    KernelFailed(String),
    /// The census failed (`Some`, with the cause), or works again. Meanwhile each event asks for a reading.
    Census(Option<String>),
}

/// How often what was done, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Looks at all pods because it was time: by census, or by reading each.
    pub sweeps: u64,
    /// Failures to look at the node's processes.
    pub sweep_errors: u64,
    /// Records of the kernel.
    pub records: u64,
    /// Those that were lost.
    pub records_lost: u64,
    /// Readings that showed all listeners.
    pub complete: u64,
    /// Readings that showed some.
    pub partial: u64,
    /// Readings that showed none.
    pub none: u64,
    /// Readings that gave nothing.
    pub unreadable: u64,
    /// Processes whose files were read to learn whose they are.
    pub processes_read: u64,
    /// Processor time that looking cost: readings, censuses, and the conclusions that came of them.
    pub looking: Duration,
}

/// Why a node cannot be watched at all.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The /proc root tells nothing.
    #[error(
        "cannot read {root}: {source}. It must be the node's /proc, with the node's process 1 in it (--host-proc)"
    )]
    ProcRoot {
        /// The root.
        root: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// With eBPF, /proc is read of every pod once in this time even though the census is content.
const ROTATION: Duration = Duration::from_secs(24 * 60 * 60);
/// After a pod's process ended, or while a pod that is judged has none, they are looked for again after this.
const REFRESH_AFTER_END: Duration = Duration::from_millis(250);

/// One node being watched.
#[derive(Debug)]
pub struct Watch {
    options: Options,
    table: ProcessTable,
    index: NetnsIndex,
    names: PodNames,
    declared: HashMap<PodUid, Declared>,
    engine: Engine,
    sources: Sources,
    readers: Readers,
    batch: Vec<ListenChange>,
    /// The processes through which pods are read, as far as their end can be heard of.
    lives: Lives,
    schedule: Schedule,
    refreshed: Time,
    /// Since when a pod that is judged has no process.
    missing_since: Option<Time>,
    pace: Pace,
    rotation: Rotation,
    counters: Counters,
    events: Vec<Event>,
}

/// Which pods' turn it is to be read although nothing is wrong.
#[derive(Debug, Default)]
struct Rotation {
    step: u64,
    steps: u64,
}

enum Wake {
    Kernel(std::io::Result<()>),
    Read(Finished),
    /// Processes ended through which pods were read.
    Ended,
    Timer,
}

impl Watch {
    /// Learns of the node's pods. `kernel` are the loaded programs, `None` to poll.
    pub fn new(options: Options, kernel: Option<Kernel>) -> Result<Self, WatchError> {
        Self::begin(Time::now(), options, kernel)
    }

    fn begin(now: Time, options: Options, kernel: Option<Kernel>) -> Result<Self, WatchError> {
        let settings = Settings {
            confirm: options.confirm,
            settle: options.settle,
            reread: options.interval,
            pending_deadline: options.pending_deadline,
        };
        let schedule = Schedule::new(now, options.interval);
        let steps = ROTATION
            .as_secs()
            .div_ceil(schedule.sweep_pause(true).as_secs().max(1));
        let mut watch = Self {
            table: ProcessTable::new(&options.proc_root),
            index: NetnsIndex::default(),
            names: PodNames::new(match &options.pods {
                PodSource::Node(folder, _) => folder.as_path(),
                PodSource::Api => Path::new(""),
            }),
            declared: HashMap::new(),
            engine: Engine::new(settings),
            sources: Sources::new(kernel, options.use_census),
            readers: Readers::new(),
            batch: Vec::new(),
            lives: Lives::new(),
            schedule,
            refreshed: now,
            missing_since: None,
            pace: Pace::default(),
            rotation: Rotation { step: 0, steps },
            counters: Counters::default(),
            events: Vec::new(),
            options,
        };
        watch.refresh(now)?;
        // New pods are read anyway.
        let pause = watch.schedule.sweep_pause(watch.sources.has_census());
        watch.schedule.set(Chore::Sweep, now + pause);
        watch.run_census(now);
        watch.collect();
        Ok(watch)
    }

    /// What notices changes.
    #[must_use]
    pub fn trigger(&self) -> TriggerMode {
        if self.sources.trigger.is_some() {
            TriggerMode::Ebpf
        } else {
            TriggerMode::Poll
        }
    }

    /// What a pod is called, where that is known.
    #[must_use]
    pub fn name(&self, uid: &PodUid) -> Option<&PodName> {
        match self.declared.get(uid) {
            Some(pod) => Some(&pod.name),
            None => self.names.get(uid),
        }
    }

    /// Takes what the API says of ztunnel and istio-cni on this node.
    pub fn health(&mut self, now: Time, health: Health) {
        self.engine.health(now, health);
        self.collect();
    }

    /// Takes what the process spent beside looking out of what looking may cost: noise makes both.
    pub fn spent_beside(&mut self, cost: Duration) {
        self.pace.spent_beside(cost);
    }

    /// Asks for a reading of a pod at once.
    pub fn look_at(&mut self, now: Time, uid: &PodUid) {
        self.engine.hint(now, uid);
        let bypasses = |view: PodView<'_>| view.state == State::Bypassing;
        if self.engine.view(uid).is_some_and(bypasses) {
            // A reading of /proc shows no rules.
            self.run_census(now);
            self.collect();
        }
    }

    /// Where a pod lives now, where that is known.
    #[must_use]
    pub fn place(&self, uid: &PodUid) -> Option<Place> {
        self.mapping(uid).map(place_of)
    }

    /// Whether this node's ztunnel is proved to serve.
    #[must_use]
    pub fn serving(&mut self, now: Time) -> Serving {
        let captured = |(_, view): (&PodUid, PodView<'_>)| {
            view.state == State::Captured && view.owner == Some(Owner::Ztunnel)
        };
        if self.sources.ztunnel.is_empty() {
            Serving::Unproven
        } else if self.engine.views().any(captured) {
            Serving::Captures
        } else if self.sources.is_connected(&self.options.proc_root, now) {
            Serving::Connected
        } else {
            Serving::Unproven
        }
    }

    /// The pod's namespace, where it is known.
    #[must_use]
    pub fn mapping(&self, uid: &PodUid) -> Option<&Mapping> {
        self.index.get(uid).ok()
    }

    /// How often what was done, since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            processes_read: self.table.processes_read(),
            ..self.counters
        }
    }

    /// The engine's knowledge.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether every pod was read and no loss is being confirmed.
    #[must_use]
    pub fn decided(&self) -> bool {
        !self.engine.undecided() && self.readers.is_idle()
    }

    /// Whether the next records will be taken as they come, after as long a rest as those before them were worth.
    #[must_use]
    pub fn is_rested(&self) -> bool {
        self.pace.is_paid(Time::now())
    }

    /// Waits for the next thing that happens and takes it in. May be dropped while it waits.
    pub async fn step(&mut self) -> Vec<Event> {
        self.start_due_readings(Time::now());
        if self.events.is_empty() {
            let wake = self.wait().await;
            // What is known now is told before the readings that it asks for begin: they are the next step's, and keep
            // a processor busy.
            self.take(Time::now(), wake);
            self.collect();
        }
        std::mem::take(&mut self.events)
    }

    async fn wait(&mut self) -> Wake {
        let now = Time::now();
        let rest_until = self.pace.ready_at(Urgency::Routine);
        let rests = rest_until > now;
        let timer = self.next_timer();
        let timer = if rests { timer.min(rest_until) } else { timer };
        let sleep = tokio::time::sleep(timer.since(now));
        let Self {
            sources,
            readers,
            batch,
            lives,
            ..
        } = self;
        tokio::select! {
            biased;
            () = lives.ended() => Wake::Ended,
            // Meanwhile they gather in the kernel's buffer.
            result = sources.next_records(batch), if !rests => Wake::Kernel(result),
            finished = readers.next() => Wake::Read(finished),
            () = sleep => Wake::Timer,
        }
    }

    fn next_timer(&self) -> Time {
        let next = |chore| self.schedule.next(chore);
        let mut soonest = next(Chore::Sweep).min(next(Chore::Refresh));
        if self.must_search() {
            soonest = soonest.min(next(Chore::Search));
        }
        if self.must_sample() {
            soonest = soonest.min(next(Chore::Sample));
        }
        soonest = self
            .sources
            .tries_again_at()
            .map_or(soonest, |at| at.min(soonest));
        soonest = self.engine.wants_rules_at().map_or(soonest, |at| at.min(soonest));
        soonest = self.engine.settles_at().map_or(soonest, |at| at.min(soonest));
        if self.readers.is_full() {
            return soonest;
        }
        for urgency in [Urgency::Routine, Urgency::Evidence] {
            if let Some(due) = self.engine.next_due(urgency) {
                soonest = soonest.min(due.max(self.pace.ready_at(urgency)));
            }
        }
        soonest
    }

    fn take_timers(&mut self, now: Time) {
        let pause = self.schedule.search_pause();
        if self.must_search()
            && self.schedule.take(Chore::Search, now, pause)
            && self.sources.ztunnel.is_empty()
        {
            self.refresh_or_warn(now);
        }
        if self.must_sample() && self.schedule.take(Chore::Sample, now, pause) {
            self.engine.sample(now);
        }
        let tries_again = self.sources.tries_again_at();
        let wanted = [tries_again, self.engine.wants_rules_at()];
        if wanted.into_iter().flatten().any(|at| at <= now) {
            self.run_census(now);
        }
        let pause = self.schedule.sweep_pause(self.sources.has_census());
        if self.schedule.take(Chore::Sweep, now, pause) {
            self.sweep(now);
        }
        // What it finds sets the next time.
        if self.schedule.next(Chore::Refresh) <= now {
            self.refresh_or_warn(now);
        }
    }

    /// Whether nobody else tells when ztunnel is back in the pods that it had: the census would.
    fn must_sample(&self) -> bool {
        !self.sources.has_census() && self.engine.wants_samples()
    }

    /// Whether ztunnel is to be looked for, or after: nobody tells of its end where there is no trigger.
    fn must_search(&self) -> bool {
        self.sources.ztunnel.is_empty() || self.sources.trigger.is_none()
    }

    /// Looks at all pods, as when it is time: by census, or by reading each in the steps that follow.
    pub fn sweep(&mut self, now: Time) {
        self.counters.sweeps += 1;
        if self.sources.has_census() {
            self.run_census(now);
            self.rotate(now);
        } else {
            self.refresh_or_warn(now);
            self.engine.sweep(now, |_, _| true);
        }
    }

    /// The census cannot vouch for a pod that is not known to be ztunnel's: these are read each time.
    /// The others take turns.
    fn rotate(&mut self, now: Time) {
        self.rotation.step = (self.rotation.step + 1) % self.rotation.steps;
        let Rotation { step, steps } = self.rotation;
        self.engine.sweep(now, |uid, owner| {
            owner != Some(Owner::Ztunnel) || share(uid.as_str(), steps) == step
        });
    }

    fn start_due_readings(&mut self, now: Time) {
        for (uid, job) in self.due_jobs(now, self.readers.room()) {
            self.readers.start(uid, job);
        }
        self.collect();
    }

    /// The readings that may begin now, so many at most.
    fn due_jobs(&mut self, now: Time, most: usize) -> Vec<(PodUid, ReadJob)> {
        let Some(least) = self.pace.affords(now) else {
            return Vec::new();
        };
        let mut jobs = Vec::new();
        for uid in self.engine.due(now, most, least) {
            match self.index.get(&uid) {
                Ok(mapping) => {
                    let job = ReadJob {
                        root: self.options.proc_root.clone(),
                        mapping: mapping.clone(),
                    };
                    jobs.push((uid, job));
                }
                Err(reason) => {
                    let look = unreadable_look(now, reason, reason.sentence().to_owned());
                    self.engine.look(now, &uid, look);
                }
            }
        }
        jobs
    }

    /// Hands the engine what was counted of each pod's connections.
    fn take_counts(&mut self, now: Time) {
        let Self {
            engine,
            index,
            sources,
            declared,
            ..
        } = self;
        engine.traffic(now, |uid| {
            let inode = index.get(uid).ok()?.netns_inode?;
            let addresses = addresses_of(declared, uid);
            sources.counted_in(inode, addresses)
        });
    }

    /// Runs the census and hands it to the engine, beside what was counted. False where there is none.
    fn run_census(&mut self, now: Time) -> bool {
        self.take_counts(now);
        let worked = self.sources.has_census();
        let answer = self.sources.census(now);
        if let Err(error) = &answer
            && worked
        {
            // The trigger goes on: each of its events then asks for a reading.
            self.schedule.set(Chore::Sweep, now);
            self.events.push(Event::Census(Some(error.to_string())));
        }
        if !matches!(answer, Ok(true)) {
            self.engine.rules(now, |_| None);
            return false;
        }
        if !worked {
            self.events.push(Event::Census(None));
        }
        // The census took its time, and the judgement comes after it.
        let now = now.max(Time::now());
        let Self {
            engine,
            index,
            sources,
            declared,
            ..
        } = self;
        engine.rules(now, |uid| {
            let mapping = index.get(uid).ok()?;
            let inode = mapping.netns_inode?;
            let addresses = addresses_of(declared, uid);
            Some(RulesRead {
                place: place_of(mapping),
                complete: sources.sockets().is_complete_in(inode),
                rules: sources.rules_in(inode, addresses)?,
            })
        });
        engine.census(now, |uid| {
            let inode = index.get(uid).ok()?.netns_inode?;
            Some(sources.sockets().is_complete_in(inode))
        });
        true
    }

    fn kernel_failed(&mut self, now: Time, error: &std::io::Error) {
        self.schedule.set(Chore::Sweep, now);
        self.events.push(Event::KernelFailed(error.to_string()));
    }

    fn refresh_or_warn(&mut self, now: Time) {
        if let Err(error) = self.refresh(now) {
            self.counters.sweep_errors += 1;
            tracing::warn!(%error, "the processes of this node could not be read; going on with those known");
        }
    }

    /// Learns of processes, pods and ztunnel anew.
    fn refresh(&mut self, now: Time) -> Result<(), WatchError> {
        let root = || self.options.proc_root.clone();
        self.refreshed = now;
        let census = self.sources.has_census();
        self.schedule
            .set(Chore::Refresh, now + self.schedule.refresh_pause(census, false));
        self.table
            .refresh(now)
            .map_err(|source| WatchError::ProcRoot { root: root(), source })?;
        self.learn(now);
        if self.misses_a_process() && self.table.reread_strangers(now) {
            self.learn(now);
        }
        if self.misses_a_process() {
            // Soon at first, since a sandbox that is replaced is back within seconds; then as long as it took so far.
            let missed = now.since(*self.missing_since.get_or_insert(now));
            self.schedule
                .by(Chore::Refresh, now + missed.max(REFRESH_AFTER_END));
        } else {
            self.missing_since = None;
        }
        if self.knows_all() {
            self.schedule
                .set(Chore::Refresh, now + self.schedule.refresh_pause(census, true));
        }
        Ok(())
    }

    fn collect(&mut self) {
        self.events
            .extend(self.engine.drain().into_iter().map(Event::Notice));
    }
}

/// The addresses that the API gives a pod, where it was asked.
fn addresses_of<'a>(declared: &'a HashMap<PodUid, Declared>, uid: &PodUid) -> &'a [IpAddr] {
    declared.get(uid).map_or(&[], |pod| &pod.addresses)
}

fn unreadable_look(now: Time, reason: Reason, detail: String) -> Look {
    Look {
        started: now,
        finished: now,
        seen: Seen::Unreadable(reason, detail),
        ports: PortSet::EMPTY,
        redirection: Redirection::Unknown,
        rules: None,
        place: None,
    }
}

/// Where a pod lives, as far as the process tells through which it is read.
const fn place_of(mapping: &Mapping) -> Place {
    Place {
        netns: mapping.netns.0,
        start: mapping.start,
    }
}
