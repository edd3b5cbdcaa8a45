// SPDX-License-Identifier: Apache-2.0
//! Ties trigger, census, readings and engine together on one node.
//!
//! Whatever wakes it (a kernel event, a reading that came back, a timer), one step takes it in, hands
//! it to the engine, and gives back what the engine concluded.

mod pace;
mod pods;
mod readers;
mod report;
mod sources;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meshmedic_common::abi::{CHANGE_OPENED, ListenChange};
use meshmedic_common::ports::PortSet;
use meshmedic_common::repair::heal::{Place, Serving};
use meshmedic_common::report::TriggerMode;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Owner, Reason, Redirection, State};

use crate::engine::{Engine, Health, Look, Notice, Seen, Settings};
use crate::kernel::Kernel;
use crate::node::{Mapping, NetnsIndex, PodName, PodNames, ProcessTable};
use crate::time::Time;
use pace::Pace;
pub use pods::{Declared, PodSource};
use readers::{Finished, Readers};
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
    /// The kernel programs failed while running; from now on a timer has to do.
    KernelFailed(String),
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

/// A safety net this often at least, however long `--interval` is.
const CENSUS_AT_MOST: Duration = Duration::from_secs(30);
/// With eBPF, /proc is read of every pod once in this time even though the census is content.
const ROTATION: Duration = Duration::from_secs(24 * 60 * 60);
/// While no ztunnel is known, look for one this often.
const SEARCH: Duration = Duration::from_secs(1);
/// New processes are looked for this often at least while `--interval` is long.
const REFRESH_AT_MOST: Duration = Duration::from_secs(30);
/// With eBPF and the API, and every pod's namespace known, a new process tells nothing that is waited for: then they
/// are looked for this often, so that a node of many processes costs no more than one of few.
const REFRESH_AT_REST: Duration = Duration::from_secs(30 * 60);
/// Records of namespaces that belong to no pod make us look for new processes this often at most.
const REFRESH_FOR_STRANGERS: Duration = Duration::from_secs(1);
/// While a ztunnel that came back settles, a pod without its listeners is read again after this, then ever later.
const AGAIN_WHILE_SETTLING: Duration = Duration::from_secs(1);

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
    next_sweep: Time,
    next_census: Time,
    next_search: Time,
    next_refresh: Time,
    refreshed: Time,
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
    Timer,
}

impl Watch {
    /// Learns of the node's pods. `kernel` are the loaded programs, `None` to poll.
    pub fn new(options: Options, kernel: Option<Kernel>) -> Result<Self, WatchError> {
        let now = Time::now();
        let settings = Settings {
            confirm: options.confirm,
            settle: options.settle,
            reread: options.interval,
        };
        let census_interval = census_interval(options.interval);
        let steps = ROTATION.as_secs().div_ceil(census_interval.as_secs().max(1));
        let mut watch = Self {
            table: ProcessTable::new(&options.proc_root),
            index: NetnsIndex::default(),
            names: PodNames::new(match &options.pods {
                PodSource::Node(folder) => folder.as_path(),
                PodSource::Api => Path::new(""),
            }),
            declared: HashMap::new(),
            engine: Engine::new(settings),
            sources: Sources::new(kernel, options.use_census),
            readers: Readers::new(),
            batch: Vec::new(),
            next_sweep: now + options.interval,
            next_census: now,
            next_search: now,
            next_refresh: now,
            refreshed: now,
            pace: Pace::default(),
            rotation: Rotation { step: 0, steps },
            counters: Counters::default(),
            events: Vec::new(),
            options,
        };
        watch.refresh(now)?;
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

    /// Asks for a reading of a pod at once.
    pub fn look_at(&mut self, now: Time, uid: &PodUid) {
        self.engine.hint(now, uid);
    }

    /// Where a pod lives now, where that is known.
    #[must_use]
    pub fn place(&self, uid: &PodUid) -> Option<Place> {
        self.mapping(uid).map(place_of)
    }

    /// Whether this node's ztunnel is proved to serve.
    #[must_use]
    pub fn serving(&mut self, now: Time) -> Serving {
        let captured = |(_, view): (&PodUid, crate::engine::PodView<'_>)| {
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
        let rest_until = self.pace.ready_at();
        let rests = rest_until > now;
        let timer = self.next_timer();
        let timer = if rests { timer.min(rest_until) } else { timer };
        let sleep = tokio::time::sleep(timer.since(now));
        let Self {
            sources,
            readers,
            batch,
            ..
        } = self;
        tokio::select! {
            biased;
            // Meanwhile they gather in the kernel's buffer.
            result = sources.next_records(batch), if !rests => Wake::Kernel(result),
            finished = readers.next() => Wake::Read(finished),
            () = sleep => Wake::Timer,
        }
    }

    fn next_timer(&self) -> Time {
        let next = if self.sources.has_census() {
            self.next_census
        } else {
            self.next_sweep
        };
        let mut next = next.min(self.next_refresh);
        if self.must_search() {
            next = next.min(self.next_search);
        }
        if !self.readers.is_full() {
            next = self.engine.next_wake().map_or(next, |wake| wake.min(next));
        }
        next
    }

    fn take(&mut self, now: Time, wake: Wake) {
        // Before anything is concluded: does ztunnel still live?
        if !self.sources.ztunnel_alive(&self.options.proc_root) {
            self.refresh_or_warn(now);
        }
        match wake {
            Wake::Kernel(Ok(())) => {
                self.take_records(now);
                self.pace.took(now, Time::now());
            }
            Wake::Kernel(Err(error)) => {
                self.sources.disarm();
                self.kernel_failed(&error);
            }
            Wake::Read(finished) => self.take_reading(now, finished),
            Wake::Timer => {}
        }
        self.take_timers(now);
        self.engine.tick(now);
    }

    fn take_records(&mut self, now: Time) {
        let batch = std::mem::take(&mut self.batch);
        self.counters.records += batch.len() as u64;
        let unknown = batch
            .iter()
            .any(|change| self.index.pod_of(change.netns).is_none());
        let opened = batch.iter().any(|change| change.change == CHANGE_OPENED);
        if unknown || (opened && self.sources.ztunnel.is_empty()) {
            let again = self.refreshed + REFRESH_FOR_STRANGERS;
            if now >= again || self.sources.ztunnel.is_empty() {
                self.refresh_or_warn(now);
            } else {
                self.next_refresh = self.next_refresh.min(again);
            }
        }
        for change in batch.iter().filter(|change| change.change != CHANGE_OPENED) {
            if let Some(uid) = self.index.pod_of(change.netns) {
                self.engine.reported(uid, Time::from_nanos(change.at_ns));
            }
        }
        // Of a port that capture does not hang on the census has nothing to say: DNS is often the first of a loss, and
        // the census would then be over before the others closed.
        let matters = |change: &ListenChange| PortSet::REQUIRED.contains(change.port);
        let censused = batch.iter().any(matters) && self.run_census(now);
        let reads_all = !self.sources.has_census();
        for change in &batch {
            let Some(uid) = self.index.pod_of(change.netns).cloned() else {
                continue;
            };
            // Where the census cannot vouch for the pod, the event asks for a reading.
            let vouched = censused && self.sources.sockets().is_complete_in(change.netns);
            if !vouched && (matters(change) || reads_all) {
                self.engine.hint(now, &uid);
            }
            self.events.push(Event::Kernel { change: *change, uid });
        }
        self.batch = batch;
        self.batch.clear();
        match self.sources.records_lost() {
            lost if lost > self.counters.records_lost => {
                self.counters.records_lost = lost;
                self.events.push(Event::RecordsLost(lost));
                self.engine.sweep(now, |_, _| true);
            }
            _ => {}
        }
    }

    fn take_reading(&mut self, now: Time, finished: Finished) {
        let Finished {
            uid,
            mapping,
            started,
            ended,
            result,
        } = finished;
        let look = match result {
            Ok(evidence) => {
                let counter = match &evidence.reading {
                    reading if reading.is_complete() => &mut self.counters.complete,
                    reading if reading.ports().is_empty() => &mut self.counters.none,
                    _ => &mut self.counters.partial,
                };
                *counter += 1;
                let seen = self.sources.assess(&self.table, &uid, &evidence.reading);
                let (ports, redirection) = (evidence.reading.ports(), evidence.redirection);
                Look {
                    started,
                    finished: ended,
                    seen,
                    ports,
                    redirection,
                    place: Some(place_of(&mapping)),
                }
            }
            Err(unreadable) => {
                self.counters.unreadable += 1;
                // Its process may have ended while the pod lives on: look for another one.
                self.table.reread(&uid);
                self.refresh_or_warn(now);
                match self.index.get(&uid) {
                    Err(Reason::NoProcess) => return,
                    Ok(other) if *other != mapping => return self.engine.retry(now, &uid),
                    _ => {}
                }
                unreadable_look(now, unreadable.reason, unreadable.detail)
            }
        };
        self.engine.look(now, &uid, look);
        // The census tells when they are back; without it only another reading does.
        if !self.sources.has_census() {
            self.engine.follow(now, &uid, AGAIN_WHILE_SETTLING);
        }
    }

    fn take_timers(&mut self, now: Time) {
        if self.must_search() && now >= self.next_search {
            self.next_search = now + SEARCH.min(self.options.interval);
            if self.sources.ztunnel.is_empty() {
                self.refresh_or_warn(now);
            }
        }
        if self.sources.has_census() && now >= self.next_census {
            self.next_census = now + census_interval(self.options.interval);
            self.sweep(now);
        }
        if !self.sources.has_census() && now >= self.next_sweep {
            self.next_sweep = now + self.options.interval;
            self.sweep(now);
        }
        if now >= self.next_refresh {
            self.refresh_or_warn(now);
        }
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
            owner != Some(Owner::Ztunnel) || turn(uid, steps) == step
        });
    }

    fn start_due_readings(&mut self, now: Time) {
        for uid in self.engine.due(now, self.readers.room()) {
            match self.index.get(&uid) {
                Ok(mapping) => self.readers.start(&self.options.proc_root, uid, mapping.clone()),
                Err(reason) => {
                    let look = unreadable_look(now, reason, reason.sentence().to_owned());
                    self.engine.look(now, &uid, look);
                }
            }
        }
        self.collect();
    }

    /// Runs the census and hands it to the engine. False where there is none.
    fn run_census(&mut self, now: Time) -> bool {
        match self.sources.census() {
            Ok(false) => false,
            Ok(true) => {
                // The census took its time, and the judgement comes after it.
                let now = now.max(Time::now());
                let Self {
                    engine,
                    index,
                    sources,
                    ..
                } = self;
                engine.census(now, |uid| {
                    let inode = index.get(uid).ok()?.netns_inode?;
                    Some(sources.sockets().is_complete_in(inode))
                });
                true
            }
            Err(error) => {
                // The trigger may go on: each of its events then asks for a reading.
                self.sources.drop_census();
                self.kernel_failed(&error);
                false
            }
        }
    }

    fn kernel_failed(&mut self, error: &std::io::Error) {
        self.next_sweep = Time::now();
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
        self.next_refresh = now
            + match self.sources.has_census() {
                true => self.options.interval.min(REFRESH_AT_MOST),
                false => self.options.interval,
            };
        self.table
            .refresh(now)
            .map_err(|source| WatchError::ProcRoot { root: root(), source })?;
        self.learn(now);
        if self.misses_a_process() && self.table.reread_strangers(now) {
            self.learn(now);
        }
        if self.sources.has_census() && self.knows_all() {
            self.next_refresh = now + REFRESH_AT_REST;
        }
        Ok(())
    }

    fn collect(&mut self) {
        self.events
            .extend(self.engine.drain().into_iter().map(Event::Notice));
    }
}

fn unreadable_look(now: Time, reason: Reason, detail: String) -> Look {
    Look {
        started: now,
        finished: now,
        seen: Seen::Unreadable(reason, detail),
        ports: PortSet::EMPTY,
        redirection: Redirection::Unknown,
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

fn census_interval(interval: Duration) -> Duration {
    (interval / 2).min(CENSUS_AT_MOST)
}

/// A pod's turn in the rotation, the same on every run.
fn turn(uid: &PodUid, steps: u64) -> u64 {
    let hash = uid.as_str().bytes().fold(0_u64, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    });
    hash % steps
}
